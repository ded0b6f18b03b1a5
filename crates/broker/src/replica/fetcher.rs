//! Fetching from leaders: one task for each leader, which fetches all partitions that are followed there.
//!
//! Invariant: what a leader sends is taken only while that very leadership is followed; where the logs differ, this one is cut
//! before it grows again (KIP-101, KIP-595).

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, fetch_response::PartitionData},
    protocol::Encodable,
};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    answers::{self, FETCH_VERSION},
    out_of_range::out_of_range,
    session::{Limits, Session},
    throttle::Throttles,
    tracked::Tracked,
};
use crate::{
    broker::Broker,
    core::controller::Name,
    net::peer::Peer,
    partition::{FetchPosition, FollowError},
    storage::Led,
    warn_quietly,
};

/// Pause before a leader is tried again that cannot be reached, or has refused.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Pause of one partition whose answer was an error (`replica.fetch.backoff.ms` is 1 s on Kafka).
const PARTITION_BACK_OFF: Duration = Duration::from_millis(100);
/// Pause of partitions whose throttle's rate is used up, before it is looked at again.
const HELD_BACK: Duration = Duration::from_millis(100);
/// How much longer than the wait that was asked for an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often all positions are looked at: retention moves a log's beginning without an answer of the leader.
const REFRESH: Duration = Duration::from_secs(1);

/// A partition that is followed.
#[derive(Debug)]
struct Followed {
    name: Name,
    topic_id: [u8; 16],
    led: Arc<Led>,
    epoch: i32,
}

/// The task for one leader.
#[derive(Debug)]
struct Fetcher {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    leader: i32,
    at: Mutex<(String, u16)>,
    followed: Mutex<BTreeMap<Name, Arc<Followed>>>,
    /// Counts what is followed from now on, or not any more.
    changed: watch::Sender<u64>,
    throttles: Arc<Throttles>,
}

impl Shared {
    fn note_change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks of a broker.
#[derive(Debug, Default)]
pub struct Fetchers {
    by_leader: Mutex<HashMap<i32, Fetcher>>,
}

impl Fetchers {
    /// Follows a partition at a leader from now on, and at no other.
    #[allow(clippy::too_many_arguments)]
    pub fn follow(&self, broker: &Arc<Broker>, leader: i32, at: (String, u16), name: Name, topic_id: [u8; 16], led: Arc<Led>, epoch: i32) {
        let mut by_leader = lock(&self.by_leader);
        for (id, fetcher) in by_leader.iter() {
            if *id != leader && lock(&fetcher.shared.followed).remove(&name).is_some() {
                fetcher.shared.note_change();
            }
        }
        let fetcher = by_leader.entry(leader).or_insert_with(|| {
            let throttles = broker.storage.shared.throttles.clone();
            let (followed, changed) = (Mutex::default(), watch::Sender::new(0));
            let shared = Arc::new(Shared { leader, at: Mutex::new(at.clone()), followed, changed, throttles });
            let task = tokio::spawn(run(Arc::downgrade(broker), shared.clone()));
            Fetcher { shared, task }
        });
        *lock(&fetcher.shared.at) = at;
        let followed = Followed { name: name.clone(), topic_id, led, epoch };
        lock(&fetcher.shared.followed).insert(name, Arc::new(followed));
        fetcher.shared.note_change();
    }

    /// Follows a partition no more.
    pub fn unfollow(&self, name: &Name) {
        for fetcher in lock(&self.by_leader).values() {
            if lock(&fetcher.shared.followed).remove(name).is_some() {
                fetcher.shared.note_change();
            }
        }
    }

    /// Ends all.
    pub fn stop(&self) {
        lock(&self.by_leader).drain().for_each(|(_, fetcher)| fetcher.task.abort());
    }
}

/// What the task for one leader has to itself.
#[derive(Default)]
struct Task {
    peer: Option<Peer>,
    session: Session,
    tracked: Tracked<Arc<Followed>>,
}

async fn run(broker: Weak<Broker>, shared: Arc<Shared>) {
    let mut task = Task::default();
    let mut changes = shared.changed.subscribe();
    changes.mark_changed();
    let mut refreshed = Instant::now();
    loop {
        if changes.has_changed().unwrap_or(false) {
            changes.borrow_and_update();
            let followed: Vec<_> = lock(&shared.followed).values().map(|f| ((f.topic_id, f.name.1), f.clone())).collect();
            task.tracked.replace(followed, Arc::ptr_eq);
        }
        let now = Instant::now();
        if task.session.begins() || now.duration_since(refreshed) >= REFRESH {
            task.tracked.touch_all();
            refreshed = now;
        }
        task.tracked.wake(now);
        if shared.throttles.follower.is_exceeded() {
            // Those that the leader has in the session too, whether or not they have changed.
            task.tracked.delay_where(now + HELD_BACK, |f| f.led.partition.is_held_back());
        }
        let next = task.tracked.next();
        if task.tracked.is_idle() {
            let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            let _ = tokio::time::timeout(wait, changes.changed()).await;
            // Seen at the beginning of the loop.
            changes.mark_changed();
            continue;
        }
        let Some(broker) = broker.upgrade() else { return };
        // One that is not due yet does not wait for the end of a long poll.
        let wait = next.map_or(broker.config.replica_fetch_wait, |at| at.saturating_duration_since(now));
        if let Err(e) = fetch(&broker, &shared, &mut task, wait, &mut changes).await {
            warn_quietly!("fetching from broker {}: {e}; trying again", shared.leader);
            task.peer = None;
            task.session.reset();
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

pub(super) fn encode<R: Encodable>(request: &R, version: i16) -> io::Result<Bytes> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(body.freeze())
}

async fn connected<'a>(broker: &Broker, shared: &Shared, peer: &'a mut Option<Peer>) -> io::Result<&'a mut Peer> {
    if peer.is_none() {
        let (host, port) = lock(&shared.at).clone();
        *peer = Some(Peer::connect(&host, port, &format!("broker-{}-fetcher-0", broker.id())).await?);
    }
    peer.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// One request and its answer.
async fn fetch(
    broker: &Arc<Broker>,
    shared: &Shared,
    task: &mut Task,
    wait: Duration,
    changes: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    let limits = Limits {
        wait_ms: i32::try_from(wait.min(broker.config.replica_fetch_wait).as_millis()).unwrap_or(i32::MAX),
        bytes: broker.config.replica_fetch_response_bytes,
        partition_bytes: broker.config.replica_fetch_bytes,
    };
    let Task { peer, session, tracked } = task;
    let connection = connected(broker, shared, peer).await?;
    let position = |f: Option<&Arc<Followed>>| f.and_then(|f| f.led.partition.fetch_position(f.epoch));
    let changed = tracked.take_dirty().into_iter().map(|(key, followed)| (key, position(followed)));
    let request = session.request(broker.id(), broker.epoch(), changed, limits);
    if session.is_empty() {
        // Each partition that is followed here is about to be led, or followed elsewhere: news of that are under way.
        session.reset();
        let _ = tokio::time::timeout(BACK_OFF, changes.changed()).await;
        changes.mark_changed();
        return Ok(());
    }
    let body = encode(&request, FETCH_VERSION)?;
    let wait = broker.config.replica_fetch_wait + PATIENCE;
    let asked = connection.request(ApiKey::Fetch as i16, FETCH_VERSION, &body, wait);
    // A partition that is to be followed from now on does not wait for the end of a long poll: the request ends, and the
    // connection with it.
    let answer = tokio::select! {
        answer = asked => answer?,
        _ = changes.changed() => {
            changes.mark_changed();
            *peer = None;
            session.reset();
            return Ok(());
        }
    };
    let response = answers::fetch(answer)?;
    match ResponseError::try_from_code(response.error_code) {
        None => session.answered(response.session_id),
        Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch) => {
            session.reset();
            return Ok(());
        }
        Some(e) => return Err(io::Error::other(format!("{e:?}"))),
    }
    let mut outside = Vec::new();
    let mut truncated = false;
    // Writing may wait for the disk: connections go on elsewhere.
    tokio::task::block_in_place(|| {
        for topic in &response.responses {
            let id = topic.topic_id.into_bytes();
            for p in &topic.partitions {
                let key = (id, p.partition_index);
                let (Some(followed), Some(asked)) = (tracked.get(&key).cloned(), session.asked(&key)) else { continue };
                match take(broker, &followed.led, asked, p) {
                    Ok(cut) => truncated |= cut,
                    Err(Trouble::Ended) => {}
                    Err(Trouble::OutOfRange) => outside.push((key, asked, followed)),
                    Err(Trouble::Later(why)) => {
                        tracing::debug!("{}-{} of broker {}: {why}", followed.name.0, followed.name.1, shared.leader);
                        session.again(&key);
                        tracked.delay(key, Instant::now() + PARTITION_BACK_OFF);
                    }
                }
                tracked.touch(key);
            }
        }
        // Before anything is appended again: a start after a power cut believes what is below the recovery point.
        if truncated && let Err(e) = broker.storage.checkpoint() {
            tracing::error!("checkpoint: {e}");
        }
    });
    for (key, asked, followed) in outside {
        session.again(&key);
        let Followed { name, led, .. } = &*followed;
        if let Err(why) = out_of_range(broker, connected(broker, shared, peer).await?, name, asked, led).await {
            warn_quietly!("{}-{}: {why}", name.0, name.1);
            tracked.delay(key, Instant::now() + PARTITION_BACK_OFF);
        }
    }
    Ok(())
}

/// Why a partition's answer was not taken.
enum Trouble {
    /// The leadership that was followed is over.
    Ended,
    /// The log ends outside of the leader's.
    OutOfRange,
    /// To be tried again after a pause.
    Later(String),
}

impl From<FollowError> for Trouble {
    fn from(e: FollowError) -> Self {
        match e {
            FollowError::Ended => Self::Ended,
            FollowError::Log(e) => {
                warn_quietly!("replication: {e}");
                Self::Later(e.to_string())
            }
        }
    }
}

/// Takes one partition's answer. Says whether the log was cut.
fn take(broker: &Broker, led: &Led, asked: FetchPosition, p: &PartitionData) -> Result<bool, Trouble> {
    let epoch = asked.leader_epoch;
    match ResponseError::try_from_code(p.error_code) {
        None => {}
        Some(ResponseError::OffsetOutOfRange) => return Err(Trouble::OutOfRange),
        Some(e) => return Err(Trouble::Later(format!("{e:?}"))),
    }
    if p.diverging_epoch.end_offset >= 0 {
        return Ok(led.partition.truncate_by_epoch(epoch, (p.diverging_epoch.epoch, p.diverging_epoch.end_offset))?);
    }
    let records = p.records.as_deref().unwrap_or_default();
    let gone = led.partition.follow(epoch, asked.offset, records, p.high_watermark, p.log_start_offset)?;
    if let Some(gone) = gone {
        broker.storage.remove_later(gone, led.partition.settings());
    }
    Ok(false)
}
