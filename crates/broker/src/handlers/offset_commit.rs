//! OffsetCommit, of members of a group and of consumers that assign their partitions themselves.

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
    groups::{Commit, Committer},
    log::now_ms,
};

async fn commit(broker: &Broker, image: &Image, request: &OffsetCommitRequest, version: i16) -> Result<(), ResponseError> {
    let shard = broker.groups.shard_for(image, &request.group_id.0, true)?;
    // They become one batch; what cannot be one is not copied first.
    let bytes = |t: &OffsetCommitRequestTopic| -> usize {
        t.partitions.iter().map(|p| t.name.len() + p.committed_metadata.as_ref().map_or(0, |m| m.len())).sum()
    };
    if request.topics.iter().map(bytes).sum::<usize>() > broker.config.message_max_bytes {
        return Err(ResponseError::InvalidCommitOffsetSize);
    }
    let timestamp = now_ms();
    // The client's own retention, up to version 4.
    let expires = (version <= 4 && request.retention_time_ms >= 0).then(|| timestamp.saturating_add(request.retention_time_ms));
    let mut commits = Vec::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            if refusal(broker, image, topic.name.as_str(), p.partition_index, p.committed_metadata.as_deref()).is_some() {
                continue;
            }
            let metadata = p.committed_metadata.as_deref().unwrap_or_default().to_owned();
            let (offset, leader_epoch) = (p.committed_offset, p.committed_leader_epoch);
            commits.push((topic.name.0.to_string(), p.partition_index, Commit { offset, leader_epoch, metadata, timestamp, expires }));
        }
    }
    let who = Committer {
        generation: request.generation_id_or_member_epoch,
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
    };
    shard.commit(&request.group_id.0, &who, commits).await
}

/// Why an offset is not kept, while others of the same request may be.
fn refusal(broker: &Broker, image: &Image, topic: &str, partition: i32, metadata: Option<&str>) -> Option<ResponseError> {
    if !image.topic(topic).is_some_and(|t| t.partitions.contains_key(&partition)) {
        return Some(ResponseError::UnknownTopicOrPartition);
    }
    let max = broker.config.groups.metadata_max_bytes;
    metadata.is_some_and(|m| m.len() > max).then_some(ResponseError::OffsetMetadataTooLarge)
}

/// Answers a request.
pub async fn handle(broker: &Broker, request: &OffsetCommitRequest, version: i16) -> OffsetCommitResponse {
    // One image for both: what is acknowledged is what was written.
    let image = broker.image();
    let result = commit(broker, &image, request, version).await;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            // A partition that does not exist is refused before the group is asked, metadata that are too long after that.
            let error = match refusal(broker, &image, topic.name.as_str(), p.partition_index, p.committed_metadata.as_deref()) {
                Some(ResponseError::UnknownTopicOrPartition) => Some(ResponseError::UnknownTopicOrPartition),
                refused => result.err().or(refused),
            };
            let code = error.map_or(0, |e| e.code());
            OffsetCommitResponsePartition::default().with_partition_index(p.partition_index).with_error_code(code)
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
