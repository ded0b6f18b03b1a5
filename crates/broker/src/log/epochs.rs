//! `leader-epoch-checkpoint`: the offset at which each leader epoch began.
//!
//! Invariant: epochs and offsets grow from one entry to the next.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{LogError, at, checkpoints};

const NAME: &str = "leader-epoch-checkpoint";

/// Where an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// its number
    pub epoch: i32,
    /// offset of its first record
    pub start: i64,
}

/// The epochs of one log.
#[derive(Debug)]
pub struct Epochs {
    path: PathBuf,
    list: Vec<Epoch>,
    /// counts what was written; 0 if nothing was since the start
    writes: u64,
    /// of these, how many are on the disk
    synced: u64,
}

/// The epochs in a file's text; `None` if it is damaged.
pub(super) fn parse(text: &str) -> Option<Vec<Epoch>> {
    let one = |line: &str| {
        let (epoch, start) = line.trim().split_once(' ')?;
        Some(Epoch { epoch: epoch.parse().ok()?, start: start.parse().ok()? })
    };
    let list: Vec<Epoch> = checkpoints::lines(text)?.into_iter().map(one).collect::<Option<_>>()?;
    list.is_sorted_by(|a, b| a.epoch < b.epoch && a.start <= b.start).then_some(list)
}

impl Epochs {
    /// Reads the file of a log. What cannot be understood is left out: the batches have their epochs too.
    pub fn read(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => String::new(),
            Err(e) => return Err(at(&path)(e)),
        };
        Ok(Self { path, list: parse(&text).unwrap_or_default(), writes: 0, synced: 0 })
    }

    /// The log's directory was renamed.
    pub fn moved(&mut self, dir: &Path) {
        self.path = dir.join(NAME);
    }

    /// All of them.
    pub fn list(&self) -> &[Epoch] {
        &self.list
    }

    /// The epoch that is asked for, or the last before it, and where it ended; `None` if it is not known. `end` is that of
    /// the log. As Kafka's LeaderEpochFileCache.endOffsetFor.
    pub fn end_of(&self, epoch: i32, end: i64) -> Option<(i32, i64)> {
        let last = self.list.last()?;
        if epoch < 0 || epoch > last.epoch {
            return None;
        }
        if epoch == last.epoch {
            return Some((epoch, end));
        }
        let higher = self.list.partition_point(|e| e.epoch <= epoch);
        let start = self.list.get(higher)?.start;
        Some((higher.checked_sub(1).map_or(epoch, |i| self.list[i].epoch), start))
    }

    /// Notes that a batch of an epoch begins at an offset. Says whether this was new.
    pub fn assign(&mut self, epoch: i32, start: i64) -> bool {
        if epoch < 0 || self.list.last().is_some_and(|last| last.epoch >= epoch) {
            return false;
        }
        // An epoch without a record gives way to the next.
        self.list.retain(|e| e.start < start);
        self.list.push(Epoch { epoch, start });
        true
    }

    /// Drops what begins at or behind the end of the log. Says whether there was any.
    pub fn truncate_from(&mut self, end: i64) -> bool {
        let before = self.list.len();
        self.list.retain(|e| e.start < end);
        self.list.len() != before
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// The log begins at another offset now.
    pub fn truncate_to(&mut self, start: i64) -> bool {
        let first = self.list.partition_point(|e| e.start <= start).saturating_sub(1);
        let Some(e) = self.list.get(first) else {
            return false;
        };
        let moved = first > 0 || e.start < start;
        self.list.drain(..first);
        if let Some(e) = self.list.first_mut() {
            e.start = e.start.max(start);
        }
        moved
    }

    /// What has to reach the disk before the recovery point moves on, if anything: the file, and how often it was written.
    pub fn unsynced(&self) -> Option<(&Path, u64)> {
        (self.synced < self.writes).then_some((self.path.as_path(), self.writes))
    }

    /// So many writes have reached the disk.
    pub fn synced(&mut self, writes: u64) {
        self.synced = self.synced.max(writes);
    }

    /// Writes the file. It need not reach the disk at once: above the recovery point, what is lost is found in the batches again.
    pub fn write(&mut self) -> Result<(), LogError> {
        let lines: Vec<String> = self.list.iter().map(|e| format!("{} {}", e.epoch, e.start)).collect();
        let temporary = self.path.with_extension("tmp");
        let write = || {
            fs::write(&temporary, checkpoints::text(&lines))?;
            fs::rename(&temporary, &self.path)
        };
        self.writes += 1;
        write().map_err(at(&self.path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn epochs_grow_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut e = Epochs::read(dir.path()).unwrap();
        assert!(e.assign(3, 0) && !e.assign(3, 5) && !e.assign(2, 5) && !e.assign(-1, 5) && e.assign(4, 10) && e.assign(7, 10));
        assert_eq!(e.unsynced(), None);
        e.write().unwrap();
        assert_eq!(e.unsynced(), Some((dir.path().join(NAME).as_path(), 1)));
        e.synced(1);
        assert_eq!(e.unsynced(), None);
        assert_eq!(fs::read_to_string(dir.path().join(NAME)).unwrap(), "0\n2\n3 0\n7 10\n");
        let mut e = Epochs::read(dir.path()).unwrap();
        let cases =
            [(-1, None), (0, Some((0, 0))), (2, Some((2, 0))), (3, Some((3, 10))), (5, Some((3, 10))), (7, Some((7, 30))), (8, None)];
        for (epoch, want) in cases {
            assert_eq!(e.end_of(epoch, 30), want, "{epoch}");
        }
        assert!(e.assign(9, 20) && e.truncate_from(20) && !e.truncate_from(20));
        assert!(e.truncate_to(5));
        assert_eq!(e.list(), [Epoch { epoch: 3, start: 5 }, Epoch { epoch: 7, start: 10 }]);
        assert!(e.truncate_to(10));
        assert_eq!(e.list(), [Epoch { epoch: 7, start: 10 }]);
        for bad in ["1\n0\n", "0\n2\n1 1\n", "0\n2\n2 0\n1 5\n", "0\n1\nx y\n"] {
            fs::write(dir.path().join(NAME), bad).unwrap();
            assert_eq!(Epochs::read(dir.path()).unwrap().list(), []);
        }
    }
}
