//! Generations: which protocol, which topics, which metadata.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};

use super::{CONSUMER, Group, Now, State};

impl Group {
    /// The protocol with the most votes among those that all support. Each member votes for the first of its own; with as many
    /// votes, the first by name wins.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let candidates: BTreeSet<&str> =
            first.protocols.iter().map(|(name, _)| name.as_str()).filter(|name| self.members.values().all(|m| m.supports(name))).collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for vote in self.members.values().filter_map(|m| m.vote(&candidates)) {
            *votes.entry(vote).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, n)| *n == most).map(|(name, _)| name.to_owned())
    }

    /// initNextGeneration.
    pub(super) fn next_generation(&mut self, now: Now) {
        // Kafka's integer wraps around; a negative generation would mean no generation.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.select_protocol();
        self.subscribed = self.compute_subscribed();
        self.pending_sync.clear();
        self.waiting = None;
        self.transition(if self.members.is_empty() { State::Empty } else { State::CompletingRebalance }, now);
    }

    /// What the leader gets: metadata of all for the chosen protocol.
    pub(super) fn metadata(&self) -> Vec<(String, Option<String>, Bytes)> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members.values().map(|m| (m.id.clone(), m.instance_id.clone(), m.metadata(protocol))).collect()
    }

    /// Topics that members are subscribed to; `None` if that cannot be known.
    pub(super) fn compute_subscribed(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut out = BTreeSet::new();
        for m in self.members.values() {
            out.extend(topics(m.metadata(protocol))?);
        }
        Some(out)
    }

    /// Whether offsets of a topic are in use by members.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.as_ref().is_none_or(|s| s.contains(topic))
    }

    /// Topics that members are subscribed to, if that is known.
    pub fn subscribed(&self) -> Option<&BTreeSet<String>> {
        self.subscribed.as_ref()
    }
}

/// Topics of a consumer's subscription, of which all versions begin alike: version, then an array of strings.
fn topics(mut metadata: Bytes) -> Option<Vec<String>> {
    metadata.try_get_i16().ok()?;
    let count = usize::try_from(metadata.try_get_i32().ok()?).ok()?;
    let mut out = Vec::new();
    for _ in 0..count {
        let n = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        if metadata.remaining() < n {
            return None;
        }
        out.push(String::from_utf8(metadata.split_to(n).to_vec()).ok()?);
    }
    Some(out)
}
