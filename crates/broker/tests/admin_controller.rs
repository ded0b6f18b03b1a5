//! What an administrator asks the controller for: elections and reassignments; and what is known of producers.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{
    batches::Batch,
    client::{Client, eventually, new_topic, topic_name},
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionReassignmentsRequest, DescribeProducersRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        describe_producers_request::TopicRequest,
        elect_leaders_request::TopicPartitions,
    },
};

/// Leader, replicas and ISR of a partition, as a broker knows them.
fn partition(client: &mut Client, topic: &str, number: i32) -> (i32, Vec<i32>, Vec<i32>) {
    let answer = client.metadata(Some(&[topic]), false);
    let p = answer.topics[0].partitions.iter().find(|p| p.partition_index == number).unwrap();
    let ids = |list: &[kafka_protocol::messages::BrokerId]| list.iter().map(|b| b.0).collect::<Vec<_>>();
    (p.leader_id.0, ids(&p.replica_nodes), ids(&p.isr_nodes))
}

fn create_replicated(cluster: &Cluster, topic: &str, partitions: i32, factor: i16) {
    eventually("the controller makes a topic", SOON, || {
        let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(topic, partitions, factor)], false);
        (made[0].error_code == 0).then_some(())
    });
    cluster.leaders(topic);
}

fn elect(client: &mut Client, version: i16, kind: i8, topic: Option<(&str, &[i32])>) -> (i16, Vec<(i32, i16)>) {
    let topics = topic.map(|(t, p)| vec![TopicPartitions::default().with_topic(topic_name(t)).with_partitions(p.to_vec())]);
    let request = ElectLeadersRequest::default().with_topic_partitions(topics).with_timeout_ms(20_000);
    let answer = client.call(version, &if version >= 1 { request.with_election_type(kind) } else { request });
    let parts = answer.replica_election_results.iter().flat_map(|t| &t.partition_result);
    (answer.error_code, parts.map(|p| (p.partition_id, p.error_code)).collect())
}

#[test]
fn the_first_replica_leads_again_when_that_is_asked_for() {
    let mut cluster = Cluster::start(3, "auto.leader.rebalance.enable=false");
    create_replicated(&cluster, "t", 3, 3);
    let first = |cluster: &Cluster| -> Vec<i32> {
        let mut client = cluster.client(cluster.controller());
        (0..3).map(|p| partition(&mut client, "t", p).1[0]).collect()
    };
    let preferred = first(&cluster);
    assert_eq!(cluster.leaders("t"), preferred);
    // One that is not the controller leaves and comes back: others lead in its place.
    let away = (1..=3).find(|id| *id != cluster.controller()).unwrap();
    cluster.node(away).kill_9();
    let controller = cluster.controller();
    eventually("others lead", SOON, || {
        let mut client = cluster.client(controller);
        (0..3).all(|p| ![away, -1].contains(&partition(&mut client, "t", p).0)).then_some(())
    });
    let of_away = preferred.iter().position(|l| *l == away).unwrap() as i32;
    assert_eq!(
        elect(&mut cluster.client(controller), 2, 0, Some(("t", &[of_away]))),
        (0, vec![(of_away, ResponseError::PreferredLeaderNotAvailable.code())])
    );
    cluster.node(away).start();
    cluster.wait();
    eventually("it is in sync again", SOON, || {
        let mut client = cluster.client(cluster.controller());
        (0..3).all(|p| partition(&mut client, "t", p).2.len() == 3).then_some(())
    });
    let controller = cluster.controller();
    let mut client = cluster.client(controller);
    let other = (of_away + 1) % 3;
    let not_needed = ResponseError::ElectionNotNeeded.code();
    let mut want = vec![(of_away, 0), (other, not_needed), (9, ResponseError::UnknownTopicOrPartition.code())];
    want.sort_unstable();
    assert_eq!(elect(&mut client, 2, 0, Some(("t", &[of_away, other, 9]))), (0, want));
    assert_eq!(partition(&mut client, "t", of_away).0, away, "known when it is answered");
    assert_eq!(elect(&mut client, 2, 0, None), (0, vec![]), "nothing is left to be done");
    assert_eq!(elect(&mut client, 0, 0, Some(("t", &[0]))), (0, vec![(0, not_needed)]));
    assert_eq!(elect(&mut client, 1, 1, Some(("t", &[0]))), (0, vec![(0, not_needed)]));
    assert_eq!(elect(&mut client, 1, 7, Some(("t", &[0]))).0, ResponseError::InvalidRequest.code());
    let mut other = cluster.client((1..=3).find(|id| *id != controller).unwrap());
    let not_controller = ResponseError::NotController.code();
    assert_eq!(elect(&mut other, 2, 0, Some(("t", &[0]))), (not_controller, vec![(0, not_controller)]));
    assert_eq!(cluster.leaders("t"), preferred);
}

fn reassign(client: &mut Client, topic: &str, number: i32, target: Option<&[i32]>) -> (i16, i16) {
    let ids = target.map(|t| t.iter().map(|id| (*id).into()).collect());
    let p = ReassignablePartition::default().with_partition_index(number).with_replicas(ids);
    let t = ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![p]);
    let answer = client.call(0, &AlterPartitionReassignmentsRequest::default().with_topics(vec![t]).with_timeout_ms(20_000));
    (answer.error_code, answer.responses.first().map_or(0, |t| t.partitions[0].error_code))
}

#[test]
fn a_partition_moves_with_what_is_in_it() {
    let cluster = Cluster::start(3, "");
    create_replicated(&cluster, "t", 1, 1);
    let controller = cluster.controller();
    let mut client = cluster.client(controller);
    let (from, ..) = partition(&mut client, "t", 0);
    let to: Vec<i32> = (1..=3).filter(|id| *id != from).collect();
    let records: Vec<String> = (0..50).map(|i| format!("record {i}")).collect();
    for r in &records {
        cluster.client(from).produce("t", 0, &Batch::new(1).values(&[r]).build());
    }
    let before = cluster.client(from).fetch("t", 0, 0);
    assert_eq!(reassign(&mut client, "t", 0, Some(&to)), (0, 0));
    eventually("the partition has moved", SOON, || {
        let (leader, replicas, isr) = partition(&mut client, "t", 0);
        (to.contains(&leader) && replicas == to && isr.len() == 2).then_some(())
    });
    let leader = cluster.leaders("t")[0];
    assert_eq!(cluster.client(leader).fetch("t", 0, 0), before);
    let going = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
    assert_eq!((going.error_code, going.topics.len()), (0, 0));
    assert_eq!(reassign(&mut client, "t", 0, None), (0, ResponseError::NoReassignmentInProgress.code()));
    assert_eq!(reassign(&mut client, "t", 0, Some(&[9])), (0, ResponseError::InvalidReplicaAssignment.code()));
    assert_eq!(reassign(&mut client, "nope", 0, Some(&[1])), (0, ResponseError::UnknownTopicOrPartition.code()));
    let mut other = cluster.client((1..=3).find(|id| *id != controller).unwrap());
    assert_eq!(reassign(&mut other, "t", 0, Some(&to)).0, ResponseError::NotController.code());
    let going = other.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
    assert_eq!(going.error_code, ResponseError::NotController.code());
}

#[test]
fn a_reassignment_that_cannot_end_is_listed_and_taken_back() {
    let mut cluster = Cluster::start(3, "");
    create_replicated(&cluster, "t", 1, 1);
    let controller = cluster.controller();
    let mut client = cluster.client(controller);
    let (from, ..) = partition(&mut client, "t", 0);
    let away = (1..=3).find(|id| *id != from && *id != controller).unwrap();
    // It is registered until its session ends; its process does not go on.
    let pid = cluster.node(away).running().id().to_string();
    let signal = |s: &str| assert!(std::process::Command::new("kill").args([s, &pid]).status().unwrap().success());
    signal("-STOP");
    assert_eq!(reassign(&mut client, "t", 0, Some(&[away])), (0, 0));
    let going = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
    let p = &going.topics[0].partitions[0];
    let ids = |list: &[kafka_protocol::messages::BrokerId]| list.iter().map(|b| b.0).collect::<Vec<_>>();
    assert_eq!((p.partition_index, ids(&p.adding_replicas), ids(&p.removing_replicas)), (0, vec![away], vec![from]));
    assert_eq!(reassign(&mut client, "t", 0, None), (0, 0));
    eventually("it is as before", SOON, || {
        let going = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
        (going.topics.is_empty() && partition(&mut client, "t", 0) == (from, vec![from], vec![from])).then_some(())
    });
    signal("-CONT");
}

#[test]
fn producers_are_described_by_the_leader() {
    let cluster = Cluster::start(2, "");
    let leaders = cluster.create("t", 2);
    let batch = Batch::new(5).values(&["a", "b"]).build();
    // Producer 7 in epoch 3, sequences 0 and 1.
    let mut bytes = batch.clone();
    bytes[43..51].copy_from_slice(&7i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&3i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&0i32.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    cluster.client(leaders[0]).produce("t", 0, &bytes);
    let ask = |broker: i32, numbers: &[i32]| {
        let t = TopicRequest::default().with_name(topic_name("t")).with_partition_indexes(numbers.to_vec());
        cluster.client(broker).call(0, &DescribeProducersRequest::default().with_topics(vec![t])).topics.remove(0).partitions
    };
    let parts = ask(leaders[0], &[0, 9]);
    assert_eq!((parts[0].error_code, parts[1].error_code), (0, ResponseError::UnknownTopicOrPartition.code()));
    let p = &parts[0].active_producers[0];
    let got = (p.producer_id.0, p.producer_epoch, p.last_sequence, p.last_timestamp, p.coordinator_epoch, p.current_txn_start_offset);
    assert_eq!((got, parts[0].active_producers.len()), ((7, 3, 1, 5, -1, -1), 1));
    assert_eq!(ask(3 - leaders[0], &[0])[0].error_code, ResponseError::NotLeaderOrFollower.code());
}
