//! What is told of changes of partitions: fetches that wait, and fetch sessions.
//!
//! Invariant: after a change its slot is listed until it is taken, once, however often it changes. Registration comes before
//! reading: what comes in between is listed.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slots whose partitions have changed, of one fetch or session.
#[derive(Debug, Default)]
pub struct Changes {
    /// in the order in which they changed; the set is for looking up
    listed: Mutex<(Vec<u32>, HashSet<u32>)>,
    woken: Notify,
}

impl Changes {
    fn note(&self, slot: u32) {
        let mut listed = lock(&self.listed);
        if listed.1.insert(slot) {
            listed.0.push(slot);
            self.woken.notify_one();
        }
    }

    /// Takes what is listed.
    pub fn take(&self) -> Vec<u32> {
        let mut listed = lock(&self.listed);
        listed.1.clear();
        std::mem::take(&mut listed.0)
    }

    /// Ends after something was listed since the last call.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

/// Those that want to know when one partition changes.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<HashMap<u64, (Arc<Changes>, u32)>>);

impl Watchers {
    /// Lists a slot whenever the partition changes, until the watch is dropped.
    pub fn add(self: &Arc<Self>, changes: &Arc<Changes>, slot: u32) -> Watch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&self.0).insert(id, (changes.clone(), slot));
        Watch { watchers: self.clone(), id }
    }

    /// The partition has changed: its end, high watermark, first offset, or leadership.
    pub fn wake(&self) {
        lock(&self.0).values().for_each(|(changes, slot)| changes.note(*slot));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// A registration; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    watchers: Arc<Watchers>,
    id: u64,
}

impl Watch {
    /// Whether this is a registration with these.
    pub fn is_with(&self, watchers: &Arc<Watchers>) -> bool {
        Arc::ptr_eq(&self.watchers, watchers)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.watchers.0).remove(&self.id);
    }
}
