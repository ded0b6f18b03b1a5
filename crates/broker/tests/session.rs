//! A broker's session with the coordinator outlives its connections.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{thread, time::Duration};

use common::{
    batches::GOLDEN,
    client::{eventually, produce_request},
    processes::{Cluster, Node, SOON},
    proxy::Proxy,
};

#[test]
fn a_lost_connection_ends_neither_session_nor_leadership() {
    let mut cluster = Cluster::start(1, "zookeeper.session.timeout.ms=30000");
    let proxy = Proxy::new(&cluster.zookeeper);
    let mut node = Node::new(cluster.dir.path(), "behind", 2, &proxy.address, "zookeeper.session.timeout.ms=30000");
    node.start();
    node.wait(2);
    cluster.nodes.push(node);
    cluster.wait();
    let leaders = cluster.create("t", 2);
    let mine = leaders.iter().position(|l| *l == 2).unwrap() as i32;
    let z = cluster.znodes();
    let path = "/brokers/ids/2";
    let (owner, version) = z.data(path).map(|(_, s)| (s.ephemeral_owner, s.czxid)).unwrap();
    let epoch = z.json(&format!("/brokers/topics/t/partitions/{mine}/state"))["leader_epoch"].clone();
    for _ in 0..3 {
        proxy.hold(true);
        thread::sleep(Duration::from_millis(5500));
        proxy.cut();
        proxy.hold(false);
        // What happens from now on is noticed: watches are there again.
        thread::sleep(Duration::from_millis(500));
    }
    cluster.create("later", 4);
    cluster.wait();
    assert_eq!(
        z.data(path).map(|(_, s)| (s.ephemeral_owner, s.czxid)),
        Some((owner, version)),
        "the same registration of the same session"
    );
    assert_eq!(z.json(&format!("/brokers/topics/t/partitions/{mine}/state"))["leader_epoch"], epoch, "nobody else led in between");
    assert_eq!(cluster.client(2).produce("t", mine, &GOLDEN), 0);
}

#[test]
fn a_controller_that_loses_its_connection_goes_on() {
    let cluster = Cluster::start(0, "");
    let proxy = Proxy::new(&cluster.zookeeper);
    let mut node = Node::new(cluster.dir.path(), "behind", 1, &proxy.address, "zookeeper.session.timeout.ms=30000");
    node.start();
    node.wait(1);
    let z = cluster.znodes();
    let owner = z.owner("/controller");
    for i in 0..6 {
        proxy.hold(true);
        thread::sleep(Duration::from_millis(100));
        // A topic is asked for while nothing gets through; at some moment or other the connection ends.
        let port = node.port;
        let name = format!("topic-{i}");
        let asked = thread::spawn({
            let name = name.clone();
            move || common::client::Client::connect(port).metadata(Some(&[&name]), true)
        });
        proxy.hold(false);
        thread::sleep(Duration::from_millis(3 * i));
        proxy.cut();
        drop(asked.join());
        eventually("the topic has leaders", SOON, || {
            let topic = node.client().metadata(Some(&[&name]), true).topics.remove(0);
            (topic.partitions.len() == 3 && topic.partitions.iter().all(|p| p.leader_id.0 == 1)).then_some(())
        });
    }
    assert_eq!(z.owner("/controller"), owner);
    assert_eq!(z.data("/controller_epoch").unwrap().0, b"1");
    node.running().terminate();
}

#[test]
fn records_that_nobody_waits_for_and_nobody_takes_end_the_connection() {
    let cluster = Cluster::start(2, "");
    let leaders = cluster.create("t", 2);
    let mine = leaders.iter().position(|l| *l == 1).unwrap() as i32;
    let other = 1 - mine;
    let mut client = cluster.client(1);
    client.send(9, &produce_request("t", mine, &GOLDEN, 0)).unwrap();
    assert_eq!(client.produce("t", mine, &GOLDEN), 3, "those that are taken are answered by nothing");
    let mut flipped = GOLDEN;
    flipped[80] ^= 1;
    for (what, request) in [
        ("another broker leads", produce_request("t", other, &GOLDEN, 0)),
        ("there is no such topic", produce_request("nowhere", 0, &GOLDEN, 0)),
        ("damaged", produce_request("t", mine, &flipped, 0)),
    ] {
        let mut client = cluster.client(1);
        client.send(9, &request).unwrap();
        assert!(client.is_closed(), "{what}");
    }
    assert_eq!(client.produce("t", mine, &GOLDEN), 6);
}
