//! One controller per epoch; one that was replaced writes nothing and is not obeyed; nothing is written over what its writer
//! has not seen.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// Who was elected, and the highest epoch that each broker has obeyed since it began.
#[derive(Default)]
pub struct Controllers {
    elected: BTreeMap<i32, i32>,
    obeyed: BTreeMap<i32, i32>,
}

impl Invariant for Controllers {
    fn name(&self) -> &'static str {
        "controllers"
    }

    fn check(&mut self, fact: &Fact, _: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Elected { broker, epoch } => {
                if let Some(other) = self.elected.insert(*epoch, *broker) {
                    return Err(format!("broker {other} was controller in this epoch"));
                }
            }
            Fact::Written { writer, current, .. } | Fact::Placed { writer, current, .. } if writer != current => {
                return Err(format!("the controller of epoch {writer} wrote in epoch {current}"));
            }
            Fact::Written { old, replaced, .. } if old.as_ref().map(|s| s.version) != *replaced => {
                return Err("an update was lost".to_owned());
            }
            Fact::Obeyed { broker, epoch } => {
                let highest = self.obeyed.entry(*broker).or_insert(*epoch);
                if epoch < highest {
                    return Err(format!("the controller of epoch {highest} was obeyed before"));
                }
                *highest = *epoch;
            }
            Fact::Started { broker } => drop(self.obeyed.remove(broker)),
            _ => {}
        }
        Ok(())
    }
}
