//! A directory has one log, whoever leads when; and what a log promises is in the directory.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use common::{
    batches::GOLDEN,
    client::eventually,
    logs::batches,
    processes::{Cluster, Process, SOON},
    tempdir,
};
use kafka_protocol::ResponseError;
use septet_broker::{
    broker::Broker,
    cluster::control::{LeaderAndIsr, Origin, PartitionState, TopicState},
    config::Config,
    watch::Changes,
};

/// The controller makes a broker lead a partition, or not.
async fn lead(broker: &Arc<Broker>, leader: i32, leader_epoch: i32) {
    let partition = PartitionState { leader, leader_epoch, replicas: vec![1], isr: vec![1], ..PartitionState::default() };
    let topics = vec![TopicState { name: "t".into(), id: [1; 16], partitions: vec![partition] }];
    let request = LeaderAndIsr { origin: Origin { broker_epoch: -1, ..Origin::default() }, topics, ..LeaderAndIsr::default() };
    // There is no coordinator here, which would say so.
    broker.topic_configs.take("t", 0, std::collections::BTreeMap::new());
    assert_eq!(broker.replicas.leader_and_isr(broker, &request, 0).await, Ok(vec![("t".to_owned(), 0, 0)]));
}

/// A session that ends takes the leadership, and the next gives it back, while requests are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_comes_and_goes_and_the_log_stays() {
    let dir = tempdir();
    let text = format!("broker.id=1\nzookeeper.connect=nowhere:1\nlog.dirs={}\n", dir.path().display());
    let (config, _) = Config::parse(Path::new("server.properties"), &text, "host").unwrap();
    let broker = Arc::new(Broker::open(config).unwrap());
    lead(&broker, 1, 0).await;
    // A request that has found its partition, and waits there.
    let under_way = broker.led("t", 0).unwrap();
    assert_eq!(under_way.partition.append(&GOLDEN).unwrap().base_offset, 0);
    lead(&broker, -1, 1).await;
    assert!(broker.led("t", 0).is_none());
    assert_eq!(under_way.partition.append(&GOLDEN), Err(ResponseError::NotLeaderOrFollower), "not while nobody leads");
    lead(&broker, 1, 2).await;
    let again = broker.led("t", 0).unwrap();
    // Both go to the same log: no offset is given twice.
    let offsets: Vec<i64> = (0..6).map(|i| [&under_way, &again][i % 2].partition.append(&GOLDEN).unwrap().base_offset).collect();
    assert_eq!(offsets, [3, 6, 9, 12, 15, 18]);
    let heads: Vec<_> =
        batches(&again.partition.read(0, 10_000).unwrap()).into_iter().map(|(h, _)| (h.base_offset, h.leader_epoch)).collect();
    assert_eq!(heads, [(0, 0), (3, 2), (6, 2), (9, 2), (12, 2), (15, 2), (18, 2)]);
    broker.shut_down();
}

/// The end of a leadership ends the waits of consumers, who are to look for the new leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_that_the_leader_is_gone() {
    let dir = tempdir();
    let text = format!("broker.id=1\nzookeeper.connect=nowhere:1\nlog.dirs={}\n", dir.path().display());
    let (config, _) = Config::parse(Path::new("server.properties"), &text, "host").unwrap();
    let broker = Arc::new(Broker::open(config).unwrap());
    lead(&broker, 1, 0).await;
    let changes = Arc::new(Changes::default());
    let _watch = broker.led("t", 0).unwrap().partition.watchers().add(&changes, 0);
    lead(&broker, -1, 1).await;
    tokio::time::timeout(Duration::from_secs(5), changes.woken()).await.unwrap();
}

/// A segment whose directory entry is lost in a power cut takes acknowledged records with it. No test on a running system
/// can cut the power, so this looks at the system calls: after a segment is made, its directory is synced before a record
/// goes into it.
#[test]
fn the_entry_of_a_new_segment_reaches_the_disk() {
    let mut cluster = Cluster::start(1, "log.segment.bytes=300");
    let node = cluster.node(1);
    let (trace, said) = (node.dir.join("trace"), node.dir.join("strace.stderr"));
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-e", "trace=openat,fsync,fdatasync,pwrite64", "-o"])
        .arg(&trace)
        .arg("-p")
        .arg(node.running().id().to_string());
    let _strace = Process::spawn(strace, said.clone());
    eventually("strace has begun", SOON, || std::fs::read_to_string(&said).ok()?.contains("attached").then_some(()));
    cluster.create("t", 1);
    let mut client = cluster.client(1);
    (0..10).for_each(|i| assert_eq!(client.produce("t", 0, &GOLDEN), 3 * i));
    let calls = eventually("the calls are written down", SOON, || {
        let calls = std::fs::read_to_string(&trace).ok()?;
        (calls.contains("t-0/00000000000000000027.log")).then_some(calls)
    });
    let find = |what: &str, from: usize| calls[from..].find(what).map(|i| from + i);
    for base in [0, 9, 18, 27] {
        let file = format!("t-0/{base:020}.log");
        let made = find(&file, 0).unwrap_or_else(|| panic!("{file} is made"));
        let written = calls[made..].match_indices("pwrite64(").map(|(i, _)| made + i).find(|i| {
            let line = calls[*i..].lines().next().unwrap();
            line.contains(&file)
        });
        let written = written.unwrap_or_else(|| panic!("{file} is written to"));
        let synced = calls[made..written].lines().any(|l| l.contains("fsync(") && l.contains("/t-0>"));
        assert!(synced, "{file}: {}", &calls[made..written]);
    }
}
