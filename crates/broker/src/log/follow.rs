//! What a follower does with its log: takes batches as the leader has them, cuts off what the leader does not have, and
//! begins anew where the leader begins.
//!
//! Invariant: the log stays one that a leader could have written. A kill between any two steps leaves the log as it was
//! before, or a shorter one with the same batches.

use std::{io, path::Path};

use super::{Gone, Log, LogError, Segment, at, retention, segment, segment::Trust, sync_dir};
use crate::batch::Head;

/// What was taken of a leader's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedAsFollower {
    /// offset of the first record
    pub first_offset: i64,
    /// offset of the last record; one less than the first if no batch was whole
    pub last_offset: i64,
    /// largest timestamp, -1 without records
    pub max_timestamp: i64,
    /// bytes that were taken: those of whole batches
    pub bytes: usize,
}

/// The heads of the whole batches that some bytes begin with.
fn heads(bytes: &[u8]) -> Result<Vec<Head>, String> {
    let (mut heads, mut position, mut next) = (Vec::new(), 0, 0);
    while let Some(head) = bytes.get(position..).and_then(Head::parse) {
        let here = &bytes[position..];
        // The magic lies at the same place in all formats.
        if head.magic != 2 {
            return Err(format!("batch at byte {position} has magic {}", head.magic));
        }
        if head.size > segment::MAX_BATCH_BYTES {
            return Err(format!("batch at byte {position} has {} bytes", head.size));
        }
        if head.size > here.len() {
            break;
        }
        if !head.crc_ok(here) {
            return Err(format!("batch at byte {position} has a wrong checksum"));
        }
        let last = head.base_offset.checked_add(head.last_offset_delta.into()).filter(|l| *l < i64::MAX);
        let Some(last) = last.filter(|_| head.base_offset >= next && head.last_offset_delta >= 0 && head.count >= 0) else {
            return Err(format!("batch at byte {position} has offset {}, expected {next} or more", head.base_offset));
        };
        next = last + 1;
        position += head.size;
        heads.push(head);
    }
    // Fewer bytes than a head, or a length that none has.
    match bytes.get(position..).is_some_and(|rest| rest.len() >= crate::batch::HEAD_BYTES && Head::parse(rest).is_none()) {
        true => Err(format!("batch at byte {position} has an impossible length")),
        false => Ok(heads),
    }
}

impl Log {
    fn bad_data(&self, why: String) -> LogError {
        at(&self.dir)(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Appends batches with the offsets and epochs that a leader gave them. A last one that is not whole is left out.
    ///
    /// They must begin at the end of the log or behind it, since compaction leaves gaps. Only into an empty log they may
    /// begin below: the leader's first record may lie within a batch. Batches that are damaged or not in order are an error
    /// that [`LogError::is_bad_data`] tells from one of the disk; nothing is appended then.
    pub fn append_as_follower(&mut self, bytes: &[u8]) -> Result<AppendedAsFollower, LogError> {
        let heads = heads(bytes).map_err(|why| self.bad_data(why))?;
        let end = self.end_offset();
        let (Some(first), Some(last)) = (heads.first(), heads.last()) else {
            return Ok(AppendedAsFollower { first_offset: end, last_offset: end - 1, max_timestamp: -1, bytes: 0 });
        };
        if first.base_offset < end {
            let start = self.start;
            if self.size() > 0 || start < end || first.last_offset() < end {
                return Err(self.bad_data(format!("batch begins at offset {}, the log ends at {end}", first.base_offset)));
            }
            self.truncate_fully_and_start_at(first.base_offset)?;
            self.start = start;
        }
        let taken = AppendedAsFollower {
            first_offset: first.base_offset,
            last_offset: last.last_offset(),
            max_timestamp: heads.iter().map(|h| h.max_timestamp).max().unwrap_or(-1),
            bytes: heads.iter().map(|h| h.size).sum(),
        };
        self.write(&bytes[..taken.bytes], &heads)?;
        Ok(taken)
    }

    /// Cuts off the batch that holds an offset, and all that follows. Says whether there was any.
    ///
    /// As Kafka's UnifiedLog.truncateTo, but where the offset lies within a batch the log ends where that batch began, so
    /// that it can be fetched again: `end_offset` says which. Below the first segment, the log begins anew at the offset.
    ///
    /// A [`Slice`](super::Slice) of what is cut off fails to be read from then on; it never shows other bytes. Where one is
    /// alive, what is appended next goes into another file. Slices must therefore be kept as long as they are read from.
    ///
    /// The caller writes the recovery points before it appends: the one on the disk may lie above the end now, and a start
    /// after a power cut believes what is below.
    pub fn truncate_to(&mut self, offset: i64) -> Result<bool, LogError> {
        if offset < 0 {
            return Err(at(&self.dir)(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot be truncated to offset {offset}"))));
        }
        let end = self.end_offset();
        if offset >= end {
            // A leader that has written nothing leaves an epoch behind.
            if self.epochs.truncate_from(end) {
                self.epochs.write()?;
            }
            return Ok(false);
        }
        if offset < self.segments[0].base() {
            self.truncate_fully_and_start_at(offset)?;
            return Ok(true);
        }
        self.truncations += 1;
        while self.segments.len() > 1 && self.active().base() > offset {
            self.drop_last()?;
        }
        let shared = self.active().truncate_to(offset)?;
        let end = self.end_offset();
        tracing::info!("{}: truncated to offset {end}", self.dir.display());
        self.start = self.start.min(end);
        self.recovery_point = self.recovery_point.min(end);
        self.cleaned = self.cleaned.min(end);
        if self.epochs.truncate_from(end) {
            self.epochs.write()?;
        }
        if shared && self.active().base() < end {
            self.roll(end)?;
        } else if shared {
            let gone = retire(self.active())?;
            *self.active() = self.new_segment(end)?;
            drop(Gone(gone));
        }
        self.remove_snapshots(|offset| offset > end)?;
        // Cutting does not bring producers that expired back.
        if !self.producers.is_empty() {
            self.reload_producers()?;
        }
        sync_dir(&self.dir)?;
        Ok(true)
    }

    /// Empties the log, which begins at an offset from then on: the leader has deleted what this one ends with. The old files
    /// are removed when the result is dropped.
    pub fn truncate_fully_and_start_at(&mut self, offset: i64) -> Result<Option<Gone>, LogError> {
        if offset < 0 {
            return Err(at(&self.dir)(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot begin at offset {offset}"))));
        }
        self.truncations += 1;
        let had = self.size();
        let mut gone = Vec::new();
        // The last one first: what a kill leaves is a shorter log.
        while let Some(segment) = self.segments.last() {
            let slots = retire(segment)?;
            gone.extend(slots);
            if self.segments.len() == 1 {
                break;
            }
            self.segments.pop();
        }
        self.epochs.clear();
        self.epochs.write()?;
        self.producers.clear();
        self.remove_snapshots(|_| true)?;
        let new = self.new_segment(offset)?;
        self.segments = vec![new];
        self.start = offset;
        self.recovery_point = offset;
        self.cleaned = 0;
        self.unsynced_bytes = 0;
        tracing::info!("{}: emptied, begins at offset {offset}", self.dir.display());
        Ok((had > 0).then_some(Gone(gone)))
    }

    /// Removes the last segment.
    fn drop_last(&mut self) -> Result<(), LogError> {
        let gone = self.segments.last().map(retire).transpose()?;
        self.segments.pop();
        drop(gone.map(Gone));
        Ok(())
    }

    /// Puts an empty segment at the end.
    pub(super) fn begin(&mut self, base: i64) -> Result<(), LogError> {
        let new = self.new_segment(base)?;
        self.segments.push(new);
        Ok(())
    }

    fn new_segment(&self, base: i64) -> Result<Segment, LogError> {
        let (new, _) = Segment::open(&self.dir, base, Trust::Below(base), self.limits, &self.files, &mut |_| {})?;
        // Or the segment's file could be gone after a power cut, with acknowledged records in it.
        sync_dir(&self.dir)?;
        Ok(new)
    }
}

/// Gives the files of a segment names under which they wait for their removal, and no other file ever was: a new segment
/// may get the old names.
pub(super) fn retire(segment: &Segment) -> Result<Vec<std::sync::Arc<super::Slot>>, LogError> {
    let mut gone = Vec::new();
    // The log last: without its indexes it is opened all the same.
    for slot in segment.files().into_iter().rev() {
        let path = slot.path();
        let mut to = path.clone().into_os_string();
        to.push(format!(".{}{}", uuid::Uuid::new_v4().simple(), retention::DELETED));
        slot.rename(Path::new(&to)).map_err(at(&path))?;
        gone.push(slot.clone());
    }
    segment.remove_aborted()?;
    Ok(gone)
}
