//! Fetch sessions, topic ids, epochs and isolation, as a client sees them that writes requests itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{Client, fetch_request, new_topic, produce_request, topic_name},
    processes::Cluster,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        FetchRequest, FetchResponse, ListOffsetsRequest, MetadataRequest, ProduceRequest,
        fetch_request::{FetchPartition, FetchTopic, ForgottenTopic},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
    },
};
use uuid::Uuid;

const NONE: Duration = Duration::ZERO;

fn batch(text: &str) -> Vec<u8> {
    Batch::new(1).values(&[text]).build()
}

/// A request of a session: partitions with offsets, and partitions to forget.
fn asks(topic: &str, session: (i32, i32), parts: &[(i32, i64)], forget: &[i32], wait: Duration) -> FetchRequest {
    let partition = |(p, offset): &(i32, i64)| {
        FetchPartition::default().with_partition(*p).with_fetch_offset(*offset).with_partition_max_bytes(1 << 20)
    };
    let mut request = fetch_request(topic, 0, 0, wait).with_session_id(session.0).with_session_epoch(session.1);
    request.topics = match parts {
        [] => vec![],
        parts => vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(parts.iter().map(partition).collect())],
    };
    if !forget.is_empty() {
        request.forgotten_topics_data = vec![ForgottenTopic::default().with_topic(topic_name(topic)).with_partitions(forget.to_vec())];
    }
    request
}

/// Partitions of an answer: number, error, high watermark, bytes of records.
fn seen(answer: &FetchResponse) -> Vec<(i32, i16, i64, usize)> {
    let parts = answer.responses.iter().flat_map(|t| &t.partitions);
    let mut parts: Vec<_> =
        parts.map(|p| (p.partition_index, p.error_code, p.high_watermark, p.records.as_ref().map_or(0, |r| r.len()))).collect();
    parts.sort_unstable();
    parts
}

#[test]
fn one_broker_and_all_that_is_fetched_from_it() {
    let cluster = Cluster::start(1, "max.incremental.fetch.session.cache.slots=3");
    incremental_answers_have_what_changed(&cluster);
    sessions_that_are_wrong_are_refused(&cluster);
    topics_are_fetched_by_id(&cluster);
    a_log_that_goes_apart_is_told(&cluster);
    offsets_that_later_versions_ask_for(&cluster);
}

fn incremental_answers_have_what_changed(cluster: &Cluster) {
    cluster.create("inc", 3);
    let mut client = cluster.client(1);
    let first = client.call(12, &asks("inc", (0, 0), &[(0, 0), (1, 0), (2, 0)], &[], NONE));
    assert!(first.session_id > 0);
    assert_eq!(seen(&first), [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0)], "a full answer has all of them");
    let id = first.session_id;
    let nothing = client.call(12, &asks("inc", (id, 1), &[], &[], NONE));
    assert_eq!((nothing.error_code, nothing.session_id, seen(&nothing).len()), (0, id, 0));
    // What is appended while nobody waits, and while somebody does.
    let size = batch("a").len();
    client.produce("inc", 1, &batch("a"));
    assert_eq!(seen(&client.call(12, &asks("inc", (id, 2), &[], &[], NONE))), [(1, 0, 1, size)]);
    assert_eq!(
        seen(&client.call(12, &asks("inc", (id, 3), &[], &[], NONE))),
        [(1, 0, 1, size)],
        "again, until it is fetched from behind it"
    );
    assert_eq!(seen(&client.call(12, &asks("inc", (id, 4), &[(1, 1)], &[], NONE))), [], "its end is known");
    let mut waiting = cluster.client(1);
    waiting.send(12, &asks("inc", (id, 5), &[], &[], Duration::from_secs(30))).unwrap();
    let begun = Instant::now();
    client.produce("inc", 2, &batch("b"));
    assert_eq!(seen(&waiting.receive::<FetchRequest>(12).unwrap()), [(2, 0, 1, size)]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // Forgotten, moved beyond the end, and unknown.
    client.produce("inc", 1, &batch("c"));
    let answer = client.call(12, &asks("inc", (id, 6), &[(2, 1), (0, 99), (7, 0)], &[1], NONE));
    let (range, unknown) = (ResponseError::OffsetOutOfRange.code(), ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(seen(&answer), [(0, range, -1, 0), (7, unknown, -1, 0)]);
    let begun = Instant::now();
    let answer = client.call(12, &asks("inc", (id, 7), &[(0, 0)], &[], Duration::from_secs(20)));
    assert_eq!(seen(&answer), [(0, 0, 0, 0), (7, unknown, -1, 0)], "an error is told each time, at once, and its end as well");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // The last one ends the session.
    let answer = client.call(12, &asks("inc", (id, 8), &[], &[0, 2, 7], Duration::from_secs(20)));
    assert_eq!((answer.error_code, answer.session_id), (0, 0));
    let gone = client.call(12, &asks("inc", (id, 9), &[], &[], NONE));
    assert_eq!((gone.error_code, gone.session_id), (ResponseError::FetchSessionIdNotFound.code(), 0));
}

fn sessions_that_are_wrong_are_refused(cluster: &Cluster) {
    let mut client = cluster.client(1);
    let begin = |client: &mut Client, version| client.call(version, &asks("inc", (0, 0), &[(0, 0)], &[], NONE)).session_id;
    let id = begin(&mut client, 12);
    let mut ask = |version: i16, session| {
        let answer = client.call(version, &asks("inc", session, &[], &[], NONE));
        assert!(answer.error_code == 0 || (answer.session_id == 0 && answer.responses.is_empty()));
        answer.error_code
    };
    assert_eq!(ask(12, (id, 2)), ResponseError::InvalidFetchSessionEpoch.code());
    assert_eq!(ask(12, (id, 1)), 0);
    assert_eq!(ask(11, (id, 1)), ResponseError::InvalidFetchSessionEpoch.code());
    assert_eq!(ask(13, (id, 2)), ResponseError::FetchSessionTopicIdError.code());
    assert_eq!(ask(7, (id, 2)), 0);
    // Closed by its client.
    assert_eq!(ask(12, (id, -1)), 0);
    assert_eq!(ask(12, (id, 3)), ResponseError::FetchSessionIdNotFound.code());
    // All slots are taken by young sessions: another client is served without.
    let ids: Vec<i32> = (0..4).map(|_| begin(&mut client, 12)).collect();
    assert!(ids[..3].iter().all(|id| *id > 0) && ids[3] == 0, "{ids:?}");
    for id in ids {
        client.call(12, &asks("inc", (id, -1), &[], &[], NONE));
    }
    assert!(begin(&mut client, 7) > 0);
}

fn topics_are_fetched_by_id(cluster: &Cluster) {
    let mut client = cluster.client(1);
    let made = client.create_topics(vec![new_topic("by-id", 1, 1)], false);
    cluster.leaders("by-id");
    let id = client.topic_id("by-id");
    assert_eq!(made[0].topic_id, id);
    assert!(!id.is_nil());
    client.produce("by-id", 0, &batch("x"));
    let wanted = |id: Uuid| vec![MetadataRequestTopic::default().with_name(None).with_topic_id(id)];
    let answer = client.call(12, &MetadataRequest::default().with_topics(Some(wanted(id)))).topics.remove(0);
    assert_eq!((answer.error_code, answer.name, answer.partitions.len()), (0, Some(topic_name("by-id")), 1));
    let other = Uuid::from_u128(7);
    let answer = client.call(12, &MetadataRequest::default().with_topics(Some(wanted(other)))).topics.remove(0);
    assert_eq!((answer.error_code, answer.name, answer.topic_id), (ResponseError::UnknownTopicId.code(), None, other));
    for version in 13..=17 {
        let mut request = fetch_request("", 0, 0, NONE).with_session_epoch(0);
        request.topics[0].topic_id = id;
        let mut unknown = request.topics[0].clone();
        unknown.topic_id = other;
        request.topics.push(unknown);
        let answer = client.call(version, &request);
        assert_eq!((answer.responses[0].topic_id, answer.responses[1].topic_id), (id, other), "{version}");
        let error = answer.responses[1].partitions[0].error_code;
        assert_eq!((error, answer.responses[0].partitions[0].high_watermark), (ResponseError::UnknownTopicId.code(), 1), "{version}");
        client.call(version, &FetchRequest::default().with_session_id(answer.session_id).with_session_epoch(-1));
    }
}

/// KIP-595: the reader's last epoch is not one that this log has, or ended before.
fn a_log_that_goes_apart_is_told(cluster: &Cluster) {
    let mut client = cluster.client(1);
    cluster.create("apart", 1);
    for text in ["a", "b", "c"] {
        client.produce("apart", 0, &batch(text));
    }
    let mut ask = |offset: i64, last: i32| {
        let mut request = fetch_request("apart", 0, offset, NONE);
        request.topics[0].partitions[0].last_fetched_epoch = last;
        let part = client.call(12, &request).responses.remove(0).partitions.remove(0);
        let bytes = part.records.map_or(0, |r| r.len());
        (part.error_code, part.diverging_epoch.epoch, part.diverging_epoch.end_offset, bytes > 0)
    };
    assert_eq!(ask(1, 0), (0, -1, -1, true), "epoch 0 goes on to here");
    assert_eq!(ask(4, 0), (0, 0, 3, false), "longer than this log");
    assert_eq!(ask(3, 0), (0, -1, -1, false));
    assert_eq!(ask(1, -1), (0, -1, -1, true));
    assert_eq!(ask(1, 5).0, ResponseError::OffsetOutOfRange.code(), "an epoch that this broker never heard of");
}

fn offsets_that_later_versions_ask_for(cluster: &Cluster) {
    let mut client = cluster.client(1);
    let mut ask = |version: i16, timestamp: i64, isolation: i8| {
        let p = ListOffsetsPartition::default().with_timestamp(timestamp);
        let t = ListOffsetsTopic::default().with_name(topic_name("apart")).with_partitions(vec![p]);
        let answer = client.call(version, &ListOffsetsRequest::default().with_isolation_level(isolation).with_topics(vec![t]));
        let p = &answer.topics[0].partitions[0];
        (p.error_code, p.offset, p.timestamp)
    };
    let unsupported = (ResponseError::UnsupportedVersion.code(), -1, -1);
    for (version, timestamp, want) in [
        (9, -1, (0, 3, -1)),
        (9, -2, (0, 0, -1)),
        (9, -3, (0, 0, 1)),
        (9, -4, (0, 0, -1)),
        (9, -5, (0, -1, -1)),
        (9, -6, unsupported),
        (8, -4, (0, 0, -1)),
        (8, -5, unsupported),
        (7, -4, unsupported),
        (7, -3, (0, 0, 1)),
        (6, -3, unsupported),
    ] {
        assert_eq!(ask(version, timestamp, 0), want, "version {version}, {timestamp}");
    }
    assert_eq!(ask(9, -1, 1), (0, 3, -1), "read_committed");
}

/// A client that asks the wrong broker is told which is the right one (KIP-951).
#[test]
fn the_leader_is_named_to_those_who_ask_another() {
    let cluster = Cluster::start(2, "");
    let leaders = cluster.create("t", 2);
    let (partition, leader) = (0, leaders[0]);
    let other = 3 - leader;
    let port = cluster.nodes.iter().find(|n| n.id == leader).unwrap().port;
    let mut client = cluster.client(other);
    let not_leader = ResponseError::NotLeaderOrFollower.code();
    for version in [9, 10, 11] {
        let mut answer = client.call::<ProduceRequest>(version, &produce_request("t", partition, &batch("x"), -1));
        let part = answer.responses.remove(0).partition_responses.remove(0);
        let want = if version >= 10 { leader } else { -1 };
        assert_eq!((part.error_code, part.current_leader.leader_id.0), (not_leader, want), "{version}");
        let nodes: Vec<_> = answer.node_endpoints.iter().map(|n| (n.node_id.0, n.host.as_str(), n.port)).collect();
        assert_eq!(nodes, if version >= 10 { vec![(leader, "127.0.0.1", i32::from(port))] } else { vec![] });
    }
    let id = client.topic_id("t");
    for version in [12, 15, 16, 17] {
        let mut request = fetch_request("t", partition, 0, Duration::ZERO);
        if version >= 13 {
            request.topics[0].topic_id = id;
            request.topics[0].topic = topic_name("");
        }
        let mut answer = client.call(version, &request);
        let part = answer.responses.remove(0).partitions.remove(0);
        let want = if version >= 16 { (leader, 0) } else { (-1, -1) };
        assert_eq!((part.error_code, part.current_leader.leader_id.0, part.current_leader.leader_epoch), (not_leader, want.0, want.1));
        assert_eq!(answer.node_endpoints.len(), usize::from(version >= 16));
    }
}

/// Time that a process was on a processor.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Fetches of a session over 1,000 idle partitions cost about as much as over one.
#[test]
fn idle_partitions_cost_nothing() {
    const FETCHES: i32 = 3000;
    let mut cluster = Cluster::start(1, "");
    cluster.create("wide", 1000);
    let pid = cluster.node(1).running().id();
    let mut client = cluster.client(1);
    let mut spend = |partitions: i32| {
        let all: Vec<_> = (0..partitions).map(|p| (p, 0)).collect();
        let id = client.call(12, &asks("wide", (0, 0), &all, &[], NONE)).session_id;
        assert!(id > 0);
        let before = cpu(pid);
        for epoch in 1..=FETCHES {
            assert_eq!(client.call(12, &asks("wide", (id, epoch), &[], &[], NONE)).responses.len(), 0);
        }
        cpu(pid) - before
    };
    let (one, many) = (spend(1), spend(1000));
    println!("{FETCHES} fetches over 1 partition took {one:?} of CPU, over 1,000 {many:?}");
    assert!(many < one * 2 + Duration::from_millis(100), "{one:?} and {many:?}");
}
