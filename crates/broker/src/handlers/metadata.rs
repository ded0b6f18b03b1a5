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

use super::Context;
use crate::{
    broker::Broker,
    cluster::{BrokerInfo, Image, TopicInfo, topics},
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

fn describe(image: &Image, name: &str, topic: &TopicInfo) -> MetadataResponseTopic {
    let alive = |id: &i32| image.brokers.contains_key(id);
    let partitions = topic.partitions.iter().map(|(number, p)| {
        let error = if p.leader < 0 || !alive(&p.leader) { ResponseError::LeaderNotAvailable.code() } else { 0 };
        let offline: Vec<i32> = p.replicas.iter().copied().filter(|r| !alive(r)).collect();
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
    topic_with(name, 0).with_is_internal(topics::is_internal(name)).with_partitions(partitions)
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
                "cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": broker.config.offsets_segment_bytes.to_string(),
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
    let wanted: Vec<&str> = wanted.filter(|_| !all).filter(|name| seen.insert(*name)).collect();
    let partitions: usize = match all {
        true => image.topics.values().map(|t| t.partitions.len()).sum(),
        false => wanted.iter().filter_map(|name| image.topics.get(*name)).map(|t| t.partitions.len()).sum(),
    };
    let named = if all { image.topics.len() } else { wanted.len() };
    let share = broker.budgets.responses.take(named * TOPIC_BYTES + partitions * PARTITION_BYTES).await;
    let mut topics = Vec::new();
    if all {
        topics.extend(image.topics.iter().filter(|(_, t)| !t.deleting).map(|(name, t)| describe(&image, name, t)));
    }
    for name in wanted {
        topics.push(match image.topic(name) {
            Some(t) => describe(&image, name, t),
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
    let brokers = image.brokers.iter().filter_map(|(id, info)| {
        let e = endpoint(info, context)?;
        Some(
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(*id))
                .with_host(StrBytes::from_string(e.host.clone()))
                .with_port(e.port.into()),
        )
    });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_string(image.cluster_id.clone())))
        .with_controller_id(BrokerId(image.controller.unwrap_or(-1)))
        .with_topics(topics);
    (response, share)
}
