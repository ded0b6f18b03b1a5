//! What brokers, coordinators and clients send each other.

use std::collections::BTreeMap;

use septet_broker::core::partition::{Answer, Assignment, Proposal};

use crate::{
    log::Record,
    znodes::{Op, Reply},
};

/// The coordinators' address; brokers have 1 and more, clients 100 and more.
pub const ZNODES: i32 = 0;

/// Why a leader refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not lead.
    NotLeader,
    /// Fewer in-sync replicas than min.insync.replicas.
    NotEnoughReplicas,
}

/// The body of a fetch's answer.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// Records from an offset on, and the leader's high watermark.
    Records { from: i64, records: Vec<Record>, high_watermark: i64 },
    /// The follower has what the leader does not have: the leader's last epoch up to the one asked for, and its end.
    Diverging(i32, i64),
    /// Nothing.
    Refused,
}

/// How an AlterPartition was answered.
#[derive(Debug, Clone)]
pub enum Altered {
    /// For the core.
    Answer(Answer),
    /// By one that is no controller.
    NotController,
}

/// What a controller tells a broker: LeaderAndIsr, StopReplica and UpdateMetadata in one.
#[derive(Debug, Clone)]
pub struct Control {
    /// Epoch of the controller.
    pub epoch: i32,
    /// Epoch of the broker that is told.
    pub broker_epoch: i64,
    /// Counts what this controller has to tell.
    pub version: u64,
    /// All partitions; the receiver may have no replica.
    pub parts: Vec<(usize, Assignment)>,
    /// Living brokers; whether they stop.
    pub live: BTreeMap<i32, bool>,
}

/// A message.
#[derive(Debug, Clone)]
pub enum Body {
    /// A follower fetches.
    Fetch { part: usize, leader_epoch: i32, offset: i64, last_epoch: i32, broker_epoch: i64, id: u64 },
    /// Its answer.
    FetchAnswer { part: usize, leader_epoch: i32, id: u64, fetched: Fetched },
    /// AlterPartition.
    Alter { part: usize, proposal: Proposal, broker_epoch: i64 },
    /// Its answer.
    AlterAnswer { part: usize, proposal: Proposal, altered: Altered },
    /// A controller's decisions.
    Control(Box<Control>),
    /// They were obeyed.
    ControlAnswer { epoch: i32, version: u64, broker_epoch: i64 },
    /// ControlledShutdown.
    Shutdown { broker_epoch: i64 },
    /// Number of partitions that the broker still leads.
    ShutdownAnswer { left: usize },
    /// To the coordinators.
    Ask { session: u64, id: u64, op: Op },
    /// From them; id 0 for a watch that fired.
    Told { id: u64, session: u64, reply: Reply },
    /// A producer's record.
    Produce { part: usize, value: u32, all: bool, id: u64 },
    /// Its answer.
    Produced { id: u64, offset: Result<i64, Refused> },
}

impl Body {
    /// For the trace.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Fetch { .. } => "fetch",
            Body::FetchAnswer { .. } => "a:fetched",
            Body::Alter { .. } => "propose-isr",
            Body::AlterAnswer { .. } => "answer-isr",
            Body::Control(_) => "control-decisions",
            Body::ControlAnswer { .. } => "obeyed",
            Body::Shutdown { .. } => "shutdown?",
            Body::ShutdownAnswer { .. } => "may-shut-down",
            Body::Ask { .. } => "znode-op",
            Body::Told { .. } => "reply-of-znodes",
            Body::Produce { .. } => "Produce",
            Body::Produced { .. } => "is-produced",
        }
    }

    /// Numbers for the trace.
    pub fn numbers(&self) -> [i64; 3] {
        match self {
            Body::Fetch { part, leader_epoch, offset, .. } => [*part as i64, i64::from(*leader_epoch), *offset],
            Body::FetchAnswer { part, leader_epoch, fetched, .. } => match fetched {
                Fetched::Records { from, records, high_watermark } => [*part as i64, from + records.len() as i64, *high_watermark],
                Fetched::Diverging(epoch, end) => [*part as i64, i64::from(*epoch), -*end - 1],
                Fetched::Refused => [*part as i64, i64::from(*leader_epoch), -1_000_000],
            },
            Body::Alter { part, proposal, .. } => {
                [*part as i64, members(proposal.isr.iter().map(|(i, _)| i)), i64::from(proposal.partition_epoch)]
            }
            Body::AlterAnswer { part, altered, .. } => match altered {
                Altered::Answer(Answer::State { isr, partition_epoch, .. }) => {
                    [*part as i64, members(isr.iter()), i64::from(*partition_epoch)]
                }
                Altered::Answer(Answer::Rejected) => [*part as i64, -1, 0],
                Altered::Answer(Answer::Outdated | Answer::Retry) => [*part as i64, -2, 0],
                Altered::NotController => [*part as i64, -3, 0],
            },
            Body::Control(c) => [i64::from(c.epoch), c.version as i64, members(c.live.keys())],
            Body::ControlAnswer { epoch, version, .. } => [i64::from(*epoch), *version as i64, 0],
            Body::Shutdown { broker_epoch } => [*broker_epoch, 0, 0],
            Body::ShutdownAnswer { left } => [*left as i64, 0, 0],
            Body::Ask { session, op, .. } => [*session as i64, op.number(), 0],
            Body::Told { session, reply, .. } => [*session as i64, reply.number(), 0],
            Body::Produce { part, value, all, .. } => [*part as i64, i64::from(*value), i64::from(*all)],
            Body::Produced { offset, id } => [*id as i64, offset.map_or_else(|e| -1 - e as i64, |o| o), 0],
        }
    }
}

/// A set of brokers as a decimal number: 1, 2 and 3 are 123.
pub fn members<'a>(ids: impl Iterator<Item = &'a i32>) -> i64 {
    ids.fold(0, |n, id| n * 10 + i64::from(*id))
}
