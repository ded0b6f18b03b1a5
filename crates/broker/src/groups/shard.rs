//! The groups of one partition of `__consumer_offsets`, while this broker leads it in one epoch.
//!
//! Invariant: what is decided and what is appended have the same order, since one lock spans both. A shard that is closed answers
//! everything that waits and takes nothing more.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kafka_protocol::ResponseError;
use tokio::sync::{Notify, oneshot};

use super::{
    batches::{self, wall_ms},
    coordinator::GroupSettings,
    core::{Answer, Effects, Group, Now, Offsets, Token},
    load, value,
};
use crate::storage::Led;

/// Memory of all shards of a broker, in bytes.
#[derive(Debug, Default)]
pub struct Usage {
    pub(super) groups: AtomicUsize,
    pub(super) offsets: AtomicUsize,
}

impl Usage {
    /// Bytes of members and of offsets.
    pub fn bytes(&self) -> (usize, usize) {
        (self.groups.load(Ordering::Relaxed), self.offsets.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    /// the partition is led by another broker, or in another epoch
    Closed,
    /// it cannot be written; it is loaded again
    Failed,
}

/// A group with its offsets.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) group: Group,
    pub(super) offsets: Offsets,
    /// earliest deadline that is in the timers
    scheduled: Option<i64>,
    /// what is counted for it
    pub(super) group_bytes: usize,
    offset_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Inner {
    phase: Phase,
    pub(super) groups: HashMap<String, Hosted>,
    waiters: HashMap<Token, oneshot::Sender<Answer>>,
    next_token: Token,
    timers: BTreeSet<(i64, String)>,
}

/// The groups of one partition.
#[derive(Debug)]
pub struct Shard {
    /// epoch that this broker leads in
    pub epoch: i32,
    /// the partition
    pub led: Arc<Led>,
    pub(super) settings: Arc<GroupSettings>,
    pub(super) usage: Arc<Usage>,
    begun: Instant,
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Shard {
    /// A shard that is to be loaded. `begun` is the origin of the broker's ticks.
    pub fn new(epoch: i32, led: Arc<Led>, settings: Arc<GroupSettings>, usage: Arc<Usage>, begun: Instant) -> Self {
        let inner =
            Inner { phase: Phase::Loading, groups: HashMap::new(), waiters: HashMap::new(), next_token: 0, timers: BTreeSet::new() };
        Self { epoch, led, settings, usage, begun, inner: Mutex::new(inner), wake: Notify::new() }
    }

    pub(super) fn now(&self) -> Now {
        Now { ticks: self.begun.elapsed().as_millis() as i64, wall: wall_ms() }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups, if they are loaded and still this broker's.
    pub(super) fn active(&self) -> Result<MutexGuard<'_, Inner>, ResponseError> {
        let inner = self.inner();
        match inner.phase {
            Phase::Active => Ok(inner),
            Phase::Loading => Err(ResponseError::CoordinatorLoadInProgress),
            Phase::Closed | Phase::Failed => Err(ResponseError::NotCoordinator),
        }
    }

    /// Whether it takes requests.
    pub fn is_active(&self) -> bool {
        self.inner().phase == Phase::Active
    }

    /// Whether it is closed, and will not be loaded again.
    pub fn is_closed(&self) -> bool {
        self.inner().phase == Phase::Closed
    }

    /// Whether its log is being read.
    pub fn is_loading(&self) -> bool {
        self.inner().phase == Phase::Loading
    }

    /// Reads the log. Takes as long as that takes: not for a reactor's thread.
    pub fn load(&self) -> Result<(), ResponseError> {
        let begun = Instant::now();
        let loaded = load::load(&self.led.partition, self.now(), || self.is_loading())?;
        let mut inner = self.inner();
        if inner.phase != Phase::Loading {
            return Ok(());
        }
        inner.phase = Phase::Active;
        tracing::debug!("{} groups are loaded in {:?}", loaded.len(), begun.elapsed());
        let ids: Vec<String> = loaded.keys().cloned().collect();
        for (id, (group, offsets)) in loaded {
            inner.groups.insert(id, Hosted { group, offsets, scheduled: None, group_bytes: 0, offset_bytes: 0 });
        }
        for id in ids {
            let mut fx = Effects::default();
            if let Some(hosted) = inner.groups.get_mut(&id) {
                hosted.group.loaded(&self.settings.limits, self.now(), &mut fx);
            }
            self.settle_in(&mut inner, &id, fx, None);
        }
        Ok(())
    }

    /// Answers all that waits and takes nothing more.
    pub fn close(&self) {
        self.close_in(&mut self.inner(), Phase::Closed);
    }

    fn close_in(&self, inner: &mut Inner, phase: Phase) {
        if inner.phase == Phase::Closed {
            return;
        }
        inner.phase = phase;
        for (_, mut hosted) in std::mem::take(&mut inner.groups) {
            let mut fx = Effects::default();
            hosted.group.unload(ResponseError::NotCoordinator, self.now(), &mut fx);
            self.uncount(&hosted);
            for (token, answer) in fx.answers {
                if let Some(waiter) = inner.waiters.remove(&token) {
                    let _ = waiter.send(answer);
                }
            }
        }
        inner.waiters.clear();
        inner.timers.clear();
        self.wake.notify_one();
    }

    /// The partition cannot be written: what is in memory is not what is in the log.
    fn fail_in(&self, inner: &mut Inner, error: ResponseError) {
        if inner.phase == Phase::Active {
            tracing::warn!("a partition of the offsets topic cannot be written: {error:?}; its groups are unloaded");
            self.close_in(inner, Phase::Failed);
        }
    }

    /// The same, after a wait.
    pub(super) fn failed_to_commit(&self, error: ResponseError) {
        if is_fatal(error) {
            self.fail_in(&mut self.inner(), error);
        }
    }

    /// Appends records. Returns the offset of the first.
    pub(super) fn append(&self, inner: &mut Inner, entries: &[value::Entry]) -> Result<i64, ResponseError> {
        let bytes = batches::encode(entries).map_err(|e| {
            tracing::error!("offsets topic: {e}");
            ResponseError::UnknownServerError
        })?;
        // Led again in another epoch: the groups have to be loaded first.
        let partition = &self.led.partition;
        let result = match partition.leader_epoch() == self.epoch {
            true => partition.append(&bytes),
            false => Err(ResponseError::NotLeaderOrFollower),
        };
        let result = result.and_then(|a| match a.leader_epoch == self.epoch {
            true => Ok(a.base_offset),
            false => Err(ResponseError::NotLeaderOrFollower),
        });
        if let Err(e) = result
            && is_fatal(e)
        {
            self.fail_in(inner, e);
        }
        result
    }

    /// Waits until what was appended is committed.
    pub(super) async fn committed(&self, end_offset: i64) -> Result<(), ResponseError> {
        self.led.partition.committed(end_offset, self.epoch, self.settings.commit_timeout).await
    }

    fn uncount(&self, hosted: &Hosted) {
        self.usage.groups.fetch_sub(hosted.group_bytes, Ordering::Relaxed);
        self.usage.offsets.fetch_sub(hosted.offset_bytes, Ordering::Relaxed);
    }

    /// Carries out what a call to a group led to, counts its memory and sets its timer.
    pub(super) fn settle(self: &Arc<Self>, inner: &mut Inner, id: &str, fx: Effects) {
        self.settle_in(inner, id, fx, Some(self));
    }

    /// `this` is there to wait for records; a group that is only loaded writes none.
    fn settle_in(&self, inner: &mut Inner, id: &str, fx: Effects, this: Option<&Arc<Self>>) {
        let mut queue = VecDeque::from([fx]);
        while let Some(fx) = queue.pop_front() {
            for (token, answer) in fx.answers {
                // One whose connection has ended is not there to be told.
                if let Some(waiter) = inner.waiters.remove(&token) {
                    let _ = waiter.send(answer);
                }
            }
            for store in fx.stores {
                let (store_id, entry) = (store.id, value::Entry::Group(id.to_owned(), Some(store.value)));
                match (self.append(inner, &[entry]), this) {
                    (Ok(at), Some(this)) => this.clone().wait_for(id.to_owned(), store_id, at + 1),
                    (Ok(_), None) => {}
                    (Err(e), _) => {
                        let Some(hosted) = inner.groups.get_mut(id) else { continue };
                        let mut fx = Effects::default();
                        hosted.group.stored(store_id, Err(group_error(e)), &self.settings.limits, self.now(), &mut fx);
                        queue.push_back(fx);
                    }
                }
            }
        }
        let Some(hosted) = inner.groups.get_mut(id) else { return };
        let (group_bytes, offset_bytes) = (hosted.group.weight(), hosted.offsets.weight());
        self.usage.groups.fetch_add(group_bytes, Ordering::Relaxed);
        self.usage.offsets.fetch_add(offset_bytes, Ordering::Relaxed);
        self.usage.groups.fetch_sub(hosted.group_bytes, Ordering::Relaxed);
        self.usage.offsets.fetch_sub(hosted.offset_bytes, Ordering::Relaxed);
        (hosted.group_bytes, hosted.offset_bytes) = (group_bytes, offset_bytes);
        // Heartbeats move deadlines away and leave the timer as it is: it looks again when it is due.
        if let Some(next) = hosted.group.next_deadline()
            && hosted.scheduled.is_none_or(|at| next < at)
        {
            let before = hosted.scheduled.replace(next);
            if let Some(before) = before {
                inner.timers.remove(&(before, id.to_owned()));
            }
            inner.timers.insert((next, id.to_owned()));
            self.wake.notify_one();
        }
    }

    fn wait_for(self: Arc<Self>, id: String, store: u64, end_offset: i64) {
        tokio::spawn(async move {
            let result = self.committed(end_offset).await;
            if let Err(e) = result {
                self.failed_to_commit(e);
            }
            let Ok(mut inner) = self.active() else { return };
            let Some(hosted) = inner.groups.get_mut(&id) else { return };
            let mut fx = Effects::default();
            hosted.group.stored(store, result.map_err(group_error), &self.settings.limits, self.now(), &mut fx);
            self.settle(&mut inner, &id, fx);
        });
    }

    /// Does what is due. Returns how long there is nothing to do; without an end, until it is woken.
    fn tick(self: &Arc<Self>) -> Option<Duration> {
        let mut inner = self.inner();
        loop {
            let now = self.now();
            let (at, id) = inner.timers.first().cloned()?;
            if at > now.ticks {
                return Some(Duration::from_millis((at - now.ticks) as u64));
            }
            inner.timers.pop_first();
            let Some(hosted) = inner.groups.get_mut(&id) else { continue };
            hosted.scheduled = None;
            let mut fx = Effects::default();
            hosted.group.tick(&self.settings.limits, now, &mut fx);
            self.settle(&mut inner, &id, fx);
        }
    }

    /// Keeps the groups' timers until the shard is closed.
    pub async fn run(self: &Arc<Self>) {
        while self.is_active() {
            match self.tick() {
                Some(pause) => drop(tokio::time::timeout(pause, self.wake.notified()).await),
                None => self.wake.notified().await,
            }
        }
    }

    /// The group; it is made if there is none.
    pub(super) fn hosted<'a>(&self, inner: &'a mut Inner, id: &str) -> &'a mut Hosted {
        let now = self.now();
        inner.groups.entry(id.to_owned()).or_insert_with(|| Hosted {
            group: Group::new(id, now),
            offsets: Offsets::default(),
            scheduled: None,
            group_bytes: 0,
            offset_bytes: 0,
        })
    }

    /// Takes a group out of memory.
    pub(super) fn forget(&self, inner: &mut Inner, id: &str) {
        if let Some(hosted) = inner.groups.remove(id) {
            self.uncount(&hosted);
            if let Some(at) = hosted.scheduled {
                inner.timers.remove(&(at, id.to_owned()));
            }
        }
    }
}

impl Inner {
    pub(super) fn waiter(&mut self) -> (Token, oneshot::Receiver<Answer>) {
        // Of requests that were answered, or given up by their clients, nothing stays.
        let (send, receive) = oneshot::channel();
        let token = self.next_token;
        self.next_token += 1;
        self.waiters.insert(token, send);
        (token, receive)
    }
}

/// Errors after which memory and log may differ.
fn is_fatal(error: ResponseError) -> bool {
    matches!(error, ResponseError::NotLeaderOrFollower | ResponseError::KafkaStorageError | ResponseError::FencedLeaderEpoch)
}

/// What members get for an error of the log (GroupMetadataManager.storeGroup).
fn group_error(error: ResponseError) -> ResponseError {
    match error {
        ResponseError::UnknownTopicOrPartition | ResponseError::NotEnoughReplicas | ResponseError::NotEnoughReplicasAfterAppend => {
            ResponseError::CoordinatorNotAvailable
        }
        ResponseError::NotLeaderOrFollower | ResponseError::KafkaStorageError | ResponseError::FencedLeaderEpoch => {
            ResponseError::NotCoordinator
        }
        ResponseError::RequestTimedOut => ResponseError::RebalanceInProgress,
        ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge | ResponseError::InvalidFetchSize => {
            ResponseError::UnknownServerError
        }
        e => e,
    }
}

/// What a commit gets for an error of the log (GroupMetadataManager.storeOffsets).
pub(super) fn offset_error(error: ResponseError) -> ResponseError {
    match error {
        ResponseError::RequestTimedOut => error,
        ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge | ResponseError::InvalidFetchSize => {
            ResponseError::InvalidCommitOffsetSize
        }
        e => group_error(e),
    }
}
