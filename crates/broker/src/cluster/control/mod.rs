//! What the controller and brokers tell each other: LeaderAndIsr (key 4), StopReplica (5), UpdateMetadata (6), ControlledShutdown (7)
//! and AllocateProducerIds (67), as Kafka 3.9 speaks them in ZooKeeper mode. The message crate lacks 4 to 7.
//!
//! Layouts are those of Kafka's message definitions. Versions: LeaderAndIsr 5 to 7, StopReplica 3 to 4, UpdateMetadata 7 to 8,
//! ControlledShutdown 3, AllocateProducerIds 0; a controller with `inter.broker.protocol.version` 2.8 or newer sends these.
//!
//! Invariant: every length and count that is read fits what is left of the message; decoding ends with an error, never a panic.

mod codec;

use bytes::{Bytes, BytesMut};

use codec::{Reader, Writer};

/// Keys of the requests, with the versions that are served.
pub mod key {
    #![allow(missing_docs)]
    pub const LEADER_AND_ISR: i16 = 4;
    pub const STOP_REPLICA: i16 = 5;
    pub const UPDATE_METADATA: i16 = 6;
    pub const CONTROLLED_SHUTDOWN: i16 = 7;
    pub const ALLOCATE_PRODUCER_IDS: i16 = 67;
    /// Key, oldest and newest version.
    pub const ALL: &[(i16, i16, i16)] = &[
        (LEADER_AND_ISR, 5, 7),
        (STOP_REPLICA, 3, 4),
        (UPDATE_METADATA, 7, 8),
        (CONTROLLED_SHUTDOWN, 3, 3),
        (ALLOCATE_PRODUCER_IDS, 0, 0),
    ];
}

/// Leader in UpdateMetadata of a partition that is being deleted (LeaderAndIsr.LeaderDuringDelete).
pub const LEADER_DURING_DELETE: i32 = -2;

/// A message that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a length or count does not fit the message")]
pub struct Malformed;

/// Who sends, and in which epoch: the first fields of the controller's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// The controller's broker id.
    pub controller_id: i32,
    /// Counts the controllers.
    pub controller_epoch: i32,
    /// Registration of the broker that is addressed; -1 is not checked.
    pub broker_epoch: i64,
}

/// A partition in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionState {
    pub index: i32,
    pub controller_epoch: i32,
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
    /// Version of the state's znode.
    pub partition_epoch: i32,
    pub replicas: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
    /// The replica need not exist yet.
    pub is_new: bool,
}

/// A topic in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicState {
    pub name: String,
    pub id: [u8; 16],
    pub partitions: Vec<PartitionState>,
}

/// An address in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LiveLeader {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

/// LeaderAndIsr: what the addressed broker leads and follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderAndIsr {
    /// Sender.
    pub origin: Origin,
    /// All that the broker has a replica of is in the request.
    pub full: bool,
    /// Partitions by topic.
    pub topics: Vec<TopicState>,
    /// Addresses of the leaders.
    pub leaders: Vec<LiveLeader>,
}

/// An address in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub port: i32,
    pub host: String,
    pub listener: String,
    /// 0 is PLAINTEXT.
    pub protocol: i16,
}

/// A broker in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LiveBroker {
    pub id: i32,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
}

/// A partition in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionMetadata {
    pub index: i32,
    pub controller_epoch: i32,
    /// -1 for none, [`LEADER_DURING_DELETE`] if it is being deleted.
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
    pub partition_epoch: i32,
    pub replicas: Vec<i32>,
    pub offline: Vec<i32>,
}

/// A topic in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicMetadata {
    pub name: String,
    pub id: [u8; 16],
    pub partitions: Vec<PartitionMetadata>,
}

/// UpdateMetadata: living brokers, and what has changed of partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateMetadata {
    /// Sender.
    pub origin: Origin,
    /// Partitions by topic.
    pub topics: Vec<TopicMetadata>,
    /// All living brokers.
    pub brokers: Vec<LiveBroker>,
}

/// A partition in StopReplica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StopPartition {
    pub index: i32,
    /// -1 is not checked, -2 is for a topic's deletion.
    pub leader_epoch: i32,
    /// Its files go, too.
    pub delete: bool,
}

/// StopReplica: replicas that are not to be fetched, or not to be had, any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopReplica {
    /// Sender.
    pub origin: Origin,
    /// Partitions by topic.
    pub topics: Vec<(String, Vec<StopPartition>)>,
}

/// Errors of partitions: topic, number, code.
pub type PartitionErrors = Vec<(String, i32, i16)>;

impl LeaderAndIsr {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 7 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let full = r.i8()? == 1;
        let topics = r.array(|r| {
            let (name, id) = (r.string()?, r.bytes16()?);
            let partitions = r.array(|r| {
                let mut p = PartitionState {
                    index: r.i32()?,
                    controller_epoch: r.i32()?,
                    leader: r.i32()?,
                    leader_epoch: r.i32()?,
                    isr: r.i32s()?,
                    partition_epoch: r.i32()?,
                    replicas: r.i32s()?,
                    adding: r.i32s()?,
                    removing: r.i32s()?,
                    is_new: false,
                };
                p.is_new = r.bool()?;
                if version >= 6 {
                    r.i8()?;
                }
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok(TopicState { name, id, partitions })
        })?;
        let leaders = r.array(|r| {
            let leader = LiveLeader { id: r.i32()?, host: r.string()?, port: r.i32()? };
            r.tags()?;
            Ok(leader)
        })?;
        r.tags()?;
        Ok(Self { origin, full, topics, leaders })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 7 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
        w.i8(self.full.into());
        w.array(&self.topics, |w, t| {
            w.string(&t.name);
            w.raw(&t.id);
            w.array(&t.partitions, |w, p| {
                w.i32(p.index);
                w.i32(p.controller_epoch);
                w.i32(p.leader);
                w.i32(p.leader_epoch);
                w.i32s(&p.isr);
                w.i32(p.partition_epoch);
                w.i32s(&p.replicas);
                w.i32s(&p.adding);
                w.i32s(&p.removing);
                w.bool(p.is_new);
                if version >= 6 {
                    w.i8(0);
                }
                w.tags();
            });
            w.tags();
        });
        w.array(&self.leaders, |w, l| {
            w.i32(l.id);
            w.string(&l.host);
            w.i32(l.port);
            w.tags();
        });
        w.tags();
        w.finish()
    }

    /// The body of an answer: a code for the whole, and one for each partition, by the topics of the request.
    pub fn encode_answer(&self, error: i16, errors: &PartitionErrors) -> Bytes {
        let mut w = Writer::default();
        w.i16(error);
        let topics: Vec<&TopicState> = if error == 0 { self.topics.iter().collect() } else { Vec::new() };
        w.array(&topics, |w, t| {
            w.raw(&t.id);
            let of_topic: Vec<_> = errors.iter().filter(|(name, ..)| *name == t.name).collect();
            w.array(&of_topic, |w, (_, index, code)| {
                w.i32(*index);
                w.i16(*code);
                w.tags();
            });
            w.tags();
        });
        w.tags();
        w.finish()
    }

    /// Reads an answer to this request.
    pub fn decode_answer(&self, body: &[u8]) -> Result<(i16, PartitionErrors), Malformed> {
        let mut r = Reader::new(body);
        let error = r.i16()?;
        let mut errors = Vec::new();
        r.array(|r| {
            let id = r.bytes16()?;
            let name = self.topics.iter().find(|t| t.id == id).map(|t| t.name.clone());
            r.array(|r| {
                let (index, code) = (r.i32()?, r.i16()?);
                r.tags()?;
                errors.extend(name.clone().map(|n| (n, index, code)));
                Ok(())
            })?;
            r.tags()
        })?;
        r.tags()?;
        Ok((error, errors))
    }
}

impl UpdateMetadata {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 8 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let topics = r.array(|r| {
            let (name, id) = (r.string()?, r.bytes16()?);
            let partitions = r.array(|r| {
                let p = PartitionMetadata {
                    index: r.i32()?,
                    controller_epoch: r.i32()?,
                    leader: r.i32()?,
                    leader_epoch: r.i32()?,
                    isr: r.i32s()?,
                    partition_epoch: r.i32()?,
                    replicas: r.i32s()?,
                    offline: r.i32s()?,
                };
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok(TopicMetadata { name, id, partitions })
        })?;
        let brokers = r.array(|r| {
            let id = r.i32()?;
            let endpoints = r.array(|r| {
                let e = Endpoint { port: r.i32()?, host: r.string()?, listener: r.string()?, protocol: r.i16()? };
                r.tags()?;
                Ok(e)
            })?;
            let rack = r.nullable_string()?;
            r.tags()?;
            Ok(LiveBroker { id, endpoints, rack })
        })?;
        r.tags()?;
        Ok(Self { origin, topics, brokers })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 8 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
        w.array(&self.topics, |w, t| {
            w.string(&t.name);
            w.raw(&t.id);
            w.array(&t.partitions, |w, p| {
                w.i32(p.index);
                w.i32(p.controller_epoch);
                w.i32(p.leader);
                w.i32(p.leader_epoch);
                w.i32s(&p.isr);
                w.i32(p.partition_epoch);
                w.i32s(&p.replicas);
                w.i32s(&p.offline);
                w.tags();
            });
            w.tags();
        });
        w.array(&self.brokers, |w, b| {
            w.i32(b.id);
            w.array(&b.endpoints, |w, e| {
                w.i32(e.port);
                w.string(&e.host);
                w.string(&e.listener);
                w.i16(e.protocol);
                w.tags();
            });
            w.nullable_string(b.rack.as_deref());
            w.tags();
        });
        w.tags();
        w.finish()
    }
}

impl StopReplica {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 4 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let topics = r.array(|r| {
            let name = r.string()?;
            let partitions = r.array(|r| {
                let p = StopPartition { index: r.i32()?, leader_epoch: r.i32()?, delete: r.bool()? };
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok((name, partitions))
        })?;
        r.tags()?;
        Ok(Self { origin, topics })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 4 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
        w.array(&self.topics, |w, (name, partitions)| {
            w.string(name);
            w.array(partitions, |w, p| {
                w.i32(p.index);
                w.i32(p.leader_epoch);
                w.bool(p.delete);
                w.tags();
            });
            w.tags();
        });
        w.tags();
        w.finish()
    }
}

/// The body of an answer to StopReplica and ControlledShutdown: a code, and entries of a topic, a number and, for StopReplica, a code.
pub fn encode_partitions_answer(error: i16, entries: &PartitionErrors, with_codes: bool) -> Bytes {
    let mut w = Writer::default();
    w.i16(error);
    w.array(entries, |w, (name, index, code)| {
        w.string(name);
        w.i32(*index);
        if with_codes {
            w.i16(*code);
        }
        w.tags();
    });
    w.tags();
    w.finish()
}

/// Reads such an answer.
pub fn decode_partitions_answer(body: &[u8], with_codes: bool) -> Result<(i16, PartitionErrors), Malformed> {
    let mut r = Reader::new(body);
    let error = r.i16()?;
    let entries = r.array(|r| {
        let entry = (r.string()?, r.i32()?, if with_codes { r.i16()? } else { 0 });
        r.tags()?;
        Ok(entry)
    })?;
    r.tags()?;
    Ok((error, entries))
}

/// The body of an answer that is a code only, as UpdateMetadata's.
pub fn encode_code(error: i16) -> Bytes {
    let mut w = Writer::default();
    w.i16(error);
    w.tags();
    w.finish()
}

/// Reads such an answer.
pub fn decode_code(body: &[u8]) -> Result<i16, Malformed> {
    Reader::new(body).i16()
}

/// The body of an answer to AllocateProducerIds: an error, or a block of ids.
pub fn encode_producer_ids(block: Result<std::ops::Range<i64>, i16>) -> Bytes {
    let (error, block) = match block {
        Ok(block) => (0, block),
        Err(code) => (code, 0..0),
    };
    let mut w = Writer::default();
    w.i32(0);
    w.i16(error);
    w.i64(block.start);
    w.i32(i32::try_from(block.end - block.start).unwrap_or(0));
    w.tags();
    w.finish()
}

/// The body of ControlledShutdown, and of AllocateProducerIds: a broker and its epoch.
pub fn encode_controlled_shutdown(broker: i32, epoch: i64) -> Bytes {
    let mut w = Writer::default();
    w.i32(broker);
    w.i64(epoch);
    w.tags();
    w.finish()
}

/// Reads it.
pub fn decode_controlled_shutdown(body: &[u8]) -> Result<(i32, i64), Malformed> {
    let mut r = Reader::new(body);
    Ok((r.i32()?, r.i64()?))
}

/// Frames a body as a request with a flexible header (version 2).
pub fn frame_request(key: i16, version: i16, correlation_id: i32, client_id: &str, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + client_id.len() + 16);
    let length = 2 + 2 + 4 + 2 + client_id.len() + 1 + body.len();
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&correlation_id.to_be_bytes());
    out.extend_from_slice(&(client_id.len() as u16).to_be_bytes());
    out.extend_from_slice(client_id.as_bytes());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(body);
    out.freeze()
}

/// Frames a body as an answer with a flexible header (version 1).
pub fn frame_answer(correlation_id: i32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 9);
    out.extend_from_slice(&(body.len() as u32 + 5).to_be_bytes());
    out.extend_from_slice(&correlation_id.to_be_bytes());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(body);
    out.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn samples() -> (LeaderAndIsr, UpdateMetadata, StopReplica) {
        let origin = Origin { controller_id: 3, controller_epoch: 7, broker_epoch: 1 << 40 };
        let p = PartitionState {
            index: 5,
            controller_epoch: 7,
            leader: 1,
            leader_epoch: 4,
            isr: vec![1, 2],
            partition_epoch: 11,
            replicas: vec![1, 2, 3],
            adding: vec![],
            removing: vec![3],
            is_new: true,
        };
        let name = "a".repeat(200);
        let topics = vec![TopicState { name: name.clone(), id: [9; 16], partitions: vec![p.clone(), PartitionState { index: 6, ..p }] }];
        let leaders = vec![LiveLeader { id: 1, host: "h".into(), port: 9092 }];
        let m =
            PartitionMetadata { index: 1, leader: -2, isr: vec![1], replicas: vec![1], offline: vec![1], ..PartitionMetadata::default() };
        let broker = |rack| LiveBroker {
            id: 2,
            endpoints: vec![Endpoint { port: 1, host: "x".into(), listener: "PLAINTEXT".into(), protocol: 0 }],
            rack,
        };
        let stop = StopPartition { index: 1, leader_epoch: -2, delete: true };
        (
            LeaderAndIsr { origin, full: true, topics, leaders },
            UpdateMetadata {
                origin,
                topics: vec![TopicMetadata { name: name.clone(), id: [8; 16], partitions: vec![m] }],
                brokers: vec![broker(None), broker(Some("r1".into()))],
            },
            StopReplica { origin, topics: vec![(name, vec![stop])] },
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let (l, u, s) = samples();
        for version in 5..=7 {
            assert_eq!(LeaderAndIsr::decode(&l.encode(version), version).unwrap(), l);
        }
        for version in 7..=8 {
            assert_eq!(UpdateMetadata::decode(&u.encode(version), version).unwrap(), u);
        }
        for version in 3..=4 {
            assert_eq!(StopReplica::decode(&s.encode(version), version).unwrap(), s);
        }
        let errors = vec![("a".repeat(200), 5, 0), ("a".repeat(200), 6, 56)];
        assert_eq!(l.decode_answer(&l.encode_answer(0, &errors)).unwrap(), (0, errors.clone()));
        assert_eq!(decode_partitions_answer(&encode_partitions_answer(0, &errors, true), true).unwrap(), (0, errors));
        assert_eq!(decode_code(&encode_code(11)).unwrap(), 11);
        let block = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xd0, 0, 0, 0x03, 0xe8, 0];
        assert_eq!(encode_producer_ids(Ok(2000..3000))[..], block);
        assert_eq!(encode_producer_ids(Err(41))[..7], [0, 0, 0, 0, 0, 41, 0]);
        assert_eq!(decode_controlled_shutdown(&encode_controlled_shutdown(4, 99)).unwrap(), (4, 99));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400, byte: u8, version in 3i16..9) {
            let (l, u, s) = samples();
            for good in [l.encode(version), u.encode(version), s.encode(version)] {
                let mut bad = good.to_vec();
                let at = at % bad.len();
                bad[at] = byte;
                for input in [&bad[..], &bad[..at], &bytes[..]] {
                    let _ = LeaderAndIsr::decode(input, version);
                    let _ = UpdateMetadata::decode(input, version);
                    let _ = StopReplica::decode(input, version);
                    let _ = decode_partitions_answer(input, true);
                    let _ = decode_controlled_shutdown(input);
                }
            }
        }
    }
}
