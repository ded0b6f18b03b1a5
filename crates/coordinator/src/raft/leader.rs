//! What a leader does: entries to the others, what is committed, changes of the membership.

use super::{
    Change, ChangeError, Command, Data, Entry, EntryId, Payload, ProposeError, Raft, Role,
    progress::{Flow, Progress},
};

impl Raft {
    pub(super) fn lead(&mut self) {
        self.role = Role::Leader;
        self.leader = Some(self.me);
        self.electing = None;
        self.votes.clear();
        self.round = 0;
        self.next_heartbeat = self.now + self.settings.heartbeat_ticks;
        self.follow_membership();
        self.append(Payload::Blank);
    }

    /// Appends an entry here, and sends it.
    fn append(&mut self, payload: Payload) -> EntryId {
        let id = EntryId { term: self.hard.term, leader: self.me, index: self.log.last_index() + 1 };
        self.write(false, None, vec![Entry { id, payload }]);
        self.send_to_all();
        id
    }

    fn may_append(&self) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader);
        }
        if self.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        // What others have and this disk has not yet waits here, too.
        let uncommitted = self.log.bytes(self.commit.min(self.log.durable()), self.log.last_index());
        if uncommitted > self.settings.max_uncommitted_bytes as u64 { Err(ProposeError::Busy) } else { Ok(()) }
    }

    /// Appends commands; they are committed once the log is, up to this entry.
    pub fn propose(&mut self, data: Data) -> Result<EntryId, ProposeError> {
        self.may_append()?;
        Ok(self.append(Payload::Commands(data)))
    }

    /// Changes the membership by one server.
    pub fn change(&mut self, change: &Change) -> Result<EntryId, ChangeError> {
        self.may_append()?;
        if !self.committed_in_own_term() || self.log.membership_index() > self.commit {
            return Err(ChangeError::Pending);
        }
        match change {
            Change::Remove(id) | Change::Demote(id) if *id == self.me => return Err(ChangeError::Leads(*id)),
            Change::Promote(id) => {
                let missing = |p: &Progress| self.log.bytes(p.matched, self.log.last_index());
                let recent = self.settings.heartbeat_ticks * 4;
                let up = |p: &Progress| p.answered && p.voting && self.now - p.heard <= recent;
                let near = |p: &Progress| up(p) && p.flow == Flow::Stream && missing(p) <= self.settings.max_message_bytes as u64;
                if self.progress.get(id).is_some_and(|p| !near(p)) {
                    return Err(ChangeError::Behind(*id));
                }
            }
            _ => {}
        }
        let Some(now) = self.log.membership() else { return Err(ChangeError::Pending) };
        let next = now.with(change)?;
        if let Change::Remove(id) | Change::Demote(id) = change
            && now.voters.contains(id)
        {
            let recent = self.settings.election_ticks;
            let up =
                |v: &&u64| **v == self.me || self.progress.get(*v).is_some_and(|p| p.answered && p.voting && self.now - p.heard <= recent);
            if next.voters.iter().filter(up).count() < next.quorum() {
                return Err(ChangeError::Unsafe(*id));
            }
        }
        let id = self.append(Payload::Membership(next));
        self.follow_membership();
        self.send_to_all();
        self.advance_commit();
        Ok(id)
    }

    /// Keeps track of those that belong to the ensemble now.
    fn follow_membership(&mut self) {
        let Some(membership) = self.log.membership() else { return };
        let next = self.log.last_index() + 1;
        self.progress.retain(|id, _| membership.contains(*id));
        for id in membership.voters.iter().chain(&membership.learners).filter(|id| **id != self.me) {
            self.progress.entry(*id).or_insert_with(|| Progress::new(next, self.now));
        }
    }

    /// Whether what is committed on this leader is known to be all that is.
    pub(super) fn committed_in_own_term(&self) -> bool {
        self.log.id(self.commit).is_some_and(|id| id.origin() == (self.hard.term, self.me))
    }

    pub(super) fn tick_leader(&mut self) {
        if self.quorum_silence() > self.settings.election_ticks {
            self.step_down();
            return self.set_deadline();
        }
        self.end_late_transfer();
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = self.now + self.settings.heartbeat_ticks;
            self.progress.values_mut().for_each(|p| {
                if p.flow == (Flow::Probe { waiting: true }) {
                    p.flow = Flow::Probe { waiting: false };
                }
            });
            for id in self.ids() {
                if !self.send_entries(id) {
                    self.send_sign_of_life(id);
                }
            }
        }
    }

    /// Ticks since a majority was heard.
    pub(super) fn quorum_silence(&self) -> u64 {
        let silence = |id| match self.progress.get(&id) {
            Some(p) if p.voting => self.now - p.heard,
            _ if id == self.me => 0,
            _ => u64::MAX,
        };
        let mut all: Vec<u64> = self.voters().map(silence).collect();
        all.sort_unstable();
        all.get(self.quorum() - 1).copied().unwrap_or(u64::MAX)
    }

    fn ids(&self) -> Vec<u64> {
        self.progress.keys().copied().collect()
    }

    fn send_to_all(&mut self) {
        for id in self.ids() {
            self.send_entries(id);
        }
    }

    /// Begins a round at those that answer. Others learn of it by the next heartbeat: for one that stands still there
    /// must not be more and more to work off.
    pub(super) fn send_round(&mut self) {
        for id in self.ids() {
            if self.answers(id) && !self.send_entries(id) {
                self.send_sign_of_life(id);
            }
        }
    }

    /// Whether a server was heard lately.
    fn answers(&self, id: u64) -> bool {
        self.progress.get(&id).is_some_and(|p| self.now - p.heard <= 2 * self.settings.heartbeat_ticks)
    }

    /// Whether a snapshot would find somebody there: to read it for one that is away costs as much.
    fn takes_snapshots(&self, id: u64) -> bool {
        self.answers(id) && self.progress.get(&id).is_some_and(|p| p.answered)
    }

    fn send_sign_of_life(&mut self, id: u64) {
        let is_there = self.takes_snapshots(id);
        let Some(p) = self.progress.get_mut(&id) else { return };
        if p.flow != Flow::Snapshot && self.log.id(p.next - 1).is_none() && is_there {
            // What was not answered is no longer in the log, so an answer could not say where to go on.
            p.switch(Flow::Snapshot);
            self.out.push(Command::SendSnapshot { to: id, term: self.hard.term });
        }
        // Only where entries stream are those before the next known to be on their way.
        let prev = match p.flow {
            Flow::Stream => self.log.id(p.next - 1).unwrap_or_default(),
            Flow::Probe { waiting: false } if p.next > self.log.last_index() => {
                p.flow = Flow::Probe { waiting: true };
                self.log.id(p.next - 1).unwrap_or_default()
            }
            _ => EntryId::default(),
        };
        self.send_append(id, prev, prev);
    }

    fn send_append(&mut self, to: u64, prev: EntryId, last: EntryId) {
        self.out.push(Command::SendEntries { to, term: self.hard.term, prev, last, commit: self.commit, round: self.round });
    }

    /// Sends what may be sent; says whether anything was.
    fn send_entries(&mut self, id: u64) -> bool {
        let (mut sent, is_there) = (false, self.takes_snapshots(id));
        loop {
            let Some(p) = self.progress.get_mut(&id) else { return sent };
            let may = match p.flow {
                Flow::Probe { waiting } => !waiting,
                Flow::Stream => p.room(self.settings.max_inflight_bytes),
                Flow::Snapshot => false,
            };
            if !may || p.next > self.log.last_index() {
                return sent;
            }
            let Some(prev) = self.log.id(p.next - 1) else {
                if is_there {
                    p.switch(Flow::Snapshot);
                    self.out.push(Command::SendSnapshot { to: id, term: self.hard.term });
                }
                return sent;
            };
            let upto = self.log.fitting(prev.index, self.settings.max_message_bytes);
            let Some(last) = self.log.id(upto) else { return sent };
            match p.flow {
                Flow::Stream => p.sent(upto, self.log.bytes(prev.index, upto)),
                _ => p.flow = Flow::Probe { waiting: true },
            }
            self.send_append(id, prev, last);
            sent = true;
        }
    }

    /// The other server, after its answer.
    fn heard(&mut self, from: u64, round: u64, voting: bool) -> Option<&mut Progress> {
        if self.role != Role::Leader {
            return None;
        }
        let now = self.now;
        let p = self.progress.get_mut(&from)?;
        p.heard = now;
        p.answered = true;
        p.voting = voting;
        p.round = p.round.max(round);
        Some(p)
    }

    pub(super) fn on_ack(&mut self, from: u64, matched: u64, round: u64, voting: bool) {
        let (last, base) = (self.log.last_index(), self.log.base().index);
        if matched > last || round > self.round {
            return;
        }
        let Some(p) = self.heard(from, round, voting) else { return };
        let next = p.next;
        p.matches(matched);
        match p.flow {
            Flow::Probe { .. } if matched + 1 >= next => p.switch(Flow::Stream),
            Flow::Snapshot if matched >= base && matched > 0 => {
                p.next = matched + 1;
                p.switch(Flow::Stream);
            }
            _ => {}
        }
        self.advance_commit();
        self.end_round();
        self.send_entries(from);
        self.go_on_with_transfer();
    }

    pub(super) fn on_refused(&mut self, from: u64, at: u64, hint: EntryId, round: u64, voting: bool) {
        let agree = self.log.last_not_after(hint.index, hint.origin()).index.min(hint.index);
        if round > self.round {
            return;
        }
        let Some(p) = self.heard(from, round, voting) else { return };
        match p.flow {
            Flow::Stream if at > p.matched => p.probe((agree + 1).min(at)),
            // What it had acknowledged is gone: its directory is an older one.
            Flow::Probe { .. } if at + 1 == p.next && at <= p.matched => {
                p.matched = 0;
                p.probe((agree + 1).min(at));
            }
            Flow::Probe { .. } if at + 1 == p.next => p.probe((agree + 1).min(at)),
            _ => {}
        }
        self.end_round();
        self.send_entries(from);
    }

    pub(super) fn on_blank(&mut self, from: u64) {
        let term = self.hard.term;
        let Some(p) = self.heard(from, 0, false) else { return };
        if p.flow != Flow::Snapshot {
            p.matched = 0;
            p.switch(Flow::Snapshot);
            self.out.push(Command::SendSnapshot { to: from, term });
        }
    }

    /// A snapshot up to this index arrived at a server, or none did.
    pub fn snapshot_sent(&mut self, to: u64, index: Option<u64>) {
        let Some(p) = self.progress.get_mut(&to).filter(|p| p.flow == Flow::Snapshot) else { return };
        match index {
            Some(index) => p.probe(index + 1),
            None => {
                p.probe(p.matched + 1);
                // Again with the next heartbeat.
                p.flow = Flow::Probe { waiting: true };
            }
        }
        self.send_entries(to);
    }

    pub(super) fn advance_commit(&mut self) {
        let matched = |id| match self.progress.get(&id) {
            Some(p) if p.voting => p.matched,
            _ if id == self.me => self.log.durable(),
            _ => 0,
        };
        let mut all: Vec<u64> = self.voters().map(matched).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let Some(index) = all.get(self.quorum() - 1).copied() else { return };
        let own = self.log.id(index).is_some_and(|id| id.origin() == (self.hard.term, self.me));
        if index <= self.commit || !own {
            return;
        }
        self.commit = index;
        for id in self.ids() {
            if self.answers(id) && self.progress.get(&id).is_some_and(|p| p.flow == Flow::Stream) {
                self.send_sign_of_life(id);
            }
        }
        self.apply();
        self.begin_round();
        self.leave_if_removed();
    }

    /// A leader whose own removal is committed has done its part.
    fn leave_if_removed(&mut self) {
        if self.voters().any(|id| id == self.me) || self.log.membership_index() > self.commit {
            return;
        }
        let heir = self.voters().max_by_key(|id| self.progress.get(id).map_or(0, |p| p.matched));
        if let Some(heir) = heir {
            self.send(heir, super::Body::TimeoutNow);
        }
        self.step_down();
        self.set_deadline();
    }
}
