//! Producers that try again until they are answered, and consumers that read again what they have read.

use crate::{ctx::Ctx, facts::Fact, message::Body, world::World};

/// The address of the first client.
pub const FIRST_CLIENT: i32 = 100;
const TIMEOUT: i64 = 250;

/// A producer with one record under way.
pub struct Producer {
    address: i32,
    /// acks=all; otherwise acks=1.
    all: bool,
    part: usize,
    value: u32,
    sent: Option<(u64, i64)>,
    /// Records that were acknowledged.
    pub done: u32,
    /// It begins no further record.
    pub finishing: bool,
    /// It has none under way.
    pub idle: bool,
}

impl Producer {
    /// One of a world's producers.
    pub fn new(index: i32, parts: usize) -> Self {
        let part = index as usize % parts;
        let value = (index as u32 + 1) * 100_000;
        Self { address: FIRST_CLIENT + index, all: index != 3, part, value, sent: None, done: 0, finishing: false, idle: false }
    }

    /// Sends, or sends again.
    pub fn act(&mut self, leader: Option<i32>, ctx: &mut Ctx) {
        if self.idle || self.sent.is_some_and(|(_, deadline)| deadline > ctx.now) {
            return;
        }
        self.sent = None;
        if let Some(to) = leader {
            let id = ctx.id();
            self.sent = Some((id, ctx.now + TIMEOUT));
            ctx.send(self.address, to, Body::Produce { part: self.part, value: self.value, all: self.all, id });
        }
    }

    /// Partition of the record under way.
    pub fn part(&self) -> usize {
        self.part
    }

    /// An answer.
    pub fn answered(&mut self, answered: u64, ok: bool, parts: usize, ctx: &mut Ctx) {
        if self.sent.is_none_or(|(id, _)| id != answered) {
            return;
        }
        self.sent = None;
        if ok {
            self.done += 1;
            self.value += 1;
            self.part = ctx.rng.range(0, parts as i64) as usize;
            self.idle = self.finishing;
        }
    }
}

impl World {
    /// A consumer reads from a broker that believes it leads: what it has not read yet, or something that it has.
    pub fn consume(&mut self, part: usize) {
        let leaders: Vec<i32> =
            self.brokers.iter().filter(|b| b.up && b.parts.get(&part).is_some_and(|r| r.core.leads())).map(|b| b.id).collect();
        let Some(replica) = self.ctx.rng.pick(&leaders).and_then(|id| self.brokers[id as usize - 1].parts.get(&part)) else {
            return;
        };
        let next = &mut self.positions[part];
        let from = if self.ctx.rng.per_mille(200) { self.ctx.rng.range(0, *next + 1) } else { *next };
        let end = if self.ctx.has(crate::bugs::Bug::UncommittedServed) { replica.log.end() } else { replica.core.high_watermark() };
        let leader_epoch = replica.core.assignment().leader_epoch;
        for offset in from..end.min(from + 10) {
            if let Some(record) = replica.log.get(offset) {
                self.ctx.facts.push(Fact::Read { part, leader_epoch, offset, record });
                *next = (*next).max(offset + 1);
            }
        }
    }
}
