//! What is on the disk, and what has to get there.
//!
//! Invariant: what is below the recovery point is on the disk.

use std::{fs, io, path::PathBuf, sync::Arc};

use super::{Log, LogError, Slot, at};

/// Files that are to reach the disk.
#[derive(Debug)]
pub struct Unsynced {
    files: Vec<Arc<Slot>>,
    /// indexes of aborted transactions, of which there are few; the epochs and their directory if they changed
    others: Vec<PathBuf>,
    synced: Synced,
}

/// What has reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// offset that it ends at
    end: i64,
    /// how often the log had been truncated when this was begun
    truncations: u64,
    /// how often the epochs had been written
    epochs: u64,
}

impl Unsynced {
    /// Waits until they have; see [`Log::synced`].
    pub fn sync(&self) -> Result<Synced, LogError> {
        for slot in &self.files {
            match slot.file().and_then(|f| f.sync_data()) {
                // Deleted meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(at(&slot.path()))?,
            }
        }
        for path in &self.others {
            match fs::File::open(path).and_then(|f| f.sync_data()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(at(path))?,
            }
        }
        Ok(self.synced)
    }
}

impl Log {
    /// What is not known to be on the disk.
    pub fn unsynced(&mut self) -> Option<Unsynced> {
        let end = self.end_offset();
        if end > self.recovery_point {
            // A start after a kill then reads what is behind the recovery point only.
            self.take_snapshot();
        }
        if end <= self.recovery_point {
            return None;
        }
        let segments = || self.segments.iter().filter(|s| s.next_offset() > self.recovery_point);
        let mut others: Vec<PathBuf> =
            segments().map(|s| s.aborted()).filter(|a| !a.entries().is_empty()).map(|a| a.path().clone()).collect();
        let files = segments().flat_map(|s| s.files()).cloned().collect();
        let mut epochs = 0;
        if let Some((path, writes)) = self.epochs.unsynced() {
            // A start reads the batches above the recovery point only: the epochs of the others are in this file.
            others.extend([path.to_owned(), self.dir.clone()]);
            epochs = writes;
        }
        Some(Unsynced { files, others, synced: Synced { end, truncations: self.truncations, epochs } })
    }

    /// Bytes that may not be on the disk.
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// What was unsynced is on the disk. Nothing follows from it if the log was truncated meanwhile: other records may have
    /// taken the offsets.
    pub fn synced(&mut self, synced: Synced) {
        self.epochs.synced(synced.epochs);
        if synced.truncations == self.truncations {
            self.recovery_point = self.recovery_point.max(synced.end.min(self.end_offset()));
            self.unsynced_bytes = 0;
            if let Err(e) = self.prune_snapshots(self.recovery_point) {
                tracing::warn!("{e}");
            }
        }
    }

    /// Writes all to the disk.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.active().close()?;
        if let Some(unsynced) = self.unsynced() {
            let synced = unsynced.sync()?;
            self.synced(synced);
        }
        self.take_snapshot();
        self.prune_snapshots(self.end_offset())
    }
}
