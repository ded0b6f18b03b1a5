//! A broker from stop to start, and topics to their end: what lies in the log directory, and what clients see.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{
    batches::{Batch, GOLDEN},
    client::{Client, eventually, new_topic, text, topic_name},
    logs::batches,
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteTopicsRequest,
        create_topics_request::CreatableTopicConfig,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
    },
};

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn stop(cluster: &mut Cluster, id: i32) {
    let node = cluster.node(id);
    assert_eq!(node.running().terminate().code(), Some(0));
    node.process = None;
}

/// Makes a topic of one partition with settings. Returns the error of what is refused.
fn create(cluster: &Cluster, topic: &str, settings: &[(&str, &str)]) -> Result<(), (i16, String)> {
    let config = |(k, v): &(&str, &str)| CreatableTopicConfig::default().with_name(text(k)).with_value(Some(text(v)));
    let wanted = new_topic(topic, 1, 1).with_configs(settings.iter().map(config).collect());
    let made = cluster.client(cluster.controller()).create_topics(vec![wanted], false).remove(0);
    if made.error_code != 0 {
        return Err((made.error_code, made.error_message.map(|m| m.to_string()).unwrap_or_default()));
    }
    cluster.leaders(topic);
    Ok(())
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("00000000000000000000.log")
}

#[test]
fn after_a_clean_stop_a_start_reads_no_records() {
    let mut cluster = Cluster::start(1, "log.segment.bytes=1000000");
    cluster.create("t", 1);
    let mut client = cluster.client(1);
    (0..20).for_each(|i| assert_eq!(client.produce("t", 0, &GOLDEN), i * 3));
    stop(&mut cluster, 1);
    let logs = cluster.node(1).logs();
    let read = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
    assert_eq!(read(".kafka_cleanshutdown"), "{\"version\":0,\"brokerEpoch\":-1}");
    assert_eq!(read("recovery-point-offset-checkpoint"), "0\n1\nt 0 60\n");
    assert_eq!(read("replication-offset-checkpoint"), "0\n1\nt 0 60\n");
    assert_eq!(read("log-start-offset-checkpoint"), "0\n0\n");
    assert_eq!(read("cleaner-offset-checkpoint"), "0\n0\n");
    let id = cluster.znodes().json("/brokers/topics/t")["topic_id"].as_str().unwrap().to_owned();
    assert_eq!(read("t-0/partition.metadata"), format!("version: 0\ntopic_id: {id}"));
    assert_eq!(read("t-0/leader-epoch-checkpoint"), "0\n1\n0 0\n");
    // Damage in a record shows whether it is looked at.
    let damage = |logs: &Path, at: u64| {
        let file = fs::File::options().write(true).open(log_file(&logs.join("t-0"))).unwrap();
        file.write_all_at(b"!", at).unwrap();
    };
    damage(&logs, 80);
    cluster.node(1).start();
    cluster.wait();
    let mut client = cluster.client(1);
    assert_eq!(client.list_offsets(7, "t", 0, -1), (0, 60, -1));
    assert!(!logs.join(".kafka_cleanshutdown").exists());
    assert_eq!(client.produce("t", 0, &GOLDEN), 60);
    // After a kill only what is behind the recovery point is looked at.
    let last = fs::metadata(log_file(&logs.join("t-0"))).unwrap().len() - GOLDEN.len() as u64;
    drop(client);
    cluster.node(1).kill_9();
    damage(&logs, last + 80);
    cluster.node(1).start();
    cluster.wait();
    assert_eq!(cluster.client(1).list_offsets(7, "t", 0, -1), (0, 60, -1));
    // Without the checkpoint all of it is.
    cluster.node(1).kill_9();
    fs::remove_file(logs.join("recovery-point-offset-checkpoint")).unwrap();
    cluster.node(1).start();
    cluster.wait();
    assert_eq!(cluster.client(1).list_offsets(7, "t", 0, -1), (0, 0, -1));
}

#[test]
fn checkpoints_are_written_while_a_broker_runs() {
    let cluster = Cluster::start(1, "log.flush.offset.checkpoint.interval.ms=200");
    cluster.create("t", 2);
    cluster.client(1).produce("t", 1, &GOLDEN);
    let file = cluster.nodes[0].logs().join("recovery-point-offset-checkpoint");
    eventually("the recovery point follows", SOON, || (fs::read_to_string(&file).ok()? == "0\n2\nt 0 0\nt 1 3\n").then_some(()));
}

#[test]
fn a_directory_of_another_topic_is_left_alone() {
    let mut cluster = Cluster::start(1, "");
    cluster.create("t", 1);
    cluster.client(1).produce("t", 0, &GOLDEN);
    stop(&mut cluster, 1);
    let file = cluster.node(1).logs().join("t-0/partition.metadata");
    fs::write(&file, "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ").unwrap();
    cluster.node(1).start();
    cluster.wait();
    let answer = cluster.client(1).produce_in(9, "t", 0, &GOLDEN);
    assert_eq!(answer.error_code, ResponseError::NotLeaderOrFollower.code());
    assert!(cluster.node(1).running().said().contains("belongs to topic id AAAAAAAAAAAAAAAAAAAAAQ, not "));
    assert_eq!(fs::read(log_file(file.parent().unwrap())).unwrap().len(), GOLDEN.len());
}

#[test]
fn retention_segments_and_timestamps_go_by_the_topic() {
    let settings = "log.retention.check.interval.ms=200\nlog.retention.hours=1\nlog.segment.delete.delay.ms=0\nlog.segment.bytes=1000000";
    let cluster = Cluster::start(1, settings);
    create(&cluster, "by-broker", &[]).unwrap();
    create(&cluster, "for-ever", &[("retention.ms", "-1")]).unwrap();
    create(&cluster, "by-size", &[("retention.ms", "-1"), ("retention.bytes", "200"), ("segment.bytes", "100")]).unwrap();
    create(&cluster, "compacted", &[("cleanup.policy", "compact")]).unwrap();
    create(&cluster, "clocked", &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    create(&cluster, "small", &[("max.message.bytes", "50")]).unwrap();
    for (key, value, part) in [
        ("retention.ms", "soon", "Invalid value soon for configuration retention.ms: Not a number of type LONG"),
        ("segment.bytes", "1", "Value must be at least 14"),
        ("cleanup.policy", "burn", "String must be one of: compact, delete"),
        ("no.such.key", "1", "Unknown topic config name: no.such.key"),
    ] {
        let (code, message) = create(&cluster, "refused", &[(key, value)]).unwrap_err();
        assert_eq!(code, ResponseError::InvalidConfig.code());
        assert!(message.contains(part), "{message}");
    }
    let mut client = cluster.client(1);
    let hour = 3_600_000;
    let old = Batch::new(now() - 2 * hour).records(&[(0, Some("key"), Some("x".repeat(27).as_str()))]).build();
    for topic in ["by-broker", "for-ever", "compacted"] {
        client.produce(topic, 0, &old);
    }
    (0..6).for_each(|i| assert_eq!(client.produce("by-size", 0, &old), i));
    let starts = |client: &mut Client, topic: &str| (client.list_offsets(7, topic, 0, -2).1, client.list_offsets(7, topic, 0, -1).1);
    eventually("the old record is deleted", SOON, || (starts(&mut client, "by-broker") == (1, 1)).then_some(()));
    eventually("what is too much is deleted", SOON, || (starts(&mut client, "by-size").0 >= 3).then_some(()));
    assert_eq!(starts(&mut client, "by-size"), (3, 6), "not more than that");
    assert_eq!((starts(&mut client, "for-ever"), starts(&mut client, "compacted")), ((0, 1), (0, 1)));
    let dir = cluster.nodes[0].logs().join("by-broker-0");
    eventually("its files are removed", SOON, || (!log_file(&dir).exists()).then_some(()));
    assert!(dir.join("00000000000000000001.log").exists());
    // A consumer that asks for what is gone is told.
    assert_eq!(client.fetch_in(12, "by-broker", 0, 0, Duration::ZERO).error_code, ResponseError::OffsetOutOfRange.code());
    assert_eq!(client.produce("by-broker", 0, &GOLDEN), 1);

    let before = now();
    let answer = client.produce_in(9, "clocked", 0, &old);
    assert!((before..=now()).contains(&answer.log_append_time_ms), "{answer:?}");
    let (head, _) = batches(&client.fetch("clocked", 0, 0)).remove(0);
    assert_eq!((head.attributes, head.max_timestamp), (8, answer.log_append_time_ms));
    assert_eq!(client.list_offsets(7, "clocked", 0, before), (0, 0, answer.log_append_time_ms));
    // Who says that it is the log's time is not believed.
    client.produce("for-ever", 0, &Batch::new(5).values(&["x"]).attributes(8).max_timestamp(i64::MAX).build());
    let (head, _) = batches(&client.fetch("for-ever", 0, 1)).remove(0);
    assert_eq!((head.attributes, head.max_timestamp), (0, 5));
    assert_eq!(client.produce_in(9, "small", 0, &GOLDEN).error_code, ResponseError::MessageTooLarge.code());
}

fn delete_records(client: &mut Client, topic: &str, partition: i32, offset: i64) -> (i16, i64) {
    let p = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
    let t = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![p]);
    let answer = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![t]).with_timeout_ms(10_000));
    let p = &answer.topics[0].partitions[0];
    (p.error_code, p.low_watermark)
}

#[test]
fn deleted_records_stay_deleted() {
    let mut cluster = Cluster::start(1, "log.segment.bytes=200");
    cluster.create("t", 1);
    create(&cluster, "compacted", &[("cleanup.policy", "compact")]).unwrap();
    let mut client = cluster.client(1);
    (0..10).for_each(|_| drop(client.produce_in(9, "t", 0, &GOLDEN)));
    for (offset, want) in [(0, (0, 0)), (7, (0, 7)), (7, (0, 7)), (3, (1, -1)), (31, (1, -1)), (-2, (1, -1))] {
        assert_eq!(delete_records(&mut client, "t", 0, offset), want, "{offset}");
    }
    assert_eq!(delete_records(&mut client, "t", 9, 0).0, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(delete_records(&mut client, "compacted", 0, 0).0, ResponseError::PolicyViolation.code());
    assert_eq!(client.list_offsets(7, "t", 0, -2), (0, 7, -1));
    assert_eq!(client.fetch_in(12, "t", 0, 6, Duration::ZERO).error_code, ResponseError::OffsetOutOfRange.code());
    assert_eq!(client.fetch_in(12, "t", 0, 7, Duration::ZERO).log_start_offset, 7);
    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    let mut client = cluster.client(1);
    assert_eq!(client.list_offsets(7, "t", 0, -2), (0, 7, -1));
    assert_eq!(delete_records(&mut client, "t", 0, -1), (0, 30));
    assert_eq!((client.list_offsets(7, "t", 0, -2).1, client.produce("t", 0, &GOLDEN)), (30, 30));
}

fn delete_topics(client: &mut Client, topics: &[&str], timeout_ms: i32) -> Vec<i16> {
    let names = topics.iter().map(|t| topic_name(t)).collect();
    let answer = client.call(5, &DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(timeout_ms));
    answer.responses.iter().map(|r| r.error_code).collect()
}

#[test]
fn a_deleted_topic_is_gone_everywhere_and_may_be_made_again() {
    let mut cluster = Cluster::start(3, "log.segment.delete.delay.ms=500");
    let leaders = cluster.create("t", 6);
    cluster.create("t-0", 3);
    for (p, leader) in (0..).zip(&leaders) {
        cluster.client(*leader).produce("t", p, &GOLDEN);
    }
    let id = cluster.znodes().json("/brokers/topics/t")["topic_id"].clone();
    let controller = cluster.controller();
    let other = (1..=3).find(|id| *id != controller).unwrap();
    assert_eq!(delete_topics(&mut cluster.client(other), &["t"], 1000), [ResponseError::NotController.code()]);
    let mut client = cluster.client(controller);
    assert_eq!(delete_topics(&mut client, &["t", "nowhere"], 20_000), [0, ResponseError::UnknownTopicOrPartition.code()]);
    let z = cluster.znodes();
    assert_eq!(z.children("/brokers/topics"), ["t-0"]);
    assert!(z.data("/config/topics/t").is_none() && z.children("/admin/delete_topics").is_empty());
    for node in &cluster.nodes {
        let gone = |c: &mut Client| c.metadata(Some(&["t"]), false).topics[0].error_code == ResponseError::UnknownTopicOrPartition.code();
        eventually("all know", SOON, || gone(&mut node.client()).then_some(()));
        eventually("the directories are removed", SOON, || {
            let names = fs::read_dir(node.logs()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let left: Vec<String> = names.filter(|n| n.starts_with("t-") && !n.starts_with("t-0-")).collect();
            left.is_empty().then_some(())
        });
    }
    // Of the same name, but another topic: it begins at 0.
    assert_eq!(cluster.create("t", 6), leaders);
    assert_ne!(z.json("/brokers/topics/t")["topic_id"], id);
    assert_eq!(cluster.client(leaders[0]).produce("t", 0, &GOLDEN), 0);
    assert_eq!(cluster.leaders("t-0").len(), 3, "the topic with a similar name is there");

    // A broker that is away does its part when it comes back; until then the topic is not served, nor made again.
    let away = leaders.iter().copied().find(|l| *l != controller).unwrap();
    cluster.node(away).kill_9();
    assert_eq!(delete_topics(&mut cluster.client(controller), &["t"], 500), [ResponseError::RequestTimedOut.code()]);
    let answer = cluster.client(controller).metadata(Some(&["t"]), false);
    assert_eq!(answer.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    let made = cluster.client(controller).create_topics(vec![new_topic("t", 1, 1)], false);
    assert_eq!(made[0].error_code, ResponseError::TopicAlreadyExists.code());
    cluster.node(away).start();
    cluster.wait();
    eventually("the topic may be made again", SOON, || {
        let checked = cluster.client(cluster.controller()).create_topics(vec![new_topic("t", 1, 1)], true);
        (z.data("/brokers/topics/t").is_none() && checked[0].error_code == 0).then_some(())
    });
    let names: Vec<_> = fs::read_dir(cluster.node(away).logs()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|n| ["t-1", "t-2", "t-3", "t-4", "t-5"].contains(&n.as_str())), "{names:?}");
    cluster.create("t", 1);
    // By id.
    let id = z.json("/brokers/topics/t")["topic_id"].as_str().unwrap().to_owned();
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let id = uuid::Uuid::from_slice(&URL_SAFE_NO_PAD.decode(id).unwrap()).unwrap();
    let by_id = |id| {
        DeleteTopicsRequest::default()
            .with_timeout_ms(20_000)
            .with_topics(vec![DeleteTopicState::default().with_name(None).with_topic_id(id)])
    };
    let mut client = cluster.client(cluster.controller());
    let answer = client.call(6, &by_id(id));
    assert_eq!((answer.responses[0].error_code, answer.responses[0].name.as_ref().unwrap().as_str()), (0, "t"));
    assert_eq!(client.call(6, &by_id(id)).responses[0].error_code, ResponseError::UnknownTopicId.code());
}

#[test]
fn topics_are_not_deleted_where_that_is_switched_off_nor_because_they_are_not_there() {
    let mut cluster = Cluster::start(1, "delete.topic.enable=false");
    cluster.create("t", 1);
    cluster.client(1).produce("t", 0, &GOLDEN);
    assert_eq!(delete_topics(&mut cluster.client(1), &["t"], 1000), [ResponseError::TopicDeletionDisabled.code()]);
    // A coordinator that knows nothing of the topic.
    stop(&mut cluster, 1);
    let empty = Cluster::start(0, "");
    let file = cluster.node(1).dir.join("server.properties");
    let old = fs::read_to_string(&file).unwrap();
    fs::write(&file, old.replace(&cluster.zookeeper, &empty.zookeeper)).unwrap();
    cluster.node(1).start();
    cluster.node(1).wait(1);
    assert_eq!(cluster.client(1).metadata(None, false).topics.len(), 0);
    stop(&mut cluster, 1);
    fs::write(&file, old).unwrap();
    cluster.node(1).start();
    cluster.wait();
    assert_eq!(cluster.client(1).fetch("t", 0, 0).len(), GOLDEN.len());
}
