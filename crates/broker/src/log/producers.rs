//! What a log remembers of its producers: by it a batch that is sent twice is stored once, and none is missing or out of order
//! (KIP-98). Source: ProducerStateManager, ProducerAppendInfo and ProducerStateEntry of Kafka 3.9. Pure: no files, no clock.
//!
//! Invariant: the state is what the batches below an offset make of it, apart from producers that expired or were displaced.
//! Number of producers in all logs of a broker is bounded by a [`ProducerQuota`]; each takes a fixed size.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kafka_protocol::ResponseError;
use lru::LruCache;

use crate::{
    batch::{Head, TRANSACTIONAL},
    records::Marker,
};

/// Batches of a producer that are remembered: as many as may be in flight.
const BATCHES: usize = 5;
/// Transactions that are complete and may not be replicated; beyond it, two are remembered as one.
const MAX_UNREPLICATED: usize = 10_000;
/// Epoch of a producer of which nothing is known.
const NO_EPOCH: i16 = -1;

/// How many producers all logs of a broker may remember.
#[derive(Debug)]
pub struct ProducerQuota {
    limit: usize,
    used: AtomicUsize,
}

impl ProducerQuota {
    /// So many.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Producers that are remembered.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for ProducerQuota {
    fn default() -> Self {
        Self { limit: usize::MAX, used: AtomicUsize::new(0) }
    }
}

/// A batch that was appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// sequence of its last record
    pub last_sequence: i32,
    /// of its last record from its first
    pub offset_delta: i32,
    /// offset of its last record
    pub last_offset: i64,
    /// its largest timestamp
    pub timestamp: i64,
}

impl Remembered {
    fn first_sequence(&self) -> i32 {
        decrement(self.last_sequence, self.offset_delta)
    }
}

/// What is known of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// its epoch
    pub epoch: i16,
    /// term of the coordinator that ended its last transaction, -1 if there was none
    pub coordinator_epoch: i32,
    /// timestamp of its last batch
    pub last_timestamp: i64,
    /// first offset of the transaction that is not complete
    pub transaction: Option<i64>,
    batches: [Remembered; BATCHES],
    count: u8,
}

impl Producer {
    /// One that has sent nothing yet.
    pub fn new(epoch: i16) -> Self {
        Self { epoch, coordinator_epoch: -1, last_timestamp: -1, transaction: None, batches: Default::default(), count: 0 }
    }

    /// Oldest first.
    pub fn batches(&self) -> &[Remembered] {
        &self.batches[..usize::from(self.count)]
    }

    /// Remembers a batch, and no more than five.
    pub fn push(&mut self, batch: Remembered) {
        if usize::from(self.count) == BATCHES {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[usize::from(self.count)] = batch;
        self.count += 1;
    }

    fn enter(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.count = 0;
        }
    }
}

/// A batch that is in the log already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// its first offset
    pub base_offset: i64,
    /// its last offset, up to which acks=all has to wait
    pub last_offset: i64,
    /// its largest timestamp
    pub timestamp: i64,
}

/// A transaction that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    pub producer_id: i64,
    pub first_offset: i64,
    /// of the marker
    pub last_offset: i64,
    pub aborted: bool,
    /// offset below which every transaction is complete once this one is
    pub last_stable_offset: i64,
}

/// Sequence of the last record of a batch. After the largest number comes 0.
pub fn last_sequence(head: &Head) -> i32 {
    match head.base_sequence.checked_add(head.last_offset_delta) {
        Some(n) => n,
        None => head.last_offset_delta - (i32::MAX - head.base_sequence) - 1,
    }
}

fn decrement(sequence: i32, by: i32) -> i32 {
    if sequence < by { i32::MAX - (by - sequence) + 1 } else { sequence - by }
}

fn follows(last: i32, next: i32) -> bool {
    i64::from(next) == i64::from(last) + 1 || (next == 0 && last == i32::MAX)
}

/// The producers of one log.
#[derive(Debug)]
pub struct Producers {
    /// by id, the one that was silent for longest first to go
    map: LruCache<i64, Producer>,
    quota: Arc<ProducerQuota>,
    /// first offsets of transactions that are not complete, with their producers
    ongoing: BTreeMap<i64, i64>,
    /// first and last offsets of those that are, but may not be replicated
    unreplicated: BTreeMap<i64, i64>,
}

impl Default for Producers {
    fn default() -> Self {
        Self { map: LruCache::unbounded(), quota: Arc::default(), ongoing: BTreeMap::new(), unreplicated: BTreeMap::new() }
    }
}

impl Producers {
    /// Counts against a quota from now on.
    pub fn set_quota(&mut self, quota: Arc<ProducerQuota>) {
        self.quota.used.fetch_sub(self.map.len(), Ordering::Relaxed);
        quota.used.fetch_add(self.map.len(), Ordering::Relaxed);
        self.quota = quota;
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// All of them, with their ids, in no order that means anything.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, &Producer)> {
        self.map.iter().map(|(id, p)| (*id, p))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.quota.used.fetch_sub(self.map.len(), Ordering::Relaxed);
        self.map.clear();
        self.ongoing.clear();
        self.unreplicated.clear();
    }

    /// Checks a batch that a client sent. `Some` is one that is in the log already.
    pub fn check(&self, head: &Head) -> Result<Option<Duplicate>, ResponseError> {
        let Some(known) = self.map.peek(&head.producer_id).filter(|_| head.producer_id >= 0) else {
            // Its records may have gone with retention: it may go on with any sequence.
            return Ok(None);
        };
        if head.producer_epoch == known.epoch {
            let last = last_sequence(head);
            let same = known.batches().iter().find(|b| b.first_sequence() == head.base_sequence && b.last_sequence == last);
            if let Some(b) = same {
                let base_offset = b.last_offset - i64::from(b.offset_delta);
                return Ok(Some(Duplicate { base_offset, last_offset: b.last_offset, timestamp: b.timestamp }));
            }
        }
        if head.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let in_order = match known.epoch {
            NO_EPOCH => true,
            epoch if epoch != head.producer_epoch => head.base_sequence == 0,
            _ => follows(known.batches().last().map_or(-1, |b| b.last_sequence), head.base_sequence),
        };
        if !in_order {
            return Err(ResponseError::OutOfOrderSequenceNumber);
        }
        if known.transaction.is_some() && head.attributes & TRANSACTIONAL == 0 {
            return Err(ResponseError::InvalidTxnState);
        }
        Ok(None)
    }

    fn entry(&mut self, id: i64, epoch: i16) -> &mut Producer {
        if !self.map.contains(&id) {
            if self.quota.used() >= self.quota.limit {
                self.displace();
            }
            self.quota.used.fetch_add(1, Ordering::Relaxed);
        }
        self.map.get_or_insert_mut(id, || Producer::new(epoch))
    }

    /// Forgets the producer that was silent for longest and has no transaction.
    fn displace(&mut self) {
        let silent = self.map.iter().rev().find(|(_, p)| p.transaction.is_none()).map(|(id, _)| *id);
        if let Some(id) = silent {
            self.map.pop(&id);
            self.quota.used.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Puts a producer back that was written down.
    pub fn restore(&mut self, id: i64, producer: Producer) {
        *self.entry(id, producer.epoch) = producer;
        if let Some(first) = producer.transaction {
            self.ongoing.insert(first, id);
        }
    }

    /// Takes a batch into account that is in the log. `marker` is what a control batch says.
    pub fn update(&mut self, head: &Head, marker: Option<Marker>) -> Option<Completed> {
        if head.producer_id < 0 {
            return None;
        }
        if head.attributes & crate::batch::CONTROL != 0 {
            return self.end(head, marker?);
        }
        let id = head.producer_id;
        let producer = self.entry(id, head.producer_epoch);
        producer.enter(head.producer_epoch);
        producer.push(Remembered {
            last_sequence: last_sequence(head),
            offset_delta: head.last_offset_delta,
            last_offset: head.last_offset(),
            timestamp: head.max_timestamp,
        });
        producer.last_timestamp = head.max_timestamp;
        if head.attributes & TRANSACTIONAL != 0 && producer.transaction.is_none() {
            producer.transaction = Some(head.base_offset);
            self.ongoing.insert(head.base_offset, id);
        }
        None
    }

    fn end(&mut self, head: &Head, marker: Marker) -> Option<Completed> {
        let producer = self.entry(head.producer_id, head.producer_epoch);
        producer.enter(head.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = head.max_timestamp;
        let first_offset = producer.transaction.take()?;
        self.ongoing.remove(&first_offset);
        let last_offset = head.base_offset;
        self.unreplicated.insert(first_offset, last_offset);
        if self.unreplicated.len() > MAX_UNREPLICATED
            && let (Some((first, one)), Some((_, other))) = (self.unreplicated.pop_first(), self.unreplicated.pop_first())
        {
            // As one, they hold the stable offset back for longer, never for less.
            self.unreplicated.insert(first, one.max(other));
        }
        let last_stable_offset = self.ongoing.first_key_value().map_or(last_offset + 1, |(first, _)| *first);
        Some(Completed { producer_id: head.producer_id, first_offset, last_offset, aborted: marker.aborted, last_stable_offset })
    }

    /// First offset of a transaction that is not complete, or whose end is not below the high watermark.
    pub fn first_unstable_offset(&mut self, high_watermark: i64) -> Option<i64> {
        self.unreplicated.retain(|_, last| *last >= high_watermark);
        let firsts = [self.ongoing.keys().next(), self.unreplicated.keys().next()];
        firsts.into_iter().flatten().min().copied()
    }

    /// Forgets producers that were silent for so long. The time is that of their last batch, as on Kafka.
    pub fn expire(&mut self, now: i64, expiration_ms: i64) {
        let expired = |p: &Producer| p.transaction.is_none() && now.saturating_sub(p.last_timestamp) >= expiration_ms;
        let gone: Vec<i64> = self.map.iter().filter(|(_, p)| expired(p)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.map.pop(id);
        }
        self.quota.used.fetch_sub(gone.len(), Ordering::Relaxed);
    }
}

impl Drop for Producers {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.map.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "producers_tests.rs"]
mod tests;
