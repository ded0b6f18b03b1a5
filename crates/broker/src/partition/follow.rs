//! What a partition does as a follower.

use super::Partition;
use crate::{
    core::partition::truncation,
    log::{Gone, LogError},
};

/// Where a follower fetches from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPosition {
    /// Epoch of the leadership that is followed.
    pub leader_epoch: i32,
    /// End of the log.
    pub offset: i64,
    /// First offset of the log.
    pub start: i64,
    /// Epoch of the last record, -1 if there is none.
    pub last_epoch: i32,
}

/// Why records of a leader are not taken.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// This broker follows under another epoch by now, or leads.
    #[error("the leadership that was followed has ended")]
    Ended,
    /// The leader's bytes, or the disk.
    #[error("{0}")]
    Log(#[from] LogError),
}

impl Partition {
    /// Where to fetch from next, while a leadership is followed.
    pub fn fetch_position(&self, leader_epoch: i32) -> Option<FetchPosition> {
        let inner = self.inner();
        let follows = inner.replication.follows() && inner.replication.assignment().leader_epoch == leader_epoch;
        follows.then(|| FetchPosition {
            leader_epoch,
            offset: inner.log.end_offset(),
            start: inner.log.start_offset(),
            last_epoch: inner.log.epochs().last().map_or(-1, |e| e.epoch),
        })
    }

    /// Whether this replica is not to be fetched now: it is behind, and its throttle's rate is used up.
    pub fn is_held_back(&self) -> bool {
        let throttle = &self.shared.throttles.follower;
        throttle.is_throttled(&self.topic, self.index) && throttle.is_exceeded() && !self.inner().caught_up
    }

    /// Takes what a leader sent for an offset: batches, its high watermark and its first offset. Returns files to be removed.
    pub fn follow(
        &self,
        leader_epoch: i32,
        offset: i64,
        records: &[u8],
        high_watermark: i64,
        start: i64,
    ) -> Result<Option<Gone>, FollowError> {
        let mut inner = self.following(leader_epoch)?;
        if inner.log.end_offset() != offset {
            // Truncated since the request was sent.
            return Ok(None);
        }
        if !records.is_empty() {
            inner.log.append_as_follower(records).inspect_err(|e| self.shared.log_dir.note(e))?;
            self.shared.replication.bytes_in.add(records.len() as u64);
            // What is in sync counts too, so that all of it is below the rate.
            if self.shared.throttles.follower.is_throttled(&self.topic, self.index) {
                self.shared.throttles.follower.record(records.len());
            }
        }
        let end = inner.log.end_offset();
        inner.caught_up = end >= high_watermark;
        let moved = inner.replication.followed(end, high_watermark).high_watermark_moved;
        let mut gone = None;
        if start > inner.log.start_offset() {
            gone = inner.log.delete_below(start).inspect_err(|e| self.shared.log_dir.note(e))?;
            let start = inner.log.start_offset();
            inner.replication.start_moved(start);
        }
        let many = inner.log.unsynced_bytes() > super::SYNC_BYTES;
        drop(inner);
        if many {
            self.shared.sync.notify_one();
        }
        // Consumers may wait here too.
        if moved || gone.is_some() {
            self.wake();
        }
        Ok(gone)
    }

    fn following(&self, leader_epoch: i32) -> Result<std::sync::MutexGuard<'_, super::Inner>, FollowError> {
        let inner = self.inner();
        let follows = inner.replication.follows() && inner.replication.assignment().leader_epoch == leader_epoch;
        if follows { Ok(inner) } else { Err(FollowError::Ended) }
    }

    /// Cuts off what the leader does not have, by its answer: its last epoch up to the one that was asked for, and where that
    /// ends. Says whether anything was cut; the recovery points must be written then before anything is appended.
    pub fn truncate_by_epoch(&self, leader_epoch: i32, diverging: (i32, i64)) -> Result<bool, FollowError> {
        let mut inner = self.following(leader_epoch)?;
        let (end, high_watermark) = (inner.log.end_offset(), inner.replication.high_watermark());
        let (offset, _) = truncation(diverging, |epoch| inner.log.end_of_epoch(epoch), end, high_watermark);
        if offset < high_watermark {
            tracing::warn!("{}: truncated to {offset}, below the high watermark {high_watermark}", inner.log.dir().display());
        }
        self.truncate(&mut inner, offset)
    }

    /// Cuts the log at an offset: the leader's ends there.
    pub fn truncate_to(&self, leader_epoch: i32, offset: i64) -> Result<bool, FollowError> {
        let mut inner = self.following(leader_epoch)?;
        self.truncate(&mut inner, offset)
    }

    fn truncate(&self, inner: &mut super::Inner, offset: i64) -> Result<bool, FollowError> {
        let cut = inner.log.truncate_to(offset).inspect_err(|e| self.shared.log_dir.note(e))?;
        let end = inner.log.end_offset();
        inner.replication.truncated(end);
        Ok(cut)
    }

    /// Begins anew at an offset: the leader has deleted what this log ends with. Returns files to be removed.
    pub fn begin_at(&self, leader_epoch: i32, offset: i64) -> Result<Option<Gone>, FollowError> {
        let mut inner = self.following(leader_epoch)?;
        let gone = inner.log.truncate_fully_and_start_at(offset).inspect_err(|e| self.shared.log_dir.note(e))?;
        inner.replication.truncated(offset);
        inner.replication.start_moved(offset);
        Ok(gone)
    }
}
