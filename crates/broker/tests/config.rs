//! `server.properties`: Kafka's names and defaults; what is wrong is named by file, line and key.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, time::Duration};

use proptest::prelude::*;
use septet_broker::{
    config::{Config, ConfigError, Listener, NOT_OBEYED, OBEYED},
    groups::{GroupSettings, core::Limits},
    log::Retention,
};

const BASE: &str = "broker.id=1\nzookeeper.connect=zk1:2181\n";

fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    Config::parse(Path::new("/etc/server.properties"), text, "host-1")
}

/// A file whose first two lines are right.
fn with(lines: &str) -> Result<(Config, Vec<String>), ConfigError> {
    parse(&format!("{BASE}{lines}"))
}

fn listener(name: &str, host: &str, port: u16) -> Listener {
    Listener { name: name.into(), host: host.into(), port }
}

#[test]
fn defaults_are_those_of_kafka() {
    let (c, warnings) = parse(BASE).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    assert_eq!(c.broker_id, 1);
    assert_eq!(c.listeners, [listener("PLAINTEXT", "", 9092)]);
    assert_eq!(c.advertised, [listener("PLAINTEXT", "host-1", 9092)]);
    assert_eq!(c.log_dir, Path::new("/tmp/kafka-logs"));
    assert_eq!((c.zookeeper.as_str(), c.zookeeper_session_ms), ("zk1:2181", 18_000));
    assert_eq!((c.num_partitions, c.default_replication_factor, c.auto_create_topics), (1, 1, true));
    assert_eq!((c.segment_bytes, c.index_interval_bytes), (1_073_741_824, 4096));
    assert_eq!((c.message_max_bytes, c.request_max_bytes), (1_048_588, 104_857_600));
    assert_eq!((c.offsets_partitions, c.offsets_replication_factor), (50, 3));
    assert_eq!((c.max_connections, c.max_connections_per_ip), (i32::MAX as usize, i32::MAX as usize));
    assert_eq!((c.connections_max_idle, c.fetch_max_bytes), (Duration::from_secs(600), 57_671_680));
    assert_eq!((c.retention, c.retention_check), (Retention { ms: Some(604_800_000), bytes: None }, Duration::from_secs(300)));
    assert_eq!((c.segment_ms, c.cleanup_deletes, c.log_append_time, c.delete_topics), (604_800_000, true, false, true));
    assert_eq!((c.offsets_segment_bytes, c.groups), (104_857_600, GroupSettings::default()));
    assert_eq!((c.segment_delete_delay, c.checkpoint_interval), (Duration::from_secs(60), Duration::from_secs(60)));
    // Ours: Kafka's `queued.max.request.bytes` has no limit by default.
    assert_eq!((c.queued_request_bytes, c.queued_response_bytes), (134_217_728, 67_108_864));
    assert_eq!((c.auto_create_max_partitions, c.max_partitions_per_broker), (2000, 4000));
    assert_eq!(with("socket.request.max.bytes=200000000").unwrap().0.queued_request_bytes, 200_000_000);
    assert_eq!(with("queued.max.request.bytes=-1").unwrap().0.queued_request_bytes, 134_217_728);
}

#[test]
fn every_obeyed_key_is_obeyed() {
    let text = "# a comment\n! another\n\n   broker.id = 7  \nlisteners=plaintext://0.0.0.0:19092,INSIDE://10.0.0.7:19093\n\
        advertised.listeners=INSIDE://10.0.0.7:19093, PLAINTEXT://kafka.example:9092\n\
        listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT\ninter.broker.listener.name=INSIDE\n\
        log.dirs=/data/kafka-logs\nzookeeper.connect=a:2181, b:2181 ,c:2181/kafka\nzookeeper.session.timeout.ms=6000\nnum.partitions=6\n\
        default.replication.factor=3\nauto.create.topics.enable=FALSE\nlog.segment.bytes=1000\nlog.index.interval.bytes=0\nmessage.max.bytes=0\n\
        socket.request.max.bytes=1\noffsets.topic.num.partitions=5\noffsets.topic.replication.factor=1\nmax.connections=10\r\n\
        max.connections.per.ip=3\nconnections.max.idle.ms=1000\nfetch.max.bytes=1024\nqueued.max.request.bytes=1\n\
        septet.queued.max.response.bytes=1048576\nseptet.auto.create.max.partitions=0\nseptet.max.partitions.per.broker=9\nmetrics.port=9404\nlog.retention.hours=72\nlog.retention.bytes=1000\n\
        log.retention.check.interval.ms=5\nlog.cleanup.policy=compact\nlog.message.timestamp.type=LogAppendTime\nlog.roll.hours=2\n\
        offsets.topic.segment.bytes=2000\noffsets.retention.minutes=2\n\
        offsets.retention.check.interval.ms=7\noffsets.commit.timeout.ms=8\noffset.metadata.max.bytes=9\ngroup.initial.rebalance.delay.ms=0\n\
        group.min.session.timeout.ms=10\ngroup.max.session.timeout.ms=11\ngroup.max.size=12\n\
        log.segment.delete.delay.ms=0\nlog.flush.offset.checkpoint.interval.ms=500\ndelete.topic.enable=false\n";
    let (c, warnings) = parse(text).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    assert_eq!(c.broker_id, 7);
    assert_eq!(c.listeners, [listener("PLAINTEXT", "0.0.0.0", 19092), listener("INSIDE", "10.0.0.7", 19093)]);
    assert_eq!(c.advertised, [listener("INSIDE", "10.0.0.7", 19093), listener("PLAINTEXT", "kafka.example", 9092)]);
    assert_eq!(c.log_dir, Path::new("/data/kafka-logs"));
    assert_eq!((c.zookeeper.as_str(), c.zookeeper_session_ms), ("a:2181,b:2181,c:2181/kafka", 6000));
    assert_eq!((c.num_partitions, c.default_replication_factor, c.auto_create_topics), (6, 3, false));
    assert_eq!((c.segment_bytes, c.index_interval_bytes, c.message_max_bytes, c.request_max_bytes), (1000, 0, 0, 1));
    assert_eq!((c.offsets_partitions, c.offsets_replication_factor, c.max_connections), (5, 1, 10));
    assert_eq!((c.max_connections_per_ip, c.connections_max_idle, c.fetch_max_bytes), (3, Duration::from_secs(1), 1024));
    assert_eq!((c.queued_request_bytes, c.queued_response_bytes), (1, 1_048_576));
    assert_eq!((c.auto_create_max_partitions, c.max_partitions_per_broker), (0, 9));
    assert_eq!((c.retention, c.retention_check), (Retention { ms: Some(259_200_000), bytes: Some(1000) }, Duration::from_millis(5)));
    assert_eq!((c.segment_ms, c.cleanup_deletes, c.log_append_time, c.delete_topics), (7_200_000, false, true, false));
    let limits = Limits { initial_rebalance_delay_ms: 0, min_session_ms: 10, max_session_ms: 11, max_size: 12 };
    let groups = GroupSettings {
        limits,
        metadata_max_bytes: 9,
        offsets_retention_ms: 120_000,
        retention_check: Duration::from_millis(7),
        commit_timeout: Duration::from_millis(8),
    };
    assert_eq!((c.offsets_segment_bytes, c.groups), (2000, groups));
    assert_eq!((c.segment_delete_delay, c.checkpoint_interval), (Duration::ZERO, Duration::from_millis(500)));
}

/// docs/broker.md lists the keys.
#[test]
fn the_documentation_names_every_key() {
    let text = include_str!("../../../docs/broker.md");
    let (obeyed, rest) = text.split_once("Known and without effect:").unwrap();
    let missing =
        |keys: &[&str], text: &str| keys.iter().filter(|k| !text.contains(&format!("`{k}`"))).map(|k| k.to_string()).collect::<Vec<_>>();
    assert_eq!(missing(OBEYED, obeyed), [] as [String; 0]);
    assert_eq!(missing(NOT_OBEYED, rest), [] as [String; 0]);
}

#[test]
fn of_several_units_the_finest_counts() {
    for (text, ms) in [
        ("log.retention.ms=5\nlog.retention.minutes=1\nlog.retention.hours=1", Some(5)),
        ("log.retention.minutes=1\nlog.retention.hours=1", Some(60_000)),
        ("log.retention.hours=-1", None),
        ("log.retention.ms=-1\nlog.retention.hours=1", None),
        ("log.retention.minutes=-1", None),
        ("log.retention.hours=2147483647", Some(2_147_483_647 * 3_600_000)),
    ] {
        assert_eq!(with(text).unwrap().0.retention.ms, ms, "{text}");
    }
    assert_eq!(with("log.roll.ms=5\nlog.roll.hours=1").unwrap().0.segment_ms, 5);
    assert!(with("log.cleanup.policy=compact,delete").unwrap().0.cleanup_deletes);
}

#[test]
fn advertised_listeners_are_derived_where_they_are_not_given() {
    // (listeners, advertised)
    let cases = [
        ("PLAINTEXT://:9092", listener("PLAINTEXT", "host-1", 9092)),
        ("PLAINTEXT://0.0.0.0:9092", listener("PLAINTEXT", "host-1", 9092)),
        ("PLAINTEXT://[::]:9092", listener("PLAINTEXT", "host-1", 9092)),
        ("PLAINTEXT://[fe80::1]:9092", listener("PLAINTEXT", "fe80::1", 9092)),
        ("PLAINTEXT://10.1.2.3:65535", listener("PLAINTEXT", "10.1.2.3", 65535)),
        ("outside://kafka-1.example:1", listener("OUTSIDE", "kafka-1.example", 1)),
    ];
    for (given, want) in cases {
        let (c, _) = with(&format!("listeners={given}")).unwrap();
        assert_eq!(c.advertised, [want], "{given}");
    }
}

#[test]
fn a_bad_value_names_file_line_and_key() {
    // (third line of the file, key, part of the reason)
    let cases = [
        ("broker.id=-1", "broker.id", "\"-1\" is not a number from 0"),
        ("broker.id=one", "broker.id", "\"one\""),
        ("broker.id=2147483648", "broker.id", "2147483648"),
        ("broker.id=", "broker.id", "\"\""),
        ("broker.id", "broker.id", "\"\""),
        ("listeners=", "listeners", "is empty"),
        ("listeners= , ", "listeners", "is empty"),
        ("listeners=host:9092", "listeners", "must be NAME://host:port"),
        ("listeners=PLAINTEXT://host", "listeners", "must be NAME://host:port"),
        ("listeners=PLAINTEXT://host:", "listeners", "must be NAME://host:port"),
        ("listeners=PLAINTEXT://host:65536", "listeners", "must be NAME://host:port"),
        ("listeners=PLAINTEXT://host:-1", "listeners", "must be NAME://host:port"),
        ("listeners=://host:9092", "listeners", "must be NAME://host:port"),
        ("listeners=PLAINTEXT://a:9092,PLAINTEXT://b:9093", "listeners", "given once"),
        ("listeners=PLAINTEXT://a:9092,plaintext://b:9093", "listeners", "given once"),
        ("listeners=PLAINTEXT://a:9092,OTHER://a:9092", "listeners", "given once"),
        ("listeners=SSL://a:9093", "listeners", "only PLAINTEXT is supported"),
        ("listeners=PLAINTEXT://a:9092,sasl_ssl://a:9093", "listeners", "only PLAINTEXT is supported"),
        ("listeners=SASL_PLAINTEXT://a:9093", "listeners", "only PLAINTEXT is supported"),
        ("advertised.listeners=", "advertised.listeners", "is empty"),
        ("advertised.listeners=PLAINTEXT://0.0.0.0:9092", "advertised.listeners", "no address that a client could use"),
        ("advertised.listeners=PLAINTEXT://:9092", "advertised.listeners", "no address that a client could use"),
        ("advertised.listeners=PLAINTEXT://[::]:9092", "advertised.listeners", "no address that a client could use"),
        ("advertised.listeners=OUTSIDE://a:9092", "advertised.listeners", "OUTSIDE is not one of the listeners"),
        ("advertised.listeners=PLAINTEXT://a:1,PLAINTEXT://b:2", "advertised.listeners", "given once"),
        ("listener.security.protocol.map=PLAINTEXT:SSL", "listener.security.protocol.map", "only PLAINTEXT is supported"),
        ("listener.security.protocol.map=PLAINTEXT", "listener.security.protocol.map", "only PLAINTEXT is supported"),
        ("security.inter.broker.protocol=SSL", "security.inter.broker.protocol", "only PLAINTEXT is supported"),
        ("inter.broker.listener.name=INSIDE", "inter.broker.listener.name", "INSIDE is not one of the listeners"),
        ("log.dirs=/a,/b", "log.dirs", "only one directory"),
        ("log.dir=/a,/b", "log.dir", "only one directory"),
        ("log.dirs=", "log.dirs", "is empty"),
        ("zookeeper.session.timeout.ms=99", "zookeeper.session.timeout.ms", "from 100"),
        ("num.partitions=0", "num.partitions", "from 1"),
        ("num.partitions=1.5", "num.partitions", "\"1.5\""),
        ("default.replication.factor=0", "default.replication.factor", "from 1"),
        ("auto.create.topics.enable=yes", "auto.create.topics.enable", "neither true nor false"),
        ("log.segment.bytes=13", "log.segment.bytes", "from 14"),
        ("log.segment.bytes=1GB", "log.segment.bytes", "\"1GB\""),
        ("log.index.interval.bytes=-1", "log.index.interval.bytes", "from 0"),
        ("message.max.bytes=-1", "message.max.bytes", "from 0"),
        ("socket.request.max.bytes=0", "socket.request.max.bytes", "from 1"),
        ("offsets.topic.num.partitions=0", "offsets.topic.num.partitions", "from 1"),
        ("offsets.topic.replication.factor=0", "offsets.topic.replication.factor", "from 1"),
        ("max.connections=0", "max.connections", "from 1"),
        ("log.retention.hours=week", "log.retention.hours", "\"week\""),
        ("log.retention.ms=-2", "log.retention.ms", "from -1"),
        ("log.retention.bytes=-2", "log.retention.bytes", "from -1"),
        ("log.retention.check.interval.ms=0", "log.retention.check.interval.ms", "from 1"),
        ("log.roll.ms=0", "log.roll.ms", "from 1"),
        ("log.roll.hours=0", "log.roll.hours", "from 1"),
        ("log.cleanup.policy=burn", "log.cleanup.policy", "neither delete nor compact"),
        ("log.message.timestamp.type=Now", "log.message.timestamp.type", "neither CreateTime nor LogAppendTime"),
        ("log.segment.delete.delay.ms=-1", "log.segment.delete.delay.ms", "from 0"),
        ("delete.topic.enable=no", "delete.topic.enable", "neither true nor false"),
        ("max.connections.per.ip=0", "max.connections.per.ip", "from 1"),
        ("connections.max.idle.ms=0", "connections.max.idle.ms", "from 1"),
        ("fetch.max.bytes=1023", "fetch.max.bytes", "from 1024"),
        ("queued.max.request.bytes=104857599", "queued.max.request.bytes", "is less than socket.request.max.bytes, 104857600"),
        ("septet.queued.max.response.bytes=1", "septet.queued.max.response.bytes", "from 1048576"),
        ("septet.auto.create.max.partitions=-1", "septet.auto.create.max.partitions", "from 0"),
        ("metrics.port=0", "metrics.port", "from 1"),
        ("septet.max.partitions.per.broker=0", "septet.max.partitions.per.broker", "from 1"),
    ];
    for (line, key, reason) in cases {
        let error = with(line).map(|(c, _)| c).expect_err(line).to_string();
        assert!(error.starts_with(&format!("/etc/server.properties:3: {key}: ")), "{line}: {error}");
        assert!(error.contains(reason), "{line}: {error}");
    }
}

#[test]
fn what_must_be_given_is_asked_for() {
    for (text, key) in [
        ("", "broker.id"),
        ("zookeeper.connect=a:2181", "broker.id"),
        ("broker.id=1", "zookeeper.connect"),
        ("broker.id=1\nzookeeper.connect=", "zookeeper.connect"),
        ("# broker.id=1\nzookeeper.connect=a:2181", "broker.id"),
    ] {
        assert_eq!(parse(text).expect_err(text).to_string(), format!("/etc/server.properties: {key} is not set"), "{text:?}");
    }
    let error = Config::read(Path::new("/nonexistent/server.properties"), "h").unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/server.properties: "), "{error}");
}

#[test]
fn what_is_not_obeyed_is_warned_of() {
    // (text from the third line on, warnings)
    let cases: [(&str, &[&str]); 5] = [
        ("num.io.threads=72", &["/etc/server.properties:3: num.io.threads is known but has no effect so far"]),
        ("log.retenttion.hours=72", &["/etc/server.properties:3: log.retenttion.hours is not a known key"]),
        ("Log.Dirs=/a", &["/etc/server.properties:3: Log.Dirs is not a known key"]),
        ("num.partitions=2\nnum.partitions=3", &["/etc/server.properties:4: num.partitions is given twice; this one counts"]),
        (
            "\na.nonsense=1\nnum.io.threads=2",
            &[
                "/etc/server.properties:4: a.nonsense is not a known key",
                "/etc/server.properties:5: num.io.threads is known but has no effect so far",
            ],
        ),
    ];
    for (text, want) in cases {
        let (_, warnings) = with(text).unwrap();
        assert_eq!(warnings, want, "{text:?}");
    }
}

#[test]
fn of_a_doubled_key_the_last_counts_and_errors_name_its_line() {
    let (c, _) = with("num.partitions=2\nnum.partitions=3").unwrap();
    assert_eq!(c.num_partitions, 3);
    let error = with("num.partitions=2\nnum.partitions=x").unwrap_err().to_string();
    assert!(error.starts_with("/etc/server.properties:4: num.partitions: "), "{error}");
}

#[test]
fn a_listener_named_after_a_protocol_may_be_mapped_to_plaintext() {
    let (c, _) = with("listeners=SSL://:9092\nlistener.security.protocol.map=SSL:PLAINTEXT\ninter.broker.listener.name=SSL").unwrap();
    assert_eq!(c.advertised, [listener("SSL", "host-1", 9092)]);
    with("security.inter.broker.protocol=plaintext").unwrap();
}

#[test]
fn the_program_checks_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.properties");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_septet-broker")).arg("--check").arg(&file).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, stdout, stderr) = run(&format!("{BASE}nonsense=1"));
    assert_eq!((code, stdout), (Some(0), format!("{}: ok\n", file.display())));
    assert!(stderr.contains(&format!("{}:3: nonsense is not a known key", file.display())), "{stderr}");
    let (code, stdout, stderr) = run(&format!("{BASE}num.partitions=none"));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.starts_with(&format!("septet-broker: {}:3: num.partitions: ", file.display())), "{stderr}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_taken_or_refused(text in "([a-z.]{0,20}[=:]?[ -~\u{e4}]{0,20}\n){0,10}", lines in prop::collection::vec("[ -~]{0,30}", 0..4)) {
        let _ = parse(&text);
        for key in ["listeners", "advertised.listeners", "listener.security.protocol.map", "log.dirs", "num.partitions"] {
            for value in &lines {
                let _ = with(&format!("{key}={value}"));
            }
        }
    }
}
