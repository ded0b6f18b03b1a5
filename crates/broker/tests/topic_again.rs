//! A topic that is deleted, also right after it was changed, and made again: nothing of the first one is left in the second.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{
    batches::Batch,
    client::{eventually, new_topic, text, topic_name},
    processes::{Cluster, SOON},
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteRecordsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest,
    create_partitions_request::CreatePartitionsTopic,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    delete_topics_request::DeleteTopicState,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
};

fn delete(cluster: &Cluster, topic: &str) -> i16 {
    let state = DeleteTopicState::default().with_name(Some(topic_name(topic)));
    let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(20_000);
    cluster.client(cluster.controller()).call(6, &request).responses[0].error_code
}

fn create(cluster: &Cluster, topic: &str) {
    eventually("the topic is made", SOON, || {
        let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(topic, 1, 3)], false);
        (made[0].error_code == 0).then_some(())
    });
    cluster.leaders(topic);
}

/// Directories of a topic's partitions that are not on their way out.
fn directories(cluster: &mut Cluster, topic: &str) -> Vec<String> {
    let mut found = Vec::new();
    for id in 1..=3 {
        for entry in std::fs::read_dir(cluster.node(id).logs()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(&format!("{topic}-")) && !name.ends_with("-delete") {
                found.push(format!("{id}: {name}"));
            }
        }
    }
    found
}

#[test]
fn it_begins_with_nothing() {
    let mut cluster = Cluster::start(3, "log.cleaner.backoff.ms=100");
    create(&cluster, "t");
    let leader = cluster.leaders("t")[0];
    for i in 0..9 {
        cluster.client(leader).produce("t", 0, &Batch::new(1_700_000_000_000 + i).values(&["x"]).build());
    }
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(5);
    let topic = DeleteRecordsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
    let answer = cluster.client(leader).call(2, &DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(20_000));
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    // Its start within a segment stands in a checkpoint, which is read at the next start.
    for id in 1..=3 {
        cluster.node(id).stop();
        cluster.node(id).start();
    }
    cluster.wait();
    cluster.leaders("t");
    assert_eq!(delete(&cluster, "t"), 0);
    create(&cluster, "t");
    let leader = cluster.leaders("t")[0];
    let mut client = cluster.client(leader);
    assert_eq!(client.produce("t", 0, &Batch::new(1_700_000_000_000).values(&["new"]).build()), 0);
    assert_eq!(client.list_offsets(5, "t", 0, -2), (0, 0, -1), "the first offset");
}

#[test]
fn a_change_does_not_take_its_deletion_back() {
    let mut cluster = Cluster::start(3, "");
    for round in 0..6 {
        create(&cluster, "short");
        let mut client = cluster.client(cluster.controller());
        let set = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("100000")));
        let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("short")).with_configs(vec![set]);
        client.send(1, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource])).unwrap();
        let more = CreatePartitionsTopic::default().with_name(topic_name("short")).with_count(3);
        client.send(3, &CreatePartitionsRequest::default().with_topics(vec![more]).with_timeout_ms(20_000)).unwrap();
        std::thread::sleep(Duration::from_millis(round * 5));
        assert_eq!(delete(&cluster, "short"), 0, "round {round}");
        eventually("nothing is left of it", SOON, || {
            let known =
                |id| cluster.client(id).metadata(None, false).topics.iter().any(|t| t.name.as_ref().is_some_and(|n| n.as_str() == "short"));
            (![1, 2, 3].into_iter().any(known)).then_some(())
        });
        eventually("no directory stays", SOON, || directories(&mut cluster, "short").is_empty().then_some(()));
    }
}
