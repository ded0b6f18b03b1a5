//! Records of the log, of the vote and of what was purged: a version, and what it names.
//!
//! Version 5 is that of records that are no entries: heads and marks of the log's files, of a fixed length.
//!
//! Records of formats 1 to 3 have no version. They begin with a term, as a number of a variable number of bytes; a
//! version is such a number too, of two bytes where one would do, which no encoder writes.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

pub(super) use super::HEAD_BYTES;
use super::{BadRecord, earlier, framed, read_body};
use crate::{
    raft::{Data, Entry, EntryId, HardState},
    state::Command,
};

/// Version 4: the number 4, and a second byte that adds nothing to it.
const VERSION: [u8; 2] = [0x84, 0];
/// Version 5, likewise.
const VERSION_5: [u8; 2] = [0x85, 0];

/// A record of the log.
pub(super) enum Record {
    /// an entry
    Entry(Entry),
    /// the head of a file, with the file's number
    Head(u64),
    /// a mark: the file's number, and the mark's own offset, before which everything is durable
    Mark(u64, u64),
}

/// Length of a mark.
pub(super) const MARK_BYTES: usize = HEAD_BYTES + VERSION_5.len() + 16;
/// Length of the head of a file.
pub(super) const FILE_HEAD_BYTES: usize = HEAD_BYTES + VERSION_5.len() + 8;

fn of_numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![0; HEAD_BYTES];
    out.extend_from_slice(&VERSION_5);
    numbers.iter().for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
    framed(out)
}

/// The head of a file of the log.
pub(super) fn head(number: u64) -> Vec<u8> {
    of_numbers(&[number])
}

/// The mark at a place in a file of the log.
pub(super) fn mark(number: u64, offset: u64) -> Vec<u8> {
    of_numbers(&[number, offset])
}

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

/// Reads a record of the log at a place; and where it ends.
pub(super) fn read_record(bytes: &[u8], offset: usize) -> Result<(Record, usize), BadRecord> {
    let (body, end) = read_body(bytes, offset)?;
    let record = match body.strip_prefix(&VERSION_5) {
        Some(body) => match body.as_chunks() {
            ([number], []) => Record::Head(u64::from_be_bytes(*number)),
            ([number, offset], []) => Record::Mark(u64::from_be_bytes(*number), u64::from_be_bytes(*offset)),
            _ => return Err(BadRecord::Content(format!("a head or mark of {} bytes", body.len()))),
        },
        None => Record::Entry(decode(body, earlier::entry).map_err(BadRecord::Content)?),
    };
    Ok((record, end))
}

/// Reads an entry at a place.
pub(super) fn read_entry(bytes: &[u8], offset: usize) -> Result<Entry, BadRecord> {
    match read_record(bytes, offset)?.0 {
        Record::Entry(entry) => Ok(entry),
        _ => Err(BadRecord::Content("it is no entry".into())),
    }
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
