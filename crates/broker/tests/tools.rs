//! Kafka's own tools against a broker of ours and one of Apache's: what they print is compared, line by line. The distribution is that
//! in SEPTET_TEST_KAFKA; without it the test is skipped, and says so.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    client::{Client, eventually},
    processes::{Cluster, Process, free_port},
};
use kafka_protocol::messages::ApiVersionsRequest;

const LIMIT: Duration = Duration::from_secs(180);

/// What a tool prints on both streams.
fn run(kafka: &Path, dir: &Path, server: &str, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(kafka.join("bin").join(words.next().unwrap()));
    command.args(["--bootstrap-server", server]).args(words).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    command.env("KAFKA_HEAP_OPTS", "-Xmx96m").env("LOG_DIR", dir);
    let out = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Without what differs between any two clusters, and without stack traces.
fn comparable(text: &str, own: &[(&str, &str)]) -> Vec<String> {
    let mut text = text.to_owned();
    for (what, name) in own {
        text = text.replace(what, name);
    }
    let noise = |l: &str| l.trim_start().starts_with("at ") || l.trim().is_empty() || l.contains(" WARN ") || l.starts_with("Caused by");
    let mut lines: Vec<String> = text.lines().filter(|l| !noise(l)).map(str::to_owned).collect();
    for line in &mut lines {
        // Times, and ids of topics and clusters.
        if line.starts_with('[') && line.contains("] ERROR") {
            *line = line.split_once("] ").unwrap().1.to_owned();
        }
        if let Some((before, after)) = line.split_once("TopicId: ") {
            *line = format!("{before}{}", after.split_once('\t').unwrap().1);
        }
        // The order of a topic's settings is that of a hash map.
        if let Some((before, settings)) = line.split_once("Configs: ") {
            let mut settings: Vec<&str> = settings.split(',').collect();
            settings.sort_unstable();
            *line = format!("{before}{}", settings.join(","));
        }
    }
    lines
}

#[test]
fn tools_print_the_same_as_with_apache_kafka() {
    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA").map(PathBuf::from) else {
        septet_testing::skip("Kafka's tools", "SEPTET_TEST_KAFKA is not set");
        return;
    };
    let cluster = Cluster::start(1, "log.retention.hours=100\ndelete.topic.enable=true");
    let (dir, port) = (cluster.dir.path(), free_port());
    // The same file but for what two brokers cannot share.
    let ours = fs::read_to_string(cluster.nodes[0].dir.join("server.properties")).unwrap();
    let theirs = ours
        .replace(&format!(":{}", cluster.nodes[0].port), &format!(":{port}"))
        .replace(cluster.nodes[0].logs().to_str().unwrap(), dir.join("apache-logs").to_str().unwrap())
        .replace(&cluster.zookeeper, &format!("{}/apache", cluster.zookeeper));
    let file = dir.join("apache.properties");
    // What Apache's defaults would take on a small machine is made smaller.
    fs::write(&file, format!("{theirs}\nlog.cleaner.dedupe.buffer.size=2000000\nnum.network.threads=1\nnum.io.threads=2\n")).unwrap();
    let mut command = Command::new(kafka.join("bin/kafka-server-start.sh"));
    command.arg(&file).env("KAFKA_HEAP_OPTS", "-Xmx256m").env("LOG_DIR", dir.join("apache")).stdin(Stdio::null());
    command.stdout(fs::File::create(dir.join("apache.stdout")).unwrap());
    let _apache = Process::spawn(command, dir.join("apache.stderr"));
    eventually("Apache's broker answers", LIMIT, || {
        let mut client = Client::try_connect(port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.try_call(2, &ApiVersionsRequest::default()).ok()
    });
    let (us, them) = (format!("127.0.0.1:{}", cluster.nodes[0].port), format!("127.0.0.1:{port}"));
    let (our_logs, their_logs) = (cluster.nodes[0].logs(), dir.join("apache-logs"));
    let topics = "--entity-type topics --entity-name t";
    let broker = "--entity-type brokers --entity-name 1";
    for line in [
        "kafka-topics.sh --create --topic t --partitions 2 --config retention.ms=1000".to_owned(),
        format!("kafka-configs.sh --describe --all {topics}"),
        format!("kafka-configs.sh --alter {topics} --add-config max.message.bytes=5000,cleanup.policy=[compact,delete]"),
        format!("kafka-configs.sh --alter {broker} --add-config log.retention.ms=5000"),
        "kafka-configs.sh --alter --entity-type brokers --entity-default --add-config message.max.bytes=70000".to_owned(),
        format!("kafka-configs.sh --describe {broker}"),
        "kafka-configs.sh --describe --entity-type brokers --entity-default".to_owned(),
        format!("kafka-configs.sh --describe {topics}"),
        format!("kafka-configs.sh --alter {topics} --delete-config max.message.bytes"),
        format!("kafka-configs.sh --alter {topics} --add-config nonsense=1"),
        format!("kafka-configs.sh --alter {topics} --add-config retention.ms=abc"),
        format!("kafka-configs.sh --alter {broker} --add-config num.partitions=5"),
        "kafka-topics.sh --alter --topic t --partitions 4".to_owned(),
        "kafka-topics.sh --alter --topic t --partitions 3".to_owned(),
        "kafka-topics.sh --describe --topic t".to_owned(),
        "kafka-log-dirs.sh --describe --topic-list t".to_owned(),
        "kafka-topics.sh --delete --topic t".to_owned(),
        "kafka-topics.sh --list".to_owned(),
    ] {
        let (ours, theirs) = std::thread::scope(|scope| {
            let ours = scope.spawn(|| run(&kafka, dir, &us, &line));
            (ours.join().unwrap(), run(&kafka, dir, &them, &line))
        });
        let ours = comparable(&ours, &[(&us, "SERVER"), (our_logs.to_str().unwrap(), "LOGS")]);
        let theirs = comparable(&theirs, &[(&them, "SERVER"), (their_logs.to_str().unwrap(), "LOGS")]);
        let mut sorted = (ours.clone(), theirs.clone());
        // Partitions of a directory come in the order of a hash map.
        if line.contains("log-dirs") {
            for lines in [&mut sorted.0, &mut sorted.1] {
                let last = lines.pop().unwrap();
                let mut words: Vec<String> = last.split(['{', '}']).map(str::to_owned).collect();
                words.sort_unstable();
                lines.extend(words);
            }
        }
        assert_eq!(sorted.0, sorted.1, "{line}:\nours:\n{}\nApache's:\n{}", ours.join("\n"), theirs.join("\n"));
    }
    let versions = run(&kafka, dir, &us, "kafka-broker-api-versions.sh");
    assert!(versions.contains("Fetch(1): 4 to 17 [usable: 17]") && versions.contains("Produce(0): 0 to 11 [usable: 11]"), "{versions}");
}
