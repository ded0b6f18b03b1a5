//! What invariants are told.

use std::collections::BTreeMap;

use septet_coordinator::raft::{Change, Entry, EntryId, Membership, Message};

use crate::server::Server;

/// Something that happened.
#[derive(Debug)]
pub enum Fact<'a> {
    /// a server leads
    Led { server: u64, term: u64 },
    /// an entry came into a server's log behind another
    Appended { server: u64, prev: EntryId, entry: &'a Entry },
    /// a server's log was cut from this index on
    Truncated { server: u64, from: u64 },
    /// a message left
    Sent { server: u64, to: u64, message: &'a Message },
    /// an entry was applied, and the state's digest is this
    Applied { server: u64, id: EntryId, digest: u64 },
    /// a snapshot took the place of the state
    Installed { server: u64, last: EntryId, digest: u64 },
    /// a client was told that its write is done
    Acknowledged { id: EntryId, value: u64 },
    /// a client read the state up to an index; when it asked, this index had been acknowledged or read
    Read { server: u64, floor: u64, index: u64 },
    /// a leader appended a membership
    Changed { server: u64, from: &'a Membership, to: &'a Membership, at: EntryId, change: &'a Change, now: u64 },
    /// everything was well for long enough
    Settled,
}

/// What all servers together have done.
#[derive(Default)]
pub struct Ledger {
    /// entries that some server has applied, and the digest behind each
    pub committed: BTreeMap<u64, (EntryId, u64)>,
    /// highest index that a client knows of
    pub known: u64,
    /// writes that were acknowledged
    pub acknowledged: BTreeMap<u64, EntryId>,
    pub reads: u64,
}

/// What invariants may look at.
pub struct View<'a> {
    pub servers: &'a BTreeMap<u64, Server>,
    pub ledger: &'a Ledger,
}
