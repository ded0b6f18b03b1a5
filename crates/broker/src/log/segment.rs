//! One segment: `.log`, `.index` (relative offset, position) and `.timeindex` (time stamp, relative offset).
//!
//! An index entry names the last offset of the batch that begins at its position, as Kafka's do.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Files, Found, Limits, LogError, Slice, Slot, at};
use crate::batch::{HEAD_BYTES, Head, record_times};

/// How much is read at once when a segment is walked, in bytes.
const WALK_BYTES: usize = 256 * 1024;
/// Largest batch that a walk believes in, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub struct Segment {
    base: i64,
    path: PathBuf,
    log: Arc<Slot>,
    size: u32,
    next_offset: i64,
    max_timestamp: i64,
    /// last offset of the batch that `max_timestamp` is from
    max_timestamp_offset: i64,
    limits: Limits,
    /// (last offset of the batch relative to the base, position)
    index: Vec<(u32, u32)>,
    index_file: Slot,
    time_index_file: Slot,
    /// bytes of the time index
    time_index_size: u64,
    last_time_entry: i64,
    since_entry: u32,
}

fn open(files: &Arc<Files>, path: PathBuf) -> Result<Slot, LogError> {
    Slot::create(files, path.clone()).map_err(at(&path))
}

fn write_at(slot: &Slot, bytes: &[u8], position: u64) -> Result<(), LogError> {
    slot.file().and_then(|f| f.write_all_at(bytes, position)).map_err(at(slot.path()))
}

fn sync(slot: &Slot) -> Result<(), LogError> {
    slot.file().and_then(|f| f.sync_data()).map_err(at(slot.path()))
}

impl Segment {
    /// Opens the files of a segment. The active one is walked and cut; the indexes are made anew from what is there.
    pub fn open(dir: &Path, base: i64, active: bool, limits: Limits, files: &Arc<Files>) -> Result<Self, LogError> {
        let file = |ending: &str| dir.join(format!("{base:020}.{ending}"));
        let path = file("log");
        let log = Arc::new(open(files, path.clone())?);
        let length = log.file().and_then(|f| f.metadata()).map_err(at(&path))?.len();
        let mut this = Self {
            base,
            log,
            size: 0,
            next_offset: base,
            max_timestamp: -1,
            max_timestamp_offset: base,
            limits,
            index: Vec::new(),
            index_file: open(files, file("index"))?,
            time_index_file: open(files, file("timeindex"))?,
            time_index_size: 0,
            last_time_entry: -1,
            since_entry: 0,
            path,
        };
        for index in [&this.index_file, &this.time_index_file] {
            index.file().and_then(|f| f.set_len(0)).map_err(at(index.path()))?;
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let mut position = 0u32;
        while position < length {
            // A closed segment was synced before the next was begun: its checksums are trusted.
            let Some(head) = this.check(position, length, active)? else {
                break;
            };
            this.note(&head, position)?;
            position += head.size as u32;
            this.size = position;
        }
        if position < length {
            if !active {
                let e = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("damaged at byte {position} of {length}"));
                return Err(at(&this.path)(e));
            }
            tracing::warn!("{}: cut {} bytes off, from byte {position} on: no whole batch there", this.path.display(), length - position);
            let cut = this.log.file().and_then(|f| f.set_len(position.into()).and_then(|()| f.sync_all()));
            cut.map_err(at(&this.path))?;
        }
        Ok(this)
    }

    fn read_at(&self, out: &mut [u8], position: u32) -> Result<(), LogError> {
        self.log.file().and_then(|f| f.read_exact_at(out, position.into())).map_err(at(&self.path))
    }

    /// The head of the batch at a position, if a whole and right one is there that goes on with the offsets.
    fn check(&self, position: u32, length: u32, with_crc: bool) -> Result<Option<Head>, LogError> {
        let mut head = [0u8; HEAD_BYTES];
        if (length - position) < HEAD_BYTES as u32 {
            return Ok(None);
        }
        self.read_at(&mut head, position)?;
        let Some(head) = Head::parse(&head) else {
            return Ok(None);
        };
        let fits = head.size <= (length - position) as usize && head.size <= MAX_BATCH_BYTES;
        // The checksum does not cover the base offset: one that no index can hold is damage.
        let last = head.base_offset.checked_add(head.last_offset_delta.into());
        let in_reach = last.is_some_and(|l| l.saturating_sub(self.base) <= i32::MAX.into());
        if !fits || !in_reach || head.magic != 2 || head.base_offset < self.next_offset || head.last_offset_delta < 0 {
            return Ok(None);
        }
        if with_crc {
            let mut whole = vec![0u8; head.size];
            self.read_at(&mut whole, position)?;
            if !head.crc_ok(&whole) {
                return Ok(None);
            }
        }
        Ok(Some(head))
    }

    pub fn base(&self) -> i64 {
        self.base
    }
    pub fn size(&self) -> u32 {
        self.size
    }
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Takes a batch at a position into account, in memory and in the indexes.
    fn note(&mut self, head: &Head, position: u32) -> Result<(), LogError> {
        self.next_offset = head.last_offset() + 1;
        if head.max_timestamp > self.max_timestamp {
            self.max_timestamp = head.max_timestamp;
            self.max_timestamp_offset = head.last_offset();
        }
        if position > 0 && self.since_entry > self.limits.index_interval_bytes {
            let relative = (head.last_offset() - self.base) as u32;
            let mut entry = [0u8; 8];
            entry[..4].copy_from_slice(&relative.to_be_bytes());
            entry[4..].copy_from_slice(&position.to_be_bytes());
            write_at(&self.index_file, &entry, self.index.len() as u64 * 8)?;
            self.index.push((relative, position));
            // The latest batch so far, which need not be this one: Kafka looks for later ones behind it only.
            if self.max_timestamp > self.last_time_entry {
                let relative = (self.max_timestamp_offset - self.base) as u32;
                let mut entry = [0u8; 12];
                entry[..8].copy_from_slice(&self.max_timestamp.to_be_bytes());
                entry[8..].copy_from_slice(&relative.to_be_bytes());
                write_at(&self.time_index_file, &entry, self.time_index_size)?;
                self.time_index_size += 12;
                self.last_time_entry = self.max_timestamp;
            }
            self.since_entry = 0;
        }
        self.since_entry = self.since_entry.saturating_add(head.size as u32);
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8], head: &Head) -> Result<(), LogError> {
        let file = self.log.file().map_err(at(&self.path))?;
        if let Err(e) = file.write_all_at(bytes, self.size.into()) {
            // A full disk: what was written of the batch goes, so that the file ends with a whole one.
            let _ = file.set_len(self.size.into());
            return Err(at(&self.path)(e));
        }
        self.note(head, self.size)?;
        self.size += bytes.len() as u32;
        Ok(())
    }

    pub fn flush(&mut self) -> Result<(), LogError> {
        sync(&self.log)
    }

    pub fn seal(&mut self) -> Result<(), LogError> {
        self.flush()?;
        sync(&self.index_file)?;
        sync(&self.time_index_file)
    }

    /// Position of the batch that holds an offset, or of the first one behind it.
    fn position_of(&self, offset: i64) -> Result<u32, LogError> {
        let relative = u32::try_from(offset - self.base).unwrap_or(0);
        // The entry before the first whose batch ends at or behind the offset: from there on it is found by walking.
        let i = self.index.partition_point(|(last, _)| *last < relative);
        let mut position = if i == 0 { 0 } else { self.index[i - 1].1 };
        while position < self.size {
            match self.head_at(position)? {
                Some(h) if h.last_offset() < offset => position += h.size as u32,
                _ => break,
            }
        }
        Ok(position)
    }

    fn head_at(&self, position: u32) -> Result<Option<Head>, LogError> {
        let mut head = [0u8; HEAD_BYTES];
        self.read_at(&mut head, position)?;
        Ok(Head::parse(&head))
    }

    /// Whole batches from the one that holds `offset` on; see [`super::Log::slice`].
    pub fn slice(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Option<Slice>, LogError> {
        let position = self.position_of(offset)?;
        let limit = u64::from(position).saturating_add(max_bytes as u64);
        let mut end = position;
        if limit >= self.size.into() {
            end = self.size;
        } else {
            // The last entry that is not behind the limit begins a batch; from there on there are few.
            let i = self.index.partition_point(|(_, at)| u64::from(*at) <= limit);
            end = end.max(if i == 0 { 0 } else { self.index[i - 1].1 });
            while let Some(h) = self.head_at(end)? {
                let next = u64::from(end) + h.size as u64;
                if next > limit && !(end == position && at_least_one) {
                    break;
                }
                end = u32::try_from(next).unwrap_or(self.size).min(self.size);
                if next > limit {
                    break;
                }
            }
        }
        Ok((end > position).then(|| Slice { file: self.log.clone(), position: position.into(), len: (end - position) as usize }))
    }

    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<Found>, LogError> {
        let mut offset = self.base;
        while offset < self.next_offset {
            let mut bytes = bytes::BytesMut::new();
            if let Some(slice) = self.slice(offset, WALK_BYTES, true)? {
                slice.read_into(&mut bytes).map_err(at(&self.path))?;
            }
            let mut rest = &bytes[..];
            while let Some(head) = Head::parse(rest) {
                if head.max_timestamp >= timestamp {
                    return Ok(Some(find_in(&rest[..head.size], &head, timestamp)));
                }
                offset = head.last_offset() + 1;
                rest = &rest[head.size..];
            }
            if bytes.is_empty() {
                break;
            }
        }
        Ok(None)
    }
}

/// The record in a batch; of a compressed batch, which is not opened here, the first.
fn find_in(bytes: &[u8], head: &Head, timestamp: i64) -> Found {
    let found = record_times(bytes, head).find(|(_, time)| *time >= timestamp);
    let (offset, timestamp) = found.unwrap_or((head.base_offset, head.max_timestamp));
    Found { offset, timestamp }
}
