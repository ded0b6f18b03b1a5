//! A file of the log: a head, then entries and marks.
//!
//! The head is durable before anything follows it, and has a random number that all marks of the file repeat: what clients store is never
//! taken for a mark. A mark is written after each sync, before the writes of that sync are reported, and is durable with the next one:
//! everything before a mark was durable when the mark was written.
//!
//! Power that goes may leave any part of what was not synced on the disk, later parts without earlier ones. Damage that a mark follows is
//! therefore not that, whatever it looks like. Without a mark behind it, it is one if sectors of it read as zeros, as those that were never
//! written do, or if the file ends within it; other damage is refused, since it may be in what was reported after the last mark
//! that reached the disk. Files of formats up to 4 have neither head nor marks: there only the last record may be torn.

use std::path::{Path, PathBuf};

use crate::{
    raft::Entry,
    storage::{
        BadRecord, SECTOR_BYTES,
        records::{HEAD_BYTES, MARK_BYTES, Record, head, mark, read_record},
    },
};

/// The file whose first entry has this index.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("log.{first:020}"))
}

/// The bytes of a file.
pub(super) struct Segment<'a> {
    bytes: &'a [u8],
    /// number in its head; none in a file of an earlier format, and in one whose head is damaged
    number: Option<u64>,
}

impl<'a> Segment<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, number: number(bytes) }
    }

    /// The record at a place, if it is an entry, and where it ends.
    pub(super) fn read(&self, offset: usize) -> Result<(Option<Entry>, usize), BadRecord> {
        let (record, end) = read_record(self.bytes, offset)?;
        let belongs = match record {
            Record::Entry(entry) => return Ok((Some(entry), end)),
            Record::Head(_) => offset == 0,
            Record::Mark(number, place) => self.number == Some(number) && place == offset as u64,
        };
        if belongs { Ok((None, end)) } else { Err(BadRecord::Content("it belongs to another place".into())) }
    }

    /// Whether what is at a place can be a write that was never reported, which power that went interrupted.
    pub(super) fn is_torn(&self, offset: usize, bad: &BadRecord) -> bool {
        let bytes = self.bytes;
        let Some(number) = self.number else {
            return match bad {
                BadRecord::Short => true,
                BadRecord::Head => bytes[offset..].iter().all(|b| *b == 0),
                BadRecord::Body(end) => *end == bytes.len() && has_empty_sector(bytes, offset, *end),
                BadRecord::Content(_) => false,
            };
        };
        let unwritten = match bad {
            BadRecord::Short => true,
            BadRecord::Head => has_empty_sector(bytes, offset, offset + HEAD_BYTES),
            BadRecord::Body(end) => has_empty_sector(bytes, offset, *end),
            BadRecord::Content(_) => false,
        };
        unwritten && !has_mark_behind(bytes, offset, number)
    }
}

/// The number in the head of a file, if it begins with one.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    match read_record(bytes, 0) {
        Ok((Record::Head(number), _)) => Some(number),
        _ => None,
    }
}

fn has_mark_behind(bytes: &[u8], offset: usize, number: u64) -> bool {
    // Length, and checksum of it: the same in all marks.
    let begin = &mark(number, 0)[..8];
    let whole = |at: usize| bytes.get(at..at + MARK_BYTES).is_some_and(|b| b.starts_with(begin) && b == mark(number, at as u64));
    (offset + 1..bytes.len()).any(whole)
}

/// Whether a sector of those in which this part lies has nothing but zeros, from the part's beginning on.
fn has_empty_sector(bytes: &[u8], offset: usize, end: usize) -> bool {
    let end = end.next_multiple_of(SECTOR_BYTES).min(bytes.len());
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(end - offset);
    let (head, rest) = bytes[offset..end].split_at(first);
    std::iter::once(head).chain(rest.chunks(SECTOR_BYTES)).any(|part| part.iter().all(|b| *b == 0))
}

/// A new head, and the number in it.
pub(super) fn new_head() -> (u64, Vec<u8>) {
    let number = rand::random();
    (number, head(number))
}
