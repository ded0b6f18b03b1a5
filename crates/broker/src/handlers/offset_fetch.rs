//! OffsetFetch: committed offsets of a group, from version 8 on of several.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    messages::{
        GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName,
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
            OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};

use crate::{broker::Broker, groups::Commit, net::budget::Share, wire::ELEMENT_BYTES};

/// Copies of an offset while an answer is made and written.
const COPIES: usize = 3;

/// Partitions of topics.
type Wanted = BTreeSet<(String, i32)>;
/// Offsets by topic.
type Found = BTreeMap<String, Vec<(i32, Option<Commit>)>>;

/// Memory for the answer about a group, in bytes.
fn weight(broker: &Broker, group: &str, wanted: Option<&Wanted>) -> usize {
    let shard = broker.groups.shard_for(&broker.image(), group, true);
    let offsets = shard.map_or(0, |s| s.offsets_weight(group, wanted));
    wanted.map_or(0, Wanted::len) * ELEMENT_BYTES + offsets * COPIES
}

/// The offsets of a group that are asked for, all without a list.
fn find(broker: &Broker, group: &str, wanted: Option<Wanted>) -> (i16, Found) {
    let offsets = broker.groups.shard_for(&broker.image(), group, true).and_then(|s| s.offsets(group, wanted.as_ref()));
    let error = offsets.as_ref().err().map_or(0, kafka_protocol::ResponseError::code);
    let mut offsets: BTreeMap<(String, i32), Commit> = offsets.unwrap_or_default().into_iter().collect();
    let mut found = Found::new();
    match wanted {
        // A partition that is named again is answered once.
        Some(wanted) => {
            for place in wanted {
                let commit = offsets.remove(&place);
                found.entry(place.0).or_default().push((place.1, commit));
            }
        }
        None => {
            for ((topic, partition), commit) in offsets {
                found.entry(topic).or_default().push((partition, Some(commit)));
            }
        }
    }
    (error, found)
}

fn name(topic: String) -> TopicName {
    TopicName(StrBytes::from_string(topic))
}

fn none() -> Commit {
    Commit { offset: -1, leader_epoch: -1, metadata: String::new(), timestamp: 0, expires: None }
}

fn topics(found: Found, error: i16) -> Vec<OffsetFetchResponseTopic> {
    let partition = |(index, commit): (i32, Option<Commit>)| {
        let c = commit.unwrap_or_else(none);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(c.offset)
            .with_committed_leader_epoch(c.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(c.metadata)))
            .with_error_code(error)
    };
    let topic = |(topic, list): (String, Vec<_>)| {
        OffsetFetchResponseTopic::default().with_name(name(topic)).with_partitions(list.into_iter().map(partition).collect())
    };
    found.into_iter().map(topic).collect()
}

fn group_topics(found: Found) -> Vec<OffsetFetchResponseTopics> {
    let partition = |(index, commit): (i32, Option<Commit>)| {
        let c = commit.unwrap_or_else(none);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(c.offset)
            .with_committed_leader_epoch(c.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(c.metadata)))
    };
    let topic = |(topic, list): (String, Vec<_>)| {
        OffsetFetchResponseTopics::default().with_name(name(topic)).with_partitions(list.into_iter().map(partition).collect())
    };
    found.into_iter().map(topic).collect()
}

fn wanted<'a>(topics: impl Iterator<Item = (&'a TopicName, &'a Vec<i32>)>) -> Wanted {
    topics.flat_map(|(topic, partitions)| partitions.iter().map(|p| (topic.0.to_string(), *p))).collect()
}

/// Answers a request. Without transactions there are no unstable offsets, so `require_stable` changes nothing. The share is for
/// the answer.
pub async fn handle(broker: &Broker, request: &OffsetFetchRequest, version: i16) -> (OffsetFetchResponse, Share) {
    if version < 8 {
        let wanted = request.topics.as_ref().map(|list| wanted(list.iter().map(|t| (&t.name, &t.partition_indexes))));
        let group = &request.group_id.0;
        let share = broker.budgets.responses.take(weight(broker, group, wanted.as_ref())).await;
        let (error, found) = find(broker, group, wanted);
        return (OffsetFetchResponse::default().with_error_code(error).with_topics(topics(found, error)), share);
    }
    let mut seen = BTreeSet::new();
    let groups = request.groups.iter().filter(|g| seen.insert(g.group_id.0.as_str()));
    let groups: Vec<(&GroupId, Option<Wanted>)> =
        groups.map(|g| (&g.group_id, g.topics.as_ref().map(|list| wanted(list.iter().map(|t| (&t.name, &t.partition_indexes)))))).collect();
    let bytes = groups.iter().map(|(id, wanted)| weight(broker, &id.0, wanted.as_ref())).sum();
    let share = broker.budgets.responses.take(bytes).await;
    let answer = |(id, wanted): (&GroupId, Option<Wanted>)| {
        let (error, found) = find(broker, &id.0, wanted);
        let found = if error == 0 { found } else { Found::new() };
        OffsetFetchResponseGroup::default().with_group_id(id.clone()).with_error_code(error).with_topics(group_topics(found))
    };
    (OffsetFetchResponse::default().with_groups(groups.into_iter().map(answer).collect()), share)
}
