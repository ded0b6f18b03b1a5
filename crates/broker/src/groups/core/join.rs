//! JoinGroup.

use kafka_protocol::ResponseError;

use super::{Effects, Group, Join, Joined, Limits, Member, Now, Pending, State, Token};

impl Group {
    /// JoinGroup. A group that does not exist is made before this is called, for a member without an id only.
    pub fn join(&mut self, token: Token, join: Join, limits: &Limits, now: Now, fx: &mut Effects) {
        if !self.accepts(&join.member_id, limits) {
            self.remove(&join.member_id, fx);
            fx.joined(token, Joined::error("", ResponseError::GroupMaxSizeReached));
        } else if self.state == State::Dead {
            // Deleted meanwhile: the member looks for the coordinator again.
            fx.joined(token, Joined::error(&join.member_id, ResponseError::CoordinatorNotAvailable));
        } else if !self.supports(&join) {
            fx.joined(token, Joined::error(&join.member_id, ResponseError::InconsistentGroupProtocol));
        } else if join.member_id.is_empty() {
            self.join_new(token, join, limits, now, fx);
        } else {
            self.join_known(token, join, limits, now, fx);
        }
        self.complete_if_all_joined(now, fx);
    }

    /// GroupCoordinator.acceptJoiningMember: counted are those that have joined, so that the last ones of a group that became too
    /// large are shed.
    fn accepts(&self, member_id: &str, limits: &Limits) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let joined = self.members.values().filter(|m| m.join.is_some()).count();
                member.is_some_and(|m| m.join.is_some()) || joined < limits.max_size
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < limits.max_size,
        }
    }

    /// Whether there is a protocol that this member and all others support.
    fn supports(&self, join: &Join) -> bool {
        if self.state == State::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(join.protocol_type.as_str())
            && join.protocols.iter().any(|(name, _)| self.members.values().all(|m| m.supports(name)))
    }

    fn join_new(&mut self, token: Token, join: Join, limits: &Limits, now: Now, fx: &mut Effects) {
        let new_id = join.new_member_id.clone();
        match join.instance_id.as_ref().and_then(|i| self.statics.get(i)).cloned() {
            Some(old_id) => self.replace_static(token, &old_id, new_id, join, limits, now, fx),
            None if join.instance_id.is_none() && join.require_known_member_id => {
                self.pending.insert(new_id.clone(), now.ticks + i64::from(join.session_timeout_ms));
                fx.joined(token, Joined::error(&new_id, ResponseError::MemberIdRequired));
            }
            None => self.add(token, new_id, &join, limits, now, fx),
        }
    }

    fn join_known(&mut self, token: Token, join: Join, limits: &Limits, now: Now, fx: &mut Effects) {
        let id = join.member_id.clone();
        if self.pending.contains_key(&id) {
            // Only dynamic members are given an id first.
            if join.instance_id.is_some() {
                return fx.joined(token, Joined::error(&id, ResponseError::UnknownMemberId));
            }
            return self.add(token, id, &join, limits, now, fx);
        }
        if let Err(e) = self.check_member(&id, join.instance_id.as_deref()) {
            return fx.joined(token, Joined::error(&id, e));
        }
        let same = self.members.get(&id).is_some_and(|m| m.protocols == join.protocols);
        match self.state {
            State::PreparingRebalance => self.rejoin(token, &id, join, limits, now, fx),
            // It did not receive the answer to its first request.
            State::CompletingRebalance if same => {
                let answer = self.joined(&id);
                fx.joined(token, answer);
            }
            // A follower that changed nothing goes on with the assignment that it has. A leader that joins wants a rebalance: the
            // topics may have changed.
            State::Stable if same && !self.is_leader(&id) => {
                let answer = self.joined(&id);
                fx.joined(token, answer);
            }
            State::CompletingRebalance | State::Stable => self.rejoin(token, &id, join, limits, now, fx),
            State::Empty | State::Dead => fx.joined(token, Joined::error(&id, ResponseError::UnknownMemberId)),
        }
    }

    /// addMemberAndRebalance.
    fn add(&mut self, token: Token, id: String, join: &Join, limits: &Limits, now: Now, fx: &mut Effects) {
        if self.state == State::PreparingRebalance && self.generation == 0 {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        if let Some(instance) = &join.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.pending.remove(&id);
        self.members.insert(id.clone(), Member::new(id, join, token, now));
        self.rebalance(limits, now, fx);
    }

    /// updateMember: takes what the member brings, and its request for the one that waits.
    fn update(&mut self, token: Token, id: &str, join: Join, fx: &mut Effects) {
        let Some(m) = self.members.get_mut(id) else {
            return fx.joined(token, Joined::error(id, ResponseError::UnknownMemberId));
        };
        // One that came before, on a connection that has ended.
        if let Some(old) = m.join.replace(token) {
            fx.joined(old, Joined::error(id, ResponseError::RebalanceInProgress));
        }
        m.rebalance_timeout_ms = join.rebalance_timeout_ms;
        m.session_timeout_ms = join.session_timeout_ms;
        m.protocols = join.protocols;
    }

    fn rejoin(&mut self, token: Token, id: &str, join: Join, limits: &Limits, now: Now, fx: &mut Effects) {
        self.update(token, id, join, fx);
        self.rebalance(limits, now, fx);
    }

    /// updateStaticMemberAndRebalance: an instance came back without its member id.
    #[allow(clippy::too_many_arguments)]
    fn replace_static(&mut self, token: Token, old_id: &str, new_id: String, join: Join, limits: &Limits, now: Now, fx: &mut Effects) {
        let before = self.leader.clone().unwrap_or_default();
        let Some(old) = self.members.get(old_id).cloned() else {
            return fx.joined(token, Joined::error("", ResponseError::UnknownMemberId));
        };
        self.rename_static(old_id, &new_id, fx);
        let skips = join.supports_skipping;
        let (client_id, client_host) = (join.client_id.clone(), join.client_host.clone());
        self.update(token, &new_id, join, fx);
        if let Some(m) = self.members.get_mut(&new_id) {
            (m.client_id, m.client_host) = (client_id, client_host);
        }
        self.touch(&new_id, now);
        match self.state {
            State::Stable if self.protocol.is_some() && self.select_protocol() == self.protocol => {
                // The assignment stays; the new id is written first, so that another coordinator knows it.
                let assignments = self.members.values().map(|m| (m.id.clone(), m.assignment.clone())).collect();
                let pending = Pending::Replaced { token, new_id, old: Box::new(old), generation: self.generation, leader: before, skips };
                self.store(&assignments, pending, fx);
            }
            State::Stable => self.rebalance(limits, now, fx),
            // The leader may have been told the old id, for which it would assign.
            State::CompletingRebalance => self.prepare_rebalance(limits, now, fx),
            State::PreparingRebalance => {}
            State::Empty | State::Dead => {
                self.unknown_join(&new_id, fx);
            }
        }
    }

    /// Gives a static member another id; what waits under the old one is fenced.
    pub(super) fn rename_static(&mut self, old_id: &str, new_id: &str, fx: &mut Effects) {
        let Some(mut m) = self.members.remove(old_id) else { return };
        if let Some(t) = m.join.take() {
            fx.joined(t, Joined::error(old_id, ResponseError::FencedInstanceId));
        }
        if let Some(t) = m.sync.take() {
            fx.synced(t, super::Synced::error(ResponseError::FencedInstanceId));
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.to_owned());
        }
        if let Some(instance) = &m.instance_id {
            self.statics.insert(instance.clone(), new_id.to_owned());
        }
        m.id = new_id.to_owned();
        self.members.insert(new_id.to_owned(), m);
    }

    /// The answer to a member's JoinGroup in this generation.
    pub(super) fn joined(&self, id: &str) -> Joined {
        Joined {
            error: None,
            member_id: id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            members: if self.is_leader(id) { self.metadata() } else { Vec::new() },
        }
    }
}
