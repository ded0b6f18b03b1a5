//! Java clients and tools at their defaults, of the release whose protocol is served and of a later one: see `common/tools.rs` for where
//! they come from. What `tests/tools.rs` compares with Apache's broker is not repeated here.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use common::{processes::Cluster, tools};
use serde_json::Value;

/// Programs of one distribution against one cluster.
struct Java<'a> {
    bin: PathBuf,
    cluster: &'a Cluster,
    servers: String,
}

impl Java<'_> {
    fn dir(&self) -> &Path {
        self.cluster.dir.path()
    }

    /// Runs `name arguments…` with the brokers' addresses. Returns what it wrote.
    fn run(&self, line: &str) -> String {
        self.run_with(line, Stdio::null())
    }

    fn run_with(&self, line: &str, input: Stdio) -> String {
        let (name, arguments) = line.split_once(' ').unwrap();
        let arguments: Vec<&str> = ["--bootstrap-server", &self.servers].into_iter().chain(arguments.split(' ')).collect();
        let (out, success) = tools::run_with_input(self.dir(), &self.bin.join(format!("kafka-{name}.sh")), &arguments, input);
        assert!(success, "{line}: {out}");
        out
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Last offsets of a topic, by partition.
    fn ends(&self, topic: &str) -> Vec<i64> {
        let out = self.run(&format!("get-offsets --topic {topic}"));
        out.lines().filter_map(|l| l.strip_prefix(&format!("{topic}:"))?.split_once(':')?.1.parse().ok()).collect()
    }
}

fn events(out: &str, name: &str) -> Vec<Value> {
    let all = out.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    all.filter(|e| e["name"] == name).collect()
}

fn everything_with(variable: &str, distribution: &str) {
    let Some(kafka) = tools::distribution(variable, distribution) else { return };
    let cluster = Cluster::start(3, "group.initial.rebalance.delay.ms=100");
    let java = Java { bin: kafka.join("bin"), cluster: &cluster, servers: tools::bootstrap(&cluster) };

    // Producers and consumers with acknowledgements that are checked one by one.
    java.run("topics --create --topic t --partitions 3 --replication-factor 3");
    let out = java.run("verifiable-producer --topic t --max-messages 2000");
    assert_eq!(events(&out, "producer_send_success").len(), 2000, "{out}");
    assert_eq!(events(&out, "tool_data")[0]["acked"], 2000);
    let out = java.run("verifiable-consumer --topic t --group-id checked --max-messages 2000 --reset-policy earliest");
    let consumed: i64 = events(&out, "records_consumed").iter().map(|e| e["count"].as_i64().unwrap()).sum();
    assert_eq!(consumed, 2000, "{out}");
    let committed = events(&out, "offsets_committed");
    assert!(!committed.is_empty() && committed.iter().all(|e| e["success"] == true), "{out}");
    assert_eq!(java.ends("t").iter().sum::<i64>(), 2000);

    // What administrators do with groups.
    let out = java.run("consumer-groups --describe --group checked");
    let lags: Vec<&str> = out.lines().filter(|l| l.starts_with("checked ")).map(|l| l.split_whitespace().nth(5).unwrap()).collect();
    // The producer may have filled one partition alone: only what was consumed is committed.
    assert!(!lags.is_empty() && lags.iter().all(|l| *l == "0"), "{out}");
    let out = java.run("consumer-groups --reset-offsets --to-earliest --execute --topic t --group checked");
    // 3.9 prints them in one line.
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words.windows(4).filter(|w| w[0] == "checked" && w[3] == "0").count(), 3, "{out}");
    let out = java.run("console-consumer --topic t --group checked --max-messages 2000 --timeout-ms 60000");
    assert!(out.contains("Processed a total of 2000 messages"), "{out}");
    assert!(java.run("consumer-groups --delete --group checked").contains("was successful"));

    // Keys, compression, and what is printed of a record.
    let lines = java.file("lines", &(0..300).map(|i| format!("k{}:v{i}\n", i % 7)).collect::<String>());
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let input = Stdio::from(fs::File::open(&lines).unwrap());
        java.run_with(
            &format!(
                "console-producer --topic keyed-{codec} --compression-codec {codec} --property parse.key=true --property key.separator=:"
            ),
            input,
        );
    }
    let out = java.run(
        "console-consumer --include keyed-.* --from-beginning --max-messages 1200 --timeout-ms 60000 --property print.key=true \
         --property print.timestamp=true",
    );
    assert_eq!(out.lines().filter(|l| l.starts_with("CreateTime:") && l.contains("\tk")).count(), 1200, "{out}");

    // Load tools.
    let to = format!("bootstrap.servers={}", java.servers);
    let perf = java.bin.join("kafka-producer-perf-test.sh");
    let arguments = ["--topic", "t", "--num-records", "20000", "--record-size", "500", "--throughput", "-1", "--producer-props", &to];
    let out = tools::run(java.dir(), &perf, &arguments);
    assert!(out.contains("20000 records sent"), "{out}");
    let out = java.run("consumer-perf-test --topic t --messages 22000 --timeout 60000 --hide-header");
    let read: i64 = out.lines().find(|l| l.matches(", ").count() > 8).unwrap().split(", ").nth(4).unwrap().parse().unwrap();
    assert_eq!(read, 22000, "{out}");

    // Records that are deleted are gone on all replicas.
    let ends = java.ends("t");
    let partitions: Vec<_> = (0..3).map(|p| serde_json::json!({ "topic": "t", "partition": p, "offset": ends[p] - 10 })).collect();
    let file = java.file("delete.json", &serde_json::json!({ "partitions": partitions, "version": 1 }).to_string());
    let out = java.run(&format!("delete-records --offset-json-file {file}"));
    assert!((0..3).all(|p| out.contains(&format!("partition: t-{p}\tlow_watermark: {}", ends[p] - 10))), "{out}");
    let starts = java.run("get-offsets --topic t --time -2");
    assert!((0..3).all(|p| starts.contains(&format!("t:{p}:{}", ends[p] - 10))), "{starts}");

    // Replicas are moved, and preferred leaders elected.
    let to = |p: i32, replicas: &[i32]| serde_json::json!({ "topic": "t", "partition": p, "replicas": replicas });
    let plan = serde_json::json!({ "version": 1, "partitions": [to(0, &[3, 1, 2]), to(1, &[2, 3]), to(2, &[1])] });
    let file = java.file("plan.json", &plan.to_string());
    java.run(&format!("reassign-partitions --execute --reassignment-json-file {file}"));
    common::client::eventually("the reassignment is complete", common::processes::SOON, || {
        let out = java.run(&format!("reassign-partitions --verify --reassignment-json-file {file}"));
        (out.matches("is completed.").count() == 3).then_some(())
    });
    java.run("leader-election --election-type preferred --all-topic-partitions");
    let out = java.run("topics --describe --topic t");
    for (p, leader, replicas) in [(0, 3, "3,1,2"), (1, 2, "2,3"), (2, 1, "1")] {
        assert!(out.contains(&format!("Partition: {p}\tLeader: {leader}\tReplicas: {replicas}\t")), "{out}");
    }
    assert!(java.run("topics --describe --under-replicated-partitions").trim().is_empty());
    java.run("topics --delete --topic t");
    assert!(!java.run("topics --list").lines().any(|l| l == "t"));
}

#[test]
fn of_the_release_whose_protocol_is_served() {
    everything_with("SEPTET_TEST_KAFKA", "kafka_2.13-3.9.1");
}

#[test]
fn of_a_later_release() {
    everything_with("SEPTET_TEST_KAFKA_4", "kafka_2.13-4.1.1");
}
