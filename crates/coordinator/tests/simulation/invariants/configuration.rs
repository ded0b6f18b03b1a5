//! Memberships that follow one another differ in one voter, and each is committed before the next is made.

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at each change.
pub struct Configuration;

impl Invariant for Configuration {
    fn name(&self) -> &'static str {
        "configuration"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Changed { server, from, to, at, .. } => {
                let voters = from.voters.symmetric_difference(&to.voters).count();
                if voters > 1 {
                    return Err(format!("{server} changes {voters} voters at once"));
                }
                let before = view.servers[server].raft.as_ref().map_or(0, |r| r.status().commit);
                let open = view.servers[server].log.iter().filter(|e| {
                    e.id.index > before && e.id != *at && matches!(e.payload, septet_coordinator::raft::Payload::Membership(_))
                });
                match open.count() {
                    0 => Ok(()),
                    n => Err(format!("{server} changes the membership while {n} changes are not committed")),
                }
            }
            Fact::Applied { server, .. } | Fact::Installed { server, .. } => {
                // What a server takes for the membership in force at what it has applied is what it has applied.
                let s = &view.servers[server];
                let known = s.raft.as_ref().and_then(|r| r.log().membership_at(s.applied.index));
                match known {
                    Some(known) if known != &s.membership => Err(format!("{server} goes by {known:?}, applied is {:?}", s.membership)),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
