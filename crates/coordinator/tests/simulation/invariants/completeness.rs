//! A leader has every entry that was committed, and nobody cuts one off.

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at each new leader, and at what is cut off.
pub struct Completeness;

impl Invariant for Completeness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Led { server, term } => {
                let s = &view.servers[server];
                let behind = view.ledger.committed.range(s.base.index + 1..);
                match behind.map(|(_, (id, _))| id).find(|id| id.term < *term && !s.has(**id)) {
                    Some(id) => Err(format!("{server} leads term {term} without entry {id}, which is committed")),
                    None => Ok(()),
                }
            }
            Fact::Truncated { server, from } => {
                let s = &view.servers[server];
                let behind = view.ledger.committed.range(from..).map(|(_, (id, _))| id);
                match behind.into_iter().find(|id| s.has(**id)) {
                    Some(id) => Err(format!("{server} cuts entry {id} off, which is committed")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
