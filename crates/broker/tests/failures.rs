//! Brokers that are killed, come back, leave, or must not start.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    batches::Batch,
    client::{Client, eventually, text, topic_name},
    logs::batches,
    processes::{Cluster, Node, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        FindCoordinatorRequest, OffsetForLeaderEpochRequest,
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    },
};

/// A time that a session which nobody ends lives on for, long enough not to be mistaken for anything else.
const LONG_SESSION: &str = "zookeeper.session.timeout.ms=50000";

fn batch(i: i64) -> Vec<u8> {
    Batch::new(1_700_000_000_000 + i).values(&[&format!("record {i}"), "and another"]).build()
}

/// What is behind base offset and epoch, of batches 0 to n.
fn contents(n: i64) -> Vec<Vec<u8>> {
    (0..n).map(|i| batch(i)[16..].to_vec()).collect()
}

fn kept(client: &mut Client, topic: &str, partition: i32) -> Vec<Vec<u8>> {
    batches(&client.fetch(topic, partition, 0)).into_iter().map(|(_, b)| b[16..].to_vec()).collect()
}

fn coordinator_of(cluster: &Cluster, group: &str) -> i32 {
    eventually("a coordinator of the group", SOON, || {
        let answer = cluster.client(1).call(3, &FindCoordinatorRequest::default().with_key(text(group)));
        (answer.error_code == 0).then_some(answer.node_id.0)
    })
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_the_broker_is_back_at_once() {
    let mut cluster = Cluster::start(3, LONG_SESSION);
    let leaders = cluster.create("kept", 3);
    for (partition, leader) in (0i32..).zip(&leaders) {
        let mut client = cluster.client(*leader);
        (0..150).for_each(|i| assert_eq!(client.produce("kept", partition, &batch(i)), i * 2));
    }
    let coordinator = coordinator_of(&cluster, "the group");
    cluster.leaders("__consumer_offsets");
    let mut client = cluster.client(coordinator);
    (0..50).for_each(|i| assert_eq!(client.commit(8, "the group", "kept", &[(0, i, "a"), (1, i * 2, "b")]), [0, 0]));

    let z = cluster.znodes();
    for id in [coordinator, cluster.controller()] {
        let path = format!("/brokers/ids/{id}");
        let (was_controller, before) = (cluster.controller() == id, z.owner(&path).unwrap());
        let begun = Instant::now();
        cluster.node(id).kill_9();
        assert_eq!(z.owner(&path), Some(before), "its registration is still there");
        cluster.node(id).start();
        cluster.node(id).wait(3);
        assert!(begun.elapsed() < Duration::from_secs(20), "back after {:?}, long before the old session is over", begun.elapsed());
        assert_ne!(z.owner(&path), Some(before), "with a session of its own");
        // It gave up an old controller's place too: somebody holds it, with a session that lives.
        let new = eventually("there is a controller", SOON, || z.owner("/controller"));
        assert_ne!(new, before);
        assert!(!was_controller || z.data("/controller_epoch").unwrap().0 != b"1");
        cluster.leaders("kept");
    }
    let mut client = cluster.client(coordinator);
    eventually("the offsets are there", SOON, || (client.committed(7, "the group", "kept", 0).0 == 0).then_some(()));
    assert_eq!(client.committed(7, "the group", "kept", 0), (0, 49, "a".into()));
    assert_eq!(client.committed(7, "the group", "kept", 1), (0, 98, "b".into()));

    // All at once, and without time to write anything down.
    cluster.nodes.iter_mut().for_each(Node::kill_9);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.wait();
    assert_eq!(cluster.leaders("kept"), leaders);
    for (partition, leader) in (0i32..).zip(&leaders) {
        let mut client = cluster.client(*leader);
        assert_eq!(kept(&mut client, "kept", partition), contents(150));
        assert_eq!(client.list_offsets(7, "kept", partition, 1_700_000_000_100), (0, 200, 1_700_000_000_100));
        assert_eq!(client.produce("kept", partition, &batch(150)), 300, "and it goes on");
    }
    let mut client = cluster.client(coordinator);
    assert_eq!(client.committed(7, "the group", "kept", 1), (0, 98, "b".into()));
    let controller = cluster.controller();
    let made = cluster.client(controller).create_topics(vec![common::client::new_topic("new", 3, 1)], false);
    assert_eq!(made[0].error_code, 0, "the controller works: {:?}", made[0].error_message);
}

#[test]
fn another_broker_takes_over_as_controller_and_a_dead_leader_is_known() {
    let mut cluster = Cluster::start(3, "zookeeper.session.timeout.ms=5000");
    let leaders = cluster.create("orders", 3);
    let dead = cluster.controller();
    let partition = leaders.iter().position(|l| *l == dead).unwrap() as i32;
    assert_eq!(cluster.client(dead).produce("orders", partition, &batch(0)), 0);
    cluster.node(dead).kill_9();
    cluster.wait();
    eventually("all know another controller", SOON, || {
        let said: Vec<i32> =
            cluster.nodes.iter().filter(|n| n.id != dead).map(|n| n.client().metadata(Some(&[]), false).controller_id.0).collect();
        (said[0] == said[1] && said[0] != dead).then_some(())
    });
    let unavailable = ResponseError::LeaderNotAvailable.code();
    let other = cluster.controller();
    eventually("the partition has no leader", SOON, || {
        let topic = cluster.client(other).metadata(Some(&["orders"]), false).topics.remove(0);
        let p = topic.partitions.iter().find(|p| p.partition_index == partition).unwrap();
        (p.error_code == unavailable && p.leader_id.0 == -1 && p.offline_replicas.len() == 1 && p.isr_nodes.len() == 1).then_some(())
    });
    let z = cluster.znodes();
    let state = z.json(&format!("/brokers/topics/orders/partitions/{partition}/state"));
    assert_eq!((&state["leader"], &state["isr"]), (&(-1).into(), &vec![dead].into()), "unclean election is off");
    assert!(state["leader_epoch"].as_i64() >= Some(1), "{state}");
    assert_ne!(z.data("/controller_epoch").unwrap().0, b"1");
    // A new topic goes to those who live.
    assert!(cluster.create("later", 4).iter().all(|l| *l != dead));

    cluster.node(dead).start();
    cluster.wait();
    assert_eq!(cluster.leaders("orders"), leaders);
    let mut client = cluster.client(dead);
    assert_eq!(kept(&mut client, "orders", partition), contents(1));
    assert_eq!(client.produce("orders", partition, &batch(1)), 2);
    let epochs: Vec<i32> = batches(&client.fetch("orders", partition, 0)).iter().map(|(h, _)| h.leader_epoch).collect();
    assert!(epochs.len() == 2 && epochs[0] == 0 && epochs[1] >= 2, "none, then itself again, two terms later: {epochs:?}");
    // Where each term ended.
    for version in 2..=4 {
        let mut end_of = |epoch: i32, current: i32| {
            let p =
                OffsetForLeaderPartition::default().with_partition(partition).with_leader_epoch(epoch).with_current_leader_epoch(current);
            let t = OffsetForLeaderTopic::default().with_topic(topic_name("orders")).with_partitions(vec![p]);
            let answer = client.call(version, &OffsetForLeaderEpochRequest::default().with_topics(vec![t]));
            let p = &answer.topics[0].partitions[0];
            (p.error_code, p.leader_epoch, p.end_offset)
        };
        assert_eq!((end_of(0, -1), end_of(1, -1)), ((0, 0, 2), (0, 0, 2)));
        assert_eq!(end_of(epochs[1], epochs[1]), (0, epochs[1], 4));
        assert_eq!(end_of(epochs[1] + 1, -1), (0, -1, -1));
        assert_eq!(end_of(0, 0).0, ResponseError::FencedLeaderEpoch.code());
    }
}

#[test]
fn who_is_told_to_stop_leaves_the_cluster_first() {
    let mut cluster = Cluster::start(2, LONG_SESSION);
    let leaders = cluster.create("t", 2);
    assert_eq!(cluster.client(2).produce("t", leaders.iter().position(|l| *l == 2).unwrap() as i32, &batch(0)), 0);
    let node = cluster.node(2);
    let status = node.running().terminate();
    let said = node.process.take().unwrap().said();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopping"), "{said}");
    let z = cluster.znodes();
    eventually("its registration is gone, long before its session's time is up", Duration::from_secs(20), || {
        z.owner("/brokers/ids/2").is_none().then_some(())
    });
    let checkpoint = fs::read_to_string(cluster.node(2).logs().join("recovery-point-offset-checkpoint")).unwrap();
    let partition = leaders.iter().position(|l| *l == 2).unwrap();
    assert_eq!(checkpoint, format!("0\n1\nt {partition} 2\n"), "as Kafka writes it");
    cluster.node(2).start();
    cluster.wait();
    assert_eq!(cluster.leaders("t"), leaders);
}

#[test]
fn a_broker_that_must_not_start_says_why() {
    let mut cluster = Cluster::start(1, LONG_SESSION);
    let root = cluster.dir.path().to_owned();
    let zookeeper = cluster.zookeeper.clone();
    let id = cluster.znodes().json("/cluster/id")["id"].as_str().unwrap().to_owned();
    assert_eq!(
        fs::read_to_string(cluster.node(1).logs().join("meta.properties")).unwrap(),
        format!("#\nversion=0\nbroker.id=1\ncluster.id={id}\n")
    );
    let before = cluster.znodes().owner("/brokers/ids/1");
    // Ends with 1 and a sentence. Its own session is short, so that it does not wait for long.
    let refused = |name: &str, id: i32, prepare: &dyn Fn(&mut Node), sentence: &str| {
        let mut node = Node::new(&root, name, id, &zookeeper, "zookeeper.session.timeout.ms=500");
        prepare(&mut node);
        node.start();
        let status = node.running().exit(SOON);
        let said = node.running().said();
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        assert!(said.lines().last().is_some_and(|l| l.starts_with("septet-broker: ") && l.contains(sentence)), "{name}: {said}");
    };
    let meta = |text: &'static str| {
        move |n: &mut Node| {
            fs::create_dir_all(n.logs()).unwrap();
            fs::write(n.logs().join("meta.properties"), text).unwrap();
        }
    };
    refused("same-number", 1, &|_| {}, "broker.id 1 is registered by another broker");
    refused("other-cluster", 2, &meta("version=0\nbroker.id=2\ncluster.id=another\n"), "belongs to cluster another, the coordinator says ");
    refused("other-number", 2, &meta("version=0\nbroker.id=7\n"), "belongs to broker 7, this one is 2");
    let taken = cluster.node(1).logs();
    let port = cluster.node(1).port;
    let edit = |from: String, to: String| {
        move |n: &mut Node| {
            let file = n.dir.join("server.properties");
            let text = fs::read_to_string(&file).unwrap();
            let from = from.replace("{port}", &n.port.to_string()).replace("{logs}", n.logs().to_str().unwrap());
            assert!(text.contains(&from));
            fs::write(file, text.replace(&from, &to)).unwrap();
        }
    };
    refused(
        "same-directory",
        2,
        &edit("log.dirs={logs}".into(), format!("log.dirs={}", taken.display())),
        "another broker uses this directory",
    );
    refused("same-port", 2, &edit("127.0.0.1:{port}".into(), format!("127.0.0.1:{port}")), "cannot listen on PLAINTEXT://127.0.0.1:");
    // The one that runs has not noticed.
    cluster.wait();
    assert_eq!(cluster.znodes().owner("/brokers/ids/1"), before);
    assert_eq!(cluster.znodes().children("/brokers/ids"), ["1"]);
}

#[test]
fn a_chroot_and_a_coordinator_that_lost_everything() {
    let cluster = Cluster::start(0, "");
    let root = format!("{}/kafka/east", cluster.zookeeper);
    let mut node = Node::new(cluster.dir.path(), "chroot", 5, &root, LONG_SESSION);
    node.start();
    node.wait(1);
    let z = cluster.znodes();
    assert_eq!(z.children("/kafka/east/brokers/ids"), ["5"]);
    let id = node.client().metadata(Some(&[]), false).cluster_id.unwrap().to_string();
    node.running().terminate();
    node.process = None;
    // An empty coordinator takes the cluster's id from the directory of the first broker that comes.
    let empty = Cluster::start(0, "");
    let file = node.dir.join("server.properties");
    let text = fs::read_to_string(&file).unwrap().replace(&root, &empty.zookeeper);
    fs::write(&file, text).unwrap();
    node.start();
    node.wait(1);
    assert_eq!(empty.znodes().json("/cluster/id")["id"], *id);
}
