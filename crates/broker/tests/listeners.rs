//! Listeners at run time, by `kafka-configs.sh`: opened, closed, registered; the one between brokers stays.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::TcpStream;

use common::{
    batches::Batch,
    client::{Client, eventually, new_topic},
    processes::{Cluster, SOON, free_port},
    tools,
};

/// What kafka-configs says, and whether it has succeeded.
fn alter(cluster: &Cluster, entity: &[&str], words: &[&str]) -> (String, bool) {
    let servers = tools::bootstrap(cluster);
    let all = [&["--bootstrap-server", &servers, "--entity-type", "brokers"][..], entity, &["--alter"], words].concat();
    tools::try_run(cluster.dir.path(), &tools::kafka("kafka-configs.sh"), &all)
}

fn endpoints(cluster: &Cluster, id: i32) -> Vec<String> {
    let node = cluster.znodes().json(&format!("/brokers/ids/{id}"));
    node["endpoints"].as_array().unwrap().iter().map(|e| e.as_str().unwrap().to_owned()).collect()
}

/// Port of a broker, as clients of a listener are told.
fn told(port: u16, id: i32) -> Option<i32> {
    let answer = Client::try_connect(port).ok()?.metadata(Some(&[]), false);
    answer.brokers.iter().find(|b| b.node_id.0 == id).map(|b| b.port)
}

#[test]
fn listeners_are_opened_and_closed_while_the_broker_runs() {
    let mut cluster = Cluster::start(2, "min.insync.replicas=2\nreplica.lag.time.max.ms=3000");
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic("t", 4, 2)], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    cluster.leaders("t");
    let (port, other, new) = (cluster.node(1).port, cluster.node(2).port, free_port());
    let before = cluster.znodes().data("/brokers/ids/1").unwrap().1.czxid;
    let list = format!("[PLAINTEXT://127.0.0.1:{port},EXTERNAL://127.0.0.1:{new}]");
    let map = "listener.security.protocol.map=[PLAINTEXT:PLAINTEXT,EXTERNAL:PLAINTEXT]";
    let settings = format!("listeners={list},advertised.listeners={list},{map}");
    let (out, success) = alter(&cluster, &["--entity-name", "1"], &["--add-config", &settings]);
    assert!(success, "{out}");
    eventually("it listens", SOON, || TcpStream::connect(("127.0.0.1", new)).ok());
    let wanted = [format!("PLAINTEXT://127.0.0.1:{port}"), format!("EXTERNAL://127.0.0.1:{new}")];
    eventually("it is registered", SOON, || (endpoints(&cluster, 1) == wanted).then_some(()));
    assert_eq!(cluster.znodes().data("/brokers/ids/1").unwrap().1.czxid, before, "the registration is the same one");
    // Clients are told the address of the listener that they came by.
    eventually("clients are told of it", SOON, || (told(new, 1) == Some(new.into())).then_some(()));
    assert_eq!((told(port, 1), told(other, 1)), (Some(port.into()), Some(port.into())));
    let leaders = cluster.leaders("t");
    let led = leaders.iter().position(|l| *l == 1).unwrap() as i32;
    let mut client = Client::connect(new);
    assert_eq!(client.produce("t", led, &Batch::new(1).values(&["x"]).build()), 0);

    // After a restart it is there from the beginning.
    assert!(cluster.node(1).stop().0.success());
    cluster.node(1).start();
    cluster.node(1).wait(2);
    eventually("it listens again", SOON, || (told(new, 1) == Some(new.into())).then_some(()));
    assert_eq!(endpoints(&cluster, 1), wanted);

    // What cannot be: no listener between brokers, two of one port, settings for all brokers, another protocol.
    let only = format!("listeners=[EXTERNAL://127.0.0.1:{new}],advertised.listeners=[EXTERNAL://127.0.0.1:{new}]");
    let twice = format!("listeners=[PLAINTEXT://127.0.0.1:{port},SECOND://127.0.0.1:{port}]");
    for (entity, settings, why) in [
        (&["--entity-name", "1"][..], only.as_str(), "inter-broker listener"),
        (&["--entity-name", "1"], &twice, "must be given once"),
        (&["--entity-default"], &settings, "default cluster level"),
        (&["--entity-name", "1"], "listener.security.protocol.map=[PLAINTEXT:PLAINTEXT,EXTERNAL:SSL]", "only PLAINTEXT is supported"),
    ] {
        let (out, _) = alter(&cluster, entity, &["--add-config", settings]);
        assert!(out.contains(why), "{settings}: {out}");
    }
    assert_eq!(endpoints(&cluster, 1), wanted);

    // Without it, its connections end, and the others go on.
    let (mut there, mut gone) = (Client::connect(port), Client::connect(new));
    assert!(!there.metadata(Some(&[]), false).brokers.is_empty() && !gone.metadata(Some(&[]), false).brokers.is_empty());
    let keys = "listeners,advertised.listeners,listener.security.protocol.map";
    let (out, success) = alter(&cluster, &["--entity-name", "1"], &["--delete-config", keys]);
    assert!(success, "{out}");
    eventually("it is not registered", SOON, || (endpoints(&cluster, 1) == wanted[..1]).then_some(()));
    assert!(gone.is_closed());
    eventually("nothing listens there", SOON, || TcpStream::connect(("127.0.0.1", new)).is_err().then_some(()));
    assert!(!there.metadata(Some(&[]), false).brokers.is_empty());
    eventually("all replicas are in sync", SOON, || {
        let answer = there.metadata(Some(&["t"]), false);
        answer.topics[0].partitions.iter().all(|p| p.isr_nodes.len() == 2 && p.leader_id.0 > 0).then_some(())
    });
}
