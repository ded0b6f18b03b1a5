//! Which servers belong to an ensemble, and one change of that at a time.
//!
//! Invariant: two memberships that follow one another differ in one voter, so each majority of one has a server of
//! each majority of the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Servers of an ensemble.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// those that vote
    pub voters: BTreeSet<u64>,
    /// those that get the log and do not vote
    pub learners: BTreeSet<u64>,
    /// where each is: the value of its line in `zoo.cfg`, or `host:port` as earlier versions wrote it
    pub addresses: BTreeMap<u64, String>,
}

impl Membership {
    /// Votes that decide.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether a server belongs to it.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// With a change.
    pub fn with(&self, change: &Change) -> Result<Self, ChangeError> {
        let mut next = self.clone();
        match change {
            Change::AddLearner(id, _) if self.contains(*id) => return Err(ChangeError::IsMember(*id)),
            Change::AddLearner(id, address) => {
                next.learners.insert(*id);
                next.addresses.insert(*id, address.clone());
            }
            Change::Promote(id) => {
                if !next.learners.remove(id) {
                    return Err(ChangeError::NoLearner(*id));
                }
                next.voters.insert(*id);
            }
            Change::Demote(id) => {
                if !next.voters.remove(id) {
                    return Err(ChangeError::NoVoter(*id));
                }
                next.learners.insert(*id);
            }
            Change::Remove(id) => {
                if !next.learners.remove(id) && !next.voters.remove(id) {
                    return Err(ChangeError::NotMember(*id));
                }
                next.addresses.remove(id);
            }
            Change::SetAddress(id, _) if !self.contains(*id) => return Err(ChangeError::NotMember(*id)),
            Change::SetAddress(id, address) => drop(next.addresses.insert(*id, address.clone())),
        }
        if next.voters.is_empty() {
            return Err(ChangeError::LastVoter);
        }
        Ok(next)
    }
}

/// A change of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// a new server gets the log
    AddLearner(u64, String),
    /// a learner gets a vote
    Promote(u64),
    /// a voter keeps getting the log and loses its vote
    Demote(u64),
    /// a server leaves
    Remove(u64),
    /// a server is elsewhere
    SetAddress(u64, String),
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// it belongs to the ensemble
    #[error("server.{0} belongs to the ensemble already")]
    IsMember(u64),
    /// it is none
    #[error("server.{0} is not a learner")]
    NoLearner(u64),
    /// it has no vote
    #[error("server.{0} has no vote")]
    NoVoter(u64),
    /// it does not belong to the ensemble
    #[error("server.{0} does not belong to the ensemble")]
    NotMember(u64),
    /// no vote would be left
    #[error("it is the last server with a vote")]
    LastVoter,
    /// it leads
    #[error("server.{0} leads: hand leadership over first")]
    Leads(u64),
    /// it is far behind, or has no vote yet
    #[error("server.{0} has not caught up")]
    Behind(u64),
    /// what is left could not go on
    #[error("without server.{0} too few servers that are up and have a vote would be left")]
    Unsafe(u64),
    /// one after the other
    #[error("another change is not committed yet")]
    Pending,
    /// not now
    #[error(transparent)]
    Propose(#[from] super::ProposeError),
}
