//! Faults, and how each ends.

use septet_coordinator::raft::Change;

use crate::{
    disk::Disk,
    server::{Server, TICK_MS},
    world::{Event, World},
};

/// What ends a fault.
#[derive(Debug, Clone)]
pub enum Mend {
    Network,
    Disk(u64),
    Clock(u64),
    Everything,
}

impl World {
    pub fn count(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_insert(0) += 1;
        let now = self.now;
        self.trace.line(now, || format!("fault: {kind}"));
    }

    fn leader(&self) -> Option<u64> {
        self.servers.values().filter(|s| s.leads()).max_by_key(|s| s.led).map(|s| s.id)
    }

    /// A member, more often than not the leader.
    fn victim(&mut self) -> Option<u64> {
        let leader = self.leader();
        if self.rng.per_mille(400) && leader.is_some() {
            return leader;
        }
        let all: Vec<u64> = self.servers.keys().copied().collect();
        self.rng.pick(&all)
    }

    /// One more fault, unless the time of faults is over.
    pub fn fault(&mut self) {
        if !self.trouble {
            return;
        }
        let pause = self.rng.range(100, 1500);
        self.after(pause, Event::Fault);
        let lasts = self.rng.range(100, 4000);
        let Some(id) = self.victim() else { return };
        match self.rng.range(0, 15) {
            0 | 1 => {
                self.count("crash");
                self.crash(id, lasts);
            }
            2 => {
                self.count("power cut of all");
                for id in self.servers.keys().copied().collect::<Vec<_>>() {
                    let lasts = self.rng.range(100, 1500);
                    self.crash(id, lasts);
                }
            }
            3 => {
                self.count("cut both ways");
                for other in self.servers.keys().copied().filter(|o| *o != id).collect::<Vec<_>>() {
                    self.network.cut.extend([(id, other), (other, id)]);
                }
                self.after(lasts, Event::Mend(Mend::Network));
            }
            4 => {
                self.count("cut one way");
                let outgoing = self.rng.per_mille(500);
                for other in self.servers.keys().copied().filter(|o| *o != id).collect::<Vec<_>>() {
                    self.network.cut.insert(if outgoing { (id, other) } else { (other, id) });
                }
                self.after(lasts, Event::Mend(Mend::Network));
            }
            5 => {
                self.count("cut between some");
                let ids: Vec<u64> = self.servers.keys().copied().collect();
                for from in &ids {
                    for to in &ids {
                        if from != to && self.rng.per_mille(300) {
                            self.network.cut.insert((*from, *to));
                        }
                    }
                }
                self.after(lasts, Event::Mend(Mend::Network));
            }
            6 => {
                self.count("loss");
                self.network.loss = self.rng.range(20, 400);
                self.network.twice = self.rng.range(0, 300);
                self.after(lasts, Event::Mend(Mend::Network));
            }
            7 => {
                self.count("slow and out of order");
                let ids: Vec<u64> = self.servers.keys().copied().collect();
                for to in ids {
                    self.network.slow.extend([(id, to), (to, id)]);
                }
                self.after(lasts, Event::Mend(Mend::Network));
            }
            8 => {
                self.count("slow disk");
                if let Some(s) = self.servers.get_mut(&id) {
                    s.disk.slow = true;
                }
                self.after(lasts, Event::Mend(Mend::Disk(id)));
            }
            9 => {
                self.count("full disk");
                if let Some(s) = self.servers.get_mut(&id) {
                    s.disk.full = true;
                }
                self.after(lasts, Event::Mend(Mend::Disk(id)));
            }
            10 => {
                self.count("clock stands or rushes");
                let every = if self.rng.per_mille(500) { 1500 } else { self.rng.range(1, 4) };
                if let Some(s) = self.servers.get_mut(&id) {
                    s.tick_every = every;
                }
                self.after(lasts, Event::Mend(Mend::Clock(id)));
            }
            11 => self.hint(id),
            12 => self.hand_over(),
            13 | 14 if self.edits => self.edit(),
            13 | 14 => self.change(),
            _ => self.wipe(),
        }
    }

    pub fn crash(&mut self, id: u64, lasts: u64) {
        let bug = self.bug;
        let Some(s) = self.servers.get_mut(&id).filter(|s| s.raft.is_some()) else { return };
        s.raft = None;
        s.disk.crash(&mut self.rng, bug);
        self.after(lasts, Event::Start { server: id });
        for server in self.servers.keys().copied().filter(|o| *o != id).collect::<Vec<_>>() {
            if !self.network.cut.contains(&(id, server)) {
                let delay = self.rng.range(1, 10);
                self.after(delay, Event::Lost { server, peer: id });
            }
        }
    }

    /// Connections end though their server lives; perhaps all of them, so that several servers stand at once, and
    /// others are killed and started meanwhile.
    fn hint(&mut self, peer: u64) {
        self.count("connections end");
        let all = self.rng.per_mille(500);
        for server in self.servers.keys().copied().filter(|o| *o != peer).collect::<Vec<_>>() {
            if all || self.rng.per_mille(500) {
                let delay = self.rng.range(1, 10);
                self.after(delay, Event::Lost { server, peer });
            }
            if all && self.rng.per_mille(300) {
                let (delay, lasts) = (self.rng.range(20, 120), self.rng.range(1, 40));
                self.after(delay, Event::Crash { server, lasts });
            }
        }
        if all {
            self.crash(peer, 300);
        }
    }

    fn hand_over(&mut self) {
        let Some(id) = self.leader() else { return };
        self.count("transfer");
        if let Some(raft) = self.servers.get_mut(&id).and_then(|s| s.raft.as_mut()) {
            let _ = raft.transfer(None);
        }
        self.drain(id);
    }

    fn change(&mut self) {
        let Some(leader) = self.leader() else { return };
        let all: Vec<u64> = self.servers.keys().copied().collect();
        let Some(id) = self.rng.pick(&all) else { return };
        let remove = self.rng.per_mille(500);
        let Some(from) = self.servers[&leader].raft.as_ref().and_then(|r| r.membership().cloned()) else { return };
        let change = if from.voters.contains(&id) || (from.learners.contains(&id) && remove) {
            // The leader may not know yet that a server lost its disk, and people would not do it.
            let joins = self.servers.values().any(|s| from.voters.contains(&s.id) && s.disk.durable.joining);
            if from.voters.len() <= 2 || joins {
                return;
            }
            Change::Remove(id)
        } else if from.learners.contains(&id) {
            Change::Promote(id)
        } else {
            Change::AddLearner(id, String::new())
        };
        self.try_change(leader, &from, &change);
    }

    /// A server loses its disk, at a time when all others have theirs and what was committed.
    fn wipe(&mut self) {
        let committed = self.ledger.committed.len() as u64;
        let well =
            |s: &Server| s.raft.as_ref().is_some_and(|r| r.status().voting && r.status().commit + 5 > committed && !r.status().blank);
        // Whatever membership counts, the others are a majority of it, and of what is left when one more leaves.
        let views: Vec<_> = self.servers.values().filter_map(|s| s.raft.as_ref().and_then(|r| r.membership())).collect();
        let fit = |s: &&Server| {
            let survives = |m: &&septet_coordinator::raft::Membership| {
                let others = || m.voters.iter().filter(|v| **v != s.id);
                m.voters.len() >= 3 && others().all(|v| well(&self.servers[v]))
            };
            self.servers.values().all(|s| s.raft.is_some()) && views.iter().all(survives)
        };
        let all: Vec<u64> = self.servers.values().filter(fit).map(|s| s.id).collect();
        let Some(id) = self.rng.pick(&all) else { return };
        self.count("lost disk");
        self.crash(id, 300);
        let Some(s) = self.servers.get_mut(&id) else { return };
        s.disk_number += 1;
        // A bug may let it take the first membership for granted.
        let formation = s.disk.durable.formation.take().filter(|_| self.bug == Some(crate::bugs::Bug::BlankVotes));
        s.disk = Disk::default();
        s.disk.durable.joining = true;
        s.disk.durable.formation = formation;
    }

    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Network => self.network.heal(),
            Mend::Disk(id) => {
                if let Some(s) = self.servers.get_mut(&id) {
                    s.disk.slow = false;
                    s.disk.full = false;
                }
            }
            Mend::Clock(id) => {
                if let Some(s) = self.servers.get_mut(&id) {
                    s.tick_every = TICK_MS;
                }
            }
            Mend::Everything => {
                self.trouble = false;
                self.network.heal();
                for id in self.servers.keys().copied().collect::<Vec<_>>() {
                    if let Some(s) = self.servers.get_mut(&id) {
                        s.disk.slow = false;
                        s.disk.full = false;
                        s.tick_every = TICK_MS;
                    }
                    self.after(0, Event::Start { server: id });
                    if self.edits {
                        self.after(10, Event::Edited { server: id });
                    }
                }
            }
        }
    }
}
