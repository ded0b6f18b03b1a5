//! What brokers are told: one task for each broker, which sends the newest decisions until they are taken.
//!
//! Invariant: what waits for a broker is at most one entry for each partition, the newest; an entry leaves when the broker has
//! answered it. A broker of Apache's hears of the living brokers first, then
//! LeaderAndIsr goes before UpdateMetadata, as on Kafka, so that a client is not sent to a leader that does not know it yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};

use super::{Controller, Event};
use crate::{
    broker::Broker,
    cluster::{
        BrokerInfo,
        control::{
            self, LEADER_DURING_DELETE, LeaderAndIsr, LiveBroker, LiveLeader, Origin, PartitionMetadata, PartitionState, StopPartition,
            StopReplica, TopicMetadata, TopicState, UpdateMetadata, key,
        },
        topic_ids::bytes_of,
    },
    core::controller::{Name, Registration},
    net::peer::Peer,
    warn_quietly,
};

/// Partitions in one request.
const TOGETHER: usize = 2000;
/// How long a broker may take to answer; opening many logs takes a while.
const WAIT: Duration = Duration::from_secs(60);
/// Pause before a broker is tried again.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Refused connections, one after the other, that prove that nothing listens.
const PROOF: usize = 2;

/// The controller tells its own broker without a connection, always in order.
const OWN: u64 = u64::MAX;

/// A topic's id and one of its partitions.
type Of<T> = BTreeMap<Name, ([u8; 16], T)>;

#[derive(Debug, Default)]
struct Pending {
    assignments: Of<PartitionState>,
    metadata: Of<PartitionMetadata>,
    stops: BTreeMap<Name, StopPartition>,
    brokers: Vec<LiveBroker>,
    /// The living brokers have changed.
    brokers_changed: bool,
    /// All of the broker's partitions are among the assignments.
    full: bool,
    /// The broker is new and is not told everything yet. A part would be taken for the whole: it would serve clients at once.
    untold: bool,
}

impl Pending {
    /// Puts back stops that were not carried out, unless there is something newer: another stop, or that the replica is to be had.
    fn put_back_stops(&mut self, mut stops: BTreeMap<Name, StopPartition>) {
        stops.retain(|name, _| !self.assignments.contains_key(name));
        put_back(&mut self.stops, stops);
    }

    fn is_empty(&self) -> bool {
        let nothing = self.assignments.is_empty() && self.metadata.is_empty() && self.stops.is_empty() && !self.brokers_changed;
        self.untold || nothing
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    woken: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one broker is told.
#[derive(Debug)]
pub struct Channel {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channel {
    /// A replica is not to be fetched any more, or not to be had.
    pub fn stop(&self, name: &Name, leader_epoch: i32, delete: bool) {
        let mut pending = self.shared.lock();
        pending.assignments.remove(name);
        pending.stops.insert(name.clone(), StopPartition { index: name.1, leader_epoch, delete });
        self.shared.woken.notify_one();
    }
}

fn live(id: i32, info: &BrokerInfo) -> LiveBroker {
    let endpoint = |l: &crate::config::Listener| control::Endpoint {
        port: l.port.into(),
        host: l.host.clone(),
        listener: l.name.clone(),
        protocol: 0,
    };
    LiveBroker { id, endpoints: info.endpoints.iter().map(endpoint).collect(), rack: info.rack.clone() }
}

impl Controller {
    /// Begins to tell a broker.
    pub(super) fn open_channel(&mut self, id: i32) {
        let Some(registration) = self.cluster.brokers.get(&id).cloned() else { return };
        let shared = Arc::new(Shared::default());
        shared.lock().untold = true;
        let teller = Teller {
            broker: self.broker.clone(),
            events: self.events.clone(),
            origin: Origin { controller_id: self.broker.id(), controller_epoch: self.term.epoch, broker_epoch: registration.epoch },
            id,
            registration,
            shared: shared.clone(),
        };
        self.channels.insert(id, Channel { shared, task: tokio::spawn(teller.run()) });
    }

    /// Tells all which brokers live; those that are new are told with everything else ([`Controller::tell_all`]).
    pub(super) fn tell_brokers(&self, new: &BTreeSet<i32>) {
        let all: Vec<LiveBroker> = self.cluster.brokers.iter().map(|(id, b)| live(*id, &b.info)).collect();
        for (id, channel) in &self.channels {
            let mut pending = channel.shared.lock();
            pending.brokers.clone_from(&all);
            if !new.contains(id) {
                pending.brokers_changed = true;
                channel.shared.woken.notify_one();
            }
        }
    }

    /// Tells one broker everything.
    pub(super) fn tell_all(&self, id: i32) {
        let Some(channel) = self.channels.get(&id) else { return };
        {
            let mut pending = channel.shared.lock();
            (pending.full, pending.brokers_changed, pending.untold) = (true, true, false);
            for (name, _) in self.cluster.partitions() {
                self.metadata(&mut pending, &name);
                if self.cluster.partition(&name).is_some_and(|p| p.replicas.contains(&id)) {
                    self.assignment(&mut pending, &name, false);
                }
            }
        }
        channel.shared.woken.notify_one();
        for topic in self.deleting.keys() {
            self.tell_deletion(topic, Some(id));
        }
    }

    /// Tells everybody of partitions; their replicas what they are to do, too, where `assign`. What is being deleted is not told of any
    /// more: that would take back its deletion.
    pub(super) fn tell(&self, names: &[Name], fresh: &BTreeSet<Name>, assign: bool) {
        let names: Vec<&Name> = names.iter().filter(|name| !self.deleting.contains_key(&name.0)).collect();
        for (id, channel) in &self.channels {
            let mut pending = channel.shared.lock();
            for name in names.iter().copied() {
                self.metadata(&mut pending, name);
                if assign && self.cluster.partition(name).is_some_and(|p| p.replicas.contains(id)) {
                    self.assignment(&mut pending, name, fresh.contains(name));
                }
            }
            channel.shared.woken.notify_one();
        }
    }

    /// Tells everybody, or one broker, that a topic is being deleted.
    pub(super) fn tell_deletion(&self, topic: &str, only: Option<i32>) {
        let Some(t) = self.cluster.topics.get(topic) else { return };
        let id = bytes_of(t.id.as_deref());
        for (broker, channel) in self.channels.iter().filter(|(b, _)| only.is_none_or(|o| o == **b)) {
            let mut pending = channel.shared.lock();
            for (number, p) in &t.partitions {
                let name = (topic.to_owned(), *number);
                pending.assignments.remove(&name);
                let gone = PartitionMetadata {
                    index: *number,
                    controller_epoch: self.term.epoch,
                    leader: LEADER_DURING_DELETE,
                    leader_epoch: -2,
                    replicas: p.replicas.clone(),
                    ..PartitionMetadata::default()
                };
                pending.metadata.insert(name.clone(), (id, gone));
                if p.replicas.contains(broker) {
                    pending.stops.insert(name, StopPartition { index: *number, leader_epoch: -2, delete: true });
                }
            }
            channel.shared.woken.notify_one();
        }
    }

    fn metadata(&self, pending: &mut Pending, name: &Name) {
        let (Some(t), Some(p)) = (self.cluster.topics.get(&name.0), self.cluster.partition(name)) else { return };
        let Some(s) = &p.stored else { return };
        let offline = |r: &&i32| !self.cluster.brokers.contains_key(r) || self.cluster.offline.contains(&(**r, name.clone()));
        let metadata = PartitionMetadata {
            index: name.1,
            controller_epoch: s.controller_epoch,
            leader: s.state.leader,
            leader_epoch: s.state.leader_epoch,
            isr: s.state.isr.clone(),
            partition_epoch: s.version,
            replicas: p.replicas.clone(),
            offline: p.replicas.iter().filter(offline).copied().collect(),
        };
        pending.metadata.insert(name.clone(), (bytes_of(t.id.as_deref()), metadata));
    }

    fn assignment(&self, pending: &mut Pending, name: &Name, is_new: bool) {
        let (Some(t), Some(p)) = (self.cluster.topics.get(&name.0), self.cluster.partition(name)) else { return };
        let Some(s) = &p.stored else { return };
        let state = PartitionState {
            index: name.1,
            controller_epoch: s.controller_epoch,
            leader: s.state.leader,
            leader_epoch: s.state.leader_epoch,
            isr: s.state.isr.clone(),
            partition_epoch: s.version,
            replicas: p.replicas.clone(),
            adding: p.adding.clone(),
            removing: p.removing.clone(),
            is_new,
        };
        pending.stops.remove(name);
        pending.assignments.insert(name.clone(), (bytes_of(t.id.as_deref()), state));
    }
}

/// Groups entries by topic.
fn by_topic<T: Clone>(entries: &Of<T>) -> Vec<(String, [u8; 16], Vec<T>)> {
    let mut out: Vec<(String, [u8; 16], Vec<T>)> = Vec::new();
    for ((topic, _), (id, entry)) in entries {
        match out.last_mut() {
            Some((last, _, list)) if last == topic => list.push(entry.clone()),
            _ => out.push((topic.clone(), *id, vec![entry.clone()])),
        }
    }
    out
}

fn take_some<V>(map: &mut BTreeMap<Name, V>) -> BTreeMap<Name, V> {
    match map.keys().nth(TOGETHER).cloned() {
        Some(at) => {
            let rest = map.split_off(&at);
            std::mem::replace(map, rest)
        }
        None => std::mem::take(map),
    }
}

/// Puts back what was not taken, unless there is something newer.
fn put_back<V>(map: &mut BTreeMap<Name, V>, old: BTreeMap<Name, V>) {
    for (name, entry) in old {
        map.entry(name).or_insert(entry);
    }
}

struct Teller {
    broker: Arc<Broker>,
    events: tokio::sync::mpsc::WeakSender<Event>,
    origin: Origin,
    id: i32,
    registration: Registration<BrokerInfo>,
    shared: Arc<Shared>,
}

impl Teller {
    async fn run(self) {
        let mut peer: Option<Peer> = None;
        let (mut refused, mut reached) = (0, self.registration.info.ours);
        loop {
            let itself = self.id == self.broker.id();
            if peer.is_none() && !itself {
                match self.connect().await {
                    Ok(p) => {
                        peer = Some(p);
                        (refused, reached) = (0, true);
                    }
                    Err(e) => {
                        refused = if e.kind() == io::ErrorKind::ConnectionRefused { refused + 1 } else { 0 };
                        if refused >= PROOF && reached {
                            self.report(Event::Gone { id: self.id, epoch: self.registration.epoch }).await;
                        } else {
                            warn_quietly!("broker {} cannot be told: {e}; trying again", self.id);
                        }
                        tokio::time::sleep(BACK_OFF).await;
                        continue;
                    }
                }
            }
            if self.shared.lock().is_empty() {
                match &peer {
                    Some(p) => tokio::select! {
                        () = self.shared.woken.notified() => {}
                        () = p.closed() => peer = None,
                    },
                    None => self.shared.woken.notified().await,
                }
                continue;
            }
            if let Err(e) = self.send(&mut peer).await {
                warn_quietly!("broker {}: {e}; telling it again", self.id);
                peer = None;
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    async fn connect(&self) -> io::Result<Peer> {
        let at = self.registration.info.endpoint(&self.broker.config.inter_broker_listener);
        let (host, port) = at.ok_or_else(|| io::Error::other("it has no such listener"))?;
        Peer::connect(&host, port, &format!("controller-{}", self.broker.id())).await
    }

    async fn report(&self, event: Event) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.send(event).await;
        }
    }

    async fn send(&self, peer: &mut Option<Peer>) -> io::Result<()> {
        // A broker of Apache does not follow a leader that it has not heard of (ReplicaManager.makeFollowers). One of ours would begin
        // to serve, without topics.
        let brokers = {
            let mut pending = self.shared.lock();
            let first = !self.registration.info.ours && std::mem::take(&mut pending.brokers_changed);
            first.then(|| pending.brokers.clone())
        };
        if let Some(brokers) = brokers
            && let Err(e) = self.update(peer, &Of::new(), brokers).await
        {
            self.shared.lock().brokers_changed = true;
            return Err(e);
        }
        let (assignments, full) = {
            let mut pending = self.shared.lock();
            let some = take_some(&mut pending.assignments);
            // Of a full one that takes several requests, none is one that says so.
            let full = pending.full && pending.assignments.is_empty();
            pending.full = false;
            (some, full)
        };
        if !assignments.is_empty()
            && let Err(e) = self.assign(peer, &assignments, full).await
        {
            put_back(&mut self.shared.lock().assignments, assignments);
            return Err(e);
        }
        // What leads and follows comes before what clients are told of it.
        if !self.shared.lock().assignments.is_empty() {
            return Ok(());
        }
        let (metadata, brokers_changed, brokers) = {
            let mut pending = self.shared.lock();
            // All at once: the first tells a broker that it may serve.
            let brokers_changed = std::mem::take(&mut pending.brokers_changed);
            (std::mem::take(&mut pending.metadata), brokers_changed, pending.brokers.clone())
        };
        if (brokers_changed || !metadata.is_empty())
            && let Err(e) = self.update(peer, &metadata, brokers).await
        {
            let mut pending = self.shared.lock();
            pending.brokers_changed |= brokers_changed;
            put_back(&mut pending.metadata, metadata);
            return Err(e);
        }
        let stops = take_some(&mut self.shared.lock().stops);
        if stops.is_empty() {
            return Ok(());
        }
        match self.stop(peer, &stops).await {
            Ok(failed) if failed.is_empty() => Ok(()),
            // What could not be deleted is tried again; what was is not: its name may be another topic's by then.
            Ok(failed) => {
                self.shared.lock().put_back_stops(failed);
                Err(io::Error::other("replicas could not be deleted"))
            }
            Err(e) => {
                self.shared.lock().put_back_stops(stops);
                Err(e)
            }
        }
    }

    async fn assign(&self, peer: &mut Option<Peer>, entries: &Of<PartitionState>, full: bool) -> io::Result<()> {
        let topics = by_topic(entries).into_iter().map(|(name, id, partitions)| TopicState { name, id, partitions }).collect();
        let ids: BTreeSet<i32> = entries.values().map(|(_, p)| p.leader).collect();
        let brokers = self.shared.lock().brokers.clone();
        let leader = |b: &LiveBroker| {
            let e = b.endpoints.iter().find(|e| e.listener == self.broker.config.inter_broker_listener).or(b.endpoints.first())?;
            Some(LiveLeader { id: b.id, host: e.host.clone(), port: e.port })
        };
        let leaders = brokers.iter().filter(|b| ids.contains(&b.id)).filter_map(leader).collect();
        let request = LeaderAndIsr { origin: self.origin, full, topics, leaders };
        let errors = match peer {
            None => self.broker.replicas.leader_and_isr(&self.broker, &request, OWN).await.map_err(refused)?,
            Some(peer) => {
                let answer = peer.request(key::LEADER_AND_ISR, 7, &request.encode(7), WAIT).await?;
                let (error, errors) = request.decode_answer(&answer).map_err(malformed)?;
                code(error)?;
                errors
            }
        };
        let codes: Vec<(Name, i16)> = errors.into_iter().map(|(topic, index, code)| ((topic, index), code)).collect();
        self.report(Event::Assigned { id: self.id, epoch: self.registration.epoch, codes }).await;
        Ok(())
    }

    async fn update(&self, peer: &mut Option<Peer>, entries: &Of<PartitionMetadata>, brokers: Vec<LiveBroker>) -> io::Result<()> {
        let topics = by_topic(entries).into_iter().map(|(name, id, partitions)| TopicMetadata { name, id, partitions }).collect();
        let request = UpdateMetadata { origin: self.origin, topics, brokers };
        match peer {
            None => self.broker.replicas.update_metadata(&self.broker, &request, OWN).await.map_err(refused),
            Some(peer) => {
                let answer = peer.request(key::UPDATE_METADATA, 8, &request.encode(8), WAIT).await?;
                code(control::decode_code(&answer).map_err(malformed)?)
            }
        }
    }

    /// Stops replicas; those that could not be deleted.
    async fn stop(&self, peer: &mut Option<Peer>, entries: &BTreeMap<Name, StopPartition>) -> io::Result<BTreeMap<Name, StopPartition>> {
        let mut topics: Vec<(String, Vec<StopPartition>)> = Vec::new();
        for ((topic, _), p) in entries {
            match topics.last_mut() {
                Some((last, list)) if last == topic => list.push(p.clone()),
                _ => topics.push((topic.clone(), vec![p.clone()])),
            }
        }
        let request = StopReplica { origin: self.origin, topics };
        let errors = match peer {
            None => self.broker.replicas.stop_replica(&self.broker, &request, OWN).await.map_err(refused)?,
            Some(peer) => {
                let answer = peer.request(key::STOP_REPLICA, 4, &request.encode(4), WAIT).await?;
                let (error, errors) = control::decode_partitions_answer(&answer, true).map_err(malformed)?;
                code(error)?;
                errors
            }
        };
        let deleted = |(topic, index, code): &(String, i32, i16)| {
            let name = (topic.clone(), *index);
            (*code == 0 && entries.get(&name).is_some_and(|p| p.delete)).then_some(name)
        };
        let names: Vec<Name> = errors.iter().filter_map(deleted).collect();
        if !names.is_empty() {
            self.report(Event::Deleted { id: self.id, names }).await;
        }
        let failed = errors
            .iter()
            .filter(|(.., code)| *code == kafka_protocol::ResponseError::KafkaStorageError.code())
            .filter_map(|(topic, index, _)| entries.get_key_value(&(topic.clone(), *index)))
            .map(|(name, p)| (name.clone(), p.clone()));
        Ok(failed.collect())
    }
}

fn malformed(e: control::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn refused(e: kafka_protocol::ResponseError) -> io::Error {
    io::Error::other(format!("{e:?}"))
}

fn code(error: i16) -> io::Result<()> {
    kafka_protocol::ResponseError::try_from_code(error).map_or(Ok(()), |e| Err(refused(e)))
}
