//! A rebalance, from when it begins until the members of the next generation are told.

use kafka_protocol::ResponseError;

use super::{Effects, Group, Joined, Limits, Now, State, Synced, Waiting, stored::Pending};

impl Group {
    /// maybePrepareRebalance: begins one unless one is under way.
    pub(super) fn rebalance(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        if matches!(self.state, State::Stable | State::CompletingRebalance | State::Empty) {
            self.prepare_rebalance(limits, now, fx);
        }
    }

    /// prepareRebalance.
    pub(super) fn prepare_rebalance(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        if self.state == State::CompletingRebalance {
            self.reset_assignment(ResponseError::RebalanceInProgress, now, fx);
        }
        self.sync_deadline = None;
        let timeout = self.rebalance_timeout();
        self.waiting = Some(if self.state == State::Empty {
            let delay = limits.initial_rebalance_delay_ms;
            Waiting::Initial { deadline: now.ticks + delay, remaining: (timeout - delay).max(0) }
        } else {
            Waiting::All { deadline: now.ticks + timeout }
        });
        self.new_member_added = false;
        self.transition(State::PreparingRebalance, now);
        self.complete_if_all_joined(now, fx);
    }

    fn rebalance_timeout(&self) -> i64 {
        self.members.values().map(|m| i64::from(m.rebalance_timeout_ms.max(0))).max().unwrap_or(0)
    }

    /// Forgets the assignment; members whose SyncGroup waits are told.
    pub(super) fn reset_assignment(&mut self, error: ResponseError, now: Now, fx: &mut Effects) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(m) = self.members.get_mut(&id) else { continue };
            m.assignment = bytes::Bytes::new();
            if let Some(token) = m.sync.take() {
                fx.synced(token, Synced::error(error));
                self.touch(&id, now);
            }
        }
    }

    /// Ends the wait for members when none is missing. The first rebalance of a group waits for its delay in any case.
    pub(super) fn complete_if_all_joined(&mut self, now: Now, fx: &mut Effects) {
        let all = self.pending.is_empty() && self.members.values().all(|m| m.join.is_some());
        if self.state == State::PreparingRebalance && all && matches!(self.waiting, Some(Waiting::All { .. })) {
            self.complete_join(now, fx);
        }
    }

    /// The wait is over: see [`Waiting`].
    pub(super) fn wait_is_over(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        match self.waiting {
            // Members came during the delay: as long again, within the rebalance time-out.
            Some(Waiting::Initial { remaining, .. }) if self.new_member_added && remaining > 0 => {
                self.new_member_added = false;
                let delay = limits.initial_rebalance_delay_ms.min(remaining);
                self.waiting = Some(Waiting::Initial { deadline: now.ticks + delay, remaining: (remaining - delay).max(0) });
            }
            Some(_) => self.complete_join(now, fx),
            None => {}
        }
    }

    /// onCompleteJoin: goes on without the dynamic members that have not joined again.
    fn complete_join(&mut self, now: Now, fx: &mut Effects) {
        let gone: Vec<String> =
            self.members.values().filter(|m| m.join.is_none() && m.instance_id.is_none()).map(|m| m.id.clone()).collect();
        gone.iter().for_each(|id| self.remove(id, fx));
        if !self.elect() && !self.members.is_empty() {
            // Static members only, none of which has joined: wait for them until their sessions end.
            self.waiting = Some(Waiting::All { deadline: now.ticks + self.rebalance_timeout().max(1) });
            return;
        }
        self.next_generation(now);
        if self.state == State::Empty {
            return self.store(&Default::default(), Pending::Empty, fx);
        }
        tracing::debug!("group {}: generation {} begins with {} members", self.id, self.generation, self.members.len());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id);
            if let Some(m) = self.members.get_mut(&id) {
                if let Some(token) = m.join.take() {
                    fx.joined(token, answer);
                }
                m.is_new = false;
            }
            self.touch(&id, now);
            self.pending_sync.insert(id);
        }
        self.sync_deadline = Some(now.ticks + self.rebalance_timeout());
    }

    /// maybeElectNewJoinedLeader: a leader that has not joined gives way to a member that has.
    fn elect(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|m| m.join.is_some()) {
            return true;
        }
        match self.members.values().find(|m| m.join.is_some()) {
            Some(m) => {
                self.leader = Some(m.id.clone());
                true
            }
            None => false,
        }
    }

    /// Takes a member out; what waits is answered.
    pub(super) fn remove(&mut self, id: &str, fx: &mut Effects) {
        self.pending.remove(id);
        self.pending_sync.remove(id);
        let Some(m) = self.members.remove(id) else { return };
        if let Some(token) = m.join {
            fx.joined(token, Joined::error("", ResponseError::UnknownMemberId));
        }
        if let Some(token) = m.sync {
            fx.synced(token, Synced::error(ResponseError::UnknownMemberId));
        }
        if let Some(instance) = &m.instance_id
            && self.statics.get(instance).is_some_and(|current| current == id)
        {
            self.statics.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// removeMemberAndUpdateGroup: takes a member out, which the others notice.
    pub(super) fn remove_and_rebalance(&mut self, id: &str, limits: &Limits, now: Now, fx: &mut Effects) {
        self.remove(id, fx);
        match self.state {
            State::Stable | State::CompletingRebalance => self.rebalance(limits, now, fx),
            State::PreparingRebalance => self.complete_if_all_joined(now, fx),
            State::Empty | State::Dead => {}
        }
    }

    /// A JoinGroup that waits where none should: the member begins anew.
    pub(super) fn unknown_join(&mut self, id: &str, fx: &mut Effects) {
        if let Some(token) = self.members.get_mut(id).and_then(|m| m.join.take()) {
            fx.joined(token, Joined::error("", ResponseError::UnknownMemberId));
        }
    }
}
