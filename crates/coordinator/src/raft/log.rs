//! What the core knows of the log: ids, sizes and memberships, how much is durable.
//!
//! Invariant: `durable` counts only what no later truncation has cut off, whenever writes are reported.

use std::collections::VecDeque;

use super::{Entry, EntryId, Membership, Payload};

/// Entries in a row of one leader.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    term: u64,
    leader: u64,
}

/// The log without what its entries hold.
#[derive(Debug)]
pub struct LogView {
    /// everything up to here is in a snapshot only
    base: EntryId,
    base_membership: Option<Membership>,
    runs: VecDeque<Run>,
    /// bytes of all entries up to each one behind `base`
    totals: VecDeque<u64>,
    base_total: u64,
    /// memberships behind `base`
    memberships: Vec<(u64, Membership)>,
    durable: u64,
    /// writes that are not durable: their number, and the last index that they make durable
    writes: VecDeque<(u64, u64)>,
}

impl LogView {
    /// A log that begins behind `base`; without a membership it is blank.
    pub fn new(base: EntryId, membership: Option<Membership>) -> Self {
        Self {
            base,
            base_membership: membership,
            runs: VecDeque::new(),
            totals: VecDeque::new(),
            base_total: 0,
            memberships: Vec::new(),
            durable: base.index,
            writes: VecDeque::new(),
        }
    }

    /// Adds an entry that is on disk.
    pub fn load(&mut self, id: EntryId, bytes: usize, membership: Option<Membership>) {
        self.push(id, bytes, membership);
        self.durable = id.index;
    }

    fn push(&mut self, id: EntryId, bytes: usize, membership: Option<Membership>) {
        if self.runs.back().is_none_or(|r| (r.term, r.leader) != id.origin()) {
            self.runs.push_back(Run { first: id.index, term: id.term, leader: id.leader });
        }
        let total = self.totals.back().copied().unwrap_or(self.base_total);
        self.totals.push_back(total + bytes as u64);
        if let Some(membership) = membership {
            self.memberships.push((id.index, membership));
        }
    }

    pub(super) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let membership = if let Payload::Membership(m) = &entry.payload { Some(m.clone()) } else { None };
            self.push(entry.id, entry.bytes(), membership);
        }
    }

    /// Whether there is no data, not even a membership.
    pub fn is_blank(&self) -> bool {
        self.membership().is_none()
    }

    pub(super) fn form(&mut self, membership: Membership) {
        self.base_membership = Some(membership);
    }

    /// The last entry that only a snapshot has.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        let index = self.last_index();
        self.id(index).unwrap_or(self.base)
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.base.index + self.totals.len() as u64
    }

    /// The entry at an index, unless only a snapshot has it.
    pub fn id(&self, index: u64) -> Option<EntryId> {
        if index == self.base.index {
            return Some(self.base);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        let after = self.runs.partition_point(|r| r.first <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(EntryId { term: run.term, leader: run.leader, index })
    }

    /// Whether the log has this entry.
    pub fn has(&self, id: EntryId) -> bool {
        self.id(id.index) == Some(id)
    }

    /// The last entry at or before an index that is of no later leader than this one.
    pub(super) fn last_not_after(&self, index: u64, origin: (u64, u64)) -> EntryId {
        let index = index.min(self.last_index());
        let Some(id) = self.id(index) else { return self.base };
        if id.origin() <= origin {
            return id;
        }
        let after = self.runs.partition_point(|r| (r.term, r.leader) <= origin);
        // The run behind is of a later leader, so what is wanted ends before it begins.
        self.runs.get(after).map_or(id, |r| self.id(r.first - 1).unwrap_or(self.base))
    }

    /// Bytes of the entries behind `from`, up to `upto`.
    pub(super) fn bytes(&self, from: u64, upto: u64) -> u64 {
        self.total(upto) - self.total(from)
    }

    fn total(&self, index: u64) -> u64 {
        match index.checked_sub(self.base.index + 1) {
            Some(at) => self.totals.get(at as usize).or(self.totals.back()).copied().unwrap_or(self.base_total),
            None => self.base_total,
        }
    }

    /// The greatest index such that the entries behind `from` up to it have no more than so many bytes, or are one.
    pub(super) fn fitting(&self, from: u64, bytes: usize) -> u64 {
        let limit = self.total(from) + bytes as u64;
        let fits = self.base.index + self.totals.partition_point(|t| *t <= limit) as u64;
        fits.max(from + 1).min(self.last_index())
    }

    /// The newest membership.
    pub fn membership(&self) -> Option<&Membership> {
        self.memberships.last().map(|(_, m)| m).or(self.base_membership.as_ref())
    }

    /// The membership in force at an index, unless only a snapshot knows it.
    pub fn membership_at(&self, index: u64) -> Option<&Membership> {
        self.memberships.iter().rev().find(|(at, _)| *at <= index).map(|(_, m)| m).or(self.base_membership.as_ref())
    }

    /// Index of the newest membership in the log.
    pub(super) fn membership_index(&self) -> u64 {
        self.memberships.last().map_or(0, |(at, _)| *at)
    }

    /// Removes the entries from an index on.
    pub(super) fn truncate(&mut self, from: u64) {
        let keep = from.saturating_sub(self.base.index + 1) as usize;
        self.totals.truncate(keep);
        while self.runs.back().is_some_and(|r| r.first >= from) {
            self.runs.pop_back();
        }
        self.memberships.retain(|(at, _)| *at < from);
        let kept = self.last_index();
        self.durable = self.durable.min(kept);
        for (_, upto) in &mut self.writes {
            *upto = (*upto).min(kept);
        }
    }

    /// A write was put out that makes everything durable that there is.
    pub(super) fn wrote(&mut self, number: u64) {
        self.writes.push_back((number, self.last_index()));
    }

    pub(super) fn persisted(&mut self, number: u64) {
        while let Some((_, upto)) = self.writes.front().copied().filter(|(n, _)| *n <= number) {
            self.writes.pop_front();
            self.durable = self.durable.max(upto);
        }
    }

    /// Index up to which the log is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Forgets the entries up to an index, which a snapshot has.
    pub(super) fn compact(&mut self, upto: u64) {
        let Some(base) = self.id(upto).filter(|id| id.index > self.base.index) else { return };
        let membership = self.membership_at(upto).cloned();
        self.base_total = self.total(upto);
        self.totals.drain(..(upto - self.base.index) as usize);
        while self.runs.get(1).is_some_and(|r| r.first <= upto + 1) {
            self.runs.pop_front();
        }
        if self.totals.is_empty() {
            self.runs.clear();
        }
        self.memberships.retain(|(at, _)| *at > upto);
        self.base = base;
        self.base_membership = membership;
    }

    /// Replaces everything by a snapshot that is durable.
    pub(super) fn reset(&mut self, base: EntryId, membership: Membership) {
        let writes = std::mem::take(&mut self.writes);
        *self = Self::new(base, Some(membership));
        self.writes = writes.into_iter().map(|(number, _)| (number, base.index)).collect();
    }
}
