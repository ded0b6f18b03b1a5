//! Two logs that have a record of the same epoch at the same offset have the same record there, and the same ones before it.

use std::collections::BTreeMap;

use super::Invariant;
use crate::{
    facts::{Fact, View},
    log::Record,
};

/// What was found at a partition's offset for an epoch: the value and the record before it.
#[derive(Default)]
pub struct LogMatching(BTreeMap<(usize, i64, i32), (u32, Option<Record>)>);

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        let Fact::Appended { broker, part, from, to, .. } = fact else {
            return Ok(());
        };
        let broker = view.broker(*broker);
        let mut before = broker.record(*part, from - 1);
        for offset in *from..*to {
            let Some(record) = broker.record(*part, offset) else {
                return Ok(());
            };
            if before.is_some_and(|b| b.epoch > record.epoch) {
                return Err(format!("epochs go back at offset {offset}"));
            }
            let found = (record.value, before);
            let first = *self.0.entry((*part, offset, record.epoch)).or_insert(found);
            if first != found {
                return Err(format!("offset {offset} of epoch {}: {first:?} elsewhere, {found:?} here", record.epoch));
            }
            before = Some(record);
        }
        Ok(())
    }
}
