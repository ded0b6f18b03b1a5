//! Entries, votes and memberships as formats 1 to 3 have them, which were those of the library openraft.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::encode_commands;
use crate::{
    raft::{Entry, EntryId, HardState, Membership, Payload},
    state::Command,
};

#[derive(Deserialize)]
struct Node {
    addr: String,
}

/// Voters in one set or, which no version ever wrote, in two; other servers are learners.
#[derive(Deserialize)]
struct OldMembership {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Node>,
}

impl OldMembership {
    fn into_membership(self) -> Result<Membership, String> {
        let [voters] = <[BTreeSet<u64>; 1]>::try_from(self.configs).map_err(|all| format!("a membership of {} sets", all.len()))?;
        let learners = self.nodes.keys().copied().filter(|id| !voters.contains(id)).collect();
        Ok(Membership { voters, learners, addresses: self.nodes.into_iter().map(|(id, node)| (id, node.addr)).collect() })
    }
}

/// A membership in a snapshot.
#[derive(Deserialize)]
pub(super) struct StoredMembership {
    #[allow(dead_code, reason = "the snapshot's last entry is behind it")]
    id: Option<EntryId>,
    membership: OldMembership,
}

impl StoredMembership {
    /// As it is now.
    pub(super) fn into_membership(self) -> Result<Membership, String> {
        self.membership.into_membership()
    }
}

#[derive(Deserialize)]
enum OldPayload {
    Blank,
    Normal(Vec<Command>),
    Membership(OldMembership),
}

#[derive(Deserialize)]
struct OldEntry {
    id: EntryId,
    payload: OldPayload,
}

#[derive(Deserialize)]
struct OldVote {
    term: u64,
    leader: u64,
    #[allow(dead_code, reason = "a leader that starts again is one no more")]
    committed: bool,
}

/// An entry of the log.
pub(super) fn entry(body: &[u8]) -> Result<Entry, String> {
    let OldEntry { id, payload } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
    let payload = match payload {
        OldPayload::Blank => Payload::Blank,
        OldPayload::Normal(commands) => Payload::Commands(encode_commands(&commands).map_err(|e| e.to_string())?),
        OldPayload::Membership(m) => Payload::Membership(m.into_membership()?),
    };
    Ok(Entry { id, payload })
}

/// Term and vote.
pub(super) fn hard_state(body: &[u8]) -> Result<HardState, String> {
    let OldVote { term, leader, .. } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
    Ok(HardState { term, voted_for: (term > 0).then_some(leader) })
}
