//! `metrics.port`: what Prometheus gets.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use common::{
    client::eventually,
    processes::{Cluster, SOON, free_port},
};

fn scrape(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    Some(body.to_owned())
}

#[test]
fn a_broker_is_measured_under_the_names_of_kafkas() {
    let port = free_port();
    let cluster = Cluster::start(1, &format!("metrics.port={port}"));
    cluster.create("measured", 3);
    let value = |name: &str| {
        let text = scrape(port)?;
        text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")).map(|v| v.parse::<f64>().unwrap()))
    };
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
        eventually(&format!("{name} is {want}"), SOON, || (value(name) == Some(want)).then_some(()));
    }
    assert!(value("process_resident_memory_bytes").unwrap() > 1e6);
    assert!(scrape(port).unwrap().contains("\nseptet_build_info{program=\"septet-broker\",version=\""));
}
