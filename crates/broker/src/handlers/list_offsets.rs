//! ListOffsets: first, next, and by time stamp.
//!
//! Invariant: a consumer is told no offset that it could not read up to.

use std::collections::HashSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};

use crate::{broker::Broker, partition::ReadFrom};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the largest time stamp (version 7, KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// First offset on local disks (version 8, KIP-405).
const EARLIEST_LOCAL: i64 = -4;
/// Last offset in tiered storage, which there is none of here (version 9, KIP-1005).
const LATEST_TIERED: i64 = -5;

/// Up to where offsets are shown.
#[derive(Debug, Clone, Copy)]
enum View {
    /// a follower or a debugging consumer: all
    Log,
    Committed,
    /// `isolation.level=read_committed`
    Stable,
}

fn is_served(timestamp: i64, version: i16) -> bool {
    let from = match timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        t if t < EARLIEST => return false,
        _ => 1,
    };
    version >= from
}

fn look_up(broker: &Broker, topic: &str, wanted: &ListOffsetsPartition, view: View) -> Result<(i64, i64, i32), ResponseError> {
    let Some(led) = broker.led(topic, wanted.partition_index) else {
        return Err(broker.image().not_led(topic, wanted.partition_index));
    };
    led.partition.check_epoch(wanted.current_leader_epoch, ReadFrom::Leader)?;
    let epoch = led.partition.leader_epoch();
    let (start, end) = led.partition.offsets();
    match wanted.timestamp {
        LATEST => {
            let offset = match view {
                View::Log => end,
                View::Committed => led.partition.latest_offset()?,
                View::Stable => led.partition.latest_offset()?.min(led.partition.last_stable_offset()),
            };
            Ok((offset, -1, epoch))
        }
        EARLIEST | EARLIEST_LOCAL => Ok((start, -1, epoch)),
        LATEST_TIERED => Ok((-1, -1, -1)),
        t => {
            // A batch may have to be decompressed: the thread's other connections go on elsewhere.
            let stable_only = matches!(view, View::Stable);
            let found = tokio::task::block_in_place(|| match t {
                MAX_TIMESTAMP => led.partition.offset_of_max_timestamp(stable_only),
                t => led.partition.offset_for_timestamp(t, stable_only),
            });
            Ok(found?.map_or((-1, -1, -1), |f| (f.offset, f.timestamp, epoch)))
        }
    }
}

/// Answers a request.
pub fn handle(broker: &Broker, request: &ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    // As on Kafka, a partition that is named twice is an error: a look-up by time is not free.
    let mut seen = HashSet::new();
    let view = match (request.replica_id.0, request.isolation_level) {
        (-1, 0) => View::Committed,
        (-1, _) => View::Stable,
        _ => View::Log,
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index);
            let once = seen.insert((topic.name.as_str(), wanted.partition_index));
            let found = match once {
                true if !is_served(wanted.timestamp, version) => Err(ResponseError::UnsupportedVersion),
                true => look_up(broker, topic.name.as_str(), wanted, view),
                false => Err(ResponseError::InvalidRequest),
            };
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
