//! What the controller tells this broker, and what brokers ask the controller: keys 4 to 7, producer ids, and AlterPartition.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionRequest, AlterPartitionResponse,
        alter_partition_response::{PartitionData, TopicData},
    },
};
use uuid::Uuid;

use super::RequestError;
use crate::{
    broker::Broker,
    cluster::{
        control::{self, LeaderAndIsr, Malformed, StopReplica, UpdateMetadata, key},
        controller::{Event, ask},
    },
    core::partition::Proposal,
};

fn code<T>(result: &Result<T, ResponseError>) -> i16 {
    result.as_ref().err().map_or(0, ResponseError::code)
}

/// Whether this is a key of ours, in a version that is served.
pub fn serves(number: i16, version: i16) -> bool {
    key::ALL.iter().any(|(k, min, max)| *k == number && (*min..=*max).contains(&version))
}

/// A block of producer ids for a broker of Apache, which asks the controller for them (ours take them themselves). A block for an
/// earlier registration is lost, no more.
async fn producer_ids(broker: &Broker, id: i32) -> Result<std::ops::Range<i64>, ResponseError> {
    if broker.controller().is_none() {
        return Err(ResponseError::NotController);
    }
    if !broker.image().brokers.contains_key(&id) {
        return Err(ResponseError::BrokerIdNotRegistered);
    }
    let client = broker.zookeeper.borrow().clone().ok_or(ResponseError::NotController)?;
    crate::cluster::producer_ids::block(&client, id).await.map_err(|e| {
        tracing::warn!("no producer ids for broker {id}: {e}");
        ResponseError::UnknownServerError
    })
}

/// Answers keys 4 to 7 and 67: the body of the answer.
pub async fn handle(broker: &Arc<Broker>, number: i16, version: i16, body: &[u8], connection: u64) -> Result<Bytes, RequestError> {
    let bad = |e: Malformed| RequestError::Malformed(format!("key {number} version {version}: {e}"));
    Ok(match number {
        key::LEADER_AND_ISR => {
            let request = LeaderAndIsr::decode(body, version).map_err(bad)?;
            let result = broker.replicas.leader_and_isr(broker, &request, connection).await;
            request.encode_answer(code(&result), &result.unwrap_or_default())
        }
        key::UPDATE_METADATA => {
            let request = UpdateMetadata::decode(body, version).map_err(bad)?;
            control::encode_code(code(&broker.replicas.update_metadata(broker, &request, connection).await))
        }
        key::STOP_REPLICA => {
            let request = StopReplica::decode(body, version).map_err(bad)?;
            let result = broker.replicas.stop_replica(broker, &request, connection).await;
            control::encode_partitions_answer(code(&result), &result.unwrap_or_default(), true)
        }
        key::ALLOCATE_PRODUCER_IDS => {
            let (id, _) = control::decode_controlled_shutdown(body).map_err(bad)?;
            control::encode_producer_ids(producer_ids(broker, id).await.map_err(|e| e.code()))
        }
        _ => {
            let (id, epoch) = control::decode_controlled_shutdown(body).map_err(bad)?;
            let result = match broker.controller() {
                Some(events) => ask(&events, |reply| Event::Shutdown { id, epoch, reply }).await.and_then(|a| a),
                None => Err(ResponseError::NotController),
            };
            let error = code(&result);
            let left = result.unwrap_or_default().into_iter().map(|(topic, index)| (topic, index, 0)).collect();
            control::encode_partitions_answer(error, &left, false)
        }
    })
}

/// Answers AlterPartition.
pub async fn alter_partition(broker: &Arc<Broker>, request: &AlterPartitionRequest, version: i16) -> AlterPartitionResponse {
    let refused = |e: ResponseError| AlterPartitionResponse::default().with_error_code(e.code());
    let Some(events) = broker.controller() else { return refused(ResponseError::NotController) };
    let image = broker.image();
    let (mut proposals, mut ids, mut topics) = (Vec::new(), BTreeMap::new(), BTreeMap::<Uuid, Vec<PartitionData>>::new());
    for topic in &request.topics {
        let Some(name) = broker.topic_ids.name(&image, topic.topic_id) else {
            let unknown = topic.partitions.iter().map(|p| {
                PartitionData::default().with_partition_index(p.partition_index).with_error_code(ResponseError::UnknownTopicId.code())
            });
            topics.entry(topic.topic_id).or_default().extend(unknown);
            continue;
        };
        ids.insert(name.to_string(), topic.topic_id);
        for p in &topic.partitions {
            let isr = match version >= 3 {
                true => p.new_isr_with_epochs.iter().map(|b| (b.broker_id.0, b.broker_epoch)).collect(),
                false => p.new_isr.iter().map(|b| (b.0, -1)).collect(),
            };
            let proposal = Proposal { isr, leader_epoch: p.leader_epoch, partition_epoch: p.partition_epoch };
            proposals.push(((name.to_string(), p.partition_index), proposal));
        }
    }
    let (from, epoch) = (request.broker_id.0, request.broker_epoch);
    let results = match ask(&events, |reply| Event::Proposals { from, epoch, proposals, reply }).await.and_then(|a| a) {
        Ok(results) => results,
        Err(e) => return refused(e),
    };
    for ((name, index), result) in results {
        let answer = PartitionData::default().with_partition_index(index);
        let answer = match result {
            Ok(s) => answer
                .with_leader_id(s.state.leader.into())
                .with_leader_epoch(s.state.leader_epoch)
                .with_isr(s.state.isr.into_iter().map(Into::into).collect())
                .with_partition_epoch(s.version),
            Err(e) => answer.with_error_code(e.code()),
        };
        topics.entry(ids.get(&name).copied().unwrap_or_default()).or_default().push(answer);
    }
    let topics = topics.into_iter().map(|(id, p)| TopicData::default().with_topic_id(id).with_partitions(p));
    AlterPartitionResponse::default().with_topics(topics.collect())
}
