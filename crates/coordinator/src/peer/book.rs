//! The other servers that this one knows: those of its `zoo.cfg`, and those of the membership in the log.
//!
//! Invariant: who is called and who may call is decided by the same set.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use super::{Peer, handshake::Identity};
use crate::config::Member;

/// The other servers, by number.
pub struct Book {
    identity: Identity,
    max_frame: usize,
    peers: RwLock<BTreeMap<u64, (Member, Peer)>>,
}

impl Book {
    /// Without any server.
    pub fn new(identity: Identity, max_frame: usize) -> Self {
        Self { identity, max_frame, peers: RwLock::default() }
    }

    /// The servers that there are, of which this one is left out. One that is where it was keeps its connection.
    pub fn set(&self, members: &BTreeMap<u64, Member>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let others = || members.iter().filter(|(id, _)| **id != self.identity.me);
        peers.retain(|id, (there, _)| others().any(|(other, m)| other == id && m.address() == there.address()));
        for (id, m) in others() {
            peers.entry(*id).or_insert_with(|| (m.clone(), Peer::new(self.identity.clone(), *id, m.clone(), self.max_frame)));
        }
        self.identity.others.set(peers.keys().copied().collect());
    }

    /// A server, if it is known.
    pub fn get(&self, id: u64) -> Option<Peer> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(_, peer)| peer.clone())
    }

    /// All of them.
    pub fn all(&self) -> Vec<(u64, Peer)> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(id, (_, peer))| (*id, peer.clone())).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
