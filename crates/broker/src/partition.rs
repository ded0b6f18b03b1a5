//! One partition: the log, its replication, and the requests that wait for it to change.
//!
//! Invariant: leadership is a state of this object, which there is once for each directory: a request that began under an earlier
//! leadership meets the same log. What a consumer reads is below the high watermark. IO is done before the state machine
//! ([`Replication`]) hears of it, all under one lock.

mod commits;
mod follow;
mod read;

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kafka_protocol::ResponseError;
use septet_daemon::metrics::Registry;
use tokio::sync::Notify;

pub use commits::Commit;
use commits::Commits;
pub use follow::{FetchPosition, FollowError};
pub use read::{Fetched, Read, ReadFrom};

use crate::{
    batch,
    core::partition::{Answer, Assignment, Effects, Lag, Proposal, Replication},
    log::{Cleaned, Dirt, Gone, Log, LogError, Plan, Producer, now_ms},
    log_dir::LogDir,
    metrics::{ReplicationMetrics, TopicTraffic, Traffic},
    records,
    replica::Throttles,
    topic_settings::TopicSettings,
    watch::Watchers,
};

/// Bytes after which the disk is waited for in the background, so that a start after a kill has little to check.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;

/// A proposal of a partition's leader: topic, number, proposal.
pub type Proposed = (String, i32, Proposal);

/// What the partitions of a broker share.
#[derive(Debug)]
pub struct Shared {
    /// This broker's number.
    pub me: i32,
    /// `replica.lag.time.max.ms`
    pub lag: Lag,
    /// Wakes what syncs in the background.
    pub sync: Arc<Notify>,
    /// ISR changes to be sent to the controller, at most one for each partition.
    pub proposals: Mutex<Vec<Proposed>>,
    /// Wakes what sends them.
    pub proposed: Notify,
    /// What clients send and read, by topic.
    pub traffic: Traffic,
    /// Changes of the ISR, elections, bytes between brokers.
    pub replication: ReplicationMetrics,
    /// Throttles of replication.
    pub throttles: Arc<Throttles>,
    /// Whether the log directory can be used.
    pub log_dir: LogDir,
}

impl Shared {
    /// For a broker.
    pub fn new(me: i32, lag_max_ms: i64) -> Arc<Self> {
        Self::measured(me, lag_max_ms, Arc::default())
    }

    /// The same, with what is measured of its topics in a registry.
    pub fn measured(me: i32, lag_max_ms: i64, metrics: Arc<Registry>) -> Arc<Self> {
        let lag = Lag { max_ms: lag_max_ms };
        let (replication, traffic) = (ReplicationMetrics::new(&metrics), Traffic::new(metrics));
        let (sync, proposals, proposed, throttles) = (Arc::default(), Mutex::default(), Notify::new(), Arc::new(Throttles::new(me)));
        Arc::new(Self { me, lag, sync, proposals, proposed, traffic, replication, throttles, log_dir: LogDir::default() })
    }
}

/// A partition that this broker has.
#[derive(Debug)]
pub struct Partition {
    topic: String,
    index: i32,
    inner: Mutex<Inner>,
    watchers: Arc<Watchers>,
    commits: Commits,
    shared: Arc<Shared>,
    traffic: Arc<TopicTraffic>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    settings: TopicSettings,
    replication: Replication,
    /// First epoch of the leadership that has gone on without a break since.
    leads_since: i32,
    /// As a follower, it has what its leader had committed at the last fetch.
    caught_up: bool,
}

/// What was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// offset of the first record
    pub base_offset: i64,
    /// offset behind the last record
    pub end_offset: i64,
    /// the leadership under which they were appended
    pub leader_epoch: i32,
    /// first offset of the log
    pub start_offset: i64,
    /// time that the log gave the records, -1 if they keep their own
    pub time: i64,
}

impl Partition {
    /// A partition that is neither led nor followed yet, with the high watermark of the last checkpoint.
    pub fn new(topic: &str, index: i32, log: Log, settings: TopicSettings, high_watermark: i64, shared: Arc<Shared>) -> Self {
        let mut replication = Replication::new(shared.me, high_watermark, log.end_offset());
        replication.start_moved(log.start_offset());
        let inner = Mutex::new(Inner { log, settings, replication, leads_since: -1, caught_up: false });
        let traffic = shared.traffic.topic(topic);
        Self { topic: topic.to_owned(), index, inner, watchers: Arc::default(), commits: Commits::default(), shared, traffic }
    }

    /// Notes that something failed, which may be the disk.
    fn failed(&self, what: &str, e: &LogError) -> ResponseError {
        tracing::error!("{what}: {e}");
        self.shared.log_dir.note(e);
        ResponseError::KafkaStorageError
    }

    /// Those that want to know when this changes.
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if this broker leads and can use it.
    fn leading(&self) -> Result<MutexGuard<'_, Inner>, ResponseError> {
        self.serving(ReadFrom::Leader)
    }

    /// Does what a state machine's effects ask for. The lock is given back first.
    fn carry_out(&self, inner: MutexGuard<'_, Inner>, effects: Effects) {
        let high_watermark = inner.replication.high_watermark();
        if let Some(proposal) = effects.propose {
            let mut proposals = self.shared.proposals.lock().unwrap_or_else(PoisonError::into_inner);
            proposals.retain(|(topic, index, _)| *index != self.index || *topic != self.topic);
            proposals.push((self.topic.clone(), self.index, proposal));
            self.shared.proposed.notify_one();
        }
        drop(inner);
        if effects.high_watermark_moved {
            self.commits.reached(high_watermark);
            self.wake();
        }
    }

    /// Takes a decision of the controller: leads or follows from now on. One of an older epoch is ignored, and says so by `false`.
    pub fn assign(&self, assignment: Assignment) -> bool {
        let mut inner = self.inner();
        let before = inner.replication.assignment().leader_epoch;
        if assignment.leader_epoch < before {
            return false;
        }
        let led = inner.replication.leads();
        if assignment.leader == self.shared.me {
            if !led {
                inner.leads_since = assignment.leader_epoch;
            }
            let end = inner.log.end_offset();
            let effects = inner.replication.become_leader(assignment, end, now_ms());
            self.carry_out(inner, effects);
            self.wake();
        } else {
            inner.replication.become_follower(assignment);
            inner.caught_up = false;
            drop(inner);
            self.commits.lost();
            self.wake();
        }
        true
    }

    /// This broker does not lead any more. Requests that wait are answered.
    pub fn resign(&self) {
        self.inner().replication.resign();
        self.commits.lost();
        self.wake();
    }

    /// Whether this broker leads.
    pub fn leads(&self) -> bool {
        self.inner().replication.leads()
    }

    /// What the controller decided last.
    pub fn assignment(&self) -> Assignment {
        self.inner().replication.assignment().clone()
    }

    /// Time has passed: followers that lag are proposed for removal from the ISR.
    pub fn tick(&self) {
        let mut inner = self.inner();
        let effects = inner.replication.tick(now_ms(), self.shared.lag);
        self.carry_out(inner, effects);
    }

    /// The controller has answered a proposal.
    pub fn answered(&self, proposal: &Proposal, answer: Answer) {
        let mut inner = self.inner();
        let before = inner.replication.assignment().isr.len();
        let effects = inner.replication.answered(proposal, answer, now_ms(), self.shared.lag);
        match inner.replication.assignment().isr.len().cmp(&before) {
            Ordering::Less => self.shared.replication.shrinks.inc(),
            Ordering::Greater => self.shared.replication.expands.inc(),
            Ordering::Equal => {}
        }
        self.carry_out(inner, effects);
        // Followers that caught up meanwhile are looked at again.
        self.wake();
    }

    /// Goes by other settings from now on.
    pub fn set_settings(&self, settings: TopicSettings) {
        let mut inner = self.inner();
        inner.settings = settings;
        inner.log.set_limits(settings.log_limits());
    }

    /// What it goes by.
    pub fn settings(&self) -> TopicSettings {
        self.inner().settings
    }

    /// The term of leadership.
    pub fn leader_epoch(&self) -> i32 {
        self.inner().replication.assignment().leader_epoch
    }

    /// Appends one batch that is to be on enough replicas before it is acknowledged: fails if too few are in sync
    /// (`min.insync.replicas`). See [`Partition::committed`].
    pub fn append(&self, bytes: &[u8]) -> Result<Appended, ResponseError> {
        self.append_with(bytes, true)
    }

    /// Appends what a producer sent, which must be one batch. With `all`, only if enough replicas are in sync.
    pub fn append_with(&self, bytes: &[u8], all: bool) -> Result<Appended, ResponseError> {
        let TopicSettings { max_message_bytes, log_append_time, compaction, .. } = self.leading()?.settings;
        let heads = batch::validate(bytes, max_message_bytes)?;
        let [head] = heads[..] else {
            return Err(ResponseError::InvalidRecord);
        };
        let checked = records::check(bytes, &head, max_message_bytes, compaction.enabled)?;
        let mut copy = bytes.to_vec();
        let mut inner = self.leading()?;
        if all && inner.replication.is_under_min_isr(inner.settings.min_insync_replicas) {
            return Err(ResponseError::NotEnoughReplicas);
        }
        let epoch = inner.replication.assignment().leader_epoch;
        if let Some(known) = inner.log.check_producer(&head)? {
            // Sent again: stored once, and answered as the first time.
            let start_offset = inner.log.start_offset();
            return Ok(Appended {
                base_offset: known.base_offset,
                end_offset: known.last_offset + 1,
                leader_epoch: epoch,
                start_offset,
                time: known.timestamp,
            });
        }
        let time = if log_append_time { now_ms() } else { -1 };
        let head = batch::stamp(&mut copy, head, if log_append_time { time } else { checked.max_timestamp }, log_append_time);
        let base_offset = inner.log.append(&mut copy, &[head], epoch).map_err(|e| self.failed("append", &e))?;
        let (start_offset, end_offset) = (inner.log.start_offset(), inner.log.end_offset());
        if inner.log.unsynced_bytes() > SYNC_BYTES {
            self.shared.sync.notify_one();
        }
        let effects = inner.replication.appended(end_offset, now_ms(), self.shared.lag);
        self.carry_out(inner, effects);
        self.traffic.produced(bytes.len(), head.count);
        // Followers read up to the end, which has moved in any case.
        self.wake();
        Ok(Appended { base_offset, end_offset, leader_epoch: epoch, start_offset, time })
    }

    /// Waits until what is below an offset, appended under a leadership, is committed: on all in-sync replicas, of which there are
    /// enough. `NOT_LEADER_OR_FOLLOWER` if the leadership ends meanwhile, `REQUEST_TIMED_OUT` after `timeout`,
    /// `NOT_ENOUGH_REPLICAS_AFTER_APPEND` if the ISR has become too small.
    pub async fn committed(&self, end_offset: i64, leader_epoch: i32, timeout: Duration) -> Result<(), ResponseError> {
        // Registered before it is compared: what moves in between is not missed.
        let wait = self.commits.wait(end_offset);
        let enough = |inner: &Inner| match inner.replication.is_under_min_isr(inner.settings.min_insync_replicas) {
            true => Err(ResponseError::NotEnoughReplicasAfterAppend),
            false => Ok(()),
        };
        {
            let inner = self.leading()?;
            if leader_epoch < inner.leads_since {
                return Err(ResponseError::NotLeaderOrFollower);
            }
            if inner.replication.high_watermark() >= end_offset {
                return enough(&inner);
            }
        }
        match tokio::time::timeout(timeout, wait).await {
            Err(_) => Err(ResponseError::RequestTimedOut),
            Ok(Ok(Commit::Reached)) => enough(&*self.leading()?),
            Ok(Ok(Commit::LeadershipLost) | Err(_)) => Err(ResponseError::NotLeaderOrFollower),
        }
    }

    fn wake(&self) {
        self.watchers.wake();
    }

    /// First and next offset.
    pub fn offsets(&self) -> (i64, i64) {
        let inner = self.inner();
        (inner.log.start_offset(), inner.log.end_offset())
    }

    /// Offset up to which records are committed, and may be read.
    pub fn high_watermark(&self) -> i64 {
        self.inner().replication.high_watermark()
    }

    /// Whether the first offset is not that of the first segment.
    pub fn start_is_within(&self) -> bool {
        self.inner().log.start_is_within()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.inner().log.size()
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.inner().log.segments()
    }

    /// Offset up to which the log is on the disk.
    pub fn recovery_point(&self) -> i64 {
        self.inner().log.recovery_point()
    }

    /// Deletes the records below an offset; -1 is all that are committed. Returns that offset, whether the log begins elsewhere now, and
    /// files to be removed.
    pub fn delete_below(&self, offset: i64) -> Result<(i64, bool, Option<Gone>), ResponseError> {
        let mut inner = self.leading()?;
        let (start, end) = (inner.log.start_offset(), inner.replication.high_watermark());
        let offset = if offset == -1 { end } else { offset };
        if offset < start || offset > end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let gone = inner.log.delete_below(offset).map_err(|e| self.failed("delete records", &e))?;
        let now = inner.log.start_offset();
        drop(inner);
        if now != start {
            self.wake();
        }
        Ok((offset, now != start, gone))
    }

    /// The lowest first offset of the replicas that are alive, if this broker leads; -1 while one of them is not known.
    pub fn low_watermark(&self, alive: impl Fn(i32) -> bool) -> Result<i64, ResponseError> {
        let inner = self.leading()?;
        Ok(inner.replication.low_watermark(inner.log.start_offset(), alive))
    }

    /// Lets go of what is too old or too much.
    pub fn expire(&self) -> Result<Option<Gone>, LogError> {
        let mut inner = self.inner();
        let TopicSettings { retention, deletes, .. } = inner.settings;
        let committed = inner.replication.high_watermark();
        let gone = if deletes { inner.log.expire(retention, committed)? } else { None };
        drop(inner);
        if gone.is_some() {
            self.wake();
        }
        Ok(gone)
    }

    /// How much could be compacted now, where the topic is compacted. Never at or above the high watermark.
    pub fn dirt(&self) -> Option<Dirt> {
        let mut inner = self.inner();
        let settings = inner.settings.compaction;
        let high_watermark = inner.replication.high_watermark();
        settings.enabled.then(|| inner.log.dirt(&settings, high_watermark, now_ms())).filter(|d| d.is_due(&settings))
    }

    /// A compaction has failed: there is no other until the next start.
    pub fn leave_uncleaned(&self) {
        self.inner().log.leave_uncleaned();
    }

    /// Begins a compaction.
    pub fn plan_cleaning(&self) -> Plan {
        let mut inner = self.inner();
        let settings = inner.settings.compaction;
        let high_watermark = inner.replication.high_watermark();
        inner.log.plan_cleaning(&settings, high_watermark, now_ms())
    }

    /// Takes a compacted segment; see [`Log::replace`].
    pub fn replace(&self, cleaned: Cleaned) -> Result<Option<Gone>, LogError> {
        self.inner().log.replace(cleaned)
    }

    /// Offset up to which it is compacted.
    pub fn cleaned_to(&self) -> i64 {
        self.inner().log.cleaned_to()
    }

    /// It is compacted up to an offset.
    pub fn set_cleaned_to(&self, offset: i64) {
        self.inner().log.set_cleaned_to(offset);
    }

    /// Producers that are remembered, by id.
    pub fn producers(&self) -> Result<Vec<(i64, Producer)>, ResponseError> {
        Ok(self.leading()?.log.producers().map(|(id, p)| (id, *p)).collect())
    }

    /// Forgets producers that were silent for so long, in milliseconds.
    pub fn expire_producers(&self, expiration_ms: i64) {
        self.inner().log.expire_producers(now_ms(), expiration_ms);
    }

    /// Waits for the disk, while others go on reading and appending.
    pub fn sync(&self) -> Result<(), LogError> {
        let unsynced = self.inner().log.unsynced();
        if let Some(unsynced) = unsynced {
            let end = unsynced.sync()?;
            self.inner().log.synced(end);
        }
        Ok(())
    }

    /// Writes everything to the disk, for a stop.
    pub fn flush(&self) -> Result<i64, LogError> {
        let mut inner = self.inner();
        inner.log.flush()?;
        Ok(inner.log.end_offset())
    }

    /// Gives the directory another name, under which it waits for its removal. Nothing is led or found any more.
    pub fn retire(&self, to: &std::path::Path) -> Result<(), LogError> {
        let mut inner = self.inner();
        inner.replication.resign();
        inner.log.rename(to)?;
        drop(inner);
        self.commits.lost();
        self.wake();
        Ok(())
    }
}
