//! Records of the log, of the vote and of what was purged: a version, and what it names.
//!
//! Records of formats 1 to 3 have no version. They begin with a term, as a number of a variable number of bytes; a
//! version is such a number too, of two bytes where one would do, which no encoder writes.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

use super::{BadRecord, HEAD_BYTES, earlier, framed, read_body};
use crate::{
    raft::{Data, Entry, EntryId, HardState},
    state::Command,
};

/// Version 4: the number 4, and a second byte that adds nothing to it.
const VERSION: [u8; 2] = [0x84, 0];

fn versioned<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    head.extend_from_slice(&VERSION);
    Ok(framed(postcard::to_extend(value, head).map_err(io::Error::other)?))
}

fn decode<T: DeserializeOwned>(body: &[u8], earlier: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
    match body.strip_prefix(&VERSION) {
        Some(body) => postcard::from_bytes(body).map_err(|e| e.to_string()),
        None => earlier(body),
    }
}

/// The record of an entry.
pub(super) fn entry(entry: &Entry) -> io::Result<Vec<u8>> {
    versioned(entry)
}

/// The record of term and vote.
pub(super) fn hard_state(hard: &HardState) -> io::Result<Vec<u8>> {
    versioned(hard)
}

/// The record of an entry's id.
pub(super) fn entry_id(id: &EntryId) -> io::Result<Vec<u8>> {
    versioned(id)
}

/// Reads an entry at a place; and where it ends.
pub(super) fn read_entry(bytes: &[u8], offset: usize) -> Result<(Entry, usize), BadRecord> {
    let (body, end) = read_body(bytes, offset)?;
    let entry = decode(body, earlier::entry).map_err(|reason| BadRecord::Wrong { unwritten: false, reason })?;
    Ok((entry, end))
}

/// Term and vote.
pub(super) fn decode_hard_state(body: &[u8]) -> Result<HardState, String> {
    decode(body, earlier::hard_state)
}

/// An entry's id.
pub(super) fn decode_entry_id(body: &[u8]) -> Result<EntryId, String> {
    decode(body, |body| postcard::from_bytes(body).map_err(|e| e.to_string()))
}

/// Commands that are proposed together, as an entry has them.
pub fn encode_commands(commands: &[Command]) -> io::Result<Data> {
    postcard::to_stdvec(commands).map(|bytes| Data(bytes.into())).map_err(io::Error::other)
}

/// The commands of an entry.
pub fn decode_commands(data: &Data) -> Result<Vec<Command>, String> {
    postcard::from_bytes(&data.0).map_err(|e| e.to_string())
}
