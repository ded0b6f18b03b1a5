//! A partition's log: Kafka's segment files in a directory `topic-partition`.
//!
//! Invariant: offsets grow without a gap from one batch to the next within what was appended here; a torn tail is
//! cut off when the log is opened, and the indexes agree with the log.

mod files;
mod segment;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::BytesMut;

use crate::batch::{self, Head};
pub use files::Files;
use files::Slot;
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

/// Part of a segment: whole batches. It takes neither memory nor a descriptor.
#[derive(Debug, Clone)]
pub struct Slice {
    file: Arc<Slot>,
    position: u64,
    len: usize,
}

impl Slice {
    /// The file, which the caller lets go of soon.
    pub fn file(&self) -> io::Result<Arc<fs::File>> {
        self.file.file()
    }
    /// Where it begins.
    pub fn position(&self) -> u64 {
        self.position
    }
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Reads it behind what is in a buffer.
    pub fn read_into(&self, out: &mut BytesMut) -> io::Result<()> {
        let start = out.len();
        out.resize(start + self.len, 0);
        std::os::unix::fs::FileExt::read_exact_at(&*self.file()?, &mut out[start..], self.position)
    }

    /// Part of any file.
    #[cfg(test)]
    pub fn of_file(path: &Path, position: u64, len: u64) -> Self {
        let file = Slot::create(&Files::new(10), path.to_owned()).expect("a file");
        Self { file: Arc::new(file), position, len: len as usize }
    }
}

/// Files that a log of its own keeps open.
const OWN_FILES: usize = 64;

fn sync_dir(dir: &Path) -> Result<(), LogError> {
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    files: Arc<Files>,
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
    /// Opens a directory, or makes it, with descriptors of its own.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LogError> {
        Self::open_in(dir, limits, &Files::new(OWN_FILES))
    }

    /// Opens a directory, or makes it. Segments that were being written when the process ended are checked batch by
    /// batch, and cut where a batch is not whole.
    pub fn open_in(dir: &Path, limits: Limits, files: &Arc<Files>) -> Result<Self, LogError> {
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(at(dir))?;
            dir.parent().map_or(Ok(()), sync_dir)?;
        }
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
            segments.push(Segment::open(dir, *base, i == last, limits, files)?);
        }
        if segments.is_empty() {
            segments.push(Segment::open(dir, 0, true, limits, files)?);
            sync_dir(dir)?;
        }
        Ok(Self { dir: dir.to_owned(), files: files.clone(), limits, segments })
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
                let new = Segment::open(&self.dir, head.base_offset, true, self.limits, &self.files)?;
                // Or the segment's file could be gone after a power cut, with acknowledged records in it.
                sync_dir(&self.dir)?;
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

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`, of one segment. If the first one is larger,
    /// it alone where `at_least_one`, else nothing.
    pub fn slice(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Option<Slice>, LogError> {
        for segment in &self.segments[self.segment_of(offset)..] {
            // The offset may lie in a gap behind a segment's last record.
            if offset < segment.next_offset() {
                return segment.slice(offset, max_bytes, at_least_one);
            }
        }
        Ok(None)
    }

    /// The same, but at least one batch, and read.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Vec<u8>, LogError> {
        let mut out = BytesMut::new();
        if let Some(slice) = self.slice(offset, max_bytes, true)? {
            slice.read_into(&mut out).map_err(at(&self.dir))?;
        }
        Ok(out.into())
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
