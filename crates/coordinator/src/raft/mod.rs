//! Raft without IO: messages, ticks and what the disk has done go in, commands come out.
//!
//! The core knows the ids, sizes and memberships of the log, never what is in its entries. Whoever drives it carries
//! out the commands in their order, and reports. Time is counted in ticks; randomness comes from a seed. So a run can
//! be repeated exactly, which the simulation in `tests/simulation/` does.
//!
//! Invariants:
//! - A vote, an acknowledgement or a candidacy leaves only after the write that it rests on is reported as durable.
//! - The leader sends entries while it writes them itself, and counts itself only for what is durable.
//! - An entry is committed by counting only if it is of the leader's own term.
//! - Nothing is applied that is not durable here.
//! - A server without a vote (`set_voting`) neither votes nor stands, and its acknowledgements commit nothing.
//!
//! | module | what it is |
//! |---|---|
//! | [`types`] | ids, entries, messages, commands, settings |
//! | [`log`] | what the core knows of the log |
//! | [`membership`] | voters and learners |
//! | `disk` | how slow writes are, by which candidates keep apart |
//! | `election` | time-outs, votes, terms, transfer of leadership |
//! | `follower` | what a leader's messages change |
//! | `leader`, `progress` | replication: flow control, commit, snapshots, membership changes |
//! | `reads` | linearizable reads, many in one round |

mod disk;
mod election;
mod follower;
mod leader;
pub mod log;
pub mod membership;
mod progress;
mod reads;
mod rng;
pub mod types;

use disk::Disk;
use std::collections::{BTreeMap, VecDeque};

pub use log::LogView;
pub use membership::{Change, ChangeError, Membership};
use progress::Progress;
use reads::Reads;
use rng::Rng;
pub use types::{
    Body, Command, Data, Entry, EntryId, HardState, Message, Payload, ProposeError, Role, Settings, SnapshotVerdict, Status, Stored,
};

/// What waits for a write to be durable.
#[derive(Debug)]
enum Held {
    Send(u64, Message),
    /// this server's vote for itself in a term
    OwnVote(u64),
}

/// Why this server stands for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// the leader is silent or gone
    Silence,
    /// the leader asked for it
    Transfer,
}

#[derive(Debug)]
struct Transfer {
    to: u64,
    deadline: u64,
    asked: bool,
}

/// One server's part in the ensemble.
#[derive(Debug)]
pub struct Raft {
    me: u64,
    settings: Settings,
    rng: Rng,
    /// ticks since the start
    now: u64,
    hard: HardState,
    role: Role,
    leader: Option<u64>,
    log: LogView,
    commit: u64,
    /// index up to which the driver was asked to apply
    applied: u64,
    /// number of the last write
    write: u64,
    /// number of the last write that is durable
    durable_write: u64,
    held: VecDeque<(u64, Held)>,
    out: Vec<Command>,
    disk: Disk,
    /// has a vote, as far as this server itself is concerned
    voting: bool,

    /// when this server stands for election, and by what part of what candidates are apart later than that
    deadline: u64,
    apart: u64,
    /// since when an election is under way in which this server stands or has voted
    electing: Option<u64>,
    /// until when it votes for nobody else, since it heard a leader
    lease_until: u64,
    /// last tick at which a leader was heard, or this server led with a majority
    heard: Option<u64>,
    votes: BTreeMap<u64, bool>,
    /// a majority would vote, and the driver was asked whether the disk can be written to
    probing: Option<Cause>,

    /// follower: index up to which the log is known to agree with the leader's
    verified: u64,
    /// follower: the leader's newest round
    round_seen: u64,
    /// follower: an acknowledgement waits for a write
    ack_due: bool,
    /// a snapshot that the driver installs
    installing: Option<EntryId>,

    /// leader: the others
    progress: BTreeMap<u64, Progress>,
    /// leader: rounds of this term, each of which confirms the leadership
    round: u64,
    reads: Reads,
    transfer: Option<Transfer>,
    next_heartbeat: u64,
}

impl Raft {
    /// A server with what it has on disk. The same seed and the same inputs give the same commands.
    pub fn new(settings: Settings, stored: Stored, voting: bool, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let commit = stored.applied.max(stored.log.base().index);
        let first = settings.lease_ticks / 4;
        let deadline = 1 + if stored.log.membership().is_some_and(|m| m.voters.len() == 1) { 0 } else { rng.between(first, 3 * first) };
        Self {
            me: settings.me,
            rng,
            now: 0,
            hard: stored.hard,
            role: Role::Follower,
            leader: None,
            log: stored.log,
            commit,
            applied: commit,
            write: 0,
            durable_write: 0,
            held: VecDeque::new(),
            out: Vec::new(),
            disk: Disk::default(),
            voting,
            deadline,
            apart: 0,
            electing: None,
            lease_until: 0,
            heard: None,
            votes: BTreeMap::new(),
            probing: None,
            verified: 0,
            round_seen: 0,
            ack_due: false,
            installing: None,
            progress: BTreeMap::new(),
            round: 0,
            reads: Reads::default(),
            transfer: None,
            next_heartbeat: 0,
            settings,
        }
    }

    /// The commands since the last call, to be carried out in this order.
    pub fn take(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.out)
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        self.now += 1;
        match self.role {
            Role::Leader => self.tick_leader(),
            _ if self.is_due() => self.stand(),
            _ => {}
        }
    }

    /// The first membership of a new ensemble, which is durable here already. Ignored by a server that has one.
    pub fn form(&mut self, membership: Membership) {
        if self.log.is_blank() && self.installing.is_none() {
            let first = membership.voters.first() == Some(&self.me);
            self.log.form(membership);
            self.deadline = self.now + if first { 1 } else { self.settings.election_ticks };
            self.apart = 0;
        }
    }

    /// Whether this server may vote and stand, and whether its acknowledgements count: not while it lacks what it may
    /// have had on a disk that was lost.
    pub fn set_voting(&mut self, voting: bool) {
        self.voting = voting;
    }

    /// All writes up to this number are durable.
    pub fn persisted(&mut self, write: u64) {
        self.log.persisted(write);
        self.disk.persisted(write, self.now);
        self.durable_write = self.durable_write.max(write);
        while self.held.front().is_some_and(|(number, _)| *number <= write) {
            match self.held.pop_front() {
                Some((_, Held::Send(to, message))) => self.out.push(Command::Send { to, message }),
                Some((_, Held::OwnVote(term))) if term == self.hard.term => {
                    if self.role == Role::Candidate {
                        self.set_deadline();
                    }
                    self.count_vote(self.me, true);
                }
                _ => {}
            }
        }
        match self.role {
            Role::Leader => self.advance_commit(),
            _ if self.ack_due => self.acknowledge(),
            _ => {}
        }
        self.apply();
    }

    /// A snapshot up to this index is durable, and the log before it is no longer needed.
    pub fn compact(&mut self, upto: u64) {
        self.log.compact(upto.min(self.applied));
    }

    /// A message of another server, which the driver has found to be plausible.
    pub fn receive(&mut self, from: u64, message: Message) {
        let Message { term, body } = message;
        match body {
            Body::PreVote { last } => return self.on_pre_vote(from, term, last),
            Body::PreVoteAnswer { granted: true } => {
                if term == self.hard.term + 1 && self.role == Role::PreCandidate {
                    self.count_vote(from, true);
                }
                return;
            }
            Body::PreVoteAnswer { granted: false } if term <= self.hard.term => {
                if self.role == Role::PreCandidate {
                    self.count_vote(from, false);
                }
                return;
            }
            // Not even the term counts while a leader is heard: a server that was cut off must not end its work.
            Body::Vote { transfer: false, .. } if term > self.hard.term && self.hears_leader() => return,
            _ => {}
        }
        if term > self.hard.term {
            self.begin_term(term);
        } else if term < self.hard.term {
            return self.answer_stale(from, &body);
        }
        match body {
            // Its greater term was all that it had to say.
            Body::PreVote { .. } | Body::PreVoteAnswer { .. } => {}
            Body::Vote { last, .. } => self.on_vote(from, last),
            Body::VoteAnswer { granted } => {
                if self.role == Role::Candidate {
                    self.count_vote(from, granted);
                }
            }
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::Append { prev, commit, round, entries } => self.on_append(from, prev, commit, round, entries),
            Body::AppendAck { matched, round, voting } => self.on_ack(from, matched, round, voting),
            Body::AppendRefused { at, hint, round, voting } => self.on_refused(from, at, hint, round, voting),
            Body::Blank => self.on_blank(from),
        }
    }

    /// What this server knows, for whoever watches it.
    pub fn status(&self) -> Status {
        let followers = self.progress.iter().map(|(id, p)| (*id, p.matched));
        Status {
            term: self.hard.term,
            voted_for: self.hard.voted_for,
            role: self.role,
            leader: self.leader,
            commit: self.commit,
            applied: self.applied,
            last: self.log.last(),
            durable: self.log.durable(),
            silent_ticks: if self.role == Role::Leader { self.quorum_silence() } else { self.heard.map_or(u64::MAX, |at| self.now - at) },
            leads_own_term: self.role == Role::Leader && self.committed_in_own_term(),
            transferring: self.transfer.is_some(),
            blank: self.log.is_blank(),
            voting: self.voting,
            followers: followers.collect(),
        }
    }

    /// The newest membership in the log, committed or not.
    pub fn membership(&self) -> Option<&Membership> {
        self.log.membership()
    }

    /// What the core knows of the log.
    pub fn log(&self) -> &LogView {
        &self.log
    }

    fn send(&mut self, to: u64, body: Body) {
        self.out.push(Command::Send { to, message: Message { term: self.hard.term, body } });
    }

    /// Puts a write out; what rests on it waits for its number.
    fn write(&mut self, hard: bool, truncate: Option<u64>, entries: Vec<Entry>) -> u64 {
        self.write += 1;
        self.disk.wrote(self.write, self.now);
        if let Some(from) = truncate {
            self.log.truncate(from);
        }
        self.log.append(&entries);
        self.log.wrote(self.write);
        self.out.push(Command::Write { number: self.write, hard: hard.then_some(self.hard), truncate, entries });
        self.write
    }

    /// Does something once a write is durable.
    fn after(&mut self, number: u64, held: Held) {
        if number > self.durable_write {
            return self.held.push_back((number, held));
        }
        if let Held::Send(to, message) = held {
            self.out.push(Command::Send { to, message });
        }
    }

    /// Asks for what is committed and durable to be applied.
    fn apply(&mut self) {
        let upto = self.commit.min(self.log.durable());
        if upto > self.applied && self.installing.is_none() {
            self.applied = upto;
            self.out.push(Command::Apply { upto });
        }
    }

    fn voters(&self) -> impl Iterator<Item = u64> {
        self.log.membership().into_iter().flat_map(|m| m.voters.iter().copied())
    }

    fn quorum(&self) -> usize {
        self.log.membership().map_or(usize::MAX, Membership::quorum)
    }
}
