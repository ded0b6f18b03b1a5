//! OffsetCommit, for consumers that assign their partitions themselves. Membership of groups comes later: a commit
//! that names a generation is from a member that this broker cannot know.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse,
        offset_commit_request::OffsetCommitRequestTopic,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    },
};

use crate::{
    broker::Broker,
    cluster::Image,
    groups::{Commit, Key, MAX_METADATA_BYTES, OFFSETS_TOPIC, partition_for},
};

/// The partition of the offsets topic that a group belongs to, if this broker leads it.
pub fn led_for(broker: &Broker, group: &str) -> Result<std::sync::Arc<crate::storage::Led>, ResponseError> {
    if group.is_empty() || group.len() > i16::MAX as usize {
        return Err(ResponseError::InvalidGroupId);
    }
    let partitions = broker.image().topics.get(OFFSETS_TOPIC).map_or(0, |t| t.partitions.len()) as i32;
    broker.led(OFFSETS_TOPIC, partition_for(group, partitions)).ok_or(ResponseError::NotCoordinator)
}

fn commit(broker: &Broker, image: &Image, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
    let led = led_for(broker, &request.group_id.0)?;
    if request.generation_id_or_member_epoch >= 0 || !request.member_id.is_empty() {
        return Err(ResponseError::UnknownMemberId);
    }
    let offsets = led.offsets.as_ref().ok_or(ResponseError::NotCoordinator)?;
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    // They become one batch; what cannot be one is not copied first.
    let bytes = |t: &OffsetCommitRequestTopic| -> usize {
        t.partitions.iter().map(|p| t.name.len() + p.committed_metadata.as_ref().map_or(0, |m| m.len())).sum()
    };
    if request.topics.iter().map(bytes).sum::<usize>() > broker.config.message_max_bytes {
        return Err(ResponseError::InvalidCommitOffsetSize);
    }
    let mut commits = Vec::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            if refusal(image, topic.name.as_str(), p.partition_index, p.committed_metadata.as_deref()).is_some() {
                continue;
            }
            let key = Key { group: request.group_id.0.to_string(), topic: topic.name.0.to_string(), partition: p.partition_index };
            let metadata = p.committed_metadata.as_deref().unwrap_or_default().to_owned();
            commits.push((key, Commit { offset: p.committed_offset, leader_epoch: p.committed_leader_epoch, metadata, timestamp }));
        }
    }
    offsets.commit(&led.partition, commits).map_err(|e| match e {
        ResponseError::MessageTooLarge => ResponseError::InvalidCommitOffsetSize,
        e => e,
    })
}

/// Why an offset is not kept, while others of the same request may be.
fn refusal(image: &Image, topic: &str, partition: i32, metadata: Option<&str>) -> Option<ResponseError> {
    if !image.topic(topic).is_some_and(|t| t.partitions.contains_key(&partition)) {
        return Some(ResponseError::UnknownTopicOrPartition);
    }
    metadata.is_some_and(|m| m.len() > MAX_METADATA_BYTES).then_some(ResponseError::OffsetMetadataTooLarge)
}

/// Answers a request.
pub fn handle(broker: &Broker, request: &OffsetCommitRequest) -> OffsetCommitResponse {
    // One image for both: what is acknowledged is what was written.
    let image = broker.image();
    let result = commit(broker, &image, request);
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            let error = match result {
                Err(e) => e.code(),
                Ok(()) => refusal(&image, topic.name.as_str(), p.partition_index, p.committed_metadata.as_deref()).map_or(0, |e| e.code()),
            };
            OffsetCommitResponsePartition::default().with_partition_index(p.partition_index).with_error_code(error)
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
