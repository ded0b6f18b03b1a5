//! What invariants are checked against: facts about one step, and everything as it is after that step.

use std::collections::BTreeMap;

use septet_broker::core::controller::Stored;

use crate::{broker::Broker, log::Record, znodes::Znodes};

/// What a step did.
#[derive(Debug, Clone)]
pub enum Fact {
    /// A replica's log has grown.
    Appended { broker: i32, part: usize, from: i64, to: i64, leader_epoch: i32, leads: bool },
    /// A replica's log was cut.
    Truncated { broker: i32, part: usize, to: i64 },
    /// A broker has taken the lead.
    Led { broker: i32, part: usize, leader_epoch: i32 },
    /// A leader's high watermark is this now.
    Committed { broker: i32, part: usize, leader_epoch: i32, to: i64 },
    /// A producer with acks=all was answered.
    Acknowledged { part: usize, leader_epoch: i32, offset: i64, value: u32 },
    /// A consumer has read.
    Read { part: usize, leader_epoch: i32, offset: i64, record: Record },
    /// A controller was elected.
    Elected { broker: i32, epoch: i32 },
    /// A state was written; `known` are the registrations that the controller knew of.
    Written { part: usize, old: Option<Stored>, new: Stored, replaced: Option<i32>, writer: i32, current: i32, known: BTreeMap<i32, i64> },
    /// A placement was written.
    Placed { writer: i32, current: i32 },
    /// A broker has obeyed a controller.
    Obeyed { broker: i32, epoch: i32 },
    /// A broker's view of a partition.
    Decided { broker: i32, part: usize, leader_epoch: i32 },
    /// A broker has lost records that were not synced.
    Lost { broker: i32 },
    /// A broker process has begun.
    Started { broker: i32 },
    /// The only replica that was left leads without what it lost: nothing from there on counts as promised any more.
    Excused { part: usize, end: i64 },
    /// All faults have ended some time ago and nothing moves any more.
    Settled,
}

/// What is known to have been promised.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Committed records of each partition, as the first leader that committed them had them.
    pub committed: Vec<Vec<Record>>,
    /// Replicas that lost records in a power cut and have not got everything again: broker and partition.
    pub lossy: std::collections::BTreeSet<(i32, usize)>,
    /// Leader epoch of the last such election of each partition: what earlier leaders promise does not count any more.
    pub void_before: Vec<i32>,
    /// How often the only replica that was left had lost records.
    pub excused: u64,
}

impl Ledger {
    /// Whether a fact is a promise of a leader that does not count any more.
    pub fn void(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Acknowledged { part, leader_epoch, .. }
            | Fact::Read { part, leader_epoch, .. }
            | Fact::Committed { part, leader_epoch, .. } => *leader_epoch < self.void_before[*part],
            _ => false,
        }
    }

    /// Whether a replica has every committed record. Its last one will do: that logs match is another invariant.
    pub fn complete(&self, broker: &Broker, part: usize) -> bool {
        let committed = &self.committed[part];
        committed.is_empty() || broker.record(part, committed.len() as i64 - 1) == committed.last().copied()
    }
}

/// Everything after a step.
pub struct View<'a> {
    /// By id, from 1.
    pub brokers: &'a [Broker],
    /// The coordinators.
    pub znodes: &'a Znodes,
    /// Promises.
    pub ledger: &'a Ledger,
}

impl View<'_> {
    /// A broker.
    pub fn broker(&self, id: i32) -> &Broker {
        &self.brokers[id as usize - 1]
    }

    /// Leader epoch that is stored.
    pub fn leader_epoch(&self, part: usize) -> i32 {
        self.znodes.state(part).map_or(-1, |s| s.leader_epoch)
    }
}
