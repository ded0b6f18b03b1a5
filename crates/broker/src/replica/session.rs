//! The follower's side of a fetch session (KIP-227): what the leader knows already is not sent again.
//!
//! Invariant: a request names each partition whose position is not the one that the leader has.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::{
    BrokerId, FetchRequest,
    fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState},
};
use uuid::Uuid;

use super::tracked::Key;
use crate::partition::FetchPosition;

/// A session with one leader.
#[derive(Debug, Default)]
pub struct Session {
    id: i32,
    epoch: i32,
    /// What the leader has; `None` is a position whose answer was not used.
    known: HashMap<Key, Option<FetchPosition>>,
}

/// Limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `replica.fetch.wait.max.ms`
    pub wait_ms: i32,
    /// `replica.fetch.response.max.bytes`
    pub bytes: i32,
    /// `replica.fetch.max.bytes`
    pub partition_bytes: i32,
}

impl Session {
    /// The next request begins a session: it must name all partitions.
    pub fn begins(&self) -> bool {
        self.id == 0
    }

    /// Whether the leader is asked for nothing.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The position that was asked for last.
    pub fn asked(&self, key: &Key) -> Option<FetchPosition> {
        self.known.get(key).copied().flatten()
    }

    /// The next request. `changed` are partitions whose positions may have changed; without one, it is not fetched any more.
    pub fn request(
        &mut self,
        me: i32,
        epoch: i64,
        changed: impl IntoIterator<Item = (Key, Option<FetchPosition>)>,
        limits: Limits,
    ) -> FetchRequest {
        if self.begins() {
            self.known.clear();
            self.epoch = 0;
        }
        let mut topics: BTreeMap<[u8; 16], Vec<FetchPartition>> = BTreeMap::new();
        let mut forgotten: BTreeMap<[u8; 16], Vec<i32>> = BTreeMap::new();
        for (key @ (id, index), position) in changed {
            let Some(position) = position else {
                if self.known.remove(&key).is_some() {
                    forgotten.entry(id).or_default().push(index);
                }
                continue;
            };
            if self.known.insert(key, Some(position)).flatten() == Some(position) {
                continue;
            }
            topics.entry(id).or_default().push(
                FetchPartition::default()
                    .with_partition(index)
                    .with_current_leader_epoch(position.leader_epoch)
                    .with_fetch_offset(position.offset)
                    .with_last_fetched_epoch(position.last_epoch)
                    .with_log_start_offset(position.start)
                    .with_partition_max_bytes(limits.partition_bytes),
            );
        }
        let topic = |(id, partitions)| FetchTopic::default().with_topic_id(Uuid::from_bytes(id)).with_partitions(partitions);
        let forget = |(id, partitions)| ForgottenTopic::default().with_topic_id(Uuid::from_bytes(id)).with_partitions(partitions);
        FetchRequest::default()
            .with_replica_state(ReplicaState::default().with_replica_id(BrokerId(me)).with_replica_epoch(epoch))
            .with_max_wait_ms(limits.wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(limits.bytes)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(topics.into_iter().map(topic).collect())
            .with_forgotten_topics_data(forgotten.into_iter().map(forget).collect())
    }

    /// An answer came with this session.
    pub fn answered(&mut self, id: i32) {
        // Without a session, the next request names everything again; what this one asked for is still known.
        self.id = id;
        self.epoch = match self.epoch {
            _ if id == 0 => 0,
            i32::MAX => 1,
            epoch => epoch + 1,
        };
    }

    /// A partition's answer was not used: it is asked for again, even from the same position.
    pub fn again(&mut self, key: &Key) {
        if let Some(position) = self.known.get_mut(key) {
            *position = None;
        }
    }

    /// The session is over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_asked_for() {
        let limits = Limits { wait_ms: 1, bytes: 2, partition_bytes: 3 };
        let at = |offset| Some(FetchPosition { leader_epoch: 1, offset, start: 0, last_epoch: 1 });
        let key = |index| ([1; 16], index);
        let count = |r: &FetchRequest| r.topics.iter().map(|t| t.partitions.len()).sum::<usize>();
        let mut s = Session::default();
        let r = s.request(1, 2, [(key(0), at(5)), (key(1), at(5))], limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (2, 0, 0));
        s.answered(77);
        assert_eq!((s.begins(), s.asked(&key(0))), (false, at(5)));
        let r = s.request(1, 2, [(key(0), at(6)), (key(1), at(5))], limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (1, 77, 1));
        s.answered(77);
        let r = s.request(1, 2, [(key(1), None), (key(2), None)], limits);
        assert_eq!((count(&r), r.session_epoch, r.forgotten_topics_data[0].partitions.clone()), (0, 2, vec![1]));
        s.answered(77);
        s.again(&key(0));
        assert_eq!(s.asked(&key(0)), None);
        assert_eq!(count(&s.request(1, 2, [(key(0), at(6))], limits)), 1);
        s.again(&key(0));
        let r = s.request(1, 2, [(key(0), None)], limits);
        assert_eq!(r.forgotten_topics_data[0].partitions, [0], "the leader still has it");
        assert!(s.is_empty());
        s.answered(0);
        let r = s.request(1, 2, [(key(0), at(6))], limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (1, 0, 0));
    }
}
