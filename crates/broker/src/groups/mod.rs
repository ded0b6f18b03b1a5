//! Committed offsets of consumer groups: a map that is rebuilt from `__consumer_offsets`.
//!
//! Invariant: an offset is in the map only after its record is in the log.

mod record;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use kafka_protocol::ResponseError;

use crate::{partition::Partition, warn_quietly};
pub use record::{Commit, Key};

/// The internal topic's name.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Longest metadata string that a commit may carry (`offset.metadata.max.bytes`).
pub const MAX_METADATA_BYTES: usize = 4096;

/// Memory for the committed offsets of all groups of one broker, in bytes. A group is whatever a client names, so there is no end
/// to them otherwise.
const MAX_OFFSETS_BYTES: usize = 32 * 1024 * 1024;
/// Memory of an entry beside its strings, in bytes.
const ENTRY_BYTES: usize = 200;

/// Memory that the offsets of a broker take.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<AtomicUsize>);

fn cost(key: &Key, commit: &Commit) -> usize {
    ENTRY_BYTES + key.group.len() + key.topic.len() + commit.metadata.len()
}

/// `String.hashCode` of Java, by which Kafka spreads groups.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |h, c| h.wrapping_mul(31).wrapping_add(i32::from(c)))
}

/// Partition of the offsets topic that a group belongs to (Utils.abs of Kafka: of the smallest number, 0).
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    java_hash(group).checked_abs().unwrap_or(0) % partitions.max(1)
}

/// Offsets of the groups of one partition of the offsets topic.
#[derive(Debug, Default)]
pub struct Offsets {
    map: Mutex<HashMap<Key, Commit>>,
    usage: Usage,
}

impl Drop for Offsets {
    fn drop(&mut self) {
        let map = self.map.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.usage.0.fetch_sub(map.iter().map(|(k, c)| cost(k, c)).sum(), Ordering::Relaxed);
    }
}

impl Offsets {
    /// Reads a partition of the offsets topic from its beginning.
    pub fn load(partition: &Partition) -> Result<Self, ResponseError> {
        Self::load_in(partition, Usage::default())
    }

    /// The same, for a broker that has others.
    pub fn load_in(partition: &Partition, usage: Usage) -> Result<Self, ResponseError> {
        let mut map = HashMap::new();
        let (mut offset, end) = partition.offsets();
        while offset < end {
            let read = partition.read(offset, 1024 * 1024)?;
            let Some(next) = record::replay(&read, &mut map) else {
                break;
            };
            offset = next;
        }
        usage.0.fetch_add(map.iter().map(|(k, c)| cost(k, c)).sum(), Ordering::Relaxed);
        Ok(Self { map: Mutex::new(map), usage })
    }

    /// Writes commits to the log, then to the map.
    pub fn commit(&self, partition: &Partition, commits: Vec<(Key, Commit)>) -> Result<(), ResponseError> {
        if commits.is_empty() {
            return Ok(());
        }
        let bytes = record::encode(&commits).map_err(|e| {
            tracing::error!("offset commit: {e}");
            ResponseError::UnknownServerError
        })?;
        // The lock spans both, so that the map has the order of the log.
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let before: usize = commits.iter().filter_map(|(k, _)| map.get_key_value(k)).map(|(k, c)| cost(k, c)).sum();
        let after: usize = commits.iter().map(|(k, c)| cost(k, c)).sum();
        if after > before && self.usage.0.load(Ordering::Relaxed) + (after - before) > MAX_OFFSETS_BYTES {
            warn_quietly!("offset commit refused: committed offsets take {MAX_OFFSETS_BYTES} bytes of memory");
            return Err(ResponseError::InvalidCommitOffsetSize);
        }
        partition.append(&bytes)?;
        for (key, commit) in commits {
            self.usage.0.fetch_add(cost(&key, &commit), Ordering::Relaxed);
            if let Some((key, old)) = map.remove_entry(&key) {
                self.usage.0.fetch_sub(cost(&key, &old), Ordering::Relaxed);
            }
            map.insert(key, commit);
        }
        Ok(())
    }

    /// A committed offset.
    pub fn get(&self, key: &Key) -> Option<Commit> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Memory that the offsets take which a request for a group's asks for: all of them without a list, in bytes.
    pub fn weight<'a>(&self, group: &str, keys: Option<impl Iterator<Item = &'a Key>>) -> usize {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        match keys {
            Some(keys) => keys.filter_map(|k| map.get_key_value(k)).map(|(k, c)| cost(k, c)).sum(),
            None => map.iter().filter(|(k, _)| k.group == group).map(|(k, c)| cost(k, c)).sum(),
        }
    }

    /// All topics and partitions that a group has offsets for.
    pub fn of_group(&self, group: &str) -> Vec<(Key, Commit)> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out: Vec<_> = map.iter().filter(|(k, _)| k.group == group).map(|(k, c)| (k.clone(), c.clone())).collect();
        out.sort_by(|(a, _), (b, _)| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        out
    }
}
