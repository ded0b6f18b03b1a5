//! Rebuilding the groups of a partition of `__consumer_offsets` from its log.

use std::collections::HashMap;

use kafka_protocol::ResponseError;

use super::{
    batches::Reader,
    core::{Group, Now, Offsets},
    value::{Entry, GroupValue},
};
use crate::partition::Partition;

/// Read at once, in bytes.
const CHUNK: usize = 1024 * 1024;

/// Reads the log up to its end. `go_on` is asked between portions.
pub fn load(partition: &Partition, now: Now, go_on: impl Fn() -> bool) -> Result<HashMap<String, (Group, Offsets)>, ResponseError> {
    let mut groups: HashMap<String, (Option<GroupValue>, Offsets)> = HashMap::new();
    let mut reader = Reader::default();
    let (mut offset, end) = partition.offsets();
    while offset < end && go_on() {
        let read = partition.read(offset, CHUNK)?;
        let next = reader.read(&read, |entry, at| match entry {
            Entry::Offset(key, commit) => groups.entry(key.group).or_default().1.load((key.topic, key.partition), commit, at),
            Entry::Group(id, value) => groups.entry(id).or_default().0 = value,
        });
        let Some(next) = next else { break };
        offset = next;
    }
    // Of a group whose record is a tombstone and whose offsets are gone, nothing is left.
    groups.retain(|_, (value, offsets)| value.is_some() || !offsets.is_empty());
    let group = |id: &str, value: Option<GroupValue>| match value {
        Some(value) => Group::restore(id, value, now),
        None => Group::new(id, now),
    };
    Ok(groups.into_iter().map(|(id, (value, offsets))| (id.clone(), (group(&id, value), offsets))).collect())
}
