//! What is on disk, below `dataDir/version-2`: the log, the vote, snapshots.
//!
//! Invariant: what was reported as flushed survives kill -9 and loss of power; a torn tail, which was never
//! reported, is cut off; damage anywhere else is refused with file and offset.

mod background;
mod earlier;
pub mod format;
mod log;
mod machine;
mod records;
mod stream;

pub use log::{LogStore, LogWrite};
pub use machine::{Hooks, Image, Machine, read_state, write_first_state};
pub use records::{decode_commands, encode_commands};

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::raft::EntryId;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// with which file
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// Bytes are not those that were written.
    #[error("{path}: damaged at byte {offset}: {reason}")]
    Damaged {
        /// the file
        path: PathBuf,
        /// where
        offset: u64,
        /// how it shows
        reason: String,
    },
    /// The directory was written by a version that this one does not know.
    #[error("{path}: format {found:?}, this version knows formats up to {known}\nhint: run the version that wrote it, or a later one")]
    Format {
        /// the file that says so
        path: PathBuf,
        /// what it says
        found: String,
        /// newest format that is known
        known: u32,
    },
    /// The vote names a term that no election reaches.
    #[error(
        "{path}: term {term} is beyond what elections reach: a forged message was stored, as earlier versions did\n\
         hint: if the other servers serve, move {dir} away and this server gets everything from them; if none serves, \
         stop all and start each once with --reset-term"
    )]
    Forged {
        /// the file
        path: PathBuf,
        /// directory of the log
        dir: PathBuf,
        /// the term
        term: u64,
    },
}

impl StorageFault {
    fn implausible(path: &Path, offset: usize) -> impl FnOnce(String) -> Self {
        move |reason| Self::Damaged { path: path.to_owned(), offset: offset as u64, reason }
    }
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StorageFault + '_ {
    move |source| StorageFault::Io { path: path.to_owned(), source }
}

/// Greatest term: the upper half of a zxid holds it.
pub const MAX_TERM: u64 = i32::MAX as u64 - 1;
/// Greatest index of an entry.
pub const MAX_INDEX: u64 = 1 << 56;

/// Whether elections and appends can have reached this id at all.
pub fn plausible(id: &EntryId) -> Result<(), String> {
    if id.term > MAX_TERM || id.index > MAX_INDEX {
        return Err(format!("term {} and index {} are beyond what an ensemble reaches", id.term, id.index));
    }
    Ok(())
}

/// Length, checksum of the length, checksum of the bytes: with the second, a damaged length is not taken for a
/// record that was cut short.
const HEAD_BYTES: usize = 12;
/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// `length:u32 crc32c(length):u32 crc32c(bytes):u32 bytes`
#[cfg(test)]
fn record<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    Ok(framed(postcard::to_extend(value, vec![0; HEAD_BYTES]).map_err(io::Error::other)?))
}

/// Fills in the head of a record whose body begins at [`HEAD_BYTES`].
pub(crate) fn framed(mut out: Vec<u8>) -> Vec<u8> {
    let head = head((out.len() - HEAD_BYTES) as u32, crc32c::crc32c(&out[HEAD_BYTES..]));
    out[..HEAD_BYTES].copy_from_slice(&head);
    out
}

/// The head of a record of so many bytes with this checksum.
fn head(length: u32, sum: u32) -> [u8; HEAD_BYTES] {
    let length = length.to_be_bytes();
    let mut out = [0; HEAD_BYTES];
    out[..4].copy_from_slice(&length);
    out[4..8].copy_from_slice(&crc32c::crc32c(&length).to_be_bytes());
    out[8..].copy_from_slice(&sum.to_be_bytes());
    out
}

/// Why there is no whole record at a place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRecord {
    /// The file ends first.
    #[error("record ends early")]
    Short,
    /// Its length is not the one that was written.
    #[error("checksum of the length does not match")]
    Head,
    /// Its bytes are not those that were written. It ends here.
    #[error("checksum does not match")]
    Body(usize),
    /// It is as it was written, and means nothing.
    #[error("{0}")]
    Content(String),
}

/// The bytes of a record, and where it ends.
pub(crate) fn read_body(bytes: &[u8], offset: usize) -> Result<(&[u8], usize), BadRecord> {
    let Some(head) = bytes.get(offset..offset + HEAD_BYTES) else {
        return Err(BadRecord::Short);
    };
    let word = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    if crc32c::crc32c(&head[..4]) != word(4) {
        return Err(BadRecord::Head);
    }
    let end = offset + HEAD_BYTES + word(0) as usize;
    let Some(body) = bytes.get(offset + HEAD_BYTES..end) else {
        return Err(BadRecord::Short);
    };
    if crc32c::crc32c(body) != word(8) {
        return Err(BadRecord::Body(end));
    }
    Ok((body, end))
}

/// Writes a small file so that it is either the old or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_by(path, |temporary| {
        let mut f = File::create(temporary)?;
        f.write_all(bytes)?;
        f.sync_all()
    })
}

/// Replaces a file by one that `write` writes and syncs under another name. Where that fails, the room that it took is given back: the
/// log may need it.
fn replace_by(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension(TEMPORARY);
    let replaced = write(&temporary).and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    sync_parent(path)
}

/// Ending of files that are not finished.
const TEMPORARY: &str = "tmp";
/// Age from which on nobody writes such a file any more: what is written takes a piece at a time.
const ABANDONED: Duration = Duration::from_secs(60);

/// Removes what servers that were killed had not finished: at a start on a full disk it may be what fills it.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, about) = (entry.path(), entry.metadata()?);
        let is_old = about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED));
        if about.is_file() && is_old && path.extension().is_some_and(|e| e == TEMPORARY) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Room that a server needs to take the lead, in bytes.
const PROBE_BYTES: usize = 256 * 1024;

/// Whether a directory can be written to: fails as a write to the log would.
pub fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe.tmp");
    let written = File::create(&path).and_then(|mut f| f.write_all(&[0x5a; PROBE_BYTES]).and_then(|()| f.sync_all()));
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a file written by [`replace_file`] from one [`record`].
pub(crate) fn read_one_with<T>(path: &Path, decode: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Option<T>, StorageFault> {
    let bytes = match fs::read(path) {
        Ok(b) => b,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(path)(e)),
    };
    let damaged = |reason: String| StorageFault::Damaged { path: path.into(), offset: 0, reason };
    match read_body(&bytes, 0) {
        Ok((body, _)) => decode(body).map(Some).map_err(damaged),
        Err(BadRecord::Short) => Err(damaged("file ends early".into())),
        Err(bad) => Err(damaged(bad.to_string())),
    }
}
