//! A record that is acknowledged with acks=all is in two logs (`min.insync.replicas`), but for what a power cut took since; it is in the log of every later leader, and in the end in every log.

use super::Invariant;
use crate::{
    broker::Broker,
    facts::{Fact, View},
};

/// Offsets and values, by partition.
pub struct Acknowledged(Vec<Vec<(i64, u32)>>);

impl Acknowledged {
    /// None yet.
    pub fn new(parts: usize) -> Self {
        Self(vec![Vec::new(); parts])
    }

    fn all_in(&self, broker: &Broker, part: usize) -> Result<(), String> {
        match self.0[part].iter().find(|(offset, value)| broker.record(part, *offset).is_none_or(|r| r.value != *value)) {
            Some((offset, value)) => Err(format!("broker {} lacks {value} at {offset}, which was acknowledged", broker.id)),
            None => Ok(()),
        }
    }
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn check(&mut self, fact: &Fact, view: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Acknowledged { part, offset, value, .. } => {
                self.0[*part].push((*offset, *value));
                let has =
                    |b: &&Broker| b.record(*part, *offset).is_some_and(|r| r.value == *value) || view.ledger.lossy.contains(&(b.id, *part));
                let copies = view.brokers.iter().filter(has).count();
                if copies < 2 {
                    return Err(format!("{copies} replicas have it"));
                }
            }
            Fact::Excused { part, end } => self.0[*part].retain(|(offset, _)| offset < end),
            Fact::Led { broker, part, leader_epoch } if *leader_epoch == view.leader_epoch(*part) => {
                return self.all_in(view.broker(*broker), *part);
            }
            Fact::Settled => {
                for part in 0..self.0.len() {
                    for broker in view.brokers.iter().filter(|b| b.parts.contains_key(&part)) {
                        self.all_in(broker, part)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
