//! Producer snapshots: `.snapshot` files beside the segments, in Kafka's format, and how a log keeps its producers' state.
//!
//! Invariant: a snapshot that is believed is the state below the offset in its name; a torn one fails its checksum and is passed
//! over. What a snapshot lacks is read from the batches behind it, so that losing one costs time only.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kafka_protocol::ResponseError;

use super::{
    Log, LogError, at,
    producers::{Duplicate, Producer, ProducerQuota, Producers, Remembered},
};
use crate::{
    batch::{CONTROL, Head},
    records,
};

/// Version of the format.
const VERSION: i16 = 1;
/// Version, checksum, count.
const HEAD: usize = 10;
/// Bytes of a producer.
const ENTRY: usize = 46;
const ENDING: &str = ".snapshot";

fn path(dir: &Path, offset: i64) -> PathBuf {
    dir.join(format!("{offset:020}{ENDING}"))
}

fn encode(producers: &Producers) -> Vec<u8> {
    let all = producers.iter();
    let mut out = Vec::with_capacity(HEAD + all.len() * ENTRY);
    out.extend(VERSION.to_be_bytes());
    out.extend([0; 4]);
    out.extend((all.len() as i32).to_be_bytes());
    for (id, p) in all {
        let none = Remembered { last_sequence: -1, offset_delta: 0, last_offset: -1, timestamp: -1 };
        let last = p.batches().last().copied().unwrap_or(none);
        out.extend(id.to_be_bytes());
        out.extend(p.epoch.to_be_bytes());
        out.extend(last.last_sequence.to_be_bytes());
        out.extend(last.last_offset.to_be_bytes());
        out.extend(last.offset_delta.to_be_bytes());
        out.extend(p.last_timestamp.to_be_bytes());
        out.extend(p.coordinator_epoch.to_be_bytes());
        out.extend(p.transaction.unwrap_or(-1).to_be_bytes());
    }
    let crc = crc32c::crc32c(&out[6..]);
    out[2..6].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The producers in a snapshot; `None` if it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(i64, Producer)>> {
    fn take<const N: usize>(b: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = b.split_first_chunk()?;
        *b = rest;
        Some(*head)
    }
    let mut b = bytes;
    let (version, crc) = (i16::from_be_bytes(take(&mut b)?), u32::from_be_bytes(take(&mut b)?));
    if version != VERSION || crc32c::crc32c(b) != crc {
        return None;
    }
    let count = usize::try_from(i32::from_be_bytes(take(&mut b)?)).ok()?;
    if count.checked_mul(ENTRY)? != b.len() {
        return None;
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let id = i64::from_be_bytes(take(&mut b)?);
        let mut producer = Producer::new(i16::from_be_bytes(take(&mut b)?));
        let (last_sequence, last_offset) = (i32::from_be_bytes(take(&mut b)?), i64::from_be_bytes(take(&mut b)?));
        let offset_delta = i32::from_be_bytes(take(&mut b)?);
        let timestamp = i64::from_be_bytes(take(&mut b)?);
        producer.last_timestamp = timestamp;
        producer.coordinator_epoch = i32::from_be_bytes(take(&mut b)?);
        producer.transaction = Some(i64::from_be_bytes(take(&mut b)?)).filter(|first| *first >= 0);
        if last_offset >= 0 {
            producer.push(Remembered { last_sequence, offset_delta, last_offset, timestamp });
        }
        out.push((id, producer));
    }
    Some(out)
}

/// Offsets of the snapshots in a directory.
pub fn list(dir: &Path) -> Result<BTreeSet<i64>, LogError> {
    let mut out = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        let offset = name.to_str().and_then(|n| n.strip_suffix(ENDING)).filter(|n| n.len() == 20);
        out.extend(offset.and_then(|n| n.parse::<i64>().ok()));
    }
    Ok(out)
}

impl Log {
    /// Checks a batch that a client sent against what is known of its producer, before it is appended under the same lock.
    /// `Some` is one that is in the log already, and is not to be appended again.
    pub fn check_producer(&self, head: &Head) -> Result<Option<Duplicate>, ResponseError> {
        self.producers.check(head)
    }

    /// Counts its producers against a quota from now on.
    pub fn set_producer_quota(&mut self, quota: Arc<ProducerQuota>) {
        self.producers.set_quota(quota);
    }

    /// Forgets producers that were silent for so long: `now` and the duration in milliseconds.
    pub fn expire_producers(&mut self, now: i64, expiration_ms: i64) {
        self.producers.expire(now, expiration_ms);
    }

    /// Producers that are known, by id.
    pub fn producers(&self) -> impl ExactSizeIterator<Item = (i64, &Producer)> {
        self.producers.iter()
    }

    /// First offset of a transaction that is not complete, or whose end is not below the high watermark: the last stable
    /// offset is this, or else the high watermark.
    pub fn first_unstable_offset(&mut self, high_watermark: i64) -> Option<i64> {
        self.producers.first_unstable_offset(high_watermark)
    }

    /// Takes a batch that was just appended into account.
    pub(super) fn note_producer(&mut self, head: &Head, bytes: &[u8]) -> Result<(), LogError> {
        let marker = records::marker(bytes, head);
        match self.producers.update(head, marker) {
            Some(done) if done.aborted => self.active().note_aborted(&done),
            _ => Ok(()),
        }
    }

    /// Reads the state when the log is opened. After a clean stop without any snapshot, as of a version that wrote none, there
    /// is nothing to be known.
    pub(super) fn load_producers(&mut self, clean: bool) -> Result<(), LogError> {
        self.snapshots = list(&self.dir)?;
        if clean && self.snapshots.is_empty() {
            return Ok(());
        }
        self.reload_producers()
    }

    /// Reads the state below the end of the log: from the last snapshot that is whole, and the batches behind it.
    pub(super) fn reload_producers(&mut self) -> Result<(), LogError> {
        self.producers.clear();
        let (start, end) = (self.start, self.end_offset());
        // As Kafka's truncateAndReload: what is at or below the start is of records that have gone.
        self.remove_snapshots(|offset| offset > end || offset <= start)?;
        let mut from = start;
        while let Some(offset) = self.snapshots.last().copied() {
            let path = path(&self.dir, offset);
            match fs::read(&path).map(|b| decode(&b)) {
                Ok(Some(producers)) => {
                    producers.into_iter().for_each(|(id, p)| self.producers.restore(id, p));
                    from = offset;
                    break;
                }
                Ok(None) => tracing::warn!("{}: damaged, removed", path.display()),
                Err(e) => tracing::warn!("{}: {e}", path.display()),
            }
            self.remove_snapshots(|o| o == offset)?;
        }
        let producers = &mut self.producers;
        for segment in self.segments.iter_mut().filter(|s| s.next_offset() > from) {
            let mut aborted = Vec::new();
            segment.scan(from, &mut |head, position| {
                let control = head.producer_id >= 0 && head.attributes & CONTROL != 0;
                let marker = if control { records::marker(&segment.batch_at(head, position)?, head) } else { None };
                aborted.extend(producers.update(head, marker).filter(|done| done.aborted));
                Ok(())
            })?;
            // What a power cut took from the index.
            aborted.iter().try_for_each(|done| segment.note_aborted(done))?;
        }
        Ok(())
    }

    /// Writes the state down as it is at the end of the log, at most once for an end. A failure costs time at the next start
    /// only, so it is logged.
    pub(super) fn take_snapshot(&mut self) {
        let end = self.end_offset();
        if end <= self.start || self.snapshots.contains(&end) {
            return;
        }
        let path = path(&self.dir, end);
        match fs::write(&path, encode(&self.producers)) {
            Ok(()) => drop(self.snapshots.insert(end)),
            Err(e) => tracing::warn!("{}: {e}", path.display()),
        }
    }

    /// Removes snapshots below an offset that do not belong to a segment, as Kafka would when it opens the log.
    pub(super) fn prune_snapshots(&mut self, below: i64) -> Result<(), LogError> {
        let bases: BTreeSet<i64> = self.segments.iter().map(super::Segment::base).collect();
        self.remove_snapshots(|offset| offset < below && !bases.contains(&offset))
    }

    /// Removes snapshots.
    pub(super) fn remove_snapshots(&mut self, which: impl Fn(i64) -> bool) -> Result<(), LogError> {
        let gone: Vec<i64> = self.snapshots.iter().copied().filter(|o| which(*o)).collect();
        for offset in gone {
            let path = path(&self.dir, offset);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&path)(e)),
                _ => self.snapshots.remove(&offset),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn snapshots_are_kafkas_bytes() {
        let mut p = Producers::default();
        let mut one = Producer::new(3);
        (one.coordinator_epoch, one.last_timestamp, one.transaction) = (6, 1000, Some(40));
        one.push(Remembered { last_sequence: 7, offset_delta: 1, last_offset: 42, timestamp: 1000 });
        p.restore(5, one);
        let mut other = Producer::new(0);
        other.last_timestamp = 9;
        p.restore(6, other);
        let bytes = encode(&p);
        let body = [
            0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 9, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 5, 0, 3, 0, 0, 0, 7, 0, 0, 0, 0,
            0, 0, 0, 42, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 232, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 40,
        ];
        assert_eq!((&bytes[..2], &bytes[6..]), (&[0, 1][..], &body[..]));
        let back = decode(&bytes).unwrap();
        assert_eq!(back.iter().map(|(id, p)| (*id, *p)).collect::<Vec<_>>(), p.iter().map(|(id, p)| (id, *p)).collect::<Vec<_>>());
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1;
            assert_eq!(decode(&flipped), None);
        }
    }
}
