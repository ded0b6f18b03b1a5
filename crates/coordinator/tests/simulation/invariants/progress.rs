//! Once everything is well, there is a leader, and all members have what it committed.

use septet_coordinator::raft::{Membership, Role};

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks when everything has been well for long.
pub struct Progress;

impl Invariant for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        if !matches!(fact, Fact::Settled) {
            return Ok(());
        }
        let leaders = view.servers.values().filter(|s| s.raft.as_ref().is_some_and(|r| r.status().role == Role::Leader));
        let Some(leader) = leaders.max_by_key(|s| s.led) else { return Err("there is no leader".into()) };
        let members: &Membership = &leader.membership;
        for s in view.servers.values().filter(|s| members.contains(s.id)) {
            let Some(raft) = &s.raft else { continue };
            // A few are always on their way.
            if s.applied.index + 50 < leader.applied.index {
                return Err(format!("{} has applied {}, its leader {}", s.id, s.applied.index, leader.applied.index));
            }
            if members.voters.contains(&s.id) && !raft.status().voting {
                return Err(format!("{} has no vote yet", s.id));
            }
        }
        Ok(())
    }
}
