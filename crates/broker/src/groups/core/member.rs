//! A member of a group.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Join, NEW_MEMBER_JOIN_TIMEOUT_MS, Now, Token};

/// A member of a group.
#[derive(Debug, Clone)]
pub struct Member {
    /// given by the coordinator
    pub id: String,
    /// `group.instance.id`, if it is static
    pub instance_id: Option<String>,
    /// of its client
    pub client_id: String,
    /// of its client
    pub client_host: String,
    /// in milliseconds
    pub rebalance_timeout_ms: i32,
    /// in milliseconds
    pub session_timeout_ms: i32,
    /// by preference, with metadata
    pub protocols: Vec<(String, Bytes)>,
    /// of the last generation that was synchronised
    pub assignment: Bytes,
    /// its JoinGroup waits
    pub(super) join: Option<Token>,
    /// its SyncGroup waits
    pub(super) sync: Option<Token>,
    /// has joined for the first time and waits for that generation
    pub(super) is_new: bool,
    /// in ticks
    pub(super) deadline: i64,
}

impl Member {
    /// A member that joins for the first time.
    pub(super) fn new(id: String, join: &Join, token: Token, now: Now) -> Self {
        Self {
            id,
            instance_id: join.instance_id.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            join: Some(token),
            sync: None,
            is_new: true,
            deadline: now.ticks + NEW_MEMBER_JOIN_TIMEOUT_MS,
        }
    }

    /// Metadata for a protocol.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, m)| m.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// The first of its protocols that all support.
    pub(super) fn vote<'a>(&'a self, candidates: &BTreeSet<&str>) -> Option<&'a str> {
        self.protocols.iter().map(|(name, _)| name.as_str()).find(|name| candidates.contains(name))
    }

    /// While a request of it waits, no heartbeat is expected. A new member's wait has an end.
    pub(super) fn deadline(&self) -> Option<i64> {
        (self.is_new || (self.join.is_none() && self.sync.is_none())).then_some(self.deadline)
    }

    /// Memory that it takes, in bytes, roughly.
    pub(super) fn weight(&self) -> usize {
        const MEMBER: usize = 400;
        let texts =
            3 * self.id.len() + 2 * self.instance_id.as_ref().map_or(0, String::len) + self.client_id.len() + self.client_host.len();
        let protocols: usize = self.protocols.iter().map(|(n, m)| 60 + n.len() + m.len()).sum();
        MEMBER + texts + protocols + self.assignment.len()
    }
}
