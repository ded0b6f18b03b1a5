//! Reading from a partition: which replica may serve, by epochs and offsets, and records by time.
//!
//! Invariant: a consumer gets what is below the high watermark, of a leader or of a follower; a follower gets all, of the leader only.

use std::sync::MutexGuard;

use kafka_protocol::ResponseError;

use super::{Inner, Partition};
use crate::{
    core::{partition::Effects, read_replica::Candidate},
    log::{Found, LogError, Slice, locate, now_ms},
};

/// What a fetch found.
#[derive(Debug)]
pub struct Fetched {
    /// whole batches, if there are any
    pub records: Option<Slice>,
    /// offset up to which records may be read
    pub high_watermark: i64,
    /// offset up to which a consumer with `isolation.level=read_committed` may read
    pub last_stable_offset: i64,
    /// first offset
    pub start_offset: i64,
    /// there are records that this reader may read, whether or not they had room
    pub more: bool,
    /// for a reader of committed records only: producers and first offsets of transactions that were aborted
    pub aborted: Option<Vec<(i64, i64)>>,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// first offset
    pub offset: i64,
    /// bytes, at the most
    pub max_bytes: usize,
    /// one batch, also if it has more bytes than that
    pub at_least_one: bool,
    /// up to the last stable offset only
    pub stable_only: bool,
    /// a follower, which reads up to the end of the log: its number and epoch, -1 if it does not say
    pub replica: Option<(i32, i64)>,
    /// the follower's first offset
    pub log_start: i64,
    /// the leader epoch that the reader knows, -1 if it does not say
    pub leader_epoch: i32,
    /// a follower may serve it
    pub from: ReadFrom,
}

/// Which replicas may serve a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// only the leader
    Leader,
    /// a follower too (KIP-392)
    Any,
}

fn last_stable(inner: &mut Inner) -> i64 {
    let high_watermark = inner.replication.high_watermark();
    inner.log.first_unstable_offset(high_watermark).map_or(high_watermark, |o| o.min(high_watermark))
}

impl Partition {
    /// The log, if this broker is one that may serve a reader, and can use it.
    pub(super) fn serving(&self, from: ReadFrom) -> Result<MutexGuard<'_, Inner>, ResponseError> {
        if self.shared.log_dir.is_offline() {
            return Err(ResponseError::KafkaStorageError);
        }
        let inner = self.inner();
        let serves = inner.replication.leads() || (from == ReadFrom::Any && inner.replication.follows());
        if serves { Ok(inner) } else { Err(ResponseError::NotLeaderOrFollower) }
    }

    /// Whether this broker leads or follows: it can serve consumers.
    pub fn serves(&self) -> bool {
        self.serving(ReadFrom::Any).is_ok()
    }

    /// Whether a follower is to get no records now: it is not in sync, and its throttle's rate is used up.
    pub fn holds_back(&self, follower: i32) -> bool {
        let throttle = &self.shared.throttles.leader;
        throttle.is_throttled(&self.topic, self.index)
            && throttle.is_exceeded()
            && !self.inner().replication.assignment().isr.contains(&follower)
    }

    /// In-sync followers that have an offset, if this broker leads.
    pub fn read_replicas(&self, offset: i64) -> Vec<Candidate> {
        self.inner().replication.read_replicas(offset, now_ms())
    }

    /// Compares the leader epoch that a client believes in; -1 asks for nothing.
    pub fn check_epoch(&self, epoch: i32, from: ReadFrom) -> Result<(), ResponseError> {
        let mine = self.serving(from)?.replication.assignment().leader_epoch;
        match epoch {
            -1 => Ok(()),
            e if e < mine => Err(ResponseError::FencedLeaderEpoch),
            e if e > mine => Err(ResponseError::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// The last epoch up to one, and where it ended; -1 and -1 if that is not known.
    pub fn end_of_epoch(&self, epoch: i32, from: ReadFrom) -> Result<(i32, i64), ResponseError> {
        let inner = self.serving(from)?;
        if !inner.replication.leads() {
            return Ok(inner.log.end_of_epoch(epoch).unwrap_or((-1, -1)));
        }
        // The leader's own epoch has begun, also before its first record.
        let end = inner.log.end_offset();
        let last = inner.log.epochs().last().map(|e| e.epoch);
        let current = inner.replication.assignment().leader_epoch;
        if epoch == current {
            return Ok((epoch, end));
        }
        if (last.unwrap_or(-1) + 1..current).contains(&epoch) {
            return Ok((last.unwrap_or(epoch), end));
        }
        Ok(inner.log.end_of_epoch(epoch).unwrap_or((-1, -1)))
    }

    /// Offset up to which a client may ask for, as its leader knows it: `OFFSET_NOT_AVAILABLE` while a new leader does not know yet what its
    /// predecessor had committed.
    pub fn latest_offset(&self) -> Result<i64, ResponseError> {
        let inner = self.leading()?;
        let high_watermark = inner.replication.high_watermark();
        match inner.replication.epoch_start().is_some_and(|start| high_watermark < start) {
            true => Err(ResponseError::OffsetNotAvailable),
            false => Ok(high_watermark),
        }
    }

    /// Offset up to which every transaction is decided: at most the high watermark.
    pub fn last_stable_offset(&self) -> i64 {
        last_stable(&mut self.inner())
    }

    /// Finds what there is from an offset on. A follower reads up to the end of the log, and tells by its offset what it has.
    pub fn find(&self, read: &Read) -> Result<Fetched, ResponseError> {
        let mut inner = self.serving(read.from)?;
        // Compared under the lock: what a follower has of an earlier leader says nothing about what it has of this one.
        if read.leader_epoch >= 0 && read.leader_epoch != inner.replication.assignment().leader_epoch {
            return Err(ResponseError::FencedLeaderEpoch);
        }
        let (start_offset, end) = (inner.log.start_offset(), inner.log.end_offset());
        let (mut effects, mut start_moved) = (Effects::default(), false);
        if let Some((id, epoch)) = read.replica {
            if !inner.replication.assignment().replicas.contains(&id) {
                // The controller has not told yet that this broker follows, or has told that it does not.
                return Err(ResponseError::UnknownLeaderEpoch);
            }
            if read.offset < start_offset || read.offset > end {
                return Err(ResponseError::OffsetOutOfRange);
            }
            let before = inner.replication.follower(id).map(|f| f.start);
            effects = inner.replication.follower_fetched(id, epoch, read.offset, read.log_start, now_ms(), self.shared.lag, true);
            start_moved = inner.replication.follower(id).map(|f| f.start) != before;
        }
        let high_watermark = inner.replication.high_watermark();
        let last_stable_offset = last_stable(&mut inner);
        if read.replica.is_none() && (read.offset < start_offset || read.offset > end) {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let limit = match read.replica {
            Some(_) => end,
            None if read.stable_only => last_stable_offset,
            None => high_watermark,
        };
        let slice = || inner.log.slice_until(read.offset, read.max_bytes, read.at_least_one, limit);
        let found = match read.offset < limit {
            true if inner.log.is_recent(read.offset) => slice(),
            // Indexes and heads are read from files, which may not be cached: connections go on elsewhere.
            true => tokio::task::block_in_place(slice),
            false => Ok(None),
        };
        let found = found.map_err(|e| self.failed("read", &e));
        let aborted = read.stable_only.then(|| match &found {
            Ok(Some(_)) => inner.log.aborted_transactions(read.offset, limit).iter().map(|a| (a.producer_id, a.first_offset)).collect(),
            _ => Vec::new(),
        });
        self.carry_out(inner, effects);
        if start_moved {
            // DeleteRecords may wait for it.
            self.wake();
        }
        Ok(Fetched { records: found?, high_watermark, last_stable_offset, start_offset, more: read.offset < limit, aborted })
    }

    /// Reads whole batches from an offset on, at least one if there is any.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Vec<u8>, ResponseError> {
        self.inner().log.read(offset, max_bytes).map_err(|e| self.failed("read", &e))
    }

    /// First record at or after a time, of those that are committed; with `stable_only`, of decided transactions. `OFFSET_NOT_AVAILABLE` if
    /// a new leader does not know yet whether it is. Others go on meanwhile: a batch may have to be decompressed.
    pub fn offset_for_timestamp(&self, timestamp: i64, stable_only: bool) -> Result<Option<Found>, ResponseError> {
        let failed = |e: LogError| self.failed("look up a time", &e);
        let mut from = 0;
        loop {
            let (start, batch) = {
                let mut inner = self.leading()?;
                let committed = inner.replication.high_watermark();
                let limit = if stable_only { last_stable(&mut inner) } else { committed };
                let batch = inner.log.batch_for_timestamp(timestamp, from).map_err(failed)?;
                let (found, beyond) = match batch {
                    Some(batch) if batch.0.last_offset() < limit => (Some(batch), false),
                    other => (None, other.is_some()),
                };
                if beyond && inner.replication.epoch_start().is_some_and(|start| committed < start) {
                    return Err(ResponseError::OffsetNotAvailable);
                }
                (inner.log.start_offset(), found)
            };
            let Some((head, batch)) = batch else {
                return Ok(None);
            };
            if let Some(found) = locate(&head, &batch, timestamp, from.max(start)).map_err(failed)? {
                return Ok(Some(found));
            }
            from = head.last_offset() + 1;
        }
    }

    /// The record with the largest timestamp, the first if there are several.
    pub fn offset_of_max_timestamp(&self, stable_only: bool) -> Result<Option<Found>, ResponseError> {
        let latest = self.leading()?.log.max_timestamp();
        self.offset_for_timestamp(latest, stable_only)
    }
}
