//! The answer to Fetch, versions 4 to 12, written by hand: the records in it are parts of files, not bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    log::Slice,
    net::answer::{Answer, Piece},
};

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;

/// What there is of one partition.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Part {
    pub index: i32,
    pub error: i16,
    pub high_watermark: i64,
    pub start_offset: i64,
    pub records: Option<Slice>,
}

struct Writer {
    pieces: Vec<Piece>,
    bytes: BytesMut,
    version: i16,
}

impl Writer {
    fn varint(&mut self, mut n: usize) {
        while n >= 0x80 {
            self.bytes.put_u8(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.put_u8(n as u8);
    }
    /// Length of an array or of bytes.
    fn length(&mut self, n: usize) {
        if self.version >= FLEXIBLE { self.varint(n + 1) } else { self.bytes.put_u32(n as u32) }
    }
    fn name(&mut self, name: &str) {
        if self.version >= FLEXIBLE {
            self.varint(name.len() + 1)
        } else {
            self.bytes.put_u16(name.len() as u16)
        }
        self.bytes.put_slice(name.as_bytes());
    }
    fn no_tags(&mut self) {
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(0);
        }
    }
    fn part(&mut self, part: Part) {
        self.bytes.put_i32(part.index);
        self.bytes.put_i16(part.error);
        self.bytes.put_i64(part.high_watermark);
        // Last stable offset: there are no transactions.
        self.bytes.put_i64(if part.error == 0 { part.high_watermark } else { -1 });
        if self.version >= 5 {
            self.bytes.put_i64(part.start_offset);
        }
        // Aborted transactions.
        self.length(0);
        if self.version >= 11 {
            // Preferred replica.
            self.bytes.put_i32(-1);
        }
        self.length(part.records.as_ref().map_or(0, Slice::len));
        if let Some(records) = part.records {
            self.pieces.push(Piece::Bytes(self.bytes.split().freeze()));
            self.pieces.push(Piece::File(records));
        }
        self.no_tags();
    }
}

/// The bytes that one partition takes beside its records, at the most.
pub const PART_BYTES: usize = 128;

/// Encodes an answer. Sessions are declined by session 0.
pub fn encode(correlation_id: i32, version: i16, topics: Vec<(String, Vec<Part>)>) -> Answer {
    let mut w = Writer { pieces: Vec::new(), bytes: BytesMut::new(), version };
    w.bytes.put_i32(correlation_id);
    w.no_tags();
    // Throttle time.
    w.bytes.put_i32(0);
    if version >= 7 {
        // Error and session.
        w.bytes.put_i16(0);
        w.bytes.put_i32(0);
    }
    w.length(topics.len());
    for (name, parts) in topics {
        w.name(&name);
        w.length(parts.len());
        parts.into_iter().for_each(|p| w.part(p));
        w.no_tags();
    }
    w.no_tags();
    w.pieces.push(Piece::Bytes(w.bytes.freeze()));
    let length: usize = w.pieces.iter().map(Piece::len).sum();
    w.pieces.insert(0, Piece::Bytes(Bytes::copy_from_slice(&(length as u32).to_be_bytes())));
    Answer { pieces: w.pieces, ..Answer::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kafka_protocol::{
        messages::{
            ApiKey, FetchResponse, ResponseHeader, TopicName,
            fetch_response::{FetchableTopicResponse, PartitionData},
        },
        protocol::{Encodable, StrBytes},
    };

    use super::*;

    /// Byte for byte what the message crate makes of the same answer.
    #[test]
    fn every_version_has_the_layout_of_the_message_crate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), [7; 500]).unwrap();
        for version in 4..=12 {
            for count in [0usize, 1, 2, 200] {
                let slice = |i: usize| (i % 3 == 1).then(|| Slice::of_file(&dir.path().join("f"), i as u64, 90 + i as u64 % 90));
                let parts = |topic: usize| -> Vec<Part> {
                    (0..count)
                        .map(|i| Part {
                            index: i as i32,
                            error: if i % 3 == 2 { 3 } else { 0 },
                            high_watermark: if i % 3 == 2 { -1 } else { 1000 + topic as i64 },
                            start_offset: if i % 3 == 2 { -1 } else { 7 },
                            records: slice(i),
                        })
                        .collect()
                };
                let name = |t: usize| format!("topic-{t}-{}", "x".repeat(t * 130));
                let topics = (0..count.min(2)).map(|t| (name(t), parts(t))).collect();
                let mut got = BytesMut::new();
                for piece in encode(77, version, topics).pieces {
                    match piece {
                        Piece::Bytes(b) => got.extend_from_slice(&b),
                        Piece::File(s) => s.read_into(&mut got).unwrap(),
                    }
                }
                let topic = |t: usize| {
                    let partitions = parts(t).into_iter().map(|p| {
                        PartitionData::default()
                            .with_partition_index(p.index)
                            .with_error_code(p.error)
                            .with_high_watermark(p.high_watermark)
                            .with_last_stable_offset(if p.error == 0 { p.high_watermark } else { -1 })
                            .with_log_start_offset(if version >= 5 { p.start_offset } else { -1 })
                            .with_records(Some(p.records.map_or(Bytes::new(), |r| Bytes::from(vec![7; r.len()]))))
                    });
                    FetchableTopicResponse::default()
                        .with_topic(TopicName(StrBytes::from_string(name(t))))
                        .with_partitions(partitions.collect())
                };
                let response = FetchResponse::default().with_responses((0..count.min(2)).map(topic).collect());
                let mut want = BytesMut::from(&[0u8; 4][..]);
                let head = ResponseHeader::default().with_correlation_id(77);
                head.encode(&mut want, ApiKey::Fetch.response_header_version(version)).unwrap();
                response.encode(&mut want, version).unwrap();
                let length = want.len() as u32 - 4;
                want[..4].copy_from_slice(&length.to_be_bytes());
                assert_eq!(got, want, "version {version}, {count} partitions");
            }
        }
    }
}
