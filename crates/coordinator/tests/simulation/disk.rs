//! A server's disk: jobs are done in order, after a time; a crash keeps only some of those that were not done.

use std::collections::VecDeque;

use septet_coordinator::raft::{Entry, EntryId, HardState, Membership};

use crate::{bugs::Bug, rng::Rng};

/// The replicated state, and what it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub last: EntryId,
    pub membership: Membership,
    /// a hash over all that was applied
    pub digest: u64,
}

/// What survives.
#[derive(Debug, Clone, Default)]
pub struct Durable {
    pub hard: HardState,
    /// the last entry that was purged
    pub base: EntryId,
    pub log: Vec<Entry>,
    pub snapshot: Option<Snapshot>,
    pub formation: Option<Membership>,
    /// the disk was blank, and the server has not caught up
    pub joining: bool,
}

impl Durable {
    /// Whether an entry is here, itself or in the snapshot.
    pub fn has(&self, id: EntryId) -> bool {
        self.covered() >= id.index || self.log.iter().any(|e| e.id == id)
    }

    /// Index that the snapshot covers.
    pub fn covered(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |s| s.last.index)
    }

    fn append(&mut self, entries: &[Entry], bug: Option<Bug>) {
        for entry in entries {
            let at = entry.id.index.checked_sub(self.base.index + 1);
            match self.log.len() {
                n if Some(n as u64) == at => self.log.push(entry.clone()),
                _ if bug.is_some() => {}
                n => panic!("entry {} behind {n} entries from {}", entry.id, self.base),
            }
        }
    }
}

/// What a disk is asked to do.
#[derive(Debug, Clone)]
pub enum Job {
    Write {
        number: u64,
        hard: Option<HardState>,
        truncate: Option<u64>,
        entries: Vec<Entry>,
    },
    Snapshot(Snapshot),
    Purge(EntryId),
    /// the log begins anew behind a snapshot
    Reset(EntryId),
    Joined,
}

/// A disk.
#[derive(Default)]
pub struct Disk {
    pub durable: Durable,
    queue: VecDeque<Job>,
    pub slow: bool,
    /// probes fail
    pub full: bool,
    /// when the last job is done
    busy_until: u64,
}

impl Disk {
    /// Takes a job; says when it is done.
    pub fn push(&mut self, job: Job, now: u64, rng: &mut Rng) -> u64 {
        self.queue.push_back(job);
        // A snapshot is large, and the removal of a log takes several steps.
        let long = matches!(self.queue.back(), Some(Job::Snapshot(_) | Job::Reset(_)));
        let takes = match (self.slow, long) {
            (true, _) => rng.range(20, 400),
            (false, true) => rng.range(5, 60),
            (false, false) => rng.range(1, 4),
        };
        self.busy_until = self.busy_until.max(now + takes);
        self.busy_until
    }

    /// The oldest job is done.
    pub fn done(&mut self, bug: Option<Bug>) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.apply(&job, bug);
        Some(job)
    }

    fn apply(&mut self, job: &Job, bug: Option<Bug>) {
        let d = &mut self.durable;
        match job {
            Job::Write { hard, truncate, entries, .. } => {
                if let Some(from) = truncate.filter(|_| bug != Some(Bug::TruncationSkipped)) {
                    d.log.truncate(from.saturating_sub(d.base.index + 1) as usize);
                }
                d.append(entries, bug);
                if let Some(hard) = hard.filter(|_| bug != Some(Bug::HardStateNotWritten)) {
                    d.hard = hard;
                }
            }
            Job::Snapshot(snapshot) => {
                if d.covered() <= snapshot.last.index {
                    d.snapshot = Some(snapshot.clone());
                }
            }
            // A reset may have gone further meanwhile.
            Job::Purge(base) if base.index <= d.base.index => {}
            Job::Purge(base) => {
                d.log.retain(|e| e.id.index > base.index);
                d.base = *base;
            }
            Job::Reset(base) => {
                d.log.clear();
                d.base = *base;
            }
            Job::Joined => d.joining = false,
        }
    }

    /// The server is killed, or loses power: of what was not done, some jobs are on the disk, in their order, and of
    /// the next perhaps a part.
    pub fn crash(&mut self, rng: &mut Rng, bug: Option<Bug>) {
        let kept = rng.range(0, self.queue.len() as u64);
        for _ in 0..kept {
            self.done(bug);
        }
        if let Some(Job::Write { truncate, mut entries, .. }) = self.queue.pop_front() {
            entries.truncate(rng.range(0, entries.len() as u64) as usize);
            let torn = Job::Write { number: 0, hard: None, truncate, entries };
            self.apply(&torn, bug);
        }
        self.queue.clear();
        self.busy_until = 0;
    }

    /// Makes the log agree with the snapshot, as a server does at its start.
    pub fn recover(&mut self, bug: Option<Bug>) {
        let d = &mut self.durable;
        let Some(last) = d.snapshot.as_ref().map(|s| s.last) else { return };
        let agrees = d.base == last || d.log.iter().any(|e| e.id == last) || d.base.index > last.index;
        if !agrees && bug != Some(Bug::InstallNotRepaired) {
            d.log.clear();
            d.base = last;
        }
    }
}
