//! Fetch sessions (KIP-227): a client names its partitions once, and from then on only what changes.
//!
//! Invariant: there are no more sessions than slots, and no more partitions in them than [`MAX_PARTITIONS`]. A request of a
//! session is served only with the epoch that follows the one before it. No clock: times are passed in.

mod parts;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kafka_protocol::ResponseError;

pub use parts::{Answered, Found, Part, Parts, Position, Source, Topic};

/// No session.
pub const NO_SESSION: i32 = 0;
/// Epoch of a request that begins a session, and of one that is without.
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;
/// A session that was not used for this long may be replaced by any other (`MinIncrementalFetchSessionEvictionMs`).
const EVICTION: Duration = Duration::from_secs(120);
/// Partitions of all sessions together; each takes some 300 bytes.
pub const MAX_PARTITIONS: usize = 200_000;

/// What a request says of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// the session, 0 for none
    pub id: i32,
    /// counts the requests of a session
    pub epoch: i32,
    /// topics are named by id
    pub by_id: bool,
}

impl Asked {
    /// Whether the request names all of its partitions.
    pub fn is_full(&self) -> bool {
        [INITIAL_EPOCH, FINAL_EPOCH].contains(&self.epoch)
    }

    /// Whether it wants a session.
    pub fn wants_session(&self) -> bool {
        self.epoch == INITIAL_EPOCH
    }
}

/// The session of one client.
pub type Shared = Arc<Mutex<Parts>>;

#[derive(Debug)]
struct Session {
    parts: Shared,
    /// of the next request
    epoch: i32,
    by_id: bool,
    /// of a follower
    privileged: bool,
    size: usize,
    created: Instant,
    used: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<i32, Session>,
    partitions: usize,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    slots: usize,
    inner: Mutex<Inner>,
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl Inner {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.size;
        }
    }

    /// The session that gives way to one of so many partitions (FetchSession.scala, `tryEvict`).
    fn victim(&self, privileged: bool, size: usize, now: Instant) -> Option<i32> {
        let (stale, session) = self.sessions.iter().min_by_key(|(id, s)| (s.used, **id))?;
        if now.duration_since(session.used) > EVICTION {
            return Some(*stale);
        }
        let old = |s: &Session| now.duration_since(s.created) > EVICTION;
        let evictable = self.sessions.iter().filter(|(_, s)| old(s) || (privileged && !s.privileged));
        let (id, least) = evictable.min_by_key(|(id, s)| (s.privileged, s.size, **id))?;
        ((privileged, size) > (least.privileged, least.size)).then_some(*id)
    }
}

impl Sessions {
    /// Room for so many; with none, every client is declined.
    pub fn new(slots: usize) -> Self {
        Self { slots, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a session.
    pub fn close(&self, id: i32) {
        self.inner().remove(id);
    }

    /// The session of a request that is not full. The request is counted.
    pub fn resume(&self, asked: Asked, now: Instant) -> Result<Shared, ResponseError> {
        let mut inner = self.inner();
        let session = inner.sessions.get_mut(&asked.id).ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.epoch != asked.epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != asked.by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        session.epoch = next_epoch(session.epoch);
        session.used = now;
        Ok(session.parts.clone())
    }

    /// Notes how many partitions a session has after a request changed it. Without any, or if there are too many, it ends:
    /// `false`.
    pub fn resized(&self, id: i32, size: usize) -> bool {
        let mut inner = self.inner();
        let others = inner.partitions - inner.sessions.get(&id).map_or(0, |s| s.size);
        if size == 0 || others + size > MAX_PARTITIONS {
            inner.remove(id);
            return false;
        }
        let Some(session) = inner.sessions.get_mut(&id) else {
            return false;
        };
        session.size = size;
        inner.partitions = others + size;
        true
    }

    /// Begins a session with the partitions of a full request, if it is worth a slot. Returns its id, or [`NO_SESSION`].
    pub fn create(&self, parts: Parts, by_id: bool, privileged: bool, now: Instant) -> i32 {
        let size = parts.len();
        let mut inner = self.inner();
        if self.slots == 0 || size == 0 {
            return NO_SESSION;
        }
        if inner.sessions.len() >= self.slots {
            match inner.victim(privileged, size, now) {
                Some(victim) => inner.remove(victim),
                None => return NO_SESSION,
            }
        }
        if inner.partitions + size > MAX_PARTITIONS {
            return NO_SESSION;
        }
        let id = loop {
            // Random, so that a client that was forgotten does not meet the session of another.
            let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
            let id = (random >> 33) as i32;
            if id != NO_SESSION && !inner.sessions.contains_key(&id) {
                break id;
            }
        };
        let parts = Arc::new(Mutex::new(parts));
        let session = Session { parts, epoch: next_epoch(INITIAL_EPOCH), by_id, privileged, size, created: now, used: now };
        inner.sessions.insert(id, session);
        inner.partitions += size;
        id
    }

    /// How many sessions and partitions there are.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.sessions.len(), inner.partitions)
    }
}

#[cfg(test)]
mod tests;
