//! Every member of an ISR that is written has all that is committed; so has every leader that is elected.
//!
//! A replica that lost records in a power cut may be listed until the controller knows of it, and may lead, alone, if no other
//! member of the ISR that has more is there, or if all of them had died.

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at each state that is written.
pub struct Isr;

impl Invariant for Isr {
    fn name(&self) -> &'static str {
        "isr"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        let Fact::Written { part, old, new, known, .. } = fact else {
            return Ok(());
        };
        let registered = &view.znodes.tree.brokers;
        if new.state.isr.is_empty() {
            return Err("it is empty".to_owned());
        }
        if new.state.leader > 0 && !new.state.isr.contains(&new.state.leader) {
            return Err("the leader is not in it".to_owned());
        }
        for member in &new.state.isr {
            let broker = view.broker(*member);
            if view.ledger.complete(broker, *part) {
                continue;
            }
            let has = broker.parts.get(part).map_or(0, |r| r.log.end());
            let why = format!("broker {member} has {has} of {} committed records", view.ledger.committed[*part].len());
            if !view.ledger.lossy.contains(&(*member, *part)) {
                return Err(why);
            }
            let all_died = old.as_ref().is_some_and(|s| s.state.leader < 0) && new.state.isr.len() == 1;
            let before = old.as_ref().map(|s| s.state.isr.clone()).unwrap_or_default();
            let better = before.iter().any(|r| *r != *member && registered.contains_key(r) && view.ledger.complete(view.broker(*r), *part));
            let known_as_it_is =
                broker.registered && known.get(member) == Some(&broker.epoch) && registered.get(member) == Some(&broker.epoch);
            if better
                && !all_died
                && (known_as_it_is || new.state.leader == *member && known.get(member) == registered.get(member) && broker.registered)
            {
                return Err(why);
            }
        }
        Ok(())
    }
}
