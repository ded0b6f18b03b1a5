//! Time-outs, votes, terms, and leadership that is handed over.
//!
//! A server first asks whether it would be elected and raises its term only then, so one that is cut off or behind
//! disturbs nobody. While a leader is heard nobody votes for another, unless the leader itself asked for it. The end
//! of the leader's connection ends that lease at once; silence does so after `lease_ticks`.

use super::{Body, Cause, Command, EntryId, HardState, Held, Message, ProposeError, Raft, Role, Transfer, disk::WHOLE};

/// Ticks that a quick disk takes at the most.
const QUICK: u64 = 3;
/// Writes for which candidates are apart, at the most.
const SPREAD: u64 = 12;
/// Writes that an election has before another one is begun by who takes part in it. It takes three, one after the other: the candidate's,
/// and two of a voter, which learns the term and votes.
const ELECTION_WRITES: u64 = 8;
/// Ticks between two looks at a disk for which an election is given time.
const LOOK: u64 = 25;

impl Raft {
    pub(super) fn hears_leader(&self) -> bool {
        self.role == Role::Leader || self.now < self.lease_until
    }

    /// Whether this server can lead at all.
    fn promotable(&self) -> bool {
        self.voting && self.installing.is_none() && self.hard.term < self.settings.max_term && self.may_be_needed()
    }

    /// Whether this server has a vote, or had one before a change that may not be committed: it may be the only one that
    /// has the change and can be elected.
    fn may_be_needed(&self) -> bool {
        let changed = self.log.membership_index();
        let before = if changed > self.commit { self.log.membership_at(changed - 1) } else { None };
        self.log.membership().into_iter().chain(before).any(|m| m.voters.contains(&self.me))
    }

    pub(super) fn set_deadline(&mut self) {
        let ticks = self.settings.election_ticks;
        self.stand_within(ticks, ticks * 3 / 2);
    }

    /// This server stands after so many ticks, and later by its part of what candidates are apart.
    fn stand_within(&mut self, min: u64, max: u64) {
        let (ticks, part) = self.rng.between_and_part(min, max, WHOLE + 1);
        (self.deadline, self.apart) = (self.now + ticks, part);
    }

    /// By how much candidates are to be apart, so that one is elected before the next one stands: an election takes three writes, one
    /// after the other. Nothing where disks are quick. It shrinks while a server waits: a disk that was slow once delays no election for long.
    fn spread(&self) -> u64 {
        SPREAD * self.disk.parts(self.now).saturating_sub(QUICK * WHOLE) / WHOLE
    }

    /// Whether this server is to stand, as far as time goes. The question whether its disk can be written to has the time that it takes.
    pub(super) fn is_due(&self) -> bool {
        self.probing.is_none() && self.now >= self.deadline + self.spread() * self.apart / WHOLE
    }

    /// Stands, unless an election in which this server takes part has not had the time yet that its disk shows to be needed: who begins
    /// anew sooner comes to no end, where disks are slow enough. Whether the disk still is so slow is looked at meanwhile.
    pub(super) fn stand(&mut self) {
        let needed = ELECTION_WRITES * self.disk.latest(self.now);
        if self.electing.is_none_or(|since| self.now >= since + needed) {
            return self.pre_campaign();
        }
        self.deadline = self.now + LOOK;
        self.apart = 0;
        if self.disk.probed.is_none() {
            self.disk.probed = Some(self.now);
            self.out.push(Command::Probe);
        }
    }

    /// A connection of another server ended. If it leads, its end is likely: this server asks for votes at once.
    pub fn lost(&mut self, server: u64) {
        if self.leader == Some(server) && self.role != Role::Leader {
            self.lease_until = self.now;
            self.deadline = self.deadline.min(self.now + self.rng.between(1, 3));
            self.apart = 0;
        }
    }

    pub(super) fn pre_campaign(&mut self) {
        if !self.promotable() {
            return self.set_deadline();
        }
        self.role = Role::PreCandidate;
        self.leader = None;
        self.probing = None;
        self.votes.clear();
        let ticks = self.settings.lease_ticks;
        self.deadline = self.now + self.rng.between(ticks / 4, ticks / 2);
        self.apart = 0;
        let last = self.log.last();
        for to in self.others() {
            self.out.push(Command::Send { to, message: Message { term: self.hard.term + 1, body: Body::PreVote { last } } });
        }
        self.count_vote(self.me, true);
    }

    fn others(&self) -> Vec<u64> {
        self.voters().filter(|id| *id != self.me).collect()
    }

    pub(super) fn count_vote(&mut self, from: u64, granted: bool) {
        self.votes.entry(from).and_modify(|v| *v |= granted).or_insert(granted);
        let all: Vec<bool> = self.voters().filter_map(|id| self.votes.get(&id).copied()).collect();
        let granted = all.iter().filter(|v| **v).count();
        let voters = self.voters().count();
        if granted >= self.quorum() {
            match self.role {
                Role::PreCandidate if self.probing.is_none() => {
                    self.probing = Some(Cause::Silence);
                    // A slow disk has its time to answer.
                    self.set_deadline();
                    self.disk.probed = Some(self.now);
                    self.out.push(Command::Probe);
                }
                Role::Candidate => self.lead(),
                _ => {}
            }
        } else if all.len() - granted > voters - self.quorum() {
            // Others may still hear the leader, or have heard it a moment longer.
            self.role = Role::Follower;
            self.electing = None;
            self.stand_within(3, 8);
        }
    }

    /// Whether the disk can be written to: a server that cannot write does not stand.
    pub fn probed(&mut self, writable: bool) {
        if let Some(at) = self.disk.probed.take() {
            self.disk.took(self.now - at, self.now);
        }
        let Some(cause) = self.probing.take() else { return };
        if !writable {
            if self.role == Role::PreCandidate {
                self.role = Role::Follower;
            }
            return self.set_deadline();
        }
        let wanted = if cause == Cause::Silence { Role::PreCandidate } else { Role::Follower };
        if self.role == wanted && self.promotable() {
            self.campaign(cause);
        }
    }

    fn campaign(&mut self, cause: Cause) {
        self.enter(HardState { term: self.hard.term + 1, voted_for: Some(self.me) });
        self.role = Role::Candidate;
        self.electing = Some(self.now);
        // A slow disk has its time: the votes wait for this server's own write, and for those of the others.
        self.set_deadline();
        let number = self.write(true, None, Vec::new());
        self.after(number, Held::OwnVote(self.hard.term));
        let body = Body::Vote { last: self.log.last(), transfer: cause == Cause::Transfer };
        for to in self.others() {
            self.after(number, Held::Send(to, Message { term: self.hard.term, body: body.clone() }));
        }
    }

    /// A greater term is known. It need not be durable before the vote in it is.
    pub(super) fn begin_term(&mut self, term: u64) {
        let stood = self.role != Role::Follower;
        self.enter(HardState { term, voted_for: None });
        if stood {
            self.set_deadline();
        }
        self.write(true, None, Vec::new());
    }

    /// Leaves a term behind, and whatever this server was in it.
    fn enter(&mut self, hard: HardState) {
        self.step_down();
        self.hard = hard;
        self.electing = None;
        self.verified = 0;
        self.round_seen = 0;
        self.ack_due = false;
    }

    /// Stops to lead or to stand.
    pub(super) fn step_down(&mut self) {
        if self.role == Role::Leader {
            self.heard = self.now.checked_sub(self.quorum_silence());
        }
        self.role = Role::Follower;
        self.leader = None;
        self.probing = None;
        self.votes.clear();
        self.progress.clear();
        self.transfer = None;
        self.fail_reads();
    }

    pub(super) fn on_pre_vote(&mut self, from: u64, term: u64, last: EntryId) {
        let granted = self.voting && self.installing.is_none() && !self.hears_leader() && term > self.hard.term && last >= self.log.last();
        if granted && self.role == Role::Follower && self.spread() > 0 {
            // Whoever would be elected has its time, which is long for all where disks are slow.
            self.deadline = self.deadline.max(self.now + 4 * self.disk.slow(self.now));
            self.apart = self.rng.between(0, WHOLE);
        }
        let message = Message { term: if granted { term } else { self.hard.term }, body: Body::PreVoteAnswer { granted } };
        self.out.push(Command::Send { to: from, message });
    }

    pub(super) fn on_vote(&mut self, from: u64, last: EntryId) {
        let free = self.hard.voted_for.is_none_or(|id| id == from);
        if !(self.voting && self.installing.is_none() && free && last >= self.log.last()) {
            return self.send(from, Body::VoteAnswer { granted: false });
        }
        if self.hard.voted_for.is_none() {
            self.hard.voted_for = Some(from);
            self.electing = Some(self.now);
            self.role = Role::Follower;
            self.set_deadline();
            self.write(true, None, Vec::new());
        }
        self.after(self.write, Held::Send(from, Message { term: self.hard.term, body: Body::VoteAnswer { granted: true } }));
    }

    pub(super) fn answer_stale(&mut self, from: u64, body: &Body) {
        match body {
            Body::Append { prev, .. } => {
                let (at, hint) = (prev.index, self.log.last());
                self.send(from, Body::AppendRefused { at, hint, round: 0, voting: self.voting });
            }
            Body::Vote { .. } => self.send(from, Body::VoteAnswer { granted: false }),
            _ => {}
        }
    }

    /// Hands leadership to a server, or to the one that has most of the log.
    pub fn transfer(&mut self, to: Option<u64>) -> Result<u64, ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader);
        }
        let recent = self.settings.heartbeat_ticks * 4;
        let fit = |id: &u64| self.progress.get(id).is_some_and(|p| p.voting && self.now - p.heard <= recent);
        let chosen = self.voters().filter(fit).filter(|id| to.is_none_or(|t| t == *id)).max_by_key(|id| self.progress[id].matched);
        let to = chosen.ok_or(ProposeError::Busy)?;
        self.transfer = Some(Transfer { to, deadline: self.now + self.settings.election_ticks, asked: false });
        self.go_on_with_transfer();
        Ok(to)
    }

    pub(super) fn go_on_with_transfer(&mut self) {
        let last = self.log.last_index();
        if let Some(transfer) = self.transfer.as_mut().filter(|t| !t.asked)
            && self.progress.get(&transfer.to).is_some_and(|p| p.matched == last)
        {
            transfer.asked = true;
            let to = transfer.to;
            self.send(to, Body::TimeoutNow);
        }
    }

    pub(super) fn end_late_transfer(&mut self) {
        if self.transfer.as_ref().is_some_and(|t| self.now >= t.deadline) {
            self.transfer = None;
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: u64) {
        if self.leader == Some(from) && self.role == Role::Follower && self.promotable() {
            self.probing = Some(Cause::Transfer);
            self.out.push(Command::Probe);
        }
    }
}
