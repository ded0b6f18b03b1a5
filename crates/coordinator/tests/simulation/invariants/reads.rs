//! Reads are linearizable: none shows a state older than what a client knew when it asked.

use super::Invariant;
use crate::facts::{Fact, View};

/// Looks at each read.
pub struct Reads;

impl Invariant for Reads {
    fn name(&self) -> &'static str {
        "reads"
    }

    fn check(&mut self, fact: &Fact<'_>, _: &View<'_>) -> Result<(), String> {
        match fact {
            Fact::Read { server, floor, index } if index < floor => {
                Err(format!("{server} answers with the state at {index}, and {floor} was known before"))
            }
            _ => Ok(()),
        }
    }
}
