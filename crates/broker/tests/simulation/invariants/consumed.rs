//! What a consumer has read never changes and never disappears.

use super::Invariant;
use crate::{
    facts::{Fact, View},
    log::Record,
};

/// Records read, by partition and offset.
pub struct Consumed(Vec<Vec<Option<Record>>>);

impl Consumed {
    /// None yet.
    pub fn new(parts: usize) -> Self {
        Self(vec![Vec::new(); parts])
    }
}

impl Invariant for Consumed {
    fn name(&self) -> &'static str {
        "consumed"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Read { part, offset, record, .. } => {
                let read = &mut self.0[*part];
                let at = *offset as usize;
                if read.len() <= at {
                    read.resize(at + 1, None);
                }
                if read[at].is_some_and(|before| before != *record) {
                    return Err(format!("{:?} was read before", read[at]));
                }
                read[at] = Some(*record);
            }
            Fact::Excused { part, end } => self.0[*part].truncate(*end as usize),
            Fact::Led { broker, part, leader_epoch } if *leader_epoch == view.leader_epoch(*part) => {
                let lacks = |(o, r): (usize, &Option<Record>)| r.is_some() && view.broker(*broker).record(*part, o as i64) != *r;
                if let Some(offset) = self.0[*part].iter().enumerate().position(lacks) {
                    return Err(format!("the new leader lacks offset {offset}, which was read"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
