//! A broker: its session with the coordinators, its registration, its replicas.

use std::collections::BTreeMap;

use septet_broker::core::partition::Proposal;

use crate::{
    bugs::Bug,
    controller::Controller,
    ctx::Ctx,
    facts::Fact,
    log::{Log, Record},
    message::{Altered, Body, Control, Refused, ZNODES},
    replica::Replica,
    znodes::{Op, Reply, Status, Tree},
};

/// Milliseconds between heartbeats.
const PING: i64 = 150;
/// Milliseconds after which the outcome of a request to the coordinators is unknown.
const ZNODES_TIMEOUT: i64 = 250;
/// Milliseconds that a controlled shutdown may take.
const SHUTDOWN_TIMEOUT: i64 = 500;

/// What a request to the coordinators was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Session,
    Ping,
    Registration,
    Election,
    Control,
}

/// Where a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// None was asked for.
    No,
    /// The controller is to move leaderships away, until this time.
    Asked(i64),
    /// The broker may stop.
    Ready,
}

/// A broker.
pub struct Broker {
    /// From 1.
    pub id: i32,
    /// Its process runs.
    pub up: bool,
    /// It runs on after this time.
    pub paused_until: i64,
    /// It was not stopped cleanly, so that nothing is known of its last records.
    unclean: bool,
    unregistered: bool,
    session: Option<u64>,
    /// Broker epoch, -1 for none yet.
    pub epoch: i64,
    /// It believes that it is registered.
    pub registered: bool,
    asked: BTreeMap<u64, (Purpose, i64)>,
    pinged: i64,
    /// Who is controller, as far as it knows.
    pub controller: Option<i32>,
    controller_epoch: i32,
    live: BTreeMap<i32, bool>,
    live_version: (i32, u64),
    /// Leaders and their epochs, for clients.
    pub leaders: BTreeMap<usize, (i32, i32)>,
    /// Replicas.
    pub parts: BTreeMap<usize, Replica>,
    /// If it is the controller.
    pub ctl: Option<Controller>,
    /// What it knew when it was the controller, for a bug.
    remembered: Option<Controller>,
    /// Controlled shutdown.
    pub stop: Stop,
}

impl Broker {
    /// A broker that has never run.
    pub fn new(id: i32) -> Self {
        Self {
            id,
            up: true,
            paused_until: 0,
            unclean: false,
            unregistered: false,
            session: None,
            epoch: -1,
            registered: false,
            asked: BTreeMap::new(),
            pinged: 0,
            controller: None,
            controller_epoch: 0,
            live: BTreeMap::new(),
            live_version: (0, 0),
            leaders: BTreeMap::new(),
            parts: BTreeMap::new(),
            ctl: None,
            remembered: None,
            stop: Stop::No,
        }
    }

    /// A record of one of its replicas.
    pub fn record(&self, part: usize, offset: i64) -> Option<Record> {
        self.parts.get(&part)?.log.get(offset)
    }

    /// Whether a replica that was just cut had the committed record at the cut.
    pub fn cut_committed(&self, part: usize, to: i64, committed: &[Record]) -> bool {
        self.parts.get(&part).is_some_and(|r| r.cut.is_some_and(|(at, first)| at == to && committed.get(to as usize) == Some(&first)))
    }

    /// The process ends; what is in its files stays, but for what a power cut takes. Returns how many records it took.
    pub fn end(&mut self, clean: bool, power_cut: bool, ctx: &mut Ctx) -> i64 {
        let mut lost = 0;
        for replica in self.parts.values_mut() {
            if clean {
                replica.log.flush();
                replica.log.checkpoint = replica.core.high_watermark();
            } else if power_cut {
                lost += replica.log.lose_unsynced();
            }
        }
        if clean && let Some(session) = self.session {
            ctx.send(self.id, ZNODES, Body::Ask { session, id: 0, op: Op::Close });
        }
        let parts = std::mem::take(&mut self.parts);
        *self = Self { up: false, unclean: !clean, parts, ..Self::new(self.id) };
        if lost > 0 {
            ctx.facts.push(Fact::Lost { broker: self.id });
        }
        lost
    }

    /// The process begins.
    pub fn start(&mut self, ctx: &mut Ctx) {
        self.up = true;
        ctx.facts.push(Fact::Started { broker: self.id });
        for replica in self.parts.values_mut() {
            replica.restart(ctx);
        }
    }

    fn ask(&mut self, purpose: Purpose, op: Op, ctx: &mut Ctx) {
        let id = ctx.id();
        self.asked.insert(id, (purpose, ctx.now + ZNODES_TIMEOUT));
        ctx.send(self.id, ZNODES, Body::Ask { session: self.session.unwrap_or(0), id, op });
    }

    fn asks(&self, purpose: Purpose) -> bool {
        self.asked.values().any(|(p, _)| *p == purpose)
    }

    /// Time has passed.
    pub fn tick(&mut self, ctx: &mut Ctx) {
        let late: Vec<u64> = self.asked.iter().filter(|(_, (_, deadline))| *deadline <= ctx.now).map(|(id, _)| *id).collect();
        for id in late {
            match self.asked.remove(&id) {
                Some((Purpose::Control, _)) => self.ctl.iter_mut().for_each(|c| c.outcome_unknown(ctx.bug)),
                // It may be registered under an epoch that it does not know.
                Some((Purpose::Registration, _)) => self.unregistered = false,
                _ => {}
            }
        }
        match self.session {
            None if !self.asks(Purpose::Session) => self.ask(Purpose::Session, Op::Connect, ctx),
            None => {}
            Some(_) => {
                if ctx.now - self.pinged >= PING && !self.asks(Purpose::Ping) {
                    self.pinged = ctx.now;
                    self.ask(Purpose::Ping, Op::Ping, ctx);
                }
                if !self.registered && !self.asks(Purpose::Registration) {
                    self.register(ctx);
                }
                if self.registered && self.controller.is_none() && !self.asks(Purpose::Election) {
                    self.ask(Purpose::Election, Op::Elect, ctx);
                }
            }
        }
        let (epoch, controller) = (self.epoch, self.controller);
        for replica in self.parts.values_mut() {
            replica.tick(epoch, controller, ctx);
        }
        match self.stop {
            Stop::Asked(deadline) if deadline <= ctx.now => self.stop = Stop::Ready,
            Stop::Asked(_) => {
                if let Some(to) = controller {
                    ctx.send(self.id, to, Body::Shutdown { broker_epoch: epoch });
                }
            }
            Stop::No | Stop::Ready => {}
        }
        self.drive(ctx);
    }

    /// A controlled shutdown begins.
    pub fn ask_to_stop(&mut self, ctx: &Ctx) {
        if self.stop == Stop::No {
            self.stop = Stop::Asked(ctx.now + SHUTDOWN_TIMEOUT);
        }
    }

    fn drive(&mut self, ctx: &mut Ctx) {
        if let Some(ctl) = &mut self.ctl
            && let Some(op) = ctl.step(ctx)
        {
            self.ask(Purpose::Control, op, ctx);
        }
    }

    /// A broker that was not stopped cleanly may have lost records. It gives up its registration, and registers again when no state
    /// counts on it any more: else a controller that missed its absence would believe that it has all it had.
    fn register(&mut self, ctx: &mut Ctx) {
        let waits = self.unclean && !ctx.has(Bug::RegistersBeforeItLeft) && !ctx.has(Bug::BouncedBrokerKeepsItsPlace);
        let op = match (waits, self.unregistered) {
            (false, _) => Op::Register,
            (true, false) => Op::Unregister,
            (true, true) => Op::Read,
        };
        self.ask(Purpose::Registration, op, ctx);
    }

    /// Whether it may register: no state has it in an ISR with another broker that is registered, nor as the leader while
    /// somebody else could be controller.
    fn may_register(&self, tree: &Tree) -> bool {
        let others = tree.brokers.keys().any(|id| *id != self.id);
        tree.states.iter().flatten().all(|(s, _)| {
            let isr = &s.state.isr;
            let counted = isr.contains(&self.id) && isr.iter().any(|r| *r != self.id && tree.brokers.contains_key(r));
            !counted && (s.state.leader != self.id || !others)
        })
    }

    fn resign(&mut self) {
        self.remembered = self.ctl.take().or(self.remembered.take());
        self.asked.retain(|_, (p, _)| *p != Purpose::Control);
    }

    fn heard_from_znodes(&mut self, id: u64, session: u64, reply: Reply, ctx: &mut Ctx) {
        let purpose = self.asked.remove(&id).map(|(p, _)| p);
        match reply {
            Reply::Connected(session) if purpose.is_some() => {
                (self.session, self.registered, self.controller) = (Some(session), false, None);
                self.resign();
                // What it asked in the old session is of no interest.
                self.asked.clear();
            }
            _ if self.session != Some(session) => {}
            Reply::Expired => {
                self.session = None;
                self.asked.clear();
                self.resign();
            }
            Reply::Status(status) => self.watched(&status),
            Reply::Unregistered if purpose.is_some() => self.unregistered = true,
            Reply::Registered(epoch) if purpose.is_some() => {
                // From here on it loses nothing, whoever judges it dead.
                (self.registered, self.epoch, self.unclean) = (true, epoch, false);
            }
            Reply::Elected(Some(epoch)) if purpose.is_some() => {
                self.controller = Some(self.id);
                let old = self.remembered.take().filter(|_| ctx.has(Bug::StatesNotLoaded));
                self.ctl = Some(Controller::elected(self.id, epoch, ctx.now, old));
            }
            Reply::Tree(tree) if purpose == Some(Purpose::Registration) && self.may_register(&tree) => {
                self.ask(Purpose::Registration, Op::Register, ctx);
            }
            reply if purpose == Some(Purpose::Control) => {
                let replaced = self.ctl.as_mut().is_some_and(|c| !c.answered(reply, ctx));
                if replaced {
                    self.resign();
                }
            }
            _ => {}
        }
        self.drive(ctx);
    }

    fn watched(&mut self, status: &Status) {
        if self.registered && status.registered != Some(self.epoch) {
            // Judged dead by another: it registers again, and is another to the controller.
            self.registered = false;
        }
        // If it is itself and does not know it, the answer to the election was lost: it asks again.
        self.controller = status.controller.filter(|c| *c != self.id || self.ctl.is_some());
        if status.controller != Some(self.id) {
            self.resign();
        }
        if let Some(ctl) = &mut self.ctl {
            ctl.brokers_changed(status.changes);
        }
    }

    fn obey(&mut self, from: i32, c: Control, ctx: &mut Ctx) {
        // Before it has registered, what arrives was meant for an earlier life.
        let stale = c.broker_epoch < self.epoch || self.epoch < 0 && !ctx.has(Bug::ObeysBeforeItRegistered);
        if stale || c.epoch < self.controller_epoch && !ctx.has(Bug::StaleControllerAccepted) {
            return;
        }
        self.controller_epoch = c.epoch;
        ctx.facts.push(Fact::Obeyed { broker: self.id, epoch: c.epoch });
        // Nothing in UpdateMetadata says which of two of one controller is the older: connections keep their order. States have epochs.
        let older = (c.epoch, c.version) < self.live_version && !ctx.has(Bug::OlderMetadataAccepted);
        if !older {
            (self.live, self.live_version) = (c.live, (c.epoch, c.version));
        }
        for (part, a) in c.parts {
            let known = self.leaders.entry(part).or_insert((-1, -1));
            if a.leader_epoch >= known.1 {
                *known = (a.leader, a.leader_epoch);
            }
            if older && !self.parts.contains_key(&part) {
                continue;
            }
            if a.replicas.contains(&self.id) {
                let id = self.id;
                let replica = self.parts.entry(part).or_insert_with(|| Replica::start(id, part, Log::default(), ctx.bug));
                replica.decide(a, ctx);
                replica.fetch(self.epoch, ctx);
            } else if self.parts.get(&part).is_some_and(|r| r.core.assignment().leader_epoch <= a.leader_epoch) {
                // Moved elsewhere: StopReplica with its data.
                self.parts.remove(&part);
                ctx.facts.push(Fact::Truncated { broker: self.id, part, to: 0 });
            }
        }
        ctx.send(self.id, from, Body::ControlAnswer { epoch: c.epoch, version: c.version, broker_epoch: c.broker_epoch });
    }

    fn altered(&mut self, part: usize, proposal: &Proposal, altered: Altered, ctx: &mut Ctx) {
        if let (Some(replica), Altered::Answer(answer)) = (self.parts.get_mut(&part), altered) {
            replica.answered(proposal, answer, ctx);
        }
    }

    /// A message has arrived.
    pub fn receive(&mut self, from: i32, body: Body, ctx: &mut Ctx) {
        let me = (self.epoch, self.controller);
        match body {
            Body::Fetch { part, leader_epoch, offset, last_epoch, broker_epoch, id } => {
                let eligible = self.live.get(&from) == Some(&false);
                if let Some(replica) = self.parts.get_mut(&part) {
                    replica.serve(from, (leader_epoch, offset, last_epoch), (broker_epoch, eligible), id, me, ctx);
                }
            }
            Body::FetchAnswer { part, leader_epoch, id, fetched } => {
                if let Some(replica) = self.parts.get_mut(&part) {
                    replica.fetched(leader_epoch, id, fetched, me.0, ctx);
                }
            }
            Body::Alter { part, proposal, broker_epoch } => match &mut self.ctl {
                Some(ctl) => ctl.proposed(from, part, proposal, broker_epoch),
                None => ctx.send(self.id, from, Body::AlterAnswer { part, proposal, altered: Altered::NotController }),
            },
            Body::AlterAnswer { part, proposal, altered } => self.altered(part, &proposal, altered, ctx),
            Body::Control(c) => self.obey(from, *c, ctx),
            Body::ControlAnswer { epoch, version, broker_epoch } => {
                if let Some(ctl) = &mut self.ctl {
                    ctl.obeyed(from, epoch, version, broker_epoch);
                }
            }
            Body::Shutdown { broker_epoch } => {
                if let Some(left) = self.ctl.as_mut().and_then(|c| c.shut_down(from, broker_epoch)) {
                    ctx.send(self.id, from, Body::ShutdownAnswer { left });
                }
            }
            Body::ShutdownAnswer { left: 0 } if self.stop != Stop::No => self.stop = Stop::Ready,
            Body::Told { id, session, reply } => return self.heard_from_znodes(id, session, reply, ctx),
            Body::Produce { part, value, all, id } => match self.parts.get_mut(&part) {
                Some(replica) => replica.produce(from, value, all, id, ctx),
                None => ctx.send(self.id, from, Body::Produced { id, offset: Err(Refused::NotLeader) }),
            },
            Body::ShutdownAnswer { .. } | Body::Ask { .. } | Body::Produced { .. } => {}
        }
        self.drive(ctx);
    }
}
