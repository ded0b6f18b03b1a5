//! Fetch from followers (KIP-392): a consumer that says its rack is sent to a replica there, and served up to the high watermark.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{Client, eventually, fetch_request, new_topic, text},
    ensemble::signal,
    logs::batches,
    metrics,
    processes::{Cluster, Process, SOON, free_port},
    tools,
};
use kafka_protocol::{
    ResponseError,
    messages::{create_topics_request::CreatableReplicaAssignment, fetch_response::PartitionData},
};

const TOPIC: &str = "near";
const VALUE: usize = 1000;

/// Three brokers in three racks, and a topic that the first leads. Ports of their metrics.
fn racks() -> (Cluster, Vec<u16>) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let settings = |id: i32| {
        format!(
            "broker.rack=r{id}\nreplica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector\n\
             replica.lag.time.max.ms=1500\nauto.leader.rebalance.enable=false\nmetrics.port={}",
            ports[id as usize - 1]
        )
    };
    let cluster = Cluster::start_each(3, settings, None);
    let replicas = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(vec![1.into(), 2.into(), 3.into()]);
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(TOPIC, -1, -1).with_assignments(vec![replicas])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    wait_isr(&cluster, &[1, 2, 3]);
    (cluster, ports)
}

fn wait_isr(cluster: &Cluster, wanted: &[i32]) {
    eventually(&format!("{wanted:?} are in sync"), SOON, || {
        let answer = cluster.client(1).metadata(Some(&[TOPIC]), false);
        let p = answer.topics.first()?.partitions.first()?;
        let mut isr: Vec<i32> = p.isr_nodes.iter().map(|b| b.0).collect();
        isr.sort_unstable();
        (isr == wanted).then_some(())
    });
}

fn produce(cluster: &Cluster, range: std::ops::Range<i64>) {
    let mut client = cluster.client(1);
    for i in range {
        let value = format!("{i:>VALUE$}");
        assert_eq!(client.produce(TOPIC, 0, &Batch::new(1_700_000_000_000 + i).values(&[&value]).build()), i);
    }
}

/// A consumer's fetch that says its rack.
fn fetch(client: &mut Client, version: i16, rack: &str, offset: i64, wait: Duration) -> PartitionData {
    let mut request = fetch_request(TOPIC, 0, offset, wait).with_rack_id(text(rack));
    if version >= 13 {
        request.topics[0].topic_id = client.topic_id(TOPIC);
        request.topics[0].topic = Default::default();
    }
    client.call(version, &request).responses.remove(0).partitions.remove(0)
}

fn last(data: &PartitionData) -> i64 {
    batches(data.records.as_deref().unwrap_or_default()).last().map_or(-1, |(head, _)| head.last_offset())
}

#[test]
fn a_leader_names_the_replica_of_the_rack_and_that_one_serves() {
    let (mut cluster, _) = racks();
    produce(&cluster, 0..20);
    let mut leader = cluster.client(1);
    // Followers have said that they have everything by their next fetch.
    eventually("the leader names the follower", SOON, || {
        (fetch(&mut leader, 11, "r2", 20, Duration::ZERO).preferred_read_replica.0 == 2).then_some(())
    });
    for (version, rack, preferred) in
        [(11, "r2", 2), (12, "r3", 3), (17, "r2", 2), (11, "r1", -1), (11, "", -1), (11, "r9", -1), (10, "r2", -1)]
    {
        let begun = Instant::now();
        let data = fetch(&mut leader, version, if version < 11 { "" } else { rack }, 0, Duration::from_secs(10));
        assert!(begun.elapsed() < Duration::from_secs(5), "it is answered at once");
        assert_eq!((data.error_code, data.preferred_read_replica.0, data.high_watermark), (0, preferred, 20), "{version} {rack}");
        assert_eq!(data.records.is_some_and(|r| !r.is_empty()), preferred < 0, "either records or a replica: {version} {rack}");
    }
    // Beyond the end no follower has it: the leader answers itself.
    assert_eq!(fetch(&mut leader, 11, "r2", 21, Duration::ZERO).error_code, ResponseError::OffsetOutOfRange.code());

    let mut follower = cluster.client(2);
    let served = eventually("the follower knows what is committed", SOON, || {
        Some(fetch(&mut follower, 11, "r2", 0, Duration::ZERO)).filter(|d| d.high_watermark == 20)
    });
    assert_eq!((served.error_code, served.preferred_read_replica.0), (0, -1));
    assert!(last(&served) > 10, "all of a segment");
    assert_eq!(fetch(&mut follower, 10, "", 0, Duration::ZERO).error_code, ResponseError::NotLeaderOrFollower.code(), "an old client");
    assert_eq!(fetch(&mut follower, 11, "r2", 21, Duration::ZERO).error_code, ResponseError::OffsetOutOfRange.code());
    assert_eq!(follower.list_offsets(7, TOPIC, 0, -1).0, ResponseError::NotLeaderOrFollower.code(), "offsets are the leader's to tell");
    let mut stale = fetch_request(TOPIC, 0, 0, Duration::ZERO);
    stale.topics[0].partitions[0].current_leader_epoch = 99;
    let refused = follower.call(11, &stale).responses.remove(0).partitions.remove(0);
    assert_eq!(refused.error_code, ResponseError::UnknownLeaderEpoch.code());

    // A fetch that waits at a follower is woken when its high watermark moves.
    let waiting = std::thread::spawn(move || {
        let begun = Instant::now();
        let data = fetch(&mut follower, 11, "r2", 20, Duration::from_secs(30));
        (last(&data), begun.elapsed())
    });
    std::thread::sleep(Duration::from_millis(300));
    produce(&cluster, 20..21);
    let (offset, after) = waiting.join().unwrap();
    assert_eq!(offset, 20);
    assert!(after < Duration::from_secs(10), "{after:?}");

    // One that is not in sync is not named, though it lives. It is not the controller, by whose decision the ISR shrinks.
    let controller = cluster.controller();
    let (out, left) = if controller == 2 { (3, [1, 2]) } else { (2, [1, 3]) };
    let rack = format!("r{out}");
    let pid = cluster.node(out).running().id();
    signal(pid, "-STOP");
    produce(&cluster, 21..22);
    wait_isr(&cluster, &left);
    assert_eq!(fetch(&mut leader, 11, &rack, 0, Duration::ZERO).preferred_read_replica.0, -1);
    signal(pid, "-CONT");
    wait_isr(&cluster, &[1, 2, 3]);
    eventually("it is named again", SOON, || {
        (fetch(&mut leader, 11, &rack, 0, Duration::ZERO).preferred_read_replica.0 == out).then_some(())
    });
}

/// Bytes of the topic that consumers got from a broker.
fn sent(port: u16) -> f64 {
    metrics::value(port, &format!("kafka_server_brokertopicmetrics_bytesout_total{{topic=\"{TOPIC}\"}}")).unwrap_or(0.0)
}

#[test]
fn librdkafka_reads_in_its_rack_and_from_the_leader_when_that_replica_is_gone() {
    let (mut cluster, ports) = racks();
    produce(&cluster, 0..200);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/near.py");
    let dir = cluster.dir.path();
    let out = dir.join("near.out");
    let mut command = Command::new(tools::python());
    command.args(["-B", file.to_str().unwrap(), &tools::bootstrap(&cluster), TOPIC, "r2", "300"]);
    command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
    let mut reader = Process::spawn(command, dir.join("near.err"));
    let all = (200 * VALUE) as f64;
    eventually("the follower has served it", SOON, || (sent(ports[1]) > all).then_some(()));
    assert_eq!((sent(ports[0]), sent(ports[2])), (0.0, 0.0), "and no other");
    cluster.node(2).kill_9();
    wait_isr(&cluster, &[1, 3]);
    produce(&cluster, 200..300);
    let status = reader.exit(Duration::from_secs(90));
    assert!(status.success() && fs::read_to_string(&out).unwrap().contains("done"), "{}", reader.said());
    assert!(sent(ports[0]) > (100 * VALUE) as f64);
}

#[test]
fn the_java_client_reads_in_its_rack() {
    let (cluster, ports) = racks();
    produce(&cluster, 0..200);
    let servers = tools::bootstrap(&cluster);
    let read = |rack: &str| {
        let words = ["--bootstrap-server", &servers, "--topic", TOPIC, "--partition", "0", "--offset", "0", "--max-messages", "200"];
        let rack = format!("client.rack={rack}");
        let all = [&words[..], &["--timeout-ms", "60000", "--consumer-property", &rack]].concat();
        let out = tools::run(cluster.dir.path(), &tools::kafka("kafka-console-consumer.sh"), &all);
        assert!(out.contains("Processed a total of 200 messages"), "{out}");
    };
    let all = (200 * VALUE) as f64;
    read("r3");
    assert!(
        sent(ports[2]) > all && sent(ports[0]) == 0.0 && sent(ports[1]) == 0.0,
        "{:?}",
        ports.iter().map(|p| sent(*p)).collect::<Vec<_>>()
    );
    read("nowhere");
    assert!(sent(ports[0]) > all);
}
