//! `.txnindex`: the transactions that were aborted, of which a consumer that reads committed records is told.
//!
//! Invariant: an entry is in the index of the segment that holds the marker which aborted it.

use std::{fs, io, os::unix::fs::FileExt, path::PathBuf};

use super::{Log, LogError, at, producers::Completed};

/// Bytes of an entry.
const ENTRY: usize = 34;
/// Version of the format.
const VERSION: i16 = 0;

/// An aborted transaction, as Kafka's AbortedTxn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// whose
    pub producer_id: i64,
    /// its first offset
    pub first_offset: i64,
    /// offset of its marker
    pub last_offset: i64,
    /// below this every transaction was complete when it ended
    pub last_stable_offset: i64,
}

impl Aborted {
    fn encode(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        out[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields = [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset];
        for (place, field) in out[2..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        out
    }

    fn decode(entry: &[u8; ENTRY]) -> Option<Self> {
        let (version, rest) = entry.split_first_chunk()?;
        let mut fields = rest.as_chunks().0.iter().map(|f| i64::from_be_bytes(*f));
        let mut next = || fields.next();
        (i16::from_be_bytes(*version) == VERSION).then_some(())?;
        Some(Self { producer_id: next()?, first_offset: next()?, last_offset: next()?, last_stable_offset: next()? })
    }
}

/// The entries of a file, up to the first that is none, or not in order.
pub(super) fn parse(bytes: &[u8]) -> Vec<Aborted> {
    let mut entries: Vec<Aborted> = bytes.as_chunks().0.iter().map_while(Aborted::decode).collect();
    let sound = 1 + entries.windows(2).take_while(|w| w[0].last_offset < w[1].last_offset).count();
    entries.truncate(sound);
    entries
}

/// The index of one segment. The file is made with the first entry, and there are few.
#[derive(Debug)]
pub struct TransactionIndex {
    path: PathBuf,
    entries: Vec<Aborted>,
}

impl TransactionIndex {
    /// Reads it. Entries behind the end of the segment, or that are no entries, are cut off; those of markers from `until` on
    /// are made anew when their batches are read.
    pub fn open(path: PathBuf) -> Result<Self, LogError> {
        let bytes = match fs::read(&path) {
            Ok(b) => b,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(at(&path)(e)),
        };
        let this = Self { path, entries: parse(&bytes) };
        if this.entries.len() * ENTRY != bytes.len() {
            this.write()?;
        }
        Ok(this)
    }

    fn write(&self) -> Result<(), LogError> {
        let bytes: Vec<u8> = self.entries.iter().flat_map(Aborted::encode).collect();
        fs::write(&self.path, bytes).map_err(at(&self.path))
    }

    /// Where it is, or would be.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Replaces all entries.
    pub fn set(&mut self, entries: Vec<Aborted>) -> Result<(), LogError> {
        self.entries = entries;
        if self.entries.is_empty() { Ok(()) } else { self.write() }
    }

    /// Gives the file another name, if it is there.
    pub fn rename(&mut self, to: PathBuf) -> Result<(), LogError> {
        match fs::rename(&self.path, &to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&self.path)(e)),
            _ => self.path = to,
        }
        Ok(())
    }

    /// The directory was renamed.
    pub fn moved(&mut self, dir: &std::path::Path) {
        if let Some(name) = self.path.file_name() {
            self.path = dir.join(name);
        }
    }

    /// Adds a transaction, unless it is there.
    pub fn push(&mut self, done: &Completed) -> Result<(), LogError> {
        if self.entries.last().is_some_and(|e| e.last_offset >= done.last_offset) {
            return Ok(());
        }
        let Completed { producer_id, first_offset, last_offset, last_stable_offset, .. } = *done;
        let entry = Aborted { producer_id, first_offset, last_offset, last_stable_offset };
        let position = (self.entries.len() * ENTRY) as u64;
        let append =
            || fs::File::options().create(true).truncate(false).write(true).open(&self.path)?.write_all_at(&entry.encode(), position);
        append().map_err(at(&self.path))?;
        self.entries.push(entry);
        Ok(())
    }

    /// Drops the markers from an offset on.
    pub fn truncate_to(&mut self, offset: i64) -> Result<(), LogError> {
        let count = self.entries.partition_point(|e| e.last_offset < offset);
        if count < self.entries.len() {
            self.entries.truncate(count);
            self.write()?;
        }
        Ok(())
    }

    pub fn entries(&self) -> &[Aborted] {
        &self.entries
    }
}

impl Log {
    /// The aborted transactions with records from an offset on and below another. A consumer that reads committed records
    /// leaves out what they wrote. Source: UnifiedLog.collectAbortedTransactions.
    pub fn aborted_transactions(&self, from: i64, to: i64) -> Vec<Aborted> {
        let mut out = Vec::new();
        for segment in &self.segments[self.segment_of(from)..] {
            for entry in segment.aborted().entries() {
                if entry.last_offset >= from && entry.first_offset < to {
                    out.push(*entry);
                }
                if entry.last_stable_offset >= to {
                    return out;
                }
            }
        }
        out
    }
}
