//! Fetch: whole batches from an offset on; waits until there is enough or the time is up.
//!
//! Invariant: an answer names parts of files; neither the wait nor the answer holds records in memory.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kafka_protocol::{ResponseError, messages::FetchRequest};
use uuid::Uuid;

use super::{
    Context, RequestError,
    fetch_answer::{self, ABORTED_BYTES, Header, PART_BYTES},
    leaders::Leaders,
    metadata::endpoint,
};
use crate::{
    broker::Broker,
    cluster::Image,
    core::read_replica,
    fetch_sessions::{Answered, Asked, Found, NO_SESSION, Part, Parts, Position, Source, Topic},
    log::Slice,
    net::{answer::Answer, budget::Share},
    partition::{Read, ReadFrom},
    storage::Led,
    watch::Watchers,
};

/// Longest wait, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;
/// How often the position of a follower in an idle partition is reported to it: an ISR change that could not be proposed when the
/// follower caught up is proposed then.
const REPLICA_REFRESH: Duration = Duration::from_millis(500);
/// First version with topic ids in the place of names.
const IDS: i16 = 13;
/// First version whose clients read from followers, and say where they are (KIP-392).
const RACKS: i16 = 11;
/// First version in which a follower says its epoch.
const REPLICA_STATE: i16 = 15;
/// First version whose answers name leaders (KIP-951).
const LEADERS: i16 = 16;

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// What a request asks for, beside its partitions.
#[derive(Debug)]
pub struct Wanted {
    asked: Asked,
    max_bytes: usize,
    min_bytes: usize,
    until: Instant,
    stable_only: bool,
    /// a follower: its number and epoch, -1 if it does not say
    replica: Option<(i32, i64)>,
    from: ReadFrom,
    /// `client.rack` of a consumer
    rack: String,
    named: Vec<(Topic, i32, Position)>,
    forgotten: Vec<(Topic, i32)>,
}

impl Wanted {
    /// Takes what is needed from a request. Topics that are named by id get their names.
    pub fn new(broker: &Broker, request: &FetchRequest, version: i16) -> Self {
        let wait = Duration::from_millis((size(request.max_wait_ms) as u64).min(MAX_WAIT_MS));
        let image = broker.image();
        let by_id = version >= IDS;
        let topic = |name: &str, id: Uuid| match by_id {
            true => Topic { name: broker.topic_ids.name(&image, id), id },
            false => Topic { name: Some(name.into()), id: Uuid::nil() },
        };
        let mut named = Vec::new();
        for t in &request.topics {
            let topic = topic(t.topic.as_str(), t.topic_id);
            named.extend(t.partitions.iter().map(|p| {
                let position = Position {
                    leader_epoch: p.current_leader_epoch,
                    offset: p.fetch_offset,
                    last_fetched_epoch: p.last_fetched_epoch,
                    log_start: p.log_start_offset,
                    max_bytes: size(p.partition_max_bytes),
                };
                (topic.clone(), p.partition, position)
            }));
        }
        let mut forgotten = Vec::new();
        for t in &request.forgotten_topics_data {
            let topic = topic(t.topic.as_str(), t.topic_id);
            forgotten.extend(t.partitions.iter().map(|p| (topic.clone(), *p)));
        }
        let replica = match version >= REPLICA_STATE {
            true => (request.replica_state.replica_id.0, request.replica_state.replica_epoch),
            false => (request.replica_id.0, -1),
        };
        Self {
            asked: Asked { id: request.session_id, epoch: request.session_epoch, by_id },
            max_bytes: size(request.max_bytes),
            min_bytes: size(request.min_bytes),
            until: Instant::now() + wait,
            stable_only: request.isolation_level != 0,
            replica: Some(replica).filter(|(id, _)| *id >= 0),
            from: if version >= RACKS && replica.0 < 0 { ReadFrom::Any } else { ReadFrom::Leader },
            rack: request.rack_id.to_string(),
            named,
            forgotten,
        }
    }
}

/// Reads from the partitions that this broker leads, or follows.
struct Serving<'a> {
    broker: &'a Broker,
    context: &'a Context,
    image: Arc<Image>,
    wanted: &'a Wanted,
}

impl Serving<'_> {
    /// A follower that the consumer is to read from instead.
    fn preferred(&self, led: &Led, offset: i64) -> Option<i32> {
        let Wanted { from, rack, .. } = self.wanted;
        if *from == ReadFrom::Leader || !self.broker.config.rack_aware_reads || rack.is_empty() || !led.partition.leads() {
            return None;
        }
        let brokers = &self.image.brokers;
        let rack_of = |id: i32| brokers.get(&id).filter(|b| endpoint(b, self.context).is_some())?.rack.as_deref();
        read_replica::in_rack(rack, self.broker.id(), &led.partition.read_replicas(offset), rack_of)
    }

    fn find(
        &self,
        topic: &Topic,
        index: i32,
        position: &Position,
        max_bytes: usize,
        at_least_one: bool,
        watch: &mut dyn FnMut(&Arc<Watchers>),
    ) -> Result<Part, ResponseError> {
        // An id whose name was not known when the session began may be known now.
        let later = topic.name.is_none().then(|| self.broker.topic_ids.name(&self.image, topic.id)).flatten();
        let name = topic.name.as_ref().or(later.as_ref()).ok_or(ResponseError::UnknownTopicId)?;
        let Wanted { stable_only, replica, from, .. } = *self.wanted;
        let hosted = self.broker.storage.get(name, index);
        let Some(led) = hosted.filter(|l| if from == ReadFrom::Any { l.partition.serves() } else { l.partition.leads() }) else {
            return Err(match self.image.not_led(name, index) {
                ResponseError::UnknownTopicOrPartition if !topic.id.is_nil() => ResponseError::UnknownTopicId,
                e => e,
            });
        };
        watch(led.partition.watchers());
        led.partition.check_epoch(position.leader_epoch, from)?;
        if position.last_fetched_epoch >= 0 {
            let (epoch, end) = led.partition.end_of_epoch(position.last_fetched_epoch, from)?;
            if epoch < 0 || end < 0 || position.offset < led.partition.offsets().0 {
                return Err(ResponseError::OffsetOutOfRange);
            }
            if epoch < position.last_fetched_epoch || end < position.offset {
                return Ok(Part {
                    index,
                    diverging: Some((epoch, end)),
                    high_watermark: led.partition.high_watermark(),
                    last_stable_offset: led.partition.last_stable_offset(),
                    start_offset: led.partition.offsets().0,
                    ..Part::default()
                });
            }
        }
        if let Some(preferred) = self.preferred(&led, position.offset) {
            return Ok(Part {
                index,
                preferred,
                high_watermark: led.partition.high_watermark(),
                last_stable_offset: led.partition.last_stable_offset(),
                start_offset: led.partition.offsets().0,
                ..Part::default()
            });
        }
        let held_back = replica.is_some_and(|(id, _)| led.partition.holds_back(id));
        let found = led.partition.find(&Read {
            offset: position.offset,
            max_bytes: if held_back { 0 } else { max_bytes },
            at_least_one: at_least_one && !held_back,
            stable_only,
            replica,
            log_start: position.log_start,
            leader_epoch: position.leader_epoch,
            from,
        })?;
        Ok(Part {
            index,
            high_watermark: found.high_watermark,
            last_stable_offset: found.last_stable_offset,
            start_offset: found.start_offset,
            records: found.records,
            more: found.more,
            aborted: found.aborted,
            ..Part::default()
        })
    }
}

impl Source for Serving<'_> {
    fn read(
        &self,
        topic: &Topic,
        index: i32,
        position: &Position,
        max_bytes: usize,
        at_least_one: bool,
        watch: &mut dyn FnMut(&Arc<Watchers>),
    ) -> Part {
        self.find(topic, index, position, max_bytes, at_least_one, watch).unwrap_or_else(|e| Part {
            index,
            error: e.code(),
            ..Part::default()
        })
    }
}

/// The partitions of a request, of its own or of its session.
enum Subject {
    Own(Box<Parts>),
    Session(Arc<Mutex<Parts>>),
}

fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subject {
    fn with<T>(&mut self, work: impl FnOnce(&mut Parts) -> T) -> T {
        match self {
            Self::Own(parts) => work(parts),
            Self::Session(parts) => work(&mut lock(parts)),
        }
    }
}

/// Finds or makes the partitions that a request is about, and the session that goes on.
fn begin(broker: &Broker, wanted: &mut Wanted, version: i16) -> Result<(Subject, i32), ResponseError> {
    let named = std::mem::take(&mut wanted.named);
    if version < 7 || wanted.asked.is_full() {
        // As on Kafka, a session that a full request names is over.
        if wanted.asked.id != NO_SESSION {
            broker.fetch_sessions.close(wanted.asked.id);
        }
        let mut parts = Parts::default();
        named.into_iter().for_each(|(topic, index, position)| parts.put(topic, index, position));
        return Ok((Subject::Own(Box::new(parts)), NO_SESSION));
    }
    let session = broker.fetch_sessions.resume(wanted.asked, Instant::now())?;
    let len = {
        let mut parts = lock(&session);
        named.into_iter().for_each(|(topic, index, position)| parts.put(topic, index, position));
        wanted.forgotten.iter().for_each(|(topic, index)| parts.forget(topic, *index));
        if wanted.replica.is_some() {
            parts.refresh(Instant::now(), REPLICA_REFRESH);
        }
        parts.len()
    };
    let goes_on = broker.fetch_sessions.resized(wanted.asked.id, len);
    Ok((Subject::Session(session), if goes_on { wanted.asked.id } else { NO_SESSION }))
}

/// Reads until there is enough, something is wrong, or the time is up.
async fn wait(broker: &Broker, context: &Context, wanted: &Wanted, subject: &mut Subject) -> Found {
    let changes = subject.with(|parts| parts.changes());
    let max_bytes = wanted.max_bytes.min(broker.config.fetch_max_bytes);
    loop {
        let source = Serving { broker, context, image: broker.image(), wanted };
        let found = subject.with(|parts| parts.read(&source, max_bytes));
        let left = wanted.until.saturating_duration_since(Instant::now());
        if found.failed || found.bytes >= wanted.min_bytes || left.is_zero() || subject.with(|parts| parts.is_empty()) {
            return found;
        }
        // Nothing is held while it waits.
        drop((found, source));
        let _ = tokio::time::timeout(left, changes.woken()).await;
    }
}

/// Counts what is sent: to consumers by topic, to followers of what is throttled.
fn measure(broker: &Broker, topics: &Answered, to_follower: bool) {
    let shared = &broker.storage.shared;
    for (topic, parts) in topics {
        let name = topic.name.as_deref().unwrap_or_default();
        let sent = |p: &Part| p.records.as_ref().map_or(0, Slice::len);
        if to_follower {
            shared.replication.bytes_out.add(parts.iter().map(sent).sum::<usize>() as u64);
            let throttle = &shared.throttles.leader;
            parts.iter().filter(|p| sent(p) > 0 && throttle.is_throttled(name, p.index)).for_each(|p| throttle.record(sent(p)));
        } else {
            shared.traffic.consumed(name, parts.iter().map(sent).sum());
        }
    }
}

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    mut wanted: Wanted,
    correlation_id: i32,
    version: i16,
) -> Result<Answer, RequestError> {
    let header = |error: i16, session: i32| Header { correlation_id, version, error, session };
    let (mut subject, mut session) = match begin(broker, &mut wanted, version) {
        Ok(begun) => begun,
        Err(e) => return Ok(fetch_answer::encode(&header(e.code(), NO_SESSION), Vec::new(), Leaders::default())),
    };
    let found = wait(broker, context, &wanted, &mut subject).await;
    let full = matches!(subject, Subject::Own(_));
    let len = subject.with(|parts| parts.answer_len(&found, full));
    let bytes = len * PART_BYTES + Parts::aborted_len(&found) * ABORTED_BYTES;
    let share: Share = broker.budgets.responses.take(bytes).await;
    let mut topics = subject.with(|parts| parts.answer(found, full));
    if let Subject::Own(parts) = subject
        && version >= 7
        && wanted.asked.wants_session()
    {
        session = broker.fetch_sessions.create(*parts, wanted.asked.by_id, wanted.replica.is_some(), Instant::now());
    }
    measure(broker, &topics, wanted.replica.is_some());
    let mut leaders = Leaders::default();
    if version >= LEADERS {
        let image = broker.image();
        for (topic, parts) in &mut topics {
            let name = topic.name.as_deref().unwrap_or_default();
            parts.iter_mut().for_each(|p| p.leader = leaders.note(&image, context, p.error, name, p.index));
        }
    }
    let answer = fetch_answer::encode(&header(0, session), topics, leaders);
    Ok(Answer { share, ..answer })
}
