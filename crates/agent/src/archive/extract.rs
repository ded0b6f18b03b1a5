//! What comes out of an archive. Its author is a stranger: an entry is a regular file, a directory or a link that stays
//! inside, or the archive is refused as a whole.
//!
//! Invariant: nothing is made but below the directory given, by descriptors, and no link of the archive is followed while it
//! is unpacked. A link points up first and then down (`../../libs/a`), never down and up again: since each component is then
//! either a directory or such a link, it cannot leave the tree whatever the others are.

use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Component, Path},
    rc::Rc,
    time::{Duration, SystemTime},
};

use flate2::read::GzDecoder;
use tar::{Entry, EntryType};

use crate::{
    atomic::{FileError, at},
    command,
    place::Directory,
};

/// Most that an archive may unpack to, in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Most entries.
const MAX_ENTRIES: usize = 200_000;
/// Most that may stand between the contents of two files, in bytes: a header, and long names and attributes, which are read
/// into memory.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// Deepest entry.
const MAX_DEPTH: usize = 64;
/// Permissions that are kept, and those of directories without an entry. Nothing that is installed may be changed by everybody.
const MODE_MASK: u32 = 0o755;

/// Counts bytes, and ends at the limit or when the channel has ended.
struct Limited<R> {
    from: R,
    left: u64,
    /// what may be read before the next file's contents
    header_left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if command::stopped() {
            return Err(io::Error::other("the channel has ended"));
        }
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other("the archive unpacks to more than is allowed"))?;
        if let Some(left) = self.header_left.get() {
            let left = left.checked_sub(n as u64).ok_or_else(|| io::Error::other(format!("a header is over {MAX_HEADER_BYTES} bytes")))?;
            self.header_left.set(Some(left));
        }
        Ok(n)
    }
}

type From<'a> = Limited<GzDecoder<BufReader<&'a File>>>;

fn refused(path: &Path, why: &str) -> FileError {
    FileError::Refused(format!("the archive's {} {why}; nothing of it is unpacked", path.display()))
}

/// What goes wrong while reading or writing, in words about the archive.
fn broken(into: &Directory, e: io::Error) -> FileError {
    if e.kind() == io::ErrorKind::StorageFull {
        return FileError::Refused(format!("no space is left while unpacking into {}", into.path.display()));
    }
    let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
    FileError::Refused(format!("the archive cannot be unpacked: {e}{cause}"))
}

/// Unpacks what lies below `top` in the archive into a private directory; the rest is read and checked.
pub fn unpack(blob: &File, top: &OsStr, into: &Directory) -> Result<(), FileError> {
    let broken = |e| broken(into, e);
    let header_left = Rc::new(Cell::new(None));
    let from = GzDecoder::new(BufReader::with_capacity(256 * 1024, blob));
    let mut archive = tar::Archive::new(Limited { from, left: MAX_BYTES, header_left: header_left.clone() });
    let mut tree = Tree { into, top, directories: Vec::new() };
    let mut entries = archive.entries().map_err(broken)?;
    for count in 0.. {
        header_left.set(Some(MAX_HEADER_BYTES));
        let next = entries.next();
        header_left.set(None);
        let Some(entry) = next else { break };
        if count >= MAX_ENTRIES {
            return Err(FileError::Refused(format!("the archive has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry.map_err(broken)?;
        tree.add(&mut entry)?;
        // What is not wanted is read here, where it does not count as a header.
        io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
    }
    tree.finish()?;
    // To its very end, where the checksum of it all is.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// The tree in the making.
struct Tree<'a> {
    into: &'a Directory,
    top: &'a OsStr,
    /// directories with the mode and time that they get once everything is in them
    directories: Vec<(Vec<OsString>, u32, SystemTime)>,
}

impl Tree<'_> {
    fn add(&mut self, entry: &mut Entry<'_, From<'_>>) -> Result<(), FileError> {
        let broken = |e| broken(self.into, e);
        let mut kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        if kind == EntryType::Regular && entry.path_bytes().ends_with(b"/") {
            // How the oldest tars wrote directories.
            kind = EntryType::Directory;
        }
        let shown = entry.path().map_err(broken)?.into_owned();
        let parts = parts(&shown)?;
        let mode = entry.header().mode().map_err(broken)?;
        // Before 1970 is not worth a failure.
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime().unwrap_or(0));
        let wanted = parts.first().is_some_and(|first| first == self.top);
        match kind {
            EntryType::Regular | EntryType::Continuous if mode & 0o6000 != 0 => {
                Err(refused(&shown, "has a set-user-id or set-group-id bit"))
            }
            EntryType::Regular | EntryType::Continuous if wanted => self.file(&parts, &shown, entry, mode, time),
            EntryType::Directory if wanted => {
                self.directory(&parts)?;
                self.directories.push((parts, mode & MODE_MASK, time));
                Ok(())
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                stays_inside(&parts, &target).map_err(|why| refused(&shown, &format!("is a link to {}, which {why}", target.display())))?;
                if !wanted {
                    return Ok(());
                }
                let (dir, name) = self.parent(&parts)?;
                dir.link(target.as_os_str(), name).map_err(broken)
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                let to = self::parts(&target)?;
                if to.first() != parts.first() || to.is_empty() {
                    return Err(refused(&shown, &format!("is a hard link to {}, which is outside of it", target.display())));
                }
                if !wanted {
                    return Ok(());
                }
                self.hard_link(&parts, &to, &shown)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => Ok(()),
            EntryType::Char | EntryType::Block => Err(refused(&shown, "is a device")),
            EntryType::Fifo => Err(refused(&shown, "is a FIFO")),
            EntryType::GNUSparse => Err(refused(&shown, "is a sparse file, which is not supported")),
            other => Err(refused(&shown, &format!("is of a kind that is not supported ({other:?})"))),
        }
    }

    /// The directory of this path, made with its parents as far as it is missing.
    fn directory(&self, parts: &[OsString]) -> Result<Directory, FileError> {
        let mut here: Option<Directory> = None;
        for part in parts {
            let dir = here.as_ref().unwrap_or(self.into);
            let made = match dir.make(part, MODE_MASK) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(broken(self.into, e)),
                other => other.is_ok(),
            };
            // A link of the archive in a directory's place ends here.
            let next = dir.enter(part).map_err(|e| broken(self.into, e))?;
            if made {
                // Whatever the umask is.
                fs::set_permissions(next.proc_path(), Permissions::from_mode(MODE_MASK)).map_err(|e| broken(self.into, e))?;
            }
            here = Some(next);
        }
        match here {
            Some(dir) => Ok(dir),
            None => self.into.enter(OsStr::new(".")).map_err(|e| broken(self.into, e)),
        }
    }

    fn parent<'a>(&self, parts: &'a [OsString]) -> Result<(Directory, &'a OsStr), FileError> {
        let (name, parents) = parts.split_last().ok_or_else(|| FileError::Refused("the archive has an entry without a name".into()))?;
        Ok((self.directory(parents)?, name))
    }

    fn file(&self, parts: &[OsString], shown: &Path, from: &mut impl Read, mode: u32, time: SystemTime) -> Result<(), FileError> {
        let broken = |e| broken(self.into, e);
        let (dir, name) = self.parent(parts)?;
        // The last of several entries of one name counts, as with tar.
        if dir.lookup(name).map_err(broken)?.is_some_and(|f| !f.meta.is_dir()) {
            dir.unlink(name).map_err(at("replace", shown))?;
        }
        let mut file = dir.create(name, 0o600).map_err(broken)?;
        io::copy(from, &mut file).map_err(broken)?;
        file.set_permissions(Permissions::from_mode(mode & MODE_MASK)).and_then(|()| file.set_modified(time)).map_err(broken)
    }

    fn hard_link(&self, parts: &[OsString], to: &[OsString], shown: &Path) -> Result<(), FileError> {
        let (dir, name) = self.parent(parts)?;
        let (from, old) = self.parent(to)?;
        if !from.lookup(old).map_err(|e| broken(self.into, e))?.is_some_and(|f| f.meta.is_file()) {
            return Err(refused(shown, "is a hard link to what is not a file of it"));
        }
        dir.hard_link(&from, old, name).map_err(|e| broken(self.into, e))
    }

    /// Gives the directories their modes and times, the deepest first: setting one changes no other.
    fn finish(mut self) -> Result<(), FileError> {
        let broken = |e| broken(self.into, e);
        self.directories.sort_by_key(|(parts, ..)| std::cmp::Reverse(parts.len()));
        for (parts, mode, time) in &self.directories {
            let dir = File::open(self.directory(parts)?.proc_path()).map_err(broken)?;
            dir.set_modified(*time).and_then(|()| dir.set_permissions(Permissions::from_mode(*mode))).map_err(broken)?;
        }
        Ok(())
    }
}

/// An entry's path in parts.
fn parts(path: &Path) -> Result<Vec<OsString>, FileError> {
    let mut out = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name.to_owned()),
            Component::CurDir => {}
            _ => return Err(FileError::Refused(format!("the archive has a path that leads out of it: {}", path.display()))),
        }
    }
    if out.len() > MAX_DEPTH {
        return Err(FileError::Refused(format!("the archive has a path of more than {MAX_DEPTH} directories: {}", path.display())));
    }
    Ok(out)
}

/// Whether a link leads to something below the first directory of its own path; see the invariant above.
fn stays_inside(link: &[OsString], target: &Path) -> Result<(), &'static str> {
    // The link's own directory, below the first one.
    let mut room = link.len().checked_sub(2).ok_or("is not in a directory of the archive")?;
    let mut down = false;
    for part in target.components() {
        match part {
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            Component::ParentDir if down => return Err("goes down and up again"),
            Component::ParentDir => room = room.checked_sub(1).ok_or("leads out of the archive")?,
            _ => return Err("is absolute"),
        }
    }
    Ok(())
}
