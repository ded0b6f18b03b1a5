//! Committed offsets: Kafka's partition for a group, Kafka's records, and what is left after the log is read again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use common::{
    batches::{Batch, keys_and_values},
    logs::{batches, limits},
    tempdir,
};
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::{
    core::partition::Assignment,
    groups::{
        Commit, Committer, Coordinator, GroupSettings,
        core::{Join, Limits, State, Sync},
        partition_for,
        shard::{Shard, Usage},
    },
    log::Log,
    partition::{Partition, Read, ReadFrom, Shared},
    storage::Led,
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
    let partition = Partition::new("__consumer_offsets", 0, log, settings, 0, Shared::new(1, 10_000));
    lead(&partition, 3);
    partition
}

/// The partition is led by this broker alone, in an epoch.
fn lead(partition: &Partition, leader_epoch: i32) {
    partition.assign(Assignment { replicas: vec![1], isr: vec![1], leader: 1, leader_epoch, partition_epoch: 0 });
}

fn open(dir: &Path) -> Partition {
    partition(dir, 1_000_000)
}

fn commit(offset: i64) -> Commit {
    Commit { offset, leader_epoch: 3, metadata: "märk".into(), timestamp: 1_700_000_000_123, expires: None }
}

fn settings() -> GroupSettings {
    let limits = Limits { initial_rebalance_delay_ms: 0, min_session_ms: 1, ..Limits::default() };
    GroupSettings { limits, ..GroupSettings::default() }
}

/// A shard that has read the log of a partition.
struct Groups {
    shard: Arc<Shard>,
    usage: Arc<Usage>,
    runtime: tokio::runtime::Runtime,
}

impl Groups {
    fn load(led: &Arc<Led>) -> Self {
        Self::load_with(led, settings())
    }
    fn load_with(led: &Arc<Led>, settings: GroupSettings) -> Self {
        let usage = Arc::<Usage>::default();
        let shard = Arc::new(Shard::new(led.partition.leader_epoch(), led.clone(), Arc::new(settings), usage.clone(), Instant::now()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        shard.load().unwrap();
        Self { shard, usage, runtime }
    }
    fn commit(&self, group: &str, commits: Vec<(&str, i32, Commit)>) -> Result<(), ResponseError> {
        let commits = commits.into_iter().map(|(t, p, c)| (t.to_owned(), p, c)).collect();
        self.runtime.block_on(self.shard.commit(group, &Committer::simple(), commits))
    }
    fn get(&self, group: &str, topic: &str, partition: i32) -> Option<Commit> {
        let place = (topic.to_owned(), partition);
        self.shard.offsets(group, Some(&[place].into())).unwrap().pop().map(|(_, c)| c)
    }
    fn of_group(&self, group: &str) -> Vec<((String, i32), Commit)> {
        self.shard.offsets(group, None).unwrap()
    }
    fn leave(&self, group: &str, members: &[(&str, Option<&str>)]) -> Vec<Option<ResponseError>> {
        let _entered = self.runtime.enter();
        self.shard.leave(group, members).unwrap()
    }
    /// A member that joins and gets the assignment `x`.
    fn form(&self, group: &str) -> String {
        let join = Join {
            new_member_id: "m".into(),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 60_000,
            session_timeout_ms: 30_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), vec![0, 1, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff].into())],
            ..Join::default()
        };
        let timers = self.runtime.spawn({
            let shard = self.shard.clone();
            async move { shard.run().await }
        });
        let joined = self.runtime.block_on(self.shard.join(group, join));
        assert_eq!(joined.error, None);
        let assignments = vec![(joined.member_id.clone(), "x".into())];
        let sync = Sync { generation: joined.generation, member_id: joined.member_id.clone(), assignments, ..Sync::default() };
        let synced = self.runtime.block_on(self.shard.sync(group, sync));
        timers.abort();
        assert_eq!((synced.error, &synced.assignment[..]), (None, &b"x"[..]));
        joined.member_id
    }
}

fn led(partition: Partition) -> Arc<Led> {
    Arc::new(Led { partition })
}

fn read(offset: i64) -> Read {
    Read {
        offset,
        max_bytes: 1000,
        at_least_one: true,
        stable_only: false,
        replica: None,
        log_start: 0,
        leader_epoch: -1,
        from: ReadFrom::Leader,
    }
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
    let led = led(open(dir.path()));
    let groups = Groups::load(&led);
    let second = Commit { leader_epoch: -1, metadata: String::new(), ..commit(0) };
    groups.commit("shop", vec![("orders", 7, commit(4242)), ("t", 0, second)]).unwrap();
    let (head, bytes) = batches(&led.partition.read(0, 1000).unwrap()).remove(0);
    assert_eq!((head.base_offset, head.leader_epoch, head.count, head.attributes, head.producer_id), (0, 3, 2, 0, -1));
    let got = keys_and_values(&bytes);
    assert_eq!(got[0], (Some(KEY.to_vec()), Some(VALUE_3.to_vec())));
    let value = b"\x00\x03\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x00\x00\x00\x00\x01\x8b\xcf\xe5\x68\x7b";
    assert_eq!(got[1], (Some(b"\x00\x01\x00\x04shop\x00\x01t\0\0\0\0".to_vec()), Some(value.to_vec())));
    // Nothing to commit writes nothing.
    groups.commit("shop", vec![]).unwrap();
    assert_eq!(led.partition.offsets(), (0, 2));
    // Only the older version can say when an offset expires.
    groups.commit("shop", vec![("orders", 7, Commit { expires: Some(1_700_000_100_000 + 0x69f), ..commit(4242) })]).unwrap();
    let (_, bytes) = batches(&led.partition.read(2, 1000).unwrap()).remove(0);
    let value = keys_and_values(&bytes)[0].1.clone().unwrap();
    assert_eq!((&value[..17], value.len()), (&VALUE_1[..17], VALUE_1.len()));
}

#[test]
fn records_of_kafka_are_understood() {
    let dir = tempdir();
    let led = led(open(dir.path()));
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
        led.partition.append(&Batch::new(1).records(batch).build()).unwrap();
    }
    let groups = Groups::load(&led);
    assert_eq!(groups.of_group("shop"), [(("orders".into(), 7), commit(4242))]);
    let expires = i64::from_be_bytes(VALUE_1[VALUE_1.len() - 8..].try_into().unwrap());
    assert_eq!(groups.get("old1", "orders", 7), Some(Commit { leader_epoch: -1, expires: Some(expires), ..commit(4242) }));
    assert_eq!(groups.get("zero", "orders", 7), Some(commit(4242)));
    assert_eq!(groups.get("gone", "orders", 7), None, "a tombstone removes");
    assert_eq!(groups.get("shop", "orders", 6), None);
    // A commit after the tombstone counts.
    groups.commit("gone", vec![("orders", 7, commit(1))]).unwrap();
    assert_eq!(Groups::load(&led).get("gone", "orders", 7), Some(commit(1)));
}

#[test]
fn the_offsets_of_a_group_are_sorted_and_only_its_own() {
    let dir = tempdir();
    let groups = Groups::load(&led(open(dir.path())));
    for (topic, number) in [("b", 1), ("a", 10), ("b", 0), ("a", 9)] {
        groups.commit("g", vec![(topic, number, commit(1))]).unwrap();
        groups.commit("h", vec![(topic, number, commit(2))]).unwrap();
    }
    let want = [("a", 9), ("a", 10), ("b", 0), ("b", 1)].map(|(t, n)| ((t.to_owned(), n), commit(1)));
    assert_eq!(groups.of_group("g"), want);
    assert_eq!(groups.of_group("nobody"), []);
}

#[test]
fn what_a_record_cannot_hold_is_refused() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let groups = Groups::load(&led);
    let long = "x".repeat(32_768);
    let good = ("t", 0, commit(1));
    for (group, bad) in
        [(&long[..], good.clone()), ("g", (&long[..], 0, commit(1))), ("g", ("t", 0, Commit { metadata: long.clone(), ..commit(1) }))]
    {
        assert!(groups.commit(group, vec![good.clone(), bad]).is_err());
    }
    assert_eq!((led.partition.offsets(), groups.of_group("g")), ((0, 0), vec![]));
    let longest = Commit { metadata: long[1..].into(), ..commit(1) };
    groups.commit("g", vec![(&long[1..], 0, longest.clone())]).unwrap();
    assert_eq!(Groups::load(&led).of_group("g"), [((long[1..].to_owned(), 0), longest)]);
}

/// GroupMetadataKey 2 and GroupMetadataValue 3 as Kafka's schemas lay them out.
#[test]
fn a_group_has_kafkas_record_and_is_loaded_from_it() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let groups = Groups::load(&led);
    let member = groups.form("shop");
    groups.commit("shop", vec![]).unwrap_err();
    let (_, bytes) = batches(&led.partition.read(0, 10_000).unwrap()).pop().unwrap();
    let (key, value) = keys_and_values(&bytes).remove(0);
    assert_eq!(key.unwrap(), b"\x00\x02\x00\x04shop");
    let value = value.unwrap();
    let since = &value[26..34];
    let want = [
        &b"\x00\x03\x00\x08consumer\0\0\0\x01\x00\x05range\x00\x01m"[..],
        since,
        b"\0\0\0\x01\x00\x01m\xff\xff\x00\x06client\x00\x0a/127.0.0.1\x00\x00\xea\x60\x00\x00\x75\x30",
        b"\0\0\0\x0d\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff\0\0\0\x01x",
    ];
    assert_eq!(value, want.concat(), "{value:02x?}");
    // Another broker goes on where this one was.
    let next = Groups::load(&led);
    assert_eq!(next.shard.describe("shop").unwrap(), groups.shard.describe("shop").unwrap());
    assert_eq!(next.shard.heartbeat("shop", &member, None, 1), Ok(()));
    assert_eq!(next.shard.list(), [("shop".into(), "consumer".into(), State::Stable)]);
    // Leaving empties it, and an empty group may be deleted: nothing is left.
    assert_eq!(next.runtime.block_on(next.shard.delete_group("shop")), Err(ResponseError::NonEmptyGroup));
    assert_eq!(next.leave("shop", &[(&member, None), ("nobody", None)]), [None, Some(ResponseError::UnknownMemberId)]);
    assert_eq!(next.shard.list(), [("shop".into(), "consumer".into(), State::Empty)]);
    next.commit("shop", vec![("t", 0, commit(5))]).unwrap();
    let after = Groups::load(&led);
    assert_eq!((after.shard.list()[0].2, after.get("shop", "t", 0)), (State::Empty, Some(commit(5))));
    after.runtime.block_on(after.shard.delete_group("shop")).unwrap();
    assert_eq!(after.runtime.block_on(after.shard.delete_group("shop")), Err(ResponseError::GroupIdNotFound));
    assert_eq!(Groups::load(&led).shard.list(), []);
}

#[test]
fn offsets_expire_as_on_kafka() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let wall = septet_broker::log::now_ms();
    let old = Commit { timestamp: wall - 100_000, ..commit(1) };
    let new = Commit { timestamp: wall, ..commit(2) };
    let settings = |ms| GroupSettings { offsets_retention_ms: ms, ..settings() };
    let groups = Groups::load_with(&led, settings(50_000));
    // Without a group: from the commit on. One that has its own time has that.
    let later = Commit { expires: Some(wall + 1_000_000), ..old.clone() };
    groups.commit("simple", vec![("t", 0, old.clone()), ("t", 1, new.clone()), ("t", 2, later.clone())]).unwrap();
    // A member is subscribed to t, and not to u.
    let member = groups.form("busy");
    let who = Committer { generation: 1, member_id: member.clone(), instance_id: None };
    let both = vec![("t".to_owned(), 0, old.clone()), ("u".to_owned(), 0, old.clone())];
    groups.runtime.block_on(groups.shard.commit("busy", &who, both)).unwrap();
    groups.shard.expire();
    let names = |g: &Groups, id: &str| g.of_group(id).into_iter().map(|(p, _)| p).collect::<Vec<_>>();
    assert_eq!(names(&groups, "simple"), [("t".to_owned(), 1), ("t".to_owned(), 2)]);
    assert_eq!(names(&groups, "busy"), [("t".to_owned(), 0)]);
    // Empty since just now: the old offset stays as long as the retention from then on.
    groups.leave("busy", &[(&member, None)]);
    groups.shard.expire();
    assert_eq!(names(&groups, "busy"), [("t".to_owned(), 0)]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let later_on = Groups::load_with(&led, settings(10));
    later_on.shard.expire();
    assert_eq!((names(&later_on, "busy"), later_on.shard.list().len()), (vec![], 1), "the group goes with its last offset");
    assert_eq!(names(&later_on, "simple"), [("t".to_owned(), 2)]);
    assert_eq!(names(&Groups::load(&led), "simple"), [("t".to_owned(), 2)], "tombstones are written");
    // A topic that is deleted takes its offsets with it; OffsetDelete, what no member is subscribed to.
    later_on.shard.topics_deleted(&["t".to_owned()].into());
    assert_eq!(names(&later_on, "simple"), Vec::<(String, i32)>::new());
    let member = later_on.form("busy");
    let who = Committer { generation: 1, member_id: member, instance_id: None };
    let both = vec![("t".to_owned(), 0, old), ("u".to_owned(), 0, new)];
    later_on.runtime.block_on(later_on.shard.commit("busy", &who, both)).unwrap();
    let places = [("t".to_owned(), 0), ("u".to_owned(), 0), ("u".to_owned(), 9)];
    let deleted = later_on.runtime.block_on(later_on.shard.delete_offsets("busy", &places));
    assert_eq!(deleted, Ok(vec![Some(ResponseError::GroupSubscribedToTopic), None, None]));
    assert_eq!(names(&Groups::load(&led), "busy"), [("t".to_owned(), 0)]);
}

#[test]
fn a_partition_that_is_not_led_any_more_has_no_groups() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let groups = Groups::load(&led);
    let member = groups.form("g");
    // The hook has not been called yet: the log refuses.
    led.partition.resign();
    let who = Committer { generation: 1, member_id: member.clone(), instance_id: None };
    let commits = vec![("t".to_owned(), 0, commit(1))];
    let refused = groups.runtime.block_on(groups.shard.commit("g", &who, commits));
    assert_eq!((refused, groups.shard.is_active()), (Err(ResponseError::NotCoordinator), false));
    assert_eq!(groups.shard.heartbeat("g", &member, None, 1), Err(ResponseError::NotCoordinator));
    assert_eq!(groups.usage.bytes(), (0, 0), "nothing is counted any more");
    // Led again in another epoch, by somebody else's leave: the old shard does not write.
    lead(&led.partition, 3);
    let groups = Groups::load(&led);
    lead(&led.partition, 9);
    assert_eq!(groups.commit("other", vec![("t", 0, commit(1))]), Err(ResponseError::NotCoordinator));
    let groups = Groups::load(&led);
    assert_eq!(groups.commit("other", vec![("t", 0, commit(1))]), Ok(()));
}

#[test]
fn a_join_that_waits_is_answered_when_the_shard_closes_and_may_be_given_up() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let slow = Limits { initial_rebalance_delay_ms: 60_000, ..settings().limits };
    let groups = Groups::load_with(&led, GroupSettings { limits: slow, ..settings() });
    let join = |id: &str| Join {
        new_member_id: id.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), "".into())],
        ..Join::default()
    };
    let shard = groups.shard.clone();
    let waiting = groups.runtime.spawn(async move { shard.join("g", join("a")).await });
    let shard = groups.shard.clone();
    let given_up = groups.runtime.spawn(async move { shard.join("g", join("b")).await });
    common::client::eventually("both wait", std::time::Duration::from_secs(10), || {
        (groups.shard.describe("g").unwrap().members.len() == 2).then_some(())
    });
    given_up.abort();
    assert!(groups.runtime.block_on(given_up).is_err());
    assert!(!waiting.is_finished());
    groups.shard.close();
    let answer = groups.runtime.block_on(waiting).unwrap();
    assert_eq!((answer.error, answer.member_id.as_str()), (Some(ResponseError::NotCoordinator), "a"));
    assert_eq!(groups.usage.bytes(), (0, 0));
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
        assert_eq!(p.check_epoch(epoch, ReadFrom::Leader), want, "{epoch}");
    }
    p.resign();
    let not_leader = ResponseError::NotLeaderOrFollower;
    assert_eq!((p.append(&batch), p.check_epoch(-1, ReadFrom::Leader)), (Err(not_leader), Err(not_leader)));
    assert_eq!(p.find(&read(0)).map(drop), Err(not_leader));
    lead(&p, 9);
    lead(&p, 4);
    assert_eq!(p.leader_epoch(), 9, "an epoch never goes back");
    p.append(&batch).unwrap();
    let epochs: Vec<_> = batches(&p.read(0, 1000).unwrap()).iter().map(|(h, _)| h.leader_epoch).collect();
    assert_eq!(epochs, [3, 9]);
    assert_eq!(p.flush().unwrap(), 4);
}

/// Members that join, leave and go on at the same time, over several rebalances.
#[test]
fn many_members_end_in_one_generation() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let coordinator = Coordinator::new(GroupSettings {
        limits: Limits { initial_rebalance_delay_ms: 20, min_session_ms: 1, ..Limits::default() },
        ..GroupSettings::default()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let _entered = runtime.enter();
    coordinator.elected(0, led.clone(), 3);
    let soon = std::time::Duration::from_secs(30);
    let shard = common::client::eventually("it is loaded", soon, || coordinator.shard(0).filter(|s| s.is_active()));
    let ends = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let member = |n: usize| {
        let (shard, ends) = (shard.clone(), ends.clone());
        async move {
            let mut id = String::new();
            // Every third leaves after its first generation and comes back under another id.
            let mut generations = 0;
            loop {
                let join = Join {
                    member_id: id.clone(),
                    new_member_id: format!("m{n}-{generations}"),
                    client_id: "c".into(),
                    session_timeout_ms: 20_000,
                    rebalance_timeout_ms: 20_000,
                    protocol_type: "consumer".into(),
                    protocols: vec![("range".into(), "".into())],
                    require_known_member_id: n.is_multiple_of(2),
                    ..Join::default()
                };
                let joined = shard.join("g", join).await;
                id = joined.member_id.clone();
                match joined.error {
                    None => {}
                    Some(ResponseError::MemberIdRequired) => continue,
                    Some(e) => panic!("{e:?}"),
                }
                generations += 1;
                let assignments = joined.members.iter().map(|(m, _, _)| (m.clone(), format!("{m} in {}", joined.generation).into()));
                let sync =
                    Sync { generation: joined.generation, member_id: id.clone(), assignments: assignments.collect(), ..Sync::default() };
                let synced = shard.sync("g", sync).await;
                if synced.error == Some(ResponseError::RebalanceInProgress) {
                    continue;
                }
                assert_eq!(synced.error, None);
                assert_eq!(synced.assignment, format!("{id} in {}", joined.generation));
                if n.is_multiple_of(3) && generations == 1 {
                    assert_eq!(shard.leave("g", &[(&id, None)]), Ok(vec![None]));
                    id.clear();
                    continue;
                }
                loop {
                    if ends.load(std::sync::atomic::Ordering::SeqCst) {
                        return joined.generation;
                    }
                    match shard.heartbeat("g", &id, None, joined.generation) {
                        Ok(()) => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
                        Err(ResponseError::RebalanceInProgress) => break,
                        Err(e) => panic!("{e:?}"),
                    }
                }
            }
        }
    };
    let tasks: Vec<_> = (0..60).map(|n| runtime.spawn(member(n))).collect();
    common::client::eventually("all are stable for a while", soon, || {
        let stable = || {
            let d = shard.describe("g").unwrap();
            (d.state == "Stable" && d.members.len() == 60).then_some(d.members)
        };
        let before = stable()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        (stable()? == before).then_some(())
    });
    ends.store(true, std::sync::atomic::Ordering::SeqCst);
    let generations: std::collections::BTreeSet<i32> = tasks.into_iter().map(|t| runtime.block_on(t).unwrap()).collect();
    assert_eq!(generations.len(), 1, "{generations:?}");
    assert!(generations.first() >= Some(&2));
}

#[test]
fn a_shard_that_is_not_loaded_says_so() {
    let dir = tempdir();
    let shard = Arc::new(Shard::new(3, led(open(dir.path())), Arc::new(settings()), Arc::default(), Instant::now()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let loading = ResponseError::CoordinatorLoadInProgress;
    let join = Join { session_timeout_ms: 1000, protocol_type: "consumer".into(), ..Join::default() };
    assert_eq!(runtime.block_on(shard.join("g", join.clone())).error, Some(loading));
    let long = Join { session_timeout_ms: i32::MAX, ..join };
    assert_eq!(runtime.block_on(shard.join("g", long)).error, Some(ResponseError::InvalidSessionTimeout));
    // The generation that was under way is lost.
    assert_eq!(runtime.block_on(shard.sync("g", Sync::default())).error, Some(ResponseError::RebalanceInProgress));
    assert_eq!(shard.heartbeat("g", "m", None, 1), Ok(()), "it may still be a member");
    assert_eq!(shard.leave("g", &[("m", None)]), Err(loading));
    assert_eq!((shard.describe("g"), shard.offsets("g", None)), (Err(loading), Err(loading)));
    assert_eq!(runtime.block_on(shard.commit("g", &Committer::simple(), vec![])), Err(loading));
    assert_eq!(runtime.block_on(shard.delete_group("g")), Err(loading));
}

#[test]
fn shards_follow_the_leadership_of_their_partitions() {
    let dir = tempdir();
    let led = led(open(dir.path()));
    let coordinator = Coordinator::new(settings());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let soon = std::time::Duration::from_secs(10);
    let active = || common::client::eventually("it is loaded", soon, || coordinator.shard(0).filter(|s| s.is_active()));
    let commit_to =
        |shard: &Arc<Shard>, offset| runtime.block_on(shard.commit("g", &Committer::simple(), vec![("t".to_owned(), 0, commit(offset))]));
    coordinator.elected(0, led.clone(), 3);
    let first = active();
    commit_to(&first, 1).unwrap();
    // Told again, or late.
    coordinator.elected(0, led.clone(), 3);
    coordinator.elected(0, led.clone(), 2);
    coordinator.resigned(0, 2);
    coordinator.resigned(1, 9);
    assert!(Arc::ptr_eq(&first, &coordinator.shard(0).unwrap()) && first.is_active());
    assert_eq!(coordinator.list(), (vec![("g".into(), String::new(), State::Empty)], false));
    // In a later epoch: another broker may have led in between.
    lead(&led.partition, 5);
    coordinator.elected(0, led.clone(), 5);
    assert_eq!((first.is_closed(), commit_to(&first, 9)), (true, Err(ResponseError::NotCoordinator)));
    let second = active();
    assert_eq!(second.offsets("g", None).unwrap().len(), 1);
    commit_to(&second, 2).unwrap();
    // The log refuses: the groups are unloaded, and loaded again when it leads as before.
    led.partition.resign();
    assert_eq!(commit_to(&second, 3), Err(ResponseError::NotCoordinator));
    assert!(coordinator.shard(0).is_some_and(|s| !s.is_active()));
    lead(&led.partition, 5);
    let third = active();
    assert_eq!(third.offsets("g", None).unwrap()[0].1, commit(2), "what was refused is not there");
    commit_to(&third, 4).unwrap();
    coordinator.resigned(0, 5);
    assert!(third.is_closed() && coordinator.shard(0).is_none());
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
            let groups = Groups::load(&led(open(dir.path())));
            for portion in portions {
                for (g, t, p, offset, leader_epoch, metadata) in portion {
                    let commit = Commit { offset, leader_epoch, metadata, timestamp: offset, expires: None };
                    want.insert((g.clone(), t.clone(), p), commit.clone());
                    groups.commit(&g, vec![(&t, p, commit)]).unwrap();
                }
            }
        }
        let groups = Groups::load(&led(open(dir.path())));
        let got: BTreeMap<_, _> = ["a", "b", "c", "\u{e4}"]
            .iter()
            .flat_map(|g| groups.of_group(g).into_iter().map(|((t, p), c)| (((*g).to_owned(), t, p), c)))
            .collect();
        prop_assert_eq!(got, want);
    }
}
