//! Metadata: brokers, controller, topics; makes a topic that is asked for where that is allowed.

use std::{collections::HashSet, sync::Arc};

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, MetadataRequest, MetadataResponse, TopicName,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    protocol::StrBytes,
};
use uuid::Uuid;

use super::Context;
use crate::{
    broker::Broker,
    cluster::{BrokerInfo, Image, TopicInfo, topic_ids, topics},
    groups::OFFSETS_TOPIC,
    net::budget::Share,
    warn_quietly,
};

/// Memory that a topic and a partition take in an answer, in bytes.
const TOPIC_BYTES: usize = 512;
const PARTITION_BYTES: usize = 512;

/// A broker's address for clients of a listener.
pub fn endpoint<'a>(info: &'a BrokerInfo, context: &Context) -> Option<&'a crate::config::Listener> {
    info.endpoints.iter().find(|e| e.name == context.listener)
}

fn ids(list: &[i32]) -> Vec<BrokerId> {
    list.iter().map(|i| BrokerId(*i)).collect()
}

/// What may be done with the cluster and with a topic, as bits by AclOperation's codes: without an authorizer, all that there is
/// for the resource (AclEntry.scala).
pub const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// What is answered where operations were not asked for.
pub const NOT_ASKED: i32 = i32::MIN;
/// First version with topic ids in answers, and in requests.
const IDS: (i16, i16) = (10, 12);

fn describe(image: &Image, name: &str, topic: &TopicInfo, version: i16) -> MetadataResponseTopic {
    let alive = |id: &i32| image.brokers.contains_key(id);
    let partitions = topic.partitions.iter().map(|(number, p)| {
        let error = if p.leader < 0 || !alive(&p.leader) { ResponseError::LeaderNotAvailable.code() } else { 0 };
        let offline: Vec<i32> = p.replicas.iter().copied().filter(|r| !alive(r) || p.offline.contains(r)).collect();
        MetadataResponsePartition::default()
            .with_error_code(error)
            .with_partition_index(*number)
            .with_leader_id(BrokerId(if error == 0 { p.leader } else { -1 }))
            .with_leader_epoch(p.leader_epoch)
            .with_replica_nodes(ids(&p.replicas))
            .with_isr_nodes(ids(&p.isr))
            .with_offline_replicas(ids(&offline))
    });
    let partitions = partitions.collect();
    let answer = topic_with(name, 0).with_is_internal(topics::is_internal(name)).with_partitions(partitions);
    if version >= IDS.0 { answer.with_topic_id(topic_ids::uuid(topic)) } else { answer }
}

fn topic_with(name: &str, error: i16) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_error_code(error).with_name(Some(TopicName(StrBytes::from_string(name.to_owned()))))
}

/// Makes a topic as `auto.create.topics.enable` says. The client asks again until it has a leader.
pub async fn auto_create(broker: &Broker, name: &str) -> ResponseError {
    let image = broker.image();
    let (partitions, factor) = match name {
        OFFSETS_TOPIC => (broker.config.offsets_partitions, broker.config.offsets_replication_factor),
        _ => (broker.config.num_partitions, broker.config.default_replication_factor),
    };
    let client = broker.zookeeper.borrow().clone();
    let made = async {
        topics::check_name(name)?;
        let start = name.bytes().map(usize::from).sum();
        let assignment = topics::assign(&image, partitions, factor, start)?;
        let client = client.ok_or((ResponseError::LeaderNotAvailable, "no session with the coordinator".to_owned()))?;
        broker.quota.reserve(&image, broker.partition_limits(), name, &assignment, true)?;
        // As Kafka makes it.
        let config = match name {
            OFFSETS_TOPIC => serde_json::json!({
                "cleanup.policy": "compact",
                "compression.type": "producer",
                "segment.bytes": broker.config.offsets_segment_bytes.to_string(),
            }),
            _ => serde_json::json!({}),
        };
        let made = topics::create(&client, name, &assignment, &config).await;
        if made.is_err() {
            broker.quota.release(name);
        }
        made
    };
    match made.await {
        Ok(()) | Err((ResponseError::TopicAlreadyExists, _)) => ResponseError::LeaderNotAvailable,
        Err((code, text)) => {
            warn_quietly!("topic {name:?} is not created automatically: {text}");
            code
        }
    }
}

/// The topics that a request asks for by id, each once, with their names; `None` if it asks by name.
fn by_id(broker: &Broker, image: &Arc<Image>, request: &MetadataRequest, version: i16) -> Option<Vec<(Uuid, Option<Arc<str>>)>> {
    let topics = request.topics.as_ref()?;
    if version < IDS.0 || topics.iter().all(|t| t.topic_id.is_nil() && t.name.is_some()) {
        return None;
    }
    let mut seen = HashSet::new();
    let ids = topics.iter().map(|t| t.topic_id).filter(|id| seen.insert(*id));
    Some(ids.map(|id| (id, broker.topic_ids.name(image, id))).collect())
}

fn described_by_id(image: &Image, id: Uuid, name: Option<&str>, version: i16) -> MetadataResponseTopic {
    match name.and_then(|name| Some((name, image.topic(name)?))) {
        // Versions before have ids in answers only.
        _ if version < IDS.1 => topic_with("", ResponseError::InvalidRequest.code()).with_topic_id(id),
        Some((name, topic)) => describe(image, name, topic, version),
        None => MetadataResponseTopic::default().with_error_code(ResponseError::UnknownTopicId.code()).with_name(None).with_topic_id(id),
    }
}

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: &MetadataRequest, version: i16) -> (MetadataResponse, Share) {
    let image = broker.image();
    let all = match &request.topics {
        None => true,
        Some(list) => version == 0 && list.is_empty(),
    };
    // As Kafka does, a topic that is named again is answered once.
    let mut seen = HashSet::new();
    let wanted = request.topics.iter().flatten().map(|t| t.name.as_ref().map(|n| n.as_str()).unwrap_or_default());
    let by_id = by_id(broker, &image, request, version);
    let by_name = !all && by_id.is_none();
    let wanted: Vec<&str> = wanted.filter(|_| by_name).filter(|name| seen.insert(*name)).collect();
    let partitions: usize = match all {
        true => image.topics.values().map(|t| t.partitions.len()).sum(),
        false => {
            let found = by_id.iter().flatten().filter_map(|(_, name)| name.as_deref());
            found.chain(wanted.iter().copied()).filter_map(|name| image.topics.get(name)).map(|t| t.partitions.len()).sum()
        }
    };
    let named = if all { image.topics.len() } else { wanted.len() + by_id.as_ref().map_or(0, Vec::len) };
    let share = broker.budgets.responses.take(named * TOPIC_BYTES + partitions * PARTITION_BYTES).await;
    let mut topics = Vec::new();
    if all {
        topics.extend(image.topics.iter().map(|(name, t)| describe(&image, name, t, version)));
    }
    topics.extend(by_id.into_iter().flatten().map(|(id, name)| described_by_id(&image, id, name.as_deref(), version)));
    for name in wanted {
        topics.push(match image.topic(name) {
            Some(t) => describe(&image, name, t, version),
            None => {
                let may = broker.config.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
                let error = if topics::check_name(name).is_err() {
                    ResponseError::InvalidTopicException
                } else if may || name == OFFSETS_TOPIC {
                    auto_create(broker, name).await
                } else {
                    ResponseError::UnknownTopicOrPartition
                };
                topic_with(name, error.code())
            }
        });
    }
    if request.include_topic_authorized_operations {
        topics.iter_mut().filter(|t| t.error_code == 0).for_each(|t| t.topic_authorized_operations = TOPIC_OPERATIONS);
    }
    let brokers = image.brokers.iter().filter_map(|(id, info)| {
        let e = endpoint(info, context)?;
        Some(
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(*id))
                .with_host(StrBytes::from_string(e.host.clone()))
                .with_port(e.port.into())
                .with_rack(info.rack.clone().filter(|_| version >= 1).map(StrBytes::from_string)),
        )
    });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_string(broker.cluster_id().to_owned())))
        .with_controller_id(BrokerId(image.controller.unwrap_or(-1)))
        .with_topics(topics);
    // From version 11 on DescribeCluster has them.
    let asked = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    let response = response.with_cluster_authorized_operations(if asked { CLUSTER_OPERATIONS } else { NOT_ASKED });
    (response, share)
}
