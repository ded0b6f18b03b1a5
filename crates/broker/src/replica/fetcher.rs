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
    messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    messages::{ApiKey, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, fetch_response::PartitionData},
    protocol::{Decodable, Encodable, StrBytes},
};
use tokio::{sync::watch, task::JoinHandle};

use super::session::{Asked, Limits, Session};
use crate::{broker::Broker, core::controller::Name, net::peer::Peer, partition::FollowError, storage::Led, warn_quietly};

/// Fetch with topic ids and the follower's epoch.
const FETCH_VERSION: i16 = 15;
const LIST_OFFSETS_VERSION: i16 = 7;
/// Pause before a leader is tried again that cannot be reached, or has refused.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Pause of one partition whose answer was an error (`replica.fetch.backoff.ms` is 1 s on Kafka).
const PARTITION_BACK_OFF: Duration = Duration::from_millis(100);
/// How much longer than the wait that was asked for an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Partitions that are to be asked for.
type Due = BTreeMap<Name, (Asked, Arc<Led>)>;

/// A partition that is followed.
#[derive(Debug, Clone)]
struct Followed {
    topic_id: [u8; 16],
    led: Arc<Led>,
    epoch: i32,
    not_before: Option<Instant>,
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
    followed: Mutex<BTreeMap<Name, Followed>>,
    /// Counts what is followed from now on, or not any more.
    changed: watch::Sender<u64>,
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
            let shared =
                Arc::new(Shared { leader, at: Mutex::new(at.clone()), followed: Mutex::default(), changed: watch::Sender::new(0) });
            let task = tokio::spawn(run(Arc::downgrade(broker), shared.clone()));
            Fetcher { shared, task }
        });
        *lock(&fetcher.shared.at) = at;
        lock(&fetcher.shared.followed).insert(name, Followed { topic_id, led, epoch, not_before: None });
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

impl Shared {
    /// Partitions to fetch now, and when the next delayed one is due.
    fn due(&self) -> (Due, Option<Instant>) {
        let now = Instant::now();
        let (mut due, mut next) = (BTreeMap::new(), None::<Instant>);
        for (name, f) in lock(&self.followed).iter() {
            match f.not_before.filter(|at| *at > now) {
                Some(at) => next = Some(next.map_or(at, |n| n.min(at))),
                None => {
                    if let Some(position) = f.led.partition.fetch_position(f.epoch) {
                        due.insert(name.clone(), (Asked { id: f.topic_id, position }, f.led.clone()));
                    }
                }
            }
        }
        (due, next)
    }

    fn delay(&self, name: &Name, epoch: i32) {
        if let Some(f) = lock(&self.followed).get_mut(name).filter(|f| f.epoch == epoch) {
            f.not_before = Some(Instant::now() + PARTITION_BACK_OFF);
        }
    }
}

async fn run(broker: Weak<Broker>, shared: Arc<Shared>) {
    let mut peer = None;
    let mut session = Session::default();
    let mut changes = shared.changed.subscribe();
    loop {
        changes.borrow_and_update();
        let (due, next) = shared.due();
        if due.is_empty() {
            let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            let _ = tokio::time::timeout(wait, changes.changed()).await;
            continue;
        }
        let Some(broker) = broker.upgrade() else { return };
        // One that is not due yet does not wait for the end of a long poll.
        let wait = next.map_or(broker.config.replica_fetch_wait, |at| at.saturating_duration_since(Instant::now()));
        if let Err(e) = fetch(&broker, &shared, &mut peer, &mut session, due, wait, &mut changes).await {
            warn_quietly!("fetching from broker {}: {e}; trying again", shared.leader);
            peer = None;
            session.reset();
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

fn encode<R: Encodable>(request: &R, version: i16) -> io::Result<Bytes> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(body.freeze())
}

fn decode<R: Decodable>(mut body: Bytes, version: i16) -> io::Result<R> {
    R::decode(&mut body, version).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
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
    peer: &mut Option<Peer>,
    session: &mut Session,
    due: Due,
    wait: Duration,
    changes: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    let limits = Limits {
        wait_ms: i32::try_from(wait.min(broker.config.replica_fetch_wait).as_millis()).unwrap_or(i32::MAX),
        bytes: broker.config.replica_fetch_response_bytes,
        partition_bytes: broker.config.replica_fetch_bytes,
    };
    let connection = connected(broker, shared, peer).await?;
    let wanted = due.iter().map(|(name, (asked, _))| (name.clone(), *asked)).collect();
    let body = encode(&session.request(broker.id(), broker.epoch(), &wanted, limits), FETCH_VERSION)?;
    let wait = broker.config.replica_fetch_wait + PATIENCE;
    let asked = connection.request(ApiKey::Fetch as i16, FETCH_VERSION, &body, wait);
    // A partition that is to be followed from now on does not wait for the end of a long poll: the request ends, and the
    // connection with it.
    let answer = tokio::select! {
        answer = asked => answer?,
        _ = changes.changed() => {
            *peer = None;
            session.reset();
            return Ok(());
        }
    };
    let response: FetchResponse = decode(answer, FETCH_VERSION)?;
    match ResponseError::try_from_code(response.error_code) {
        None => session.answered(response.session_id),
        Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch) => {
            session.reset();
            return Ok(());
        }
        Some(e) => return Err(io::Error::other(format!("{e:?}"))),
    }
    let mut failed = Vec::new();
    let mut truncated = false;
    // Writing may wait for the disk: connections go on elsewhere.
    tokio::task::block_in_place(|| {
        for topic in &response.responses {
            let id = topic.topic_id.into_bytes();
            for p in &topic.partitions {
                let of = due.iter().find(|(name, (asked, _))| asked.id == id && name.1 == p.partition_index);
                let Some((name, (asked, led))) = of else { continue };
                match take(broker, led, asked, p) {
                    Ok(cut) => truncated |= cut,
                    Err(Trouble::Ended) => {}
                    Err(Trouble::OutOfRange) => failed.push((name.clone(), *asked, led.clone())),
                    Err(Trouble::Later(why)) => {
                        tracing::debug!("{}-{} of broker {}: {why}", name.0, name.1, shared.leader);
                        session.again(name);
                        shared.delay(name, asked.position.leader_epoch);
                    }
                }
            }
        }
        // Before anything is appended again: a start after a power cut believes what is below the recovery point.
        if truncated && let Err(e) = broker.storage.checkpoint() {
            tracing::error!("checkpoint: {e}");
        }
    });
    for (name, asked, led) in failed {
        session.again(&name);
        if let Err(why) = out_of_range(broker, connected(broker, shared, peer).await?, &name, &asked, &led).await {
            warn_quietly!("{}-{}: {why}", name.0, name.1);
            shared.delay(&name, asked.position.leader_epoch);
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
fn take(broker: &Broker, led: &Led, asked: &Asked, p: &PartitionData) -> Result<bool, Trouble> {
    let epoch = asked.position.leader_epoch;
    match ResponseError::try_from_code(p.error_code) {
        None => {}
        Some(ResponseError::OffsetOutOfRange) => return Err(Trouble::OutOfRange),
        Some(e) => return Err(Trouble::Later(format!("{e:?}"))),
    }
    if p.diverging_epoch.end_offset >= 0 {
        return Ok(led.partition.truncate_by_epoch(epoch, (p.diverging_epoch.epoch, p.diverging_epoch.end_offset))?);
    }
    let records = p.records.as_deref().unwrap_or_default();
    let gone = led.partition.follow(epoch, asked.position.offset, records, p.high_watermark, p.log_start_offset)?;
    if let Some(gone) = gone {
        broker.storage.remove_later(gone, led.partition.settings());
    }
    Ok(false)
}

/// The log ends outside of the leader's: it is cut where the leader's ends, or begins anew where the leader's begins.
/// As AbstractFetcherThread.fetchOffsetAndTruncate.
async fn out_of_range(broker: &Broker, peer: &mut Peer, name: &Name, asked: &Asked, led: &Led) -> io::Result<()> {
    let epoch = asked.position.leader_epoch;
    let latest = list_offset(broker, peer, name, epoch, -1).await?;
    let failed = |e: FollowError| io::Error::other(e.to_string());
    if latest < asked.position.offset {
        tracing::warn!("{}-{}: the leader's log ends at {latest}, before {}", name.0, name.1, asked.position.offset);
        return tokio::task::block_in_place(|| {
            led.partition.truncate_to(epoch, latest).map_err(failed)?;
            broker.storage.checkpoint().map_err(|e| io::Error::other(e.to_string()))
        });
    }
    let earliest = list_offset(broker, peer, name, epoch, -2).await?;
    if earliest > asked.position.offset {
        tracing::info!("{}-{}: begins anew at {earliest}, where the leader's log begins", name.0, name.1);
        return tokio::task::block_in_place(|| {
            if let Some(gone) = led.partition.begin_at(epoch, earliest).map_err(failed)? {
                broker.storage.remove_later(gone, led.partition.settings());
            }
            broker.storage.checkpoint().map_err(|e| io::Error::other(e.to_string()))
        });
    }
    Ok(())
}

async fn list_offset(broker: &Broker, peer: &mut Peer, name: &Name, epoch: i32, timestamp: i64) -> io::Result<i64> {
    let partition = ListOffsetsPartition::default().with_partition_index(name.1).with_current_leader_epoch(epoch).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(kafka_protocol::messages::TopicName(StrBytes::from_string(name.0.clone())))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id(broker.id().into()).with_topics(vec![topic]);
    let body = encode(&request, LIST_OFFSETS_VERSION)?;
    let answer = peer.request(ApiKey::ListOffsets as i16, LIST_OFFSETS_VERSION, &body, PATIENCE).await?;
    let response: ListOffsetsResponse = decode(answer, LIST_OFFSETS_VERSION)?;
    let found = response.topics.first().and_then(|t| t.partitions.first());
    let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer to ListOffsets is empty"))?;
    match ResponseError::try_from_code(found.error_code) {
        None => Ok(found.offset),
        Some(e) => Err(io::Error::other(format!("ListOffsets: {e:?}"))),
    }
}
