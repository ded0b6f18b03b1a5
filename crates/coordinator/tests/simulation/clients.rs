//! Clients, and servers that catch up.

use std::sync::Arc;

use septet_coordinator::raft::{Data, Role};

use crate::{
    bugs::Bug,
    disk::Job,
    server::Reader,
    world::{Event, World},
};

impl World {
    fn some_server(&mut self) -> Option<u64> {
        let up: Vec<u64> = self.servers.values().filter(|s| s.raft.is_some()).map(|s| s.id).collect();
        let leaders: Vec<u64> = self.servers.values().filter(|s| s.leads()).map(|s| s.id).collect();
        if self.rng.per_mille(800) { self.rng.pick(&leaders) } else { self.rng.pick(&up) }
    }

    pub fn client_writes(&mut self) {
        let pause = self.rng.range(2, 60);
        self.after(pause, Event::Write);
        let Some(id) = self.some_server() else { return };
        self.next_value += 1;
        let value = self.next_value;
        let mut bytes = value.to_be_bytes().to_vec();
        bytes.resize(8 + self.rng.range(0, 60) as usize, 7);
        let Some(s) = self.servers.get_mut(&id) else { return };
        let Some(raft) = &mut s.raft else { return };
        if let Ok(entry) = raft.propose(Data(Arc::from(bytes))) {
            s.proposals.insert(entry, value);
            if self.bug == Some(Bug::AcknowledgedOnAppend) {
                self.acknowledge(entry, value);
            }
        }
        self.drain(id);
    }

    pub fn client_reads(&mut self) {
        let pause = self.rng.range(5, 80);
        self.after(pause, Event::Read);
        let Some(id) = self.some_server() else { return };
        self.next_token += 1;
        let (token, floor, bug) = (self.next_token, self.ledger.known, self.bug);
        let Some(s) = self.servers.get_mut(&id) else { return };
        let Some(raft) = &mut s.raft else { return };
        let status = raft.status();
        s.readers.insert(token, Reader::Client { floor });
        match bug {
            Some(Bug::ReadWithoutRound) if status.role == Role::Leader => s.waiting.push((status.commit, token)),
            Some(Bug::FollowerReads) => s.waiting.push((status.commit, token)),
            _ => raft.read(token),
        }
        self.answer_reads(id);
        self.drain(id);
    }

    /// A server without a vote asks a leader what it must have applied before it gets one.
    pub fn join(&mut self, id: u64, life: u64) {
        let Some(s) = self.alive(id, life) else { return };
        if s.catch_up.is_some_and(|index| index <= s.applied.index) {
            s.disk.durable.formation = Some(s.membership.clone());
            if let Some(raft) = &mut s.raft {
                raft.set_voting(true);
            }
            let now = self.now;
            self.trace.line(now, || format!("{id} has caught up and has a vote"));
            self.job(id, Job::Joined);
            return;
        }
        self.after(200, Event::Joiner { server: id, life });
        let Some(s) = self.alive(id, life).filter(|s| s.catch_up.is_none()) else { return };
        let leader = s.raft.as_ref().and_then(|r| r.status().leader);
        let Some(leader) = leader.filter(|l| !self.network.cut.contains(&(id, *l)) && !self.network.cut.contains(&(*l, id))) else {
            return;
        };
        self.next_token += 1;
        let token = self.next_token;
        if let Some(l) = self.servers.get_mut(&leader)
            && let Some(raft) = &mut l.raft
        {
            l.readers.insert(token, Reader::Joiner { server: id, life });
            raft.read(token);
            self.drain(leader);
        }
    }
}
