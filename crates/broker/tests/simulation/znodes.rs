//! A model of the coordinators: sessions, ephemeral registrations, `/controller` with its epoch, the states of partitions with
//! compare-and-set. One server that never fails: the coordinators have a simulation of their own.

use std::collections::BTreeMap;

use septet_broker::core::{
    controller::{Change, Stored},
    elections::LeaderAndIsr,
};

use crate::{bugs::Bug, facts::Fact};

/// Milliseconds without a heartbeat after which a session ends.
pub const SESSION_TIMEOUT: i64 = 600;

/// A partition's replicas, as in its topic's znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// All replicas.
    pub replicas: Vec<i32>,
    /// Those that a reassignment adds.
    pub adding: Vec<i32>,
    /// Those that it removes.
    pub removing: Vec<i32>,
}

/// Everything that a broker can read.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Registered brokers and the transactions that registered them.
    pub brokers: BTreeMap<i32, i64>,
    /// Placement of each partition, with the version of the topic's znode.
    pub placements: Vec<(Placement, i32)>,
    /// States with the transaction that wrote each.
    pub states: Vec<Option<(Stored, i64)>>,
    /// `/controller`
    pub controller: Option<i32>,
    /// `/controller_epoch`; its version is the same number.
    pub controller_epoch: i32,
}

/// A request.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new session.
    Connect,
    /// Heartbeat.
    Ping,
    /// Removes an earlier registration of this broker.
    Unregister,
    /// Registers, in place of an earlier registration.
    Register,
    /// Creates `/controller` and raises the epoch.
    Elect,
    /// Reads everything.
    Read,
    /// States, each with a check of the controller's epoch and its own version.
    Write { epoch: i32, changes: Vec<(usize, Change)>, known: BTreeMap<i32, i64> },
    /// A partition's placement, with a check of the controller's epoch and the version.
    Place { epoch: i32, part: usize, placement: Placement, version: i32 },
    /// Ends the session.
    Close,
}

impl Op {
    /// For the trace.
    pub fn number(&self) -> i64 {
        match self {
            Op::Connect => 0,
            Op::Ping => 1,
            Op::Unregister => 2,
            Op::Register => 3,
            Op::Elect => 4,
            Op::Read => 5,
            Op::Write { .. } => 6,
            Op::Place { .. } => 7,
            Op::Close => 8,
        }
    }
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another controller has been elected.
    Fenced,
    /// The znode has another version.
    BadVersion,
}

/// What every broker watches.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Registration of the receiver.
    pub registered: Option<i64>,
    /// `/controller`
    pub controller: Option<i32>,
    /// Counts changes of registrations.
    pub changes: u64,
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Session.
    Connected(u64),
    /// The session has ended.
    Expired,
    /// To a heartbeat, and when a watch fires.
    Status(Status),
    /// Done.
    Unregistered,
    /// The broker's epoch.
    Registered(i64),
    /// The controller's epoch; `None`: there is one already.
    Elected(Option<i32>),
    /// Everything.
    Tree(Box<Tree>),
    /// Versions of the states.
    Written(Vec<Result<i32, Refusal>>),
    /// The version of the topic's znode.
    Placed(Result<i32, Refusal>),
}

impl Reply {
    /// For the trace.
    pub fn number(&self) -> i64 {
        match self {
            Reply::Connected(_) => 0,
            Reply::Expired => 1,
            Reply::Status(_) => 2,
            Reply::Unregistered => 3,
            Reply::Registered(epoch) => *epoch,
            Reply::Elected(epoch) => -i64::from(epoch.unwrap_or(0)),
            Reply::Tree(_) => 5,
            Reply::Written(results) => 600 + results.iter().filter(|r| r.is_ok()).count() as i64,
            Reply::Placed(result) => 700 + i64::from(result.is_ok()),
        }
    }
}

struct Session {
    broker: i32,
    deadline: i64,
}

/// The coordinators.
#[derive(Default)]
pub struct Znodes {
    /// What is stored.
    pub tree: Tree,
    zxid: i64,
    sessions: BTreeMap<u64, Session>,
    owner: BTreeMap<i32, u64>,
    controller_session: u64,
    changes: u64,
    /// Brokers are to be told of a change.
    pub fire: bool,
}

impl Znodes {
    /// Partitions that have no state yet.
    pub fn new(placements: Vec<Vec<i32>>) -> Self {
        let place = |replicas| (Placement { replicas, adding: Vec::new(), removing: Vec::new() }, 0);
        let states = placements.iter().map(|_| None).collect();
        let tree = Tree { placements: placements.into_iter().map(place).collect(), states, ..Tree::default() };
        Self { tree, zxid: 100, ..Self::default() }
    }

    /// What the broker of a session is told.
    pub fn status(&self, broker: i32) -> Status {
        Status { registered: self.tree.brokers.get(&broker).copied(), controller: self.tree.controller, changes: self.changes }
    }

    /// Brokers with sessions that live, and these.
    pub fn sessions(&self) -> impl Iterator<Item = (i32, u64)> {
        self.sessions.iter().map(|(id, s)| (s.broker, *id))
    }

    /// Ends sessions that were silent for too long. Returns how many.
    pub fn expire(&mut self, now: i64) -> u64 {
        let ended: Vec<u64> = self.sessions.iter().filter(|(_, s)| s.deadline <= now).map(|(id, _)| *id).collect();
        for id in &ended {
            self.close(*id);
        }
        ended.len() as u64
    }

    fn close(&mut self, session: u64) {
        self.zxid += 1;
        if let Some(s) = self.sessions.remove(&session) {
            if self.owner.get(&s.broker) == Some(&session) {
                self.delete_registration(s.broker);
            }
            if self.controller_session == session {
                self.delete_controller();
            }
        }
    }

    /// A broker is judged dead, rightly or not.
    pub fn delete_registration(&mut self, broker: i32) {
        self.owner.remove(&broker);
        if self.tree.brokers.remove(&broker).is_some() {
            self.zxid += 1;
            self.changes += 1;
            self.fire = true;
        }
    }

    /// The controller is judged dead, rightly or not.
    pub fn delete_controller(&mut self) {
        self.controller_session = 0;
        if self.tree.controller.take().is_some() {
            self.zxid += 1;
            self.fire = true;
        }
    }

    /// Serves a request; what was written is reported as facts.
    pub fn serve(&mut self, broker: i32, session: u64, op: Op, now: i64, bug: Option<Bug>, facts: &mut Vec<Fact>) -> Reply {
        if matches!(op, Op::Connect) {
            self.zxid += 1;
            let id = self.zxid as u64;
            self.sessions.insert(id, Session { broker, deadline: now + SESSION_TIMEOUT });
            return Reply::Connected(id);
        }
        let Some(s) = self.sessions.get_mut(&session) else {
            return Reply::Expired;
        };
        s.deadline = now + SESSION_TIMEOUT;
        match op {
            Op::Connect | Op::Ping => Reply::Status(self.status(broker)),
            Op::Unregister => {
                self.delete_registration(broker);
                Reply::Unregistered
            }
            Op::Register => {
                self.delete_registration(broker);
                self.zxid += 1;
                self.changes += 1;
                self.fire = true;
                self.owner.insert(broker, session);
                self.tree.brokers.insert(broker, self.zxid);
                Reply::Registered(self.zxid)
            }
            Op::Elect => {
                if self.tree.controller.is_some() {
                    // The answer to an earlier attempt may have been lost.
                    let own = (self.controller_session == session).then_some(self.tree.controller_epoch);
                    return Reply::Elected(own);
                }
                self.zxid += 1;
                self.fire = true;
                self.tree.controller = Some(broker);
                self.controller_session = session;
                self.tree.controller_epoch += i32::from(bug != Some(Bug::ControllerEpochNotRaised) || self.tree.controller_epoch == 0);
                facts.push(Fact::Elected { broker, epoch: self.tree.controller_epoch });
                Reply::Elected(Some(self.tree.controller_epoch))
            }
            Op::Read => Reply::Tree(Box::new(self.tree.clone())),
            Op::Write { epoch, changes, known } => {
                Reply::Written(changes.into_iter().map(|(part, c)| self.write(part, c, epoch, &known, bug, facts)).collect())
            }
            Op::Place { epoch, part, placement, version } => {
                if epoch != self.tree.controller_epoch && bug != Some(Bug::ControllerEpochNotChecked) {
                    return Reply::Placed(Err(Refusal::Fenced));
                }
                let slot = &mut self.tree.placements[part];
                if slot.1 != version {
                    return Reply::Placed(Err(Refusal::BadVersion));
                }
                self.zxid += 1;
                facts.push(Fact::Placed { writer: epoch, current: self.tree.controller_epoch });
                *slot = (placement, version + 1);
                Reply::Placed(Ok(version + 1))
            }
            Op::Close => {
                self.close(session);
                Reply::Expired
            }
        }
    }

    fn write(
        &mut self,
        part: usize,
        change: Change,
        epoch: i32,
        known: &BTreeMap<i32, i64>,
        bug: Option<Bug>,
        facts: &mut Vec<Fact>,
    ) -> Result<i32, Refusal> {
        if epoch != self.tree.controller_epoch && bug != Some(Bug::ControllerEpochNotChecked) {
            return Err(Refusal::Fenced);
        }
        let old = self.tree.states[part].as_ref().map(|(s, _)| s.clone());
        let version = old.as_ref().map(|s| s.version);
        if version != change.replaces && bug != Some(Bug::VersionNotCompared) {
            return Err(Refusal::BadVersion);
        }
        self.zxid += 1;
        let new = Stored { state: change.state, version: version.map_or(0, |v| v + 1), controller_epoch: epoch };
        facts.push(Fact::Written {
            part,
            old,
            new: new.clone(),
            replaced: change.replaces,
            writer: epoch,
            current: self.tree.controller_epoch,
            known: known.clone(),
        });
        let version = new.version;
        self.tree.states[part] = Some((new, self.zxid));
        Ok(version)
    }

    /// Leader and ISR that are stored.
    pub fn state(&self, part: usize) -> Option<&LeaderAndIsr> {
        self.tree.states[part].as_ref().map(|(s, _)| &s.state)
    }
}
