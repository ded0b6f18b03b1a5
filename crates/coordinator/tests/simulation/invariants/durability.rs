//! What is committed is durable on a majority; what is acknowledged to a leader is durable.

use septet_coordinator::raft::{Body, EntryId, Membership};

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at what is applied for the first time, and at acknowledgements.
#[derive(Default)]
pub struct Durability {
    /// memberships that leaders appended: where, and from which to which
    changed: Vec<(EntryId, Membership, Membership)>,
}

impl Invariant for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { server, id, .. } => {
                let s = &view.servers[server];
                if !s.disk.durable.has(*id) {
                    return Err(format!("{server} applies {id}, which is not durable there"));
                }
                let durable = |m: &Membership| m.voters.iter().filter(|v| view.servers[v].disk.durable.has(*id)).count() >= m.quorum();
                let last = view.ledger.committed.keys().next_back().copied().unwrap_or(0);
                // Later on, disks may have been lost.
                let first = id.index == last;
                // The leader may have counted by a later membership than this server knows.
                let logs = || view.servers.values().filter_map(|s| s.raft.as_ref()).map(|r| r.log());
                let known = logs().filter_map(|log| log.membership()).chain(logs().filter_map(|log| log.membership_at(id.index)));
                let known: Vec<&Membership> = known.collect();
                // So may a leader that is gone, and its change with it. Each majority of that one meets each of the one before.
                let gone = self.changed.iter().filter(|(at, from, _)| at.index > id.index && known.contains(&from)).map(|(.., to)| to);
                if first && !known.iter().copied().chain(gone).any(durable) && view.servers.values().all(|s| s.disk_number == 0) {
                    return Err(format!("{id} is applied, and durable on no majority"));
                }
                Ok(())
            }
            Fact::Changed { from, to, at, .. } => {
                self.changed.push((*at, (*from).clone(), (*to).clone()));
                Ok(())
            }
            Fact::Sent { server, message, .. } => {
                let Body::AppendAck { matched, .. } = &message.body else { return Ok(()) };
                let d = &view.servers[server].disk.durable;
                let last = d.log.last().map_or(d.base.index, |e| e.id.index).max(d.covered());
                if *matched > last { Err(format!("{server} acknowledges {matched}, {last} are durable")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}
