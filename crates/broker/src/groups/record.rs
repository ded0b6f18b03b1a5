//! Records of `__consumer_offsets`, in Kafka's format: OffsetCommitKey version 1, OffsetCommitValue version 3.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use crate::batch::Head;

/// What an offset is committed for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Key {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Commit {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    /// milliseconds since 1970
    pub timestamp: i64,
}

fn put_string(b: &mut BytesMut, s: &str) {
    b.put_i16(s.len() as i16);
    b.put_slice(s.as_bytes());
}

fn get_string(b: &mut Bytes) -> Option<String> {
    let n = usize::try_from(b.try_get_i16().ok()?).ok()?;
    if b.remaining() < n {
        return None;
    }
    String::from_utf8(b.split_to(n).to_vec()).ok()
}

fn key_bytes(k: &Key) -> Bytes {
    let mut b = BytesMut::new();
    b.put_i16(1);
    put_string(&mut b, &k.group);
    put_string(&mut b, &k.topic);
    b.put_i32(k.partition);
    b.freeze()
}

fn parse_key(mut b: Bytes) -> Option<Key> {
    match b.try_get_i16().ok()? {
        0 | 1 => Some(Key { group: get_string(&mut b)?, topic: get_string(&mut b)?, partition: b.try_get_i32().ok()? }),
        _ => None,
    }
}

fn value_bytes(c: &Commit) -> Bytes {
    let mut b = BytesMut::new();
    b.put_i16(3);
    b.put_i64(c.offset);
    b.put_i32(c.leader_epoch);
    put_string(&mut b, &c.metadata);
    b.put_i64(c.timestamp);
    b.freeze()
}

fn parse_value(mut b: Bytes) -> Option<Commit> {
    let version = b.try_get_i16().ok()?;
    let offset = b.try_get_i64().ok()?;
    let leader_epoch = if version >= 3 { b.try_get_i32().ok()? } else { -1 };
    Some(Commit { offset, leader_epoch, metadata: get_string(&mut b)?, timestamp: b.try_get_i64().ok()? })
}

/// One batch with these commits.
pub fn encode(commits: &[(Key, Commit)]) -> Result<Vec<u8>, String> {
    // Lengths have 16 bits; a flexible request can bring longer strings.
    if let Some(n) = commits.iter().flat_map(|(k, c)| [&k.group, &k.topic, &c.metadata]).map(String::len).find(|n| *n > i16::MAX as usize) {
        return Err(format!("a string of {n} bytes does not fit into a record"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let records: Vec<Record> = (0i64..)
        .zip(commits)
        .map(|(i, (k, c))| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: i,
            sequence: i as i32,
            timestamp: now,
            key: Some(key_bytes(k)),
            value: Some(value_bytes(c)),
            headers: Default::default(),
        })
        .collect();
    let mut b = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut b, &records, &options).map_err(|e| e.to_string())?;
    Ok(b.to_vec())
}

/// Takes batches into the map. Returns the next offset, `None` if there was no batch.
pub fn replay(mut bytes: &[u8], map: &mut HashMap<Key, Commit>) -> Option<i64> {
    let mut next = None;
    while let Some(head) = Head::parse(bytes) {
        next = Some(head.last_offset() + 1);
        if let Ok(set) = RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(&bytes[..head.size])) {
            for r in set.records {
                let Some(key) = r.key.and_then(parse_key) else {
                    continue;
                };
                match r.value.and_then(parse_value) {
                    Some(commit) => drop(map.insert(key, commit)),
                    None => drop(map.remove(&key)),
                }
            }
        }
        bytes = &bytes[head.size..];
    }
    next
}
