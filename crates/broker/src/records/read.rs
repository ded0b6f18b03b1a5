//! Records one by one, of a batch that was checked when it was stored.
//!
//! Invariant: what does not parse is an error, never a panic; nothing is allocated by a number in it.

use std::io;

use crate::batch::{CONTROL, Head};

/// A record within the uncompressed body of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// all of its bytes behind its length
    pub bytes: &'a [u8],
    /// milliseconds since the batch's base timestamp
    pub timestamp_delta: i64,
    /// offset since the batch's base offset
    pub offset_delta: i32,
    /// none is a null
    pub key: Option<&'a [u8]>,
    /// none is a null: a tombstone
    pub value: Option<&'a [u8]>,
    /// what follows the timestamp: offset delta, key, value, headers
    pub tail: &'a [u8],
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A zigzag varint.
fn varint(b: &mut &[u8]) -> io::Result<i64> {
    let mut out = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = b.split_first().ok_or_else(|| invalid("a number is cut off"))?;
        *b = rest;
        out |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((out >> 1) as i64 ^ -((out & 1) as i64));
        }
    }
    Err(invalid("a number has more than 64 bits"))
}

/// Appends a zigzag varint.
pub fn put_varint(out: &mut Vec<u8>, n: i64) {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
}

fn field<'a>(b: &mut &'a [u8]) -> io::Result<Option<&'a [u8]>> {
    let length = varint(b)?;
    if length == -1 {
        return Ok(None);
    }
    let (field, rest) = usize::try_from(length).ok().and_then(|n| b.split_at_checked(n)).ok_or_else(|| invalid("a field is cut off"))?;
    *b = rest;
    Ok(Some(field))
}

/// The records in an uncompressed body. Ends with the first error.
#[derive(Debug)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// Of the body of a batch.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn one(&mut self) -> io::Result<Record<'a>> {
        let bytes = field(&mut self.0)?.ok_or_else(|| invalid("a record has no length"))?;
        let mut rest = bytes.get(1..).ok_or_else(|| invalid("a record is empty"))?;
        let timestamp_delta = varint(&mut rest)?;
        let tail = rest;
        let offset_delta = i32::try_from(varint(&mut rest)?).map_err(|_| invalid("an offset has more than 32 bits"))?;
        Ok(Record { bytes, timestamp_delta, offset_delta, key: field(&mut rest)?, value: field(&mut rest)?, tail })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = io::Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let one = self.one();
        if one.is_err() {
            self.0 = &[];
        }
        Some(one)
    }
}

/// The end of a transaction, as its coordinator wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// aborted, not committed
    pub aborted: bool,
    /// term of the coordinator
    pub coordinator_epoch: i32,
}

/// The marker in a control batch; `None` if it has none, or one of another kind. Source: EndTransactionMarker.java.
pub fn marker(batch: &[u8], head: &Head) -> Option<Marker> {
    if head.attributes & CONTROL == 0 {
        return None;
    }
    let body = batch.get(crate::batch::HEAD_BYTES..head.size)?;
    let record = Records::new(body).next()?.ok()?;
    let aborted = match record.key?.get(2..4)? {
        [0, 0] => true,
        [0, 1] => false,
        _ => return None,
    };
    let epoch = record.value?.get(2..6)?.try_into().ok()?;
    Some(Marker { aborted, coordinator_epoch: i32::from_be_bytes(epoch) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_are_read_and_rubbish_is_an_error() {
        // length, attributes, timestamp delta, offset delta, key, value, headers
        let body = [0x1a, 0, 0, 0, 4, b'k', b'1', 10, b'f', b'i', b'r', b's', b't', 0, 0x10, 0, 6, 4, 4, b'k', b'3', 1, 0];
        let records: Vec<_> = Records::new(&body).map(Result::unwrap).collect();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].key, records[0].value, records[0].offset_delta), (Some(&b"k1"[..]), Some(&b"first"[..]), 0));
        assert_eq!((records[1].key, records[1].value, records[1].timestamp_delta, records[1].offset_delta), (Some(&b"k3"[..]), None, 3, 2));
        for cut in 1..body.len() {
            let cut = Records::new(&body[..cut]).collect::<io::Result<Vec<_>>>();
            assert!(cut.is_err() || cut.unwrap().len() == 1);
        }
        for n in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            assert_eq!(varint(&mut &out[..]).unwrap(), n);
        }
    }
}
