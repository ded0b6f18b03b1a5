//! Other people's clients: kcat, and kazoo and librdkafka by way of python.

use std::{process::Command, time::Duration};

use serde_json::Value;

use super::harness::Ran;

const CLIENT_TIMEOUT: Duration = Duration::from_secs(90);

/// Runs kcat against some brokers; it must succeed.
#[track_caller]
pub fn kcat(brokers: &str, args: &[&str], input: &str) -> String {
    let mut c = Command::new("kcat");
    c.args(["-q", "-b", brokers]).args(args);
    Ran::of(c, input, CLIENT_TIMEOUT).code(0).out
}

/// What kcat lists.
#[track_caller]
pub fn metadata(brokers: &str, more: &[&str]) -> Value {
    let text = kcat(brokers, &[&["-L", "-J"], more].concat(), "");
    serde_json::from_str(&text).unwrap()
}

fn python_command(script: &str, args: &[&str]) -> Command {
    let python = std::env::var("SEPTET_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut c = Command::new(python);
    c.args(["-c", script]).args(args);
    c
}

/// Runs a python script that prints JSON.
#[track_caller]
pub fn python(script: &str, args: &[&str]) -> Value {
    Ran::of(python_command(script, args), "", CLIENT_TIMEOUT).code(0).json()
}

/// Reads `/brokers/ids` and `/controller` as kazoo sees them.
pub const KAZOO: &str = r#"
import json, sys
from kazoo.client import KazooClient
zk = KazooClient(hosts=sys.argv[1], timeout=10)
zk.start(timeout=30)
ids = sorted(zk.get_children("/brokers/ids"))
hosts = {i: json.loads(zk.get("/brokers/ids/" + i)[0]) for i in ids}
print(json.dumps({"ids": ids, "hosts": hosts, "controller": json.loads(zk.get("/controller")[0])}))
zk.stop()
"#;

/// Asks for a topic: name, partitions, replication factor or -1 for the cluster's default. Prints the error, or null.
pub const CREATE_TOPIC: &str = r#"
import json, sys
from confluent_kafka.admin import AdminClient, NewTopic
servers, name, partitions, replicas = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
admin = AdminClient({"bootstrap.servers": servers})
done = admin.create_topics([NewTopic(name, partitions, replicas)], request_timeout=30)
try:
    done[name].result(60); print("null")
except Exception as e:
    print(json.dumps(str(e)))
"#;

/// Produces numbered records to the three partitions of a topic.
#[track_caller]
pub fn produce_numbers(brokers: &str, topic: &str, count: usize) {
    for partition in 0..3 {
        let lines: String = (partition..count).step_by(3).map(|n| format!("n{n}\n")).collect();
        kcat(brokers, &["-P", "-t", topic, "-p", &partition.to_string()], &lines);
    }
}

/// All records of a topic's three partitions, sorted.
#[track_caller]
pub fn consume_all(brokers: &str, topic: &str) -> Vec<String> {
    let mut out = Vec::new();
    for partition in ["0", "1", "2"] {
        let text = kcat(brokers, &["-C", "-t", topic, "-p", partition, "-o", "beginning", "-e"], "");
        out.extend(text.lines().map(str::to_owned));
    }
    out.sort();
    out
}

/// What [`produce_numbers`] wrote, sorted.
pub fn numbers(count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
    all.sort();
    all
}
