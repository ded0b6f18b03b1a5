//! An operator who edits `zoo.cfg` server by server, and what stands for `node/members.rs`.

use std::collections::{BTreeMap, BTreeSet};

use septet_coordinator::{
    config::Member,
    raft::{Change, Membership},
    reconfigure::{Target, agreed, keeps_majority, steps},
};

use crate::{
    bugs::Bug,
    facts::Fact,
    world::{Event, World},
};

/// Milliseconds between two looks of a server at the membership.
const LOOK_MS: u64 = 300;
/// Milliseconds for which a target counts after it was told.
const TOLD_MS: u64 = 1500;

/// The servers with and without a vote.
pub fn target(voters: &BTreeSet<u64>, observers: &BTreeSet<u64>) -> Target {
    let member = |id: u64, observer| (id, Member { host: format!("h{id}"), port: 1, election_port: 1, observer, client: None });
    let voters = voters.iter().map(|id| member(*id, false));
    Target(voters.chain(observers.iter().map(|id| member(*id, true))).collect())
}

impl World {
    /// A new target, which keeps a majority of what the last one has; servers get it one after the other.
    pub fn edit(&mut self) {
        let all: Vec<u64> = self.servers.keys().copied().collect();
        let (mut voters, mut observers) = (self.wanted.voters(), self.wanted.observers());
        for _ in 0..self.rng.range(1, 3) {
            let Some(id) = self.rng.pick(&all) else { return };
            match self.rng.range(0, 3) {
                0 => drop((voters.remove(&id), observers.remove(&id))),
                1 => drop((voters.remove(&id), observers.insert(id))),
                _ => drop((observers.remove(&id), voters.insert(id))),
            }
        }
        let next = target(&voters, &observers);
        // An operator edits anew only when the last edit is done.
        let newest = self.servers.values().filter_map(|s| s.raft.as_ref()).max_by_key(|r| (r.status().commit, r.status().term));
        let Some(now) = newest.and_then(|r| r.membership()).cloned() else { return };
        let lost = self.servers.values().any(|s| s.disk.durable.joining && now.voters.contains(&s.id));
        // With two voters no disk may be lost, and the leader may not know yet that one was.
        if voters.len() < 3 || lost || !self.wanted.is_reached(&now) || !keeps_majority(&now, &next) {
            return;
        }
        self.count("edit");
        self.wanted = next;
        for id in all {
            let delay = self.rng.range(0, 1500);
            self.after(delay, Event::Edited { server: id });
        }
    }

    /// A server has the operator's newest lines, if they have it; it is restarted with them.
    pub fn edited(&mut self, id: u64) {
        if !self.wanted.0.contains_key(&id) {
            return;
        }
        let (wanted, now) = (self.wanted.clone(), self.now);
        let Some(s) = self.servers.get_mut(&id) else { return };
        s.asks.push((now, wanted));
        if self.trouble {
            self.crash(id, 20);
        }
    }

    /// What a server does about the membership from time to time.
    pub fn look(&mut self, id: u64, life: u64) {
        let alone = self.bug == Some(Bug::LeaderDecidesAlone);
        let now = self.now;
        let Some(s) = self.alive(id, life) else { return };
        let own = s.asks.last().map(|(_, t)| t.clone());
        let Some(raft) = &s.raft else { return };
        let (status, membership) = (raft.status(), raft.membership().cloned());
        self.after(LOOK_MS, Event::Look { server: id, life });
        let (Some(own), Some(m)) = (own, membership) else { return };
        if status.leads_own_term {
            let Some(s) = self.servers.get_mut(&id) else { return };
            s.told.retain(|_, (at, _)| *at + TOLD_MS > now);
            let mut targets: BTreeMap<u64, Target> = s.told.iter().map(|(from, (_, t))| (*from, t.clone())).collect();
            targets.insert(id, own.clone());
            let target = if alone { Some(own) } else { agreed(&m, &targets) };
            if let Some(target) = target {
                self.step_to(id, &m, &target);
            }
        } else if !own.is_reached(&m)
            && let Some(leader) = status.leader
        {
            for at in self.network.deliver(id, leader, now, &mut self.rng) {
                self.at(at, Event::Told { from: id, to: leader, target: own.clone() });
            }
        }
    }

    fn step_to(&mut self, id: u64, from: &Membership, target: &Target) {
        if !target.is_reached(from) && !target.voters().contains(&id) {
            if let Some(raft) = self.servers.get_mut(&id).and_then(|s| s.raft.as_mut()) {
                let _ = target.voters().intersection(&from.voters).any(|to| raft.transfer(Some(*to)).is_ok());
            }
            return self.drain(id);
        }
        for change in steps(from, target) {
            // A server is added when it answers.
            if let Change::AddLearner(new, _) = &change
                && self.servers.get(new).is_none_or(|s| s.raft.is_none())
            {
                continue;
            }
            if self.try_change(id, from, &change) {
                break;
            }
        }
    }

    /// Lets a leader change the membership; whether it did.
    pub fn try_change(&mut self, leader: u64, from: &Membership, change: &Change) -> bool {
        let Some(raft) = self.servers.get_mut(&leader).and_then(|s| s.raft.as_mut()) else { return false };
        let changed = raft.change(change);
        let now = self.now;
        self.trace.line(now, || format!("{leader}: {change:?}: {changed:?}"));
        if let Ok(at) = changed {
            self.count("membership");
            self.changes += 1;
            let to = self.servers[&leader].raft.as_ref().and_then(|r| r.membership().cloned()).unwrap_or_default();
            self.tell(&Fact::Changed { server: leader, from, to: &to, at, change, now });
        }
        self.drain(leader);
        changed.is_ok()
    }

    pub fn told(&mut self, from: u64, to: u64, target: Target) {
        let now = self.now;
        if let Some(s) = self.servers.get_mut(&to).filter(|s| s.raft.is_some()) {
            s.told.insert(from, (now, target));
        }
    }
}
