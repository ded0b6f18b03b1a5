//! Idempotent producers: real clients at their defaults, and requests that are sent twice or out of order.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use common::{
    batches::Batch,
    client::{Client, produce_request, text},
    logs::batches,
    processes::{Cluster, Process},
};
use kafka_protocol::{
    ResponseError,
    messages::{InitProducerIdRequest, ProducerId, TransactionalId},
};

const LIMIT: Duration = Duration::from_secs(90);

fn init(client: &mut Client, version: i16) -> i64 {
    let answer = client.call(version, &InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1000));
    assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
    answer.producer_id.0
}

/// Error, base offset.
fn produce(client: &mut Client, batch: &[u8]) -> (i16, i64) {
    let answer = client.call(7, &produce_request("t", 0, batch, -1));
    let p = &answer.responses[0].partition_responses[0];
    (p.error_code, p.base_offset)
}

#[test]
fn ids_are_unique_across_brokers_and_restarts() {
    let mut cluster = Cluster::start(2, "");
    let mut ids = BTreeSet::new();
    for version in 0..=4 {
        for broker in [1, 2] {
            assert!(ids.insert(init(&mut cluster.client(broker), version)));
        }
    }
    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    let mut client = cluster.client(1);
    // More than a block.
    for _ in 0..1100 {
        assert!(ids.insert(init(&mut client, 4)));
    }
    assert_eq!(ids.len(), 1110);
    let block = cluster.znodes().json("/latest_producer_id_block");
    assert_eq!((&block["version"], &block["broker"]), (&1.into(), &1.into()));
    assert_eq!((&block["block_start"], &block["block_end"]), (&"3000".into(), &"3999".into()));
    // A transaction is refused, with the same error as in produce.
    let named = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("mine"))));
    assert_eq!(client.call(2, &named).error_code, ResponseError::TransactionalIdAuthorizationFailed.code());
    let half = InitProducerIdRequest::default().with_transactional_id(None).with_producer_id(ProducerId(5));
    assert_eq!(client.call(4, &half).error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn what_is_sent_twice_is_stored_once_also_after_a_restart() {
    let mut cluster = Cluster::start(1, "log.segment.bytes=2000");
    cluster.create("t", 1);
    let mut client = cluster.client(1);
    let id = init(&mut client, 4);
    let batch = |epoch: i16, sequence: i32| Batch::new(1).values(&["a", "b"]).producer(id, epoch, sequence).build();
    for i in 0..40 {
        assert_eq!(produce(&mut client, &batch(0, 2 * i)), (0, 2 * i64::from(i)));
    }
    for restart in [false, true, true] {
        let order = ResponseError::OutOfOrderSequenceNumber.code();
        assert_eq!(produce(&mut client, &batch(0, 78)), (0, 78), "the last one again");
        assert_eq!(produce(&mut client, &batch(0, 82)).0, order, "one is missing");
        assert_eq!(produce(&mut client, &batch(1, 1)).0, order, "a new epoch begins with 0");
        assert_eq!(produce(&mut client, &Batch::new(1).values(&["a"]).producer(id, 0, -1).build()).0, ResponseError::InvalidRecord.code());
        if restart {
            cluster.node(1).kill_9();
            cluster.node(1).start();
            cluster.wait();
            cluster.leaders("t");
            client = cluster.client(1);
        }
    }
    assert_eq!(cluster.node(1).running().terminate().code(), Some(0));
    cluster.node(1).process = None;
    let logs = cluster.node(1).logs().join("t-0");
    assert!(logs.join(format!("{:020}.snapshot", 80)).exists(), "a clean stop writes the state down");
    cluster.node(1).start();
    cluster.wait();
    cluster.leaders("t");
    let mut client = cluster.client(1);
    assert_eq!(produce(&mut client, &batch(0, 78)), (0, 78));
    assert_eq!(produce(&mut client, &batch(0, 80)), (0, 80));
    assert_eq!(produce(&mut client, &batch(1, 0)), (0, 82), "a new epoch");
    assert_eq!(produce(&mut client, &batch(0, 82)).0, ResponseError::InvalidProducerEpoch.code());
    let all = batches(&client.fetch("t", 0, 0));
    assert_eq!(all.iter().map(|(h, _)| h.base_sequence).collect::<Vec<_>>(), (0..41).map(|i| 2 * i).chain([0]).collect::<Vec<_>>());
    // Kafka's own tool reads the snapshots.
    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA") else {
        septet_testing::skip("kafka-dump-log", "SEPTET_TEST_KAFKA is not set");
        return;
    };
    let snapshots: Vec<_> =
        fs::read_dir(&logs).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "snapshot")).collect();
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    for path in snapshots {
        let out = cluster.dir.path().join("dumped");
        let mut command = Command::new(Path::new(&kafka).join("bin/kafka-dump-log.sh"));
        command.arg("--files").arg(&path).stdout(fs::File::create(&out).unwrap());
        assert!(Process::spawn(command, cluster.dir.path().join("dump.stderr")).exit(LIMIT).success());
        let said = fs::read_to_string(&out).unwrap();
        let end: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let want = format!("firstSequence: {} lastSequence: {} lastOffset: {} offsetDelta: 1 ", end - 2, end - 1, end - 1);
        assert!(said.contains(&format!("producerId: {id} producerEpoch: 0 ")) && said.contains(&want), "{said}");
    }
}

fn python(script: &str, module: &str) {
    let Some(python) = std::env::var_os("SEPTET_TEST_PYTHON") else {
        septet_testing::skip(script, "SEPTET_TEST_PYTHON is not set");
        return;
    };
    let cluster = Cluster::start(1, "");
    cluster.create("orders", 3);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let out = cluster.dir.path().join("out");
    let mut command = Command::new(&python);
    command.arg("-B").arg(&file).arg(format!("127.0.0.1:{}", cluster.nodes[0].port)).stdout(fs::File::create(&out).unwrap());
    let mut process = Process::spawn(command, cluster.dir.path().join("client.stderr"));
    let status = process.exit(LIMIT);
    assert!(status.success(), "{module}: {status}: {}", process.said());
    assert_eq!(fs::read_to_string(&out).unwrap().lines().last(), Some("done"));
    let mut client = cluster.client(1);
    let ids: BTreeSet<i64> = (0..3).flat_map(|p| batches(&client.fetch("orders", p, 0))).map(|(h, _)| h.producer_id).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id >= 0), "every batch has a producer's id: {ids:?}");
}

#[test]
fn confluent_kafka_with_idempotence() {
    python("confluent_idempotent.py", "confluent_kafka");
}

#[test]
fn kafka_python_at_its_defaults() {
    python("kafka_python_idempotent.py", "kafka");
}

#[test]
fn kafkas_own_producer_at_its_defaults() {
    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA") else {
        septet_testing::skip("kafka-producer-perf-test", "SEPTET_TEST_KAFKA is not set");
        return;
    };
    let cluster = Cluster::start(1, "");
    cluster.create("orders", 3);
    let out = cluster.dir.path().join("out");
    let mut command = Command::new(Path::new(&kafka).join("bin/kafka-producer-perf-test.sh"));
    command.args(["--topic", "orders", "--num-records", "5000", "--record-size", "100", "--throughput", "-1", "--producer-props"]);
    command.args([
        format!("bootstrap.servers=127.0.0.1:{}", cluster.nodes[0].port),
        "linger.ms=1".to_owned(),
        "batch.size=2000".to_owned(),
    ]);
    command.stdout(fs::File::create(&out).unwrap());
    let mut process = Process::spawn(command, cluster.dir.path().join("client.stderr"));
    assert!(process.exit(LIMIT).success(), "{}", process.said());
    assert!(fs::read_to_string(&out).unwrap().contains("5000 records sent"));
    let mut client = cluster.client(1);
    let mut count = 0;
    for p in 0..3 {
        let mut next = 0;
        for (head, _) in batches(&client.fetch("orders", p, 0)) {
            assert_eq!((head.producer_id, head.producer_epoch, head.base_sequence), (0, 0, next), "partition {p}");
            next += head.count;
        }
        count += next;
    }
    assert_eq!(count, 5000);
}
