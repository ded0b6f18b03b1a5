//! A partition's log: Kafka's segment files in a directory `topic-partition`.
//!
//! Invariant: offsets grow without a gap from one batch to the next within what was appended here; a torn tail is
//! cut off when the log is opened, and the indexes agree with the log.

mod segment;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::batch::{self, Head};
use segment::Segment;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LogError {
    /// the file
    pub path: PathBuf,
    /// the system's reason
    pub source: io::Error,
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError { path: path.to_owned(), source }
}

/// Sizes that a log keeps to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// a segment is closed before it is longer than this
    pub segment_bytes: u32,
    /// bytes between two index entries
    pub index_interval_bytes: u32,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    limits: Limits,
    /// closed segments and the active one, by base offset; never empty
    segments: Vec<Segment>,
}

/// A place that a time stamp was found at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// offset
    pub offset: i64,
    /// the record's time stamp
    pub timestamp: i64,
}

impl Log {
    /// Opens a directory, or makes it. Segments that were being written when the process ended are checked batch by
    /// batch, and cut where a batch is not whole.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LogError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let mut bases = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            if let Some(base) =
                name.to_str().and_then(|n| n.strip_suffix(".log")).filter(|n| n.len() == 20).and_then(|n| n.parse::<i64>().ok())
            {
                bases.push(base);
            }
        }
        bases.sort_unstable();
        let last = bases.len().saturating_sub(1);
        let mut segments = Vec::new();
        for (i, base) in bases.iter().enumerate() {
            segments.push(Segment::open(dir, *base, i == last, limits)?);
        }
        if segments.is_empty() {
            segments.push(Segment::open(dir, 0, true, limits)?);
        }
        Ok(Self { dir: dir.to_owned(), limits, segments })
    }

    fn active(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Offset of the first record that is kept.
    pub fn start_offset(&self) -> i64 {
        self.segments[0].base()
    }

    /// Offset that the next record gets.
    pub fn end_offset(&self) -> i64 {
        self.segments[self.segments.len() - 1].next_offset()
    }

    /// Appends validated batches. Returns the offset of the first record.
    pub fn append(&mut self, bytes: &mut [u8], heads: &[Head], leader_epoch: i32) -> Result<i64, LogError> {
        let first = self.end_offset();
        let mut next = first;
        let mut rest = &mut *bytes;
        let mut placed = Vec::with_capacity(heads.len());
        for head in heads {
            let (one, tail) = rest.split_at_mut(head.size);
            batch::place(one, next, leader_epoch);
            placed.push(Head { base_offset: next, leader_epoch, ..*head });
            next += i64::from(head.last_offset_delta) + 1;
            rest = tail;
        }
        let mut from = 0;
        for head in &placed {
            let too_long = self.active().size() as u64 + head.size as u64 > u64::from(self.limits.segment_bytes);
            // Offsets in an index are relative and have 32 bits.
            let too_far = head.last_offset() - self.active().base() > i64::from(i32::MAX);
            if self.active().size() > 0 && (too_long || too_far) {
                self.active().seal()?;
                let new = Segment::open(&self.dir, head.base_offset, true, self.limits)?;
                self.segments.push(new);
            }
            self.active().append(&bytes[from..from + head.size], head)?;
            from += head.size;
        }
        Ok(first)
    }

    fn segment_of(&self, offset: i64) -> usize {
        self.segments.partition_point(|s| s.base() <= offset).saturating_sub(1)
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`, but at least one.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Vec<u8>, LogError> {
        let mut out = Vec::new();
        let mut wanted = offset;
        for segment in &self.segments[self.segment_of(offset)..] {
            segment.read(wanted, max_bytes, &mut out)?;
            if out.len() >= max_bytes {
                break;
            }
            wanted = segment.next_offset();
            if !out.is_empty() && wanted < self.end_offset() {
                // The next segment would be cut to whole batches again; one segment per answer is enough.
                break;
            }
        }
        Ok(out)
    }

    /// The first record whose time stamp is at least this.
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<Found>, LogError> {
        for segment in &self.segments {
            if segment.max_timestamp() >= timestamp
                && let Some(found) = segment.offset_for_timestamp(timestamp)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Writes all to the disk.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.active().flush()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|s| s.size() as u64).sum()
    }
}
