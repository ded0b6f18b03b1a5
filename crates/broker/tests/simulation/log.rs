//! A replica's log in memory: records with epochs, the epoch cache, the checkpoint of the high watermark, and what of it is on disk.

/// A record: the epoch of the leader that appended it and a value that no other record of its producer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Leader epoch.
    pub epoch: i32,
    /// Value.
    pub value: u32,
}

/// A log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    records: Vec<Record>,
    /// Epochs and their start offsets, as LeaderEpochFileCache.
    epochs: Vec<(i32, i64)>,
    /// Records below are on disk.
    durable: i64,
    /// The high watermark that was last written to its checkpoint.
    pub checkpoint: i64,
}

impl Log {
    /// Offset of the next record.
    pub fn end(&self) -> i64 {
        self.records.len() as i64
    }

    /// The record at an offset.
    pub fn get(&self, offset: i64) -> Option<Record> {
        usize::try_from(offset).ok().and_then(|o| self.records.get(o)).copied()
    }

    /// At most `n` records from an offset.
    pub fn read(&self, offset: i64, n: usize) -> Vec<Record> {
        self.records.iter().skip(offset.max(0) as usize).take(n).copied().collect()
    }

    /// Appends one.
    pub fn append(&mut self, record: Record) {
        self.begin_epoch(record.epoch);
        self.records.push(record);
    }

    /// An epoch begins at the end.
    pub fn begin_epoch(&mut self, epoch: i32) {
        let end = self.end();
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            // An epoch without records gives way.
            self.epochs.retain(|(_, start)| *start < end);
            self.epochs.push((epoch, end));
        }
    }

    /// Last epoch of the cache, -1 for none. A leader that appended nothing has one without records.
    pub fn last_epoch(&self) -> i32 {
        self.epochs.last().map_or(-1, |(e, _)| *e)
    }

    /// Last local epoch up to one, and its end.
    fn epoch_up_to(&self, epoch: i32) -> Option<(i32, i64)> {
        let at = self.epochs.iter().rposition(|(e, _)| *e <= epoch)?;
        Some((self.epochs[at].0, self.epochs.get(at + 1).map_or(self.end(), |(_, start)| *start)))
    }

    /// What a leader answers about an epoch: LeaderEpochFileCache.endOffsetFor.
    pub fn end_of_epoch(&self, epoch: i32) -> (i32, i64) {
        if self.epochs.last().is_some_and(|(last, _)| *last < epoch) || self.epochs.is_empty() {
            return (-1, -1);
        }
        self.epoch_up_to(epoch).unwrap_or((epoch, self.epochs[0].1))
    }

    /// Cuts what is at and above an offset; `keep_epochs` forgets to cut the epoch cache too.
    pub fn truncate(&mut self, end: i64, keep_epochs: bool) {
        let end = end.clamp(0, self.end());
        self.records.truncate(end as usize);
        self.durable = self.durable.min(end);
        if !keep_epochs {
            self.epochs.retain(|(_, start)| *start < end);
        }
    }

    /// All is on disk.
    pub fn flush(&mut self) {
        self.durable = self.end();
    }

    /// Power fails: what was not synced is gone. Returns the number of records.
    pub fn lose_unsynced(&mut self) -> i64 {
        let lost = self.end() - self.durable;
        self.truncate(self.durable, false);
        lost
    }
}
