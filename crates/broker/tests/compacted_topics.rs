//! Compacted topics on a broker: what clients read, Kafka's own tool and consumer among them; the offsets topic.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    batches::Batch,
    client::{Client, eventually, new_topic, produce_request, text},
    logs::{batches, files},
    processes::{Cluster, Process, SOON},
};
use kafka_protocol::{
    ResponseError,
    messages::{FindCoordinatorRequest, create_topics_request::CreatableTopicConfig},
};
use septet_broker::{
    batch::HEAD_BYTES,
    records::{Records, body, compress},
};

const LIMIT: Duration = Duration::from_secs(90);
const SETTINGS: &str = "log.cleaner.backoff.ms=50\nlog.cleaner.dedupe.buffer.size=2000000";

fn create(cluster: &Cluster, topic: &str, settings: &[(&str, &str)]) {
    let config = |(k, v): &(&str, &str)| CreatableTopicConfig::default().with_name(text(k)).with_value(Some(text(v)));
    let wanted = new_topic(topic, 1, 1).with_configs(settings.iter().map(config).collect());
    let made = cluster.client(cluster.controller()).create_topics(vec![wanted], false).remove(0);
    assert_eq!(made.error_code, 0, "{:?}", made.error_message);
    cluster.leaders(topic);
}

fn batch(codec: i16, records: &[(&str, Option<&str>)]) -> Vec<u8> {
    let fields: Vec<_> = records.iter().map(|(k, v)| (0, Some(k.as_bytes()), v.map(str::as_bytes))).collect();
    let plain = Batch::new(1_700_000_000_000).records(&fields);
    let body = compress(codec, plain.build()[HEAD_BYTES..].to_vec()).unwrap();
    plain.attributes(codec).body(&body).build()
}

/// Offset, key and value of all records.
fn read(client: &mut Client, topic: &str) -> Vec<(i64, String, Option<String>)> {
    let string = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    let mut out = Vec::new();
    for (head, bytes) in batches(&client.fetch(topic, 0, 0)) {
        let body = body(&bytes, &head, 1 << 20).unwrap().unwrap();
        out.extend(
            Records::new(&body)
                .map(|r| r.unwrap())
                .map(|r| (head.base_offset + i64::from(r.offset_delta), string(r.key.unwrap()), r.value.map(string))),
        );
    }
    out
}

fn run(dir: &Path, program: &Path, arguments: &[&str]) -> String {
    let out = dir.join("out");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
    let mut process = Process::spawn(command, dir.join("tool.stderr"));
    process.exit(LIMIT);
    fs::read_to_string(&out).unwrap()
}

#[test]
fn a_compacted_topic_keeps_the_last_values() {
    let mut cluster = Cluster::start(1, SETTINGS);
    create(
        &cluster,
        "t",
        &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("segment.bytes", "4000"),
            ("delete.retention.ms", "600000"),
        ],
    );
    let mut client = cluster.client(1);
    let mut last = BTreeMap::new();
    let mut sent = 0;
    for i in 0..300i64 {
        let keys = [format!("key {}", i % 17), format!("key {}", i % 23)];
        // Compressible, but not to nothing.
        let value = format!("{i} {}", (0..30).map(|n| (n * i % 97).to_string()).collect::<String>());
        let value = (i % 10 != 7).then_some(value.as_str());
        let offset = client.produce("t", 0, &batch((i % 5) as i16, &[(&keys[0], value), (&keys[1], value)]));
        assert_eq!(offset, sent);
        for key in keys {
            last.insert(key, (sent, value.map(str::to_owned)));
            sent += 1;
        }
    }
    let answer = client.call(7, &produce_request("t", 0, &Batch::new(1).values(&["no key"]).build(), -1));
    assert_eq!(answer.responses[0].partition_responses[0].error_code, ResponseError::InvalidRecord.code(), "a record without a key");
    let active = |cluster: &mut Cluster| files(&cluster.node(1).logs().join("t-0"), "log").last().unwrap().0;
    let compacted = |cluster: &mut Cluster, client: &mut Client| {
        let end = active(cluster);
        let all = read(client, "t");
        let below = all.iter().filter(|r| r.0 < end).count();
        (below <= 23).then_some(all)
    };
    let all = eventually("what is closed is compacted", SOON, || compacted(&mut cluster, &mut client));
    let seen: BTreeMap<String, (i64, Option<String>)> = all.iter().map(|(o, k, v)| (k.clone(), (*o, v.clone()))).collect();
    assert_eq!(seen, last, "tombstones stay for delete.retention.ms");
    let checkpoint = cluster.node(1).logs().join("cleaner-offset-checkpoint");
    let want = format!("0\n1\nt 0 {}\n", active(&mut cluster));
    eventually("the checkpoint is written", SOON, || (fs::read_to_string(&checkpoint).unwrap() == want).then_some(()));

    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    cluster.leaders("t");
    let mut client = cluster.client(1);
    assert_eq!(read(&mut client, "t"), all);
    assert_eq!(client.produce("t", 0, &batch(0, &[("one", Some("more"))])), sent);

    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA").map(PathBuf::from) else {
        septet_testing::skip("kafka-dump-log, kafka-console-consumer", "SEPTET_TEST_KAFKA is not set");
        return;
    };
    let server = format!("127.0.0.1:{}", cluster.node(1).port);
    let consumer = kafka.join("bin/kafka-console-consumer.sh");
    let arguments = ["--bootstrap-server", &server, "--topic", "t", "--partition", "0", "--offset", "earliest", "--timeout-ms", "10000"];
    let shown = ["--max-messages", &(all.len() + 1).to_string(), "--property", "print.key=true", "--property", "print.offset=true"]
        .map(str::to_owned);
    let arguments: Vec<&str> = arguments.into_iter().chain(shown.iter().map(String::as_str)).collect();
    let said = run(cluster.dir.path(), &consumer, &arguments);
    let line = |(o, k, v): &(i64, String, Option<String>)| format!("Offset:{o}\t{k}\t{}", v.as_deref().unwrap_or("null"));
    let want: Vec<String> = all.iter().map(line).chain([format!("Offset:{sent}\tone\tmore")]).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), want);

    assert_eq!(cluster.node(1).running().terminate().code(), Some(0));
    cluster.node(1).process = None;
    let dir = cluster.node(1).logs().join("t-0");
    let paths = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| ["log", "index", "timeindex", "snapshot"].iter().any(|w| e == *w)));
    let paths: Vec<String> = paths.map(|p| p.display().to_string()).collect();
    let said = run(cluster.dir.path(), &kafka.join("bin/kafka-dump-log.sh"), &["--deep-iteration", "--files", &paths.join(",")]);
    for complaint in ["Mismatches", "out of order", "not found", "Found", "nvalid", "Exception"] {
        assert!(!said.contains(complaint), "{complaint}: {said}");
    }
    assert_eq!(said.matches("| offset: ").count(), all.len() + 1, "{said}");
    assert!(said.contains("deleteHorizonMs: OptionalLong["), "{said}");
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        assert!(said.contains(&format!("compresscodec: {codec}")), "{codec}");
    }
}

#[test]
fn tombstones_go_and_a_mixed_policy_deletes_too() {
    let cluster = Cluster::start(1, &format!("{SETTINGS}\nlog.retention.check.interval.ms=100"));
    let compact =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.bytes", "1000"), ("delete.retention.ms", "0")];
    create(&cluster, "t", &compact);
    create(
        &cluster,
        "mixed",
        &[("cleanup.policy", "compact,delete"), ("retention.ms", "1000"), ("segment.bytes", "1000"), ("file.delete.delay.ms", "0")],
    );
    let mut client = cluster.client(1);
    client.produce("t", 0, &batch(0, &[("gone", Some("value"))]));
    client.produce("t", 0, &batch(0, &[("gone", None)]));
    client.produce("mixed", 0, &batch(0, &[("old", Some("value"))]));
    eventually("the tombstone has gone", SOON, || {
        client.produce("t", 0, &batch(0, &[("fill", Some(&"x".repeat(300)))]));
        (!read(&mut client, "t").iter().any(|r| r.1 == "gone")).then_some(())
    });
    // Its timestamp is years ago.
    eventually("retention takes the record", SOON, || (client.list_offsets(7, "mixed", 0, -2) == (0, 1, -1)).then_some(()));
}

/// The broker is killed in the middle of its work, which it is at all the time: compaction has no pause here.
#[test]
fn kills_while_compacting_lose_nothing() {
    let mut cluster = Cluster::start(1, "log.cleaner.backoff.ms=0\nlog.segment.delete.delay.ms=0");
    create(&cluster, "t", &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("segment.bytes", "1500")]);
    let mut last = BTreeMap::new();
    let mut n = 0;
    for round in 0..8 {
        let mut client = cluster.client(1);
        for _ in 0..60 + round * 7 {
            let (key, value) = (format!("key {}", n * 7 % 13), format!("{n} {}", "x".repeat(n % 90)));
            let offset = client.produce("t", 0, &batch((n % 5) as i16, &[(&key, Some(&value))]));
            last.insert(key, (offset, value));
            n += 1;
        }
        cluster.node(1).kill_9();
        cluster.node(1).start();
        cluster.wait();
        cluster.leaders("t");
        let all = read(&mut cluster.client(1), "t");
        assert!(all.is_sorted_by(|a, b| a.0 < b.0), "round {round}");
        let seen: BTreeMap<String, (i64, String)> = all.into_iter().map(|(o, k, v)| (k, (o, v.unwrap()))).collect();
        assert_eq!(seen, last, "round {round}");
    }
    let said = cluster.node(1).running().said();
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn the_offsets_topic_is_compacted_and_nothing_is_lost() {
    let mut cluster = Cluster::start(1, &format!("{SETTINGS}\noffsets.topic.segment.bytes=3000\nlog.cleaner.min.cleanable.ratio=0.1"));
    cluster.create("t", 3);
    let mut client = cluster.client(1);
    let commit = |client: &mut Client, n: i64| {
        let offsets: Vec<(i32, i64, &str)> = (0..3).map(|p| (p, n + i64::from(p), "noted")).collect();
        eventually("the commit is taken", SOON, || client.commit(2, "group", "t", &offsets).iter().all(|e| *e == 0).then_some(()));
    };
    eventually("the offsets topic is there", SOON, || {
        client.call(2, &FindCoordinatorRequest::default().with_key(text("group"))).error_code.eq(&0).then_some(())
    });
    for n in 0..300 {
        commit(&mut client, n);
    }
    let size = |cluster: &mut Cluster| -> u64 {
        let dirs = fs::read_dir(cluster.node(1).logs()).unwrap().map(|e| e.unwrap().path());
        dirs.filter(|d| d.file_name().unwrap().to_str().unwrap().starts_with("__consumer_offsets-"))
            .flat_map(|d| files(&d, "log"))
            .map(|(_, b)| b.len() as u64)
            .sum()
    };
    eventually("it does not grow", SOON, || (size(&mut cluster) < 8000).then_some(()));
    for restart in 0..2 {
        match restart {
            0 => cluster.node(1).kill_9(),
            _ => {
                cluster.node(1).running().terminate();
                cluster.node(1).process = None;
            }
        }
        cluster.node(1).start();
        cluster.wait();
        let mut client = cluster.client(1);
        let got = eventually("the offsets are there", SOON, || {
            let got: Vec<_> = (0..3).map(|p| client.committed(6, "group", "t", p)).collect();
            got.iter().all(|g| g.0 == 0).then_some(got)
        });
        assert_eq!(got, (0..3).map(|p| (0, 299 + p, "noted".to_owned())).collect::<Vec<_>>());
    }
}
