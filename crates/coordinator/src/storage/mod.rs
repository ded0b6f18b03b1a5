//! What is on disk, below `dataDir/version-2`: the log, the vote, snapshots.
//!
//! Invariant: what was reported as flushed survives kill -9 and loss of power; a torn tail, which was never
//! reported, is cut off; damage anywhere else is refused with file and offset.

mod log;
mod machine;

pub use log::LogStore;
pub use machine::{Hooks, Machine};

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::state::Command;

openraft::declare_raft_types!(
    /// Types of the Raft node: an entry is a batch of commands, so that one fsync serves many clients.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = io::Cursor<Vec<u8>>,
        Responder = openraft::impls::OneshotResponder<TypeConfig>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// Commands that are proposed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Batch(pub Vec<Command>);

impl std::fmt::Display for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

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
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StorageFault + '_ {
    move |source| StorageFault::Io { path: path.to_owned(), source }
}

/// `length:u32 crc32c:u32 bytes`
pub(crate) fn record<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Why there is no whole record at a place.
pub(crate) enum BadRecord {
    /// The file ends first.
    Short,
    /// Checksum or encoding is wrong; the record would end here.
    Wrong { end: usize, reason: String },
}

pub(crate) fn read_record<T: DeserializeOwned>(bytes: &[u8], offset: usize) -> Result<(T, usize), BadRecord> {
    let word = |i: usize| bytes.get(i..i + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(length), Some(crc)) = (word(offset), word(offset + 4)) else { return Err(BadRecord::Short) };
    let end = offset + 8 + length as usize;
    let Some(body) = bytes.get(offset + 8..end) else { return Err(BadRecord::Short) };
    if crc32c::crc32c(body) != crc {
        return Err(BadRecord::Wrong { end, reason: "checksum does not match".into() });
    }
    let value = postcard::from_bytes(body).map_err(|e| BadRecord::Wrong { end, reason: e.to_string() })?;
    Ok((value, end))
}

/// Writes a small file so that it is either the old or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut f = File::create(&temporary)?;
    f.write_all(bytes)?;
    f.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a file written by [`replace_file`] from one [`record`].
pub(crate) fn read_one<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StorageFault> {
    let bytes = match fs::read(path) {
        Ok(b) => b,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(path)(e)),
    };
    match read_record(&bytes, 0) {
        Ok((value, _)) => Ok(Some(value)),
        Err(BadRecord::Short) => Err(StorageFault::Damaged { path: path.into(), offset: 0, reason: "file ends early".into() }),
        Err(BadRecord::Wrong { reason, .. }) => Err(StorageFault::Damaged { path: path.into(), offset: 0, reason }),
    }
}
