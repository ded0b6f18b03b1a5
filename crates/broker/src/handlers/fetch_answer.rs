//! The answer to Fetch, versions 4 to 17, written by hand: the records in it are parts of files, not bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::leaders::Leaders;
use crate::{
    fetch_sessions::{Answered, Part},
    log::Slice,
    net::answer::{Answer, Piece},
};

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;
/// First version with topic ids in the place of names.
const IDS: i16 = 13;

/// What an answer begins with.
#[derive(Debug)]
pub struct Header {
    /// of the request
    pub correlation_id: i32,
    /// of the request
    pub version: i16,
    /// of the session
    pub error: i16,
    /// the session that goes on, 0 for none
    pub session: i32,
}

struct Writer {
    pieces: Vec<Piece>,
    bytes: BytesMut,
    version: i16,
}

fn varint(out: &mut BytesMut, mut n: usize) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

impl Writer {
    /// Length of an array or of bytes.
    fn length(&mut self, n: usize) {
        if self.version >= FLEXIBLE { varint(&mut self.bytes, n + 1) } else { self.bytes.put_u32(n as u32) }
    }
    /// In the place of an array.
    fn null(&mut self) {
        if self.version >= FLEXIBLE { self.bytes.put_u8(0) } else { self.bytes.put_i32(-1) }
    }
    fn name(&mut self, name: &str) {
        if self.version >= FLEXIBLE {
            varint(&mut self.bytes, name.len() + 1);
        } else {
            self.bytes.put_u16(name.len() as u16);
        }
        self.bytes.put_slice(name.as_bytes());
    }
    fn no_tags(&mut self) {
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(0);
        }
    }
    /// A tagged structure of two numbers, which has no tags itself.
    fn pair(&mut self, tag: u8, write: impl FnOnce(&mut BytesMut)) {
        self.bytes.put_u8(tag);
        let mut field = BytesMut::new();
        write(&mut field);
        field.put_u8(0);
        varint(&mut self.bytes, field.len());
        self.bytes.put_slice(&field);
    }
    fn part(&mut self, part: Part) {
        self.bytes.put_i32(part.index);
        self.bytes.put_i16(part.error);
        self.bytes.put_i64(part.high_watermark);
        self.bytes.put_i64(part.last_stable_offset);
        if self.version >= 5 {
            self.bytes.put_i64(part.start_offset);
        }
        match part.aborted {
            Some(aborted) => {
                self.length(aborted.len());
                for (producer, first) in aborted {
                    self.bytes.put_i64(producer);
                    self.bytes.put_i64(first);
                    self.no_tags();
                }
            }
            None => self.null(),
        }
        if self.version >= 11 {
            self.bytes.put_i32(part.preferred);
        }
        self.length(part.records.as_ref().map_or(0, Slice::len));
        if let Some(records) = part.records {
            self.pieces.push(Piece::Bytes(self.bytes.split().freeze()));
            self.pieces.push(Piece::File(records));
        }
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(u8::from(part.diverging.is_some()) + u8::from(part.leader.is_some()));
            if let Some((epoch, end)) = part.diverging {
                self.pair(0, |b| {
                    b.put_i32(epoch);
                    b.put_i64(end);
                });
            }
            if let Some((leader, epoch)) = part.leader {
                self.pair(1, |b| {
                    b.put_i32(leader);
                    b.put_i32(epoch);
                });
            }
        }
    }
    /// Tagged fields of the whole: addresses of the leaders.
    fn leaders(&mut self, leaders: Leaders) {
        let endpoints = leaders.endpoints();
        if self.version < 16 || endpoints.len() == 0 {
            return self.no_tags();
        }
        let mut field = BytesMut::new();
        varint(&mut field, endpoints.len() + 1);
        for (id, host, port) in endpoints {
            field.put_i32(id.0);
            varint(&mut field, host.len() + 1);
            field.put_slice(host.as_bytes());
            field.put_i32(port);
            // No rack, no tags.
            field.put_slice(&[0, 0]);
        }
        self.bytes.put_slice(&[1, 0]);
        varint(&mut self.bytes, field.len());
        self.bytes.put_slice(&field);
    }
}

/// The bytes that one partition takes beside its records, at the most.
pub const PART_BYTES: usize = 160;
/// The bytes that an aborted transaction takes, while the answer is made and written.
pub const ABORTED_BYTES: usize = 34;

/// Encodes an answer.
pub fn encode(header: &Header, topics: Answered, leaders: Leaders) -> Answer {
    let version = header.version;
    let mut w = Writer { pieces: Vec::new(), bytes: BytesMut::new(), version };
    w.bytes.put_i32(header.correlation_id);
    w.no_tags();
    // Throttle time.
    w.bytes.put_i32(0);
    if version >= 7 {
        w.bytes.put_i16(header.error);
        w.bytes.put_i32(header.session);
    }
    w.length(topics.len());
    for (topic, parts) in topics {
        if version >= IDS {
            w.bytes.put_slice(topic.id.as_bytes());
        } else {
            w.name(topic.name.as_deref().unwrap_or_default());
        }
        w.length(parts.len());
        parts.into_iter().for_each(|p| w.part(p));
        w.no_tags();
    }
    w.leaders(leaders);
    w.pieces.push(Piece::Bytes(w.bytes.freeze()));
    let length: usize = w.pieces.iter().map(Piece::len).sum();
    w.pieces.insert(0, Piece::Bytes(Bytes::copy_from_slice(&(length as u32).to_be_bytes())));
    Answer { pieces: w.pieces, ..Answer::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use kafka_protocol::{
        messages::{
            ApiKey, BrokerId, FetchResponse, ResponseHeader, TopicName,
            fetch_response::{AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData},
        },
        protocol::{Encodable, StrBytes},
    };
    use uuid::Uuid;

    use super::*;
    use crate::{
        cluster::{BrokerInfo, Image, PartitionInfo, TopicInfo},
        config::Listener,
        fetch_sessions::Topic,
        handlers::Context,
    };

    fn part(i: usize, version: i16, file: &std::path::Path) -> Part {
        let failed = i % 3 == 2;
        let offset = |n: i64| if failed { -1 } else { n };
        Part {
            index: i as i32,
            error: if failed { 6 } else { 0 },
            high_watermark: offset(1000),
            last_stable_offset: offset(900),
            start_offset: offset(7),
            diverging: (version >= 12 && i.is_multiple_of(5)).then_some((3, 400)),
            leader: (version >= 16 && failed).then_some((2, 9)),
            preferred: if i % 7 == 3 && version >= 11 { 4 } else { -1 },
            records: (i % 3 == 1).then(|| Slice::of_file(file, i as u64, 90 + i as u64 % 90)),
            more: false,
            aborted: (!i.is_multiple_of(4)).then(|| (0..i as i64 % 4 - 1).map(|n| (n + 70, n * 1000)).collect()),
        }
    }

    fn expected(p: Part, version: i16) -> PartitionData {
        let mut out = PartitionData::default()
            .with_partition_index(p.index)
            .with_error_code(p.error)
            .with_high_watermark(p.high_watermark)
            .with_last_stable_offset(p.last_stable_offset)
            .with_log_start_offset(if version >= 5 { p.start_offset } else { -1 })
            .with_preferred_read_replica(BrokerId(p.preferred))
            .with_records(Some(p.records.map_or(Bytes::new(), |r| Bytes::from(vec![7; r.len()]))));
        let transaction = |(id, first): (i64, i64)| AbortedTransaction::default().with_producer_id(id.into()).with_first_offset(first);
        out.aborted_transactions = p.aborted.map(|all| all.into_iter().map(transaction).collect());
        if let Some((epoch, end)) = p.diverging {
            out.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
        }
        if let Some((id, epoch)) = p.leader {
            out.current_leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(id)).with_leader_epoch(epoch);
        }
        out
    }

    fn leaders(version: i16) -> Leaders {
        let mut leaders = Leaders::default();
        if version >= 16 {
            let at = Listener { name: "PLAINTEXT".into(), host: "a-host".into(), port: 9092 };
            let partition = PartitionInfo { replicas: vec![2], leader: 2, leader_epoch: 9, isr: vec![2], offline: vec![] };
            let topic = TopicInfo { partitions: BTreeMap::from([(0, partition)]), ..TopicInfo::default() };
            let image = Image {
                brokers: BTreeMap::from([(2, BrokerInfo { endpoints: vec![at], rack: None, ours: false })]),
                topics: BTreeMap::from([("t".to_owned(), topic.into())]),
                ..Image::default()
            };
            let context = Context { listener: "PLAINTEXT".into(), peer: None, connection: 0 };
            assert_eq!(leaders.note(&image, &context, 6, "t", 0), Some((2, 9)));
            assert_eq!(leaders.note(&image, &context, 3, "t", 0), None);
        }
        leaders
    }

    /// Byte for byte what the message crate makes of the same answer.
    #[test]
    fn every_version_has_the_layout_of_the_message_crate() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, [7; 500]).unwrap();
        for version in 4..=17 {
            for count in [0usize, 1, 2, 200] {
                let name = |t: usize| format!("topic-{t}-{}", "x".repeat(t * 130));
                let id = |t: usize| if version >= IDS { Uuid::from_u128(t as u128 + 5) } else { Uuid::nil() };
                let topics = (0..count.min(2)).map(|t| {
                    let topic = Topic { name: Some(name(t).into()), id: id(t) };
                    (topic, (0..count).map(|i| part(i, version, &file)).collect())
                });
                let (error, session) = if version >= 7 { (71, 12345) } else { (0, 0) };
                let header = Header { correlation_id: 77, version, error, session };
                let mut got = BytesMut::new();
                for piece in encode(&header, topics.collect(), leaders(version)).pieces {
                    match piece {
                        Piece::Bytes(b) => got.extend_from_slice(&b),
                        Piece::File(s) => s.read_into(&mut got).unwrap(),
                    }
                }
                let topic = |t: usize| {
                    let partitions = (0..count).map(|i| expected(part(i, version, &file), version));
                    let topic = FetchableTopicResponse::default().with_partitions(partitions.collect());
                    match version >= IDS {
                        true => topic.with_topic_id(id(t)),
                        false => topic.with_topic(TopicName(StrBytes::from_string(name(t)))),
                    }
                };
                let endpoint =
                    NodeEndpoint::default().with_node_id(BrokerId(2)).with_host(StrBytes::from_static_str("a-host")).with_port(9092);
                let response = FetchResponse::default()
                    .with_error_code(error)
                    .with_session_id(session)
                    .with_responses((0..count.min(2)).map(topic).collect())
                    .with_node_endpoints(if version >= 16 { vec![endpoint] } else { Vec::new() });
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
