//! One segment: `.log`, `.index` and `.timeindex`.
//!
//! Invariant: the indexes agree with the log. An index entry names the last offset of the batch that begins at its
//! position, as Kafka's do; a time entry is the latest batch so far.

use std::{
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;

use super::{
    Files, Found, Limits, LogError, Slice, Slot, at,
    index::{Moment, OffsetIndex, Position, TimeIndex},
    recent::Recent,
    transactions::TransactionIndex,
};
use crate::{
    batch::{HEAD_BYTES, Head},
    records,
};

/// Largest batch that a walk believes in, in bytes.
pub const MAX_BATCH_BYTES: usize = 1 << 30;

/// How much of a segment is believed when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// All: it reached the disk, and its indexes with it.
    All,
    /// What is below an offset; from there on each batch is checked. What is damaged is cut off.
    Below(i64),
}

#[derive(Debug)]
pub struct Segment {
    pub(super) base: i64,
    pub(super) path: PathBuf,
    pub(super) log: Arc<Slot>,
    size: u32,
    next_offset: i64,
    max_timestamp: i64,
    /// last offset of the batch that `max_timestamp` is from
    max_timestamp_offset: i64,
    /// largest timestamp of the first batch
    pub(super) first_timestamp: Option<i64>,
    /// when it was begun by the clock, in milliseconds since 1970
    pub(super) created: i64,
    pub(super) index: OffsetIndex,
    pub(super) times: TimeIndex,
    pub(super) aborted: TransactionIndex,
    last_time_entry: i64,
    since_entry: u32,
    index_interval_bytes: u32,
    recent: Recent,
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    ms(SystemTime::now())
}

fn ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn open(files: &Arc<Files>, path: PathBuf) -> Result<Slot, LogError> {
    Slot::create(files, path.clone()).map_err(at(&path))
}

impl Segment {
    /// Opens the files of a segment, or makes them. Heads of batches that are read on the way are shown to `seen`. Says
    /// whether something was cut off.
    pub fn open(
        dir: &Path,
        base: i64,
        trust: Trust,
        limits: Limits,
        files: &Arc<Files>,
        seen: &mut dyn FnMut(&Head),
    ) -> Result<(Self, bool), LogError> {
        Self::open_as(dir, base, "", trust, limits, files, seen)
    }

    /// The same, of files whose names end in something.
    pub fn open_as(
        dir: &Path,
        base: i64,
        suffix: &str,
        trust: Trust,
        limits: Limits,
        files: &Arc<Files>,
        seen: &mut dyn FnMut(&Head),
    ) -> Result<(Self, bool), LogError> {
        let file = |ending: &str| dir.join(format!("{base:020}.{ending}{suffix}"));
        let path = file("log");
        let log = Arc::new(open(files, path.clone())?);
        let metadata = log.file().and_then(|f| f.metadata()).map_err(at(&path))?;
        let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
        let mut this = Self {
            base,
            log,
            size: 0,
            next_offset: base,
            max_timestamp: -1,
            max_timestamp_offset: base,
            first_timestamp: None,
            created: if length == 0 { now_ms() } else { metadata.modified().map_or(0, ms) },
            index: OffsetIndex::open(open(files, file("index"))?)?,
            times: TimeIndex::open(open(files, file("timeindex"))?)?,
            aborted: TransactionIndex::open(file("txnindex"))?,
            last_time_entry: -1,
            since_entry: 0,
            index_interval_bytes: limits.index_interval_bytes,
            recent: Recent::default(),
            path,
        };
        this.restore(trust, length)?;
        if this.size > 0 {
            this.first_timestamp = this.head_at(0)?.map(|h| h.max_timestamp);
        }
        while this.size < length {
            let Some(head) = this.check(this.size, length, trust)? else {
                break;
            };
            seen(&head);
            this.note(&head, this.size)?;
            this.size += head.size as u32;
        }
        let cut = this.size < length;
        if cut {
            this.cut(trust, length)?;
        }
        this.aborted.truncate_to(this.next_offset)?;
        Ok((this, cut))
    }

    /// Cuts off the batch that holds an offset, and all that follows. Says whether a reader still holds a part of the file.
    pub fn truncate_to(&mut self, offset: i64) -> Result<bool, LogError> {
        let position = self.position_of(offset)?;
        let head = if position < self.size { self.head_at(position)? } else { None };
        let end = head.map_or(offset, |h| h.base_offset.min(offset)).max(self.base);
        (self.size, self.next_offset, self.since_entry) = (0, self.base, 0);
        (self.max_timestamp, self.max_timestamp_offset, self.last_time_entry) = (-1, self.base, -1);
        // The indexes first: they may lack entries, but not name what is not there.
        self.restore(Trust::Below(end), position)?;
        while self.size < position {
            let Some(head) = self.head_at(self.size)? else { break };
            self.note(&head, self.size)?;
            self.size += head.size as u32;
        }
        self.next_offset = end;
        self.aborted.truncate_to(end)?;
        if position == 0 {
            (self.first_timestamp, self.created) = (None, now_ms());
        }
        let cut = self.log.file().and_then(|f| f.set_len(position.into()).and_then(|()| f.sync_all()));
        cut.map_err(at(&self.path))?;
        Ok(Arc::strong_count(&self.log) > 1)
    }

    fn cut(&mut self, trust: Trust, length: u32) -> Result<(), LogError> {
        let position = self.size;
        let believed = match trust {
            Trust::All => true,
            Trust::Below(offset) => self.next_offset < offset,
        };
        if believed {
            let e = io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position} of {length}"));
            return Err(at(&self.path)(e));
        }
        tracing::warn!("{}: cut {} bytes off, from byte {position} on: no whole batch there", self.path.display(), length - position);
        let cut = self.log.file().and_then(|f| f.set_len(position.into()).and_then(|()| f.sync_all()));
        cut.map_err(at(&self.path))
    }

    /// Goes on from the last index entry that can be believed; without one, from the beginning with new indexes.
    fn restore(&mut self, trust: Trust, length: u32) -> Result<(), LogError> {
        self.recent.clear();
        let believed = |e: Position| match trust {
            Trust::All => true,
            Trust::Below(offset) => self.base + i64::from(e.relative) < offset,
        };
        let in_file = u64::from(length).saturating_sub(HEAD_BYTES as u64);
        let entry = self.index.last_while(|e| believed(e) && u64::from(e.position) <= in_file)?;
        // An index that was not written to its end has zeros there, which no entry has.
        let sound = |e: Position, head: &Head| {
            let whole = head.magic == 2 && head.last_offset_delta >= 0;
            whole && head.last_offset() == self.base + i64::from(e.relative) && u64::from(e.position) + head.size as u64 <= length.into()
        };
        if let Some((i, e)) = entry
            && let Some(head) = self.head_at(e.position)?.filter(|h| sound(e, h))
        {
            self.index.truncate(i + 1)?;
            if trust != Trust::All {
                self.times.keep(e.relative)?;
            }
            if let Some(last) = self.times.last()? {
                self.max_timestamp = last.timestamp;
                self.max_timestamp_offset = self.base + i64::from(last.relative);
                self.last_time_entry = last.timestamp;
            }
            self.next_offset = head.last_offset() + 1;
            self.since_entry = head.size as u32;
            self.size = e.position + head.size as u32;
            return Ok(());
        }
        self.index.truncate(0)?;
        self.times.clear()
    }

    pub fn read_at(&self, out: &mut [u8], position: u32) -> Result<(), LogError> {
        self.log.file().and_then(|f| f.read_exact_at(out, position.into())).map_err(at(&self.path))
    }

    fn head_at(&self, position: u32) -> Result<Option<Head>, LogError> {
        let mut head = [0u8; HEAD_BYTES];
        self.read_at(&mut head, position)?;
        Ok(Head::parse(&head))
    }

    /// The head of the batch at a position, if a whole and right one is there that goes on with the offsets.
    fn check(&self, position: u32, length: u32, trust: Trust) -> Result<Option<Head>, LogError> {
        if (length - position) < HEAD_BYTES as u32 {
            return Ok(None);
        }
        let Some(head) = self.head_at(position)? else {
            return Ok(None);
        };
        let fits = head.size <= (length - position) as usize && head.size <= MAX_BATCH_BYTES;
        // The checksum does not cover the base offset: one that no index can hold is damage.
        let last = head.base_offset.checked_add(head.last_offset_delta.into());
        let in_reach = last.is_some_and(|l| l.saturating_sub(self.base) <= i32::MAX.into());
        if !fits || !in_reach || head.magic != 2 || head.base_offset < self.next_offset || head.last_offset_delta < 0 {
            return Ok(None);
        }
        if matches!(trust, Trust::Below(point) if head.last_offset() >= point) {
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
    /// The time that retention goes by: that of the latest record, or of the file where records have none.
    pub fn age_from(&self) -> i64 {
        if self.max_timestamp >= 0 { self.max_timestamp } else { self.created }
    }
    /// How long the segment has been written to, when a batch of this time comes.
    pub fn open_for(&self, timestamp: i64) -> i64 {
        match self.first_timestamp {
            Some(first) if first >= 0 && timestamp >= 0 => timestamp.saturating_sub(first),
            _ => now_ms().saturating_sub(self.created),
        }
    }
    /// All files of the segment but for the index of aborted transactions.
    pub fn files(&self) -> [&Arc<Slot>; 3] {
        [&self.log, self.index.slot(), self.times.slot()]
    }

    /// Takes a batch at a position into account, in memory and in the indexes.
    fn note(&mut self, head: &Head, position: u32) -> Result<(), LogError> {
        self.next_offset = head.last_offset() + 1;
        self.recent.push(Position { relative: (head.last_offset() - self.base) as u32, position });
        if position == 0 {
            self.first_timestamp = Some(head.max_timestamp);
        }
        if head.max_timestamp > self.max_timestamp {
            self.max_timestamp = head.max_timestamp;
            self.max_timestamp_offset = head.last_offset();
        }
        if position > 0 && self.since_entry > self.index_interval_bytes {
            self.index.push(Position { relative: (head.last_offset() - self.base) as u32, position })?;
            // The latest batch so far, which need not be this one: Kafka looks for later ones behind it only.
            self.note_time()?;
            self.since_entry = 0;
        }
        self.since_entry = self.since_entry.saturating_add(head.size as u32);
        Ok(())
    }

    fn note_time(&mut self) -> Result<(), LogError> {
        if self.max_timestamp > self.last_time_entry {
            self.times.push(Moment { timestamp: self.max_timestamp, relative: (self.max_timestamp_offset - self.base) as u32 })?;
            self.last_time_entry = self.max_timestamp;
        }
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8], head: &Head) -> Result<(), LogError> {
        let file = self.log.file().map_err(at(&self.path))?;
        let before = (self.next_offset, self.max_timestamp, self.max_timestamp_offset, self.first_timestamp, self.since_entry);
        let (entries, times) = (self.index.count(), (self.times.count(), self.last_time_entry));
        let written = file.write_all_at(bytes, self.size.into()).map_err(at(&self.path));
        if let Err(e) = written.and_then(|()| self.note(head, self.size)) {
            // A full disk: what was written of the batch and of its entries goes, so that the files end with a whole one.
            (self.next_offset, self.max_timestamp, self.max_timestamp_offset, self.first_timestamp, self.since_entry) = before;
            self.recent.clear();
            let _ = file.set_len(self.size.into());
            let _ = self.index.truncate(entries);
            let _ = self.times.truncate(times.0);
            self.last_time_entry = times.1;
            return Err(e);
        }
        self.size += bytes.len() as u32;
        Ok(())
    }

    /// Completes the time index with the latest record, when the segment is rolled or the log is closed.
    pub fn close(&mut self) -> Result<(), LogError> {
        self.recent.clear();
        self.note_time()
    }

    /// Whether the position of an offset is known without reading files.
    pub fn is_recent(&self, offset: i64) -> bool {
        let relative = u32::try_from(offset - self.base);
        offset >= self.next_offset || relative.is_ok_and(|r| self.recent.position_of(r).is_some())
    }

    /// Position of the batch that holds an offset, or of the first one behind it.
    pub fn position_of(&self, offset: i64) -> Result<u32, LogError> {
        if offset >= self.next_offset {
            return Ok(self.size);
        }
        let relative = u32::try_from(offset - self.base).unwrap_or(0);
        if let Some(position) = self.recent.position_of(relative) {
            return Ok(position);
        }
        // The last entry whose batch ends before the offset: from there on it is found by walking.
        let mut position = self.index.last_while(|e| e.relative < relative)?.map_or(0, |(_, e)| e.position);
        while position < self.size {
            match self.head_at(position)? {
                Some(h) if h.last_offset() < offset => position += h.size as u32,
                _ => break,
            }
        }
        Ok(position)
    }

    /// Whole batches from the one that holds `offset` on, before the one that holds `until`; see [`super::Log::slice_until`].
    pub fn slice(&self, offset: i64, max_bytes: usize, at_least_one: bool, until: i64) -> Result<Option<Slice>, LogError> {
        let size = self.position_of(until)?;
        let position = self.position_of(offset)?;
        let limit = u64::from(position).saturating_add(max_bytes as u64);
        let mut end = position;
        if limit >= size.into() {
            end = end.max(size);
        } else {
            // The last entry that is not behind the limit begins a batch; from there on there are few.
            let entry = self.index.last_while(|e| u64::from(e.position) <= limit)?;
            end = end.max(entry.map_or(0, |(_, e)| e.position));
            while end < size
                && let Some(h) = self.head_at(end)?
            {
                let next = u64::from(end) + h.size as u64;
                if next > limit && !(end == position && at_least_one) {
                    break;
                }
                end = u32::try_from(next).unwrap_or(size).min(size);
                if next > limit {
                    break;
                }
            }
        }
        Ok((end > position).then(|| Slice { file: self.log.clone(), position: position.into(), len: (end - position) as usize }))
    }

    /// The first batch with a record from an offset on whose latest timestamp is at least this.
    pub fn batch_for_timestamp(&self, timestamp: i64, from: i64) -> Result<Option<(Head, Slice)>, LogError> {
        // The first entry that is not earlier names a batch that will do. Those before it lie between it and the offset
        // entry before it: entries of both indexes are made at the same batches.
        let offset = match self.times.first_from(timestamp)? {
            Some(entry) => entry.relative,
            None => u32::try_from(self.next_offset - self.base).unwrap_or(u32::MAX),
        };
        let offset = offset.max(u32::try_from(from - self.base).unwrap_or(0));
        let mut position = self.index.last_while(|e| e.relative < offset)?.map_or(0, |(_, e)| e.position);
        while position < self.size {
            let Some(head) = self.head_at(position)? else {
                break;
            };
            if head.max_timestamp >= timestamp && head.last_offset() >= from {
                return Ok(Some((head, Slice { file: self.log.clone(), position: position.into(), len: head.size })));
            }
            position += head.size as u32;
        }
        Ok(None)
    }
}

/// The first record in a batch, from an offset on, whose timestamp is at least this.
pub fn locate(head: &Head, batch: &Slice, timestamp: i64, from: i64) -> Result<Option<Found>, LogError> {
    let mut bytes = BytesMut::new();
    batch.read_into(&mut bytes).map_err(at(&batch.file.path()))?;
    let found = records::first_at(&bytes, head, timestamp, from);
    // Records that do not decode, or are not as late as the head says, come from elsewhere: the head counts.
    let found = found.or((head.base_offset >= from).then_some((head.base_offset, head.max_timestamp)));
    Ok(found.map(|(offset, timestamp)| Found { offset, timestamp }))
}
