//! A member of the ISR never cuts committed records, unless it lost some of them or its replica is removed. Others may, when they
//! follow a leader that has been replaced already.

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at each truncation.
pub struct Committed;

impl Invariant for Committed {
    fn name(&self) -> &'static str {
        "committed"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        if let Fact::Truncated { broker, part, to } = fact {
            let committed = &view.ledger.committed[*part];
            let in_sync = view.znodes.state(*part).is_some_and(|s| s.isr.contains(broker));
            let kept = in_sync && view.broker(*broker).parts.contains_key(part) && !view.ledger.lossy.contains(&(*broker, *part));
            let end = committed.len() as i64;
            // It may have lacked them before: then what it cuts are others.
            if kept && *to < end && view.broker(*broker).cut_committed(*part, *to, committed) {
                return Err(format!("broker {broker} cut to {to}, but {end} are committed"));
            }
        }
        Ok(())
    }
}
