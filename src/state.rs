//! The user's state directory: what Septet keeps on this machine and may lose. Keys, locks, intents, the journal.
//!
//! Invariants: paths in it are made from [`ClusterId`] and [`ClusterName`] only; everything is made with modes that keep others
//! out, whatever the umask; what is opened or removed lies below the directory, which is opened once, and no link in it is
//! followed.

use std::{
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt};
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};

use crate::{
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
};

/// The login key in a cluster's directory.
pub const KEY_FILE: &str = "id_ed25519";
/// The configuration for OpenSSH's client in a cluster's directory.
pub const SSH_CONFIG: &str = "ssh_config";
/// The known host keys in a cluster's directory.
pub const KNOWN_HOSTS: &str = "known_hosts";

/// Longest file of ours that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The user's directory of programs' state. Unit tests keep their hands off it: theirs is beside the test program.
fn home() -> Option<PathBuf> {
    match cfg!(test) {
        true => Some(std::env::current_exe().ok()?.parent()?.join("state-of-unit-tests")),
        false => dirs::state_dir(),
    }
}

/// Where it is: `$XDG_STATE_HOME/septet`, or `~/.local/state/septet`.
pub fn path() -> Result<PathBuf> {
    let dir = home().ok_or_else(|| Error::failed("there is no home directory to keep keys in").hint("set HOME or XDG_STATE_HOME"))?;
    Ok(dir.join("septet"))
}

/// Makes a directory that only its owner may enter, with its parents.
pub fn private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
}

/// A directory of the state directory, held open.
pub struct State {
    dir: Dir,
    path: PathBuf,
}

impl State {
    /// The state directory itself; made if it is missing, and closed to others if it is open to them.
    pub fn open() -> Result<Self> {
        let path = path()?;
        private_dir(&path)?;
        let fail = |e: io::Error| Error::failed(format!("{}: {e}", path.display()));
        let dir = Dir::open_ambient_dir(&path, ambient_authority()).map_err(fail)?;
        let found = std::fs::metadata(&path).map_err(fail)?;
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::failed(format!("{} belongs to another user", path.display()))
                .hint("set XDG_STATE_HOME to a directory of your own, or give this one back: `chown -R \"$(id -un)\"`"));
        }
        // Directories that an older version made under a loose umask are closed too.
        if found.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        Ok(Self { dir, path })
    }

    /// One of its directories, which is made if it is missing. A link in its place is refused.
    fn below(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let fail = |e: io::Error| {
            let e = Error::failed(format!("{}: {e}", path.display()));
            e.hint("Septet keeps its own directories and files there, and follows no link; move it aside")
        };
        let builder = {
            let mut b = cap_std::fs::DirBuilder::new();
            cap_std::fs::DirBuilderExt::mode(&mut b, 0o700);
            b
        };
        match self.dir.create_dir_with(name, &builder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
            _ => {}
        }
        let dir = self.dir.open_dir_nofollow(name).map_err(fail)?;
        let found = dir.dir_metadata().map_err(fail)?;
        if cap_std::fs::PermissionsExt::mode(&found.permissions()) & 0o077 != 0 {
            dir.set_permissions(".", cap_std::fs::Permissions::from_std(std::fs::Permissions::from_mode(0o700))).map_err(fail)?;
        }
        Ok(Self { dir, path })
    }

    /// The directory of one cluster: its login key, known hosts, and what was about to be launched.
    pub fn cluster(id: ClusterId) -> Result<Self> {
        Self::open()?.below("clusters")?.below(&id.to_string())
    }

    /// Where runs on this machine lock clusters against one another.
    pub fn locks() -> Result<Self> {
        Self::open()?.below("locks")
    }

    /// Where the identities of clusters stand of which nothing exists yet.
    pub fn intents() -> Result<Self> {
        Self::open()?.below("intents")
    }

    /// The path of a file in it, for programs that are given one.
    pub fn path_of(&self, name: &'static str) -> PathBuf {
        self.path.join(name)
    }

    fn fail(&self, name: &str) -> impl Fn(io::Error) -> Error {
        let path = self.path.join(name);
        move |e| Error::failed(format!("{}: {e}", path.display()))
    }

    /// A file's text; `None` if there is none.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let file = match self.dir.open_with(name, OpenOptions::new().read(true).follow(FollowSymlinks::No)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(self.fail(name))?,
        };
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(self.fail(name))?;
        Ok(Some(text))
    }

    /// Writes a file that only its owner reads, as a whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let temporary = format!(".{name}.{}.tmp", std::process::id());
        // What a run of the same number left there is not written through.
        match self.dir.remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.fail(&temporary)(e)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).follow(FollowSymlinks::No).mode(0o600);
        let mut file = self.dir.open_with(&temporary, &options).map_err(self.fail(&temporary))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(self.fail(&temporary))?;
        self.dir.rename(&temporary, &self.dir, name).map_err(self.fail(name))
    }

    /// Opens a file to lock or add to, made with mode 0600.
    pub fn open_file(&self, name: &str, append: bool) -> Result<std::fs::File> {
        let mut options = OpenOptions::new();
        options.read(true).create(true).follow(FollowSymlinks::No).mode(0o600);
        if append {
            options.append(true);
        } else {
            options.write(true).truncate(false);
        }
        let file = self.dir.open_with(name, &options).map_err(self.fail(name))?.into_std();
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(self.fail(name))?;
        Ok(file)
    }

    /// Removes a file; it may be gone already.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self.dir.remove_file(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.fail(name)(e)),
            _ => Ok(()),
        }
    }
}

/// The state directory's own number, made at random once.
pub fn number() -> Result<uuid::Uuid> {
    let (state, name) = (State::open()?, "number");
    let mut file = state.open_file(name, false)?;
    // Of runs that begin side by side one makes it.
    file.lock().map_err(state.fail(name))?;
    let mut text = String::new();
    (&mut file).take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(state.fail(name))?;
    if let Ok(number) = text.trim().parse() {
        return Ok(number);
    }
    let number = uuid::Uuid::new_v4();
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{number}")).and_then(|()| file.sync_all());
    written.map_err(state.fail(name))?;
    Ok(number)
}

/// Name of a cluster's file in `locks/` or `intents/`.
pub fn file_of(cluster: &ClusterName, ending: &str) -> String {
    format!("{cluster}.{ending}")
}

/// Forgets a cluster: its directory with all that is in it.
pub fn forget(id: ClusterId) -> Result<()> {
    let clusters = State::open()?.below("clusters")?;
    let name = id.to_string();
    let gone = match clusters.dir.symlink_metadata(&name) {
        Ok(m) if m.is_dir() => clusters.dir.remove_dir_all(&name),
        // A link, or a file: it goes, and what it leads to stays.
        Ok(_) => clusters.dir.remove_file(&name),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(clusters.fail(&name)(e)),
        _ => Ok(()),
    }
}

fn intent(cluster: &ClusterName) -> Result<Option<ClusterId>> {
    Ok(State::intents()?.read(&file_of(cluster, "uuid"))?.and_then(|t| t.trim().parse().ok()))
}

/// Identity of a cluster of which nothing exists yet. It is written down before anything is made: what a killed run
/// asked for may appear only after the next one has looked, and must be of the same cluster then.
pub fn intended(cluster: &ClusterName) -> Result<ClusterId> {
    if let Some(id) = intent(cluster)? {
        return Ok(id);
    }
    let id = ClusterId::random();
    State::intents()?.write(&file_of(cluster, "uuid"), &id.to_string())?;
    Ok(id)
}

/// The identity of a cluster that a run here has begun to make: its key was made.
pub fn begun(cluster: &ClusterName) -> Result<Option<ClusterId>> {
    let Some(id) = intent(cluster)? else { return Ok(None) };
    Ok(has_key(id)?.then_some(id))
}

/// Whether a cluster's login key is here. Nothing is made.
pub fn has_key(id: ClusterId) -> Result<bool> {
    let path = path()?.join("clusters").join(id.to_string()).join(KEY_FILE);
    Ok(path.symlink_metadata().is_ok_and(|m| m.is_file()))
}

/// Removes the recorded intent to make the cluster of this identity, once that is deleted. One to make another stays.
pub fn forget_intent(cluster: &ClusterName, id: ClusterId) -> Result<()> {
    match intent(cluster)? {
        Some(other) if other != id => Ok(()),
        _ => State::intents()?.remove(&file_of(cluster, "uuid")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_identitys_intent_is_not_forgotten() {
        let cluster: ClusterName = format!("t{}", &ClusterId::random().to_string()[..8]).parse().unwrap();
        let meant = intended(&cluster).unwrap();
        // What another first run left under the name is removed: `down --uuid`.
        forget_intent(&cluster, ClusterId::random()).unwrap();
        assert_eq!(intended(&cluster).unwrap(), meant);
        forget_intent(&cluster, meant).unwrap();
        assert_ne!(intended(&cluster).unwrap(), meant);
        State::intents().unwrap().remove(&file_of(&cluster, "uuid")).unwrap();
    }
}
