//! A term has one leader.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Fact, View};

/// Leaders by term.
#[derive(Default)]
pub struct ElectionSafety(BTreeMap<u64, u64>);

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn check(&mut self, fact: &Fact<'_>, _: &View<'_>) -> Result<(), String> {
        let Fact::Led { server, term } = fact else { return Ok(()) };
        match self.0.insert(*term, *server) {
            Some(other) if other != *server => Err(format!("{other} and {server} lead term {term}")),
            _ => Ok(()),
        }
    }
}
