//! Writes of a group's record, and what depends on them.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{Effects, Group, Joined, Limits, Member, Now, State, Store, StoreId, Synced, Token};
use crate::groups::value::{GroupValue, MemberValue};

/// What a write is for.
#[derive(Debug)]
pub(super) enum Pending {
    /// the leader's assignment
    Assigned { generation: i32, assignments: BTreeMap<String, Bytes> },
    /// the group is empty now; nothing depends on it
    Empty,
    /// a static member has another id
    Replaced { token: Token, new_id: String, old: Box<Member>, generation: i32, leader: String, skips: bool },
}

impl Group {
    /// Asks for a write of the group with these assignments.
    pub(super) fn store(&mut self, assignments: &BTreeMap<String, Bytes>, pending: Pending, fx: &mut Effects) {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = self.members.values().map(|m| MemberValue {
            id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            subscription: m.metadata(&protocol),
            assignment: assignments.get(&m.id).cloned().unwrap_or_default(),
        });
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since: self.state_since.unwrap_or(-1),
            members: members.collect(),
        };
        let id = self.next_store;
        self.next_store += 1;
        self.stores.insert(id, pending);
        fx.stores.push(Store { id, value });
    }

    /// The result of a write: the record is committed, or it is not and will not be waited for any longer. Errors are those
    /// that members get.
    pub fn stored(&mut self, id: StoreId, result: Result<(), ResponseError>, limits: &Limits, now: Now, fx: &mut Effects) {
        match self.stores.remove(&id) {
            Some(Pending::Assigned { generation, assignments }) => self.assigned(generation, assignments, result, limits, now, fx),
            Some(Pending::Empty) => {
                if let Err(e) = result {
                    tracing::warn!("group {}: the record of the empty group is not written: {e:?}", self.id);
                }
            }
            Some(Pending::Replaced { token, new_id, old, generation, leader, skips }) => {
                // A rebalance began or went by meanwhile, and answers the request, or has.
                let waits = self.members.get(&new_id).is_some_and(|m| m.join == Some(token));
                if !waits || self.state != State::Stable || self.generation != generation {
                    return;
                }
                match result {
                    Ok(()) => self.static_is_back(&new_id, leader, skips, now, fx),
                    Err(e) => self.revert_static(&new_id, *old, leader, e, now, fx),
                }
            }
            None => {}
        }
        self.complete_if_all_joined(now, fx);
    }

    fn assigned(
        &mut self,
        generation: i32,
        mut assignments: BTreeMap<String, Bytes>,
        result: Result<(), ResponseError>,
        limits: &Limits,
        now: Now,
        fx: &mut Effects,
    ) {
        // Another generation has begun meanwhile.
        if self.state != State::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(e) = result {
            self.reset_assignment(e, now, fx);
            return self.rebalance(limits, now, fx);
        }
        self.transition(State::Stable, now);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(m) = self.members.get_mut(&id) else { continue };
            m.assignment = assignments.remove(&id).unwrap_or_default();
            let waiting = m.sync.take();
            // Also of those that have not synchronised yet: their sessions go on.
            self.touch(&id, now);
            if let Some(token) = waiting {
                let answer = self.synced(&id);
                fx.synced(token, answer);
            }
        }
    }

    /// The static member of a stable group goes on where it was.
    fn static_is_back(&mut self, id: &str, leader_before: String, skips: bool, now: Now, fx: &mut Effects) {
        let mut answer = self.joined(id);
        if skips {
            answer.skip_assignment = self.is_leader(id);
        } else {
            // Named as the leader, an older client would assign, and the group, being stable, would not take it.
            answer.members = Vec::new();
            answer.leader = leader_before;
        }
        if let Some(m) = self.members.get_mut(id) {
            m.is_new = false;
            if let Some(token) = m.join.take() {
                fx.joined(token, answer);
            }
        }
        self.touch(id, now);
    }

    fn revert_static(&mut self, new_id: &str, old: Member, leader: String, error: ResponseError, now: Now, fx: &mut Effects) {
        if let Some(token) = self.members.get_mut(new_id).and_then(|m| m.join.take()) {
            let refusal = Joined { generation: self.generation, leader, ..Joined::error("", error) };
            fx.joined(token, refusal);
        }
        let old_id = old.id.clone();
        self.rename_static(new_id, &old_id, fx);
        if let Some(m) = self.members.get_mut(&old_id) {
            *m = Member { join: None, sync: None, is_new: false, ..old };
        }
        self.touch(&old_id, now);
    }

    /// A group as its record says it is.
    pub fn restore(id: &str, value: GroupValue, now: Now) -> Self {
        let mut group = Self::new(id, now);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_since = (value.state_since >= 0).then_some(value.state_since);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|p| !p.is_empty());
        let protocol = value.protocol.clone().unwrap_or_default();
        for m in value.members {
            if let Some(instance) = &m.instance_id {
                group.statics.insert(instance.clone(), m.id.clone());
            }
            let member = Member {
                id: m.id.clone(),
                instance_id: m.instance_id,
                client_id: m.client_id,
                client_host: m.client_host,
                // Version 0 of the record has none.
                rebalance_timeout_ms: if m.rebalance_timeout_ms < 0 { m.session_timeout_ms } else { m.rebalance_timeout_ms },
                session_timeout_ms: m.session_timeout_ms,
                protocols: vec![(protocol.clone(), m.subscription)],
                assignment: m.assignment,
                join: None,
                sync: None,
                is_new: false,
                deadline: now.ticks + i64::from(m.session_timeout_ms),
            };
            group.members.insert(m.id, member);
        }
        group.leader = value.leader.filter(|l| group.members.contains_key(l)).or_else(|| group.members.keys().next().cloned());
        group.protocol = value.protocol;
        group.subscribed = group.compute_subscribed();
        group
    }

    /// After a group was loaded: one that is larger than is allowed now is rebalanced.
    pub fn loaded(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        if self.members.len() > limits.max_size {
            self.rebalance(limits, now, fx);
        }
    }
}

// Kept here, since only a refused write needs it.
impl Synced {
    /// Whether it is a refusal.
    pub fn is_error(&self) -> bool {
        self.error.is_some()
    }
}
