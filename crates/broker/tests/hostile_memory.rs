//! Memory has a limit that clients cannot move: not by answers that they do not read, nor by requests that are small on
//! the wire and large when they are decoded.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{Client, eventually, fetch_request, text, topic_name},
    logs::batches,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiVersionsRequest, FetchRequest, FindCoordinatorRequest, GroupId, JoinGroupRequest, MetadataRequest, OffsetFetchRequest,
        join_group_request::JoinGroupRequestProtocol, metadata_request::MetadataRequestTopic,
    },
    protocol::StrBytes,
};

const MB: u64 = 1 << 20;

/// The most memory that the first broker ever had, in bytes.
fn peak(cluster: &Cluster) -> u64 {
    let id = cluster.nodes[0].process.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it still runs");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("it still runs");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A broker with so many megabytes in partition 0 of the topic `t`.
fn with_records(megabytes: usize, settings: &str) -> Cluster {
    let cluster = Cluster::start(1, &format!("log.segment.bytes=1000000000\n{settings}"));
    cluster.create("t", 1);
    let mut client = cluster.client(1);
    let batch = Batch::new(1).values(&["x".repeat((1 << 20) - 100).as_str()]).build();
    for _ in 0..megabytes {
        client.produce("t", 0, &batch);
    }
    cluster
}

fn large_fetch() -> FetchRequest {
    let mut request = fetch_request("t", 0, 0, Duration::ZERO).with_max_bytes(i32::MAX);
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    request
}

fn answers_soon(cluster: &Cluster) {
    let begun = Instant::now();
    assert_eq!(cluster.client(1).call(2, &ApiVersionsRequest::default()).error_code, 0);
    assert_eq!(cluster.client(1).metadata(Some(&["t"]), false).topics[0].error_code, 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "others are answered after {:?}", begun.elapsed());
}

#[test]
fn fetches_that_nobody_reads_take_no_memory() {
    let cluster = with_records(40, "");
    let mut held: Vec<Client> = (0..30).map(|_| cluster.client(1)).collect();
    for client in &mut held {
        // Three in a row: while one is not read, the next is not even looked at.
        (0..3).for_each(|_| client.send(12, &large_fetch()).unwrap());
    }
    // A part of each answer comes, so each is on its way.
    held.iter_mut().for_each(|c| c.stream.read_exact(&mut [0; 20_000]).unwrap());
    answers_soon(&cluster);
    assert!(peak(&cluster) < 100 * MB, "{} MB for 30 clients", peak(&cluster) / MB);
    // One that reads late gets everything.
    let mut late = cluster.client(1);
    late.send(12, &large_fetch()).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let data = late.receive::<FetchRequest>(12).unwrap().responses.remove(0).partitions.remove(0);
    let records = data.records.unwrap();
    assert_eq!((batches(&records).len(), data.high_watermark), (40, 40));
}

#[test]
fn a_large_fetch_takes_no_memory_and_has_a_limit() {
    let cluster = with_records(50, "fetch.max.bytes=20000000");
    let mut client = cluster.client(1);
    let data = client.call(12, &large_fetch()).responses.remove(0).partitions.remove(0);
    assert_eq!(batches(&data.records.unwrap()).len(), 19, "fetch.max.bytes");
    // A partition that is named often is answered once.
    let mut request = large_fetch();
    let partition = request.topics[0].partitions[0].clone();
    request.topics[0].partitions.extend(vec![partition; 1000]);
    assert_eq!(client.call(12, &request).responses[0].partitions.len(), 1);
    assert!(peak(&cluster) < 40 * MB, "{} MB", peak(&cluster) / MB);
}

fn framed(head: &[u8], body: &[u8]) -> Vec<u8> {
    [&((head.len() + body.len()) as u32).to_be_bytes(), head, body].concat()
}

/// The head of a request of Metadata 9 with correlation id 1, no client id, no tags.
const METADATA_9: [u8; 11] = [0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0];

fn varint(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

#[test]
fn requests_that_grow_when_they_are_decoded_are_refused() {
    let cluster = Cluster::start(1, "");
    // All topics, three flags, and 36 million empty tagged fields.
    let count = 36_000_000;
    let mut body = vec![0, 0, 0, 0];
    body.extend(varint(count));
    body.resize(body.len() + 2 * count, 0);
    let in_body = framed(&METADATA_9, &body);
    let mut head = METADATA_9[..10].to_vec();
    head.extend(varint(count));
    let in_head = framed(&head, &body[body.len() - 2 * count..]);
    // OffsetFetch 1 of a group `g`, and of 18 million partitions of the topic `t`.
    let mut offsets = vec![0, 9, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 1, b'g', 0, 0, 0, 1, 0, 1, b't'];
    offsets.extend(18_000_000u32.to_be_bytes());
    offsets.resize(offsets.len() + 72_000_000, 0);
    for (what, frame) in [("tagged fields", in_body), ("tagged fields in the head", in_head), ("partitions", framed(&offsets, &[]))] {
        // Four at once: their frames together are beyond what the broker takes at a time.
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut client = cluster.client(1);
                    let _ = client.stream.write_all(&frame);
                    assert!(client.is_closed(), "{what}");
                });
            }
        });
        assert!(peak(&cluster) < 200 * MB, "{what}: {} MB", peak(&cluster) / MB);
    }
    assert_eq!(cluster.client(1).call(2, &ApiVersionsRequest::default()).error_code, 0);
}

#[test]
fn answers_cannot_be_blown_up_by_naming_a_topic_often() {
    let cluster = Cluster::start(1, "");
    cluster.create("wide", 300);
    let wanted = vec![MetadataRequestTopic::default().with_name(Some(topic_name("wide"))); 20_000];
    let mut client = cluster.client(1);
    let answer = client.call(9, &MetadataRequest::default().with_topics(Some(wanted)));
    assert_eq!((answer.topics.len(), answer.topics[0].partitions.len()), (1, 300));
    assert!(peak(&cluster) < 60 * MB, "{} MB", peak(&cluster) / MB);
    // Long names, none of which is a topic's: the answers wait for nobody, and take what the requests took.
    let names: Vec<_> = (0..3000)
        .map(|i| {
            MetadataRequestTopic::default()
                .with_name(Some(kafka_protocol::messages::TopicName(StrBytes::from_string(format!("{i:0>9000}")))))
        })
        .collect();
    let mut held: Vec<Client> = (0..4).map(|_| cluster.client(1)).collect();
    for client in &mut held {
        client.send(9, &MetadataRequest::default().with_topics(Some(names.clone()))).unwrap();
        client.stream.read_exact(&mut [0; 20]).unwrap();
    }
    assert!(peak(&cluster) < 300 * MB, "{} MB", peak(&cluster) / MB);
}

/// Frames that begin and do not go on hold memory for a short while only, if others wait for it.
#[test]
fn half_sent_requests_give_way() {
    let cluster = Cluster::start(1, "queued.max.request.bytes=4000000\nsocket.request.max.bytes=4000000");
    cluster.create("t", 1);
    let port = cluster.nodes[0].port;
    let held: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
            s.write_all(&[&4_000_000u32.to_be_bytes()[..], &[0, 0, 0, 9], &vec![0; 40_000]].concat()).unwrap();
            s
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    answers_soon(&cluster);
    let begun = Instant::now();
    let batch = Batch::new(1).values(&["x".repeat(500_000).as_str()]).build();
    assert_eq!(cluster.client(1).produce("t", 0, &batch), 0);
    assert!(begun.elapsed() < SOON + Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(held);
}

/// A group is whatever a client calls one: there is a limit to what all of them may leave behind.
#[test]
fn committed_offsets_have_a_limit() {
    let cluster = Cluster::start(1, "offsets.topic.num.partitions=1");
    cluster.create("t", 200);
    let mut client = cluster.client(1);
    eventually("there is a coordinator", SOON, || {
        (client.call(3, &FindCoordinatorRequest::default().with_key(text("g"))).error_code == 0).then_some(())
    });
    cluster.leaders("__consumer_offsets");
    let metadata = "m".repeat(4000);
    let all: Vec<(i32, i64, &str)> = (0..200).map(|p| (p, 1, &*metadata)).collect();
    eventually("the coordinator is loaded", SOON, || (client.commit(8, "g", "t", &[(0, 1, "")]) == [0]).then_some(()));
    // A partition that does not exist has no offset, and what does not fit into a batch is no commit.
    assert_eq!(client.commit(8, "g", "t", &[(200, 1, "")]), [ResponseError::UnknownTopicOrPartition.code()]);
    let twice: Vec<_> = all.iter().chain(&all).copied().collect();
    assert_eq!(client.commit(8, "g", "t", &twice)[0], ResponseError::InvalidCommitOffsetSize.code());
    let refused = (0..100).find(|i| client.commit(8, &format!("group-{i}"), "t", &all)[0] == ResponseError::InvalidCommitOffsetSize.code());
    assert!(refused.is_some_and(|i| i > 20), "{refused:?}");
    // Those that are there may go on.
    assert_eq!(client.commit(8, "group-0", "t", &[(0, 2, "")]), [0]);
    assert_eq!(client.committed(7, "group-0", "t", 0), (0, 2, String::new()));
    // All of a group's offsets, asked for by many who do not read.
    let request = OffsetFetchRequest::default().with_group_id(GroupId(text("group-1"))).with_topics(None);
    let mut held: Vec<Client> = (0..100).map(|_| cluster.client(1)).collect();
    held.iter_mut().for_each(|c| c.send(7, &request).unwrap());
    std::thread::sleep(Duration::from_secs(1));
    assert!(peak(&cluster) < 250 * MB, "{} MB", peak(&cluster) / MB);
}

/// Members bring metadata of any size, and wait.
#[test]
fn members_of_groups_have_a_limit() {
    let cluster = Cluster::start(1, "offsets.topic.num.partitions=1\ngroup.initial.rebalance.delay.ms=600000");
    let mut client = cluster.client(1);
    eventually("there is a coordinator that is loaded", SOON, || {
        let found = client.call(3, &FindCoordinatorRequest::default().with_key(text("g"))).error_code == 0;
        (found && client.committed(7, "g", "t", 0).0 == 0).then_some(())
    });
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(vec![7; 900_000].into());
    let join = |i: usize| {
        JoinGroupRequest::default()
            .with_group_id(GroupId(text(&format!("group-{}", i % 3))))
            .with_session_timeout_ms(60_000)
            .with_rebalance_timeout_ms(600_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol.clone()])
    };
    let mut held: Vec<Client> = (0..200).map(|_| cluster.client(1)).collect();
    let mut refused = 0;
    for (i, c) in held.iter_mut().enumerate() {
        c.send(3, &join(i)).unwrap();
        c.stream.set_read_timeout(Some(Duration::from_millis(if i < 60 { 1 } else { 200 }))).unwrap();
        // Those that wait are not answered.
        if let Ok(answer) = c.receive::<JoinGroupRequest>(3) {
            assert_eq!(answer.error_code, ResponseError::GroupMaxSizeReached.code());
            refused += 1;
        }
    }
    assert!((110..140).contains(&refused), "{refused}");
    assert!(peak(&cluster) < 250 * MB, "{} MB", peak(&cluster) / MB);
    // Others are served.
    assert_eq!(client.committed(7, "g", "t", 0).0, 0);
}
