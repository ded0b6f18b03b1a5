//! Servers among themselves: one TCP connection per direction and pair, requests with numbers, so that a call
//! that was given up never confuses the next.
//!
//! | module | what it is |
//! |---|---|
//! | [`book`] | the other servers that are known |
//! | [`bind`] | where the port of the servers listens |
//! | [`secret`], [`handshake`], [`frame`] | who is at the other end, and that nobody in between adds or changes anything |
//! | [`caller`], [`listen`] | the two sides of a connection |
//! | [`check`] | what a message may say at all |

pub mod bind;
mod book;
mod caller;
pub mod check;
pub mod frame;
pub mod handshake;
mod listen;
pub mod secret;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    raft::{EntryId, Message},
    state::Command,
};

pub use book::Book;
pub use caller::Peer;
pub use listen::{Listener, max_sockets};

/// Version of the protocol between servers, which changes with [`crate::storage::format::FORMAT`] too: entries and
/// snapshots travel as they lie on disk. Both sides say it before anything else, so it is the version of each message
/// of a connection. Version 1 had no proof, no tags and no limits; versions up to 3 were those of another consensus,
/// version 4 did not know targets.
pub const PEER_VERSION: u32 = 5;

/// [`PEER_VERSION`] as `--version` prints it. It is also looked for in the program itself: servers that do not understand one another
/// cannot be restarted one by one.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nseptet-peer-protocol=5");

/// What servers ask of one another. Answers are `Result<_, String>`: no type in them nests, so that what a peer
/// answers cannot exhaust the stack of its decoder.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Raft: no answer, unless it is refused
    Raft(Message),
    /// A part of a snapshot: `SnapshotAnswer`
    Snapshot(SnapshotPart),
    /// Commands of the caller's clients, for the leader of this term: `true` once committed, `false` if none was appended
    Propose {
        /// in a later term nothing is appended: the caller may have asked again
        term: u64,
        /// commands
        commands: Vec<Command>,
    },
    /// An index that the caller must have applied to read all that is committed: `u64`
    ReadIndex,
    /// Sessions whose clients were heard on the caller: `()`
    Touch(Vec<i64>),
    /// Whether the ensemble has data: `Status`
    Status,
    /// The servers that the caller's `zoo.cfg` asks for, as lines by number, for the leader: `()`
    Target(BTreeMap<u64, String>),
}

/// A part of a snapshot as it lies on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// the leader's term
    pub term: u64,
    /// the last entry that the snapshot covers
    pub last: EntryId,
    /// where the part begins, in bytes
    pub offset: u64,
    /// the bytes
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// it is the last part
    pub done: bool,
}

/// What becomes of a part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// the next part, please
    More,
    /// it must begin again with its first part
    Restart,
    /// the sender no longer leads
    Stale,
    /// all of it is here
    Taken,
}

/// Answers to asks; called once per ask.
pub trait Serve: Send + Sync + 'static {
    /// Answers an ask of another server with the encoded reply.
    fn serve(&self, from: u64, ask: Ask) -> impl Future<Output = Vec<u8>> + Send;

    /// Takes a message of Raft, in the order in which they came; an error says why it is refused. `held` is what the
    /// message takes of the connection's budget until it is dealt with.
    fn deliver(&self, from: u64, message: Message, held: OwnedSemaphorePermit) -> Result<(), String>;

    /// The newest connection of another server ended.
    fn lost(&self, server: u64);
}

/// Largest frame between servers, for a largest request of clients: a batch of commands ends with the request that
/// goes over 4 MiB, and encoding adds little.
pub fn max_frame_bytes(max_request_bytes: usize) -> usize {
    16 * 1024 * 1024 + 2 * max_request_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_printed_is_the_one_that_is_spoken() {
        assert!(LONG_VERSION.ends_with(&format!("septet-peer-protocol={PEER_VERSION}")));
    }
}
