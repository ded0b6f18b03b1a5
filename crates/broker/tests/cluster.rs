//! Three brokers and a coordinator, as real processes: topics, records, offsets, and what the coordinator holds.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use common::{
    batches::{Batch, GOLDEN},
    client::{Client, eventually, fetch_request, new_topic, produce_request, text, topic_name},
    logs::{batches, check_indexes, files},
    processes::{Cluster, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, FetchRequest, FindCoordinatorRequest, MetadataRequest,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopicConfig},
        metadata_request::MetadataRequestTopic,
    },
};
use serde_json::json;

fn code(e: ResponseError) -> i16 {
    e.code()
}

/// Starting three brokers takes longer than asking them, so one cluster answers all of this.
#[test]
fn a_cluster_of_three() {
    let cluster = Cluster::start(3, "");
    metadata_is_the_same_everywhere(&cluster);
    topics_are_made_or_refused(&cluster);
    topics_are_made_when_they_are_asked_for(&cluster);
    records_go_to_the_leader_and_come_back(&cluster);
    offsets_are_listed(&cluster);
    times_are_found_in_compressed_batches(&cluster);
    a_waiting_fetch_wakes_up(&cluster);
    groups_have_a_coordinator(&cluster);
    znodes_look_as_kafkas(&cluster);
}

fn metadata_is_the_same_everywhere(cluster: &Cluster) {
    let all: Vec<_> = cluster.nodes.iter().map(|n| n.client().metadata(Some(&[]), false)).collect();
    let ids = BTreeSet::from_iter(all.iter().map(|m| m.cluster_id.clone().unwrap().to_string()));
    assert_eq!(ids.len(), 1, "one cluster id");
    assert_eq!(ids.first().unwrap().len(), 22, "a UUID as Kafka writes it: {ids:?}");
    assert_eq!(BTreeSet::from_iter(all.iter().map(|m| m.controller_id.0)).len(), 1, "one controller");
    for m in &all {
        let brokers: Vec<_> = m.brokers.iter().map(|b| (b.node_id.0, b.host.to_string(), b.port)).collect();
        let want: Vec<_> = cluster.nodes.iter().map(|n| (n.id, "127.0.0.1".to_owned(), i32::from(n.port))).collect();
        assert_eq!(brokers, want);
        assert!(m.topics.is_empty());
    }
    // No list: all topics in versions from 1 on, and an empty list means that in version 0.
    cluster.create("listed", 1);
    let mut client = cluster.client(1);
    let names = |v: i16, client: &mut Client, request: MetadataRequest| {
        client.call(v, &request).topics.into_iter().map(|t| t.name.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(0, &mut client, MetadataRequest::default().with_topics(Some(vec![]))), ["listed"]);
    assert_eq!(names(1, &mut client, MetadataRequest::default().with_topics(None)), ["listed"]);
    assert_eq!(names(1, &mut client, MetadataRequest::default().with_topics(Some(vec![]))), [] as [String; 0]);
}

fn topics_are_made_or_refused(cluster: &Cluster) {
    let controller = cluster.controller();
    let mut client = cluster.client(controller);
    let leaders = cluster.create("orders", 6);
    assert_eq!(BTreeSet::from_iter(leaders.iter().copied()).len(), 3, "spread over all brokers: {leaders:?}");
    let described = cluster.client(1).metadata(Some(&["orders"]), false).topics.remove(0);
    for p in &described.partitions {
        let id = BrokerId(leaders[p.partition_index as usize]);
        assert_eq!((p.leader_epoch, &p.replica_nodes, &p.isr_nodes, p.offline_replicas.len()), (0, &vec![id], &vec![id], 0));
    }

    // (topic, error, sentence)
    let assigned = |name: &str, brokers: &[&[i32]]| {
        let one = |(i, b): (usize, &&[i32])| {
            CreatableReplicaAssignment::default().with_partition_index(i as i32).with_broker_ids(b.iter().map(|b| BrokerId(*b)).collect())
        };
        new_topic(name, -1, -1).with_assignments(brokers.iter().enumerate().map(one).collect())
    };
    let config = CreatableTopicConfig::default().with_name(text("retentoin.ms")).with_value(Some(text("1")));
    let cases = [
        (new_topic("four", 1, 4), ResponseError::InvalidReplicationFactor, "larger than available brokers: 3"),
        (new_topic("none", 1, 0), ResponseError::InvalidReplicationFactor, "larger than 0"),
        (new_topic("orders", 1, 1), ResponseError::TopicAlreadyExists, "Topic 'orders' already exists."),
        (new_topic("no partitions", 1, 1), ResponseError::InvalidTopicException, "ASCII letters"),
        (new_topic("", 1, 1), ResponseError::InvalidTopicException, "is empty"),
        (new_topic("..", 1, 1), ResponseError::InvalidTopicException, "may not be"),
        (new_topic(&"x".repeat(250), 1, 1), ResponseError::InvalidTopicException, "longer than 249"),
        (new_topic("zero", 0, 1), ResponseError::InvalidPartitions, "not 0"),
        (new_topic("minus", -2, 1), ResponseError::InvalidPartitions, "not -2"),
        (new_topic("many", i32::MAX, 1), ResponseError::InvalidPartitions, "10000"),
        (new_topic("settings", 1, 1).with_configs(vec![config]), ResponseError::InvalidConfig, "retentoin.ms"),
        (assigned("pair", &[&[1, 1]]), ResponseError::InvalidReplicaAssignment, "on another broker"),
        (assigned("stranger", &[&[1], &[9]]), ResponseError::InvalidReplicaAssignment, "no broker 9"),
        (assigned("both", &[&[1]]).with_num_partitions(1), ResponseError::InvalidRequest, "either"),
    ];
    for (topic, error, sentence) in cases {
        let name = topic.name.to_string();
        for validate_only in [true, false] {
            let answer = client.create_topics(vec![topic.clone()], validate_only).remove(0);
            let message = answer.error_message.unwrap_or_default();
            assert_eq!(answer.error_code, code(error), "{name}: {message}");
            assert!(message.contains(sentence), "{name}: {message}");
        }
    }
    let answers = client.create_topics(vec![new_topic("fine", -1, -1), new_topic("bad", 1, 7)], true);
    assert_eq!((answers[0].error_code, answers[0].num_partitions, answers[0].replication_factor), (0, 3, 1), "num.partitions is 3");
    assert_eq!(answers[1].error_code, code(ResponseError::InvalidReplicationFactor));

    let placed = client.create_topics(vec![assigned("placed", &[&[3], &[1], &[3]])], false);
    assert_eq!((placed[0].error_code, placed[0].num_partitions), (0, 3));
    assert_eq!(cluster.leaders("placed"), [3, 1, 3]);

    let other = cluster.nodes.iter().find(|n| n.id != controller).unwrap();
    let answer = other.client().create_topics(vec![new_topic("elsewhere", 1, 1)], false).remove(0);
    assert_eq!(answer.error_code, code(ResponseError::NotController), "{:?}", answer.error_message);
    let all: Vec<_> = client.metadata(None, false).topics.into_iter().map(|t| t.name.unwrap().to_string()).collect();
    assert_eq!(all, ["listed", "orders", "placed"], "nothing else was made");
}

fn topics_are_made_when_they_are_asked_for(cluster: &Cluster) {
    let mut client = cluster.client(2);
    let error = |client: &mut Client, name: &str, create| client.metadata(Some(&[name]), create).topics[0].error_code;
    assert_eq!(error(&mut client, "automatic", false), code(ResponseError::UnknownTopicOrPartition));
    assert_eq!(error(&mut client, "not a name", true), code(ResponseError::InvalidTopicException));
    assert_eq!(error(&mut client, "automatic", true), code(ResponseError::LeaderNotAvailable));
    assert_eq!(cluster.leaders("automatic").len(), 3, "num.partitions");
    assert_eq!(error(&mut client, "automatic", true), 0);
    // Before version 4 there was no flag.
    let wanted = MetadataRequestTopic::default().with_name(Some(topic_name("old-client")));
    client.call(1, &MetadataRequest::default().with_topics(Some(vec![wanted])));
    assert_eq!(cluster.leaders("old-client").len(), 3);
}

fn records_go_to_the_leader_and_come_back(cluster: &Cluster) {
    let leaders = cluster.create("records", 6);
    for (partition, leader) in (0i32..).zip(&leaders) {
        let mut client = cluster.client(*leader);
        for i in 0..20 {
            let value = format!("{partition}-{i}");
            assert_eq!(client.produce("records", partition, &Batch::new(i).values(&[&value, "and", "more"]).build()), i * 3);
        }
        let bytes = client.fetch("records", partition, 0);
        let want: Vec<u8> =
            (0..20).flat_map(|i| Batch::new(i).values(&[&format!("{partition}-{i}"), "and", "more"]).build()[16..].to_vec()).collect();
        let got: Vec<u8> = batches(&bytes).iter().flat_map(|(_, b)| b[16..].to_vec()).collect();
        assert_eq!(got, want, "the bytes are those that were sent, with their checksums");
        assert_eq!(client.fetch("records", partition, 31).len(), batches(&bytes)[10..].iter().map(|(_, b)| b.len()).sum::<usize>());

        let data = client.fetch_in(12, "records", partition, 60, Duration::ZERO);
        assert_eq!((data.error_code, data.high_watermark, data.last_stable_offset, data.log_start_offset), (0, 60, 60, 0));
        let data = client.fetch_in(12, "records", partition, 61, Duration::from_secs(20));
        assert_eq!(data.error_code, code(ResponseError::OffsetOutOfRange), "at once, not after the wait");

        let wrong = cluster.nodes.iter().find(|n| n.id != *leader).unwrap();
        let mut wrong = wrong.client();
        assert_eq!(wrong.produce_in(9, "records", partition, &GOLDEN).error_code, code(ResponseError::NotLeaderOrFollower));
        assert_eq!(
            wrong.fetch_in(12, "records", partition, 0, Duration::from_secs(20)).error_code,
            code(ResponseError::NotLeaderOrFollower)
        );
        assert_eq!(wrong.list_offsets(7, "records", partition, -1).0, code(ResponseError::NotLeaderOrFollower));
    }
    let mut client = cluster.client(leaders[0]);
    for (topic, partition) in [("records", 6), ("records", -1), ("nowhere", 0)] {
        let unknown = code(ResponseError::UnknownTopicOrPartition);
        assert_eq!(client.produce_in(9, topic, partition, &GOLDEN).error_code, unknown);
        assert_eq!(client.fetch_in(12, topic, partition, 0, Duration::ZERO).error_code, unknown);
        assert_eq!(client.list_offsets(7, topic, partition, -1).0, unknown);
    }
    let mut flipped = GOLDEN;
    flipped[80] ^= 1;
    for (batch, error) in [
        (&flipped[..], ResponseError::CorruptMessage),
        (&GOLDEN[..50], ResponseError::CorruptMessage),
        (&[], ResponseError::InvalidRecord),
        (&Batch::new(1).values(&["x"]).magic(1).build(), ResponseError::UnsupportedForMessageFormat),
        (&Batch::new(1).values(&["x".repeat(1_048_588).as_str()]).build(), ResponseError::MessageTooLarge),
    ] {
        let answer = client.produce_in(9, "records", 0, batch);
        assert_eq!((answer.error_code, answer.base_offset), (code(error), -1), "{:?}", answer.error_message);
    }
    assert_eq!(client.produce_in(9, "__consumer_offsets", 0, &GOLDEN).error_code, code(ResponseError::InvalidTopicException));
    let bad_acks = client.call(9, &produce_request("records", 0, &GOLDEN, 2)).responses.remove(0).partition_responses.remove(0);
    assert_eq!(bad_acks.error_code, code(ResponseError::InvalidRequiredAcks));
    // A client that believes in another leader is told.
    for (epoch, error) in [(-1, 0), (0, 0), (1, code(ResponseError::UnknownLeaderEpoch))] {
        let mut request = fetch_request("records", 0, 0, Duration::ZERO);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        assert_eq!(client.call(12, &request).responses[0].partitions[0].error_code, error);
    }
    // Without acknowledgement there is no answer: the next one on the connection is that to the next request.
    client.send(9, &produce_request("records", 0, &GOLDEN, 0)).unwrap();
    assert_eq!(client.produce("records", 0, &GOLDEN), 63);
    assert_eq!(client.fetch("records", 0, 60).len(), 2 * GOLDEN.len());

    let dir = cluster.nodes.iter().find(|n| n.id == leaders[0]).unwrap().logs().join("records-0");
    check_indexes(&dir, 500);
    let in_files: Vec<u8> = files(&dir, "log").into_iter().flat_map(|(_, b)| b).collect();
    assert_eq!(in_files, client.fetch("records", 0, 0));
}

fn offsets_are_listed(cluster: &Cluster) {
    let leader = cluster.create("times", 1)[0];
    let mut client = cluster.client(leader);
    assert_eq!(client.list_offsets(7, "times", 0, -1), (0, 0, -1));
    assert_eq!(client.list_offsets(7, "times", 0, -2), (0, 0, -1));
    client.produce("times", 0, &GOLDEN);
    client.produce("times", 0, &Batch::new(1_700_000_001_000).values(&["late"]).build());
    for version in 1..=7 {
        let base = 1_700_000_000_000;
        for (time, want) in [
            (-1, (0, 4, -1)),
            (-2, (0, 0, -1)),
            (0, (0, 0, base)),
            (base + 1, (0, 1, base + 5)),
            (base + 6, (0, 3, base + 1000)),
            (base + 1001, (0, -1, -1)),
        ] {
            assert_eq!(client.list_offsets(version, "times", 0, time), want, "version {version}, {time}");
        }
    }
}

/// By records, not by batches, also where they are compressed; and the latest of all.
fn times_are_found_in_compressed_batches(cluster: &Cluster) {
    let leader = cluster.create("packed", 1)[0];
    let mut client = cluster.client(leader);
    assert_eq!(client.list_offsets(7, "packed", 0, -3), (0, -1, -1), "nothing is latest where nothing is");
    let records = Batch::new(1000).records(&[(0, None, Some("a")), (50, None, Some("b")), (20, None, Some("c"))]).build();
    for (attributes, compress) in [(0, None), (1, Some(())), (0, None)] {
        let mut body = records[61..].to_vec();
        if compress.is_some() {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(&body).unwrap();
            body = e.finish().unwrap();
        }
        let batch = Batch::new(if attributes == 1 { 2000 } else { 1000 }).attributes(attributes).count(3).last_offset_delta(2).body(&body);
        client.produce("packed", 0, &batch.build());
    }
    for (time, want) in [(1000, (0, 0, 1000)), (1001, (0, 1, 1050)), (1051, (0, 3, 2000)), (2001, (0, 4, 2050)), (2051, (0, -1, -1))] {
        assert_eq!(client.list_offsets(7, "packed", 0, time), want, "{time}");
    }
    assert_eq!(client.list_offsets(7, "packed", 0, -3), (0, 4, 2050));
    assert_eq!(client.list_offsets(7, "packed", 0, -4).0, code(ResponseError::UnsupportedVersion));
}

fn a_waiting_fetch_wakes_up(cluster: &Cluster) {
    let leader = cluster.create("waiting", 1)[0];
    let mut client = cluster.client(leader);
    let begun = Instant::now();
    let data = client.fetch_in(12, "waiting", 0, 0, Duration::from_millis(400));
    assert!(data.records.unwrap_or_default().is_empty() && begun.elapsed() >= Duration::from_millis(400), "the time is up");
    let mut producer = cluster.client(leader);
    let begun = Instant::now();
    client.send(12, &fetch_request("waiting", 0, 0, Duration::from_secs(50))).unwrap();
    thread::sleep(Duration::from_millis(300));
    producer.produce("waiting", 0, &GOLDEN);
    let data = client.receive::<FetchRequest>(12).unwrap().responses.remove(0).partitions.remove(0);
    assert!(begun.elapsed() < Duration::from_secs(30), "not at the end of its time: {:?}", begun.elapsed());
    assert_eq!(batches(&data.records.unwrap())[0].1[16..], GOLDEN[16..]);
    // One batch is not enough for this one; the second is.
    let mut request = fetch_request("waiting", 0, 0, Duration::from_secs(50));
    request.min_bytes = GOLDEN.len() as i32 + 1;
    client.send(12, &request).unwrap();
    thread::sleep(Duration::from_millis(200));
    producer.produce("waiting", 0, &GOLDEN);
    let data = client.receive::<FetchRequest>(12).unwrap().responses.remove(0).partitions.remove(0);
    assert!(begun.elapsed() < Duration::from_secs(40), "not at the end of its time: {:?}", begun.elapsed());
    assert_eq!(batches(&data.records.unwrap()).len(), 2);
}

fn groups_have_a_coordinator(cluster: &Cluster) {
    let find =
        |id: i32, version: i16, group: &str| cluster.client(id).call(version, &FindCoordinatorRequest::default().with_key(text(group)));
    // The offsets topic is made when it is first asked for.
    eventually("there is a coordinator", SOON, || (find(1, 3, "g").error_code == 0).then_some(()));
    let leaders = cluster.leaders("__consumer_offsets");
    assert_eq!(leaders.len(), 5);
    assert!(cluster.client(1).metadata(Some(&["__consumer_offsets"]), false).topics[0].is_internal);
    for (group, partition) in [("g", 103 % 5), ("gr\u{fc}ppe", 1_233_264_812 % 5), ("payments", 1_382_682_413 % 5)] {
        let leader = leaders[partition as usize];
        for id in 1..=3 {
            let answer = find(id, id as i16, group);
            let port = cluster.nodes.iter().find(|n| n.id == leader).unwrap().port;
            assert_eq!((answer.error_code, answer.node_id.0, answer.port), (0, leader, port.into()), "{group}");
        }
        let mut client = cluster.client(leader);
        let longest = "m".repeat(4096);
        let too_long = "m".repeat(4097);
        let commits = [(0, 5, "five"), (1, 6, longest.as_str()), (2, 7, too_long.as_str())];
        // Loaded once it is elected, which may be now.
        eventually("the coordinator is loaded", SOON, || (client.committed(7, group, "orders", 0).0 == 0).then_some(()));
        assert_eq!(client.commit(8, group, "orders", &commits), [0, 0, code(ResponseError::OffsetMetadataTooLarge)]);
        assert_eq!(client.commit(8, group, "nowhere", &[(0, 1, "")]), [code(ResponseError::UnknownTopicOrPartition)]);
        assert_eq!(client.committed(7, group, "orders", 0), (0, 5, "five".into()));
        assert_eq!(client.committed(7, group, "orders", 1), (0, 6, longest));
        assert_eq!(client.committed(7, group, "orders", 2), (0, -1, String::new()));
        let wrong = cluster.nodes.iter().find(|n| n.id != leader).unwrap();
        assert_eq!(wrong.client().commit(8, group, "orders", &[(0, 9, "")]), [code(ResponseError::NotCoordinator)]);
        assert_eq!(wrong.client().committed(7, group, "orders", 0).0, code(ResponseError::NotCoordinator));
    }
    let long = "g".repeat(40_000);
    assert_eq!(cluster.client(1).commit(8, &long, "orders", &[(0, 1, "")]), [code(ResponseError::InvalidGroupId)]);
    assert_eq!(find(1, 0, "g").error_code, 0);
}

fn znodes_look_as_kafkas(cluster: &Cluster) {
    let z = cluster.znodes();
    assert_eq!(z.children("/brokers/ids"), ["1", "2", "3"]);
    for n in &cluster.nodes {
        let path = format!("/brokers/ids/{}", n.id);
        let mut value = z.json(&path);
        let timestamp = value.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(timestamp.as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000_000, "milliseconds in a string: {timestamp}");
        let want = json!({
            "version": 5, "host": "127.0.0.1", "port": n.port, "endpoints": [format!("PLAINTEXT://127.0.0.1:{}", n.port)],
            "listener_security_protocol_map": { "PLAINTEXT": "PLAINTEXT" }, "features": {}, "jmx_port": -1, "septet": true,
        });
        assert_eq!(value, want);
        assert_ne!(z.owner(&path), Some(0), "a registration is ephemeral");
    }
    let mut controller = z.json("/controller");
    assert!(controller.as_object_mut().unwrap().remove("timestamp").unwrap().is_string());
    assert_eq!(controller, json!({ "version": 2, "brokerid": cluster.controller(), "kraftControllerEpoch": -1 }));
    assert_eq!(z.owner("/controller"), z.owner(&format!("/brokers/ids/{}", cluster.controller())), "of the same session");
    assert_eq!(z.data("/controller_epoch").unwrap().0, b"1");
    let id = z.json("/cluster/id");
    let said = cluster.client(1).metadata(Some(&[]), false).cluster_id.unwrap().to_string();
    assert_eq!(id, json!({ "version": "1", "id": said }));

    let partitions = json!({ "0": [3], "1": [1], "2": [3] });
    let mut placed = z.json("/brokers/topics/placed");
    let topic_id = placed.as_object_mut().unwrap().remove("topic_id").unwrap();
    assert!(topic_id.as_str().is_some_and(|id| id.len() == 22 && !id.starts_with('-')), "{topic_id}");
    assert_eq!(placed, json!({ "version": 3, "partitions": partitions, "adding_replicas": {}, "removing_replicas": {} }));
    assert_eq!(z.owner("/brokers/topics/placed"), Some(0));
    assert_eq!(z.children("/brokers/topics/placed/partitions"), ["0", "1", "2"]);
    let state = json!({ "controller_epoch": 1, "leader": 1, "version": 1, "leader_epoch": 0, "isr": [1] });
    assert_eq!(z.json("/brokers/topics/placed/partitions/1/state"), state);
    assert_eq!(z.json("/config/topics/placed"), json!({ "version": 1, "config": {} }));
    for path in ["/admin/delete_topics", "/config/changes", "/config/brokers", "/consumers", "/isr_change_notification", "/brokers/seqid"] {
        assert!(z.data(path).is_some(), "{path}");
    }
}
