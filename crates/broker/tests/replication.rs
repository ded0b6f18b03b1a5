//! Replicas on several brokers: what is acknowledged by all in-sync replicas outlives any one of them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{
    batches::Batch,
    client::{Client, eventually, new_topic, produce_request, text},
    logs::batches,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{ProduceRequest, create_topics_request::CreatableTopicConfig},
};

const QUICK: &str = "replica.lag.time.max.ms=1500\nzookeeper.session.timeout.ms=6000\nmin.insync.replicas=2";

fn batch(i: i64) -> Vec<u8> {
    Batch::new(1_700_000_000_000 + i).values(&[&format!("record {i}")]).build()
}

fn values(bytes: &[u8]) -> Vec<Vec<u8>> {
    batches(bytes).into_iter().map(|(_, b)| b[16..].to_vec()).collect()
}

fn wanted(range: std::ops::Range<i64>) -> Vec<Vec<u8>> {
    range.map(|i| batch(i)[16..].to_vec()).collect()
}

fn replicated(cluster: &Cluster, topic: &str, partitions: i32) {
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(topic, partitions, 3)], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    eventually("every broker knows it", SOON, || {
        let known = |id: i32| (0..partitions).all(|p| state(cluster, id, topic, p).is_some_and(|(_, isr)| isr.len() == 3));
        (1..=3).all(known).then_some(())
    });
}

/// Leader and ISR of a partition, by any broker that lives.
fn state(cluster: &Cluster, ask: i32, topic: &str, partition: i32) -> Option<(i32, Vec<i32>)> {
    let answer = cluster.client(ask).metadata(Some(&[topic]), false);
    let topic = answer.topics.first()?;
    let p = topic.partitions.iter().find(|p| p.partition_index == partition)?;
    let mut isr: Vec<i32> = p.isr_nodes.iter().map(|b| b.0).collect();
    isr.sort_unstable();
    Some((p.leader_id.0, isr))
}

fn all(request: ProduceRequest) -> ProduceRequest {
    request.with_timeout_ms(15_000)
}

fn produce_all(client: &mut Client, topic: &str, partition: i32, i: i64) -> (i16, i64) {
    let answer = client.call(9, &all(produce_request(topic, partition, &batch(i), -1)));
    let p = &answer.responses[0].partition_responses[0];
    (p.error_code, p.base_offset)
}

#[test]
fn a_leader_is_killed_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3, QUICK);
    replicated(&cluster, "safe", 1);
    let (leader, isr) = state(&cluster, 1, "safe", 0).unwrap();
    assert_eq!(isr, [1, 2, 3]);
    let mut client = cluster.client(leader);
    for i in 0..50 {
        assert_eq!(produce_all(&mut client, "safe", 0, i), (0, i));
    }
    assert_eq!(values(&client.fetch("safe", 0, 0)), wanted(0..50));
    let begun = Instant::now();
    cluster.node(leader).kill_9();
    let ask = if leader == 1 { 2 } else { 1 };
    let (second, _) = eventually("another leader", SOON, || state(&cluster, ask, "safe", 0).filter(|(l, _)| *l != leader && *l > 0));
    println!("another leader after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut client = cluster.client(second);
    // What was acknowledged is there, and shown as soon as the new leader knows that it is committed.
    eventually("all records", SOON, || (values(&client.fetch("safe", 0, 0)) == wanted(0..50)).then_some(()));
    for i in 50..80 {
        assert_eq!(produce_all(&mut client, "safe", 0, i), (0, i));
    }
    cluster.node(leader).start();
    eventually("all replicas in sync again", SOON, || state(&cluster, ask, "safe", 0).filter(|(_, isr)| isr.len() == 3));
    for i in 80..100 {
        assert_eq!(produce_all(&mut client, "safe", 0, i), (0, i));
    }
    // The files of all replicas are the same, byte for byte.
    let file = |cluster: &mut Cluster, id: i32| {
        let node = cluster.node(id);
        std::fs::read(node.logs().join("safe-0/00000000000000000000.log")).unwrap()
    };
    let first = file(&mut cluster, 1);
    assert_eq!(values(&first), wanted(0..100));
    assert_eq!([file(&mut cluster, 2), file(&mut cluster, 3)], [first.clone(), first]);
}

#[test]
fn too_few_in_sync_replicas_refuse_and_a_follower_that_stands_still_leaves() {
    let mut cluster = Cluster::start(3, QUICK);
    replicated(&cluster, "few", 1);
    let (leader, _) = state(&cluster, 1, "few", 0).unwrap();
    let mut client = cluster.client(leader);
    assert_eq!(produce_all(&mut client, "few", 0, 0), (0, 0));
    // The controller is not the one that stands still: an ISR shrinks by its decision.
    let controller = cluster.controller();
    let mut followers: Vec<i32> = (1..=3).filter(|id| *id != leader).collect();
    followers.sort_by_key(|id| *id == controller);
    let pause = |cluster: &mut Cluster, id: i32, signal: &str| {
        let pid = cluster.node(id).running().id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    // One follower stands still: the record waits until it has left the ISR.
    pause(&mut cluster, followers[0], "-STOP");
    let answer = produce_all(&mut client, "few", 0, 1);
    assert_eq!(answer, (0, 1));
    let (_, isr) = eventually("the ISR has shrunk", SOON, || state(&cluster, leader, "few", 0).filter(|(_, isr)| isr.len() == 2));
    assert!(!isr.contains(&followers[0]));
    // Both: no more than the leader is in sync.
    cluster.node(followers[1]).kill_9();
    eventually("the leader is alone", SOON, || {
        let (code, _) = produce_all(&mut client, "few", 0, 2);
        (code == ResponseError::NotEnoughReplicas.code()).then_some(())
    });
    pause(&mut cluster, followers[0], "-CONT");
    cluster.node(followers[1]).start();
    eventually("all are in sync", SOON, || state(&cluster, leader, "few", 0).filter(|(_, isr)| isr.len() == 3));
    let (code, _) = produce_all(&mut client, "few", 0, 3);
    assert_eq!(code, 0);
}

/// A broker that is stopped hands its leaderships over before it goes: no request of a client fails for longer than a moment.
#[test]
fn a_controlled_stop_moves_leaders_first() {
    let mut cluster = Cluster::start(3, QUICK);
    replicated(&cluster, "moved", 6);
    let at = |cluster: &Cluster, ask: i32| -> Vec<i32> { (0..6).filter_map(|p| state(cluster, ask, "moved", p)).map(|(l, _)| l).collect() };
    let before = at(&cluster, 1);
    assert_eq!(before.iter().filter(|l| **l == 2).count(), 2, "{before:?}");
    let (status, said) = cluster.node(2).stop();
    assert!(status.success() && said.contains("leaderships are handed over"), "{status} {said}");
    let after = at(&cluster, 1);
    assert!(after.iter().all(|l| [1, 3].contains(l)), "{after:?}");
    cluster.node(2).start();
    eventually("all in sync", SOON, || (0..6).all(|p| state(&cluster, 1, "moved", p).is_some_and(|(_, isr)| isr.len() == 3)).then_some(()));
}

#[test]
fn a_topic_without_replicas_alive_waits_and_unclean_elections_are_a_choice() {
    let mut cluster = Cluster::start(3, "replica.lag.time.max.ms=1500\nzookeeper.session.timeout.ms=6000");
    let unclean = CreatableTopicConfig::default().with_name(text("unclean.leader.election.enable")).with_value(Some(text("true")));
    let assigned = |name: &str| {
        let a = kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids(vec![1.into(), 2.into()]);
        new_topic(name, -1, -1).with_assignments(vec![a])
    };
    let made = cluster
        .client(cluster.controller())
        .create_topics(vec![assigned("strict"), assigned("unclean").with_configs(vec![unclean])], false);
    assert!(made.iter().all(|m| m.error_code == 0), "{made:?}");
    for topic in ["strict", "unclean"] {
        assert_eq!(produce_all(&mut cluster.client(1), topic, 0, 0).0, 0);
    }
    cluster.node(2).kill_9();
    eventually("1 is alone", SOON, || state(&cluster, 3, "strict", 0).filter(|s| *s == (1, vec![1])));
    eventually("1 is alone", SOON, || state(&cluster, 3, "unclean", 0).filter(|s| *s == (1, vec![1])));
    for topic in ["strict", "unclean"] {
        assert_eq!(produce_all(&mut cluster.client(1), topic, 0, 1).0, 0);
    }
    cluster.node(1).kill_9();
    eventually("no leader", SOON, || state(&cluster, 3, "strict", 0).filter(|(l, isr)| *l == -1 && *isr == [1]));
    cluster.node(2).start();
    eventually("an unclean leader", SOON, || state(&cluster, 3, "unclean", 0).filter(|(l, isr)| *l == 2 && *isr == [2]));
    assert_eq!(state(&cluster, 3, "strict", 0), Some((-1, vec![1])));
    cluster.node(1).start();
    eventually("the one that has everything leads", SOON, || state(&cluster, 3, "strict", 0).filter(|(l, isr)| *l == 1 && *isr == [1, 2]));
    eventually("the other has given in", SOON, || state(&cluster, 3, "unclean", 0).filter(|(l, isr)| *l == 2 && *isr == [1, 2]));
    assert_eq!(values(&cluster.client(1).fetch("strict", 0, 0)), wanted(0..2));
}

/// A producer's last record is known to a leader that has it as a follower only, after a restart.
#[test]
fn what_is_sent_again_after_a_failover_is_stored_once() {
    let mut cluster = Cluster::start(3, QUICK);
    let replicas = kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![1.into(), 2.into(), 3.into()]);
    let made = cluster.client(cluster.controller()).create_topics(vec![new_topic("once", -1, -1).with_assignments(vec![replicas])], false);
    assert_eq!(made[0].error_code, 0, "{made:?}");
    let send = |cluster: &Cluster, at: i32, i: i32| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        let batch = Batch::new(now).values(&[&format!("record {i}")]).producer(77, 0, i).build();
        eventually("a record is acknowledged", SOON, || {
            let answer = cluster.client(at).call(9, &all(produce_request("once", 0, &batch, -1)));
            let p = &answer.responses[0].partition_responses[0];
            (p.error_code == 0).then_some(p.base_offset)
        })
    };
    let in_sync = |cluster: &Cluster, ask: i32, n: usize| {
        eventually("replicas in sync", SOON, || state(cluster, ask, "once", 0).filter(|(l, isr)| *l > 0 && isr.len() == n)).0
    };
    assert_eq!(in_sync(&cluster, 1, 3), 1);
    (0..30).for_each(|i| assert_eq!(send(&cluster, 1, i), i64::from(i)));
    assert!(cluster.node(1).stop().0.success());
    assert_eq!(in_sync(&cluster, 3, 2), 2);
    (29..50).for_each(|i| assert_eq!(send(&cluster, 2, i), i64::from(i)));
    cluster.node(1).start();
    cluster.node(1).wait(3);
    in_sync(&cluster, 3, 3);
    assert!(cluster.node(2).stop().0.success());
    assert_eq!(in_sync(&cluster, 3, 2), 1);
    (49..55).for_each(|i| assert_eq!(send(&cluster, 1, i), i64::from(i), "after the failover"));
}
