//! Changes of the ISR on their way to the controller (AlterPartition, KIP-497).
//!
//! Invariant: each proposal gets one answer, also if the controller cannot be reached: then it is to be made again.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionRequest, ApiKey,
        alter_partition_request::{BrokerState, PartitionData, TopicData},
    },
    protocol::Encodable,
};
use uuid::Uuid;

use super::answers::{self, ALTER_PARTITION_VERSION as VERSION};
use crate::{
    broker::Broker,
    cluster::{
        controller::{Event, ask},
        topic_ids,
    },
    core::partition::{Answer, Proposal},
    net::peer::Peer,
    partition::Proposed,
    warn_quietly,
};

/// Pause after a failure.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often leaders look whether their followers lag, at the most.
const MIN_TICK: Duration = Duration::from_millis(50);
const MAX_TICK: Duration = Duration::from_secs(5);
/// How long the controller may take.
const WAIT: Duration = Duration::from_secs(30);

/// Sends proposals, and lets the partitions look at the time. Never ends.
pub async fn send_proposals(broker: Arc<Broker>) {
    let half = Duration::from_millis(u64::try_from(broker.config.replica_lag_max_ms / 2).unwrap_or(u64::MAX));
    let mut tick = tokio::time::interval(half.clamp(MIN_TICK, MAX_TICK));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ticking = {
        let broker = broker.clone();
        async move {
            loop {
                tick.tick().await;
                broker.storage.all().iter().for_each(|(_, led)| led.partition.tick());
            }
        }
    };
    tokio::join!(ticking, sending(&broker));
}

async fn sending(broker: &Arc<Broker>) {
    let shared = &broker.storage.shared;
    let mut peer = None;
    loop {
        let proposals = std::mem::take(&mut *shared.proposals.lock().unwrap_or_else(PoisonError::into_inner));
        if proposals.is_empty() {
            shared.proposed.notified().await;
            continue;
        }
        let answers = propose(broker, &mut peer, &proposals).await;
        let failed = answers.is_err();
        if let Err(e) = &answers {
            warn_quietly!("changes of in-sync replicas are not taken by the controller: {e}; trying again");
            peer = None;
            tokio::time::sleep(BACK_OFF).await;
        }
        let answers = answers.unwrap_or_default();
        // An answer is missing, or must be asked for again: not at once.
        if !failed
            && proposals.iter().any(|(t, i, _)| matches!(answers.get(&(t.clone(), *i)), None | Some(Answer::Retry | Answer::Rejected)))
        {
            tokio::time::sleep(MIN_TICK).await;
        }
        for (topic, index, proposal) in &proposals {
            let answer = answers.get(&(topic.clone(), *index)).cloned().unwrap_or(Answer::Retry);
            if let Some(led) = broker.storage.get(topic, *index) {
                led.partition.answered(proposal, answer);
            }
        }
    }
}

type Answers = BTreeMap<(String, i32), Answer>;

/// What a code in an answer means for a proposal, as Partition.handleAlterPartitionError of Kafka has it. But a topic that the controller
/// does not know may be one that it has not read yet; if it is deleted, this broker is told to stop its replica.
fn refused(error: ResponseError) -> Answer {
    match error {
        ResponseError::FencedLeaderEpoch
        | ResponseError::InvalidUpdateVersion
        | ResponseError::InvalidRequest
        | ResponseError::NewLeaderElected => Answer::Outdated,
        ResponseError::IneligibleReplica | ResponseError::OperationNotAttempted => Answer::Rejected,
        _ => Answer::Retry,
    }
}

async fn propose(broker: &Arc<Broker>, peer: &mut Option<(i32, Peer)>, proposals: &[Proposed]) -> io::Result<Answers> {
    let image = broker.image();
    let ask_self = broker.controller();
    if let Some(events) = ask_self {
        let proposals: Vec<_> = proposals.iter().map(|(t, i, p)| ((t.clone(), *i), p.clone())).collect();
        let (from, epoch) = (broker.id(), broker.epoch());
        let answer = ask(&events, |reply| Event::Proposals { from, epoch, proposals, reply }).await;
        let answers = answer.and_then(|a| a).map_err(|e| io::Error::other(format!("{e:?}")))?;
        let one = |(name, answer): (_, Result<crate::core::controller::Stored, ResponseError>)| {
            let answer = answer.map_or_else(refused, |s| Answer::State {
                leader: s.state.leader,
                leader_epoch: s.state.leader_epoch,
                isr: s.state.isr,
                partition_epoch: s.version,
            });
            (name, answer)
        };
        return Ok(answers.into_iter().map(one).collect());
    }
    let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (topic, index, proposal) in proposals {
        let Some(id) = image.topics.get(topic).map(|t| topic_ids::uuid(t)).filter(|id| !id.is_nil()) else { continue };
        names.insert(id, topic.clone());
        topics.entry(id).or_default().push(partition(*index, proposal));
    }
    let topics = topics.into_iter().map(|(id, p)| TopicData::default().with_topic_id(id).with_partitions(p)).collect();
    let request = AlterPartitionRequest::default().with_broker_id(broker.id().into()).with_broker_epoch(broker.epoch()).with_topics(topics);
    let mut body = BytesMut::new();
    request.encode(&mut body, VERSION).map_err(|e| io::Error::other(e.to_string()))?;
    let answer = ask_controller(broker, peer, ApiKey::AlterPartition as i16, VERSION, &body).await?;
    let response = answers::alter_partition(answer)?;
    if let Some(e) = ResponseError::try_from_code(response.error_code) {
        return Err(io::Error::other(format!("{e:?}")));
    }
    let mut answers = Answers::new();
    for topic in response.topics {
        let Some(name) = names.get(&topic.topic_id) else { continue };
        for p in topic.partitions {
            let answer = match ResponseError::try_from_code(p.error_code) {
                Some(e) => refused(e),
                None => Answer::State {
                    leader: p.leader_id.0,
                    leader_epoch: p.leader_epoch,
                    isr: p.isr.iter().map(|b| b.0).collect(),
                    partition_epoch: p.partition_epoch,
                },
            };
            answers.insert((name.clone(), p.partition_index), answer);
        }
    }
    Ok(answers)
}

fn partition(index: i32, proposal: &Proposal) -> PartitionData {
    let isr = proposal.isr.iter().map(|(id, epoch)| BrokerState::default().with_broker_id((*id).into()).with_broker_epoch(*epoch));
    PartitionData::default()
        .with_partition_index(index)
        .with_leader_epoch(proposal.leader_epoch)
        .with_new_isr_with_epochs(isr.collect())
        .with_partition_epoch(proposal.partition_epoch)
}

/// Sends a request to the controller, on a connection that is kept while it stays the controller.
pub async fn ask_controller(broker: &Broker, peer: &mut Option<(i32, Peer)>, key: i16, version: i16, body: &[u8]) -> io::Result<Bytes> {
    let image = broker.image();
    let controller = image.controller.ok_or_else(|| io::Error::other("there is no controller"))?;
    if peer.as_ref().is_none_or(|(id, _)| *id != controller) {
        let at = image.brokers.get(&controller).and_then(|b| b.endpoint(&broker.config.inter_broker_listener));
        let (host, port) = at.ok_or_else(|| io::Error::other(format!("no address of the controller, broker {controller}")))?;
        *peer = Some((controller, Peer::connect(&host, port, &format!("broker-{}", broker.id())).await?));
    }
    let (_, connection) = peer.as_mut().ok_or(io::ErrorKind::NotConnected)?;
    // One that was replaced may never answer.
    let mut images = broker.image.subscribe();
    let replaced = images.wait_for(|i| i.controller != Some(controller));
    let answer = tokio::select! {
        answer = connection.request(key, version, body, WAIT) => answer,
        _ = replaced => Err(io::Error::other(format!("broker {controller} is not the controller any more"))),
    };
    if answer.is_err() {
        *peer = None;
    }
    answer
}
