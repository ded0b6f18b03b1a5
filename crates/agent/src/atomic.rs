//! Replacing files so that a reader, a crash or a full disk never sees half of one.
//!
//! A file is written beside its target, synced and renamed over it. Where the target is a mount point (as
//! `/etc/hosts` is in a container) a rename is impossible, and the file is written in place.
//!
//! Invariant: owner and mode are set on descriptors, never by a name that another account could exchange in between.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, Permissions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use septet_agent_protocol::{Attributes, ModeChange};

use crate::place::{Directory, Handle, Place};

/// Mode of a new file unless another is asked for.
const NEW_FILE_MODE: u32 = 0o644;
/// How the names of unfinished files and links begin.
const TEMPORARY_PREFIX: &str = ".septet-";

/// Why a file action failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A system call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// what was being done
        doing: &'static str,
        /// with which path
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// There is no such account.
    #[error("there is no {kind} {name:?} on this host")]
    NoAccount {
        /// user or group
        kind: &'static str,
        /// its name
        name: String,
    },
    /// A link on the way that another account can have put there.
    #[error("{0} is a link that another account can replace; refusing to follow it: name its target, or set `follow: true`")]
    ForeignLink(PathBuf),
    /// The request makes no sense on this host.
    #[error("{0}")]
    Refused(String),
}

impl FileError {
    /// Whether something on the way to a path does not exist.
    pub fn is_missing(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), NotFound | NotADirectory))
    }
}

/// Adds the place to an IO error.
pub fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io { doing, path: path.to_owned(), source }
}

/// Attributes with names resolved to numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resolved {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    change: Option<ModeChange>,
}

impl Resolved {
    /// The mode that a path with this one is to have.
    fn mode_of(&self, mode: u32, is_directory: bool) -> Option<u32> {
        self.mode.or(self.change.map(|c| c.apply(mode & 0o7777, is_directory)))
    }

    /// Looks up owner and group. In check mode an owner whom an earlier task would have made may be missing still.
    pub fn of(a: &Attributes, check: bool) -> Result<Self, FileError> {
        match Self::look_up(a) {
            Err(FileError::NoAccount { .. }) if check => Ok(Self::default()),
            other => other,
        }
    }

    fn look_up(a: &Attributes) -> Result<Self, FileError> {
        let uid = a.owner.as_deref().map(|name| match name.parse() {
            Ok(n) => Ok(n),
            Err(_) => match nix::unistd::User::from_name(name) {
                Ok(Some(u)) => Ok(u.uid.as_raw()),
                _ => Err(FileError::NoAccount { kind: "user", name: name.into() }),
            },
        });
        let gid = a.group.as_deref().map(|name| match name.parse() {
            Ok(n) => Ok(n),
            Err(_) => match nix::unistd::Group::from_name(name) {
                Ok(Some(g)) => Ok(g.gid.as_raw()),
                _ => Err(FileError::NoAccount { kind: "group", name: name.into() }),
            },
        });
        Ok(Self { uid: uid.transpose()?, gid: gid.transpose()?, mode: a.mode, change: a.mode_change })
    }

    /// Whether a path with this metadata has other attributes than asked for.
    pub fn differ(&self, m: &Metadata) -> bool {
        self.uid.is_some_and(|u| u != m.uid())
            || self.gid.is_some_and(|g| g != m.gid())
            || (!m.file_type().is_symlink() && self.mode_of(m.mode(), m.is_dir()).is_some_and(|x| x != m.mode() & 0o7777))
    }

    /// Whether the owner changes.
    pub fn moves_owner(&self, m: &Metadata) -> bool {
        self.uid.is_some_and(|u| u != m.uid())
    }

    /// These, and what they leave open as a file has it.
    fn or_as(self, m: &Metadata) -> Self {
        let mode = self.mode_of(m.mode(), m.is_dir()).or(Some(m.mode() & 0o7777));
        Self { uid: self.uid.or(Some(m.uid())), gid: self.gid.or(Some(m.gid())), mode, change: None }
    }

    /// Sets them on what was found in a directory; of a link, on the link itself.
    pub fn apply(&self, dir: &Directory, found: &Handle, shown: &Path) -> Result<(), FileError> {
        if !self.differ(&found.meta) {
            return Ok(());
        }
        if dir.may_be_smuggled(&found.meta) {
            let why = "has a second name elsewhere (a hard link) in a directory that other accounts can write to; its attributes stay";
            return Err(FileError::Refused(format!("{} {why}", shown.display())));
        }
        if self.uid.is_some() || self.gid.is_some() {
            found.set_owner(self.uid, self.gid).map_err(at("change the owner of", shown))?;
        }
        // After the owner: chown clears set-user-id bits.
        if let (Some(mode), false) = (self.mode_of(found.meta.mode(), found.meta.is_dir()), found.meta.is_symlink()) {
            fs::set_permissions(found.proc_path(), Permissions::from_mode(mode)).map_err(at("change the mode of", shown))?;
        }
        Ok(())
    }

    /// Sets them on a file that was made here.
    pub fn apply_to_new(&self, file: &File, shown: &Path) -> Result<(), FileError> {
        let now = file.metadata().map_err(at("stat", shown))?;
        let other = |want: Option<u32>, is: u32| want.filter(|w| *w != is);
        let (uid, gid) = (other(self.uid, now.uid()), other(self.gid, now.gid()));
        if uid.is_some() || gid.is_some() {
            fchown(file, uid, gid).map_err(at("change the owner of", shown))?;
        }
        let mode = self.mode_of(NEW_FILE_MODE, false).unwrap_or(NEW_FILE_MODE);
        file.set_permissions(Permissions::from_mode(mode)).map_err(at("change the mode of", shown))
    }

    /// A line such as `mode 0644 → 0600` for a diff.
    pub fn describe(&self, m: &fs::Metadata) -> String {
        let mut out = Vec::new();
        if let Some(u) = self.uid.filter(|u| *u != m.uid()) {
            out.push(format!("owner {} → {u}", m.uid()));
        }
        if let Some(g) = self.gid.filter(|g| *g != m.gid()) {
            out.push(format!("group {} → {g}", m.gid()));
        }
        if let Some(x) = self.mode_of(m.mode(), m.is_dir()).filter(|x| *x != m.mode() & 0o7777) {
            out.push(format!("mode {:04o} → {x:04o}", m.mode() & 0o7777));
        }
        out.join(", ")
    }
}

/// A file under a name of its own, removed unless it is renamed into place.
struct Temporary<'a> {
    dir: &'a Directory,
    name: OsString,
    file: File,
}

impl<'a> Temporary<'a> {
    fn new(dir: &'a Directory) -> Result<Self, FileError> {
        let made = dir.with_new_name(TEMPORARY_PREFIX, |name| dir.create(name, 0o600));
        let (name, file) = made.map_err(at("make a temporary file in", &dir.path))?;
        Ok(Self { dir, name, file })
    }

    fn persist(mut self, name: &OsStr) -> io::Result<()> {
        self.dir.rename(self.dir, &self.name, name)?;
        // What has the temporary name from now on, if anything, is not ours.
        self.name.clear();
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = self.dir.unlink(&self.name);
        }
    }
}

/// Puts `content` at a place. An existing file's owner and mode are kept unless `attributes` says otherwise; a new file
/// gets mode 0644; a link is replaced. `inspect` sees the finished temporary file before it is put in place.
pub fn replace(
    place: &Place,
    mut content: impl Read,
    attributes: &Resolved,
    inspect: impl FnOnce(&Path) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let shown = place.path();
    let old = place.found.as_ref().filter(|h| h.meta.is_file());
    if let Some(old) = old
        && place.is_mount_point()
    {
        let mut file = old.write().map_err(at("open", &shown))?;
        let written = io::copy(&mut content, &mut file).map_err(at("write", &shown))?;
        file.set_len(written).and_then(|()| file.sync_all()).map_err(at("write", &shown))?;
        return attributes.apply(&place.dir, old, &shown);
    }
    let mut temporary = Temporary::new(&place.dir)?;
    io::copy(&mut content, &mut temporary.file).map_err(at("write", &shown))?;
    let keep = old.map_or(*attributes, |old| attributes.or_as(&old.meta));
    keep.apply_to_new(&temporary.file, &shown)?;
    temporary.file.sync_all().map_err(at("sync", &shown))?;
    inspect(&place.dir.path.join(&temporary.name))?;
    temporary.persist(&place.name).map_err(at("rename into place", &shown))?;
    place.dir.sync()
}

/// Makes a link at a place, in place of a link that is there.
pub fn replace_link(place: &Place, target: &OsStr) -> Result<(), FileError> {
    let (shown, dir) = (place.path(), &place.dir);
    let (name, ()) = dir.with_new_name(TEMPORARY_PREFIX, |name| dir.link(target, name)).map_err(at("make a link in", &dir.path))?;
    dir.rename(dir, &name, &place.name).map_err(|e| {
        let _ = dir.unlink(&name);
        at("rename into place", &shown)(e)
    })?;
    dir.sync()
}
