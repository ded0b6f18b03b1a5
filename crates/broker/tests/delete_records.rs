//! DeleteRecords waits until every living replica has deleted.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{
    batches::Batch,
    client::{Client, eventually, fetch_request, new_topic, topic_name},
    ensemble::signal,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest,
        create_topics_request::CreatableReplicaAssignment,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    },
};

/// Code and low watermark, and how long that took.
fn delete(client: &mut Client, offset: i64, wait: Duration) -> (i16, i64, Duration) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic_name("short")).with_partitions(vec![partition]);
    let begun = Instant::now();
    let answer = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(wait.as_millis() as i32));
    let p = &answer.topics[0].partitions[0];
    (p.error_code, p.low_watermark, begun.elapsed())
}

/// First offset of a replica's log.
fn start(cluster: &Cluster, id: i32) -> i64 {
    let answer = cluster.client(id).call(11, &fetch_request("short", 0, 10, Duration::ZERO));
    answer.responses[0].partitions[0].log_start_offset
}

#[test]
fn all_living_replicas_have_deleted_when_it_is_answered() {
    let mut cluster = Cluster::start(3, "replica.lag.time.max.ms=60000\nzookeeper.session.timeout.ms=30000");
    let replicas = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(vec![1.into(), 2.into(), 3.into()]);
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic("short", -1, -1).with_assignments(vec![replicas])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    cluster.leaders("short");
    let mut client = cluster.client(1);
    for i in 0..10 {
        client.produce("short", 0, &Batch::new(1_700_000_000_000 + i).values(&["x"]).build());
    }
    let (code, low, _) = delete(&mut client, 3, SOON);
    assert_eq!((code, low), (0, 3));
    assert_eq!([1, 2, 3].map(|id| start(&cluster, id)), [3, 3, 3], "it was answered when all had");

    // A replica that stands still is waited for, for as long as the request says.
    let pid = cluster.node(3).running().id();
    signal(pid, "-STOP");
    let (code, low, took) = delete(&mut client, 5, Duration::from_millis(1500));
    assert_eq!((code, low), (ResponseError::RequestTimedOut.code(), 3), "what the slowest has");
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(10), "{took:?}");
    let (code, ..) = delete(&mut client, 11, SOON);
    assert_eq!(code, ResponseError::OffsetOutOfRange.code());
    let waiting = std::thread::spawn(move || {
        let answer = delete(&mut client, 6, SOON);
        (answer, client)
    });
    std::thread::sleep(Duration::from_millis(700));
    signal(pid, "-CONT");
    let ((code, low, took), mut client) = waiting.join().unwrap();
    assert_eq!((code, low), (0, 6));
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert_eq!(start(&cluster, 3), 6);

    // One that is gone is not.
    signal(pid, "-STOP");
    let waiting = std::thread::spawn(move || delete(&mut client, -1, SOON));
    std::thread::sleep(Duration::from_millis(500));
    cluster.node(3).kill_9();
    let (code, low, took) = waiting.join().unwrap();
    assert_eq!((code, low), (0, 10));
    assert!(took < Duration::from_secs(20), "{took:?}");
    cluster.node(3).start();
    eventually("it deletes when it is back", SOON, || {
        let mut client = Client::try_connect(cluster.nodes[2].port).ok()?;
        let answer = client.try_call(11, &fetch_request("short", 0, 10, Duration::ZERO)).ok()?;
        (answer.responses.first()?.partitions[0].log_start_offset == 10).then_some(())
    });
}
