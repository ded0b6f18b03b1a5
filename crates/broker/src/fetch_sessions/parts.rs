//! The partitions that a fetch, or a session of fetches, is about.
//!
//! Invariant: a partition is read again only if it has changed, its position has, there was more to read, or it had an error.
//! The work of an incremental fetch follows change, not the number of partitions (KIP-227).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    log::Slice,
    watch::{Changes, Watch, Watchers},
};

/// A topic as a request names it. By id, the name is not known if there is no such topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Topic {
    /// name
    pub name: Option<Arc<str>>,
    /// zero if requests name it
    pub id: Uuid,
}

/// Where a partition is read, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// the leader epoch that the client believes in, -1 for none
    pub leader_epoch: i32,
    /// first offset that is wanted
    pub offset: i64,
    /// epoch of the record before it, -1 for none
    pub last_fetched_epoch: i32,
    /// first offset of a follower's log, -1 for a consumer
    pub log_start: i64,
    /// bytes, at the most
    pub max_bytes: usize,
}

/// What there is of one partition.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Part {
    pub index: i32,
    pub error: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub start_offset: i64,
    /// where the reader's log goes apart from this one: epoch and its end (KIP-595)
    pub diverging: Option<(i32, i64)>,
    /// leader and epoch, with an error that says that it is another
    pub leader: Option<(i32, i32)>,
    /// another replica to read from, -1 for none (KIP-392)
    pub preferred: i32,
    pub records: Option<Slice>,
    /// there are records from the position on, whether or not they had room here
    pub more: bool,
    /// producers and first offsets of transactions that were aborted, for a reader of committed records
    pub aborted: Option<Vec<(i64, i64)>>,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            index: 0,
            error: 0,
            high_watermark: -1,
            last_stable_offset: -1,
            start_offset: -1,
            diverging: None,
            leader: None,
            preferred: -1,
            records: None,
            more: false,
            aborted: None,
        }
    }
}

impl Part {
    fn bytes(&self) -> usize {
        self.records.as_ref().map_or(0, Slice::len)
    }
    fn failed(&self) -> bool {
        self.error != 0 || self.diverging.is_some()
    }
    fn offsets(&self) -> Offsets {
        Offsets { high_watermark: self.high_watermark, last_stable: self.last_stable_offset, start: self.start_offset }
    }
}

/// Reads partitions.
pub trait Source {
    /// Reads up to `max_bytes`, but at least one batch if that is asked for. Calls `watch` before, if the partition is there.
    fn read(
        &self,
        topic: &Topic,
        index: i32,
        position: &Position,
        max_bytes: usize,
        at_least_one: bool,
        watch: &mut dyn FnMut(&Arc<Watchers>),
    ) -> Part;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offsets {
    high_watermark: i64,
    last_stable: i64,
    start: i64,
}

impl Offsets {
    const NONE: Self = Self { high_watermark: -1, last_stable: -1, start: -1 };

    /// Whether an answer is owed; the last stable offset alone is none, as on Kafka.
    fn differ(&self, told: &Self) -> bool {
        (self.high_watermark, self.start) != (told.high_watermark, told.start)
    }
}

#[derive(Debug)]
struct Entry {
    topic: Topic,
    index: i32,
    position: Position,
    /// in the last answer
    told: Offsets,
    /// at the last reading
    seen: Offsets,
    watch: Option<Watch>,
    /// in `Parts::dirty`
    dirty: bool,
    /// in `Parts::untold`
    untold: bool,
}

/// What a reading has found.
#[derive(Debug, Default)]
pub struct Found {
    parts: Vec<(u32, Part)>,
    /// of records
    pub bytes: usize,
    /// a partition has an error, diverges, or is to be read elsewhere: the client is to know at once
    pub failed: bool,
}

/// Partitions with their positions.
#[derive(Debug, Default)]
pub struct Parts {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// slots of partitions that were taken away since the last reading, and before it
    forgotten: (Vec<u32>, Vec<u32>),
    slots: HashMap<(Topic, i32), u32>,
    /// to be read, in this order
    dirty: Vec<u32>,
    /// read, with nothing to read and offsets that the client does not know
    untold: Vec<u32>,
    changes: Arc<Changes>,
    /// when all were read last
    refreshed: Option<Instant>,
}

/// An answer's topics, each with its partitions.
pub type Answered = Vec<(Topic, Vec<Part>)>;

impl Parts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What lists their changes.
    pub fn changes(&self) -> Arc<Changes> {
        self.changes.clone()
    }

    /// Adds a partition, or moves it to another position. Under an id whose name was not known it gets its name.
    pub fn put(&mut self, topic: Topic, index: i32, position: Position) {
        let key = (Self::key(&topic), index);
        if let Some(slot) = self.slots.get(&key).copied() {
            if let Some(entry) = &mut self.entries[slot as usize] {
                entry.position = position;
                entry.topic = topic;
            }
            return self.dirty(slot);
        }
        let entry = Entry { topic, index, position, told: Offsets::NONE, seen: Offsets::NONE, watch: None, dirty: false, untold: false };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.entries.push(None);
                self.entries.len() as u32 - 1
            }
        };
        self.entries[slot as usize] = Some(entry);
        self.slots.insert(key, slot);
        self.dirty(slot);
    }

    /// Has all partitions read again, if that was not done for so long.
    pub fn refresh(&mut self, now: Instant, every: Duration) {
        if self.refreshed.is_none_or(|before| now.duration_since(before) >= every) {
            self.refreshed = Some(now);
            (0..self.entries.len() as u32).for_each(|slot| self.dirty(slot));
        }
    }

    /// Takes a partition away.
    pub fn forget(&mut self, topic: &Topic, index: i32) {
        if let Some(slot) = self.slots.remove(&(Self::key(topic), index)) {
            self.entries[slot as usize] = None;
            // Lists may still have the slot: it is given to another only after both are walked.
            self.forgotten.0.push(slot);
        }
    }

    /// By its id, if it has one.
    fn key(topic: &Topic) -> Topic {
        if topic.id.is_nil() { topic.clone() } else { Topic { name: None, id: topic.id } }
    }

    fn dirty(&mut self, slot: u32) {
        // A slot that was given back may be listed once more.
        if let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::as_mut).filter(|e| !e.dirty) {
            entry.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Reads what may have something new.
    pub fn read(&mut self, source: &impl Source, max_bytes: usize) -> Found {
        for slot in self.changes.take() {
            self.dirty(slot);
        }
        let (mut room, mut found) = (max_bytes, Found::default());
        let (mut rest, mut served) = (Vec::new(), Vec::new());
        for slot in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let (watch, changes) = (&mut entry.watch, &self.changes);
            let mut register = |watchers: &Arc<Watchers>| {
                if !watch.as_ref().is_some_and(|w| w.is_with(watchers)) {
                    *watch = Some(watchers.add(changes, slot));
                }
            };
            let limit = room.min(entry.position.max_bytes);
            // The first partition with records gives at least one batch, so that a client is never stuck.
            let part = source.read(&entry.topic, entry.index, &entry.position, limit, found.bytes == 0, &mut register);
            let (bytes, failed) = (part.bytes(), part.failed() || part.preferred >= 0);
            found.bytes += bytes;
            found.failed |= failed;
            room = room.saturating_sub(bytes);
            entry.seen = part.offsets();
            entry.dirty = failed || part.more;
            if entry.dirty {
                // Those that were given something come last the next time.
                if bytes > 0 { served.push(slot) } else { rest.push(slot) }
            }
            if failed || bytes > 0 {
                found.parts.push((slot, part));
            } else if entry.seen.differ(&entry.told) && !entry.untold {
                entry.untold = true;
                self.untold.push(slot);
            }
        }
        rest.append(&mut served);
        self.dirty = rest;
        let walked = std::mem::take(&mut self.forgotten.0);
        self.forgotten.1.extend(walked);
        found
    }

    /// Aborted transactions in the answer.
    pub fn aborted_len(found: &Found) -> usize {
        found.parts.iter().map(|(_, p)| p.aborted.as_ref().map_or(0, Vec::len)).sum()
    }

    /// Number of partitions in the answer.
    pub fn answer_len(&self, found: &Found, full: bool) -> usize {
        if full { self.len() } else { found.parts.len() + self.untold.len() }
    }

    /// What the client is answered: all partitions, or those with something new. It knows that from then on.
    pub fn answer(&mut self, found: Found, full: bool) -> Answered {
        let mut parts = found.parts;
        let mut seen: HashSet<u32> = parts.iter().map(|(slot, _)| *slot).collect();
        let others: Vec<u32> = if full { (0..self.entries.len() as u32).collect() } else { std::mem::take(&mut self.untold) };
        for slot in others {
            if let Some(entry) = self.entries[slot as usize].as_ref().filter(|_| seen.insert(slot)) {
                let Offsets { high_watermark, last_stable, start } = entry.seen;
                let part =
                    Part { index: entry.index, high_watermark, last_stable_offset: last_stable, start_offset: start, ..Part::default() };
                parts.push((slot, part));
            }
        }
        if full {
            // In the order of the request.
            parts.sort_unstable_by_key(|(slot, _)| *slot);
            self.untold.clear();
        }
        let mut out: Answered = Vec::new();
        for (slot, part) in parts {
            let Some(entry) = self.entries[slot as usize].as_mut() else { continue };
            entry.untold = false;
            // After an error, the offsets are told again.
            entry.told = if part.failed() { Offsets::NONE } else { part.offsets() };
            match out.last_mut() {
                Some((topic, parts)) if *topic == entry.topic => parts.push(part),
                _ => out.push((entry.topic.clone(), vec![part])),
            }
        }
        self.free.append(&mut self.forgotten.1);
        out
    }
}
