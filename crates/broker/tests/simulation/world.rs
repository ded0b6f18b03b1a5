//! A run: brokers, coordinators, clients, the network and the faults, one event after the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::{
    broker::{Broker, Stop},
    bugs::Bug,
    clients::{FIRST_CLIENT, Producer},
    ctx::Ctx,
    facts::{Fact, Ledger, View},
    faults::Kind,
    invariants::{self, Invariant},
    message::{Body, ZNODES},
    network::Network,
    trace::Trace,
    znodes::{Reply, Znodes},
};

/// Milliseconds in which faults happen.
const CHAOS: i64 = 3_000;
/// Milliseconds after that in which everything must have come to rest.
const CALM: i64 = 8_000;
const TICK: i64 = 25;

/// Something that is going to happen.
pub enum Event {
    Deliver(i32, i32, Body),
    Tick(i32),
    Produce(usize),
    Consume(usize),
    Expire,
    Fault,
    Heal,
    Check,
    Start(i32),
    Mend(Vec<(i32, i32)>),
    Speed(Vec<(i32, i32)>),
    EndLoss,
}

struct Due(i64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How a run went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Of the trace.
    pub hash: u64,
    /// Events.
    pub steps: u64,
    /// Faults of each kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Sessions that expired.
    pub expired: u64,
    /// Messages lost, messages reordered.
    pub messages: (u64, u64),
    /// Elections of the only replica that was left although it had lost records.
    pub excused: u64,
    /// The invariant that was broken, and how.
    pub violation: Option<String>,
    /// The last steps.
    pub tail: String,
}

/// Names the seed if something panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: a panic", self.0);
        }
    }
}

/// Everything.
pub struct World {
    queue: BinaryHeap<Reverse<Due>>,
    events: u64,
    now: i64,
    pub ctx: Ctx,
    pub brokers: Vec<Broker>,
    pub znodes: Znodes,
    pub net: Network,
    pub ledger: Ledger,
    pub trace: Trace,
    pub parts: usize,
    pub positions: Vec<i64>,
    pub faults: BTreeMap<Kind, u64>,
    producers: Vec<Producer>,
    invariants: Vec<Box<dyn Invariant>>,
    violation: Option<String>,
    healed: Option<Vec<u32>>,
    acknowledged: u64,
    expired: u64,
    over: bool,
    /// Milliseconds between faults, at most: some runs are quiet.
    fault_gap: i64,
}

impl World {
    /// Runs a seed.
    pub fn run(seed: u64, bug: Option<Bug>, print: bool) -> Outcome {
        let _named = Named(seed);
        let mut world = Self::new(seed, bug, print);
        while let Some(Reverse(Due(at, _, event))) = world.queue.pop() {
            world.now = at;
            world.ctx.now = at;
            world.step(event);
            world.after_step();
            if world.violation.is_some() || world.over {
                break;
            }
        }
        Outcome {
            hash: world.trace.hash,
            steps: world.trace.steps,
            faults: world.faults,
            acknowledged: world.acknowledged,
            expired: world.expired,
            messages: (world.net.lost, world.net.reordered),
            excused: world.ledger.excused,
            tail: if world.violation.is_some() { world.trace.tail() } else { String::new() },
            violation: world.violation,
        }
    }

    fn new(seed: u64, bug: Option<Bug>, print: bool) -> Self {
        let mut ctx = Ctx::new(seed, bug);
        let n = ctx.rng.range(3, 6) as i32;
        let parts = ctx.rng.range(1, 3) as usize;
        let fault_gap = ctx.rng.pick(&[150, 260, 500, 900]).unwrap_or(260);
        let placements = (0..parts as i32).map(|p| (0..3).map(|i| 1 + (p + i) % n).collect()).collect();
        let mut world = Self {
            queue: BinaryHeap::new(),
            events: 0,
            now: 0,
            ctx,
            brokers: (1..=n).map(Broker::new).collect(),
            znodes: Znodes::new(placements),
            net: Network::default(),
            ledger: Ledger { committed: vec![Vec::new(); parts], void_before: vec![-1; parts], ..Ledger::default() },
            trace: Trace::new(print),
            parts,
            positions: vec![0; parts],
            faults: BTreeMap::new(),
            producers: (0..4).map(|i| Producer::new(i, parts)).collect(),
            invariants: invariants::all(parts),
            violation: None,
            healed: None,
            acknowledged: 0,
            expired: 0,
            over: false,
            fault_gap,
        };
        for id in 1..=n {
            world.after(i64::from(id), Event::Tick(id));
        }
        for i in 0..4 {
            world.after(60 + i, Event::Produce(i as usize));
        }
        (0..parts).for_each(|p| world.after(70, Event::Consume(p)));
        world.after(50, Event::Expire);
        world.after(200, Event::Fault);
        world.after(CHAOS, Event::Heal);
        world
    }

    /// Milliseconds since the begin.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Something is to happen after some milliseconds.
    pub fn after(&mut self, delay: i64, event: Event) {
        self.events += 1;
        self.queue.push(Reverse(Due(self.now + delay, self.events, event)));
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Deliver(from, to, body) => self.deliver(from, to, body),
            Event::Tick(id) => {
                self.after(TICK, Event::Tick(id));
                let broker = &mut self.brokers[id as usize - 1];
                if broker.up && broker.paused_until <= self.now {
                    broker.tick(&mut self.ctx);
                    if broker.stop == Stop::Ready {
                        broker.end(true, false, &mut self.ctx);
                        let later = self.ctx.rng.range(20, 400);
                        self.after(later, Event::Start(id));
                        self.trace.add(self.now, "stops", [i64::from(id), 0, 0, 0, 0]);
                    }
                }
            }
            Event::Produce(i) => {
                let up: Vec<i32> = self.brokers.iter().filter(|b| b.up).map(|b| b.id).collect();
                let part = self.producers[i].part();
                let asked = self.ctx.rng.pick(&up).map(|id| &self.brokers[id as usize - 1]);
                let leader = asked.and_then(|b| b.leaders.get(&part)).map(|(l, _)| *l).filter(|l| *l > 0);
                self.producers[i].act(leader, &mut self.ctx);
                let again = self.ctx.rng.range(10, 40);
                self.after(again, Event::Produce(i));
            }
            Event::Consume(part) => {
                self.consume(part);
                let again = self.ctx.rng.range(20, 60);
                self.after(again, Event::Consume(part));
            }
            Event::Expire => {
                self.expired += self.znodes.expire(self.now);
                self.after(50, Event::Expire);
            }
            Event::Fault if self.now < CHAOS => {
                self.fault();
                let next = self.ctx.rng.range(20, self.fault_gap);
                self.after(next, Event::Fault);
            }
            Event::Fault => {}
            Event::Heal => self.heal(),
            Event::Check => self.check(),
            Event::Start(id) => {
                if !self.brokers[id as usize - 1].up {
                    self.brokers[id as usize - 1].start(&mut self.ctx);
                    self.trace.add(self.now, "begins", [i64::from(id), 0, 0, 0, 0]);
                }
            }
            Event::Mend(directions) => self.net.cut.retain(|d| !directions.contains(d)),
            Event::Speed(directions) => self.net.slow.retain(|d| !directions.contains(d)),
            Event::EndLoss => self.net.loss = 0,
        }
    }

    fn deliver(&mut self, from: i32, to: i32, body: Body) {
        if (1..FIRST_CLIENT).contains(&to)
            && let broker = &self.brokers[to as usize - 1]
            && broker.up
            && broker.paused_until > self.now
        {
            let later = broker.paused_until - self.now;
            return self.after(later, Event::Deliver(from, to, body));
        }
        let [a, b, c] = body.numbers();
        self.trace.add(self.now, body.name(), [i64::from(from), i64::from(to), a, b, c]);
        if to == ZNODES {
            if let Body::Ask { session, id, op } = body {
                let reply = self.znodes.serve(from, session, op, self.now, self.ctx.bug, &mut self.ctx.facts);
                self.ctx.send(ZNODES, from, Body::Told { id, session, reply });
            }
        } else if to >= FIRST_CLIENT {
            if let Body::Produced { id, offset } = body {
                let producer = &mut self.producers[(to - FIRST_CLIENT) as usize];
                producer.answered(id, offset.is_ok(), self.parts, &mut self.ctx);
            }
        } else if self.brokers[to as usize - 1].up {
            self.brokers[to as usize - 1].receive(from, body, &mut self.ctx);
        }
    }

    fn after_step(&mut self) {
        if std::mem::take(&mut self.znodes.fire) {
            for (id, session) in self.znodes.sessions().collect::<Vec<_>>() {
                let reply = Reply::Status(self.znodes.status(id));
                self.ctx.send(ZNODES, id, Body::Told { id: 0, session, reply });
            }
        }
        for (from, to, body) in std::mem::take(&mut self.ctx.out) {
            if let Some(at) = self.net.deliver(from, to, self.now, &mut self.ctx.rng) {
                self.events += 1;
                self.queue.push(Reverse(Due(at, self.events, Event::Deliver(from, to, body))));
            }
        }
        for fact in std::mem::take(&mut self.ctx.facts) {
            if self.ledger.void(&fact) {
                continue;
            }
            let view = View { brokers: &self.brokers, znodes: &self.znodes, ledger: &self.ledger };
            for invariant in &mut self.invariants {
                if let Err(why) = invariant.check(&fact, &view) {
                    self.violation = Some(format!("{} at {} ms: {why}; {fact:?}", invariant.name(), self.now));
                    return;
                }
            }
            self.learn(&fact);
        }
    }

    fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Written { part, new, writer, .. } => {
                let isr = crate::message::members(new.state.isr.iter());
                let (leader, epoch) = (i64::from(new.state.leader), i64::from(new.state.leader_epoch));
                self.trace.add(self.now, "written", [*part as i64, leader, epoch, isr, i64::from(*writer)]);
            }
            Fact::Led { broker, part, leader_epoch } => {
                self.trace.add(self.now, "leads", [*part as i64, i64::from(*broker), i64::from(*leader_epoch), 0, 0]);
            }
            Fact::Committed { broker, part, leader_epoch, to } => {
                self.trace.add(self.now, "high watermark", [*part as i64, i64::from(*broker), i64::from(*leader_epoch), *to, 0]);
            }
            Fact::Truncated { broker, part, to } => {
                self.trace.add(self.now, "cut", [*part as i64, i64::from(*broker), *to, 0, 0]);
            }
            _ => {}
        }
        match fact {
            Fact::Acknowledged { .. } => self.acknowledged += 1,
            Fact::Committed { broker, part, to, .. } => {
                let committed = &mut self.ledger.committed[*part];
                let b = &self.brokers[*broker as usize - 1];
                committed.extend((committed.len() as i64..*to).filter_map(|o| b.record(*part, o)));
            }
            Fact::Lost { broker } => self.ledger.lossy.extend((0..self.parts).map(|p| (*broker, p))),
            Fact::Appended { broker, part, .. } if self.ledger.complete(&self.brokers[*broker as usize - 1], *part) => {
                self.ledger.lossy.remove(&(*broker, *part));
            }
            Fact::Written { part, new, .. } if new.state.leader > 0 => {
                let leader = &self.brokers[new.state.leader as usize - 1];
                if self.ledger.lossy.contains(&(leader.id, *part)) {
                    // An earlier leader that still leads may count what this one had fetched from it, and lost.
                    self.ledger.void_before[*part] = new.state.leader_epoch;
                }
                if !self.ledger.complete(leader, *part) {
                    // The invariant has let it pass: nobody was left who had more.
                    self.ledger.excused += 1;
                    self.ledger.void_before[*part] = new.state.leader_epoch;
                    let log = leader.parts.get(part).map_or(0, |r| r.log.end());
                    self.ledger.committed[*part].truncate(log as usize);
                    self.positions[*part] = self.positions[*part].min(log);
                    let fact = Fact::Excused { part: *part, end: log };
                    let view = View { brokers: &self.brokers, znodes: &self.znodes, ledger: &self.ledger };
                    for invariant in &mut self.invariants {
                        let _ = invariant.check(&fact, &view);
                    }
                }
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.net.heal();
        for i in 0..self.brokers.len() {
            self.brokers[i].paused_until = 0;
            if !self.brokers[i].up {
                self.after(1 + i as i64, Event::Start(i as i32 + 1));
            }
        }
        self.healed = Some(self.producers.iter().map(|p| p.done).collect());
        self.after(100, Event::Check);
    }

    fn check(&mut self) {
        let before = self.healed.clone().unwrap_or_default();
        for (p, done) in self.producers.iter_mut().zip(&before) {
            // One that was under way and one that is new.
            p.finishing = p.done > *done;
        }
        let waiting = self.producers.iter().position(|p| !p.idle);
        let view = View { brokers: &self.brokers, znodes: &self.znodes, ledger: &self.ledger };
        let unsettled = invariants::progress::unsettled(&view, self.parts, waiting);
        match unsettled {
            None => {
                self.ctx.facts.push(Fact::Settled);
                self.over = true;
            }
            Some(why) if self.now > CHAOS + CALM => self.violation = Some(format!("progress at {} ms: {why}", self.now)),
            Some(_) => self.after(50, Event::Check),
        }
    }
}
