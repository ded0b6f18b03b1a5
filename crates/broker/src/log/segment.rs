//! One segment: `.log`, `.index` (relative offset, position) and `.timeindex` (time stamp, relative offset).
//!
//! An index entry names the last offset of the batch that begins at its position, as Kafka's do.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Found, Limits, LogError, at};
use crate::batch::{HEAD_BYTES, Head, record_times};

/// How much is read at once when a segment is walked, in bytes.
const WALK_BYTES: usize = 256 * 1024;
/// Largest batch that a walk believes in, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub struct Segment {
    base: i64,
    path: PathBuf,
    log: File,
    size: u32,
    next_offset: i64,
    max_timestamp: i64,
    /// last offset of the batch that `max_timestamp` is from
    max_timestamp_offset: i64,
    limits: Limits,
    /// (last offset of the batch relative to the base, position)
    index: Vec<(u32, u32)>,
    index_file: File,
    time_index_file: File,
    last_time_entry: i64,
    since_entry: u32,
}

fn open(path: &Path) -> Result<File, LogError> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(at(path))
}

impl Segment {
    /// Opens the files of a segment. The active one is walked and cut; the indexes are made anew from what is there.
    pub fn open(dir: &Path, base: i64, active: bool, limits: Limits) -> Result<Self, LogError> {
        let file = |ending: &str| dir.join(format!("{base:020}.{ending}"));
        let path = file("log");
        let log = open(&path)?;
        let length = log.metadata().map_err(at(&path))?.len();
        let mut this = Self {
            base,
            log,
            size: 0,
            next_offset: base,
            max_timestamp: -1,
            max_timestamp_offset: base,
            limits,
            index: Vec::new(),
            index_file: open(&file("index"))?,
            time_index_file: open(&file("timeindex"))?,
            last_time_entry: -1,
            since_entry: 0,
            path,
        };
        this.index_file.set_len(0).and_then(|()| this.time_index_file.set_len(0)).map_err(at(&this.path))?;
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
            this.log.set_len(position.into()).and_then(|()| this.log.sync_all()).map_err(at(&this.path))?;
        }
        Ok(this)
    }

    /// The head of the batch at a position, if a whole and right one is there that goes on with the offsets.
    fn check(&self, position: u32, length: u32, with_crc: bool) -> Result<Option<Head>, LogError> {
        let mut head = [0u8; HEAD_BYTES];
        if (length - position) < HEAD_BYTES as u32 {
            return Ok(None);
        }
        self.log.read_exact_at(&mut head, position.into()).map_err(at(&self.path))?;
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
            self.log.read_exact_at(&mut whole, position.into()).map_err(at(&self.path))?;
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
            self.index.push((relative, position));
            let mut entry = [0u8; 8];
            entry[..4].copy_from_slice(&relative.to_be_bytes());
            entry[4..].copy_from_slice(&position.to_be_bytes());
            self.index_file.write_all(&entry).map_err(at(&self.path))?;
            // The latest batch so far, which need not be this one: Kafka looks for later ones behind it only.
            if self.max_timestamp > self.last_time_entry {
                self.last_time_entry = self.max_timestamp;
                let relative = (self.max_timestamp_offset - self.base) as u32;
                let mut entry = [0u8; 12];
                entry[..8].copy_from_slice(&self.max_timestamp.to_be_bytes());
                entry[8..].copy_from_slice(&relative.to_be_bytes());
                self.time_index_file.write_all(&entry).map_err(at(&self.path))?;
            }
            self.since_entry = 0;
        }
        self.since_entry = self.since_entry.saturating_add(head.size as u32);
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8], head: &Head) -> Result<(), LogError> {
        if let Err(e) = self.log.write_all_at(bytes, self.size.into()) {
            // A full disk: what was written of the batch goes, so that the file ends with a whole one.
            let _ = self.log.set_len(self.size.into());
            return Err(at(&self.path)(e));
        }
        self.note(head, self.size)?;
        self.size += bytes.len() as u32;
        Ok(())
    }

    pub fn flush(&mut self) -> Result<(), LogError> {
        self.log.sync_data().map_err(at(&self.path))
    }

    pub fn seal(&mut self) -> Result<(), LogError> {
        self.flush()?;
        self.index_file.sync_data().and_then(|()| self.time_index_file.sync_data()).map_err(at(&self.path))
    }

    /// Position of the batch that holds an offset, or of the first one behind it.
    fn position_of(&self, offset: i64) -> Result<u32, LogError> {
        let relative = u32::try_from(offset - self.base).unwrap_or(0);
        // The entry before the first whose batch ends at or behind the offset: from there on it is found by walking.
        let i = self.index.partition_point(|(last, _)| *last < relative);
        let mut position = if i == 0 { 0 } else { self.index[i - 1].1 };
        while position < self.size {
            let mut head = [0u8; HEAD_BYTES];
            self.log.read_exact_at(&mut head, position.into()).map_err(at(&self.path))?;
            match Head::parse(&head) {
                Some(h) if h.last_offset() < offset => position += h.size as u32,
                _ => break,
            }
        }
        Ok(position)
    }

    /// Adds whole batches from the one that holds `offset` on; at least one if `out` is empty.
    pub fn read(&self, offset: i64, max_bytes: usize, out: &mut Vec<u8>) -> Result<(), LogError> {
        if offset >= self.next_offset {
            return Ok(());
        }
        let position = self.position_of(offset)?;
        let left = (self.size - position) as usize;
        let mut want = left.min(max_bytes.saturating_sub(out.len()));
        if out.is_empty() && want < left {
            let mut head = [0u8; HEAD_BYTES];
            self.log.read_exact_at(&mut head, position.into()).map_err(at(&self.path))?;
            want = want.max(Head::parse(&head).map_or(0, |h| h.size)).min(left);
        }
        let start = out.len();
        out.resize(start + want, 0);
        self.log.read_exact_at(&mut out[start..], position.into()).map_err(at(&self.path))?;
        let mut end = start;
        while let Some(h) = Head::parse(&out[end..]) {
            if end + h.size > out.len() {
                break;
            }
            end += h.size;
        }
        out.truncate(end);
        Ok(())
    }

    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<Found>, LogError> {
        let mut offset = self.base;
        while offset < self.next_offset {
            let mut bytes = Vec::new();
            self.read(offset, WALK_BYTES, &mut bytes)?;
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
