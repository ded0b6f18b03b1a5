//! Settings, partitions, directories and the cluster, as an administrator sees and changes them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{
    batches::Batch,
    client::{Client, eventually, text, topic_name},
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterReplicaLogDirsRequest, CreatePartitionsRequest, DescribeClusterRequest, DescribeConfigsRequest,
        DescribeLogDirsRequest, IncrementalAlterConfigsRequest, alter_configs_request,
        alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic},
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResult,
        describe_log_dirs_request::DescribableLogDirTopic,
        incremental_alter_configs_request,
    },
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

fn describe(client: &mut Client, version: i16, kind: i8, name: &str) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name)).with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    client.call(version, &request).results.remove(0)
}

/// Value and source of a key.
fn value(client: &mut Client, kind: i8, name: &str, key: &str) -> (Option<String>, i8) {
    let result = describe(client, 4, kind, name);
    assert_eq!(result.error_code, 0, "{:?}", result.error_message);
    let c = result.configs.into_iter().find(|c| c.name.as_str() == key).unwrap_or_else(|| panic!("{key}"));
    (c.value.map(|v| v.to_string()), c.config_source)
}

/// Error and message.
fn alter(client: &mut Client, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)], validate_only: bool) -> (i16, String) {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let configs = changes.iter().map(|(key, operation, value)| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(*operation).with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name)).with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(validate_only);
    let answer = client.call(1, &request).responses.remove(0);
    (answer.error_code, answer.error_message.map(|m| m.to_string()).unwrap_or_default())
}

fn set(client: &mut Client, kind: i8, name: &str, key: &str, to: &str) {
    assert_eq!(alter(client, kind, name, &[(key, SET, Some(to))], false), (0, String::new()), "{key}={to}");
}

#[test]
fn two_brokers_and_their_settings() {
    let cluster = Cluster::start(2, "log.retention.check.interval.ms=100\nlog.retention.hours=100\nlog.segment.delete.delay.ms=0");
    topics_are_described_and_altered(&cluster);
    every_broker_obeys_at_once(&cluster);
    brokers_are_described_and_altered(&cluster);
    wrong_settings_are_refused(&cluster);
    the_older_request_replaces_all(&cluster);
    what_was_set_counts_after_a_restart(cluster);
}

fn topics_are_described_and_altered(cluster: &Cluster) {
    cluster.create("t", 2);
    let mut client = cluster.client(1);
    for version in 1..=4 {
        let all = describe(&mut client, version, TOPIC, "t");
        assert_eq!((all.error_code, all.configs.len()), (0, 36), "{version}");
        assert!(all.configs.iter().all(|c| !c.read_only && !c.is_sensitive && (version < 3 || c.documentation.is_none())));
    }
    assert_eq!(value(&mut client, TOPIC, "t", "max.message.bytes"), (Some("1048588".into()), 5));
    assert_eq!(value(&mut client, TOPIC, "t", "segment.bytes"), (Some("20000".into()), 4), "from the file");
    assert_eq!(value(&mut client, TOPIC, "t", "retention.ms").0, Some("360000000".into()), "from hours");
    let changes = [("max.message.bytes", SET, Some("5000")), ("cleanup.policy", APPEND, Some("compact"))];
    assert_eq!(alter(&mut client, TOPIC, "t", &changes, true).0, 0);
    assert_eq!(value(&mut client, TOPIC, "t", "max.message.bytes").1, 5, "only checked");
    assert_eq!(alter(&mut client, TOPIC, "t", &changes, false).0, 0);
    // Through the other broker too, at once.
    for broker in [1, 2] {
        let mut client = cluster.client(broker);
        assert_eq!(value(&mut client, TOPIC, "t", "max.message.bytes"), (Some("5000".into()), 1));
        assert_eq!(value(&mut client, TOPIC, "t", "cleanup.policy"), (Some("delete,compact".into()), 1));
    }
    let znodes = cluster.znodes();
    let want = serde_json::json!({ "version": 1, "config": { "max.message.bytes": "5000", "cleanup.policy": "delete,compact" } });
    assert_eq!(znodes.json("/config/topics/t"), want);
    let last = znodes.children("/config/changes").pop().unwrap();
    assert_eq!(znodes.json(&format!("/config/changes/{last}")), serde_json::json!({ "version": 2, "entity_path": "topics/t" }));
    assert_eq!(alter(&mut client, TOPIC, "t", &[("max.message.bytes", DELETE, None), ("cleanup.policy", DELETE, None)], false).0, 0);
    assert_eq!(value(&mut client, TOPIC, "t", "max.message.bytes").1, 5);
}

fn every_broker_obeys_at_once(cluster: &Cluster) {
    let leaders = cluster.leaders("t");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let large = Batch::new(now).values(&[&"x".repeat(3000)]).build();
    for (partition, leader) in (0..).zip(leaders) {
        // Asked of the broker that does not lead.
        set(&mut cluster.client(3 - leader), TOPIC, "t", "max.message.bytes", "2000");
        let mut client = cluster.client(leader);
        let begun = Instant::now();
        eventually("the leader obeys", SOON, || {
            let error = client.produce_in(9, "t", partition, &large).error_code;
            (error == ResponseError::MessageTooLarge.code()).then_some(())
        });
        println!("obeyed after {:?}", begun.elapsed());
        set(&mut cluster.client(3 - leader), TOPIC, "t", "max.message.bytes", "9000");
        eventually("the leader obeys", SOON, || (client.produce_in(9, "t", partition, &large).error_code == 0).then_some(()));
    }
    // Retention of all topics, set for one broker and for all.
    let end = |client: &mut Client, p: i32| client.list_offsets(7, "t", p, -1).1;
    let leader = cluster.leaders("t")[0];
    let mut client = cluster.client(leader);
    for _ in 0..20 {
        client.produce("t", 0, &large);
    }
    assert_eq!(client.list_offsets(7, "t", 0, -2).1, 0);
    set(&mut client, BROKER, "", "log.retention.bytes", "1");
    eventually("old segments go", SOON, || (client.list_offsets(7, "t", 0, -2).1 > 0).then_some(()));
    assert!(end(&mut client, 0) > 20);
    assert_eq!(alter(&mut client, BROKER, "", &[("log.retention.bytes", DELETE, None)], false).0, 0);
}

fn brokers_are_described_and_altered(cluster: &Cluster) {
    let mut client = cluster.client(1);
    assert_eq!(value(&mut client, BROKER, "1", "log.retention.hours"), (Some("100".into()), 4));
    assert_eq!(value(&mut client, BROKER, "1", "log.retention.ms"), (None, 5));
    assert_eq!(value(&mut client, BROKER, "1", "num.partitions"), (Some("3".into()), 4));
    set(&mut client, BROKER, "1", "log.retention.ms", "5000");
    set(&mut client, BROKER, "", "message.max.bytes", "70000");
    assert_eq!(value(&mut client, BROKER, "1", "log.retention.ms"), (Some("5000".into()), 2));
    assert_eq!(value(&mut client, BROKER, "1", "message.max.bytes"), (Some("70000".into()), 3));
    let mut other = cluster.client(2);
    eventually("the other broker follows", SOON, || (value(&mut other, BROKER, "2", "message.max.bytes").1 == 3).then_some(()));
    assert_eq!(value(&mut other, BROKER, "2", "log.retention.ms").1, 5, "set for the first broker only");
    assert_eq!(value(&mut other, TOPIC, "t", "retention.ms").0, Some("360000000".into()));
    assert_eq!(value(&mut client, TOPIC, "t", "retention.ms"), (Some("5000".into()), 2));
    let defaults = describe(&mut other, 4, BROKER, "");
    let names: Vec<&str> = defaults.configs.iter().map(|c| c.name.as_str()).collect();
    assert_eq!((names, defaults.configs[0].synonyms.len()), (vec!["message.max.bytes"], 1));
    let all = describe(&mut client, 4, BROKER, "1");
    assert!(all.configs.iter().any(|c| c.read_only) && all.configs.iter().any(|c| !c.read_only));
    assert!(all.configs.len() > 60, "{}", all.configs.len());
    let few = DescribeConfigsResource::default().with_resource_type(BROKER).with_resource_name(text("1"));
    let few = few.with_configuration_keys(Some(vec![text("broker.id"), text("nonsense")]));
    let answer = client.call(4, &DescribeConfigsRequest::default().with_resources(vec![few.clone(), few])).results;
    assert_eq!((answer.len(), answer[0].configs.len(), answer[0].configs[0].synonyms.len()), (1, 1, 0));
}

fn wrong_settings_are_refused(cluster: &Cluster) {
    let mut client = cluster.client(1);
    let mut refused = |kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)], code: ResponseError, why: &str| {
        let (error, message) = alter(&mut client, kind, name, changes, false);
        assert_eq!(error, code.code(), "{changes:?}: {message}");
        assert!(message.contains(why), "{changes:?}: {message}");
    };
    let (config, request) = (ResponseError::InvalidConfig, ResponseError::InvalidRequest);
    refused(TOPIC, "t", &[("nonsense", SET, Some("1"))], config, "Unknown topic config name: nonsense");
    let long = "Invalid config value for resource ConfigResource(type=TOPIC, name='t'): Invalid value abc for configuration retention.ms: Not a number of type LONG";
    refused(TOPIC, "t", &[("retention.ms", SET, Some("abc"))], config, long);
    refused(TOPIC, "t", &[("retention.ms", APPEND, Some("1"))], request, "append is not allowed");
    refused(TOPIC, "t", &[("retention.ms", 9, Some("1"))], request, "operation");
    refused(TOPIC, "t", &[("retention.ms", SET, None)], request, "Null value not supported");
    refused(TOPIC, "t", &[("remote.storage.enable", SET, Some("true"))], config, "Tiered Storage");
    refused(TOPIC, "nope", &[("retention.ms", SET, Some("1"))], ResponseError::UnknownTopicOrPartition, "");
    refused(BROKER, "1", &[("num.partitions", SET, Some("5"))], request, "Cannot update these configs dynamically: Set(num.partitions)");
    refused(BROKER, "1", &[("log.retention.ms", SET, Some("abc"))], request, "Not a number of type LONG");
    refused(
        BROKER,
        "2",
        &[("log.retention.ms", SET, Some("1"))],
        request,
        "Unexpected broker id, expected 1 or empty string, but received 2",
    );
    refused(BROKER, "x", &[("log.retention.ms", SET, Some("1"))], request, "Unexpected broker id");
    refused(8, "1", &[("a.logger", SET, Some("INFO"))], request, "Unsupported resource type");
    assert_eq!(describe(&mut client, 4, TOPIC, "nope").error_code, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(describe(&mut client, 4, BROKER, "2").error_code, request.code());
    assert_eq!(describe(&mut client, 4, 16, "x").error_code, request.code());
}

fn the_older_request_replaces_all(cluster: &Cluster) {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let mut client = cluster.client(2);
    set(&mut client, TOPIC, "t", "segment.ms", "7000");
    for version in 0..=2 {
        let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("8000")));
        let resource = AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text("t")).with_configs(vec![config]);
        let answer = client.call(version, &AlterConfigsRequest::default().with_resources(vec![resource])).responses.remove(0);
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        assert_eq!(value(&mut client, TOPIC, "t", "retention.ms"), (Some("8000".into()), 1));
        assert_eq!(value(&mut client, TOPIC, "t", "segment.ms").1, 5, "what was not named is gone");
    }
}

fn what_was_set_counts_after_a_restart(mut cluster: Cluster) {
    cluster.node(1).kill_9();
    // Changed while it is away.
    set(&mut cluster.client(2), TOPIC, "t", "retention.ms", "9000");
    set(&mut cluster.client(2), BROKER, "", "log.segment.bytes", "4000");
    cluster.node(1).start();
    cluster.wait();
    let mut client = cluster.client(1);
    assert_eq!(value(&mut client, TOPIC, "t", "retention.ms"), (Some("9000".into()), 1));
    assert_eq!(value(&mut client, BROKER, "1", "log.segment.bytes"), (Some("4000".into()), 3));
    assert_eq!(value(&mut client, BROKER, "1", "log.retention.ms"), (Some("5000".into()), 2));
}

#[test]
fn partitions_directories_and_the_cluster() {
    let cluster = Cluster::start(3, "");
    topics_get_more_partitions(&cluster);
    the_directory_is_described(&cluster);
    the_cluster_is_described(&cluster);
}

fn topics_get_more_partitions(cluster: &Cluster) {
    cluster.create("t", 2);
    let mut client = cluster.client(cluster.controller());
    let mut ask = |version: i16, topic: &str, count: i32, assignment: Option<&[i32]>, validate_only: bool| {
        let assignments = assignment
            .map(|ids| ids.iter().map(|id| CreatePartitionsAssignment::default().with_broker_ids(vec![(*id).into()])).collect::<Vec<_>>());
        let t = CreatePartitionsTopic::default().with_name(topic_name(topic)).with_count(count).with_assignments(assignments);
        let request = CreatePartitionsRequest::default().with_topics(vec![t]).with_timeout_ms(20_000).with_validate_only(validate_only);
        let r = client.call(version, &request).results.remove(0);
        (r.error_code, r.error_message.map(|m| m.to_string()).unwrap_or_default())
    };
    let (few, replicas) = (ResponseError::InvalidPartitions.code(), ResponseError::InvalidReplicaAssignment.code());
    assert_eq!(ask(3, "t", 4, None, true), (0, String::new()));
    assert_eq!(cluster.leaders("t").len(), 2, "only checked");
    for (version, count) in (0..=3).zip(3..) {
        assert_eq!(ask(version, "t", count, None, false), (0, String::new()));
        assert_eq!(cluster.leaders("t").len(), count as usize);
    }
    assert_eq!(ask(3, "t", 8, Some(&[3, 1]), false), (0, String::new()));
    assert_eq!(cluster.leaders("t")[6..], [3, 1]);
    assert_eq!(ask(3, "t", 8, None, false), (few, "Topic already has 8 partitions.".into()));
    let fewer = "Topic currently has 8 partitions, which is higher than the requested 3.";
    assert_eq!(ask(3, "t", 3, None, false), (few, fewer.into()));
    assert_eq!(ask(3, "t", 9, Some(&[7]), false), (replicas, "Unknown broker(s) in replica assignment: 7.".into()));
    assert_eq!(ask(3, "t", 9, Some(&[1, 2]), false).0, replicas);
    assert_eq!(ask(3, "nope", 9, None, false).0, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(ask(3, "t", 50_000, None, false).0, few);
    // The new ones take records, and those that were there have kept theirs.
    for (partition, leader) in (0..).zip(cluster.leaders("t")) {
        assert_eq!(cluster.client(leader).produce("t", partition, &Batch::new(1).values(&["x"]).build()), 0);
    }
    let other = cluster.nodes.iter().map(|n| n.id).find(|id| *id != cluster.controller()).unwrap();
    let t = CreatePartitionsTopic::default().with_name(topic_name("t")).with_count(9);
    let answer = cluster.client(other).call(3, &CreatePartitionsRequest::default().with_topics(vec![t.clone()]));
    assert_eq!(answer.results[0].error_code, ResponseError::NotController.code());
    let answer = cluster.client(cluster.controller()).call(3, &CreatePartitionsRequest::default().with_topics(vec![t.clone(), t]));
    assert_eq!((answer.results.len(), answer.results[0].error_code), (1, ResponseError::InvalidRequest.code()));
}

fn the_directory_is_described(cluster: &Cluster) {
    let leaders = cluster.leaders("t");
    for node in &cluster.nodes {
        let mut client = node.client();
        let mine: Vec<i32> = (0..).zip(&leaders).filter(|(_, l)| **l == node.id).map(|(p, _)| p).collect();
        for version in 1..=4 {
            let answer = client.call(version, &DescribeLogDirsRequest::default().with_topics(None));
            let dir = &answer.results[0];
            assert_eq!((answer.results.len(), dir.error_code, dir.log_dir.as_str()), (1, 0, node.logs().to_str().unwrap()));
            let t = dir.topics.iter().find(|t| t.name.as_str() == "t").unwrap();
            let found: Vec<i32> = t.partitions.iter().map(|p| p.partition_index).collect();
            assert_eq!(found, mine);
            for p in &t.partitions {
                let file = node.logs().join(format!("t-{}/00000000000000000000.log", p.partition_index));
                assert_eq!(p.partition_size as u64, std::fs::metadata(file).unwrap().len());
                assert!(p.partition_size > 0 && p.offset_lag == 0 && !p.is_future_key);
            }
            assert_eq!(dir.total_bytes > 0 && dir.usable_bytes > 0, version >= 4);
        }
        let only = DescribableLogDirTopic::default().with_topic(topic_name("t")).with_partitions(vec![mine[0], 99]);
        let answer = client.call(4, &DescribeLogDirsRequest::default().with_topics(Some(vec![only])));
        assert_eq!(answer.results[0].topics[0].partitions.len(), 1);
        let mut to = |path: &str, partition: i32| {
            let t = AlterReplicaLogDirTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
            let dir = AlterReplicaLogDir::default().with_path(text(path)).with_topics(vec![t]);
            client.call(2, &AlterReplicaLogDirsRequest::default().with_dirs(vec![dir])).results[0].partitions[0].error_code
        };
        assert_eq!(to("/elsewhere", mine[0]), ResponseError::LogDirNotFound.code());
        assert_eq!(to(node.logs().to_str().unwrap(), mine[0]), 0);
        assert_eq!(to(node.logs().to_str().unwrap(), 99), ResponseError::ReplicaNotAvailable.code());
    }
}

fn the_cluster_is_described(cluster: &Cluster) {
    let mut client = cluster.client(2);
    let (id, controller) = (client.metadata(Some(&[]), false).cluster_id.unwrap(), cluster.controller());
    for (version, asked) in [(0, false), (1, true)] {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(asked);
        let answer = client.call(version, &if version >= 1 { request.with_endpoint_type(1) } else { request });
        let brokers: Vec<_> = answer.brokers.iter().map(|b| (b.broker_id.0, b.host.to_string(), b.port)).collect();
        let want: Vec<_> = cluster.nodes.iter().map(|n| (n.id, "127.0.0.1".to_owned(), i32::from(n.port))).collect();
        assert_eq!((answer.error_code, &answer.cluster_id, answer.controller_id.0, brokers), (0, &id, controller, want));
        assert_eq!(answer.cluster_authorized_operations == i32::MIN, !asked);
    }
    let controllers = client.call(1, &DescribeClusterRequest::default().with_endpoint_type(2));
    assert_eq!(controllers.error_code, ResponseError::MismatchedEndpointType.code());
}

/// A waiting administrator does not hold up others: settings are changed side by side, and none is lost.
#[test]
fn changes_side_by_side_are_all_kept() {
    let cluster = Cluster::start(2, "");
    cluster.create("t", 1);
    let keys = ["retention.ms", "segment.ms", "flush.ms", "min.compaction.lag.ms", "delete.retention.ms", "file.delete.delay.ms"];
    std::thread::scope(|scope| {
        for (i, key) in keys.iter().enumerate() {
            let mut client = cluster.client(i as i32 % 2 + 1);
            scope.spawn(move || {
                for n in 1..=5 {
                    set(&mut client, TOPIC, "t", key, &n.to_string());
                }
            });
        }
    });
    let begun = Instant::now();
    let mut client = cluster.client(1);
    for key in keys {
        assert_eq!(value(&mut client, TOPIC, "t", key), (Some("5".into()), 1), "{key}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}
