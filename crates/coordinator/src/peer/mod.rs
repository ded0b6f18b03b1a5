//! Servers among themselves: one TCP connection per direction and pair, requests with numbers, so that a call
//! that was given up never confuses the next.
//!
//! | module | what it is |
//! |---|---|
//! | [`bind`] | where the port of the servers listens |
//! | [`secret`], [`handshake`], [`frame`] | who is at the other end, and that nobody in between adds or changes anything |
//! | [`caller`], [`listen`] | the two sides of a connection |
//! | [`check`] | what a message may say at all |

pub mod bind;
mod caller;
pub mod check;
pub mod frame;
pub mod handshake;
mod listen;
pub mod secret;

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::{Deserialize, Serialize};

use crate::{node::Candidacy, state::Command, storage::TypeConfig};

pub use caller::Peer;
pub use listen::{Listener, max_sockets};

/// Version of the protocol between servers, which changes with [`crate::storage::format::FORMAT`] too: entries and
/// snapshots travel as they lie on disk. Version 1 had no proof, no tags and no limits.
pub const PEER_VERSION: u32 = 3;

/// [`PEER_VERSION`] as `--version` prints it. It is also looked for in the program itself: servers that do not understand one another
/// cannot be restarted one by one.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nseptet-peer-protocol=3");

/// What servers ask of one another. Answers are `Result<_, String>`: no type in them nests, so that what a peer
/// answers cannot exhaust the stack of its decoder.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Raft: `AppendEntriesResponse`
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft: `VoteResponse`
    Vote(VoteRequest<u64>),
    /// Raft: `Option<Vote>`, without one the snapshot must be sent from its beginning
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Commands of the caller's clients, for the leader: `()` once committed
    Propose(Vec<Command>),
    /// An index that the caller must have applied to read all that is committed: `Option<u64>`
    ReadIndex,
    /// Sessions whose clients were heard on the caller: `()`
    Touch(Vec<i64>),
    /// Whether the ensemble has data: `Status`
    Status,
    /// Whether the caller would be elected: `bool`
    WouldVote(Candidacy),
}

/// Answers to asks; called once per ask.
pub trait Serve: Send + Sync + 'static {
    /// Answers an ask of another server with the encoded reply.
    fn serve(&self, from: u64, ask: Ask) -> impl Future<Output = Vec<u8>> + Send;

    /// The last connection of another server ended.
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
