//! Replacing files so that a reader, a crash or a full disk never sees half of one.
//!
//! A file is written beside its target, synced and renamed over it. Where the target is a mount point (as
//! `/etc/hosts` is in a container) a rename is impossible, and the file is written in place.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use septet_agent_protocol::Attributes;

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
    /// The request makes no sense on this host.
    #[error("{0}")]
    Refused(String),
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
}

impl Resolved {
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
        Ok(Self { uid: uid.transpose()?, gid: gid.transpose()?, mode: a.mode })
    }

    /// Whether a path with this metadata has other attributes than asked for.
    pub fn differ(&self, m: &fs::Metadata) -> bool {
        self.uid.is_some_and(|u| u != m.uid())
            || self.gid.is_some_and(|g| g != m.gid())
            || (!m.file_type().is_symlink() && self.mode.is_some_and(|x| x != m.mode() & 0o7777))
    }

    /// Sets them.
    pub fn apply(&self, path: &Path) -> Result<(), FileError> {
        let link = fs::symlink_metadata(path).map_err(at("look at", path))?.file_type().is_symlink();
        if self.uid.is_some() || self.gid.is_some() {
            let set = if link { std::os::unix::fs::lchown } else { chown };
            set(path, self.uid, self.gid).map_err(at("change the owner of", path))?;
        }
        // After the owner: chown clears set-user-id bits.
        if let (Some(mode), false) = (self.mode, link) {
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("change the mode of", path))?;
        }
        Ok(())
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
        if let Some(x) = self.mode.filter(|x| *x != m.mode() & 0o7777) {
            out.push(format!("mode {:04o} → {x:04o}", m.mode() & 0o7777));
        }
        out.join(", ")
    }
}

/// Whether something is mounted exactly on this path.
pub fn is_mount_point(path: &Path) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.lines().any(|l| l.split(' ').nth(4).is_some_and(|p| p == path)))
}

/// The path that is meant: a link is followed, as an editor would, so that it stays a link.
pub fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Puts `content` at `path`. An existing file's owner and mode are kept unless `attributes` says otherwise; a
/// new file gets mode 0644. `inspect` sees the finished temporary file before it is put in place.
pub fn replace(
    path: &Path,
    content: &[u8],
    attributes: &Resolved,
    inspect: impl FnOnce(&Path) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let old = fs::metadata(path).ok();
    let target = behind_links(path);
    if is_mount_point(&target) {
        let mut f = OpenOptions::new().write(true).open(path).map_err(at("open", path))?;
        f.write_all(content).and_then(|()| f.set_len(content.len() as u64)).and_then(|()| f.sync_all()).map_err(at("write", path))?;
        return attributes.apply(&target);
    }
    let dir = target.parent().ok_or_else(|| FileError::Refused(format!("{} has no directory", path.display())))?;
    let mut temporary = tempfile::Builder::new().prefix(".septet-").tempfile_in(dir).map_err(at("make a temporary file in", dir))?;
    temporary.write_all(content).map_err(at("write", &target))?;
    let keep = Resolved {
        uid: attributes.uid.or(old.as_ref().map(|m| m.uid())),
        gid: attributes.gid.or(old.as_ref().map(|m| m.gid())),
        mode: attributes.mode.or(old.as_ref().map(|m| m.mode() & 0o7777)).or(Some(0o644)),
    };
    keep.apply(temporary.path())?;
    temporary.as_file().sync_all().map_err(at("sync", &target))?;
    inspect(temporary.path())?;
    temporary.persist(&target).map_err(|e| at("rename into place", &target)(e.error))?;
    sync_dir(dir)
}

/// Makes a rename in this directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at("sync the directory", dir))
}
