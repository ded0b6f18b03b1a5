//! An entry with the same id is the same everywhere, and so is everything before it.

use std::collections::BTreeMap;

use septet_coordinator::raft::EntryId;

use super::Invariant;
use crate::{
    facts::{Fact, View},
    server::digest,
};

/// What is before each entry, and a hash of what it holds.
#[derive(Default)]
pub struct LogMatching(BTreeMap<EntryId, (EntryId, u64)>);

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn check(&mut self, fact: &Fact<'_>, _: &View<'_>) -> Result<(), String> {
        let Fact::Appended { server, prev, entry } = fact else { return Ok(()) };
        if prev.index + 1 != entry.id.index || prev.origin() > entry.id.origin() {
            return Err(format!("{server} has entry {} behind {prev}", entry.id));
        }
        let content = (*prev, digest(0, entry));
        match self.0.insert(entry.id, content) {
            Some(before) if before != content => Err(format!("entry {} of {server} is another than elsewhere", entry.id)),
            _ => Ok(()),
        }
    }
}
