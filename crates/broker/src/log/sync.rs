//! What is on the disk, and what has to get there.
//!
//! Invariant: what is below the recovery point is on the disk.

use std::{io, sync::Arc};

use super::{Log, LogError, Slot, at};

/// Files that are to reach the disk.
#[derive(Debug)]
pub struct Unsynced {
    files: Vec<Arc<Slot>>,
    synced: Synced,
}

/// What has reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// offset that it ends at
    end: i64,
    /// how often the log had been truncated when this was begun
    truncations: u64,
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
        Ok(self.synced)
    }
}

impl Log {
    /// What is not known to be on the disk.
    pub fn unsynced(&self) -> Option<Unsynced> {
        let end = self.end_offset();
        let segments = self.segments.iter().filter(|s| s.next_offset() > self.recovery_point);
        let files = || segments.flat_map(|s| s.files()).cloned().collect();
        (end > self.recovery_point).then(|| Unsynced { files: files(), synced: Synced { end, truncations: self.truncations } })
    }

    /// Bytes that may not be on the disk.
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// What was unsynced is on the disk. Nothing follows from it if the log was truncated meanwhile: other records may have
    /// taken the offsets.
    pub fn synced(&mut self, synced: Synced) {
        if synced.truncations == self.truncations {
            self.recovery_point = self.recovery_point.max(synced.end.min(self.end_offset()));
            self.unsynced_bytes = 0;
        }
    }

    /// Writes all to the disk.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.active().close()?;
        if let Some(unsynced) = self.unsynced() {
            let synced = unsynced.sync()?;
            self.synced(synced);
        }
        Ok(())
    }
}
