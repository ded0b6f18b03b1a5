//! Partitions and connections are bounded: topics that clients cause by naming them, descriptors of segment files, and
//! a broker that is out of descriptors for a while serves again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, net::TcpStream, process::Command, time::Duration};

use common::{
    batches::{Batch, GOLDEN},
    client::{Client, eventually, new_topic, text, topic_name},
    logs::batches,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest, metadata_request::MetadataRequestTopic},
};

fn id(cluster: &Cluster) -> u32 {
    cluster.nodes[0].process.as_ref().unwrap().id()
}

fn open_files(cluster: &Cluster) -> usize {
    fs::read_dir(format!("/proc/{}/fd", id(cluster))).unwrap().count()
}

fn is_served(port: u16) -> Option<()> {
    let mut client = Client::try_connect(port).ok()?;
    client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    client.try_call(3, &ApiVersionsRequest::default()).ok().map(drop)
}

#[test]
fn topics_are_created_automatically_up_to_a_limit() {
    let cluster = Cluster::start(1, "septet.auto.create.max.partitions=10\nseptet.max.partitions.per.broker=16");
    let mut client = cluster.client(1);
    // Three partitions each; all of them are named before the first is seen.
    let names: Vec<String> = (0..500).map(|i| format!("topic-{i}")).collect();
    let wanted = names.iter().map(|n| MetadataRequestTopic::default().with_name(Some(topic_name(n)))).collect();
    let answer = client.call(9, &MetadataRequest::default().with_topics(Some(wanted)).with_allow_auto_topic_creation(true));
    let codes: Vec<i16> = answer.topics.iter().map(|t| t.error_code).collect();
    assert_eq!(codes[..3], [ResponseError::LeaderNotAvailable.code(); 3]);
    assert_eq!(codes[3..], [ResponseError::PolicyViolation.code(); 497]);
    for name in &names[..3] {
        assert_eq!(cluster.leaders(name), [1, 1, 1]);
        client.produce(name, 0, &GOLDEN);
    }
    // Now that they are seen it is the same.
    assert_eq!(client.metadata(Some(&["one-more"]), true).topics[0].error_code, ResponseError::PolicyViolation.code());
    assert_eq!(cluster.znodes().children("/brokers/topics"), ["topic-0", "topic-1", "topic-2"]);
    let said = cluster.nodes[0].process.as_ref().unwrap().said();
    let line = "is not created automatically: the cluster has 9 partitions, and topics are created automatically up to 10 (septet.auto.create.max.partitions)";
    assert!(said.contains(line), "{said}");
    assert!(said.lines().filter(|l| l.contains("is not created automatically")).count() < 10, "not a line for each: {said}");
    // Groups need a topic of their own, and an administrator may go on, up to the limit of a broker.
    eventually("there is a coordinator", SOON, || {
        (client.call(3, &FindCoordinatorRequest::default().with_key(text("g"))).error_code == 0).then_some(())
    });
    let made = client.create_topics(vec![new_topic("wished-for", 2, 1), new_topic("too-much", 9, 1)], false);
    assert_eq!((made[0].error_code, made[1].error_code), (0, ResponseError::PolicyViolation.code()));
    let message = made[1].error_message.as_ref().unwrap().to_string();
    assert!(message.contains("it may have 16 (septet.max.partitions.per.broker)"), "{message}");
    let checked = client.create_topics(vec![new_topic("too-much", 9, 1)], true);
    assert_eq!(checked[0].error_code, ResponseError::PolicyViolation.code());
}

#[test]
fn partitions_take_no_descriptors_from_connections() {
    const FILES: usize = 200;
    const PARTITIONS: i32 = 400;
    let mut cluster = Cluster::start_limited(1, "", Some(FILES as u32));
    cluster.create("many", PARTITIONS);
    let mut client = cluster.client(1);
    let batch = |p: i32| Batch::new(1).values(&[&format!("in partition {p}"), &"x".repeat(600)]).build();
    for round in 0..3 {
        (0..PARTITIONS).for_each(|p| assert_eq!(client.produce("many", p, &batch(p)), round * 2));
    }
    assert!(open_files(&cluster) < FILES, "{}", open_files(&cluster));
    drop(client);
    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    let mut client = cluster.client(1);
    for p in 0..PARTITIONS {
        let got = batches(&client.fetch("many", p, 0));
        assert_eq!(got.len(), 3, "partition {p}");
        assert!(got.iter().all(|(_, b)| b[16..] == batch(p)[16..]), "partition {p}");
    }
    // As many connections as there is room for, and no more; the others are told at once, and in the log.
    let port = cluster.nodes[0].port;
    let held: Vec<TcpStream> = (0..FILES).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    eventually("the log says that connections are refused", SOON, || {
        cluster.nodes[0].process.as_ref().unwrap().said().contains("connection refused: 68 connections are open").then_some(())
    });
    assert_eq!(client.produce("many", 0, &batch(0)), 6, "a connection from before is served");
    drop(held);
    eventually("there is room again", SOON, || is_served(port));
}

#[test]
fn a_broker_without_descriptors_serves_again_when_there_are_some() {
    let cluster = Cluster::start(1, "");
    let port = cluster.nodes[0].port;
    let limit = |n: usize| {
        let status = Command::new("prlimit").arg(format!("--pid={}", id(&cluster))).arg(format!("--nofile={n}:4096")).status();
        assert!(status.expect("prlimit of util-linux").success());
    };
    limit(open_files(&cluster));
    let held: Vec<TcpStream> = (0..20).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    eventually("the log says what is short", SOON, || {
        cluster.nodes[0].process.as_ref().unwrap().said().contains("a connection cannot be accepted: Too many open files").then_some(())
    });
    assert_eq!(is_served(port), None);
    limit(4096);
    eventually("it serves again", SOON, || is_served(port));
    drop(held);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let cluster = Cluster::start(1, "max.connections.per.ip=5");
    let port = cluster.nodes[0].port;
    let held = eventually("five connections are served", SOON, || {
        let mut held: Vec<Client> = (0..5).map(|_| Client::connect(port)).collect();
        held.iter_mut().all(|c| c.try_call(3, &ApiVersionsRequest::default()).is_ok()).then_some(held)
    });
    assert!(Client::connect(port).try_call(3, &ApiVersionsRequest::default()).is_err());
    assert!(cluster.nodes[0].process.as_ref().unwrap().said().contains("5 connections from this address are open"));
    drop(held);
    eventually("there is room again", SOON, || is_served(port));
}

#[test]
fn a_broker_with_thousands_of_topics_answers_after_a_restart() {
    const TOPICS: usize = 3000;
    let mut cluster = Cluster::start_limited(1, "septet.max.partitions.per.broker=10000", Some(400));
    let names: Vec<String> = (0..TOPICS).map(|i| format!("topic-{i}")).collect();
    for some in names.chunks(1000) {
        let made = cluster.client(1).create_topics(some.iter().map(|n| new_topic(n, 1, 1)).collect(), false);
        let timed_out = ResponseError::RequestTimedOut.code();
        assert!(made.iter().all(|t| [0, timed_out].contains(&t.error_code)), "{:?}", made.iter().find(|t| t.error_code != 0));
    }
    let all_lead = |cluster: &Cluster| {
        let topics = cluster.client(1).metadata(None, false).topics;
        (topics.len() == TOPICS && topics.iter().all(|t| t.partitions.iter().all(|p| p.leader_id.0 == 1))).then_some(())
    };
    eventually("every topic has a leader", 3 * SOON, || all_lead(&cluster));
    for name in names.iter().step_by(100) {
        cluster.client(1).produce(name, 0, &GOLDEN);
    }
    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    all_lead(&cluster).expect("every topic has a leader");
    for name in names.iter().step_by(100) {
        assert_eq!(cluster.client(1).produce(name, 0, &GOLDEN), 3, "{name}");
    }
    assert!(open_files(&cluster) < 400, "{}", open_files(&cluster));
}
