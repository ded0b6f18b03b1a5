//! The world: time, events, servers, clients, and the look at all invariants after each fact.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use septet_coordinator::{
    raft::{EntryId, Membership, Message},
    reconfigure::Target,
};

use crate::{
    bugs::Bug,
    disk::{Job, Snapshot},
    facts::{Fact, Ledger, View},
    faults,
    invariants::{self, Invariant},
    network::Network,
    operator::target,
    rng::Rng,
    server::{Server, TICK_MS},
    trace::Trace,
};

/// Milliseconds with faults.
const TROUBLE_MS: u64 = 20_000;
/// Milliseconds without faults by which there is a leader.
const ELECTED_MS: u64 = 5_000;
/// Milliseconds after that by which all have everything.
const SETTLED_MS: u64 = 8_000;

/// What happens at a time.
#[derive(Debug, Clone)]
pub enum Event {
    Tick { server: u64, life: u64 },
    Deliver { from: u64, to: u64, message: Message },
    Snapshot { from: u64, to: u64, term: u64, snapshot: Snapshot, life: u64 },
    SnapshotSent { server: u64, life: u64, to: u64, index: Option<u64> },
    Fill { server: u64, life: u64, to: u64, message: Message, last: EntryId },
    Disk { server: u64, life: u64 },
    Apply { server: u64, life: u64, upto: u64 },
    Probed { server: u64, life: u64 },
    Lost { server: u64, peer: u64 },
    Start { server: u64 },
    Crash { server: u64, lasts: u64 },
    Joiner { server: u64, life: u64 },
    Look { server: u64, life: u64 },
    Told { from: u64, to: u64, target: Target },
    Edited { server: u64 },
    Fault,
    Mend(faults::Mend),
    Write,
    Read,
}

/// How a run ended.
pub struct Outcome {
    pub violation: Option<String>,
    pub hash: u64,
    pub steps: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// lost, reordered, repeated
    pub messages: [u64; 3],
    pub acknowledged: u64,
    pub reads: u64,
    pub terms: u64,
    pub changes: u64,
}

/// Everything.
pub struct World {
    pub now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    pub rng: Rng,
    pub network: Network,
    pub servers: BTreeMap<u64, Server>,
    pub ledger: Ledger,
    pub trace: Trace,
    pub bug: Option<Bug>,
    pub faults: BTreeMap<&'static str, u64>,
    pub trouble: bool,
    pub next_value: u64,
    pub next_token: u64,
    pub changes: u64,
    /// the membership changes by edits of `zoo.cfg`, not at random
    pub edits: bool,
    /// what the operator wants
    pub wanted: Target,
    invariants: Vec<Box<dyn Invariant>>,
    pub violation: Option<String>,
}

impl World {
    /// Runs a seed.
    pub fn run(seed: u64, bug: Option<Bug>, print: bool) -> Outcome {
        Self::new(seed, bug, print).play()
    }

    /// Runs a seed in which an operator changes the ensemble.
    pub fn run_with_edits(seed: u64, bug: Option<Bug>, print: bool) -> Outcome {
        let mut world = Self::new(seed, bug, print);
        world.edits = true;
        let wanted = world.wanted.clone();
        for s in world.servers.values_mut().filter(|s| wanted.0.contains_key(&s.id)) {
            s.asks.push((0, wanted.clone()));
        }
        world.play()
    }

    fn play(self) -> Outcome {
        let mut world = self;
        let mut steps = 0;
        world.at(TROUBLE_MS, Event::Mend(faults::Mend::Everything));
        steps += world.until(TROUBLE_MS + ELECTED_MS);
        world.expect_leader();
        steps += world.until(TROUBLE_MS + ELECTED_MS + SETTLED_MS);
        world.tell(&Fact::Settled);
        let terms = world.servers.values().filter_map(|s| s.raft.as_ref()).map(|r| r.status().term).max().unwrap_or(0);
        Outcome {
            violation: world.violation,
            hash: world.trace.hash,
            steps,
            faults: world.faults,
            messages: [world.network.lost, world.network.reordered, world.network.repeated],
            acknowledged: world.ledger.acknowledged.len() as u64,
            reads: world.ledger.reads,
            terms,
            changes: world.changes,
        }
    }

    fn new(seed: u64, bug: Option<Bug>, print: bool) -> Self {
        let mut rng = Rng::new(seed);
        let first = rng.pick(&[1, 3, 3, 3, 4, 5]).unwrap_or(3);
        let all = (first + 2).min(6);
        let formation = Membership { voters: (1..=first).collect(), ..Membership::default() };
        let servers = (1..=all).map(|id| (id, Server::new(id, (id <= first).then(|| formation.clone())))).collect();
        let mut world = Self {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            rng,
            network: Network::default(),
            servers,
            ledger: Ledger::default(),
            trace: Trace::new(print),
            bug,
            faults: BTreeMap::new(),
            trouble: true,
            next_value: 0,
            next_token: 0,
            changes: 0,
            edits: false,
            wanted: target(&formation.voters, &formation.learners),
            invariants: invariants::all(),
            violation: None,
        };
        for id in 1..=all {
            world.at(0, Event::Start { server: id });
        }
        for (at, event) in [(50, Event::Write), (60, Event::Read), (500, Event::Fault)] {
            world.at(at, event);
        }
        world
    }

    /// Lets something happen at a time.
    pub fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        let key = (at.max(self.now), self.order);
        self.queue.push(Reverse(key));
        self.events.insert(key, event);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn until(&mut self, end: u64) -> u64 {
        let mut steps = 0;
        while self.violation.is_none()
            && let Some(Reverse(key)) = self.queue.peek().copied()
            && key.0 <= end
        {
            self.queue.pop();
            self.now = key.0;
            if let Some(event) = self.events.remove(&key) {
                self.step(event);
                steps += 1;
            }
        }
        self.now = end;
        steps
    }

    /// Tells all invariants of a fact.
    pub fn tell(&mut self, fact: &Fact<'_>) {
        if self.violation.is_some() {
            return;
        }
        let view = View { servers: &self.servers, ledger: &self.ledger };
        for invariant in &mut self.invariants {
            if let Err(e) = invariant.check(fact, &view) {
                self.violation = Some(format!("{}: {e}", invariant.name()));
                return;
            }
        }
    }

    fn expect_leader(&mut self) {
        let leads = |s: &Server| s.raft.as_ref().is_some_and(|r| r.status().leads_own_term);
        if self.violation.is_none() && !self.servers.values().any(leads) {
            self.violation = Some(format!("progress: no leader {ELECTED_MS} ms after the last fault"));
        }
    }

    /// The server, if it runs in this life.
    pub fn alive(&mut self, server: u64, life: u64) -> Option<&mut Server> {
        self.servers.get_mut(&server).filter(|s| s.life == life && s.raft.is_some())
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Tick { server, life } => {
                let Some(s) = self.alive(server, life) else { return };
                let every = s.tick_every;
                if let Some(raft) = &mut s.raft {
                    raft.tick();
                }
                self.after(every, Event::Tick { server, life });
                self.drain(server);
            }
            Event::Start { server } => self.start(server),
            Event::Crash { server, lasts } if self.trouble => self.crash(server, lasts),
            Event::Crash { .. } => {}
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Snapshot { from, to, term, snapshot, life } => self.deliver_snapshot(from, to, term, snapshot, life),
            Event::SnapshotSent { server, life, to, index } => {
                let Some(s) = self.alive(server, life) else { return };
                if let Some(raft) = &mut s.raft {
                    raft.snapshot_sent(to, index);
                }
                self.drain(server);
            }
            Event::Fill { server, life, to, message, last } => self.fill(server, life, to, message, last),
            Event::Disk { server, life } => self.disk_done(server, life),
            Event::Apply { server, life, upto } => {
                self.apply(server, life, upto);
                self.drain(server);
            }
            Event::Probed { server, life } => {
                let Some(s) = self.alive(server, life) else { return };
                let full = s.disk.full;
                if let Some(raft) = &mut s.raft {
                    raft.probed(!full);
                }
                self.drain(server);
            }
            Event::Lost { server, peer } => {
                if let Some(raft) = self.servers.get_mut(&server).and_then(|s| s.raft.as_mut()) {
                    raft.lost(peer);
                    self.drain(server);
                }
            }
            Event::Joiner { server, life } => self.join(server, life),
            Event::Look { server, life } => self.look(server, life),
            Event::Told { from, to, target } => self.told(from, to, target),
            Event::Edited { server } => self.edited(server),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Write => self.client_writes(),
            Event::Read => self.client_reads(),
        }
    }

    fn start(&mut self, id: u64) {
        let (seed, bug, now) = (self.rng.next(), self.bug, self.now);
        let Some(s) = self.servers.get_mut(&id).filter(|s| s.raft.is_none()) else { return };
        s.start(seed, bug);
        let (life, joining) = (s.life, s.disk.durable.joining);
        self.trace.line(now, || format!("{id} starts{}", if joining { " without a vote" } else { "" }));
        let delay = self.rng.range(0, TICK_MS);
        self.after(delay, Event::Tick { server: id, life });
        if joining {
            self.after(200, Event::Joiner { server: id, life });
        }
        if self.edits {
            self.after(100, Event::Look { server: id, life });
        }
    }

    /// Puts a job on a server's disk.
    pub fn job(&mut self, id: u64, job: Job) {
        let now = self.now;
        let Some(s) = self.servers.get_mut(&id) else { return };
        let (done, life) = (s.disk.push(job, now, &mut self.rng), s.life);
        self.at(done, Event::Disk { server: id, life });
    }
}
