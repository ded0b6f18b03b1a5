//! The controller's driver: one request to the coordinators at a time around the core that decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kafka_protocol::ResponseError;
use septet_broker::core::{
    controller::{Change, Cluster, Name, Partition, Registration, Topic},
    elections::LeaderAndIsr,
    partition::{Answer, Assignment, Proposal},
};

use crate::{
    bugs::Bug,
    ctx::Ctx,
    message::{Altered, Body, Control},
    znodes::{Op, Placement, Refusal, Reply, Tree},
};

/// Milliseconds after which a broker that has not answered is told again.
const TELL_TIMEOUT: i64 = 200;

/// What an operator asks for.
#[derive(Debug, Clone)]
pub enum Admin {
    /// Other replicas; `None` takes a reassignment back.
    Reassign(usize, Option<Vec<i32>>),
    /// The preferred leader.
    Prefer(usize),
}

enum Doing {
    LoadBrokers,
    LoadPartitions,
    Brokers,
    Write(Vec<(Change, Option<(i32, Proposal)>)>),
    Place(usize, Placement),
}

/// A controller.
pub struct Controller {
    id: i32,
    epoch: i32,
    cluster: Cluster<()>,
    versions: Vec<i32>,
    registry: BTreeMap<i32, i64>,
    /// Brokers that have registered, some of them before it was seen that they had gone: dead until no state counts on them.
    bounced: BTreeSet<i32>,
    loaded: (bool, bool),
    changes: (u64, u64),
    doing: Option<Doing>,
    proposals: VecDeque<(i32, usize, Proposal)>,
    /// What an operator asked for.
    pub admin: VecDeque<Admin>,
    /// Partitions whose replicas have changed: a new leader epoch makes the decision newer than all before.
    raise: BTreeSet<usize>,
    finished: BTreeSet<usize>,
    version: u64,
    told: BTreeMap<i32, (u64, i64)>,
    obeyed: BTreeMap<i32, u64>,
}

fn name(part: usize) -> Name {
    ("t".to_owned(), part as i32)
}

impl Controller {
    /// One that was just elected. `old` is what it knew when it was controller before, which it should not use.
    pub fn elected(id: i32, epoch: i32, now: i64, old: Option<Controller>) -> Self {
        let (cluster, versions, loaded) = match old {
            Some(o) if o.loaded.1 => (Cluster { brokers: BTreeMap::new(), ..o.cluster }, o.versions, true),
            _ => (Cluster::default(), Vec::new(), false),
        };
        Self {
            id,
            epoch,
            cluster,
            versions,
            registry: BTreeMap::new(),
            bounced: BTreeSet::new(),
            loaded: (false, loaded),
            changes: (0, 0),
            doing: None,
            proposals: VecDeque::new(),
            admin: VecDeque::new(),
            raise: BTreeSet::new(),
            finished: BTreeSet::new(),
            // One that is elected twice in one epoch, since the first answer was lost, does not count from the beginning.
            version: now as u64 * 1000,
            told: BTreeMap::new(),
            obeyed: BTreeMap::new(),
        }
    }

    /// Registrations have changed.
    pub fn brokers_changed(&mut self, count: u64) {
        self.changes.0 = self.changes.0.max(count);
    }

    /// A request to the coordinators was not answered: it may have been served.
    pub fn outcome_unknown(&mut self, bug: Option<Bug>) {
        let reads = bug != Some(Bug::VersionNotCompared);
        if reads && !matches!(self.doing.take(), Some(Doing::LoadBrokers | Doing::Brokers)) {
            self.loaded.1 = false;
        }
        self.doing = None;
        self.changes.1 = 0;
    }

    /// A leader proposes an ISR.
    pub fn proposed(&mut self, from: i32, part: usize, proposal: Proposal, broker_epoch: i64) {
        let entry = (from, part, proposal);
        if self.registry.get(&from) == Some(&broker_epoch) && !self.proposals.contains(&entry) {
            self.proposals.push_back(entry);
        }
    }

    /// A broker wants to stop: the number of partitions that it still leads.
    pub fn shut_down(&mut self, from: i32, broker_epoch: i64) -> Option<usize> {
        let b = self.cluster.brokers.get_mut(&from).filter(|b| b.epoch == broker_epoch && self.loaded.1)?;
        if !b.stopping {
            b.stopping = true;
            self.version += 1;
        }
        Some(self.cluster.led_by(from).len())
    }

    /// A broker has obeyed.
    pub fn obeyed(&mut self, from: i32, epoch: i32, version: u64, broker_epoch: i64) {
        if epoch == self.epoch && self.registry.get(&from) == Some(&broker_epoch) {
            let known = self.obeyed.entry(from).or_default();
            *known = (*known).max(version);
            if self.told.get(&from).is_some_and(|(v, _)| *v == version) {
                self.told.remove(&from);
            }
        }
    }

    fn tell(&mut self, ctx: &mut Ctx) {
        if self.loaded != (true, true) {
            return;
        }
        for (id, b) in &self.cluster.brokers {
            let known = self.obeyed.get(id).copied().unwrap_or(0);
            if known >= self.version || self.told.get(id).is_some_and(|(_, deadline)| *deadline > ctx.now) {
                continue;
            }
            let parts = self.cluster.partitions().filter_map(|(name, p)| {
                let s = p.stored.as_ref()?;
                let LeaderAndIsr { leader, leader_epoch, isr } = s.state.clone();
                Some((name.1 as usize, Assignment { replicas: p.replicas.clone(), isr, leader, leader_epoch, partition_epoch: s.version }))
            });
            let live = self.cluster.brokers.iter().map(|(id, b)| (*id, b.stopping)).collect();
            let control = Control { epoch: self.epoch, broker_epoch: b.epoch, version: self.version, parts: parts.collect(), live };
            ctx.send(self.id, *id, Body::Control(Box::new(control)));
            self.told.insert(*id, (self.version, ctx.now + TELL_TIMEOUT));
            if ctx.has(Bug::DecisionSentOnce) {
                self.obeyed.insert(*id, self.version);
            }
        }
    }

    /// What to ask of the coordinators next.
    pub fn step(&mut self, ctx: &mut Ctx) -> Option<Op> {
        self.tell(ctx);
        if self.doing.is_some() {
            return None;
        }
        if !self.loaded.0 {
            self.changes.1 = self.changes.0;
            return self.read(Doing::LoadBrokers);
        }
        if !self.loaded.1 {
            return self.read(Doing::LoadPartitions);
        }
        if self.changes.0 > self.changes.1 {
            self.changes.1 = self.changes.0;
            return self.read(Doing::Brokers);
        }
        let repairs = self.repairs(ctx);
        if !repairs.is_empty() {
            return self.write(repairs);
        }
        if !self.bounced.is_empty() {
            // No state counts on them any more.
            for id in std::mem::take(&mut self.bounced) {
                self.welcome(id);
            }
            return self.step(ctx);
        }
        self.reassignments(ctx).or_else(|| self.next_proposal(ctx)).or_else(|| self.next_admin())
    }

    fn read(&mut self, doing: Doing) -> Option<Op> {
        self.doing = Some(doing);
        Some(Op::Read)
    }

    fn write(&mut self, changes: Vec<(Change, Option<(i32, Proposal)>)>) -> Option<Op> {
        let known = self.cluster.brokers.iter().map(|(id, b)| (*id, b.epoch)).collect();
        let op = Op::Write { epoch: self.epoch, changes: changes.iter().map(|(c, _)| (c.name.1 as usize, c.clone())).collect(), known };
        self.doing = Some(Doing::Write(changes));
        Some(op)
    }

    fn welcome(&mut self, id: i32) {
        if let Some(epoch) = self.registry.get(&id) {
            self.cluster.brokers.insert(id, Registration { epoch: *epoch, stopping: false, info: () });
            self.obeyed.remove(&id);
            self.told.remove(&id);
            self.version += 1;
        }
    }

    fn repairs(&self, ctx: &Ctx) -> Vec<(Change, Option<(i32, Proposal)>)> {
        crate::decisions::repairs(&self.cluster, ctx).into_iter().map(|c| (c, None)).collect()
    }

    fn reassignments(&mut self, ctx: &Ctx) -> Option<Op> {
        let raise: Vec<_> = std::mem::take(&mut self.raise)
            .into_iter()
            .filter_map(|part| {
                let s = self.cluster.partition(&name(part))?.stored.as_ref()?;
                let state = LeaderAndIsr { leader_epoch: s.state.leader_epoch + 1, ..s.state.clone() };
                Some((Change { name: name(part), state, replaces: Some(s.version) }, None))
            })
            .collect();
        if !raise.is_empty() {
            return self.write(raise);
        }
        let set = |list: &[i32]| list.iter().copied().collect::<BTreeSet<i32>>();
        let placed = self.cluster.partitions().find_map(|(name, p)| {
            let s = &p.stored.as_ref()?.state;
            let done = p.reassigned() && self.finished.contains(&(name.1 as usize)) && set(&s.isr) == set(&p.target());
            (done && s.isr.contains(&s.leader)).then(|| (name.1 as usize, p.target()))
        });
        if let Some((part, replicas)) = placed {
            return self.place(part, Placement { replicas, adding: Vec::new(), removing: Vec::new() });
        }
        let changes = crate::decisions::finished_reassignments(&self.cluster, ctx);
        (!changes.is_empty()).then(|| self.write(changes.into_iter().map(|c| (c, None)).collect()))?
    }

    fn place(&mut self, part: usize, placement: Placement) -> Option<Op> {
        self.doing = Some(Doing::Place(part, placement.clone()));
        Some(Op::Place { epoch: self.epoch, part, placement, version: self.versions[part] })
    }

    fn next_proposal(&mut self, ctx: &mut Ctx) -> Option<Op> {
        while let Some((from, part, proposal)) = self.proposals.pop_front() {
            let mut judged = proposal.clone();
            if ctx.has(Bug::BrokerEpochNotJudged) {
                judged.isr.iter_mut().for_each(|(_, epoch)| *epoch = -1);
            }
            let answer = match self.cluster.judge(from, &name(part), &judged) {
                Ok(Some(change)) => return self.write(vec![(change, Some((from, proposal)))]),
                Ok(None) => Altered::Answer(self.state(part)),
                Err(ResponseError::IneligibleReplica) => Altered::Answer(Answer::Rejected),
                Err(ResponseError::NotController) => Altered::NotController,
                Err(_) => Altered::Answer(Answer::Outdated),
            };
            ctx.send(self.id, from, Body::AlterAnswer { part, proposal, altered: answer });
        }
        None
    }

    fn state(&self, part: usize) -> Answer {
        let stored = self.cluster.partition(&name(part)).and_then(|p| p.stored.clone());
        stored.map_or(Answer::Outdated, |s| {
            let LeaderAndIsr { leader, leader_epoch, isr } = s.state;
            Answer::State { leader, leader_epoch, isr, partition_epoch: s.version }
        })
    }

    fn next_admin(&mut self) -> Option<Op> {
        while let Some(admin) = self.admin.pop_front() {
            match admin {
                Admin::Reassign(part, target) => {
                    if let Ok(Some(p)) = self.cluster.reassign(&name(part), target.as_deref()) {
                        self.finished.remove(&part);
                        return self.place(part, Placement { replicas: p.replicas, adding: p.adding, removing: p.removing });
                    }
                }
                Admin::Prefer(part) => {
                    if let Some(change) = self.cluster.prefer(&name(part)) {
                        return self.write(vec![(change, None)]);
                    }
                }
            }
        }
        None
    }

    /// The coordinators have answered. `false`: another is controller.
    pub fn answered(&mut self, reply: Reply, ctx: &mut Ctx) -> bool {
        match (self.doing.take(), reply) {
            (Some(Doing::LoadBrokers | Doing::Brokers), Reply::Tree(tree)) => self.see_brokers(&tree, ctx),
            (Some(Doing::LoadPartitions), Reply::Tree(tree)) => self.load(*tree, ctx),
            (Some(Doing::Write(changes)), Reply::Written(results)) => {
                for ((change, proposal), result) in changes.into_iter().zip(results) {
                    let result = match result {
                        Err(_) if ctx.has(Bug::RefusedWriteTakenForWritten) => Ok(change.replaces.map_or(0, |v| v + 1)),
                        result => result,
                    };
                    match result {
                        Ok(version) => self.written(&change, version, proposal, ctx),
                        Err(Refusal::Fenced) => return false,
                        Err(Refusal::BadVersion) => self.loaded.1 = false,
                    }
                }
            }
            (Some(Doing::Place(part, placement)), Reply::Placed(result)) => match result {
                Ok(version) => {
                    self.versions[part] = version;
                    if !placement.adding.is_empty() || !placement.removing.is_empty() {
                        self.raise.insert(part);
                    }
                    if let Some(p) = self.cluster.topics.get_mut("t").and_then(|t| t.partitions.get_mut(&(part as i32))) {
                        (p.replicas, p.adding, p.removing) = (placement.replicas, placement.adding, placement.removing);
                    }
                    self.version += 1;
                }
                Err(Refusal::Fenced) => return false,
                Err(Refusal::BadVersion) => self.loaded.1 = false,
            },
            (doing, _) => self.doing = doing,
        }
        true
    }

    fn written(&mut self, change: &Change, version: i32, proposal: Option<(i32, Proposal)>, ctx: &mut Ctx) {
        let part = change.name.1 as usize;
        if self.cluster.partition(&change.name).is_some_and(|p| p.reassigned() && p.target().iter().all(|r| change.state.isr.contains(r)))
            && change.state.isr.len() == self.cluster.partition(&change.name).map_or(0, |p| p.target().len())
        {
            self.finished.insert(part);
        }
        self.cluster.written(change, version, self.epoch);
        self.version += 1;
        if let Some((from, proposal)) = proposal {
            let altered = Altered::Answer(self.state(part));
            ctx.send(self.id, from, Body::AlterAnswer { part, proposal, altered });
        }
    }

    fn see_brokers(&mut self, tree: &Tree, ctx: &Ctx) {
        let first = !std::mem::replace(&mut self.loaded.0, true);
        self.cluster.brokers.retain(|id, _| tree.brokers.contains_key(id));
        self.bounced.retain(|id| tree.brokers.contains_key(id));
        let old = std::mem::replace(&mut self.registry, tree.brokers.clone());
        for (id, epoch) in &tree.brokers {
            if old.get(id) == Some(epoch) {
                continue;
            }
            let place = if old.contains_key(id) { Bug::BouncedBrokerKeepsItsPlace } else { Bug::NewBrokerTakesItsOldPlace };
            if first || ctx.has(place) {
                self.welcome(*id);
            } else {
                self.cluster.brokers.remove(id);
                self.bounced.insert(*id);
            }
        }
        self.version += 1;
    }

    fn load(&mut self, tree: Tree, ctx: &Ctx) {
        self.loaded.1 = true;
        self.version += 1;
        self.versions = tree.placements.iter().map(|(_, v)| *v).collect();
        let mut topic = Topic::default();
        for (part, ((placement, _), state)) in tree.placements.into_iter().zip(tree.states).enumerate() {
            for id in state.iter().flat_map(|(s, _)| s.state.isr.iter().chain([&s.state.leader])) {
                // Its registration is younger than the state: the state counts on an earlier life.
                let younger = state.as_ref().zip(self.registry.get(id)).is_some_and(|((_, written), epoch)| epoch > written);
                if younger && !ctx.has(Bug::BouncedBrokerNotSeenAtLoad) && self.cluster.brokers.remove(id).is_some() {
                    self.bounced.insert(*id);
                }
            }
            let Placement { replicas, adding, removing } = placement;
            let stored = state.map(|(s, _)| s);
            topic.partitions.insert(part as i32, Partition { replicas, adding, removing, stored });
        }
        self.cluster.topics.insert("t".to_owned(), topic);
    }
}
