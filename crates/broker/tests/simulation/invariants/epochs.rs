//! Leader epochs and versions of states grow; another leader has a higher leader epoch. What a broker follows grows too.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// Leader epoch and partition epoch that each broker has for a partition, since it began.
#[derive(Default)]
pub struct Epochs(BTreeMap<(i32, usize), (i32, i32)>);

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "epochs"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Written { old: Some(old), new, .. } => {
                let (before, after) = (&old.state, &new.state);
                if after.leader_epoch < before.leader_epoch || after.leader != before.leader && after.leader_epoch == before.leader_epoch {
                    return Err("the leader epoch did not grow".to_owned());
                }
                if new.version <= old.version {
                    return Err("the version did not grow".to_owned());
                }
            }
            Fact::Decided { broker, part, leader_epoch, .. } => {
                let a = view.broker(*broker).parts.get(part).map(|r| r.core.assignment());
                let now = a.map_or((*leader_epoch, -1), |a| (a.leader_epoch, a.partition_epoch));
                let before = self.0.insert((*broker, *part), now);
                if before.is_some_and(|b| b > now) {
                    return Err(format!("broker {broker} went back from {before:?} to {now:?}"));
                }
            }
            Fact::Started { broker } => self.0.retain(|(b, _), _| b != broker),
            Fact::Truncated { broker, part, .. } if !view.broker(*broker).parts.contains_key(part) => {
                self.0.remove(&(*broker, *part));
            }
            _ => {}
        }
        Ok(())
    }
}
