//! One consumer group as a state machine: GroupCoordinator and GroupMetadata of Kafka 3.9, the classic protocol.
//!
//! Nothing here reads a clock, does IO or waits. A request that has to wait is known by its [`Token`] and answered in the
//! [`Effects`] of some later call. What has to be in the log first comes out as a [`Store`]; [`Group::stored`] takes the result.
//!
//! Invariant: every token that was given to a call is answered exactly once, by [`Group::unload`] at the latest. A group is
//! stable only in a generation whose assignment is in the log.

mod generation;
mod join;
mod leave;
mod member;
mod offsets;
mod rebalance;
mod stored;
mod sync;
mod timers;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use kafka_protocol::ResponseError;

pub use member::Member;
pub use offsets::{Offsets, Place};
use stored::Pending;
pub use view::{Description, MemberDescription};

use super::value::GroupValue;

/// `protocol_type` of consumers.
pub const CONSUMER: &str = "consumer";

/// A new member that waits in JoinGroup has no member id yet and sends no heartbeats; after this time it is removed, in
/// milliseconds (GroupCoordinator.NewMemberJoinTimeoutMs).
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;

/// Settings of the broker that groups obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`
    pub min_session_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_ms: i32,
    /// `group.max.size`, members
    pub max_size: usize,
}

impl Default for Limits {
    /// Kafka's defaults.
    fn default() -> Self {
        Self { initial_rebalance_delay_ms: 3000, min_session_ms: 6000, max_session_ms: 1_800_000, max_size: i32::MAX as usize }
    }
}

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// milliseconds of a clock that never jumps; deadlines are in it
    pub ticks: i64,
    /// milliseconds since 1970; what is written to the log is in it
    pub wall: i64,
}

/// Names a request that waits.
pub type Token = u64;
/// Names a write that is under way.
pub type StoreId = u64;

/// States of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    /// Kafka's name in DescribeGroups and ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A JoinGroup request.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// empty for a new member
    pub member_id: String,
    /// `group.instance.id` of a static member
    pub instance_id: Option<String>,
    /// for a new member, the id that it would get: client or instance id with a random suffix
    pub new_member_id: String,
    /// as DescribeGroups shows it
    pub client_id: String,
    /// as DescribeGroups shows it
    pub client_host: String,
    /// how long a rebalance waits for this member, in milliseconds
    pub rebalance_timeout_ms: i32,
    /// longest time without a heartbeat, in milliseconds
    pub session_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// assignors by preference, each with the member's metadata
    pub protocols: Vec<(String, Bytes)>,
    /// version 4 and later: a new dynamic member gets an id first and joins with it (KIP-394)
    pub require_known_member_id: bool,
    /// version 9 and later: a static leader that returns to a stable group is told to skip the assignment (KIP-814)
    pub supports_skipping: bool,
}

/// Answer to JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Joined {
    pub error: Option<ResponseError>,
    pub member_id: String,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: String,
    pub skip_assignment: bool,
    /// of the leader's answer: member id, instance id, metadata for the chosen protocol
    pub members: Vec<(String, Option<String>, Bytes)>,
}

impl Joined {
    /// A refusal.
    pub fn error(member_id: &str, error: ResponseError) -> Self {
        Self {
            error: Some(error),
            member_id: member_id.to_owned(),
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

/// A SyncGroup request.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Sync {
    pub generation: i32,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// of the leader: member id, assignment
    pub assignments: Vec<(String, Bytes)>,
}

/// Answer to SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Synced {
    pub error: Option<ResponseError>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub assignment: Bytes,
}

impl Synced {
    /// A refusal.
    pub fn error(error: ResponseError) -> Self {
        Self { error: Some(error), protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}

/// An answer to a request that waited, or could have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Answer {
    Join(Joined),
    Sync(Synced),
}

/// A record that is to be appended; its result goes to [`Group::stored`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// names it
    pub id: StoreId,
    /// the group's record
    pub value: GroupValue,
}

/// What a call leads to.
#[derive(Debug, Default)]
pub struct Effects {
    /// answers to requests, by their token
    pub answers: Vec<(Token, Answer)>,
    /// records to append, in this order
    pub stores: Vec<Store>,
}

impl Effects {
    fn joined(&mut self, token: Token, joined: Joined) {
        self.answers.push((token, Answer::Join(joined)));
    }
    fn synced(&mut self, token: Token, synced: Synced) {
        self.answers.push((token, Answer::Sync(synced)));
    }
}

/// How long a rebalance goes on waiting for members.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// of an empty group: more members may come (`group.initial.rebalance.delay.ms`); `remaining` more milliseconds may be waited
    Initial { deadline: i64, remaining: i64 },
    /// until all have joined, or the deadline
    All { deadline: i64 },
}

/// A group.
#[derive(Debug)]
pub struct Group {
    id: String,
    state: State,
    /// since when it is in this state, in milliseconds since 1970
    state_since: Option<i64>,
    members: BTreeMap<String, Member>,
    /// instance id to member id
    statics: HashMap<String, String>,
    /// ids that were given out and have not joined, with their deadline
    pending: BTreeMap<String, i64>,
    /// members that have not sent SyncGroup in this generation
    pending_sync: BTreeSet<String>,
    sync_deadline: Option<i64>,
    leader: Option<String>,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    /// topics that members are subscribed to, if that is known
    subscribed: Option<BTreeSet<String>>,
    waiting: Option<Waiting>,
    new_member_added: bool,
    stores: HashMap<StoreId, Pending>,
    next_store: StoreId,
}

impl Group {
    /// An empty group.
    pub fn new(id: &str, now: Now) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Empty,
            state_since: Some(now.wall),
            members: BTreeMap::new(),
            statics: HashMap::new(),
            pending: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            sync_deadline: None,
            leader: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            subscribed: None,
            waiting: None,
            new_member_added: false,
            stores: HashMap::new(),
            next_store: 0,
        }
    }

    /// State.
    pub fn state(&self) -> State {
        self.state
    }
    /// Generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }
    /// Since when it is in its state, in milliseconds since 1970.
    pub fn state_since(&self) -> Option<i64> {
        self.state_since
    }
    /// Kind of its members, if it has or had any.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }
    /// The member that assigns.
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }
    /// Its members.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }
    /// Whether ids were given out to members that have not joined.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn transition(&mut self, to: State, now: Now) {
        self.state = to;
        self.state_since = Some(now.wall);
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// GroupCoordinator.validateCurrentMember: the instance id is known and belongs to this member, and the member is there.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                Some(current) if current != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
                None => return Err(ResponseError::UnknownMemberId),
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// A member was heard of.
    fn touch(&mut self, member_id: &str, now: Now) {
        if let Some(m) = self.members.get_mut(member_id) {
            m.deadline = now.ticks + i64::from(m.session_timeout_ms);
        }
    }

    /// Answers everything that waits: the group is not this broker's any more, or was deleted. It is dead from then on.
    pub fn unload(&mut self, error: ResponseError, now: Now, fx: &mut Effects) {
        for m in self.members.values_mut() {
            if let Some(token) = m.join.take() {
                fx.joined(token, Joined::error(&m.id, error));
            }
            if let Some(token) = m.sync.take() {
                fx.synced(token, Synced::error(error));
            }
        }
        self.stores.clear();
        self.waiting = None;
        self.sync_deadline = None;
        self.transition(State::Dead, now);
    }

    /// Memory that a member takes, in bytes; 0 if it is not there.
    pub fn member_weight(&self, member_id: &str) -> usize {
        self.members.get(member_id).map_or(0, Member::weight)
    }

    /// Memory that it takes, in bytes, roughly.
    pub fn weight(&self) -> usize {
        const GROUP: usize = 600;
        const PENDING: usize = 120;
        let subscribed: usize = self.subscribed.iter().flatten().map(|t| 40 + t.len()).sum();
        let pending: usize = self.pending.keys().map(|k| PENDING + k.len()).sum();
        GROUP + 2 * self.id.len() + subscribed + pending + self.members.values().map(Member::weight).sum::<usize>()
    }
}
