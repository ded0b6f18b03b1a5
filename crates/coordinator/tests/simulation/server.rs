//! One server: the core, its disk, and what stands for the driver.

use std::collections::BTreeMap;

use septet_coordinator::{
    raft::{Data, Entry, EntryId, LogView, Membership, Payload, Raft, Role, Settings, Stored},
    reconfigure::Target,
};

use crate::{
    bugs::Bug,
    disk::{Disk, Snapshot},
};

/// Milliseconds of a tick.
pub const TICK_MS: u64 = 20;

/// Settings as the server has them, but for sizes, which are small so that limits matter.
pub fn settings(me: u64) -> Settings {
    Settings {
        me,
        election_ticks: 60,
        lease_ticks: 40,
        heartbeat_ticks: 5,
        max_term: 1 << 30,
        max_message_bytes: 200,
        max_inflight_bytes: 600,
        max_uncommitted_bytes: 4000,
    }
}

/// Who waits for a read.
#[derive(Debug, Clone, Copy)]
pub enum Reader {
    /// a client; with what was known when it asked
    Client { floor: u64 },
    /// a server whose disk was blank, and its life
    Joiner { server: u64, life: u64 },
}

/// A server.
pub struct Server {
    pub id: u64,
    /// raised at each start
    pub life: u64,
    /// `None` while it is down
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// which disk it is: raised when one is lost
    pub disk_number: u64,
    /// the log in memory, behind `base`
    pub base: EntryId,
    pub log: Vec<Entry>,
    /// the state machine
    pub applied: EntryId,
    pub digest: u64,
    pub membership: Membership,
    /// a snapshot that is being installed
    pub incoming: Option<Snapshot>,
    /// writes of clients
    pub proposals: BTreeMap<EntryId, u64>,
    pub readers: BTreeMap<u64, Reader>,
    /// reads that wait for the state: index, token
    pub waiting: Vec<(u64, u64)>,
    /// milliseconds between two ticks
    pub tick_every: u64,
    /// it led when last looked at, in this term
    pub led: u64,
    /// index at which it was told that it had caught up
    pub catch_up: Option<u64>,
    pub snapshotting: bool,
    /// what its `zoo.cfg` asked for, from when on
    pub asks: Vec<(u64, Target)>,
    /// what others told it, and when
    pub told: BTreeMap<u64, (u64, Target)>,
}

/// A hash of one more entry.
pub fn digest(before: u64, entry: &Entry) -> u64 {
    let content = match &entry.payload {
        Payload::Blank => 1,
        Payload::Commands(Data(bytes)) => bytes.iter().fold(2, |n: u64, b| n.wrapping_mul(257) + u64::from(*b)),
        Payload::Membership(m) => m.voters.iter().chain(&m.learners).fold(3, |n: u64, id| n.wrapping_mul(257) + id),
    };
    (before ^ content).wrapping_mul(0x0100_0000_01b3).rotate_left(17) ^ entry.id.index
}

impl Server {
    pub fn new(id: u64, formation: Option<Membership>) -> Self {
        let mut disk = Disk::default();
        disk.durable.joining = formation.is_none();
        disk.durable.formation = formation;
        Self {
            id,
            life: 0,
            raft: None,
            disk,
            disk_number: 0,
            base: EntryId::default(),
            log: Vec::new(),
            applied: EntryId::default(),
            digest: 0,
            membership: Membership::default(),
            incoming: None,
            proposals: BTreeMap::new(),
            readers: BTreeMap::new(),
            waiting: Vec::new(),
            tick_every: TICK_MS,
            led: 0,
            catch_up: None,
            snapshotting: false,
            asks: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    /// Starts with what the disk has.
    pub fn start(&mut self, seed: u64, bug: Option<Bug>) {
        self.life += 1;
        self.disk.recover(bug);
        let d = &mut self.disk.durable;
        if bug == Some(Bug::VoteForgotten) {
            d.hard.voted_for = None;
        }
        self.base = d.base;
        self.log = d.log.clone();
        let formed = d.formation.clone();
        (self.applied, self.digest) = d.snapshot.as_ref().map_or_else(Default::default, |s| (s.last, s.digest));
        let membership = d.snapshot.as_ref().map(|s| s.membership.clone()).or(formed);
        self.membership = membership.clone().unwrap_or_default();
        let mut log = LogView::new(self.base, membership);
        for entry in &self.log {
            let kept = bug != Some(Bug::MembershipForgotten);
            let membership = if let Payload::Membership(m) = &entry.payload { Some(m.clone()).filter(|_| kept) } else { None };
            log.load(entry.id, entry.bytes(), membership);
        }
        let applied = match bug {
            Some(Bug::RestartCommitsLog) => log.last_index(),
            Some(Bug::AppliedTwice) => {
                self.applied = self.base;
                self.base.index
            }
            _ => self.applied.index,
        };
        let voting = !d.joining || bug == Some(Bug::BlankVotes);
        self.raft = Some(Raft::new(settings(self.id), Stored { hard: d.hard, log, applied }, voting, seed));
        self.incoming = None;
        self.proposals.clear();
        self.readers.clear();
        self.waiting.clear();
        self.led = 0;
        self.catch_up = None;
        self.snapshotting = false;
        self.told.clear();
    }

    pub fn leads(&self) -> bool {
        self.raft.as_ref().is_some_and(|r| r.status().role == Role::Leader)
    }

    /// The entry at an index, as far as memory has it.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.log.get(index.checked_sub(self.base.index + 1)? as usize)
    }

    /// Whether memory has this entry.
    pub fn has(&self, id: EntryId) -> bool {
        id == self.base || self.entry(id.index).is_some_and(|e| e.id == id)
    }

    pub fn last(&self) -> EntryId {
        self.log.last().map_or(self.base, |e| e.id)
    }

    /// A snapshot of the state as it is.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { last: self.applied, membership: self.membership.clone(), digest: self.digest }
    }
}
