//! The follower's side of a fetch session (KIP-227): what the leader knows already is not sent again.
//!
//! Invariant: a request names each partition whose position is not the one that the leader has.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::{
    BrokerId, FetchRequest,
    fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState},
};
use uuid::Uuid;

use crate::{core::controller::Name, partition::FetchPosition};

/// A partition as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The topic's id.
    pub id: [u8; 16],
    /// Where from.
    pub position: FetchPosition,
}

/// A session with one leader.
#[derive(Debug, Default)]
pub struct Session {
    id: i32,
    epoch: i32,
    known: BTreeMap<Name, Asked>,
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
    /// The next request.
    pub fn request(&mut self, me: i32, epoch: i64, wanted: &BTreeMap<Name, Asked>, limits: Limits) -> FetchRequest {
        let full = self.id == 0;
        if full {
            self.known.clear();
            self.epoch = 0;
        }
        let changed = wanted.iter().filter(|(name, asked)| self.known.get(*name) != Some(*asked));
        let mut topics: BTreeMap<[u8; 16], Vec<FetchPartition>> = BTreeMap::new();
        for (name, Asked { id, position }) in changed {
            topics.entry(*id).or_default().push(
                FetchPartition::default()
                    .with_partition(name.1)
                    .with_current_leader_epoch(position.leader_epoch)
                    .with_fetch_offset(position.offset)
                    .with_last_fetched_epoch(position.last_epoch)
                    .with_log_start_offset(position.start)
                    .with_partition_max_bytes(limits.partition_bytes),
            );
        }
        let mut forgotten: BTreeMap<[u8; 16], BTreeSet<i32>> = BTreeMap::new();
        for (name, asked) in &self.known {
            // Under another id it is another topic.
            if wanted.get(name).is_none_or(|w| w.id != asked.id) {
                forgotten.entry(asked.id).or_default().insert(name.1);
            }
        }
        self.known.clone_from(wanted);
        FetchRequest::default()
            .with_replica_state(ReplicaState::default().with_replica_id(BrokerId(me)).with_replica_epoch(epoch))
            .with_max_wait_ms(limits.wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(limits.bytes)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(
                topics.into_iter().map(|(id, p)| FetchTopic::default().with_topic_id(Uuid::from_bytes(id)).with_partitions(p)).collect(),
            )
            .with_forgotten_topics_data(
                forgotten
                    .into_iter()
                    .map(|(id, p)| ForgottenTopic::default().with_topic_id(Uuid::from_bytes(id)).with_partitions(p.into_iter().collect()))
                    .collect(),
            )
    }

    /// An answer came with this session.
    pub fn answered(&mut self, id: i32) {
        if id == 0 {
            *self = Self::default();
            return;
        }
        self.id = id;
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }

    /// A partition's answer was not used: it is asked for again.
    pub fn again(&mut self, name: &Name) {
        self.known.remove(name);
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
        let asked = |offset| Asked { id: [1; 16], position: FetchPosition { leader_epoch: 1, offset, start: 0, last_epoch: 1 } };
        let mut wanted = BTreeMap::from([(("t".to_owned(), 0), asked(5)), (("t".to_owned(), 1), asked(5))]);
        let mut s = Session::default();
        let count = |r: &FetchRequest| r.topics.iter().map(|t| t.partitions.len()).sum::<usize>();
        let r = s.request(1, 2, &wanted, limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (2, 0, 0));
        s.answered(77);
        wanted.insert(("t".into(), 0), asked(6));
        let r = s.request(1, 2, &wanted, limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (1, 77, 1));
        s.answered(77);
        wanted.remove(&("t".into(), 1));
        let r = s.request(1, 2, &wanted, limits);
        assert_eq!((count(&r), r.session_epoch, r.forgotten_topics_data[0].partitions.clone()), (0, 2, vec![1]));
        s.answered(77);
        assert_eq!(count(&s.request(1, 2, &wanted, limits)), 0);
        s.again(&("t".into(), 0));
        assert_eq!(count(&s.request(1, 2, &wanted, limits)), 1);
        s.answered(0);
        let r = s.request(1, 2, &wanted, limits);
        assert_eq!((count(&r), r.session_id, r.session_epoch), (1, 0, 0));
    }
}
