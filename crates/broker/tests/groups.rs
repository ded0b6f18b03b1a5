//! Committed offsets: Kafka's partition for a group, Kafka's records, and what is left after the log is read again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use common::{
    batches::{Batch, keys_and_values},
    logs::{batches, limits},
    tempdir,
};
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::{
    groups::{Commit, Key, Offsets, partition_for},
    log::Log,
    partition::{Partition, Read},
    topic_settings::TopicSettings,
};

/// What Kafka 3.9.1 writes: OffsetCommitKey 1 of shop, orders, 7.
const KEY: &[u8] = b"\x00\x01\x00\x04shop\x00\x06orders\x00\x00\x00\x07";
/// OffsetCommitValue 3: offset 4242, leader epoch 3, "märk", 1700000000123.
const VALUE_3: &[u8] = b"\x00\x03\0\0\0\0\0\0\x10\x92\0\0\0\x03\x00\x05m\xc3\xa4rk\x00\x00\x01\x8b\xcf\xe5\x68\x7b";
/// OffsetCommitValue 1, which has a time of expiry and no leader epoch.
const VALUE_1: &[u8] = b"\x00\x01\0\0\0\0\0\0\x10\x92\x00\x05m\xc3\xa4rk\x00\x00\x01\x8b\xcf\xe5\x68\x7b\x00\x00\x01\x8b\xcf\xe6\xee\x9f";

fn partition(dir: &Path, max_message_bytes: usize) -> Partition {
    let log = Log::open(dir, limits(2000, 100)).unwrap();
    let settings = TopicSettings { max_message_bytes, ..TopicSettings::default() };
    let partition = Partition::new(log, settings, Arc::default());
    partition.lead(3);
    partition
}

fn open(dir: &Path) -> Partition {
    partition(dir, 1_000_000)
}

fn key(group: &str, topic: &str, partition: i32) -> Key {
    Key { group: group.into(), topic: topic.into(), partition }
}

fn commit(offset: i64) -> Commit {
    Commit { offset, leader_epoch: 3, metadata: "märk".into(), timestamp: 1_700_000_000_123 }
}

fn read(offset: i64) -> Read {
    Read { offset, max_bytes: 1000, at_least_one: true, stable_only: false, replica: None }
}

#[test]
fn groups_are_spread_as_kafka_spreads_them() {
    // (group, of 50, of 7): by Kafka's own Utils.abs(group.hashCode) % n.
    for (group, of_50, of_7) in [
        ("", 0, 0),
        ("a", 47, 6),
        ("group", 47, 3),
        ("test-group", 12, 2),
        ("console-consumer-12345", 6, 6),
        ("my-consumer-group", 13, 5),
        ("connect-cluster", 13, 5),
        ("payments", 13, 0),
        ("polygenelubricants", 0, 0), // hash code -2147483648
        ("grüppe", 12, 3),            // hash code -1233264812
        ("gruppe-\u{1f600}", 11, 5),  // hash code -593860811, with a surrogate pair
    ] {
        assert_eq!((partition_for(group, 50), partition_for(group, 7)), (of_50, of_7), "{group:?}");
        assert_eq!(partition_for(group, 1), 0);
        assert_eq!((partition_for(group, 0), partition_for(group, -1)), (0, 0), "no partitions yet");
    }
}

#[test]
fn records_have_kafkas_bytes() {
    let dir = tempdir();
    let partition = open(dir.path());
    let offsets = Offsets::load(&partition).unwrap();
    let second = Commit { leader_epoch: -1, metadata: String::new(), ..commit(0) };
    offsets.commit(&partition, vec![(key("shop", "orders", 7), commit(4242)), (key("shop", "t", 0), second)]).unwrap();
    let (head, bytes) = batches(&partition.read(0, 1000).unwrap()).remove(0);
    assert_eq!((head.base_offset, head.leader_epoch, head.count, head.attributes, head.producer_id), (0, 3, 2, 0, -1));
    let got = keys_and_values(&bytes);
    assert_eq!(got[0], (Some(KEY.to_vec()), Some(VALUE_3.to_vec())));
    let value = b"\x00\x03\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x00\x00\x00\x00\x01\x8b\xcf\xe5\x68\x7b";
    assert_eq!(got[1], (Some(b"\x00\x01\x00\x04shop\x00\x01t\0\0\0\0".to_vec()), Some(value.to_vec())));
    // Nothing to commit writes nothing.
    offsets.commit(&partition, vec![]).unwrap();
    assert_eq!(partition.offsets(), (0, 2));
}

#[test]
fn records_of_kafka_are_understood() {
    let dir = tempdir();
    let partition = open(dir.path());
    let other = |k: &[u8], from: &str, to: &str| String::from_utf8(k.to_vec()).unwrap().replace(from, to).into_bytes();
    let old = other(KEY, "shop", "old1");
    let gone = other(KEY, "shop", "gone");
    let version_0 = [&[0, 0], &other(KEY, "shop", "zero")[2..]].concat();
    let group_metadata = [&[0, 2], &KEY[2..8]].concat();
    let cut = KEY[..9].to_vec();
    let long = b"\x00\x01\x7f\xffshop".to_vec();
    let some = |k: &[u8], v: &[u8]| (0, Some(k.to_vec()), Some(v.to_vec()));
    let first =
        [some(KEY, VALUE_1), some(&old, VALUE_1), some(&gone, VALUE_3), some(&version_0, VALUE_3), some(&group_metadata, b"a member list")];
    let second = [
        some(KEY, VALUE_3),
        (0, Some(gone), None),
        some(&cut, VALUE_3),
        some(&long, VALUE_3),
        (0, None, Some(VALUE_3.to_vec())),
        some(b"", b""),
    ];
    for batch in [&first[..], &second[..]] {
        partition.append(&Batch::new(1).records(batch).build()).unwrap();
    }
    let offsets = Offsets::load(&partition).unwrap();
    assert_eq!(offsets.of_group("shop"), [(key("shop", "orders", 7), commit(4242))]);
    assert_eq!(offsets.get(&key("old1", "orders", 7)), Some(Commit { leader_epoch: -1, ..commit(4242) }));
    assert_eq!(offsets.get(&key("zero", "orders", 7)), Some(commit(4242)));
    assert_eq!(offsets.get(&key("gone", "orders", 7)), None, "a tombstone removes");
    assert_eq!(offsets.get(&key("shop", "orders", 6)), None);
    // A commit after the tombstone counts.
    offsets.commit(&partition, vec![(key("gone", "orders", 7), commit(1))]).unwrap();
    assert_eq!(Offsets::load(&partition).unwrap().get(&key("gone", "orders", 7)), Some(commit(1)));
}

#[test]
fn the_offsets_of_a_group_are_sorted_and_only_its_own() {
    let dir = tempdir();
    let partition = open(dir.path());
    let offsets = Offsets::load(&partition).unwrap();
    for (topic, number) in [("b", 1), ("a", 10), ("b", 0), ("a", 9)] {
        offsets.commit(&partition, vec![(key("g", topic, number), commit(1)), (key("h", topic, number), commit(2))]).unwrap();
    }
    let want = [("a", 9), ("a", 10), ("b", 0), ("b", 1)].map(|(t, n)| (key("g", t, n), commit(1)));
    assert_eq!(offsets.of_group("g"), want);
    assert_eq!(offsets.of_group("nobody"), []);
}

#[test]
fn what_a_record_cannot_hold_is_refused() {
    let dir = tempdir();
    let partition = open(dir.path());
    let offsets = Offsets::load(&partition).unwrap();
    let long = "x".repeat(32_768);
    let good = (key("g", "t", 0), commit(1));
    for bad in [
        (key(&long, "t", 0), commit(1)),
        (key("g", &long, 0), commit(1)),
        (key("g", "t", 0), Commit { metadata: long.clone(), ..commit(1) }),
    ] {
        assert!(offsets.commit(&partition, vec![good.clone(), bad]).is_err());
    }
    assert_eq!((partition.offsets(), offsets.of_group("g")), ((0, 0), vec![]));
    let longest = (key("g", &long[1..], 0), Commit { metadata: long[1..].into(), ..commit(1) });
    offsets.commit(&partition, vec![longest.clone()]).unwrap();
    assert_eq!(Offsets::load(&partition).unwrap().of_group("g"), [longest]);
}

#[test]
fn a_partition_knows_its_offsets_and_epochs() {
    let dir = tempdir();
    let p = partition(dir.path(), 200);
    let batch = Batch::new(1).values(&["a", "b"]).build();
    assert_eq!(p.append(&batch).map(|a| (a.base_offset, a.start_offset, a.time)), Ok((0, 0, -1)));
    let large = Batch::new(1).values(&["x".repeat(200).as_str()]).build();
    assert_eq!(p.append(&large), Err(ResponseError::MessageTooLarge));
    assert_eq!(p.append(&[&batch[..], &large].concat()), Err(ResponseError::MessageTooLarge), "all of it or nothing");
    assert_eq!(p.append(&[&batch[..], &batch].concat()), Err(ResponseError::InvalidRecord), "one batch in a request");
    assert_eq!(p.offsets(), (0, 2));
    for (offset, want) in [
        (-1, Err(ResponseError::OffsetOutOfRange)),
        (0, Ok(batch.len())),
        (1, Ok(batch.len())),
        (2, Ok(0)),
        (3, Err(ResponseError::OffsetOutOfRange)),
    ] {
        assert_eq!(p.find(&read(offset)).map(|f| f.records.map_or(0, |r| r.len())), want, "{offset}");
    }
    let found = p.find(&read(2)).unwrap();
    assert_eq!((found.high_watermark, found.start_offset, found.more), (2, 0, false));
    for (epoch, want) in
        [(-1, Ok(())), (2, Err(ResponseError::FencedLeaderEpoch)), (3, Ok(())), (4, Err(ResponseError::UnknownLeaderEpoch))]
    {
        assert_eq!(p.check_epoch(epoch), want, "{epoch}");
    }
    p.resign();
    let not_leader = ResponseError::NotLeaderOrFollower;
    assert_eq!((p.append(&batch), p.check_epoch(-1)), (Err(not_leader), Err(not_leader)));
    assert_eq!(p.find(&read(0)).map(drop), Err(not_leader));
    p.lead(9);
    p.lead(4);
    assert_eq!(p.leader_epoch(), 9, "an epoch never goes back");
    p.append(&batch).unwrap();
    let epochs: Vec<_> = batches(&p.read(0, 1000).unwrap()).iter().map(|(h, _)| h.leader_epoch).collect();
    assert_eq!(epochs, [3, 9]);
    assert_eq!(p.flush().unwrap(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_last_commit_counts_and_survives(
        portions in prop::collection::vec(prop::collection::vec(("[a-c\u{e4}]", "[xy]", 0i32..3, any::<i64>(), any::<i32>(), "\\PC{0,9}"), 0..5), 0..12),
    ) {
        let dir = tempdir();
        let mut want = BTreeMap::new();
        {
            let partition = open(dir.path());
            let offsets = Offsets::load(&partition).unwrap();
            for portion in portions {
                let commits: Vec<_> = portion
                    .into_iter()
                    .map(|(g, t, p, offset, leader_epoch, metadata)| (key(&g, &t, p), Commit { offset, leader_epoch, metadata, timestamp: offset }))
                    .collect();
                want.extend(commits.iter().map(|(k, c)| ((k.group.clone(), k.topic.clone(), k.partition), c.clone())));
                offsets.commit(&partition, commits).unwrap();
            }
        }
        let offsets = Offsets::load(&open(dir.path())).unwrap();
        let got: BTreeMap<_, _> = ["a", "b", "c", "\u{e4}"]
            .iter()
            .flat_map(|g| offsets.of_group(g))
            .map(|(k, c)| ((k.group, k.topic, k.partition), c))
            .collect();
        prop_assert_eq!(got, want);
    }
}
