//! Clients that others wrote: kcat from PATH, confluent-kafka and kafka-python of the Python in SEPTET_TEST_PYTHON,
//! Kafka's own dump-log from the distribution in SEPTET_TEST_KAFKA. What is not there is skipped, and said to be.
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
    client::{Client, eventually, topic_name},
    logs::batches,
    processes::{Cluster, Node, Process},
};
use kafka_protocol::messages::{MetadataRequest, metadata_request::MetadataRequestTopic};
use septet_testing::skip;

const LIMIT: Duration = Duration::from_secs(60);

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

/// Runs a program with a file for its input. Returns what it wrote.
fn run(dir: &Path, program: &Path, arguments: &[&str], input: &str) -> String {
    let (from, to, log) = (dir.join("in"), dir.join("out"), dir.join("client.stderr"));
    fs::write(&from, input).unwrap();
    let _ = fs::remove_file(&log);
    let mut command = Command::new(program);
    command.args(arguments).stdin(fs::File::open(&from).unwrap()).stdout(fs::File::create(&to).unwrap());
    let mut process = Process::spawn(command, log);
    let status = process.exit(LIMIT);
    let out = fs::read_to_string(&to).unwrap();
    assert!(status.success(), "{} {arguments:?}: {status}\n{}\n{out}", program.display(), process.said());
    out
}

fn bootstrap(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect::<Vec<_>>().join(",")
}

#[test]
fn kcat() {
    let Some(kcat) = on_path("kcat") else {
        return skip("kcat", "it is not on PATH (apt install kcat)");
    };
    let cluster = Cluster::start(3, "");
    let (dir, servers) = (cluster.dir.path(), bootstrap(&cluster));
    let kcat = |arguments: &[&str], input: &str| run(dir, &kcat, &[&["-b", &servers, "-m", "20"], arguments].concat(), input);
    // The topic is made when it is first produced to. Each codec's batches are passed through.
    let mut want = BTreeMap::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: Vec<(String, String)> =
            (0..200).map(|i| (format!("{codec}-{i}"), format!("value {i} {}", "of many bytes ".repeat(i % 7)))).collect();
        let input: String = lines.iter().map(|(k, v)| format!("{k}\t{v}\n")).collect();
        kcat(&["-P", "-t", "lines", "-K", "\t", "-z", codec, "-X", "acks=all", "-X", "linger.ms=20"], &input);
        want.extend(lines);
    }
    let got = kcat(&["-C", "-t", "lines", "-e", "-q", "-o", "beginning", "-f", "%k\t%s\n", "-X", "check.crcs=true"], "");
    let got: Vec<(&str, &str)> = got.lines().map(|l| l.split_once('\t').unwrap()).collect();
    assert_eq!(got.len(), want.len(), "each once");
    assert_eq!(got.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(), want);
    let listed = kcat(&["-L", "-t", "lines"], "");
    assert!(listed.contains(" 3 brokers:") && listed.contains("topic \"lines\" with 3 partitions:"), "{listed}");
    let offsets = kcat(&["-Q", "-t", "lines:0:-1", "-t", "lines:1:-1", "-t", "lines:2:-1"], "");
    let sum: i64 = offsets.lines().map(|l| l.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap()).sum();
    assert_eq!(sum, 1000, "{offsets}");
    dump_log(&cluster, "lines");
}

/// Every segment and index of a topic, as Kafka's own tool sees it.
fn dump_log(cluster: &Cluster, topic: &str) {
    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA") else {
        return skip("kafka-dump-log", "SEPTET_TEST_KAFKA is not set");
    };
    let mut all = Vec::new();
    for dir in cluster.nodes.iter().flat_map(|n| fs::read_dir(n.logs()).unwrap()).map(|e| e.unwrap().path()) {
        if dir.file_name().unwrap().to_str().unwrap().starts_with(&format!("{topic}-")) {
            let files = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
            all.extend(files.filter(|p| p.extension().is_some_and(|e| e != "metadata")).map(|p| p.display().to_string()));
        }
    }
    assert!(all.len() >= 9, "{all:?}");
    let tool = Path::new(&kafka).join("bin/kafka-dump-log.sh");
    let out = run(cluster.dir.path(), &tool, &["--deep-iteration", "--files", &all.join(",")], "");
    for complaint in ["Mismatches", "out of order", "not found", "Found", "nvalid", "Exception"] {
        assert!(!out.contains(complaint), "{complaint}: {out}");
    }
    assert_eq!(out.lines().filter(|l| l.contains("isvalid: true")).count(), out.lines().filter(|l| l.contains("isvalid:")).count());
    assert_eq!(out.matches("| offset: ").count(), 1000, "all records are seen");
}

fn python(script: &str, module: &str) {
    let Some(python) = std::env::var_os("SEPTET_TEST_PYTHON").map(PathBuf::from) else {
        return skip(script, "SEPTET_TEST_PYTHON is not set");
    };
    let has = Command::new(&python).args(["-c", &format!("import {module}")]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has.is_ok_and(|s| s.success()) {
        return skip(script, &format!("{} has no module {module}", python.display()));
    }
    let cluster = Cluster::start(3, "");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let out = run(cluster.dir.path(), &python, &["-B", file.to_str().unwrap(), &bootstrap(&cluster)], "");
    assert_eq!(out.lines().last(), Some("done"), "{out}");
}

#[test]
fn confluent_kafka() {
    python("confluent.py", "confluent_kafka");
}

#[test]
fn kafka_python() {
    python("kafka_python.py", "kafka");
}

/// A broker of Apache takes over the directory of ours, and ours takes it back: each reads what the other has written, checkpoints
/// and ids included.
#[test]
fn an_apache_broker_takes_over_the_directory_and_gives_it_back() {
    let Some(kafka) = std::env::var_os("SEPTET_TEST_KAFKA").map(PathBuf::from) else {
        return skip("Apache Kafka", "SEPTET_TEST_KAFKA is not set");
    };
    let mut cluster = Cluster::start(1, "log.segment.bytes=2000");
    cluster.create("t", 2);
    let batch = |i: i64| Batch::new(1_700_000_000_000 + i).values(&[&format!("record {i}"), &"x".repeat(300)]).build();
    let mut client = cluster.client(1);
    (0..40).for_each(|i| assert_eq!(client.produce("t", i as i32 % 2, &batch(i)), i / 2 * 2));
    let contents = |client: &mut Client, partition: i32| -> Vec<Vec<u8>> {
        batches(&client.fetch("t", partition, 0)).into_iter().map(|(_, b)| b[21..].to_vec()).collect()
    };
    let want = |count: i64, partition: i64| -> Vec<Vec<u8>> {
        (0..count).filter(|i| i % 2 == partition).map(|i| batch(i)[21..].to_vec()).collect()
    };
    let id = cluster.znodes().json("/brokers/topics/t")["topic_id"].clone();
    let stop = |node: &mut Node| {
        let status = node.running().terminate();
        assert!([Some(0), Some(143)].contains(&status.code()), "{status}");
        node.process = None;
    };
    stop(cluster.node(1));
    // The same file does for both. What Apache's defaults would make on a small machine is made smaller.
    let file = cluster.node(1).dir.join("apache.properties");
    let text = fs::read_to_string(cluster.node(1).dir.join("server.properties")).unwrap();
    fs::write(&file, format!("{text}\nlog.cleaner.dedupe.buffer.size=2000000\nnum.network.threads=1\nnum.io.threads=2\n")).unwrap();
    let mut command = Command::new(kafka.join("bin/kafka-server-start.sh"));
    command.arg(&file).env("KAFKA_HEAP_OPTS", "-Xmx256m").env("LOG_DIR", cluster.dir.path()).stdin(Stdio::null());
    let out = cluster.dir.path().join("apache.stdout");
    command.stdout(fs::File::create(&out).unwrap());
    let node = cluster.node(1);
    node.process = Some(Process::spawn(command, node.dir.join("apache.stderr")));
    let port = node.port;
    let leads = |port: u16| {
        let mut client = Client::try_connect(port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let wanted = vec![MetadataRequestTopic::default().with_name(Some(topic_name("t")))];
        let answer = client.try_call(9, &MetadataRequest::default().with_topics(Some(wanted))).ok()?;
        let p = &answer.topics[0].partitions;
        (p.len() == 2 && p.iter().all(|p| p.leader_id.0 == 1 && p.error_code == 0)).then_some(())
    };
    let said = || fs::read_to_string(&out).unwrap_or_default();
    eventually("Apache's broker leads", 3 * LIMIT, || {
        assert!(!node.running().has_ended(), "{}", said());
        leads(port)
    });
    let mut client = Client::connect(port);
    for p in 0..2 {
        assert_eq!(contents(&mut client, p), want(40, p.into()), "{}", said());
        // Through indexes that ours has written.
        assert_eq!(client.list_offsets(7, "t", p, 1_700_000_000_020).1, 20);
    }
    (40..60).for_each(|i| assert_eq!(client.produce("t", i as i32 % 2, &batch(i)), i / 2 * 2));
    stop(cluster.node(1));
    let complaints: Vec<String> = said()
        .lines()
        .filter(|l| [" WARN ", " ERROR ", "ecover"].iter().any(|w| l.contains(w)) && l.contains("t-"))
        .map(str::to_owned)
        .collect();
    assert!(complaints.iter().all(|l| !l.contains("ERROR") && !l.contains("Found file") && !l.contains("ebuilding")), "{complaints:#?}");
    assert!(!said().contains("unclean shutdown"), "the clean stop was seen");

    cluster.node(1).start();
    cluster.wait();
    cluster.leaders("t");
    let mut client = cluster.client(1);
    for p in 0..2 {
        assert_eq!(contents(&mut client, p), want(60, p.into()));
        assert_eq!(client.list_offsets(7, "t", p, 1_700_000_000_050).1, 50);
    }
    assert_eq!(client.produce("t", 0, &batch(60)), 60);
    assert_eq!(cluster.znodes().json("/brokers/topics/t")["topic_id"], id);
}
