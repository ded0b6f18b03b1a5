//! What several tests do with a cluster of Apache Kafka.

use std::{collections::BTreeMap, fs, net::SocketAddr, thread, time::Duration};

use serde_json::{Value, json};

use super::{
    archives::Archive,
    clients::{metadata, python},
    harness::{Cluster, Ran, Seen, docker, eventually},
};

/// The seven hosts in KRaft mode, without their prefix.
pub const WITH_CONTROLLERS: [&str; 7] = ["control01", "controller01", "controller02", "controller03", "kafka01", "kafka02", "kafka03"];
/// How long a cluster of JVMs may take on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Asks for a topic: servers, name, partitions, replication factor, settings as JSON. Prints the error, or null.
const CREATE_TOPIC: &str = r#"
import json, sys
from confluent_kafka.admin import AdminClient, NewTopic
servers, name, partitions, replicas, config = sys.argv[1:6]
admin = AdminClient({"bootstrap.servers": servers})
done = admin.create_topics([NewTopic(name, int(partitions), int(replicas), config=json.loads(config))],
                           request_timeout=60, operation_timeout=60)
try:
    done[name].result(80); print("null")
except Exception as e:
    print(json.dumps(str(e)))
"#;

/// Changes a setting of a topic: servers, topic, key, value. Prints null.
const ALTER_TOPIC: &str = r#"
import sys
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
servers, topic, key, value = sys.argv[1:5]
entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
admin = AdminClient({"bootstrap.servers": servers})
done = admin.incremental_alter_configs([resource], request_timeout=60)
done[resource].result(80); print("null")
"#;

/// Writes more at the end of an inventory.
pub fn add(cluster: &Cluster, more: &str) {
    let text = fs::read_to_string(cluster.inventory()).unwrap();
    fs::write(cluster.inventory(), text + more).unwrap();
}

/// A cluster whose inventory names an archive; no container yet.
pub fn cluster(letter: &str, hosts: &[&'static str], archive: &Archive, more: &str) -> Cluster {
    let cluster = Cluster::of(letter, hosts);
    add(&cluster, &format!("engine: {{apache: {{{}{more}}}}}\n", archive.settings()));
    cluster
}

/// Makes a topic of three partitions with three replicas each.
#[track_caller]
pub fn create_topic(servers: &str, name: &str, config: &Value) {
    let refused = python(CREATE_TOPIC, &[servers, name, "3", "3", &config.to_string()]);
    assert_eq!(refused, Value::Null);
}

#[track_caller]
pub fn alter_topic(servers: &str, topic: &str, key: &str, value: &str) {
    python(ALTER_TOPIC, &[servers, topic, key, value]);
}

/// Insists that each of three brokers leads a partition of a topic that has three replicas of each, all of them in sync.
#[track_caller]
pub fn is_spread(servers: &str, topic: &str) {
    let what = |servers: &str| {
        let listed = metadata(servers, &["-t", topic]);
        let mut leaders = Vec::new();
        for p in listed["topics"][0]["partitions"].as_array().unwrap() {
            assert_eq!(p["replicas"].as_array().unwrap().len(), 3, "{listed}");
            let in_sync = p["isrs"].as_array().unwrap().len();
            leaders.push((p["leader"].as_i64().unwrap(), in_sync));
        }
        leaders.sort_unstable();
        leaders
    };
    let mut last = Vec::new();
    eventually(&format!("{topic} is led by each broker and in sync"), PATIENCE, || {
        last = what(servers);
        last == [(1, 3), (2, 3), (3, 3)]
    });
}

/// Runs one of Kafka's tools on the control host, with the words as they are.
#[track_caller]
pub fn tool(cluster: &Cluster, words: &[&str]) -> Ran {
    cluster.ok(&[&["exec", "control", "--"], words].concat())
}

/// The first broker as hosts of the cluster know it.
pub fn inside(cluster: &Cluster) -> String {
    format!("{}:9092", cluster.host("kafka01"))
}

/// Kafka's console tools on the control host: what they write, they read.
#[track_caller]
pub fn console_tools(cluster: &Cluster, topic: &str) {
    let server = inside(cluster);
    let produce = format!("printf 'one\\ntwo\\nthree\\n' | kafka-console-producer.sh --bootstrap-server {server} --topic {topic}");
    cluster.ok(&["exec", "control", "--", &produce]);
    let consume = ["kafka-console-consumer.sh", "--bootstrap-server", &server, "--topic", topic];
    let all = ["--from-beginning", "--max-messages", "3", "--timeout-ms", "60000"];
    let out = tool(cluster, &[&consume[..], &all].concat()).out;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
}

/// Resident memory of each host's service is told.
pub fn tell_memory(cluster: &Cluster) {
    let mut total = 0;
    for host in &cluster.hosts {
        let name = cluster.host(host);
        let script = "for f in /proc/[0-9]*; do [ \"$(cat $f/comm 2>/dev/null)\" = java ] && grep VmRSS $f/status; done; true";
        let out = docker(&["exec", &name, "sh", "-c", script]);
        let kib: u64 = out.split_whitespace().filter_map(|w| w.parse::<u64>().ok()).sum();
        eprintln!("{host}: {} MB resident in JVMs", kib / 1024);
        total += kib / 1024;
    }
    eprintln!("all hosts of {}: {total} MB", cluster.name);
    assert!(total < 3 * 1024, "the JVMs of all hosts take {total} MB");
}

/// `docker restart` of all hosts at once; everything must be healthy by itself.
#[track_caller]
pub fn restart_all(cluster: &Cluster) {
    let names: Vec<String> = cluster.hosts.iter().map(|h| cluster.host(h)).collect();
    let restarts: Vec<_> = names.into_iter().map(|name| thread::spawn(move || docker(&["restart", "-t", "60", &name]))).collect();
    for r in restarts {
        r.join().unwrap();
    }
    cluster.ok(&["health", "--wait", "300"]);
}

/// The same hosts under the same addresses, and no service was restarted.
#[track_caller]
pub fn nothing_touched(before: &BTreeMap<String, Seen>, cluster: &Cluster) {
    assert_eq!(*before, cluster.seen());
}

/// The notes of `septet health`, of hosts without the prefix.
#[track_caller]
pub fn notes(cluster: &Cluster) -> BTreeMap<String, String> {
    let report = cluster.ok(&["health", "--json"]).json();
    let prefix = format!("{}-", cluster.prefix());
    let note = |h: &Value| {
        let name = h["name"].as_str().unwrap().strip_prefix(&prefix).unwrap().to_owned();
        (name, h["note"].as_str().unwrap().to_owned())
    };
    report["hosts"].as_array().unwrap().iter().map(note).collect()
}

/// What Kafka wrote when storage was formatted, of each host that has such: cluster id and the directory's own id.
#[track_caller]
pub fn formatted(cluster: &Cluster) -> BTreeMap<String, (String, String)> {
    let hosts = cluster.hosts.iter().filter(|h| **h != "control01");
    hosts
        .map(|h| {
            let text = docker(&["exec", &cluster.host(h), "cat", "/data/kafka-logs/meta.properties"]);
            let value = |key: &str| {
                let line = text.lines().find_map(|l| l.strip_prefix(&format!("{key}=")));
                line.unwrap_or_else(|| panic!("no {key} on {h}: {text}")).to_owned()
            };
            ((*h).to_owned(), (value("cluster.id"), value("directory.id")))
        })
        .collect()
}

/// Addresses of hosts of a role, with a port.
pub fn addresses(cluster: &Cluster, role: &str, port: u16) -> Vec<SocketAddr> {
    let hosts = cluster.seen().into_iter().filter(|(id, _)| id.trim_end_matches(char::is_numeric) == role);
    hosts.map(|(_, s)| SocketAddr::new(s.address.parse().unwrap(), port)).collect()
}

/// Kills the process of a unit with SIGKILL.
#[track_caller]
pub fn kill_9(host: &str, unit: &str) {
    let script = format!("pid=$(systemctl show -p MainPID --value {unit}); [ \"$(cat /proc/$pid/comm)\" = java ] && kill -9 $pid");
    docker(&["exec", host, "sh", "-c", &script]);
}

/// One broker's process is killed: what others lack is said until systemd has it back.
#[track_caller]
pub fn broker_killed(cluster: &Cluster, topic: &str) {
    let name = cluster.host("kafka02");
    // Long enough away that the others notice.
    let drop_in = "d=/run/systemd/system/kafka-server.service.d; mkdir -p $d; printf '[Service]\\nRestartSec=25\\n' > $d/slow.conf; systemctl daemon-reload";
    docker(&["exec", &name, "sh", "-c", drop_in]);
    kill_9(&name, "kafka-server");
    let lacking = format!("topic {topic} has 2 of 3 replicas in sync: partition 0, 1, 2");
    let mut problems = BTreeMap::new();
    eventually("health says what is under-replicated", Duration::from_secs(60), || {
        problems = cluster.problems();
        problems.get("brokers").is_some_and(|r: &Vec<String>| r.contains(&lacking))
    });
    assert!(problems["kafka02"].iter().any(|r| r.contains("kafka-server.service is activating")), "{problems:?}");
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["brokers", "kafka02"], "{problems:?}");
    cluster.ok(&["health", "--wait", "300"]);
    assert_eq!(docker(&["exec", &name, "systemctl", "show", "-p", "NRestarts", "--value", "kafka-server"]), "1");
    docker(&["exec", &name, "sh", "-c", "rm -r /run/systemd/system/kafka-server.service.d; systemctl daemon-reload"]);
    is_spread_somehow(&cluster.bootstrap(), topic);
}

/// Insists that all replicas of a topic are in sync, whoever leads.
#[track_caller]
pub fn is_spread_somehow(servers: &str, topic: &str) {
    eventually(&format!("all replicas of {topic} are in sync"), PATIENCE, || {
        let listed = metadata(servers, &["-t", topic]);
        let partitions = listed["topics"][0]["partitions"].as_array().unwrap().clone();
        partitions.len() == 3 && partitions.iter().all(|p| p["isrs"].as_array().unwrap().len() == 3)
    });
}

/// Another engine or mode is refused by `plan` and `up`, with nothing touched.
#[track_caller]
pub fn other_engines_refused(cluster: &Cluster, is: &str, others: &[(&str, &str)]) {
    let before = cluster.seen();
    let text = fs::read_to_string(cluster.inventory()).unwrap();
    let engine = text.lines().find(|l| l.starts_with("engine:")).unwrap().to_owned();
    for (line, kind) in others {
        cluster.edit(&engine, line);
        for command in ["plan", "up"] {
            let ran = cluster.run(&[command]).code(1);
            let words = format!("the cluster runs `{is}`, the inventory wants `{kind}`: nothing was touched");
            ran.says(&[&words, "would be lost", "septet -i inventory.yml down"]);
        }
        cluster.edit(line, &engine);
    }
    nothing_touched(&before, cluster);
}

/// Takes everything away: what is listed afterwards is nothing.
#[track_caller]
pub fn down(cluster: &Cluster) {
    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(receipt["left"], json!([]), "{receipt}");
    assert!(receipt["removed"].as_array().unwrap().len() > 2 * cluster.hosts.len(), "{receipt}");
    cluster.is_gone();
    cluster.ok(&["down", "--yes"]).says(&["does not exist"]);
}

/// Every host has the new names everywhere, and the old ones nowhere.
#[track_caller]
pub fn is_named(cluster: &Cluster, new: &str, old: &str) {
    cluster.is_whole();
    for host in &cluster.hosts {
        let name = format!("{new}-{host}");
        let script = "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/septet/* 2>/dev/null || true";
        let text = docker(&["exec", &name, "sh", "-c", script]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], [&name, &name], "{text}");
        assert!(!text.contains(&format!("{old}-")), "on {name}: {text}");
        for other in &cluster.hosts {
            let fqdn = format!(" {new}-{other}.foo.bar {new}-{other}");
            assert!(lines.iter().any(|l| l.ends_with(&fqdn)), "no{fqdn} on {name}: {text}");
        }
    }
}

/// The same containers under the same addresses, never stopped; whoever serves was restarted.
#[track_caller]
pub fn same_hosts_restarted(before: &BTreeMap<String, Seen>, after: &BTreeMap<String, Seen>) {
    let what = |all: &BTreeMap<String, Seen>| -> Vec<[String; 3]> {
        all.values().map(|s| [s.id.clone(), s.address.clone(), s.container_started.clone()]).collect()
    };
    assert_eq!(what(before), what(after));
    for (host, was) in before.iter().filter(|(h, _)| !h.starts_with("control")) {
        assert_ne!(was.unit_started, after[host].unit_started, "{host}");
    }
}
