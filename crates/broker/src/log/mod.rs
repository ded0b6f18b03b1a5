//! A partition's log: Kafka's segment files in a directory `topic-partition`.
//!
//! Invariant: offsets grow, without a gap from one batch to the next within what was appended here as a leader; a torn
//! tail is cut off when the log is opened, and the indexes agree with the log. A directory is open once. Bytes in a file
//! that a [`Slice`] may name are never replaced: see [`Log::truncate_to`].

pub mod checkpoints;
mod cleaner;
mod compaction;
mod epochs;
mod files;
mod follow;
pub(crate) mod fuzz;
mod index;
mod owned;
mod producers;
mod recent;
mod retention;
mod scan;
mod segment;
mod segment_files;
mod slice;
mod snapshots;
mod swap;
mod sync;
mod transactions;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::BytesMut;

use crate::batch::{self, Head};
pub use cleaner::{Cleaned, Compaction, Dirt, Plan};
pub use compaction::OffsetMap;
pub use epochs::Epoch;
use epochs::Epochs;
pub use files::Files;
use files::Slot;
pub use follow::AppendedAsFollower;
use owned::Owned;
use producers::Producers;
pub use producers::{Duplicate, Producer, ProducerQuota, Remembered};
pub use retention::{Gone, Retention};
use segment::{Segment, Trust};
pub use segment::{locate, now_ms};
pub use slice::Slice;
pub use sync::{Synced, Unsynced};
pub use transactions::Aborted;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LogError {
    /// the file
    pub path: PathBuf,
    /// the system's reason
    pub source: io::Error,
}

impl LogError {
    /// Whether the bytes were wrong, not the disk: of a batch that is damaged or not in order.
    pub fn is_bad_data(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    }
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError { path: path.to_owned(), source }
}

/// Sizes that a log keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// a segment is closed before it is longer than this
    pub segment_bytes: u32,
    /// bytes between two index entries
    pub index_interval_bytes: u32,
    /// a segment is closed when it has been written to for longer than this, in milliseconds
    pub segment_ms: i64,
}

/// What is known of a log when it is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    /// everything reached the disk before the last stop
    pub clean: bool,
    /// what is below this offset did; without it, all but the last segment
    pub point: Option<i64>,
    /// the first offset that is to be read
    pub start: i64,
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
    start: i64,
    /// what is below is on the disk
    recovery_point: i64,
    /// bytes that were appended since the disk was last waited for
    unsynced_bytes: u64,
    /// how often records were cut off at the end
    truncations: u64,
    epochs: Epochs,
    producers: Producers,
    /// offsets of the producer snapshots in the directory
    snapshots: BTreeSet<i64>,
    /// it is compacted up to here
    cleaned: i64,
    /// a compaction has failed
    uncleanable: bool,
    owned: Owned,
}

/// A place that a time stamp was found at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// offset
    pub offset: i64,
    /// the record's time stamp
    pub timestamp: i64,
}

fn bases(dir: &Path) -> Result<Vec<i64>, LogError> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(retention::DELETED) {
            // A stop came between the end of a segment and the removal of its files.
            fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
        if let Some(base) = name.strip_suffix(".log").filter(|n| n.len() == 20).and_then(|n| n.parse::<i64>().ok()) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

impl Log {
    /// Opens a directory, or makes it, with descriptors of its own. Only the last segment is checked.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LogError> {
        Self::open_in(dir, limits, &Files::new(OWN_FILES), Recovery::default())
    }

    /// Opens a directory, or makes it. What may not have reached the disk is checked batch by batch, and cut where a batch
    /// is not whole, together with all that follows.
    pub fn open_in(dir: &Path, limits: Limits, files: &Arc<Files>, recovery: Recovery) -> Result<Self, LogError> {
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(at(dir))?;
            dir.parent().map_or(Ok(()), sync_dir)?;
        }
        let owned = Owned::new(dir)?;
        swap::recover(dir)?;
        let bases = bases(dir)?;
        let mut epochs = Epochs::read(dir)?;
        let before = epochs.list().to_vec();
        let point = recovery.point.or(bases.last().copied()).unwrap_or(0);
        let mut segments: Vec<Segment> = Vec::new();
        for (i, base) in bases.iter().enumerate() {
            let on_disk = recovery.clean || bases.get(i + 1).is_some_and(|next| *next <= point);
            let trust = if on_disk { Trust::All } else { Trust::Below(point) };
            let mut seen = |h: &Head| {
                epochs.assign(h.leader_epoch, h.base_offset);
            };
            let (mut segment, cut) = Segment::open(dir, *base, trust, limits, files, &mut seen)?;
            if recovery.clean || i + 1 < bases.len() {
                segment.close()?;
            }
            segments.push(segment);
            if cut {
                for base in &bases[i + 1..] {
                    tracing::warn!("{}: segment {base} is removed: it comes after a batch that is not whole", dir.display());
                    retention::remove(dir, *base)?;
                }
                break;
            }
        }
        if segments.is_empty() {
            segments.push(Segment::open(dir, recovery.start, Trust::All, limits, files, &mut |_| {})?.0);
            sync_dir(dir)?;
        }
        let mut this = Self {
            dir: dir.to_owned(),
            files: files.clone(),
            limits,
            start: recovery.start.max(segments[0].base()),
            segments,
            recovery_point: point,
            unsynced_bytes: 0,
            truncations: 0,
            epochs,
            producers: Producers::default(),
            snapshots: BTreeSet::new(),
            cleaned: 0,
            uncleanable: false,
            owned,
        };
        let end = this.end_offset();
        this.start = this.start.min(end);
        this.recovery_point = if recovery.clean { end } else { point.min(end) };
        this.epochs.truncate_from(end);
        if this.epochs.list() != before {
            this.epochs.write()?;
        }
        this.load_producers(recovery.clean)?;
        Ok(this)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the directory another name. Readers that have begun still find the files.
    pub fn rename(&mut self, to: &Path) -> Result<(), LogError> {
        fs::rename(&self.dir, to).map_err(at(&self.dir))?;
        self.segments.iter_mut().for_each(|s| s.moved(to));
        self.epochs.moved(to);
        self.dir = to.to_owned();
        to.parent().map_or(Ok(()), sync_dir)?;
        self.owned.moved(to)
    }

    /// Goes by other sizes from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Offset up to which it is on the disk.
    pub fn recovery_point(&self) -> i64 {
        self.recovery_point
    }

    /// The last epoch up to one, and where it ended; see [`Epochs::end_of`].
    pub fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.epochs.end_of(epoch, self.end_offset())
    }

    /// The leader epochs that its records are from.
    pub fn epochs(&self) -> &[Epoch] {
        self.epochs.list()
    }

    fn active(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Offset of the first record that is kept.
    pub fn start_offset(&self) -> i64 {
        self.start
    }

    /// Whether the first record that is kept is not the first of its segment.
    pub fn start_is_within(&self) -> bool {
        self.start > self.segments[0].base()
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
        self.write(bytes, &placed)?;
        Ok(first)
    }

    /// Writes batches that have their offsets and epochs.
    fn write(&mut self, bytes: &[u8], heads: &[Head]) -> Result<(), LogError> {
        let mut from = 0;
        let mut new_epoch = false;
        let mut write = || {
            for head in heads {
                self.write_one(&bytes[from..from + head.size], head)?;
                new_epoch |= self.epochs.assign(head.leader_epoch, head.base_offset);
                from += head.size;
            }
            Ok(())
        };
        let written = write();
        // Of the batches before one that failed too: they are in the log.
        if new_epoch {
            self.epochs.write()?;
        }
        written
    }

    fn write_one(&mut self, bytes: &[u8], head: &Head) -> Result<(), LogError> {
        let too_long = self.active().size() as u64 + head.size as u64 > u64::from(self.limits.segment_bytes);
        // Offsets in an index are relative and have 32 bits.
        let too_far = head.last_offset() - self.active().base() > i64::from(i32::MAX);
        let too_old = self.active().open_for(head.max_timestamp) > self.limits.segment_ms;
        if too_far || self.active().size() > 0 && (too_long || too_old) {
            self.roll(head.base_offset)?;
        }
        self.active().append(bytes, head)?;
        self.unsynced_bytes += head.size as u64;
        if head.producer_id >= 0 { self.note_producer(head, bytes) } else { Ok(()) }
    }

    /// Begins a new segment. The old one reaches the disk later: see [`Log::unsynced`].
    fn roll(&mut self, base: i64) -> Result<(), LogError> {
        self.active().close()?;
        self.take_snapshot();
        self.begin(base)
    }

    fn segment_of(&self, offset: i64) -> usize {
        self.segments.partition_point(|s| s.base() <= offset).saturating_sub(1)
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`, of one segment. If the first one is larger,
    /// it alone where `at_least_one`, else nothing.
    pub fn slice(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Option<Slice>, LogError> {
        self.slice_until(offset, max_bytes, at_least_one, i64::MAX)
    }

    /// The same, but nothing from `until` on, which is the first offset of a batch or within one that is left out as a whole.
    pub fn slice_until(&self, offset: i64, max_bytes: usize, at_least_one: bool, until: i64) -> Result<Option<Slice>, LogError> {
        for segment in &self.segments[self.segment_of(offset)..] {
            // The offset may lie in a gap behind a segment's last record.
            if offset < segment.next_offset() {
                return segment.slice(offset, max_bytes, at_least_one, until);
            }
        }
        Ok(None)
    }

    /// Whether the place of an offset is found without reading files.
    pub fn is_recent(&self, offset: i64) -> bool {
        self.segments.last().is_some_and(|s| s.is_recent(offset))
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
        let mut from = self.start;
        while let Some((head, batch)) = self.batch_for_timestamp(timestamp, from)? {
            if let Some(found) = locate(&head, &batch, timestamp, from)? {
                return Ok(Some(found));
            }
            from = head.last_offset() + 1;
        }
        Ok(None)
    }

    /// The first batch with a record from an offset on that is as late as this. What [`locate`] does with it takes longer,
    /// and does not need the log.
    pub fn batch_for_timestamp(&self, timestamp: i64, from: i64) -> Result<Option<(Head, Slice)>, LogError> {
        let from = from.max(self.start);
        for segment in &self.segments {
            if segment.max_timestamp() >= timestamp
                && segment.next_offset() > from
                && let Some(found) = segment.batch_for_timestamp(timestamp, from)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The largest time stamp of a record, -1 if there is none.
    pub fn max_timestamp(&self) -> i64 {
        let kept = self.segments.iter().filter(|s| s.next_offset() > self.start);
        kept.map(Segment::max_timestamp).max().unwrap_or(-1)
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|s| s.size() as u64).sum()
    }
}
