//! Consumer groups, the classic protocol, and their offsets, as Kafka 3.9 with ZooKeeper has them.
//!
//! Purpose: each partition of `__consumer_offsets` that this broker leads is a shard with the groups whose names hash to it, rebuilt
//! from the log by the broker that is elected. [`core`] is the state machine of one group, without IO or a clock; [`shard`] runs the
//! groups of a partition, [`coordinator`] the shards of a broker.
//!
//! Invariant: an answer that depends on a record leaves after the record is committed.

mod batches;
pub mod coordinator;
pub mod core;
mod load;
mod member_requests;
mod offset_requests;
pub mod shard;
mod value;

pub use coordinator::{Coordinator, GroupSettings};
pub use offset_requests::Committer;
pub use value::{Commit, GroupValue, Key, MemberValue};

/// The internal topic's name.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Memory for the committed offsets of all groups of one broker, in bytes. A group is whatever a client names, so there is no end
/// to them otherwise.
const MAX_OFFSETS_BYTES: usize = 32 * 1024 * 1024;
/// Memory for the members of all groups of one broker, with their metadata and assignments, in bytes.
const MAX_GROUPS_BYTES: usize = 64 * 1024 * 1024;

/// Reads a record of the offsets topic, whatever it is. Says whether it is one.
pub(crate) fn decode_any(key: bytes::Bytes, value: Option<bytes::Bytes>) -> bool {
    value::Entry::decode(key, value).is_some_and(|entry| entry.encode().is_ok())
}

/// `String.hashCode` of Java, by which Kafka spreads groups.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |h, c| h.wrapping_mul(31).wrapping_add(i32::from(c)))
}

/// Partition of the offsets topic that a group belongs to (Utils.abs of Kafka: of the smallest number, 0).
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    java_hash(group).checked_abs().unwrap_or(0) % partitions.max(1)
}
