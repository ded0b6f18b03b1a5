//! DescribeLogDirs, and AlterReplicaLogDirs: there is one directory, so nothing can be moved to another.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName,
        alter_replica_log_dirs_response::{AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult},
        describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic},
    },
    protocol::StrBytes,
};

use crate::{broker::Broker, net::budget::Share};

/// Memory that a partition takes in an answer, in bytes.
const PARTITION_BYTES: usize = 160;

/// The directory, as Kafka names it: an absolute path.
fn directory(broker: &Broker) -> String {
    std::path::absolute(&broker.config.log_dir).unwrap_or_else(|_| broker.config.log_dir.clone()).display().to_string()
}

/// Bytes of the file system, and those that are free.
fn space(broker: &Broker) -> (i64, i64) {
    let bytes = |blocks: u64, size: u64| i64::try_from(blocks.saturating_mul(size)).unwrap_or(i64::MAX);
    rustix::fs::statvfs(&broker.config.log_dir).map_or((-1, -1), |s| (bytes(s.f_blocks, s.f_frsize), bytes(s.f_bavail, s.f_frsize)))
}

/// Answers DescribeLogDirs. The share is for the answer.
pub async fn describe(broker: &Broker, request: &DescribeLogDirsRequest, version: i16) -> (DescribeLogDirsResponse, Share) {
    let wanted: Option<HashSet<(&str, i32)>> =
        request.topics.as_ref().map(|topics| topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.as_str(), *p))).collect());
    let mut all = broker.storage.all();
    all.retain(|((topic, number), _)| wanted.as_ref().is_none_or(|w| w.contains(&(topic.as_str(), *number))));
    let share = broker.budgets.responses.take(all.len() * PARTITION_BYTES).await;
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for ((topic, number), led) in all {
        let size = i64::try_from(led.partition.size()).unwrap_or(i64::MAX);
        topics.entry(topic).or_default().push(DescribeLogDirsPartition::default().with_partition_index(number).with_partition_size(size));
    }
    let topics = topics.into_iter().map(|(name, mut partitions)| {
        partitions.sort_unstable_by_key(|p| p.partition_index);
        DescribeLogDirsTopic::default().with_name(TopicName(StrBytes::from_string(name))).with_partitions(partitions)
    });
    let result = DescribeLogDirsResult::default().with_log_dir(StrBytes::from_string(directory(broker))).with_topics(topics.collect());
    if broker.storage.shared.log_dir.is_offline() {
        let error = ResponseError::KafkaStorageError.code();
        let result = DescribeLogDirsResult::default().with_error_code(error).with_log_dir(StrBytes::from_string(directory(broker)));
        return (DescribeLogDirsResponse::default().with_results(vec![result]), share);
    }
    let (total, usable) = space(broker);
    let result = if version >= 4 { result.with_total_bytes(total).with_usable_bytes(usable) } else { result };
    (DescribeLogDirsResponse::default().with_results(vec![result]), share)
}

/// Answers AlterReplicaLogDirs. A replica that is to be where it is stays there; another directory does not exist.
pub fn alter(broker: &Broker, request: &AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse {
    let own = directory(broker);
    let mut results = Vec::new();
    for dir in &request.dirs {
        let here = dir.path.as_str() == own;
        for topic in &dir.topics {
            let partitions = topic.partitions.iter().map(|number| {
                let error = match here {
                    false => ResponseError::LogDirNotFound.code(),
                    true if broker.storage.get(topic.name.as_str(), *number).is_some() => 0,
                    true => ResponseError::ReplicaNotAvailable.code(),
                };
                AlterReplicaLogDirPartitionResult::default().with_partition_index(*number).with_error_code(error)
            });
            let partitions = partitions.collect();
            results.push(AlterReplicaLogDirTopicResult::default().with_topic_name(topic.name.clone()).with_partitions(partitions));
        }
    }
    AlterReplicaLogDirsResponse::default().with_results(results)
}
