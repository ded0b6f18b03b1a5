//! What the controller and brokers tell each other: LeaderAndIsr (key 4), StopReplica (5), UpdateMetadata (6), ControlledShutdown (7)
//! and AllocateProducerIds (67), as Kafka 3.9 speaks them in ZooKeeper mode. The message crate lacks 4 to 7.
//!
//! Layouts are those of Kafka's message definitions. Versions: LeaderAndIsr 5 to 7, StopReplica 3 to 4, UpdateMetadata 7 to 8,
//! ControlledShutdown 3, AllocateProducerIds 0; a controller with `inter.broker.protocol.version` 2.8 or newer sends these.
//!
//! Invariant: every length and count that is read fits what is left of the message; decoding ends with an error, never a panic.

mod codec;
mod leader_and_isr;
mod stop_replica;
mod update_metadata;

use bytes::{Bytes, BytesMut};

use codec::{Reader, Writer};
pub use leader_and_isr::{LeaderAndIsr, LiveLeader, PartitionState, TopicState};
pub use stop_replica::{StopPartition, StopReplica};
pub use update_metadata::{Endpoint, LiveBroker, PartitionMetadata, TopicMetadata, UpdateMetadata};

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

/// Counts changes after which brokers no longer understand their predecessors, as `--version` prints it. It is also looked for in the
/// program itself: such brokers cannot be restarted one by one. Brokers without it did not send these requests.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nseptet-peer-protocol=1");

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

/// Errors of partitions: topic, number, code.
pub type PartitionErrors = Vec<(String, i32, i16)>;

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
