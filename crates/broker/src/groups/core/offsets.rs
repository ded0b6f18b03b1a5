//! Committed offsets of one group, who may commit, and when they expire.
//!
//! Invariant: an offset is seen only after its record is committed, and of two the one that is later in the log stays.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;

use super::{CONSUMER, Group, Now, State};
use crate::groups::value::Commit;

/// Topic and partition.
pub type Place = (String, i32);

/// Committed offsets of a group.
#[derive(Debug, Default)]
pub struct Offsets {
    /// with the offset of the record in the log
    committed: BTreeMap<Place, (Commit, i64)>,
    /// records that were appended and are not committed yet
    pending: BTreeMap<Place, Vec<i64>>,
    /// memory of the committed ones, in bytes
    bytes: usize,
}

impl Offsets {
    /// A committed offset.
    pub fn get(&self, place: &Place) -> Option<&Commit> {
        self.committed.get(place).map(|(c, _)| c)
    }

    /// All committed offsets, by topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &Commit)> {
        self.committed.iter().map(|(k, (c, _))| (k, c))
    }

    /// Whether there is one, or one is being written.
    pub fn has(&self, place: &Place) -> bool {
        self.committed.contains_key(place) || self.pending.contains_key(place)
    }

    /// Where there are offsets, or where they are being written.
    pub fn places(&self) -> Vec<Place> {
        let being_written = self.pending.keys().filter(|p| !self.committed.contains_key(*p));
        self.committed.keys().chain(being_written).cloned().collect()
    }

    /// Whether one is being written.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether there is none, nor is one being written.
    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// A record of the log, while it is loaded.
    pub fn load(&mut self, place: Place, commit: Option<Commit>, at: i64) {
        match commit {
            Some(c) => self.insert(place, c, at),
            None => drop(self.take(&place)),
        }
    }

    fn insert(&mut self, place: Place, commit: Commit, at: i64) {
        self.take(&place);
        self.bytes += Self::weigh(&place.0, &commit.metadata);
        self.committed.insert(place, (commit, at));
    }

    fn take(&mut self, place: &Place) -> bool {
        let Some((commit, _)) = self.committed.remove(place) else { return false };
        self.bytes -= Self::weigh(&place.0, &commit.metadata);
        true
    }

    /// A commit was appended.
    pub fn appended(&mut self, place: &Place, at: i64) {
        self.pending.entry(place.clone()).or_default().push(at);
    }

    /// The appended commit is committed, or it will not be waited for any longer.
    pub fn completed(&mut self, place: &Place, at: i64, commit: Commit, committed: bool) {
        let Some(list) = self.pending.get_mut(place) else { return };
        // Deleted meanwhile.
        let Some(i) = list.iter().position(|n| *n == at) else { return };
        list.swap_remove(i);
        if list.is_empty() {
            self.pending.remove(place);
        }
        if committed && self.committed.get(place).is_none_or(|(_, have)| *have < at) {
            self.insert(place.clone(), commit, at);
        }
    }

    /// Takes offsets out, also those that are being written. Whether there was one.
    pub fn remove(&mut self, place: &Place) -> bool {
        let pending = self.pending.remove(place).is_some();
        self.take(place) || pending
    }

    /// Offsets that have expired (GroupMetadata.removeExpiredOffsets, KIP-211).
    pub fn expired(&self, group: &Group, now: Now, retention_ms: i64) -> Vec<Place> {
        enum From {
            Empty(Option<i64>),
            Commit,
        }
        let from = match group.protocol_type() {
            // Since the group has no members any more.
            Some(_) if group.state() == State::Empty => From::Empty(group.state_since()),
            Some(CONSUMER) if group.state() == State::Stable && group.subscribed().is_some() => From::Commit,
            // No group management: since the commit.
            None => From::Commit,
            Some(_) => return Vec::new(),
        };
        let used = |topic: &str| group.state() == State::Stable && group.subscribed().is_some_and(|s| s.contains(topic));
        let expired = |place: &Place, c: &Commit| {
            if self.pending.contains_key(place) || used(&place.0) {
                return false;
            }
            match c.expires {
                Some(at) => now.wall >= at,
                None => {
                    let base = match from {
                        From::Empty(since) => since.unwrap_or(c.timestamp),
                        From::Commit => c.timestamp,
                    };
                    now.wall.saturating_sub(base) >= retention_ms
                }
            }
        };
        self.iter().filter(|(p, c)| expired(p, c)).map(|(p, _)| p.clone()).collect()
    }

    /// Memory of one offset, in bytes.
    pub fn weigh(topic: &str, metadata: &str) -> usize {
        const ENTRY: usize = 200;
        ENTRY + topic.len() + metadata.len()
    }

    /// Memory that the committed ones take, in bytes. Those under way are few: a connection has one request at a time.
    pub fn weight(&self) -> usize {
        self.bytes
    }
}

impl Group {
    /// Whether a commit may be made (GroupCoordinator.validateOffsetCommit); it counts as a heartbeat. Without a generation, only
    /// while the group has no members.
    pub fn check_commit(&mut self, member_id: &str, instance_id: Option<&str>, generation: i32, now: Now) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ResponseError::UnknownMemberId);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        match self.state {
            // The member knows the generation but not its assignment: it joins again.
            State::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            _ => {
                self.touch(member_id, now);
                Ok(())
            }
        }
    }

    /// Whether offsets of a topic may be deleted (OffsetDelete).
    pub fn check_offset_delete(&self, topic: &str) -> Result<(), ResponseError> {
        match self.state {
            State::Dead => Err(ResponseError::GroupIdNotFound),
            State::Empty => Ok(()),
            _ if self.protocol_type() != Some(CONSUMER) => Err(ResponseError::NonEmptyGroup),
            _ if self.is_subscribed(topic) => Err(ResponseError::GroupSubscribedToTopic),
            _ => Ok(()),
        }
    }
}
