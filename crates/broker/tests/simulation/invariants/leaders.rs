//! A leader epoch has one leader.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// Who led: by partition and leader epoch.
#[derive(Default)]
pub struct Leaders(BTreeMap<(usize, i32), i32>);

impl Invariant for Leaders {
    fn name(&self) -> &'static str {
        "leaders"
    }

    fn check(&mut self, fact: &Fact, _: &View<'_>) -> Result<(), String> {
        let (broker, part, epoch) = match fact {
            Fact::Led { broker, part, leader_epoch } => (*broker, *part, *leader_epoch),
            Fact::Appended { broker, part, leader_epoch, leads: true, .. } => (*broker, *part, *leader_epoch),
            _ => return Ok(()),
        };
        match *self.0.entry((part, epoch)).or_insert(broker) {
            other if other != broker => Err(format!("broker {other} led in this epoch")),
            _ => Ok(()),
        }
    }
}
