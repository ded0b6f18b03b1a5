//! Ids, entries, messages and commands.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use super::{LogView, Membership};

/// Which entry it is. Ordered as elections compare logs: term, leader, index. Terms since format 4 have one leader
/// each; logs of earlier formats may have two leaders of one term, of which the higher number is the later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// term of the leader that made it
    pub term: u64,
    /// that leader
    pub leader: u64,
    /// place in the log; 0 stands for the formation of the ensemble, before the first entry
    pub index: u64,
}

impl EntryId {
    /// Whose entry it is, and when.
    pub fn origin(&self) -> (u64, u64) {
        (self.term, self.leader)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of term {}", self.index, self.term)
    }
}

/// Encoded commands, which the core does not look into; clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(pub Arc<[u8]>);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Data;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Data, E> {
                Ok(Data(bytes.into()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// the first entry of a leader
    Blank,
    /// commands for the state machine
    Commands(Data),
    /// a membership, in force from here on
    Membership(Membership),
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// which one
    pub id: EntryId,
    /// what it holds
    pub payload: Payload,
}

impl Entry {
    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        32 + match &self.payload {
            Payload::Blank => 0,
            Payload::Commands(data) => data.0.len(),
            Payload::Membership(m) => 64 * (m.voters.len() + m.learners.len()),
        }
    }
}

/// What must be durable before a server votes or stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// greatest term that the server knows
    pub term: u64,
    /// the server that it voted for in that term
    pub voted_for: Option<u64>,
}

/// A message between servers; the sender is known by the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// the sender's term; of `PreVote` and an answer that grants it, the term of the election in question
    pub term: u64,
    /// what it says
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// whether the receiver would vote for the sender; changes nothing
    PreVote {
        /// the sender's last entry
        last: EntryId,
    },
    /// answer
    PreVoteAnswer {
        /// it would
        granted: bool,
    },
    /// a candidate asks for a vote
    Vote {
        /// the candidate's last entry
        last: EntryId,
        /// the leader itself asked the candidate to stand
        transfer: bool,
    },
    /// answer
    VoteAnswer {
        /// the vote is the candidate's
        granted: bool,
    },
    /// the leader asks the receiver to take over
    TimeoutNow,
    /// entries, or none as a sign of life
    Append {
        /// the entry before the first
        prev: EntryId,
        /// index up to which the log is committed
        commit: u64,
        /// the leader's round, for the answer
        round: u64,
        /// entries in a row
        entries: Vec<Entry>,
    },
    /// the receiver's log agrees with the leader's
    AppendAck {
        /// up to here, durably
        matched: u64,
        /// newest round that was seen
        round: u64,
        /// the sender may vote, and this counts
        voting: bool,
    },
    /// the entry before the first is not there, or another one
    AppendRefused {
        /// index of that entry
        at: u64,
        /// the last entry that may agree
        hint: EntryId,
        /// newest round that was seen
        round: u64,
        /// the sender may vote, and this counts
        voting: bool,
    },
    /// the receiver of entries has no data at all, and needs a snapshot
    Blank,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// write, in this order: cut the log, append, keep term and vote; then report [`super::Raft::persisted`]. Entries
    /// can be read at once.
    Write {
        /// number for the report
        number: u64,
        /// term and vote, if they changed
        hard: Option<HardState>,
        /// remove the entries from this index on
        truncate: Option<u64>,
        /// append these
        entries: Vec<Entry>,
    },
    /// send a message
    Send {
        /// to this server
        to: u64,
        /// the message
        message: Message,
    },
    /// send `Append` with the entries behind `prev` up to `last`; dropped if the log no longer has `last`
    SendEntries {
        /// to this server
        to: u64,
        /// the leader's term
        term: u64,
        /// the entry before the first
        prev: EntryId,
        /// the last one
        last: EntryId,
        /// commit index of the message
        commit: u64,
        /// round of the message
        round: u64,
    },
    /// send the newest snapshot, then report [`super::Raft::snapshot_sent`]
    SendSnapshot {
        /// to this server
        to: u64,
        /// the leader's term
        term: u64,
    },
    /// replace state and log by the snapshot that was offered, durably, then report [`super::Raft::installed`]
    Install {
        /// the last entry that it covers
        last: EntryId,
    },
    /// apply the log up to this index
    Apply {
        /// the last one
        upto: u64,
    },
    /// a read may be answered once the log is applied up to `index`; without one it failed
    Read {
        /// as given to [`super::Raft::read`]
        token: u64,
        /// index
        index: Option<u64>,
    },
    /// find out whether the disk can be written to, then report [`super::Raft::probed`]
    Probe,
}

/// Part of a server in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// votes and follows
    Follower,
    /// asks whether it would be elected
    PreCandidate,
    /// stands for election
    Candidate,
    /// leads
    Leader,
}

/// Settings; times in ticks.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// this server
    pub me: u64,
    /// shortest silence after which a server stands; up to half as much again. A leader that hears no majority for so long steps down
    pub election_ticks: u64,
    /// for so long after a leader's message a server votes for nobody; less than `election_ticks`
    pub lease_ticks: u64,
    /// between two signs of life
    pub heartbeat_ticks: u64,
    /// last term in which this server stands
    pub max_term: u64,
    /// bytes of entries in a message, or one entry
    pub max_message_bytes: usize,
    /// bytes of entries on the way to one follower
    pub max_inflight_bytes: usize,
    /// bytes of entries that are not committed, on a leader
    pub max_uncommitted_bytes: usize,
}

/// What a server has on disk at its start.
#[derive(Debug)]
pub struct Stored {
    /// term and vote
    pub hard: HardState,
    /// the log
    pub log: LogView,
    /// index up to which the state machine's snapshot covers it
    pub applied: u64,
}

/// Why a proposal is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// another server leads, or none
    #[error("this server does not lead")]
    NotLeader,
    /// leadership is being handed over
    #[error("leadership is being handed over")]
    Transferring,
    /// too many bytes are not committed
    #[error("too much is not committed yet")]
    Busy,
}

/// What becomes of a snapshot that another server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotVerdict {
    /// its sender no longer leads; this is the term
    Stale(u64),
    /// it holds nothing that is not here
    Known,
    /// [`Command::Install`] follows
    Install,
}

/// What a server knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// term
    pub term: u64,
    /// its vote in that term
    pub voted_for: Option<u64>,
    /// part in it
    pub role: Role,
    /// the leader, if one is known
    pub leader: Option<u64>,
    /// index up to which the log is committed
    pub commit: u64,
    /// index up to which it is applied, or being applied
    pub applied: u64,
    /// last entry
    pub last: EntryId,
    /// index up to which the log is durable
    pub durable: u64,
    /// ticks since a leader was heard, the greatest number if none was; on the leader, since a majority was
    pub silent_ticks: u64,
    /// it leads, and an entry of its term is committed
    pub leads_own_term: bool,
    /// leadership is being handed over
    pub transferring: bool,
    /// it has no data, not even a membership
    pub blank: bool,
    /// it may vote
    pub voting: bool,
    /// on the leader: the others, and the index up to which each agrees
    pub followers: Vec<(u64, u64)>,
}
