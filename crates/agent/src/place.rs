//! Where a path leads. Each directory on the way is opened once, by descriptor, and everything that follows
//! happens relative to the last one; a path is never resolved a second time.
//!
//! Invariant: a link that another account can have put there is not followed unless the request asks for it. What
//! counts is the link's owner and who can write to the directory that holds it, so `/var/run` and a data directory
//! that root moved to another disk still work, and a link inside a service account's directory does not.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            ffi::OsStringExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat};

use crate::atomic::{FileError, at};

/// Links that one path may lead through.
const MAX_LINKS: usize = 40;
/// Directories that one path may lead through.
const MAX_COMPONENTS: usize = 200;
/// Attempts at a name that is not taken.
const NAME_TRIES: usize = 16;

/// How a path is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// also links that another account can have made
    pub foreign: bool,
    /// also where the last name is a link
    pub last: bool,
}

impl Follow {
    /// The last name itself, even if it is a link.
    pub const NAME: Self = Self { foreign: false, last: false };
    /// Through links that only root or this account can have made.
    pub const OWN: Self = Self { foreign: false, last: true };
    /// Through every link.
    pub const ANY: Self = Self { foreign: true, last: true };
}

/// Root's, or the account's that the agent runs as.
fn trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// One inode, opened without access to its contents (`O_PATH`).
#[derive(Debug)]
pub struct Handle {
    fd: File,
    pub meta: Metadata,
}

impl Handle {
    fn of(fd: impl Into<File>) -> io::Result<Self> {
        let fd = fd.into();
        let meta = fd.metadata()?;
        Ok(Self { fd, meta })
    }

    /// The name by which `/proc` knows this inode; opening it cannot lead elsewhere.
    pub fn proc_path(&self) -> PathBuf {
        proc_path(self.fd.as_fd())
    }

    /// Whether it belongs to neither root nor this account.
    pub fn is_foreign(&self) -> bool {
        !trusted(self.meta.uid())
    }

    fn open(&self, options: &mut OpenOptions) -> io::Result<File> {
        if !self.meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32).open(self.proc_path())
    }

    /// Its contents. Anything but a regular file is refused: a FIFO would block, a device has no end.
    pub fn read(&self) -> io::Result<File> {
        self.open(OpenOptions::new().read(true))
    }

    /// Its contents, to be overwritten in place.
    pub fn write(&self) -> io::Result<File> {
        self.open(OpenOptions::new().write(true))
    }

    /// Where a link points.
    pub fn target(&self) -> io::Result<OsString> {
        Ok(OsString::from_vec(readlinkat(&self.fd, "", Vec::new())?.into_bytes()))
    }

    /// The directory that this is.
    pub fn enter(&self, path: PathBuf) -> io::Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = Handle::of(openat(&self.fd, ".", flags, Mode::empty())?)?;
        Ok(Directory { handle, path })
    }

    /// Owner and group of this inode, of a link itself.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
        Ok(rustix::fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)?)
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The system's error for a name that does not exist.
pub fn not_there() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::ENOENT)
}

/// An opened directory.
#[derive(Debug)]
pub struct Directory {
    handle: Handle,
    /// as it was reached, for messages
    pub path: PathBuf,
}

impl Directory {
    fn root() -> io::Result<Self> {
        let fd = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { handle: Handle::of(fd)?, path: "/".into() })
    }

    pub fn meta(&self) -> &Metadata {
        &self.handle.meta
    }

    /// The descriptor's name in `/proc`, for functions that take paths; names below it are resolved from the descriptor.
    pub fn proc_path(&self) -> PathBuf {
        self.handle.proc_path()
    }

    /// What has this name here, without following it.
    pub fn lookup(&self, name: &OsStr) -> io::Result<Option<Handle>> {
        match openat(&self.handle.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Handle::of(fd).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory of this name here. Opened as a directory, so that an automount happens.
    pub fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = Handle::of(openat(&self.handle.fd, name, flags, Mode::empty())?)?;
        Ok(Self { handle, path: self.path.join(name) })
    }

    /// Whether only root and this account can add, rename and remove names here.
    fn is_private(&self) -> bool {
        trusted(self.meta().uid()) && self.meta().mode() & 0o022 == 0
    }

    /// Whether a link here can only have been made by root or this account, and under this name. In a sticky directory
    /// names belong to their owners.
    fn vouches_for(&self, link: &Metadata) -> bool {
        let sticky = self.meta().mode() & 0o1000 != 0;
        trusted(link.uid()) && (self.is_private() || sticky && trusted(self.meta().uid()))
    }

    /// Whether this file may be an outside file that another account gave a second name here (`link(2)`, where the kernel's
    /// `protected_hardlinks` is off). Changing its owner or mode would change the outside file.
    pub fn may_be_smuggled(&self, file: &Metadata) -> bool {
        let root = nix::unistd::geteuid().is_root();
        root && file.is_file() && file.nlink() > 1 && !self.is_private() && (trusted(file.uid()) || file.uid() != self.meta().uid())
    }

    /// A new file; nothing that has the name already is opened.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.handle.fd, name, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// A new directory.
    pub fn make(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(mkdirat(&self.handle.fd, name, Mode::from_raw_mode(mode))?)
    }

    /// A new link.
    pub fn link(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.handle.fd, name)?)
    }

    /// A second name for a file, which is not followed if it is a link.
    pub fn hard_link(&self, from: &Directory, old: &OsStr, new: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.handle.fd, old, &self.handle.fd, new, AtFlags::empty())?)
    }

    /// Gives what is called `old` in `from` the name `new` here, in place of what has it.
    pub fn rename(&self, from: &Directory, old: &OsStr, new: &OsStr) -> io::Result<()> {
        Ok(renameat(&from.handle.fd, old, &self.handle.fd, new)?)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.handle.fd, name, AtFlags::empty())?)
    }

    /// Removes a directory and what is in it. The standard library does this by descriptors below the path it is given.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_dir_all(self.proc_path().join(name))
    }

    /// Uses `make` with names that begin with `prefix` until it succeeds with one that is free.
    pub fn with_new_name<T>(&self, prefix: &str, mut make: impl FnMut(&OsStr) -> io::Result<T>) -> io::Result<(OsString, T)> {
        let mut last = io::ErrorKind::AlreadyExists.into();
        for _ in 0..NAME_TRIES {
            let mut random = [0u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = OsString::from(format!("{prefix}{:016x}", u64::from_ne_bytes(random)));
            match make(&name) {
                Ok(made) => return Ok((name, made)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// Names of all that is here, without `.` and `..`.
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = Dir::new(openat(&self.handle.fd, ".", flags, Mode::empty())?)?;
        Ok(dir.filter_map(|entry| match entry {
            Ok(e) => {
                let name = e.file_name().to_bytes();
                (name != b"." && name != b"..").then(|| Ok(OsString::from_vec(name.to_vec())))
            }
            Err(e) => Some(Err(e.into())),
        }))
    }

    /// Makes changes of names here durable.
    pub fn sync(&self) -> Result<(), FileError> {
        File::open(self.proc_path()).and_then(|d| d.sync_all()).map_err(at("sync the directory", &self.path))
    }
}

/// The end of a path: a name in an opened directory, and what has it.
#[derive(Debug)]
pub struct Place {
    pub dir: Directory,
    /// `.` where the path ends at a directory without naming it, as `/` does
    pub name: OsString,
    pub found: Option<Handle>,
}

impl Place {
    /// The path for messages.
    pub fn path(&self) -> PathBuf {
        if self.name == "." { self.dir.path.clone() } else { self.dir.path.join(&self.name) }
    }

    /// Whether it is the root directory, under whatever name.
    pub fn is_root(&self) -> bool {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.found.as_ref().is_some_and(|f| fs::metadata("/").is_ok_and(|root| same(&root, &f.meta)))
    }

    /// Whether something is mounted exactly here. Only root mounts, so it cannot be faked.
    pub fn is_mount_point(&self) -> bool {
        let Some(path) = fs::read_link(self.dir.proc_path()).ok().map(|dir| dir.join(&self.name)) else {
            return false;
        };
        // The table writes blanks and backslashes as octal numbers.
        let octal = |b: u8| format!("\\{b:03o}");
        let Some(path) = path.to_str().map(|p| p.replace('\\', &octal(b'\\')).replace(' ', &octal(b' ')).replace('\t', &octal(b'\t')))
        else {
            return false;
        };
        fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.lines().any(|l| l.split(' ').nth(4) == Some(&path)))
    }
}

/// Resolves a path. Directories on the way must exist.
pub fn find(path: &Path, follow: Follow) -> Result<Place, FileError> {
    walk(path, follow, &mut |_, _| Ok(false))
}

/// Resolves a path; `make` is asked to make a directory on the way that does not exist, and returns whether it did.
pub fn walk(path: &Path, follow: Follow, make: &mut dyn FnMut(&Directory, &OsStr) -> Result<bool, FileError>) -> Result<Place, FileError> {
    let mut stack = vec![Directory::root().map_err(at("open", Path::new("/")))?];
    let mut left = VecDeque::new();
    prepend(&mut left, path);
    let mut links = 0;
    // The bottom of the stack is the root and stays.
    while let Some(dir) = stack.last() {
        let Some(name) = left.pop_front() else { break };
        if name == ".." {
            stack.truncate(stack.len().saturating_sub(1).max(1));
            continue;
        }
        let here = dir.path.join(&name);
        let last = left.is_empty();
        let mut found = dir.lookup(&name).map_err(at("stat", &here))?;
        if found.is_none() && !last && make(dir, &name)? {
            found = dir.lookup(&name).map_err(at("stat", &here))?;
        }
        let Some(handle) = found else {
            if !last {
                return Err(at("open the directory", &here)(not_there()));
            }
            return end(stack, name, None);
        };
        if handle.meta.is_symlink() && (!last || follow.last) {
            if !follow.foreign && !dir.vouches_for(&handle.meta) {
                return Err(FileError::ForeignLink(here));
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(at("follow", path)(io::Error::from_raw_os_error(nix::libc::ELOOP)));
            }
            let target = PathBuf::from(handle.target().map_err(at("follow", &here))?);
            if target.is_absolute() {
                stack.truncate(1);
            }
            prepend(&mut left, &target);
            continue;
        }
        if last {
            return end(stack, name, Some(handle));
        }
        if stack.len() > MAX_COMPONENTS {
            return Err(FileError::Refused(format!("{} is more than {MAX_COMPONENTS} directories deep", path.display())));
        }
        let next = dir.enter(&name).map_err(at("open the directory", &here))?;
        stack.push(next);
    }
    let this = stack.last().map(|d| d.lookup(OsStr::new("."))).transpose().map_err(at("stat", path))?.flatten();
    end(stack, ".".into(), this)
}

fn end(mut stack: Vec<Directory>, name: OsString, found: Option<Handle>) -> Result<Place, FileError> {
    let dir = stack.pop().ok_or_else(|| FileError::Refused("the path has no directory".into()))?;
    Ok(Place { dir, name, found })
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => left.push_front(name.to_owned()),
            Component::ParentDir => left.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Resolves a path to the directory there, making what is missing; `attributes` see each new directory.
pub fn make_directories(
    path: &Path,
    follow: Follow,
    mode: u32,
    made: &mut dyn FnMut(&Directory, &Handle, &Path) -> Result<(), FileError>,
) -> Result<Directory, FileError> {
    let mut make = |dir: &Directory, name: &OsStr| {
        let here = dir.path.join(name);
        dir.make(name, mode).map_err(at("make", &here))?;
        if let Some(handle) = dir.lookup(name).map_err(at("stat", &here))? {
            made(dir, &handle, &here)?;
        }
        Ok(true)
    };
    let place = walk(path, follow, &mut make)?;
    if place.found.is_none() {
        make(&place.dir, &place.name)?;
    }
    place.dir.enter(&place.name).map_err(at("open the directory", path))
}
