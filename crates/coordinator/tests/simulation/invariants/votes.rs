//! A server votes once in a term, and its vote is durable before it leaves.

use std::collections::BTreeMap;

use septet_coordinator::raft::Body;

use super::Invariant;
use crate::facts::{Fact, View};

/// Votes by server, disk and term.
#[derive(Default)]
pub struct Votes(BTreeMap<(u64, u64, u64), u64>);

impl Invariant for Votes {
    fn name(&self) -> &'static str {
        "votes"
    }

    fn check(&mut self, fact: &Fact<'_>, view: &View<'_>) -> Result<(), String> {
        let Fact::Sent { server, to, message } = fact else { return Ok(()) };
        let candidate = match message.body {
            Body::VoteAnswer { granted: true } => *to,
            Body::Vote { .. } => *server,
            _ => return Ok(()),
        };
        let (s, term) = (&view.servers[server], message.term);
        let hard = s.disk.durable.hard;
        if hard.term < term || (hard.term == term && hard.voted_for != Some(candidate)) {
            return Err(format!("{server} votes for {candidate} in term {term}, durable is {hard:?}"));
        }
        match self.0.insert((*server, s.disk_number, term), candidate) {
            Some(other) if other != candidate => Err(format!("{server} votes for {other} and {candidate} in term {term}")),
            _ => Ok(()),
        }
    }
}
