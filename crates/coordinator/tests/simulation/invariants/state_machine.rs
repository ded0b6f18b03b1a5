//! All servers apply the same entries in the same order: behind each index the state is the same.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// The last index that each server has applied in its life.
#[derive(Default)]
pub struct StateMachine(BTreeMap<(u64, u64), u64>);

impl Invariant for StateMachine {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        let (server, id, digest) = match fact {
            Fact::Applied { server, id, digest } | Fact::Installed { server, last: id, digest } => (*server, *id, *digest),
            Fact::Acknowledged { id, value } => {
                return match view.ledger.committed.get(&id.index) {
                    Some((committed, _)) if committed == id => Ok(()),
                    _ => Err(format!("write {value} was acknowledged, and its entry {id} is not committed")),
                };
            }
            _ => return Ok(()),
        };
        let life = view.servers[&server].life;
        let last = self.0.insert((server, life), id.index);
        if let (Fact::Applied { .. }, Some(last)) = (fact, last)
            && last + 1 != id.index
        {
            return Err(format!("{server} applies {id} behind {last}"));
        }
        match view.ledger.committed.get(&id.index) {
            Some((other, _)) if *other != id => Err(format!("{server} applies {id}, another applied {other}")),
            Some((_, other)) if *other != digest => Err(format!("the state of {server} behind {id} is not that of others")),
            _ => Ok(()),
        }
    }
}
