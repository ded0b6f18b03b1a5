//! OffsetForLeaderEpoch: where an epoch ended, by which a consumer or a follower finds out that a log was truncated.

use std::collections::HashSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        offset_for_leader_epoch_request::OffsetForLeaderPartition,
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};

use crate::{broker::Broker, partition::ReadFrom};

fn look_up(broker: &Broker, topic: &str, wanted: &OffsetForLeaderPartition) -> Result<(i32, i64), ResponseError> {
    let Some(led) = broker.led(topic, wanted.partition) else {
        return Err(broker.image().not_led(topic, wanted.partition));
    };
    led.partition.check_epoch(wanted.current_leader_epoch, ReadFrom::Leader)?;
    led.partition.end_of_epoch(wanted.leader_epoch, ReadFrom::Leader)
}

/// Answers a request.
pub fn handle(broker: &Broker, request: &OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let mut seen = HashSet::new();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer = EpochEndOffset::default().with_partition(wanted.partition);
            let once = seen.insert((topic.topic.as_str(), wanted.partition));
            let found = if once { look_up(broker, topic.topic.as_str(), wanted) } else { Err(ResponseError::InvalidRequest) };
            match found {
                Ok((epoch, end)) => answer.with_leader_epoch(epoch).with_end_offset(end),
                Err(e) => answer.with_error_code(e.code()),
            }
        });
        OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
