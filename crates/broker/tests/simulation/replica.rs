//! A replica: its log, the core that decides, and the requests that wait for the high watermark.

use septet_broker::core::partition::{Assignment, Effects, Lag, Proposal, Replication, truncation};

use crate::{
    bugs::Bug,
    ctx::Ctx,
    facts::Fact,
    log::{Log, Record},
    message::{Body, Fetched, Refused},
};

/// `replica.lag.time.max.ms`
pub const LAG: Lag = Lag { max_ms: 300 };
/// `min.insync.replicas`
const MIN_ISR: usize = 2;
/// Milliseconds that a follower waits for an answer.
const FETCH_TIMEOUT: i64 = 150;
/// Milliseconds after which a proposal without an answer is sent again.
const ALTER_TIMEOUT: i64 = 120;
/// Records in one answer.
const BATCH: usize = 6;

struct Waiting {
    offset: i64,
    value: u32,
    client: i32,
    id: u64,
}

/// A replica.
pub struct Replica {
    me: i32,
    part: usize,
    /// What it has.
    pub log: Log,
    /// What it decides.
    pub core: Replication,
    fetch: Option<(u64, i64)>,
    proposed_at: i64,
    waiting: Vec<Waiting>,
    reported: (i32, i64),
    /// The last cut: where, and the first record that was cut.
    pub cut: Option<(i64, Record)>,
    /// What a leader was told last, for the bug of one that does not wait to be told again.
    last: Option<Assignment>,
}

impl Replica {
    /// One whose log was found when the broker began.
    pub fn start(me: i32, part: usize, log: Log, bug: Option<Bug>) -> Self {
        let high_watermark = if bug == Some(Bug::HighWatermarkRestoredTooHigh) { log.end() } else { log.checkpoint };
        let core = Replication::new(me, high_watermark, log.end());
        Self { me, part, log, core, fetch: None, proposed_at: 0, waiting: Vec::new(), reported: (-1, -1), cut: None, last: None }
    }

    /// The broker begins again with the log that is left.
    pub fn restart(&mut self, ctx: &mut Ctx) {
        let last = self.last.take();
        *self = Self::start(self.me, self.part, std::mem::take(&mut self.log), ctx.bug);
        if let Some(a) = last.filter(|a| ctx.has(Bug::LeadsAgainUntold) && a.leader == self.me) {
            self.decide(a, ctx);
        }
    }

    fn lag(ctx: &Ctx) -> Lag {
        // Without the pending ISR, the followers that are about to join are not waited for either.
        if ctx.has(Bug::PendingIsrNotCounted) { Lag { max_ms: -1 } } else { LAG }
    }

    /// The controller has decided.
    pub fn decide(&mut self, mut a: Assignment, ctx: &mut Ctx) {
        let known = self.core.assignment();
        let known_epoch = known.leader_epoch;
        if a.leader_epoch < known_epoch && !ctx.has(Bug::StaleLeaderEpochAccepted) {
            return;
        }
        self.last = Some(a.clone());
        let newer = a.leader_epoch != known_epoch;
        let leader_epoch = a.leader_epoch;
        if a.leader == self.me {
            let begins = newer || !self.core.leads();
            self.fetch = None;
            if begins {
                self.log.begin_epoch(leader_epoch);
            }
            if ctx.has(Bug::IsrMemberNotWaitedFor) && a.isr.len() > 2 {
                let me = self.me;
                let at = a.isr.iter().rposition(|r| *r != me);
                at.map(|at| a.isr.remove(at));
            }
            self.core.become_leader(a, self.log.end(), ctx.now);
            if begins {
                ctx.facts.push(Fact::Led { broker: self.me, part: self.part, leader_epoch });
            }
        } else {
            self.core.become_follower(a);
            if !ctx.has(Bug::AcknowledgedByLaterLeadership) {
                for w in self.waiting.drain(..) {
                    ctx.send(self.me, w.client, Body::Produced { id: w.id, offset: Err(Refused::NotLeader) });
                }
            }
            if newer {
                self.fetch = None;
                if ctx.has(Bug::TruncatedToHighWatermark) {
                    self.cut(self.core.high_watermark(), ctx);
                }
            }
        }
        ctx.facts.push(Fact::Decided { broker: self.me, part: self.part, leader_epoch });
        self.settle(ctx);
    }

    /// After each input: what the high watermark lets go.
    fn settle(&mut self, ctx: &mut Ctx) {
        if !self.core.leads() {
            return;
        }
        let now = (self.core.assignment().leader_epoch, self.core.high_watermark());
        if now != self.reported {
            self.reported = now;
            ctx.facts.push(Fact::Committed { broker: self.me, part: self.part, leader_epoch: now.0, to: now.1 });
        }
        let all = ctx.has(Bug::AcknowledgedOnAppend);
        let (me, part, in_sync) = (self.me, self.part, self.core.assignment().isr.len());
        let (done, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|w: &Waiting| all || w.offset < now.1);
        self.waiting = waiting;
        for w in done {
            let offset = if in_sync >= MIN_ISR || ctx.has(Bug::MinIsrIgnored) { Ok(w.offset) } else { Err(Refused::NotEnoughReplicas) };
            if offset.is_ok() {
                ctx.facts.push(Fact::Acknowledged { part, leader_epoch: now.0, offset: w.offset, value: w.value });
            }
            ctx.send(me, w.client, Body::Produced { id: w.id, offset });
        }
    }

    fn follow(&mut self, effects: Effects, broker_epoch: i64, controller: Option<i32>, ctx: &mut Ctx) {
        if let Some(p) = effects.propose {
            if ctx.has(Bug::PendingIsrNotCounted) {
                self.core.answered(&p, septet_broker::core::partition::Answer::Rejected, ctx.now, Self::lag(ctx));
            }
            if ctx.has(Bug::ShrinkBeforeConfirmed) && p.isr.len() < self.core.assignment().isr.len() {
                let isr = p.isr.iter().map(|(id, _)| *id).collect();
                let (leader_epoch, partition_epoch) = (p.leader_epoch, p.partition_epoch + 1);
                let answer = septet_broker::core::partition::Answer::State { leader: self.me, leader_epoch, isr, partition_epoch };
                self.core.answered(&p, answer, ctx.now, LAG);
            }
            self.propose(p, broker_epoch, controller, ctx);
        }
        self.settle(ctx);
    }

    fn propose(&mut self, proposal: Proposal, broker_epoch: i64, controller: Option<i32>, ctx: &mut Ctx) {
        self.proposed_at = ctx.now;
        if let Some(to) = controller {
            ctx.send(self.me, to, Body::Alter { part: self.part, proposal, broker_epoch });
        }
    }

    /// A producer's record.
    pub fn produce(&mut self, client: i32, value: u32, all: bool, id: u64, ctx: &mut Ctx) {
        let me = self.me;
        if !self.core.leads() {
            return ctx.send(me, client, Body::Produced { id, offset: Err(Refused::NotLeader) });
        }
        if all && self.core.assignment().isr.len() < MIN_ISR && !ctx.has(Bug::MinIsrIgnored) {
            return ctx.send(me, client, Body::Produced { id, offset: Err(Refused::NotEnoughReplicas) });
        }
        let (offset, epoch) = (self.log.end(), self.core.assignment().leader_epoch);
        self.log.append(Record { epoch, value });
        ctx.facts.push(Fact::Appended { broker: me, part: self.part, from: offset, to: offset + 1, leader_epoch: epoch, leads: true });
        self.core.appended(self.log.end(), ctx.now, Self::lag(ctx));
        if all {
            self.waiting.push(Waiting { offset, value, client, id });
        } else {
            ctx.send(me, client, Body::Produced { id, offset: Ok(offset) });
        }
        self.settle(ctx);
    }

    /// A follower fetches from this replica.
    #[allow(clippy::too_many_arguments)]
    pub fn serve(
        &mut self,
        from: i32,
        (leader_epoch, offset, last_epoch): (i32, i64, i32),
        (broker_epoch, eligible): (i64, bool),
        id: u64,
        (my_epoch, controller): (i64, Option<i32>),
        ctx: &mut Ctx,
    ) {
        let (me, part) = (self.me, self.part);
        let same = self.core.assignment().leader_epoch == leader_epoch;
        if !self.core.leads() || !same || !self.core.assignment().replicas.contains(&from) {
            return ctx.send(me, from, Body::FetchAnswer { part, leader_epoch, id, fetched: Fetched::Refused });
        }
        if last_epoch >= 0 && !ctx.has(Bug::FetchEpochNotCompared) {
            let (epoch, end) =
                if ctx.has(Bug::EndOfEpochIsEndOfLog) { (last_epoch, self.log.end()) } else { self.log.end_of_epoch(last_epoch) };
            if epoch < last_epoch || end < offset {
                return ctx.send(me, from, Body::FetchAnswer { part, leader_epoch, id, fetched: Fetched::Diverging(epoch, end) });
            }
        }
        let pending = self.core.pending().is_some();
        let effects = self.core.follower_fetched(from, broker_epoch, offset, 0, ctx.now, Self::lag(ctx), eligible);
        let a = self.core.assignment();
        if ctx.has(Bug::JoinsBeforeCaughtUp) && !pending && effects.propose.is_none() && eligible && !a.isr.contains(&from) {
            let known = |r: &i32| (*r, self.core.follower(*r).map_or(-1, |f| f.broker_epoch));
            let isr = a.isr.iter().chain([&from]).map(known).collect();
            let proposal = Proposal { isr, leader_epoch, partition_epoch: a.partition_epoch };
            self.propose(proposal, my_epoch, controller, ctx);
        }
        let fetched = Fetched::Records { from: offset, records: self.log.read(offset, BATCH), high_watermark: self.core.high_watermark() };
        ctx.send(me, from, Body::FetchAnswer { part, leader_epoch, id, fetched });
        self.follow(effects, my_epoch, controller, ctx);
    }

    /// Fetches, if this replica follows and no fetch is under way.
    pub fn fetch(&mut self, broker_epoch: i64, ctx: &mut Ctx) {
        let a = self.core.assignment();
        if self.core.leads() || a.leader < 0 || a.leader == self.me || self.fetch.is_some_and(|(_, deadline)| deadline > ctx.now) {
            return;
        }
        let id = ctx.id();
        self.fetch = Some((id, ctx.now + FETCH_TIMEOUT));
        let (offset, last_epoch) = (self.log.end(), self.log.last_epoch());
        let body = Body::Fetch { part: self.part, leader_epoch: a.leader_epoch, offset, last_epoch, broker_epoch, id };
        ctx.send(self.me, a.leader, body);
    }

    /// The answer to a fetch.
    pub fn fetched(&mut self, leader_epoch: i32, id: u64, fetched: Fetched, broker_epoch: i64, ctx: &mut Ctx) {
        let late = self.fetch.is_none_or(|(expected, _)| expected != id) || self.core.assignment().leader_epoch != leader_epoch;
        if self.core.leads() || late && !ctx.has(Bug::LateFetchAnswerAccepted) {
            return;
        }
        match fetched {
            // The next attempt is made with the next tick.
            Fetched::Refused => self.fetch = None,
            Fetched::Diverging(epoch, end) => {
                self.fetch = None;
                if !ctx.has(Bug::TruncationSkipped) {
                    let local = |e| (!ctx.has(Bug::LocalEpochsIgnored)).then(|| self.log.end_of_epoch(e));
                    let (to, _) = truncation((epoch, end), local, self.log.end(), self.core.high_watermark());
                    self.cut(to, ctx);
                }
                self.fetch(broker_epoch, ctx);
            }
            Fetched::Records { from, records, high_watermark } => {
                self.fetch = None;
                if !ctx.has(Bug::LateFetchAnswerAccepted) && from != self.log.end() {
                    return;
                }
                let start = self.log.end();
                let more = !records.is_empty();
                for r in records {
                    let epoch = if ctx.has(Bug::RecordEpochsRewritten) { leader_epoch } else { r.epoch };
                    self.log.append(Record { epoch, ..r });
                }
                let to = self.log.end();
                if more {
                    ctx.facts.push(Fact::Appended { broker: self.me, part: self.part, from: start, to, leader_epoch, leads: false });
                }
                self.core.followed(to, if ctx.has(Bug::FollowerCommitsItsLog) { i64::MAX } else { high_watermark });
                if more {
                    self.fetch(broker_epoch, ctx);
                }
            }
        }
    }

    fn cut(&mut self, to: i64, ctx: &mut Ctx) {
        self.cut = self.log.get(to).map(|r| (to, r));
        self.log.truncate(to, ctx.has(Bug::EpochCacheNotTruncated));
        self.core.truncated(self.log.end());
        ctx.facts.push(Fact::Truncated { broker: self.me, part: self.part, to: self.log.end() });
    }

    /// The controller has answered a proposal.
    pub fn answered(&mut self, proposal: &Proposal, answer: septet_broker::core::partition::Answer, ctx: &mut Ctx) {
        self.core.answered(proposal, answer, ctx.now, Self::lag(ctx));
        self.settle(ctx);
    }

    /// Time has passed.
    pub fn tick(&mut self, broker_epoch: i64, controller: Option<i32>, ctx: &mut Ctx) {
        if let Some(p) = self.core.pending().filter(|_| ctx.now - self.proposed_at >= ALTER_TIMEOUT).cloned() {
            if ctx.has(Bug::ProposalDroppedOnTimeout) {
                self.answered(&p, septet_broker::core::partition::Answer::Rejected, ctx);
            } else {
                self.propose(p, broker_epoch, controller, ctx);
            }
        }
        let effects = self.core.tick(ctx.now, LAG);
        self.follow(effects, broker_epoch, controller, ctx);
        self.fetch(broker_epoch, ctx);
        if ctx.rng.per_mille(120) {
            self.log.flush();
        }
        if ctx.rng.per_mille(120) {
            self.log.checkpoint = self.core.high_watermark();
        }
    }
}
