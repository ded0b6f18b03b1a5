//! What compaction keeps of a batch. Pure: no files, no clock. Source: Cleaner in LogCleaner.scala, MemoryRecords.filterTo and
//! SkimpyOffsetMap of Kafka 3.9, KIP-534 for tombstones.
//!
//! Invariant: of each key, the record with the largest offset stays, a tombstone until its time is over; offsets, epochs and
//! producers' sequences stay as they were.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
};

use super::transactions::Aborted;
use crate::{
    batch::{CONTROL, DELETE_HORIZON, HEAD_BYTES, Head, LENGTH_OVERHEAD, LOG_APPEND_TIME, TRANSACTIONAL},
    records::{self, Record, Records},
};

/// Bytes of an entry.
const ENTRY: usize = size_of::<Entry>();
/// What a batch may decompress to, in bytes; a larger one stays as it is.
const MAX_UNCOMPRESSED: usize = 64 * 1024 * 1024;
/// Part of the map that is filled, in percent: as `log.cleaner.io.buffer.load.factor` is by default.
const LOAD: usize = 90;

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: [u64; 2],
    /// -1 where there is none
    offset: i64,
}

/// The last offset of each key, by 128 bits of a keyed hash, in a fixed number of bytes.
#[derive(Debug)]
pub struct OffsetMap {
    entries: Vec<Entry>,
    len: usize,
    hashers: [RandomState; 2],
    latest: i64,
    /// what was read for it ends here
    complete_to: i64,
}

impl OffsetMap {
    /// Room for so many keys, within so many bytes.
    pub fn new(keys: usize, bytes: usize) -> Self {
        let count = keys.saturating_mul(3).div_euclid(2).saturating_add(2).min(bytes / ENTRY).max(2);
        let none = Entry { hash: [0; 2], offset: -1 };
        Self { entries: vec![none; count], len: 0, hashers: [RandomState::new(), RandomState::new()], latest: -1, complete_to: -1 }
    }

    /// The last offset that was taken into account, -1 if none was.
    pub fn latest(&self) -> i64 {
        self.latest
    }

    /// All offsets up to one are taken into account.
    pub fn advance(&mut self, offset: i64) {
        self.latest = self.latest.max(offset);
    }

    /// All batches below an offset were read.
    pub fn complete(&mut self, offset: i64) {
        self.complete_to = offset;
    }

    /// Where the next time begins.
    pub fn next(&self) -> i64 {
        self.complete_to.max(self.latest + 1)
    }

    fn find(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let hash = [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)];
        let count = self.entries.len();
        let mut i = (hash[0] % count as u64) as usize;
        // There is always one that is free.
        while self.entries[i].offset >= 0 && self.entries[i].hash != hash {
            i = (i + 1) % count;
        }
        (i, hash)
    }

    /// Notes a key. `false` if there is no room.
    #[must_use]
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let (i, hash) = self.find(key);
        if self.entries[i].offset < 0 {
            if (self.len + 1) * 100 > self.entries.len() * LOAD {
                return false;
            }
            self.len += 1;
        }
        self.entries[i] = Entry { hash, offset };
        self.advance(offset);
        true
    }

    /// The last offset of a key, -1 if it is not known.
    pub fn get(&self, key: &[u8]) -> i64 {
        self.entries[self.find(key).0].offset
    }
}

/// What goes into a decision.
#[derive(Debug)]
pub struct Policy<'a> {
    /// last offsets of keys
    pub map: &'a OffsetMap,
    /// milliseconds since 1970
    pub now: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// last offsets of the producers that are known: their batches stay, without records if need be
    pub producers: &'a HashMap<i64, i64>,
    /// aborted transactions, whose records go
    pub aborted: &'a [Aborted],
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// it stays as it is
    Keep,
    /// it goes
    Drop,
    /// this takes its place
    Replace(Vec<u8>),
}

fn is_aborted(head: &Head, aborted: &[Aborted]) -> bool {
    head.attributes & TRANSACTIONAL != 0
        && aborted.iter().any(|a| a.producer_id == head.producer_id && (a.first_offset..=a.last_offset).contains(&head.base_offset))
}

/// Takes the keys of a batch from an offset on into the map. `false` if it is full: the rest is for the next time.
pub fn note(map: &mut OffsetMap, batch: &[u8], head: &Head, from: i64, aborted: &[Aborted]) -> io::Result<bool> {
    let has_keys = head.attributes & CONTROL == 0 && head.count > 0 && !is_aborted(head, aborted);
    let body = if has_keys { records::body(batch, head, MAX_UNCOMPRESSED)? } else { None };
    for record in Records::new(body.as_deref().unwrap_or_default()) {
        let record = record?;
        let offset = head.base_offset + i64::from(record.offset_delta);
        if let Some(key) = record.key.filter(|_| offset >= from)
            && !map.put(key, offset)
        {
            return Ok(false);
        }
    }
    map.advance(head.last_offset());
    Ok(true)
}

/// Decides on a batch.
pub fn compact(batch: &[u8], head: &Head, policy: &Policy) -> io::Result<Outcome> {
    let map = policy.map;
    if head.attributes & CONTROL != 0 || head.base_offset > map.latest() {
        return Ok(Outcome::Keep);
    }
    // The last one says where the cleaned part ends; a producer's last one which sequence comes next.
    let stays = head.last_offset() == map.latest() || policy.producers.get(&head.producer_id) == Some(&head.last_offset());
    if head.count <= 0 {
        return Ok(if stays { Outcome::Keep } else { Outcome::Drop });
    }
    let Some(body) = records::body(batch, head, MAX_UNCOMPRESSED)? else {
        return Ok(Outcome::Keep);
    };
    let aborted = is_aborted(head, policy.aborted);
    let horizon = (head.attributes & DELETE_HORIZON != 0).then_some(head.base_timestamp);
    let tombstones_stay = horizon.is_none_or(|at| policy.now < at);
    let retained = |r: &Record| {
        let offset = head.base_offset + i64::from(r.offset_delta);
        let latest = || r.key.is_some_and(|k| offset >= map.get(k));
        offset > map.latest() || (!aborted && latest() && (r.value.is_some() || tombstones_stay))
    };
    let (mut kept, mut all) = (Vec::new(), true);
    for record in Records::new(&body) {
        let record = record?;
        if retained(&record) { kept.push(record) } else { all = false }
    }
    if kept.is_empty() {
        return Ok(if stays { Outcome::Replace(empty(head)) } else { Outcome::Drop });
    }
    let new_horizon = horizon.is_none() && kept.iter().any(|r| r.value.is_none());
    if all && !new_horizon {
        return Ok(Outcome::Keep);
    }
    let new_horizon = new_horizon.then(|| policy.now.saturating_add(policy.delete_retention_ms));
    rebuild(head, &kept, new_horizon).map(Outcome::Replace)
}

/// A batch with the records that are left; with a delete horizon, timestamps are told from it on.
fn rebuild(head: &Head, kept: &[Record], horizon: Option<i64>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut latest = i64::MIN;
    for r in kept {
        let timestamp = head.base_timestamp.wrapping_add(r.timestamp_delta);
        latest = latest.max(timestamp);
        match horizon {
            None => {
                records::put_varint(&mut body, r.bytes.len() as i64);
                body.extend_from_slice(r.bytes);
            }
            Some(at) => {
                let mut one = vec![r.bytes[0]];
                records::put_varint(&mut one, timestamp.wrapping_sub(at));
                one.extend_from_slice(r.tail);
                records::put_varint(&mut body, one.len() as i64);
                body.extend(one);
            }
        }
    }
    let body = records::compress(head.codec(), body)?;
    let attributes = head.attributes | if horizon.is_some() { DELETE_HORIZON } else { 0 };
    let max_timestamp = if head.attributes & LOG_APPEND_TIME != 0 { head.max_timestamp } else { latest };
    let base_timestamp = horizon.unwrap_or(head.base_timestamp);
    Ok(write(&Head { attributes, base_timestamp, max_timestamp, count: kept.len() as i32, ..*head }, &body))
}

/// A batch without records.
fn empty(head: &Head) -> Vec<u8> {
    let attributes = head.attributes & (LOG_APPEND_TIME | TRANSACTIONAL | CONTROL);
    write(&Head { attributes, base_timestamp: -1, count: 0, ..*head }, &[])
}

fn write(head: &Head, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend(head.base_offset.to_be_bytes());
    out.extend(((HEAD_BYTES - LENGTH_OVERHEAD + body.len()) as i32).to_be_bytes());
    out.extend(head.leader_epoch.to_be_bytes());
    out.push(head.magic as u8);
    out.extend([0; 4]);
    out.extend(head.attributes.to_be_bytes());
    out.extend(head.last_offset_delta.to_be_bytes());
    out.extend(head.base_timestamp.to_be_bytes());
    out.extend(head.max_timestamp.to_be_bytes());
    out.extend(head.producer_id.to_be_bytes());
    out.extend(head.producer_epoch.to_be_bytes());
    out.extend(head.base_sequence.to_be_bytes());
    out.extend(head.count.to_be_bytes());
    out.extend(body);
    let crc = crc32c::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_keeps_the_last_offset_and_its_bound() {
        let mut map = OffsetMap::new(1000, 100 * ENTRY);
        let mut full = 0;
        for i in 0..200i64 {
            full += i64::from(!map.put(format!("key {i}").as_bytes(), i));
        }
        assert_eq!((full, map.latest(), map.len), (110, 89, 90));
        assert!(map.put(b"key 5", 500), "a key that is there needs no room");
        assert_eq!((map.get(b"key 5"), map.get(b"key 89"), map.get(b"key 90"), map.latest()), (500, 89, -1, 500));
        // Not more than the keys need.
        assert!(OffsetMap::new(10, 1 << 30).entries.len() < 20);
        assert!(OffsetMap::new(0, 0).put(b"k", 0));
    }
}
