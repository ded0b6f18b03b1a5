//! Deadlines of a group.

use super::{Effects, Group, Limits, Now, State, Waiting};

impl Group {
    /// The next time, in ticks, that [`Group::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<i64> {
        if self.state == State::Dead {
            return None;
        }
        let waiting = self.waiting.map(|w| match w {
            Waiting::Initial { deadline, .. } | Waiting::All { deadline } => deadline,
        });
        let members = self.members.values().filter_map(super::Member::deadline);
        members.chain(self.pending.values().copied()).chain(self.sync_deadline).chain(waiting).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        if self.state == State::Dead {
            return;
        }
        let pending = self.pending.len();
        self.pending.retain(|_, deadline| *deadline > now.ticks);
        if self.pending.len() < pending {
            self.complete_if_all_joined(now, fx);
        }
        let due: Vec<String> =
            self.members.values().filter(|m| m.deadline().is_some_and(|d| d <= now.ticks)).map(|m| m.id.clone()).collect();
        for id in due {
            // Removing one may have completed a rebalance, which gave the others more time.
            if self.members.get(&id).and_then(super::Member::deadline).is_some_and(|d| d <= now.ticks) {
                tracing::info!("group {}: member {id} is removed: no heartbeat within its session time-out", self.id);
                self.remove_and_rebalance(&id, limits, now, fx);
            }
        }
        if self.sync_deadline.is_some_and(|d| d <= now.ticks) {
            self.sync_deadline = None;
            self.expire_sync(limits, now, fx);
        }
        let over = |w: &Waiting| match w {
            Waiting::Initial { deadline, .. } | Waiting::All { deadline } => *deadline <= now.ticks,
        };
        if self.state == State::PreparingRebalance && self.waiting.as_ref().is_some_and(over) {
            self.wait_is_over(limits, now, fx);
        }
    }

    /// Removes the members that have not sent SyncGroup in time.
    fn expire_sync(&mut self, limits: &Limits, now: Now, fx: &mut Effects) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) || self.pending_sync.is_empty() {
            return;
        }
        let missing: Vec<String> = self.pending_sync.iter().cloned().collect();
        tracing::info!("group {}: {} members are removed: no SyncGroup within the rebalance time-out", self.id, missing.len());
        missing.iter().for_each(|id| self.remove(id, fx));
        self.rebalance(limits, now, fx);
    }
}
