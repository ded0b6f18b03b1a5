//! What stands for the driver: it carries out the core's commands, with the planted bug if there is one.

use septet_coordinator::raft::{Body, Command, Entry, EntryId, HardState, Message, Payload, Role, SnapshotVerdict};

use crate::{
    bugs::Bug,
    disk::{Job, Snapshot},
    facts::Fact,
    server::{Reader, digest},
    world::{Event, World},
};

/// Applied entries after which a server makes a snapshot.
const SNAPSHOT_ENTRIES: u64 = 40;
/// Entries that are kept behind it.
const KEPT_ENTRIES: u64 = 10;

impl World {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Carries out what the core of a server wants, until it wants no more.
    pub fn drain(&mut self, id: u64) {
        while self.violation.is_none() {
            let Some(raft) = self.servers.get_mut(&id).and_then(|s| s.raft.as_mut()) else { return };
            let commands = raft.take();
            if commands.is_empty() {
                break;
            }
            for command in commands {
                self.command(id, command);
            }
        }
        let Some(s) = self.servers.get_mut(&id) else { return };
        let Some(status) = s.raft.as_ref().map(|r| r.status()) else { return };
        if status.role == Role::Leader && s.led != status.term {
            s.led = status.term;
            self.trace.mix(status.term);
            let now = self.now;
            self.trace.line(now, || format!("{id} leads term {}", status.term));
            self.tell(&Fact::Led { server: id, term: status.term });
        }
    }

    fn command(&mut self, id: u64, command: Command) {
        let now = self.now;
        self.trace.line(now, || format!("{id}: {command:?}"));
        let Some(s) = self.servers.get_mut(&id) else { return };
        let life = s.life;
        match command {
            Command::Write { number, hard, truncate, entries } => self.write(id, number, hard, truncate, entries),
            Command::Send { to, message } => self.send(id, to, message),
            Command::SendEntries { to, term, prev, last, commit, round } => {
                let message = Message { term, body: Body::Append { prev, commit, round, entries: Vec::new() } };
                // Old entries are read from the disk, which takes time.
                if self.rng.per_mille(100) {
                    let delay = if s.disk.slow { self.rng.range(20, 2000) } else { self.rng.range(1, 40) };
                    self.after(delay, Event::Fill { server: id, life, to, message, last });
                } else {
                    self.fill(id, life, to, message, last);
                }
            }
            Command::SendSnapshot { to, term } => self.send_snapshot(id, to, term),
            Command::Install { .. } => {
                if let Some(snapshot) = s.incoming.clone() {
                    let last = snapshot.last;
                    self.job(id, Job::Snapshot(snapshot));
                    self.job(id, Job::Reset(last));
                }
            }
            Command::Apply { upto } => {
                let delay = self.rng.range(0, 6);
                self.after(delay, Event::Apply { server: id, life, upto });
            }
            Command::Read { token, index } => {
                match index {
                    Some(index) => s.waiting.push((index, token)),
                    None => drop(s.readers.remove(&token)),
                }
                self.answer_reads(id);
            }
            Command::Probe => {
                let delay = self.rng.range(1, 5);
                self.after(delay, Event::Probed { server: id, life });
            }
        }
    }

    fn write(&mut self, id: u64, number: u64, hard: Option<HardState>, truncate: Option<u64>, entries: Vec<Entry>) {
        if let Some(from) = truncate {
            self.tell(&Fact::Truncated { server: id, from });
        }
        let Some(s) = self.servers.get_mut(&id) else { return };
        if let Some(from) = truncate {
            s.log.truncate(from.saturating_sub(s.base.index + 1) as usize);
        }
        let mut prev = s.last();
        s.log.extend(entries.iter().cloned());
        for entry in &entries {
            self.trace.mix(entry.id.index << 20 | entry.id.term << 4 | id);
            self.tell(&Fact::Appended { server: id, prev, entry });
            prev = entry.id;
        }
        self.job(id, Job::Write { number, hard, truncate, entries });
        if self.has(Bug::ReportedBeforeSync)
            && let Some(raft) = self.servers.get_mut(&id).and_then(|s| s.raft.as_mut())
        {
            raft.persisted(number);
        }
    }

    /// Sends a message, as a bug may have it.
    fn send(&mut self, id: u64, to: u64, mut message: Message) {
        let Some(s) = self.servers.get(&id) else { return };
        match &mut message.body {
            Body::AppendAck { matched, .. } if self.has(Bug::AcknowledgedBeforeSync) => {
                *matched = (*matched).max(s.raft.as_ref().map_or(0, |r| r.status().commit)).max(s.last().index.min(*matched + 3));
            }
            Body::AppendAck { matched, .. } if self.has(Bug::AcknowledgedUnverified) => {
                *matched = s.raft.as_ref().map_or(0, |r| r.status().durable);
            }
            Body::Append { prev, commit, entries, .. } if self.has(Bug::CommitIsLast) => {
                *commit = entries.last().map_or(prev.index, |e| e.id.index);
            }
            Body::Vote { last, .. } if self.has(Bug::LogsNotCompared) => last.term += 1000,
            Body::PreVote { last } if self.has(Bug::LogsNotCompared) => last.term += 1000,
            _ => {}
        }
        self.tell(&Fact::Sent { server: id, to, message: &message });
        for at in self.network.deliver(id, to, self.now, &mut self.rng) {
            self.at(at, Event::Deliver { from: id, to, message: message.clone() });
        }
    }

    /// Puts the entries into a message, unless they are no longer those that were meant.
    pub fn fill(&mut self, id: u64, life: u64, to: u64, mut message: Message, last: EntryId) {
        let unchecked = self.has(Bug::EntriesOfAnotherLog);
        let Some(s) = self.alive(id, life) else { return };
        if let Body::Append { prev, entries, .. } = &mut message.body {
            for index in prev.index + 1..=last.index {
                match s.entry(index) {
                    Some(entry) => entries.push(entry.clone()),
                    None => return,
                }
            }
            if !unchecked && entries.last().is_some_and(|e| e.id != last) {
                return;
            }
        }
        self.send(id, to, message);
    }

    pub fn deliver(&mut self, from: u64, to: u64, mut message: Message) {
        let now = self.now;
        let bug = self.bug;
        let Some(s) = self.servers.get_mut(&to).filter(|s| s.raft.is_some()) else { return };
        let status = s.raft.as_ref().map(|r| r.status());
        let Some(status) = status else { return };
        match (&mut message.body, bug) {
            (Body::Append { .. }, Some(Bug::StaleTermAccepted)) if status.role == Role::Follower => {
                message.term = message.term.max(status.term);
            }
            (Body::Append { prev, .. }, Some(Bug::PreviousNotCompared)) => {
                if let Some(entry) = s.entry(prev.index) {
                    *prev = entry.id;
                }
            }
            (Body::PreVoteAnswer { granted: true }, Some(Bug::PreVoteTakenForVote)) if status.role == Role::Candidate => {
                message = Message { term: status.term, body: Body::VoteAnswer { granted: true } };
            }
            (Body::VoteAnswer { granted }, Some(Bug::RefusalTakenForVote)) => *granted = true,
            _ => {}
        }
        self.trace.line(now, || format!("{from} -> {to}: {message:?}"));
        self.trace.mix(from << 8 | to);
        if let Some(raft) = self.servers.get_mut(&to).and_then(|s| s.raft.as_mut()) {
            raft.receive(from, message);
        }
        self.drain(to);
    }

    fn send_snapshot(&mut self, id: u64, to: u64, term: u64) {
        let named_too_high = self.has(Bug::SnapshotNamedTooHigh);
        let Some(s) = self.servers.get(&id) else { return };
        let life = s.life;
        let mut snapshot = s.snapshot();
        let commit = s.raft.as_ref().and_then(|r| r.log().id(r.status().commit));
        if named_too_high && let Some(commit) = commit {
            snapshot.last = snapshot.last.max(commit);
        }
        let delay = self.rng.range(5, 150);
        let arrivals = self.network.deliver(id, to, self.now + delay, &mut self.rng);
        if arrivals.is_empty() {
            self.after(1000, Event::SnapshotSent { server: id, life, to, index: None });
        }
        for at in arrivals {
            self.at(at, Event::Snapshot { from: id, to, term, snapshot: snapshot.clone(), life });
        }
    }

    pub fn deliver_snapshot(&mut self, from: u64, to: u64, term: u64, snapshot: Snapshot, life: u64) {
        let stale_is_taken = self.has(Bug::StaleSnapshotAccepted);
        let last = snapshot.last;
        let mut taken = None;
        if let Some(s) = self.servers.get_mut(&to)
            && let Some(raft) = &mut s.raft
        {
            let own = raft.status();
            let term = if stale_is_taken && own.role == Role::Follower { term.max(own.term) } else { term };
            let verdict = raft.offer_snapshot(from, term, last);
            if verdict == SnapshotVerdict::Install {
                s.incoming = Some(snapshot);
            }
            if !matches!(verdict, SnapshotVerdict::Stale(_)) {
                taken = Some(last.index);
            }
            let now = self.now;
            self.trace.line(now, || format!("{from} -> {to}: snapshot up to {last}: {verdict:?}"));
            self.drain(to);
        }
        let delay = self.rng.range(1, 20);
        self.after(delay, Event::SnapshotSent { server: from, life, to, index: taken });
    }

    pub fn disk_done(&mut self, id: u64, life: u64) {
        let bug = self.bug;
        let Some(s) = self.alive(id, life) else { return };
        match s.disk.done(bug) {
            Some(Job::Write { number, .. }) => {
                if let Some(raft) = &mut s.raft {
                    raft.persisted(number);
                }
            }
            Some(Job::Reset(_)) => self.installed(id),
            Some(Job::Snapshot(snapshot)) if s.snapshotting => {
                s.snapshotting = false;
                if bug != Some(Bug::PurgedBeforeSnapshot) {
                    self.purge(id, snapshot.last.index);
                }
            }
            _ => {}
        }
        self.drain(id);
        let Some(s) = self.servers.get(&id) else { return };
        if bug == Some(Bug::UncommittedApplied)
            && let Some(durable) = s.raft.as_ref().map(|r| r.status().durable)
        {
            self.apply(id, life, durable);
        }
    }

    fn installed(&mut self, id: u64) {
        let bug = self.bug;
        let Some(s) = self.servers.get_mut(&id) else { return };
        let Some(snapshot) = s.incoming.take() else { return };
        s.base = snapshot.last;
        s.log.clear();
        s.applied = snapshot.last;
        if bug != Some(Bug::SnapshotStateLost) {
            s.digest = snapshot.digest;
        }
        let before = std::mem::replace(&mut s.membership, snapshot.membership.clone());
        let lost = bug == Some(Bug::SnapshotMembershipLost) && !before.voters.is_empty();
        let membership = if lost { before } else { snapshot.membership };
        let digest = s.digest;
        if let Some(raft) = &mut s.raft {
            raft.installed(membership);
        }
        self.tell(&Fact::Installed { server: id, last: snapshot.last, digest });
        self.answer_reads(id);
    }

    pub fn apply(&mut self, id: u64, life: u64, upto: u64) {
        let by_index = self.has(Bug::AcknowledgedByIndex);
        while let Some(s) = self.alive(id, life).filter(|s| s.applied.index < upto) {
            let Some(entry) = s.entry(s.applied.index + 1).cloned() else { break };
            s.applied = entry.id;
            s.digest = digest(s.digest, &entry);
            if let Payload::Membership(m) = &entry.payload {
                s.membership = m.clone();
            }
            let digest = s.digest;
            let mut value = s.proposals.remove(&entry.id).map(|v| (entry.id, v));
            if by_index && value.is_none() {
                let other = s.proposals.keys().find(|k| k.index == entry.id.index).copied();
                value = other.and_then(|k| s.proposals.remove(&k).map(|v| (k, v)));
            }
            self.ledger.committed.entry(entry.id.index).or_insert((entry.id, digest));
            self.tell(&Fact::Applied { server: id, id: entry.id, digest });
            if let Some((named, value)) = value {
                self.acknowledge(named, value);
            }
        }
        self.answer_reads(id);
        self.snapshot_if_due(id, life);
    }

    pub fn acknowledge(&mut self, id: EntryId, value: u64) {
        self.ledger.known = self.ledger.known.max(id.index);
        self.ledger.acknowledged.insert(value, id);
        self.tell(&Fact::Acknowledged { id, value });
    }

    fn snapshot_if_due(&mut self, id: u64, life: u64) {
        let early = self.has(Bug::PurgedBeforeSnapshot);
        let Some(s) = self.alive(id, life) else { return };
        let due = s.applied.index > s.disk.durable.covered().max(s.base.index) + SNAPSHOT_ENTRIES;
        if !due || s.snapshotting || s.incoming.is_some() {
            return;
        }
        s.snapshotting = true;
        let snapshot = s.snapshot();
        let index = snapshot.last.index;
        if early {
            self.purge(id, index);
        }
        self.job(id, Job::Snapshot(snapshot));
    }

    /// Purges the log that a snapshot covers, but for the last entries.
    fn purge(&mut self, id: u64, covered: u64) {
        let Some(s) = self.servers.get_mut(&id) else { return };
        let Some(base) = covered.checked_sub(KEPT_ENTRIES).and_then(|upto| s.entry(upto)).map(|e| e.id) else { return };
        s.log.drain(..(base.index - s.base.index) as usize);
        s.base = base;
        if let Some(raft) = &mut s.raft {
            raft.compact(base.index);
        }
        self.job(id, Job::Purge(base));
    }

    /// Answers the reads whose state is there.
    pub fn answer_reads(&mut self, id: u64) {
        let at_once = self.has(Bug::ReadBeforeApplied);
        let Some(s) = self.servers.get_mut(&id) else { return };
        let applied = s.applied.index;
        let ready: Vec<(u64, u64)> = s.waiting.extract_if(.., |(index, _)| at_once || *index <= applied).collect();
        for (index, token) in ready {
            let Some(reader) = self.servers.get_mut(&id).and_then(|s| s.readers.remove(&token)) else { continue };
            match reader {
                Reader::Client { floor } => {
                    self.tell(&Fact::Read { server: id, floor, index: applied });
                    self.ledger.known = self.ledger.known.max(applied);
                    self.ledger.reads += 1;
                }
                Reader::Joiner { server, life } => {
                    if let Some(joiner) = self.alive(server, life) {
                        joiner.catch_up = Some(index);
                    }
                }
            }
        }
    }
}
