//! `metrics.port`: what Prometheus gets.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{
    client::eventually,
    metrics::{scrape, value},
    processes::{Cluster, SOON, free_port},
};

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
