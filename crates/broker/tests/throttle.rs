//! Throttles of reassignments: `kafka-reassign-partitions.sh --throttle` against the clock, and its removal by `--verify`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{new_topic, produce_request},
    processes::Cluster,
    tools,
};
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;

/// Bytes that are moved, and bytes a second.
const BYTES: usize = 8_000_000;
const RATE: usize = 1_000_000;
const LIMIT: Duration = Duration::from_secs(60);

fn reassign(cluster: &Cluster, words: &[&str]) -> String {
    let servers = tools::bootstrap(cluster);
    let all = [&["--bootstrap-server", &servers][..], words].concat();
    tools::run(cluster.dir.path(), &tools::kafka("kafka-reassign-partitions.sh"), &all)
}

/// Moves the topic's partition to other brokers, and asks until that is done. Returns how long it took, and the last answer.
fn moved(cluster: &Cluster, topic: &str, to: &[i32], throttle: Option<usize>) -> (Duration, String) {
    let file = cluster.dir.path().join("plan.json");
    let plan = format!(r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"replicas":{to:?}}}]}}"#);
    fs::write(&file, plan).unwrap();
    let plan = ["--reassignment-json-file", file.to_str().unwrap()];
    let rate = throttle.map(|r| r.to_string());
    let throttle: Vec<&str> = rate.iter().flat_map(|r| ["--throttle", r.as_str()]).collect();
    let out = reassign(cluster, &[&["--execute"][..], &plan, &throttle].concat());
    assert!(out.contains("Successfully started partition reassignment"), "{out}");
    let begun = Instant::now();
    let mut client = cluster.client(1);
    let done = common::client::eventually("the replicas have moved", LIMIT, || {
        let answer = client.metadata(Some(&[topic]), false);
        let p = &answer.topics[0].partitions[0];
        let ids = |list: &[kafka_protocol::messages::BrokerId]| list.iter().map(|b| b.0).collect::<Vec<_>>();
        let (mut isr, mut wanted) = (ids(&p.isr_nodes), to.to_vec());
        isr.sort_unstable();
        wanted.sort_unstable();
        (ids(&p.replica_nodes) == to && isr == wanted).then(|| begun.elapsed())
    });
    (done, reassign(cluster, &[&["--verify"][..], &plan].concat()))
}

#[test]
fn a_reassignment_keeps_to_its_throttle_and_in_sync_replicas_do_not() {
    let cluster = Cluster::start(3, "min.insync.replicas=2\nreplica.lag.time.max.ms=30000");
    let replicas = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(vec![1.into(), 2.into()]);
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic("moved", -1, -1).with_assignments(vec![replicas])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    cluster.leaders("moved");
    let mut client = cluster.client(1);
    let value = "v".repeat(100_000);
    for i in 0..BYTES / value.len() {
        client.produce("moved", 0, &Batch::new(1_700_000_000_000 + i as i64).values(&[&value]).build());
    }
    // While the third broker is held back, the one in sync is not: acks=all does not wait.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (slowest, (took, out)) = std::thread::scope(|scope| {
        let slowest = scope.spawn(|| {
            let (mut client, mut slowest) = (cluster.client(1), Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let begun = Instant::now();
                let answer = client.call(9, &produce_request("moved", 0, &Batch::new(1).values(&["x"]).build(), -1));
                assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
                slowest = slowest.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let done = moved(&cluster, "moved", &[1, 2, 3], Some(RATE));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (slowest.join().unwrap(), done)
    });
    println!("{BYTES} bytes at {RATE} a second: {took:?}; slowest produce {slowest:?}");
    let ideal = Duration::from_secs((BYTES / RATE) as u64);
    // A fetch that has begun is not cut, so that the rate is passed by at most one answer for each window that counts.
    assert!(took > ideal / 2, "{took:?}");
    assert!(slowest < took / 2, "{slowest:?}");
    let throttled = took;
    assert!(out.contains("Clearing broker-level throttles on brokers 1,2,3") && out.contains("Clearing topic-level throttles"), "{out}");
    let z = cluster.znodes();
    for path in ["/config/brokers/1", "/config/brokers/3", "/config/topics/moved"] {
        let left = z.json(path);
        assert!(left["config"].as_object().is_some_and(|c| !c.keys().any(|k| k.contains("throttled"))), "{path}: {left}");
    }
    // Without a throttle it goes as fast as it can.
    let (took, _) = moved(&cluster, "moved", &[1, 3], None);
    assert!(took < throttled, "{took:?}");
    let (took, _) = moved(&cluster, "moved", &[1, 3, 2], None);
    println!("without a throttle: {took:?}");
    assert!(took < throttled / 2, "{took:?}");
}
