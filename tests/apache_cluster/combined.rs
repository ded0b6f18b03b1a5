//! Brokers that are controllers too, on hosts without a Java but that of an archive: a roll that a topic's `min.insync.replicas`
//! stops, then another version, with a disk that is full at first.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sha2::{Digest, Sha512};

use super::{
    archives::{self, Archive},
    clients::{consume_all, numbers, produce_numbers},
    harness::{Cluster, docker, docker_try, enabled},
    steps::{add, alter_topic, cluster, create_topic, down, formatted, inside, is_spread_somehow, notes, nothing_touched, tool},
};

const FOUR: [&str; 4] = ["control01", "kafka01", "kafka02", "kafka03"];
const RECORDS: usize = 300;

/// A combined cluster; no container yet.
fn combined(letter: &str, archive: &Archive, more: &str) -> Cluster {
    let cluster = cluster(letter, &FOUR, archive, more);
    add(&cluster, "groups: {coordinators: {count: 0}}\n");
    cluster
}

/// An archive of the Java that the node image with Java has.
fn java_archive(dir: &Path, kafka: &Archive) -> PathBuf {
    let image = || {
        let all = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "septet-node"]);
        all.lines().find(|l| l.contains(":java-")).map(str::to_owned)
    };
    let image = image().unwrap_or_else(|| {
        combined("j", kafka, "").ok(&["up"]);
        image().unwrap()
    });
    let path = dir.join("java.tgz");
    let script = "d=$(dirname $(dirname $(readlink -f $(command -v java)))) && cd $d/.. && tar -chf - ${d##*/} | gzip -1";
    let mut c = Command::new("docker");
    c.args(["run", "--rm", "--network", "none", &image, "sh", "-c", script]).stdout(File::create(&path).unwrap());
    assert!(c.status().unwrap().success());
    path
}

/// With what a host's service was started.
fn command_line(name: &str) -> String {
    let script = "pid=$(systemctl show -p MainPID --value kafka-server); tr '\\0' ' ' < /proc/$pid/cmdline";
    docker(&["exec", name, "sh", "-c", script])
}

/// The Java of the archive is the only one there is.
fn runs_on_its_java(cluster: &Cluster) {
    for host in FOUR {
        let name = cluster.host(host);
        assert_ne!(docker_try(&["exec", &name, "sh", "-c", "command -v java"]).code, Some(0), "{host}");
        assert!(!docker(&["inspect", "--format", "{{.Config.Image}}", &name]).contains("java"));
    }
    let line = command_line(&cluster.host("kafka01"));
    assert!(line.starts_with("/opt/java-") && line.contains("/bin/java "), "{line}");
}

#[test]
fn combined_and_another_version() {
    if !enabled("combined_and_another_version") {
        return;
    }
    let (Some(old), Some(new)) = (archives::find("3.9.1"), archives::find("4.1.1")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let java = java_archive(dir.path(), &old);
    let sum: String = Sha512::digest(fs::read(&java).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    let unsure = format!("java: {{archive: {}}}", java.display());
    let cluster = combined("c", &old, &format!(", {unsure}"));
    cluster.run(&["up"]).code(1).says(&["java.tgz: no SHA-512 to check it against", &format!("write `sha512: {sum}`")]);
    cluster.is_gone();
    cluster.edit(&unsure, &format!("java: {{archive: {}, sha512: {sum}}}", java.display()));
    let up = cluster.ok(&["up"]).says(&["up and healthy"]);
    eprintln!("up, combined: {:.1} s", up.took.as_secs_f64());
    cluster.is_whole();
    runs_on_its_java(&cluster);
    let roles = notes(&cluster);
    let count = |what: &str| roles.values().filter(|n| n.as_str() == what).count();
    assert_eq!((count("leader"), count("follower")), (1, 2), "{roles:?}");
    cluster.ok(&["up"]).says(&["nothing changed"]);

    let servers = cluster.bootstrap();
    create_topic(&servers, "kept", &json!({}));
    produce_numbers(&servers, "kept", RECORDS);
    a_roll_that_stops(&cluster, &servers);
    another_version(&cluster, &servers, &old, &new);
    down(&cluster);
}

fn a_roll_that_stops(cluster: &Cluster, servers: &str) {
    create_topic(servers, "strict", &json!({"min.insync.replicas": "3"}));
    is_spread_somehow(servers, "strict");
    let before = cluster.seen();
    cluster.edit("vars:\n", "vars:\n  kafka_config: {log.segment.bytes: 52428800, log.retention.huors: 5}\n");
    let misspelt = "unknown Kafka setting `log.retention.huors`, it has no effect; did you mean `log.retention.hours`?";
    cluster.run(&["plan", "--exit-code"]).code(4).says(&["warning:", misspelt]).shows(&["+log.segment.bytes=52428800"]);
    assert_eq!(cluster.ok(&["plan", "--json"]).says(&["warning:", misspelt]).json()["pending"], true);
    // Each partition has three replicas, so that no broker may go: which, the gate says.
    let ran = cluster.run(&["up"]).code(1).says(&["warning:", misspelt, "the roll stopped before", "the gate does not open", "hint:"]);
    for partition in 0..3 {
        let words = format!("topic strict partition {partition} would have 2 replicas in sync without ");
        assert!(ran.err.contains(&words), "no `{words}`: {}", ran.show());
    }
    assert!(ran.err.contains("under its min.insync.replicas of 3") && !ran.err.contains("topic kept"), "{}", ran.show());
    nothing_touched(&before, cluster);

    alter_topic(servers, "strict", "min.insync.replicas", "2");
    cluster.ok(&["up"]);
    for (host, was) in cluster.seen().iter().filter(|(h, _)| h.starts_with("broker")) {
        assert_ne!(was.unit_started, before[host].unit_started, "{host}");
    }
    assert!(
        tool(cluster, &["kafka-configs.sh", "--bootstrap-server", &inside(cluster), "--describe", "--all", "--broker", "2"])
            .out
            .contains("log.segment.bytes=52428800")
    );
    assert_eq!(consume_all(servers, "kept"), numbers(RECORDS));
}

fn another_version(cluster: &Cluster, servers: &str, old: &Archive, new: &Archive) {
    let (before, storage) = (cluster.seen(), formatted(cluster));
    cluster.edit(&old.settings(), &new.settings());
    // A restart for each broker, and nothing else that would go.
    let plan = cluster.run(&["plan", "--exit-code"]).code(4).shows(&["/opt/kafka_2.13-4.1.1"]);
    assert!(plan.out.contains("Broker  would change on 3 hosts (kafka01-03)"), "{}", plan.show());
    nothing_touched(&before, cluster);

    // One host has no room for it: the old one runs on, and nothing of the new one is left.
    let host = cluster.host("kafka03");
    let full = "mkdir /old && mount --bind /opt /old && mount -t tmpfs -o size=16m none /opt && ln -s /old/kafka_2.13-3.9.1 /opt/ && ln -s /opt/kafka_2.13-3.9.1 /opt/kafka";
    docker(&["exec", &host, "sh", "-c", full]);
    cluster.run(&["up"]).code(1).says(&[&host, "no space is left"]);
    assert_eq!(docker(&["exec", &host, "ls", "-A", "/opt"]), "kafka\nkafka_2.13-3.9.1");
    nothing_touched(&before, cluster);
    cluster.ok(&["health"]);
    docker(&["exec", &host, "sh", "-c", "umount /opt && umount /old && rmdir /old"]);

    let up = cluster.ok(&["up"]);
    eprintln!("another version: {:.1} s", up.took.as_secs_f64());
    for host in FOUR {
        assert_eq!(docker(&["exec", &cluster.host(host), "readlink", "-f", "/opt/kafka"]), "/opt/kafka_2.13-4.1.1");
    }
    for host in &FOUR[1..] {
        let line = command_line(&cluster.host(host));
        assert!(line.contains("kafka_2.13-4.1.1") && !line.contains("3.9.1"), "{line}");
    }
    cluster.is_whole();
    assert_eq!(formatted(cluster), storage, "storage is formatted once");
    assert_eq!(consume_all(servers, "kept"), numbers(RECORDS));
    assert_eq!(tool(cluster, &["kafka-topics.sh", "--version"]).out.split_whitespace().next(), Some("4.1.1"));
    cluster.ok(&["up"]).says(&["nothing changed"]);
}
