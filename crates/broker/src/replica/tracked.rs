//! Partitions that a fetcher follows at its leader, and which of them the next request has to look at.
//!
//! Invariant: a partition whose position may have changed since it was last sent is dirty, delayed, or both; the cost of a request
//! follows the number of dirty partitions, not the number of those that are followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// A partition on the wire: topic id and number.
pub type Key = ([u8; 16], i32);

#[derive(Debug)]
struct Slot<T> {
    what: T,
    not_before: Option<Instant>,
}

/// What is followed, with what is known of each partition.
#[derive(Debug)]
pub struct Tracked<T> {
    slots: BTreeMap<Key, Slot<T>>,
    dirty: BTreeSet<Key>,
    delayed: BTreeSet<(Instant, Key)>,
}

impl<T> Default for Tracked<T> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), dirty: BTreeSet::new(), delayed: BTreeSet::new() }
    }
}

impl<T> Tracked<T> {
    /// Follows just these from now on. Those for which `same` holds keep their delay.
    pub fn replace(&mut self, new: impl IntoIterator<Item = (Key, T)>, same: impl Fn(&T, &T) -> bool) {
        let mut old = std::mem::take(&mut self.slots);
        for (key, what) in new {
            let known = old.remove(&key).filter(|o| same(&o.what, &what));
            if known.is_none() {
                self.dirty.insert(key);
            }
            self.slots.insert(key, Slot { what, not_before: known.and_then(|o| o.not_before) });
        }
        // Named once more, so that the leader forgets them.
        self.dirty.extend(old.into_keys());
        self.delayed = self.slots.iter().filter_map(|(key, s)| Some((s.not_before?, *key))).collect();
    }

    /// A partition, if it is followed.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.slots.get(key).map(|s| &s.what)
    }

    /// Looks at a partition again with the next request.
    pub fn touch(&mut self, key: Key) {
        self.dirty.insert(key);
    }

    /// Looks at all partitions again with the next request.
    pub fn touch_all(&mut self) {
        self.dirty.extend(self.slots.keys());
    }

    /// Leaves a partition out until a point in time.
    pub fn delay(&mut self, key: Key, until: Instant) {
        if let Some(slot) = self.slots.get_mut(&key) {
            if let Some(old) = slot.not_before.replace(until) {
                self.delayed.remove(&(old, key));
            }
            self.delayed.insert((until, key));
            self.dirty.insert(key);
        }
    }

    /// Leaves those of which something holds out until a point in time.
    pub fn delay_where(&mut self, until: Instant, holds: impl Fn(&T) -> bool) {
        let some: Vec<Key> = self.slots.iter().filter(|(_, s)| s.not_before.is_none() && holds(&s.what)).map(|(key, _)| *key).collect();
        some.into_iter().for_each(|key| self.delay(key, until));
    }

    /// When the next delay ends.
    pub fn next(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Ends the delays whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while let Some((at, key)) = self.delayed.first().copied().filter(|(at, _)| *at <= now) {
            self.delayed.remove(&(at, key));
            self.dirty.insert(key);
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.not_before = None;
            }
        }
    }

    /// Whether nothing is to be fetched now.
    pub fn is_idle(&self) -> bool {
        self.slots.len() == self.delayed.len()
    }

    /// Takes the dirty partitions. `None`: not to be fetched now.
    pub fn take_dirty(&mut self) -> Vec<(Key, Option<&T>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| (key, self.slots.get(&key).filter(|s| s.not_before.is_none()).map(|s| &s.what))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(index: i32) -> Key {
        ([1; 16], index)
    }

    fn taken(t: &mut Tracked<u8>, now: Instant) -> Vec<(i32, Option<u8>)> {
        t.wake(now);
        t.take_dirty().into_iter().map(|(key, what)| (key.1, what.copied())).collect()
    }

    #[test]
    fn only_what_may_have_changed_is_looked_at() {
        let now = Instant::now();
        let mut t = Tracked::default();
        assert!(t.is_idle());
        let same = |a: &u8, b: &u8| a == b;
        t.replace([(key(0), 10), (key(1), 11), (key(2), 12)], same);
        assert_eq!(taken(&mut t, now), [(0, Some(10)), (1, Some(11)), (2, Some(12))]);
        assert_eq!(taken(&mut t, now), []);
        t.touch(key(1));
        assert_eq!(taken(&mut t, now), [(1, Some(11))]);
        t.replace([(key(0), 10), (key(1), 21)], same);
        assert_eq!(taken(&mut t, now), [(1, Some(21)), (2, None)], "another one, and one that is gone");
        t.touch_all();
        assert_eq!(taken(&mut t, now).len(), 2);
    }

    #[test]
    fn some_are_delayed_together() {
        let (now, mut t) = (Instant::now(), Tracked::default());
        t.replace((0..3).map(|i| (key(i), i as u8)), |a: &u8, b: &u8| a == b);
        assert_eq!(taken(&mut t, now).len(), 3);
        let soon = now + Duration::from_secs(1);
        t.delay_where(soon, |what| *what != 1);
        assert_eq!((taken(&mut t, now), t.is_idle()), (vec![(0, None), (2, None)], false));
        t.delay_where(soon + Duration::from_secs(1), |_| true);
        assert_eq!((taken(&mut t, now), t.is_idle(), t.next()), (vec![(1, None)], true, Some(soon)), "a delay is not made longer");
        assert_eq!(taken(&mut t, soon), [(0, Some(0)), (2, Some(2))]);
    }

    #[test]
    fn a_delayed_partition_is_left_out_until_its_time() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        let mut t = Tracked::default();
        let same = |a: &u8, b: &u8| a == b;
        t.replace([(key(0), 10), (key(1), 11)], same);
        taken(&mut t, now);
        t.delay(key(0), later);
        t.delay(key(0), soon);
        assert_eq!(t.next(), Some(soon));
        assert_eq!(taken(&mut t, now), [(0, None)], "the leader forgets it meanwhile");
        t.replace([(key(0), 10), (key(1), 11)], same);
        assert_eq!((t.next(), t.is_idle()), (Some(soon), false));
        t.delay(key(1), later);
        assert!(t.is_idle());
        assert_eq!(taken(&mut t, soon), [(0, Some(10)), (1, None)]);
        t.replace([(key(1), 31)], same);
        assert_eq!((t.next(), taken(&mut t, now)), (None, vec![(0, None), (1, Some(31))]), "another leadership has no delay");
    }
}
