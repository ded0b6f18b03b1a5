//! ListOffsets: first, next, and by time stamp.

use std::collections::HashSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};

use crate::broker::Broker;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the largest time stamp (version 7).
const MAX_TIMESTAMP: i64 = -3;

fn look_up(broker: &Broker, topic: &str, wanted: &ListOffsetsPartition) -> Result<(i64, i64, i32), ResponseError> {
    let Some(led) = broker.led(topic, wanted.partition_index) else {
        return Err(broker.image().not_led(topic, wanted.partition_index));
    };
    led.partition.check_epoch(wanted.current_leader_epoch)?;
    let epoch = led.partition.leader_epoch();
    let (start, end) = led.partition.offsets();
    match wanted.timestamp {
        LATEST => Ok((end, -1, epoch)),
        EARLIEST => Ok((start, -1, epoch)),
        t if t < 0 && t != MAX_TIMESTAMP => Err(ResponseError::InvalidRequest),
        t => {
            // A batch may have to be decompressed: the thread's other connections go on elsewhere.
            let found = tokio::task::block_in_place(|| match t {
                MAX_TIMESTAMP => led.partition.offset_of_max_timestamp(),
                t => led.partition.offset_for_timestamp(t),
            });
            Ok(found?.map_or((-1, -1, -1), |f| (f.offset, f.timestamp, epoch)))
        }
    }
}

/// Answers a request.
pub fn handle(broker: &Broker, request: &ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    // As on Kafka, a partition that is named twice is an error: a look-up by time is not free.
    let mut seen = HashSet::new();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index);
            let once = seen.insert((topic.name.as_str(), wanted.partition_index));
            let found = if once { look_up(broker, topic.name.as_str(), wanted) } else { Err(ResponseError::InvalidRequest) };
            match found {
                Ok((offset, timestamp, epoch)) => {
                    let answer = answer.with_offset(offset).with_timestamp(timestamp);
                    if version >= 4 { answer.with_leader_epoch(epoch) } else { answer }
                }
                Err(e) => answer.with_error_code(e.code()),
            }
        });
        ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}
