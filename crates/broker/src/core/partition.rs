//! Replication of one partition as its leader or a follower sees it: positions of followers, the in-sync replicas (ISR), the
//! high watermark.
//!
//! Invariant: the high watermark of a leader never passes the log end of a replica in the maximal ISR, which is the
//! committed ISR together with what a pending proposal adds; nor does it go back within a leadership. As Kafka's
//! Partition.scala and KIP-497 have it.

use std::collections::BTreeMap;

use super::read_replica::Candidate;

/// What the controller decided about a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Brokers with a replica, the preferred leader first.
    pub replicas: Vec<i32>,
    /// In-sync replicas.
    pub isr: Vec<i32>,
    /// Leader, -1 for none.
    pub leader: i32,
    /// Counts leaderships.
    pub leader_epoch: i32,
    /// Counts changes of the state; the version of its znode.
    pub partition_epoch: i32,
}

/// A follower, as its leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// Next offset that it will fetch; -1 until it has fetched in this leadership.
    pub end: i64,
    /// First offset of its log; -1 until it has fetched.
    pub start: i64,
    /// When it last had everything, in milliseconds.
    pub caught_up: i64,
    /// The leader's end and the time at its last fetch.
    last_fetch: (i64, i64),
    /// Epoch of the broker that fetched; -1 if it did not send one.
    pub broker_epoch: i64,
}

impl Follower {
    fn unknown() -> Self {
        Self { end: -1, start: -1, caught_up: i64::MIN, last_fetch: (i64::MAX, i64::MIN), broker_epoch: -1 }
    }
}

/// A change of the ISR that the leader asks the controller for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The new ISR with the broker epochs that followers fetched with; -1 is not checked.
    pub isr: Vec<(i32, i64)>,
    /// Epoch of the proposing leader.
    pub leader_epoch: i32,
    /// State that the proposal replaces.
    pub partition_epoch: i32,
}

/// The controller's answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The state as it is now.
    State {
        /// Leader.
        leader: i32,
        /// Counts leaderships.
        leader_epoch: i32,
        /// In-sync replicas.
        isr: Vec<i32>,
        /// Counts changes of the state.
        partition_epoch: i32,
    },
    /// Not applied: the proposal is dropped, and made anew if it is still wanted.
    Rejected,
    /// No answer, or one that does not say whether it was applied: the same proposal is made again. Until it is answered it counts, since
    /// the controller may have written it, and may elect one that it added.
    Retry,
    /// The proposal is outdated: the controller has, or will have, another state for this broker.
    Outdated,
}

/// What an input leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// The high watermark has moved: waiting produce and fetch requests may go on.
    pub high_watermark_moved: bool,
    /// A proposal for the controller.
    pub propose: Option<Proposal>,
}

/// Replication state.
#[derive(Debug)]
pub struct Replication {
    me: i32,
    assignment: Assignment,
    /// `None` while this broker follows.
    leadership: Option<Leadership>,
    /// This broker has been told to follow, and not to stop.
    follows: bool,
    high_watermark: i64,
    end: i64,
}

#[derive(Debug)]
struct Leadership {
    /// Log end when the leadership began: a follower below has not got everything of earlier leaders.
    epoch_start: i64,
    followers: BTreeMap<i32, Follower>,
    pending: Option<Proposal>,
    /// the pending proposal was refused as outdated: the next decision ends it
    outdated: bool,
}

/// Limits that an input is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Lag {
    /// `replica.lag.time.max.ms`
    pub max_ms: i64,
}

impl Replication {
    /// A replica whose log ends at `end`, with the high watermark of its checkpoint.
    pub fn new(me: i32, high_watermark: i64, end: i64) -> Self {
        Self {
            me,
            assignment: Assignment { leader: -1, leader_epoch: -1, partition_epoch: -1, ..Assignment::default() },
            leadership: None,
            follows: false,
            high_watermark: high_watermark.clamp(0, end),
            end,
        }
    }

    /// What the controller decided last.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Whether this broker leads.
    pub fn leads(&self) -> bool {
        self.leadership.is_some()
    }

    /// Whether this broker follows, so that consumers may read here what is committed.
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// In-sync followers that have an offset: where a consumer could read instead of here. As ReplicaManager.findPreferredReadReplica.
    pub fn read_replicas(&self, offset: i64, now: i64) -> Vec<Candidate> {
        let followers = self.leadership.iter().flat_map(|l| &l.followers);
        let able = followers.filter(|(id, f)| self.assignment.isr.contains(id) && f.end >= offset && (0..=offset).contains(&f.start));
        able.map(|(id, f)| Candidate { id: *id, end: f.end, behind_ms: now.saturating_sub(f.caught_up) }).collect()
    }

    /// The lowest first offset of this leader's log, which begins at `start`, and of its living followers; -1 while one has not fetched.
    pub fn low_watermark(&self, start: i64, alive: impl Fn(i32) -> bool) -> i64 {
        let followers = self.leadership.iter().flat_map(|l| &l.followers).filter(|(id, _)| alive(**id));
        followers.map(|(_, f)| f.start).min().map_or(start, |lowest| lowest.min(start))
    }

    /// First offset that is not committed.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Log end at the begin of this leadership.
    pub fn epoch_start(&self) -> Option<i64> {
        self.leadership.as_ref().map(|l| l.epoch_start)
    }

    /// A follower's position.
    pub fn follower(&self, id: i32) -> Option<&Follower> {
        self.leadership.as_ref()?.followers.get(&id)
    }

    /// The proposal that waits for an answer.
    pub fn pending(&self) -> Option<&Proposal> {
        self.leadership.as_ref()?.pending.as_ref()
    }

    /// Takes the lead, or goes on leading under a new epoch. In the leadership that goes on, an older state changes nothing, the
    /// same state nothing but the replicas: a pending proposal may yet be applied, so it counts until there is a newer state.
    pub fn become_leader(&mut self, assignment: Assignment, end: i64, now: i64) -> Effects {
        let again = self.leads() && self.assignment.leader_epoch == assignment.leader_epoch;
        if again && assignment.partition_epoch < self.assignment.partition_epoch {
            // Sent before an answer to a proposal that has been here already.
            return Effects::default();
        }
        self.end = end;
        self.high_watermark = self.high_watermark.min(end);
        let others = assignment.replicas.iter().copied().filter(|r| *r != self.me);
        if again {
            // A decision that the pending proposal was made on does not answer it.
            let newer = assignment.partition_epoch > self.assignment.partition_epoch;
            if let Some(l) = &mut self.leadership {
                let keep: Vec<i32> = others.collect();
                l.followers.retain(|id, _| keep.contains(id));
                for id in keep {
                    l.followers.entry(id).or_insert_with(Follower::unknown);
                }
                if newer || l.outdated {
                    (l.pending, l.outdated) = (None, false);
                }
            }
        } else {
            // A member of the ISR gets the full lag time before it may be removed.
            let known = |id: i32| {
                let caught_up = if assignment.isr.contains(&id) { now } else { i64::MIN };
                (id, Follower { caught_up, ..Follower::unknown() })
            };
            self.leadership = Some(Leadership { epoch_start: end, followers: others.map(known).collect(), pending: None, outdated: false });
        }
        self.assignment = assignment;
        self.follows = false;
        Effects { high_watermark_moved: self.advance(now, Lag { max_ms: 0 }), propose: None }
    }

    /// Follows from now on. A state that is older than the one of the same leader epoch changes nothing.
    pub fn become_follower(&mut self, assignment: Assignment) {
        let known = &self.assignment;
        if assignment.leader_epoch == known.leader_epoch && assignment.partition_epoch < known.partition_epoch {
            return;
        }
        self.leadership = None;
        self.follows = true;
        self.assignment = assignment;
    }

    /// Stops leading or following without another decision of the controller, as for a stop of the broker.
    pub fn resign(&mut self) {
        self.leadership = None;
        self.follows = false;
    }

    /// The log has grown as the leader's.
    pub fn appended(&mut self, end: i64, now: i64, lag: Lag) -> Effects {
        if let Some(l) = &mut self.leadership {
            // A follower that had everything until now has lagged for no time, also if its last fetch was long ago: with nothing new,
            // it is not heard of.
            l.followers.values_mut().filter(|f| f.end >= self.end).for_each(|f| f.caught_up = f.caught_up.max(now));
        }
        self.end = end;
        Effects { high_watermark_moved: self.advance(now, lag), propose: None }
    }

    /// A follower fetched from an offset, when the leader's log ended at the end that is known here. `eligible` says whether
    /// that broker may join the ISR: alive, not stopping.
    #[allow(clippy::too_many_arguments)]
    pub fn follower_fetched(&mut self, id: i32, broker_epoch: i64, offset: i64, start: i64, now: i64, lag: Lag, eligible: bool) -> Effects {
        let end = self.end;
        let Some(l) = &mut self.leadership else {
            return Effects::default();
        };
        let Some(f) = l.followers.get_mut(&id) else {
            return Effects::default();
        };
        if broker_epoch >= 0 && broker_epoch < f.broker_epoch {
            // A request of an earlier life of that broker.
            return Effects::default();
        }
        if offset >= end {
            f.caught_up = f.caught_up.max(now);
        } else if offset >= f.last_fetch.0 {
            // It has all that there was at its last fetch.
            f.caught_up = f.caught_up.max(f.last_fetch.1);
        }
        f.last_fetch = (end, now);
        f.end = offset;
        f.start = start;
        f.broker_epoch = broker_epoch;
        let mut effects = Effects { propose: self.expand(id, eligible), high_watermark_moved: false };
        effects.high_watermark_moved = self.advance(now, lag);
        effects
    }

    /// Proposes to add a follower that has everything.
    fn expand(&mut self, id: i32, eligible: bool) -> Option<Proposal> {
        let (high_watermark, isr) = (self.high_watermark, self.assignment.isr.clone());
        let l = self.leadership.as_mut()?;
        let f = l.followers.get(&id)?;
        if !eligible || l.pending.is_some() || isr.contains(&id) || f.end < high_watermark.max(l.epoch_start) {
            return None;
        }
        let mut wanted = isr;
        wanted.push(id);
        Some(self.propose(wanted))
    }

    fn propose(&mut self, mut isr: Vec<i32>) -> Proposal {
        let a = &self.assignment;
        // In the order of the replicas, as Kafka has it.
        isr.sort_by_key(|id| a.replicas.iter().position(|r| r == id));
        let epoch = |id: i32| self.leadership.as_ref().and_then(|l| l.followers.get(&id)).map_or(-1, |f| f.broker_epoch);
        let proposal = Proposal {
            isr: isr.into_iter().map(|id| (id, epoch(id))).collect(),
            leader_epoch: a.leader_epoch,
            partition_epoch: a.partition_epoch,
        };
        if let Some(l) = &mut self.leadership {
            (l.pending, l.outdated) = (Some(proposal.clone()), false);
        }
        proposal
    }

    /// Time has passed: proposes to remove followers that lag.
    pub fn tick(&mut self, now: i64, lag: Lag) -> Effects {
        let mut effects = Effects { high_watermark_moved: self.advance(now, lag), propose: None };
        let (end, me) = (self.end, self.me);
        let Some(l) = &self.leadership else {
            return effects;
        };
        if l.pending.is_some() {
            return effects;
        }
        let lags = |id: i32| match l.followers.get(&id) {
            Some(f) => f.end < end && now.saturating_sub(f.caught_up) > lag.max_ms,
            // Not a replica any more.
            None => id != me,
        };
        let left: Vec<i32> = self.assignment.isr.iter().copied().filter(|id| !lags(*id)).collect();
        if left.len() < self.assignment.isr.len() && left.contains(&me) {
            effects.propose = Some(self.propose(left));
        }
        effects
    }

    /// The controller has answered a proposal of a leadership.
    pub fn answered(&mut self, proposed: &Proposal, answer: Answer, now: i64, lag: Lag) -> Effects {
        let me = self.me;
        let Some(l) = &mut self.leadership else {
            return Effects::default();
        };
        let expected = l.pending.as_ref() == Some(proposed);
        match answer {
            Answer::State { leader, leader_epoch, isr, partition_epoch } => {
                let current = leader == me && leader_epoch == self.assignment.leader_epoch;
                let newer = current && partition_epoch > self.assignment.partition_epoch;
                // Of another leadership, or older than what was proposed on: what became of the proposal is not known.
                let settled = current && partition_epoch >= self.assignment.partition_epoch;
                if newer || (expected && settled) {
                    l.pending = None;
                }
                if newer {
                    self.assignment.isr = isr;
                    self.assignment.partition_epoch = partition_epoch;
                }
            }
            _ if !expected => return Effects::default(),
            Answer::Rejected => l.pending = None,
            Answer::Retry => return Effects { propose: l.pending.clone(), high_watermark_moved: false },
            // The pending ISR goes on to count for the commit until the controller's decision is here.
            Answer::Outdated => {
                l.outdated = true;
                return Effects::default();
            }
        }
        Effects { high_watermark_moved: self.advance(now, lag), propose: None }
    }

    /// Whether a replica counts for the commit: in the committed ISR, or added by the pending proposal.
    fn in_maximal_isr(&self, id: i32) -> bool {
        let pending = self.leadership.as_ref().and_then(|l| l.pending.as_ref());
        self.assignment.isr.contains(&id) || pending.is_some_and(|p| p.isr.iter().any(|(i, _)| *i == id))
    }

    /// Moves the high watermark up to what all of the maximal ISR have. A follower that is about to join is waited for.
    fn advance(&mut self, now: i64, lag: Lag) -> bool {
        let Some(l) = &self.leadership else {
            return false;
        };
        let mut lowest = self.end;
        for (id, f) in &l.followers {
            let joins = f.end >= self.high_watermark && f.end >= l.epoch_start && now.saturating_sub(f.caught_up) <= lag.max_ms;
            if self.in_maximal_isr(*id) || joins {
                lowest = lowest.min(f.end);
            }
        }
        let moved = lowest > self.high_watermark;
        self.high_watermark = self.high_watermark.max(lowest);
        moved
    }

    /// Whether fewer replicas are in sync, as far as the controller knows, than `min.insync.replicas` asks for. A partition with fewer
    /// replicas than that needs all of them, not more (`Partition.effectiveMinIsr`).
    pub fn is_under_min_isr(&self, min_insync_replicas: usize) -> bool {
        self.assignment.isr.len() < min_insync_replicas.min(self.assignment.replicas.len())
    }

    /// As a follower: the log ends at `end`, and the leader has told its high watermark.
    pub fn followed(&mut self, end: i64, leader_high_watermark: i64) -> Effects {
        self.end = end;
        let new = leader_high_watermark.min(end);
        let moved = new > self.high_watermark;
        self.high_watermark = self.high_watermark.max(new);
        Effects { high_watermark_moved: moved, propose: None }
    }

    /// As a follower: the log was cut.
    pub fn truncated(&mut self, end: i64) {
        self.end = end;
        self.high_watermark = self.high_watermark.min(end);
    }

    /// The log begins at another offset: what is below is committed, or deleted.
    pub fn start_moved(&mut self, start: i64) {
        self.high_watermark = self.high_watermark.max(start.min(self.end));
    }
}

/// Where a follower cuts its log, when its leader says that it has records which the leader does not have: the leader's
/// last epoch up to the one that was asked for, and where it ends there. As AbstractFetcherThread.getOffsetTruncationState.
///
/// `local` answers as LeaderEpochFileCache.endOffsetFor does: the last local epoch up to one and its end; for one before all
/// local epochs, that one and the start of the first, for nothing is shared then. `None` only if no epochs are known. `end` is the
/// local log end. Says too whether that settles it.
pub fn truncation(leader: (i32, i64), local: impl Fn(i32) -> Option<(i32, i64)>, end: i64, high_watermark: i64) -> (i64, bool) {
    let (leader_epoch, leader_end) = leader;
    if leader_end < 0 {
        // The leader knows no epoch as early: what is committed is kept.
        return (high_watermark, true);
    }
    if leader_epoch < 0 {
        return (leader_end.min(end), true);
    }
    match local(leader_epoch) {
        None => (leader_end.min(end), true),
        Some((epoch, _)) if epoch == leader_epoch && epoch < 0 => (leader_end.min(end), true),
        Some((epoch, local_end)) if epoch == leader_epoch => (leader_end.min(local_end).min(end), true),
        // An epoch that the leader does not have ends the common part: ask again from there.
        Some((_, local_end)) => (local_end.min(end), false),
    }
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
