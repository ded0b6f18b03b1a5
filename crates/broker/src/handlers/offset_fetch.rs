//! OffsetFetch: committed offsets of a group.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    messages::{
        OffsetFetchRequest, OffsetFetchResponse, TopicName,
        offset_fetch_request::OffsetFetchRequestTopic,
        offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic},
    },
    protocol::StrBytes,
};

use super::offset_commit::led_for;
use crate::{
    broker::Broker,
    groups::{Commit, Key},
    net::budget::Share,
    wire::ELEMENT_BYTES,
};

fn partition(index: i32, commit: Option<Commit>, error: i16) -> OffsetFetchResponsePartition {
    let c = commit.unwrap_or(Commit { offset: -1, leader_epoch: -1, metadata: String::new(), timestamp: 0 });
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(c.offset)
        .with_committed_leader_epoch(c.leader_epoch)
        .with_metadata(Some(StrBytes::from_string(c.metadata)))
        .with_error_code(error)
}

/// Copies of an offset while an answer is made and written.
const COPIES: usize = 3;

/// Answers a request; without topics, all that the group has. The share is for the answer.
pub async fn handle(broker: &Broker, request: &OffsetFetchRequest) -> (OffsetFetchResponse, Share) {
    let group = request.group_id.0.to_string();
    let led = led_for(broker, &group);
    let error = led.as_ref().err().map_or(0, kafka_protocol::ResponseError::code);
    let offsets = led.as_ref().ok().and_then(|l| l.offsets.as_ref());
    // A partition that is named again is answered once.
    let wanted: Option<BTreeSet<Key>> = request.topics.as_ref().map(|topics| {
        let key =
            |topic: &OffsetFetchRequestTopic, index: i32| Key { group: group.clone(), topic: topic.name.0.to_string(), partition: index };
        topics.iter().flat_map(|t| t.partition_indexes.iter().map(move |i| key(t, *i))).collect()
    });
    let weight = offsets.map_or(0, |o| o.weight(&group, wanted.as_ref().map(|w| w.iter())));
    let elements = wanted.as_ref().map_or(0, BTreeSet::len) * ELEMENT_BYTES;
    let share = broker.budgets.responses.take(elements + weight * COPIES).await;
    let mut topics: BTreeMap<String, Vec<OffsetFetchResponsePartition>> = BTreeMap::new();
    match wanted {
        Some(wanted) => {
            for key in wanted {
                let found = offsets.and_then(|o| o.get(&key));
                topics.entry(key.topic).or_default().push(partition(key.partition, found, error));
            }
        }
        None => {
            for (key, commit) in offsets.map(|o| o.of_group(&group)).unwrap_or_default() {
                topics.entry(key.topic).or_default().push(partition(key.partition, Some(commit), 0));
            }
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        OffsetFetchResponseTopic::default().with_name(TopicName(StrBytes::from_string(name))).with_partitions(partitions)
    });
    (OffsetFetchResponse::default().with_error_code(error).with_topics(topics.collect()), share)
}
