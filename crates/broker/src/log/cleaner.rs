//! Compaction of a log: segments that are closed are written anew without what later records of the same keys supersede.
//!
//! Invariant: what is at or above the high watermark, a transaction that is not complete, or the active segment, is not
//! touched. A group of segments gives way to one in steps that a start can finish: `.cleaned` files are incomplete and removed;
//! `.swap` files are complete and on the disk, and take the place of the segments that they were made of. Source: LogCleaner and
//! LocalLog.replaceSegments of Kafka 3.9.

use std::{
    collections::HashMap,
    fs, io,
    iter::Peekable,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Files, Gone, Limits, Log, LogError, Segment, Slot, at,
    compaction::{self, OffsetMap, Outcome, Policy},
    segment::{MAX_BATCH_BYTES, Trust},
    sync_dir,
    transactions::Aborted,
};
use crate::batch::{HEAD_BYTES, Head};

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;
/// Ending of files that are being written.
pub const CLEANED: &str = ".cleaned";
/// Ending of files that are complete.
pub const SWAP: &str = ".swap";
/// Files of a segment; the log is the last to be renamed, and says that the others are.
pub const ENDINGS: [&str; 4] = ["index", "timeindex", "txnindex", "log"];

/// How a topic is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// `cleanup.policy` has `compact`
    pub enabled: bool,
    /// `min.cleanable.dirty.ratio`, in millionths
    pub min_dirty_millionths: u32,
    /// `min.compaction.lag.ms`
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_lag_ms: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

impl Default for Compaction {
    /// Kafka's defaults.
    fn default() -> Self {
        Self { enabled: false, min_dirty_millionths: 500_000, min_lag_ms: 0, max_lag_ms: i64::MAX, delete_retention_ms: 86_400_000 }
    }
}

/// How much of a log is not compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirt {
    /// first offset that is not compacted
    pub first_dirty: i64,
    /// first offset that may not be compacted yet
    pub first_uncleanable: i64,
    /// part of the bytes that could be compacted, in millionths
    pub millionths: u32,
    /// records wait for longer than `max.compaction.lag.ms`
    pub overdue: bool,
}

impl Dirt {
    /// Whether it is time.
    pub fn is_due(&self, settings: &Compaction) -> bool {
        self.first_dirty < self.first_uncleanable && (self.overdue || self.millionths > settings.min_dirty_millionths)
    }
}

/// A segment that is read.
#[derive(Debug, Clone)]
struct Source {
    base: i64,
    next: i64,
    size: u32,
    index_bytes: u64,
    created: i64,
    slot: Arc<Slot>,
}

/// A log on its way to be compacted: what has to be known of it without its lock.
#[derive(Debug)]
pub struct Plan {
    dir: PathBuf,
    files: Arc<Files>,
    limits: Limits,
    truncations: u64,
    dirt: Dirt,
    sources: Vec<Source>,
    producers: HashMap<i64, i64>,
    aborted: Vec<Aborted>,
    delete_retention_ms: i64,
}

/// A segment that is complete, and those whose place it takes.
#[derive(Debug)]
pub struct Cleaned {
    segment: Segment,
    sources: Vec<Source>,
    truncations: u64,
}

/// A file of a segment.
pub fn file(dir: &Path, base: i64, ending: &str, suffix: &str) -> PathBuf {
    dir.join(format!("{base:020}.{ending}{suffix}"))
}

/// Removes a file that need not be there.
pub fn remove_if_there(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}

impl Source {
    /// Shows all batches, each in memory as a whole.
    fn each(&self, stop: &AtomicBool, see: &mut dyn FnMut(&Head, &[u8]) -> io::Result<bool>) -> Result<(), LogError> {
        let path = self.slot.path();
        let mut walk = || -> io::Result<()> {
            let (mut piece, mut begins, mut position) = (Vec::new(), 0u64, 0u64);
            let size = u64::from(self.size);
            while position < size {
                if stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let mut want = HEAD_BYTES;
                let head = loop {
                    let within = (position - begins) as usize;
                    if let Some(head) = piece.get(within..).and_then(Head::parse) {
                        if head.size > MAX_BATCH_BYTES || position + head.size as u64 > size || head.magic != 2 {
                            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position}")));
                        }
                        if piece.len() - within >= head.size {
                            break head;
                        }
                        want = head.size;
                    }
                    if size - position < HEAD_BYTES as u64 || (begins == position && piece.len() >= want) {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position}")));
                    }
                    piece.resize((want.max(PIECE) as u64).min(size - position) as usize, 0);
                    piece.shrink_to(PIECE.max(want));
                    begins = position;
                    std::os::unix::fs::FileExt::read_exact_at(&*self.slot.file()?, &mut piece, position)?;
                };
                let within = (position - begins) as usize;
                // Damage that is written anew would have a right checksum.
                if !head.crc_ok(&piece[within..]) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position}: wrong checksum")));
                }
                if !see(&head, &piece[within..within + head.size])? {
                    return Ok(());
                }
                position += head.size as u64;
            }
            Ok(())
        };
        walk().map_err(at(&path))
    }
}

impl Log {
    /// Offset up to which it is compacted; see [`Log::set_cleaned_to`].
    pub fn cleaned_to(&self) -> i64 {
        self.cleaned
    }

    /// It is compacted up to an offset, as a checkpoint says or [`Plan::build`] found.
    pub fn set_cleaned_to(&mut self, offset: i64) {
        self.cleaned = if offset > self.end_offset() { 0 } else { offset };
    }

    /// A compaction has failed: [`Log::dirt`] finds none until it is opened again.
    pub fn leave_uncleaned(&mut self) {
        self.uncleanable = true;
    }

    /// How much could be compacted. Nothing at or above the high watermark is.
    pub fn dirt(&mut self, settings: &Compaction, high_watermark: i64, now: i64) -> Dirt {
        let first_dirty = self.cleaned.max(self.start.min(self.segments[self.segments.len() - 1].base()));
        let stable = self.first_unstable_offset(high_watermark).unwrap_or(high_watermark).min(high_watermark);
        let closed = &self.segments[..self.segments.len() - 1];
        let dirty = || closed.iter().filter(|s| s.next_offset() > first_dirty);
        let active = self.segments[self.segments.len() - 1].base();
        let too_young = dirty().find(|s| settings.min_lag_ms > 0 && s.max_timestamp() > now.saturating_sub(settings.min_lag_ms));
        let stable = if self.uncleanable { first_dirty } else { stable };
        let first_uncleanable = too_young.map_or(active, Segment::base).min(active).min(stable).max(first_dirty);
        let size = |s: &Segment| u64::from(s.size());
        let clean: u64 = closed.iter().filter(|s| s.next_offset() <= first_dirty).map(size).sum();
        // As Kafka, whole segments count, but for one that goes beyond what may be compacted.
        let cleanable: u64 = dirty().filter(|s| s.next_offset() <= first_uncleanable).map(size).sum();
        let oldest = dirty().filter(|s| s.next_offset() <= first_uncleanable).filter_map(Segment::first_timestamp).min();
        let overdue = oldest.is_some_and(|t| now.saturating_sub(t) > settings.max_lag_ms);
        let millionths = if cleanable == 0 { 0 } else { (cleanable.saturating_mul(1_000_000) / (clean + cleanable)) as u32 };
        Dirt { first_dirty, first_uncleanable, millionths, overdue: overdue && cleanable > 0 }
    }

    /// What is needed to compact it without its lock.
    pub fn plan_cleaning(&mut self, settings: &Compaction, high_watermark: i64, now: i64) -> Plan {
        let dirt = self.dirt(settings, high_watermark, now);
        let closed = &self.segments[..self.segments.len() - 1];
        let sources = closed.iter().filter(|s| s.base() < dirt.first_uncleanable && s.next_offset() <= dirt.first_uncleanable);
        let source = |s: &Segment| Source {
            base: s.base(),
            next: s.next_offset(),
            size: s.size(),
            index_bytes: s.index_bytes(),
            created: s.created(),
            slot: s.files()[0].clone(),
        };
        Plan {
            dir: self.dir.clone(),
            files: self.files.clone(),
            limits: self.limits,
            truncations: self.truncations,
            dirt,
            sources: sources.map(source).collect(),
            producers: self.producers.iter().filter_map(|(id, p)| Some((id, p.batches().last()?.last_offset))).collect(),
            aborted: self.aborted_transactions(self.segments[0].base(), i64::MAX),
            delete_retention_ms: settings.delete_retention_ms,
        }
    }

    /// Puts a compacted segment in the place of those that it was made of. `None` if the log has changed so that it does not
    /// fit any more; then nothing is done. The old files are removed when the result is dropped.
    pub fn replace(&mut self, cleaned: Cleaned) -> Result<Option<Gone>, LogError> {
        let Cleaned { mut segment, sources, truncations } = cleaned;
        let first = self.segments.iter().position(|s| s.base() == segment.base());
        let range = first.and_then(|first| Some((first, self.segments.get(first..first + sources.len())?)));
        let fits = |s: &[Segment]| s.iter().zip(&sources).all(|(s, source)| Arc::ptr_eq(s.files()[0], &source.slot));
        let Some((first, _)) = range.filter(|(_, s)| truncations == self.truncations && self.dir == segment.dir() && fits(s)) else {
            remove_cleaned(&self.dir, segment.base())?;
            return Ok(None);
        };
        segment.rename(SWAP)?;
        sync_dir(&self.dir)?;
        // From here on a start would finish it. What fails now leaves the old files under their new names, in use.
        let mut gone = Vec::new();
        let mut swap = || -> Result<(), LogError> {
            for old in &self.segments[first..first + sources.len()] {
                gone.extend(super::follow::retire(old)?);
            }
            segment.rename("")?;
            sync_dir(&self.dir)
        };
        if let Err(e) = swap() {
            std::mem::forget(Gone(gone));
            return Err(e);
        }
        self.segments.splice(first..first + sources.len(), [segment]);
        self.prune_snapshots(self.recovery_point.min(self.end_offset()))?;
        Ok(Some(Gone(gone)))
    }
}

impl Plan {
    /// What was found to be dirty.
    pub fn dirt(&self) -> Dirt {
        self.dirt
    }

    /// Reads the dirty part, within so many bytes of memory. What does not fit is for the next time.
    pub fn build(&self, bytes: usize, stop: &AtomicBool) -> Result<OffsetMap, LogError> {
        let dirty = || self.sources.iter().filter(|s| s.next > self.dirt.first_dirty);
        let mut keys = 0usize;
        for source in dirty() {
            source.each(stop, &mut |head, _| {
                keys = keys.saturating_add(head.count.max(0) as usize);
                Ok(true)
            })?;
        }
        let mut map = OffsetMap::new(keys, bytes);
        let mut full = false;
        for source in dirty() {
            source.each(stop, &mut |head, batch| {
                if head.last_offset() >= self.dirt.first_dirty {
                    full = !compaction::note(&mut map, batch, head, self.dirt.first_dirty, &self.aborted)?;
                }
                Ok(!full)
            })?;
            if full {
                break;
            }
            map.complete(source.next);
        }
        Ok(map)
    }

    /// Compacts what the map covers, and hands each segment that is complete to `replace`, which takes the log's lock. Ends
    /// early where `replace` says `false`. Returns the offset up to which the log is compacted then.
    pub fn clean(
        &self,
        map: &OffsetMap,
        now: i64,
        stop: &AtomicBool,
        replace: &mut dyn FnMut(Cleaned) -> Result<bool, LogError>,
    ) -> Result<Option<i64>, LogError> {
        // Those behind the map's last offset stay as they are.
        let mut rest = self.sources.iter().filter(|s| s.base <= map.latest()).peekable();
        while let Some(first) = rest.next() {
            let cleaned = self.clean_group(first, &mut rest, map, now, stop);
            if cleaned.is_err() {
                remove_cleaned(&self.dir, first.base)?;
            }
            if !replace(cleaned?)? {
                return Ok(None);
            }
        }
        Ok(Some(map.next()))
    }

    /// Makes one segment of several: as long as what is left of them, with the next, is not larger than a segment may be.
    fn clean_group<'a>(
        &self,
        first: &'a Source,
        rest: &mut Peekable<impl Iterator<Item = &'a Source>>,
        map: &OffsetMap,
        now: i64,
        stop: &AtomicBool,
    ) -> Result<Cleaned, LogError> {
        let base = first.base;
        remove_cleaned(&self.dir, base)?;
        let mut segment = Segment::open_as(&self.dir, base, CLEANED, Trust::Below(base), self.limits, &self.files, &mut |_| {})?.0;
        let mut sources = Vec::new();
        let mut next = Some(first);
        while let Some(source) = next {
            self.clean_into(&mut segment, source, map, now, stop)?;
            sources.push(source.clone());
            next = rest.next_if(|s| {
                u64::from(segment.size()) + u64::from(s.size) <= self.limits.segment_bytes.into()
                    && segment.index_bytes() + s.index_bytes <= MAX_INDEX_BYTES
                    && s.next - base <= i64::from(i32::MAX)
            });
        }
        let last = sources.last().map_or(base, |s| s.next);
        let aborted = self.aborted.iter().filter(|a| (base..last).contains(&a.last_offset));
        segment.set_aborted(aborted.copied().collect())?;
        segment.close()?;
        // Retention goes by it where records have no timestamps.
        segment.set_created(sources.iter().map(|s| s.created).max().unwrap_or(0))?;
        segment.sync()?;
        Ok(Cleaned { segment, sources, truncations: self.truncations })
    }

    fn clean_into(&self, segment: &mut Segment, source: &Source, map: &OffsetMap, now: i64, stop: &AtomicBool) -> Result<(), LogError> {
        let policy = Policy { map, now, delete_retention_ms: self.delete_retention_ms, producers: &self.producers, aborted: &self.aborted };
        source.each(stop, &mut |head, batch| {
            match compaction::compact(batch, head, &policy)? {
                Outcome::Drop => {}
                Outcome::Keep => segment.append(batch, head).map_err(|e| e.source)?,
                Outcome::Replace(batch) => {
                    let head = Head::parse(&batch).ok_or(io::ErrorKind::InvalidData)?;
                    segment.append(&batch, &head).map_err(|e| e.source)?;
                }
            }
            // Compressed anew, a batch may be larger than it was; what was of the largest size then has no place.
            if segment.size() > i32::MAX as u32 {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the compacted segment would be larger than 2 GiB"));
            }
            Ok(true)
        })
    }
}

/// `log.index.size.max.bytes` of Kafka.
const MAX_INDEX_BYTES: u64 = 10 * 1024 * 1024;

fn remove_cleaned(dir: &Path, base: i64) -> Result<(), LogError> {
    ENDINGS.iter().try_for_each(|ending| remove_if_there(&file(dir, base, ending, CLEANED)))
}
