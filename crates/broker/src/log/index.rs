//! The indexes of a segment: `.index` (relative offset, position) and `.timeindex` (timestamp, relative offset).
//!
//! Invariant: entries grow. They lie in the file; memory holds the last few, however long a segment is.

use std::{collections::VecDeque, os::unix::fs::FileExt, sync::Arc};

use super::{LogError, Slot, at};

/// Entries that are in memory.
const TAIL: usize = 32;

/// Entries of one size in a file.
#[derive(Debug)]
struct Entries<const N: usize> {
    slot: Arc<Slot>,
    count: u64,
    tail: VecDeque<[u8; N]>,
}

impl<const N: usize> Entries<N> {
    fn open(slot: Slot) -> Result<Self, LogError> {
        let length = slot.file().and_then(|f| f.metadata()).map_err(at(&slot.path()))?.len();
        Ok(Self { slot: Arc::new(slot), count: length / N as u64, tail: VecDeque::new() })
    }

    fn get(&self, i: u64) -> Result<[u8; N], LogError> {
        let in_memory = (i + self.tail.len() as u64).checked_sub(self.count).and_then(|i| self.tail.get(i as usize));
        if let Some(entry) = in_memory {
            return Ok(*entry);
        }
        let mut entry = [0; N];
        self.slot.file().and_then(|f| f.read_exact_at(&mut entry, i * N as u64)).map_err(at(&self.slot.path()))?;
        Ok(entry)
    }

    fn push(&mut self, entry: [u8; N]) -> Result<(), LogError> {
        self.slot.file().and_then(|f| f.write_all_at(&entry, self.count * N as u64)).map_err(at(&self.slot.path()))?;
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(entry);
        self.count += 1;
        Ok(())
    }

    /// Keeps the first entries, and nothing else of the file.
    fn truncate(&mut self, count: u64) -> Result<(), LogError> {
        self.slot.file().and_then(|f| f.set_len(count * N as u64)).map_err(at(&self.slot.path()))?;
        self.count = count;
        self.tail.clear();
        Ok(())
    }

    /// Number of entries at the beginning of which something holds, if it holds of no entry behind them.
    fn count_while(&self, mut holds: impl FnMut(&[u8; N]) -> bool) -> Result<u64, LogError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(&self.get(middle)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

/// An entry of the offset index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// last offset of the batch, relative to the segment's base
    pub relative: u32,
    /// where the batch begins
    pub position: u32,
}

impl Position {
    fn parse([a, b, c, d, e, f, g, h]: &[u8; 8]) -> Self {
        Self { relative: u32::from_be_bytes([*a, *b, *c, *d]), position: u32::from_be_bytes([*e, *f, *g, *h]) }
    }
}

/// The offset index.
#[derive(Debug)]
pub struct OffsetIndex(Entries<8>);

impl OffsetIndex {
    pub fn open(slot: Slot) -> Result<Self, LogError> {
        Entries::open(slot).map(Self)
    }
    pub fn slot(&self) -> &Arc<Slot> {
        &self.0.slot
    }
    pub fn bytes(&self) -> u64 {
        self.0.count * 8
    }
    pub fn count(&self) -> u64 {
        self.0.count
    }
    pub fn get(&self, i: u64) -> Result<Position, LogError> {
        Ok(Position::parse(&self.0.get(i)?))
    }
    pub fn push(&mut self, entry: Position) -> Result<(), LogError> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&entry.relative.to_be_bytes());
        bytes[4..].copy_from_slice(&entry.position.to_be_bytes());
        self.0.push(bytes)
    }
    pub fn truncate(&mut self, count: u64) -> Result<(), LogError> {
        self.0.truncate(count)
    }
    /// The last entry of which something holds.
    pub fn last_while(&self, mut holds: impl FnMut(Position) -> bool) -> Result<Option<(u64, Position)>, LogError> {
        match self.0.count_while(|e| holds(Position::parse(e)))? {
            0 => Ok(None),
            n => Ok(Some((n - 1, self.get(n - 1)?))),
        }
    }
}

/// An entry of the time index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// largest timestamp of the batches up to here
    pub timestamp: i64,
    /// last offset of the batch that it is from, relative to the segment's base
    pub relative: u32,
}

impl Moment {
    fn parse(entry: &[u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
        Self { timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]), relative: u32::from_be_bytes([i, j, k, l]) }
    }
}

/// The time index.
#[derive(Debug)]
pub struct TimeIndex(Entries<12>);

impl TimeIndex {
    pub fn open(slot: Slot) -> Result<Self, LogError> {
        Entries::open(slot).map(Self)
    }
    pub fn slot(&self) -> &Arc<Slot> {
        &self.0.slot
    }
    pub fn bytes(&self) -> u64 {
        self.0.count * 12
    }
    pub fn last(&self) -> Result<Option<Moment>, LogError> {
        self.0.count.checked_sub(1).map(|i| Ok(Moment::parse(&self.0.get(i)?))).transpose()
    }
    pub fn push(&mut self, entry: Moment) -> Result<(), LogError> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&entry.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&entry.relative.to_be_bytes());
        self.0.push(bytes)
    }
    pub fn clear(&mut self) -> Result<(), LogError> {
        self.truncate(0)
    }
    pub fn count(&self) -> u64 {
        self.0.count
    }
    pub fn truncate(&mut self, count: u64) -> Result<(), LogError> {
        self.0.truncate(count)
    }
    /// Keeps the entries up to an offset.
    pub fn keep(&mut self, relative: u32) -> Result<(), LogError> {
        let n = self.0.count_while(|e| Moment::parse(e).relative <= relative)?;
        self.0.truncate(n)
    }
    /// The first entry that is not before a time.
    pub fn first_from(&self, timestamp: i64) -> Result<Option<Moment>, LogError> {
        let i = self.0.count_while(|e| Moment::parse(e).timestamp < timestamp)?;
        (i < self.0.count).then(|| Ok(Moment::parse(&self.0.get(i)?))).transpose()
    }
}
