//! `metrics.port`: what Prometheus gets.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{
    batches::Batch,
    client::{eventually, new_topic, topic_name},
    ensemble::signal,
    metrics::{scrape, value},
    processes::{Cluster, SOON, free_port},
};
use kafka_protocol::messages::{DeleteTopicsRequest, create_topics_request::CreatableReplicaAssignment};

#[test]
fn a_broker_is_measured_under_the_names_of_kafkas() {
    let port = free_port();
    let cluster = Cluster::start(1, &format!("metrics.port={port}"));
    cluster.create("measured", 3);
    for (name, want) in [
        ("kafka_server_replicamanager_partitioncount", 3.0),
        ("kafka_server_replicamanager_leadercount", 3.0),
        ("kafka_server_replicamanager_underreplicatedpartitions", 0.0),
        ("kafka_controller_kafkacontroller_activecontrollercount", 1.0),
        ("kafka_controller_kafkacontroller_activebrokercount", 1.0),
        ("kafka_controller_kafkacontroller_globaltopiccount", 1.0),
        ("kafka_controller_kafkacontroller_globalpartitioncount", 3.0),
        ("kafka_controller_kafkacontroller_offlinepartitionscount", 0.0),
    ] {
        eventually(&format!("{name} is {want}"), SOON, || (value(port, name) == Some(want)).then_some(()));
    }
    assert!(value(port, "process_resident_memory_bytes").unwrap() > 1e6);
    assert!(scrape(port).unwrap().contains("\nseptet_build_info{program=\"septet-broker\",version=\""));
}

#[test]
fn traffic_requests_and_logs_are_measured() {
    let port = free_port();
    let cluster = Cluster::start(1, &format!("metrics.port={port}"));
    cluster.create("measured", 2);
    let mut client = cluster.client(1);
    let batch = Batch::new(1_700_000_000_000).values(&["one", "two", "three"]).build();
    for _ in 0..4 {
        client.produce("measured", 1, &batch);
    }
    assert_eq!(client.fetch("measured", 1, 0).len(), 4 * batch.len());
    let bytes = (4 * batch.len()) as f64;
    for (name, want) in [
        ("kafka_server_brokertopicmetrics_bytesin_total{topic=\"measured\"}", bytes),
        ("kafka_server_brokertopicmetrics_bytesin_total", bytes),
        ("kafka_server_brokertopicmetrics_bytesout_total{topic=\"measured\"}", bytes),
        ("kafka_server_brokertopicmetrics_messagesin_total{topic=\"measured\"}", 12.0),
        ("kafka_network_requestmetrics_requests_total{request=\"Produce\",version=\"9\"}", 4.0),
        ("kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"}", 4.0),
        ("kafka_log_log_size{partition=\"1\",topic=\"measured\"}", bytes),
        ("kafka_log_log_numlogsegments{partition=\"1\",topic=\"measured\"}", 1.0),
        ("kafka_log_log_logstartoffset{partition=\"1\",topic=\"measured\"}", 0.0),
        ("kafka_log_log_logendoffset{partition=\"1\",topic=\"measured\"}", 12.0),
        ("kafka_log_log_logendoffset{partition=\"0\",topic=\"measured\"}", 0.0),
        ("kafka_log_logmanager_offlinelogdirectorycount", 0.0),
        ("kafka_server_replicamanager_isrshrinks_total", 0.0),
        ("kafka_controller_controllerstats_uncleanleaderelections_total", 0.0),
    ] {
        assert_eq!(value(port, name), Some(want), "{name}");
    }
    // A topic that is deleted is not named any more.
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("measured")]).with_timeout_ms(10_000);
    assert_eq!(client.call(4, &delete).responses[0].error_code, 0);
    eventually("it is forgotten", SOON, || (!scrape(port)?.contains("\"measured\"")).then_some(()));
    assert_eq!(value(port, "kafka_server_brokertopicmetrics_bytesin_total"), Some(bytes));
}

/// Of the broker that leads, and of the controller.
#[test]
fn changes_of_the_isr_and_elections_are_measured() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let settings = |id: i32| format!("metrics.port={}\nreplica.lag.time.max.ms=1500", ports[id as usize - 1]);
    let mut cluster = Cluster::start_each(3, settings, None);
    let assignment = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(vec![1.into(), 2.into(), 3.into()]);
    let made =
        cluster.client(cluster.controller()).create_topics(vec![new_topic("moving", -1, -1).with_assignments(vec![assignment])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    cluster.leaders("moving");
    let of = |id: i32, name: &str| value(ports[id as usize - 1], name);
    let batch = Batch::new(1_700_000_000_000).values(&["one"]).build();
    cluster.client(1).produce("moving", 0, &batch);
    let replicated = "kafka_server_brokertopicmetrics_replicationbytes";
    eventually("what was fetched is counted", SOON, || (of(2, &format!("{replicated}in_total"))? >= batch.len() as f64).then_some(()));
    assert!(of(1, &format!("{replicated}out_total")).unwrap() >= 2.0 * batch.len() as f64);
    // The follower is not the controller, so that the ISR shrinks by its leader's proposal.
    let controller = cluster.controller();
    let follower = if controller == 3 { 2 } else { 3 };
    let pid = cluster.node(follower).running().id();
    // On a machine that is busy a replica may have been late, and back, before.
    let changes = |name: &str| of(1, &format!("kafka_server_replicamanager_{name}_total")).unwrap_or_default();
    let shrunk = changes("isrshrinks");
    signal(pid, "-STOP");
    cluster.client(1).produce("moving", 0, &batch);
    eventually("the ISR has shrunk", SOON, || (changes("isrshrinks") > shrunk).then_some(()));
    let grown = changes("isrexpands");
    signal(pid, "-CONT");
    eventually("the ISR has grown", SOON, || (changes("isrexpands") > grown).then_some(()));
    let elections = "kafka_controller_controllerstats_leaderelectionrateandtimems_count";
    // On a busy machine another may lead by now. The leader is killed: one that is stopped may be the controller that moves its own
    // leaderships away, and takes that count with it.
    let leader = cluster.leaders("moving")[0];
    let counted = || (1..=3).filter(|id| *id != leader).filter_map(|id| of(id, elections)).sum::<f64>();
    let before = counted();
    cluster.node(leader).kill_9();
    eventually("an election is counted", SOON, || (counted() > before).then_some(()));
}
