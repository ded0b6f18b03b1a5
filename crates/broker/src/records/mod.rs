//! The records in a batch: checked against the batch's head before they are stored, compressed ones too.
//!
//! Invariant: a batch that passes has as many whole records as it announces, numbered from 0, and not a byte more.
//! Nothing is allocated by a number in it.

mod codecs;
mod read;

use std::{
    borrow::Cow,
    io::{self, BufRead, Read},
};

use kafka_protocol::ResponseError;

use crate::batch::{HEAD_BYTES, Head, LOG_APPEND_TIME};

pub use codecs::{compress, open as decompress};
pub use read::{Marker, Record, Records, marker, put_varint};

/// Decompressed, a batch has at most this many times the bytes that a batch may have on the wire.
const MAX_RATIO: u64 = 100;
/// … but this much is always allowed, in bytes.
const MIN_UNCOMPRESSED: u64 = 16 * 1024 * 1024;

/// What a stored batch may decompress to, in bytes: it was checked when it was stored, but may come from elsewhere.
const MAX_STORED: u64 = 4 << 30;

/// What the records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// largest timestamp of a record
    pub max_timestamp: i64,
}

/// The records of a stored batch without compression; nothing if they have more than so many bytes.
pub fn body<'a>(batch: &'a [u8], head: &Head, limit: usize) -> io::Result<Option<Cow<'a, [u8]>>> {
    let body = batch.get(HEAD_BYTES..head.size).ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.codec() == 0 {
        return Ok(Some(Cow::Borrowed(body)));
    }
    let mut out = Vec::new();
    codecs::open(head.codec(), body, MAX_STORED)?.take(limit as u64 + 1).read_to_end(&mut out)?;
    Ok((out.len() <= limit).then_some(Cow::Owned(out)))
}

/// Checks the records of a batch whose head and checksum are right. Where `keys` are needed, each has one.
pub fn check(batch: &[u8], head: &Head, max_batch_bytes: usize, keys: bool) -> Result<Checked, ResponseError> {
    let body = batch.get(HEAD_BYTES..head.size).ok_or(ResponseError::CorruptMessage)?;
    let limit = (max_batch_bytes as u64).saturating_mul(MAX_RATIO).max(MIN_UNCOMPRESSED);
    let walk = || -> io::Result<Option<i64>> {
        match head.codec() {
            0 => records(body, head, keys),
            codec => records(codecs::open(codec, body, limit)?, head, keys),
        }
    };
    match walk() {
        Ok(Some(max_timestamp)) => Ok(Checked { max_timestamp }),
        Ok(None) => Err(ResponseError::InvalidRecord),
        Err(e) => {
            // The checksum is right, so the same bytes would fail again: not CORRUPT_MESSAGE, which clients retry.
            tracing::debug!("records do not decode: {e}");
            Err(ResponseError::InvalidRecord)
        }
    }
}

/// Offset and timestamp of the first record, from an offset on, whose timestamp is at least this. Nothing of records that do
/// not decode.
pub fn first_at(batch: &[u8], head: &Head, timestamp: i64, from: i64) -> Option<(i64, i64)> {
    let log_append_time = head.attributes & LOG_APPEND_TIME != 0;
    if log_append_time {
        let first = head.base_offset.max(from);
        return (first <= head.last_offset() && head.max_timestamp >= timestamp).then_some((first, head.max_timestamp));
    }
    let body = batch.get(HEAD_BYTES..head.size)?;
    match head.codec() {
        0 => first_in(body, head, timestamp, from),
        codec => first_in(codecs::open(codec, body, MAX_STORED).ok()?, head, timestamp, from),
    }
}

fn first_in(mut source: impl BufRead, head: &Head, timestamp: i64, from: i64) -> Option<(i64, i64)> {
    for _ in 0..head.count {
        // Numbers have gaps after compaction.
        let (time, number, _) = record(&mut source, head.base_timestamp).ok()??;
        let offset = head.base_offset + number;
        if time >= timestamp && offset >= from {
            return Some((offset, time));
        }
    }
    None
}

/// The largest timestamp; `None` if the records are not those that the head announces.
fn records(mut source: impl BufRead, head: &Head, keys: bool) -> io::Result<Option<i64>> {
    let mut largest = i64::MIN;
    for wanted in 0..i64::from(head.count) {
        let Some((timestamp, number, has_key)) = record(&mut source, head.base_timestamp)? else {
            return Ok(None);
        };
        if number != wanted || (keys && !has_key) {
            return Ok(None);
        }
        largest = largest.max(timestamp);
    }
    Ok(source.fill_buf()?.is_empty().then_some(largest))
}

/// One record, of which nothing may be left over. Returns its timestamp, its number, and whether it has a key.
fn record(source: &mut impl BufRead, base_timestamp: i64) -> io::Result<Option<(i64, i64, bool)>> {
    let Ok(length) = u64::try_from(varint(source)?) else {
        return Ok(None);
    };
    if length > i32::MAX as u64 {
        return Ok(None);
    }
    let mut fields = source.take(length);
    byte(&mut fields)?;
    let Some(timestamp) = base_timestamp.checked_add(varint(&mut fields)?) else {
        return Ok(None);
    };
    let number = varint(&mut fields)?;
    if !(0..=i64::from(i32::MAX)).contains(&number) {
        return Ok(None);
    }
    let key_is_null = fields.fill_buf()?.first() == Some(&1);
    if !skip(&mut fields, true)? || !skip(&mut fields, true)? {
        return Ok(None);
    }
    let headers = varint(&mut fields)?;
    // Each header takes at least two bytes, so this bounds the loop by the record.
    if headers < 0 || headers as u64 > fields.limit() {
        return Ok(None);
    }
    for _ in 0..headers {
        if !skip(&mut fields, false)? || !skip(&mut fields, true)? {
            return Ok(None);
        }
    }
    Ok((fields.limit() == 0).then_some((timestamp, number, !key_is_null)))
}

/// Skips a key, a value or a header's name.
fn skip(fields: &mut io::Take<&mut impl BufRead>, may_be_null: bool) -> io::Result<bool> {
    let length = varint(fields)?;
    let Ok(mut left) = u64::try_from(length) else {
        return Ok(may_be_null && length == -1);
    };
    if left > fields.limit() {
        return Ok(false);
    }
    while left > 0 {
        let have = fields.fill_buf()?.len() as u64;
        if have == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = have.min(left);
        fields.consume(n as usize);
        left -= n;
    }
    Ok(true)
}

fn byte(source: &mut impl BufRead) -> io::Result<u8> {
    let b = *source.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
    source.consume(1);
    Ok(b)
}

/// A zigzag varint of at most 64 bits.
fn varint(source: &mut impl BufRead) -> io::Result<i64> {
    let mut out = 0u64;
    for shift in (0..70).step_by(7) {
        let b = byte(source)?;
        out |= u64::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Ok((out >> 1) as i64 ^ -((out & 1) as i64));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a number has more than 64 bits"))
}
