//! What a leader's messages change on the servers that follow it.
//!
//! Invariant: nothing that is committed is cut off; an acknowledgement names only what is durable here and known to
//! agree with this leader's log.

use super::{Body, Command, Entry, EntryId, Membership, Raft, Role, SnapshotVerdict};

impl Raft {
    /// A leader of this term was heard.
    fn follow(&mut self, leader: u64) {
        if self.role != Role::Follower {
            self.step_down();
        }
        self.leader = Some(leader);
        self.electing = None;
        self.heard = Some(self.now);
        self.lease_until = self.now + self.settings.lease_ticks;
        self.set_deadline();
    }

    pub(super) fn on_append(&mut self, from: u64, mut prev: EntryId, commit: u64, round: u64, mut entries: Vec<Entry>) {
        if self.role == Role::Leader {
            return;
        }
        self.follow(from);
        self.round_seen = self.round_seen.max(round);
        if self.installing.is_some() {
            return self.acknowledge();
        }
        if self.log.is_blank() {
            return self.send(from, Body::Blank);
        }
        // What is committed agrees with every leader's log, which may no longer be here to compare.
        let known = entries.iter().take_while(|e| e.id.index <= self.commit).count();
        if prev.index < self.commit || known > 0 {
            prev = entries.drain(..known).next_back().map_or(prev, |e| e.id);
            if prev.index < self.commit {
                return self.acknowledge();
            }
        } else if !self.log.has(prev) {
            let hint = self.log.last_not_after(prev.index, prev.origin());
            return self.send(from, Body::AppendRefused { at: prev.index, hint, round: self.round_seen, voting: self.voting });
        }
        let known = entries.iter().take_while(|e| self.log.has(e.id)).count();
        let end = prev.index + entries.len() as u64;
        entries.drain(..known);
        if let Some(first) = entries.first().map(|e| e.id.index) {
            let truncate = (first <= self.log.last_index()).then_some(first);
            self.write(false, truncate, entries);
        }
        self.verified = self.verified.max(end);
        self.commit = self.commit.max(commit.min(self.verified));
        if self.log.durable() >= end || known > 0 || prev.index == end {
            self.acknowledge();
        } else {
            self.ack_due = true;
        }
        self.apply();
    }

    pub(super) fn acknowledge(&mut self) {
        let Some(leader) = self.leader else { return };
        let matched = if self.installing.is_some() { 0 } else { self.verified.max(self.commit).min(self.log.durable()) };
        self.ack_due = self.log.durable() < self.verified;
        self.send(leader, Body::AppendAck { matched, round: self.round_seen, voting: self.voting });
    }

    /// A leader sent a whole snapshot, which is in order.
    pub fn offer_snapshot(&mut self, from: u64, term: u64, last: EntryId) -> SnapshotVerdict {
        if term < self.hard.term {
            return SnapshotVerdict::Stale(self.hard.term);
        }
        if term > self.hard.term {
            self.begin_term(term);
        }
        if self.role == Role::Leader {
            return SnapshotVerdict::Stale(self.hard.term);
        }
        self.follow(from);
        if self.installing.is_some() {
            return SnapshotVerdict::Known;
        }
        if !self.log.is_blank() && (last.index <= self.commit || self.log.has(last)) {
            self.verified = self.verified.max(last.index);
            self.commit = self.commit.max(last.index);
            self.acknowledge();
            self.apply();
            return SnapshotVerdict::Known;
        }
        self.installing = Some(last);
        self.out.push(Command::Install { last });
        SnapshotVerdict::Install
    }

    /// The snapshot is durable and applied, and the log is empty behind it.
    pub fn installed(&mut self, membership: Membership) {
        let Some(last) = self.installing.take() else { return };
        self.log.reset(last, membership);
        self.commit = last.index;
        self.applied = last.index;
        self.verified = last.index;
        if self.role == Role::Follower {
            self.acknowledge();
        }
    }
}
