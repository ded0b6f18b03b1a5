//! What becomes of a segment's files as a whole: renaming, syncing, their age.

use std::{
    fs, io,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    LogError, Segment, at,
    producers::Completed,
    transactions::{Aborted, TransactionIndex},
};

impl Segment {
    /// Its transactions that were aborted.
    pub fn aborted(&self) -> &TransactionIndex {
        &self.aborted
    }
    /// A transaction was aborted by the batch that was appended last.
    pub fn note_aborted(&mut self, done: &Completed) -> Result<(), LogError> {
        self.aborted.push(done)
    }
    /// Removes their index: the segment goes.
    pub fn remove_aborted(&self) -> Result<(), LogError> {
        match fs::remove_file(self.aborted.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(self.aborted.path())(e)),
            _ => Ok(()),
        }
    }
    /// The directory was renamed.
    pub fn moved(&mut self, dir: &Path) {
        self.files().into_iter().for_each(|slot| slot.moved(dir));
        self.aborted.moved(dir);
        if let Some(name) = self.path.file_name() {
            self.path = dir.join(name);
        }
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Bytes of the larger of its indexes.
    pub fn index_bytes(&self) -> u64 {
        self.index.bytes().max(self.times.bytes())
    }

    /// When it was begun, or changed, in milliseconds since 1970.
    pub fn created(&self) -> i64 {
        self.created
    }

    /// Largest timestamp of the first batch, where it has one.
    pub fn first_timestamp(&self) -> Option<i64> {
        self.first_timestamp.filter(|t| *t >= 0)
    }

    /// Takes over the age of others.
    pub fn set_created(&mut self, created: i64) -> Result<(), LogError> {
        self.created = created;
        let time = UNIX_EPOCH + Duration::from_millis(created.max(0) as u64);
        self.log.file().and_then(|f| f.set_modified(time)).map_err(at(&self.path))
    }

    /// Takes over the aborted transactions of others.
    pub fn set_aborted(&mut self, entries: Vec<Aborted>) -> Result<(), LogError> {
        self.aborted.set(entries)
    }

    /// Brings all of its files to the disk.
    pub fn sync(&self) -> Result<(), LogError> {
        for slot in self.files() {
            slot.file().and_then(|f| f.sync_all()).map_err(at(&slot.path()))?;
        }
        match fs::File::open(self.aborted.path()).and_then(|f| f.sync_all()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(self.aborted.path())(e)),
            _ => Ok(()),
        }
    }

    /// Gives its files names that end in something, the log last.
    pub fn rename(&mut self, suffix: &str) -> Result<(), LogError> {
        let to = |ending: &str| self.dir().join(format!("{:020}.{ending}{suffix}", self.base));
        let (index, times, aborted, log) = (to("index"), to("timeindex"), to("txnindex"), to("log"));
        self.aborted.rename(aborted)?;
        for (slot, to) in [(self.index.slot(), index), (self.times.slot(), times), (&self.log, log.clone())] {
            slot.rename(&to).map_err(at(&to))?;
        }
        self.path = log;
        Ok(())
    }
}
