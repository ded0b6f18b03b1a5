//! A disk that is full takes the log directory offline: its leaderships go to other brokers, and come back when there is room.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{Client, eventually, fetch_request, new_topic, produce_request},
    logs::batches,
    processes::{Cluster, Process, SOON},
    tools,
};
use kafka_protocol::{
    ResponseError,
    messages::{DescribeLogDirsRequest, ElectLeadersRequest, create_topics_request::CreatableReplicaAssignment},
};

/// Runs a program with a small file system over a directory, part of which is taken by a file `ballast`.
const SMALL: &str = r#"
    cp -a "$1" "$1.saved" && mount -t tmpfs -o size=32m none "$1" && cp -a "$1.saved/." "$1/" || exit 9
    dd if=/dev/zero of="$1/ballast" bs=64k count=384 2>/dev/null
    shift; exec "$@""#;

fn state(cluster: &Cluster, ask: i32, topic: &str) -> Option<(i32, Vec<i32>)> {
    let mut client = Client::try_connect(cluster.nodes[ask as usize - 1].port).ok()?;
    let answer = client.metadata(Some(&[topic]), false);
    let p = answer.topics.first()?.partitions.first()?;
    let mut isr: Vec<i32> = p.isr_nodes.iter().map(|b| b.0).collect();
    isr.sort_unstable();
    Some((p.leader_id.0, isr))
}

fn offline(cluster: &Cluster, id: i32) -> bool {
    let answer = cluster.client(id).call(4, &DescribeLogDirsRequest::default().with_topics(None));
    answer.results[0].error_code == ResponseError::KafkaStorageError.code()
}

fn offset(answer: &kafka_protocol::messages::ProduceResponse) -> Result<i64, i16> {
    let p = &answer.responses[0].partition_responses[0];
    if p.error_code == 0 { Ok(p.base_offset) } else { Err(p.error_code) }
}

fn create(cluster: &Cluster, topic: &str, replicas: &[i32]) {
    let ids = replicas.iter().map(|r| (*r).into()).collect();
    let assignment = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(ids);
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(topic, -1, -1).with_assignments(vec![assignment])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    eventually("its replicas are in sync", SOON, || {
        state(cluster, replicas[0], topic).filter(|(l, isr)| *l > 0 && isr.len() == replicas.len())
    });
}

#[test]
fn leaderships_leave_a_full_disk_and_come_back_with_room() {
    let mut cluster =
        Cluster::start(3, "min.insync.replicas=2\nreplica.lag.time.max.ms=3000\nlog.flush.offset.checkpoint.interval.ms=1000");
    create(&cluster, "kept", &[1, 2, 3]);
    create(&cluster, "alone", &[1]);
    assert_eq!(offset(&cluster.client(1).call(9, &produce_request("alone", 0, &Batch::new(1).values(&["x"]).build(), -1))), Ok(0));
    assert!(cluster.node(1).stop().0.success());
    let logs = cluster.node(1).logs().to_str().unwrap().to_owned();
    cluster.node(1).wrapper = ["unshare", "-m", "sh", "-c", SMALL, "sh", &logs].map(str::to_owned).to_vec();
    cluster.node(1).start();
    cluster.node(1).wait(3);
    // The preferred leader leads again.
    eventually("all are in sync", SOON, || state(&cluster, 2, "kept").filter(|(_, isr)| isr.len() == 3));
    let elect = ElectLeadersRequest::default().with_election_type(0).with_topic_partitions(None).with_timeout_ms(10_000);
    eventually("the first broker leads", SOON, || {
        cluster.client(cluster.controller()).call(2, &elect);
        state(&cluster, 2, "kept").filter(|(l, _)| *l == 1)
    });
    let servers = tools::bootstrap(&cluster);

    // librdkafka, at its defaults but for idempotence, produces all the while.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/full_disk.py");
    let mut command = Command::new(tools::python());
    let out = cluster.dir.path().join("producer.out");
    command.args(["-B", file.to_str().unwrap(), &servers, "kept", "400"]).stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
    let mut producer = Process::spawn(command, cluster.dir.path().join("producer.err"));
    let begun = Instant::now();
    let (leader, _) = eventually("another broker leads", SOON, || {
        state(&cluster, 2, "kept").filter(|(l, isr)| ![1, -1].contains(l) && !isr.contains(&1))
    });
    println!("broker {leader} leads {:?} after the producer began", begun.elapsed());
    assert!(offline(&cluster, 1) && !offline(&cluster, 2));
    let status = producer.exit(Duration::from_secs(120));
    let said = fs::read_to_string(&out).unwrap();
    assert!(status.success() && said.contains("done"), "{said}\n{}", producer.said());
    // What has no other replica is refused, and the rest of the broker works.
    let refused = cluster.client(1).call(9, &produce_request("alone", 0, &Batch::new(1).values(&["x"]).build(), -1));
    assert!([ResponseError::KafkaStorageError.code(), ResponseError::NotLeaderOrFollower.code()].contains(&offset(&refused).unwrap_err()));
    assert_eq!(state(&cluster, 1, "alone").unwrap().0, -1);
    assert_eq!(state(&cluster, 1, "kept").unwrap().0, leader);
    let listed = cluster.client(1).metadata(Some(&["kept"]), false);
    assert_eq!(listed.topics[0].partitions[0].offline_replicas.iter().map(|b| b.0).collect::<Vec<_>>(), [1]);

    // Room again: it is in sync, and leads what only it has.
    let pid = cluster.node(1).running().id().to_string();
    assert!(Command::new("nsenter").args(["-t", &pid, "-m", "rm", &format!("{logs}/ballast")]).status().unwrap().success());
    // The records of the test take less than what was made free.
    eventually("all are in sync", Duration::from_secs(60), || state(&cluster, 2, "kept").filter(|(_, isr)| isr.len() == 3));
    eventually("it leads what only it has", SOON, || state(&cluster, 1, "alone").filter(|(l, _)| *l == 1));
    assert!(!offline(&cluster, 1));
    assert_eq!(offset(&cluster.client(1).call(9, &produce_request("alone", 0, &Batch::new(1).values(&["y"]).build(), -1))), Ok(1));
    // Each replica has each record that was acknowledged, once.
    let wanted: BTreeSet<String> = said.lines().filter_map(|l| l.strip_prefix("sent ")).map(str::to_owned).collect();
    assert!(wanted.len() == 400, "{}", wanted.len());
    let records = |id: i32| -> Vec<String> {
        let mut client = cluster.client(id);
        let (mut offset, mut keys) = (0, Vec::new());
        loop {
            let mut request = fetch_request("kept", 0, offset, Duration::ZERO);
            request.topics[0].partitions[0].partition_max_bytes = 1 << 20;
            let data = client.call(11, &request).responses.remove(0).partitions.remove(0);
            assert_eq!(data.error_code, 0);
            let bytes = data.records.unwrap_or_default();
            let Some((last, _)) = batches(&bytes).last().cloned() else { return keys };
            for (_, batch) in batches(&bytes) {
                keys.extend(common::batches::keys_and_values(&batch).into_iter().map(|(k, _)| String::from_utf8(k.unwrap()).unwrap()));
            }
            offset = last.last_offset() + 1;
        }
    };
    for id in 1..=3 {
        let got = eventually("the replica shows all", SOON, || Some(records(id)).filter(|r| r.len() >= wanted.len()));
        assert_eq!((got.len(), got.into_iter().collect::<BTreeSet<_>>()), (wanted.len(), wanted.clone()), "broker {id}");
    }
}
