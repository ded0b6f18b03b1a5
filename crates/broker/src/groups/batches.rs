//! Batches of `__consumer_offsets`: written by this broker, and read back, also those that others wrote in transactions.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use super::value::Entry;
use crate::batch::Head;

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
/// Type of a control record that commits a transaction.
const COMMIT: i16 = 1;

/// Milliseconds since 1970.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// One batch with these records.
pub fn encode(entries: &[Entry]) -> Result<Vec<u8>, String> {
    let now = wall_ms();
    let mut records = Vec::with_capacity(entries.len());
    for (i, entry) in (0i64..).zip(entries) {
        let (key, value) = entry.encode().map_err(|e| e.to_string())?;
        records.push(Record {
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
            key: Some(key),
            value,
            headers: Default::default(),
        });
    }
    let mut b = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut b, &records, &options).map_err(|e| e.to_string())?;
    Ok(b.to_vec())
}

/// Reads batches in the order of the log.
#[derive(Debug, Default)]
pub struct Reader {
    /// records of transactions that are not ended, by producer
    open: HashMap<i64, Vec<(Entry, i64)>>,
}

impl Reader {
    /// Hands on each record of whole batches, with its offset. Returns the next offset, `None` if there was no batch.
    pub fn read(&mut self, mut bytes: &[u8], mut take: impl FnMut(Entry, i64)) -> Option<i64> {
        let mut next = None;
        while let Some(head) = Head::parse(bytes) {
            let Some(batch) = bytes.get(..head.size) else { break };
            next = Some(head.last_offset() + 1);
            let decoded = RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(batch));
            let records = decoded.map(|set| set.records).unwrap_or_else(|e| {
                tracing::error!("a batch of the offsets topic at offset {} does not decode: {e}", head.base_offset);
                Vec::new()
            });
            for r in records {
                let (at, Some(mut key)) = (r.offset, r.key) else { continue };
                if head.attributes & CONTROL != 0 {
                    let kind = key.try_get_i16().and_then(|_| key.try_get_i16());
                    let of_transaction = self.open.remove(&head.producer_id).unwrap_or_default();
                    if kind == Ok(COMMIT) {
                        of_transaction.into_iter().for_each(|(entry, at)| take(entry, at));
                    }
                    continue;
                }
                let Some(entry) = Entry::decode(key, r.value) else { continue };
                match head.attributes & TRANSACTIONAL {
                    0 => take(entry, at),
                    _ => self.open.entry(head.producer_id).or_default().push((entry, at)),
                }
            }
            bytes = &bytes[head.size..];
        }
        next
    }
}
