//! SyncGroup and Heartbeat.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;

use super::{Effects, Group, Now, State, Sync, Synced, Token, stored::Pending};

impl Group {
    /// SyncGroup.
    pub fn sync(&mut self, token: Token, sync: Sync, now: Now, fx: &mut Effects) {
        if let Err(e) = self.check_sync(&sync) {
            return fx.synced(token, Synced::error(e));
        }
        let id = sync.member_id.as_str();
        match self.state {
            State::Empty | State::Dead => fx.synced(token, Synced::error(ResponseError::UnknownMemberId)),
            State::PreparingRebalance => fx.synced(token, Synced::error(ResponseError::RebalanceInProgress)),
            State::CompletingRebalance => {
                if let Some(m) = self.members.get_mut(id)
                    && let Some(old) = m.sync.replace(token)
                {
                    fx.synced(old, Synced::error(ResponseError::RebalanceInProgress));
                }
                self.has_synced(id);
                if self.is_leader(id) {
                    let assigned: BTreeMap<String, bytes::Bytes> = sync.assignments.into_iter().collect();
                    // A member that the leader left out gets an empty assignment.
                    let all = self.members.keys().map(|k| (k.clone(), assigned.get(k).cloned().unwrap_or_default()));
                    let all: BTreeMap<_, _> = all.collect();
                    let pending = Pending::Assigned { generation: self.generation, assignments: all.clone() };
                    self.store(&all, pending, fx);
                }
            }
            State::Stable => {
                self.has_synced(id);
                let answer = self.synced(id);
                fx.synced(token, answer);
                self.touch(id, now);
            }
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.check_member(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |named: &Option<String>, have: &Option<String>| named.is_some() && named != have;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn has_synced(&mut self, id: &str) {
        self.pending_sync.remove(id);
        if self.pending_sync.is_empty() {
            self.sync_deadline = None;
        }
    }

    /// The answer to a member's SyncGroup.
    pub(super) fn synced(&self, id: &str) -> Synced {
        Synced {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }

    /// Heartbeat.
    pub fn heartbeat(&mut self, member_id: &str, instance_id: Option<&str>, generation: i32, now: Now) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        match self.state {
            State::Empty | State::Dead => Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => {
                self.touch(member_id, now);
                Err(ResponseError::RebalanceInProgress)
            }
            State::CompletingRebalance | State::Stable => {
                self.touch(member_id, now);
                Ok(())
            }
        }
    }
}
