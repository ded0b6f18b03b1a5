//! A leader's high watermark does not go back within its leadership; every member of the ISR has all that is below; and all
//! leaders agree on what is below.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// The last one of each leadership: broker, partition, leader epoch.
#[derive(Default)]
pub struct HighWatermark(BTreeMap<(i32, usize, i32), i64>);

impl Invariant for HighWatermark {
    fn name(&self) -> &'static str {
        "high watermark"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        let (broker, part, leader_epoch, to) = match fact {
            Fact::Committed { broker, part, leader_epoch, to } => (*broker, *part, *leader_epoch, *to),
            Fact::Started { broker } => {
                self.0.retain(|(b, ..), _| b != broker);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let before = self.0.insert((broker, part, leader_epoch), to);
        if before.is_some_and(|b| b > to) {
            return Err(format!("it was {before:?} before"));
        }
        let leader = view.broker(broker);
        if to > leader.parts.get(&part).map_or(0, |r| r.log.end()) {
            return Err("it is behind the leader's own log".to_owned());
        }
        let committed = &view.ledger.committed[part];
        let shared = to.min(committed.len() as i64) - 1;
        if shared >= 0 && leader.record(part, shared) != Some(committed[shared as usize]) {
            return Err(format!("offset {shared} was committed as {:?}", committed[shared as usize]));
        }
        let Some(state) = view.znodes.state(part).filter(|s| s.leader_epoch == leader_epoch && to > 0) else {
            return Ok(());
        };
        for member in &state.isr {
            let lossy = view.ledger.lossy.contains(&(*member, part));
            if !lossy && view.broker(*member).record(part, to - 1) != leader.record(part, to - 1) {
                return Err(format!("broker {member} of the ISR {:?} has not got offset {}", state.isr, to - 1));
            }
        }
        Ok(())
    }
}
