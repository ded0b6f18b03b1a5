//! What of the log is in memory: where each entry is, and the newest entries themselves.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::raft::{Entry, EntryId, HardState, Membership, Payload};

/// Newest entries that are held in memory, in bytes of their records: what is applied and sent to followers that keep up. Others are read
/// from files.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// An entry that is not purged.
pub(super) struct Slot {
    pub(super) id: EntryId,
    /// length of its record
    pub(super) bytes: usize,
    /// first index of its file, and offset in it, once it is written
    pub(super) place: Option<(u64, u64)>,
    /// unless it must be read from there
    pub(super) entry: Option<Box<Entry>>,
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) slots: BTreeMap<u64, Slot>,
    /// bytes of all slots, and of those with an entry
    pub(super) bytes: usize,
    pub(super) cached: usize,
    /// no slot before this index has an entry
    pub(super) first_cached: u64,
    /// the last entry that was purged; index 0 if none was
    pub(super) purged: EntryId,
    pub(super) hard: HardState,
    /// the first membership, unless only a snapshot has it
    pub(super) formation: Option<Membership>,
    /// memberships behind `purged`
    pub(super) memberships: BTreeMap<u64, Membership>,
    /// index up to which the log is committed
    pub(super) committed: u64,
}

impl Held {
    pub(super) fn insert(&mut self, entry: Entry, bytes: usize, place: Option<(u64, u64)>) {
        let id = entry.id;
        if let Payload::Membership(m) = &entry.payload {
            self.memberships.insert(id.index, m.clone());
        }
        self.bytes += bytes;
        self.cached += bytes;
        self.first_cached = self.first_cached.min(id.index);
        self.slots.insert(id.index, Slot { id, bytes, place, entry: Some(Box::new(entry)) });
    }

    pub(super) fn forget(&mut self, gone: BTreeMap<u64, Slot>) {
        for slot in gone.values() {
            self.bytes -= slot.bytes;
            self.cached -= slot.entry.as_ref().map_or(0, |_| slot.bytes);
        }
    }

    /// Removes those from this index on.
    pub(super) fn cut(&mut self, from: u64) {
        let gone = self.slots.split_off(&from);
        self.memberships.split_off(&from);
        self.forget(gone);
    }

    /// Removes those before this index.
    pub(super) fn drop_before(&mut self, index: u64) {
        self.memberships = self.memberships.split_off(&index);
        let kept = self.slots.split_off(&index);
        let gone = std::mem::replace(&mut self.slots, kept);
        self.forget(gone);
    }

    /// Lets go of the oldest entries that are on disk, while there are too many.
    pub(super) fn evict(&mut self) {
        let mut range = self.slots.range_mut(self.first_cached..);
        while self.cached > CACHE_BYTES
            && let Some((index, slot)) = range.next()
            && slot.place.is_some()
        {
            self.cached -= slot.entry.take().map_or(0, |_| slot.bytes);
            self.first_cached = index + 1;
        }
    }
}

pub(super) fn lock(m: &Mutex<Held>) -> MutexGuard<'_, Held> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
