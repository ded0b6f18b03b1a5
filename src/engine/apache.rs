//! Apache Kafka: what its programs need, in one place. Where its archive comes from is in [`super::archive`].
//!
//! Invariant: pure.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::is_local;
use crate::{
    inventory::{ApacheSettings, Inventory, Metadata, Role, numbers},
    template::Vars,
};

/// The link to the version in use.
pub const HOME: &str = "/opt/kafka";
/// Memory that a JVM takes beside its heap, and the system beside the JVM, in MiB.
const BESIDE_HEAP_MIB: i64 = 400;
/// Heaps in local containers, in MiB: seven hosts share one machine and fit into 3 GB.
const LOCAL_BROKER_MIB: u32 = 320;
const LOCAL_CONTROLLER_MIB: u32 = 192;
const LOCAL_ZOOKEEPER_MIB: u32 = 128;
/// The least heap that is chosen for a host, in MiB.
const LEAST_BROKER_MIB: i64 = 512;
const LEAST_COORDINATOR_MIB: i64 = 256;

/// Tools of the distribution that one types, on the control host.
const TOOLS: [&str; 27] = [
    "kafka-acls",
    "kafka-broker-api-versions",
    "kafka-cluster",
    "kafka-configs",
    "kafka-console-consumer",
    "kafka-console-producer",
    "kafka-consumer-groups",
    "kafka-consumer-perf-test",
    "kafka-delete-records",
    "kafka-dump-log",
    "kafka-e2e-latency",
    "kafka-features",
    "kafka-get-offsets",
    "kafka-leader-election",
    "kafka-log-dirs",
    "kafka-metadata-quorum",
    "kafka-producer-perf-test",
    "kafka-reassign-partitions",
    "kafka-replica-verification",
    "kafka-run-class",
    "kafka-storage",
    "kafka-streams-application-reset",
    "kafka-topics",
    "kafka-transactions",
    "kafka-verifiable-consumer",
    "kafka-verifiable-producer",
    "zookeeper-shell",
];

/// The directory of a version below `/opt`.
pub fn directory(version: &str) -> String {
    format!("kafka_2.13-{version}")
}

/// The oldest Java that runs a version.
pub(super) fn least_java(version: &str) -> u32 {
    // Brokers of 4.0 and newer need Java 17 (KIP-1013).
    if numbers(version).is_some_and(|v| v.0 >= 4) { 17 } else { 11 }
}

/// Kafka's own id of the cluster: 16 bytes in base64url, made from the cluster's identity, the same on all hosts and whenever it is
/// asked for.
pub fn cluster_id(uuid: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for salt in 0u8.. {
        let mut hash = Sha256::new();
        hash.update(uuid.as_bytes());
        hash.update([salt]);
        let bytes = hash.finalize();
        let mut text = String::with_capacity(22);
        for chunk in bytes[..16].chunks(3) {
            let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                text.push(char::from(ALPHABET[(n >> (18 - 6 * i)) as usize & 63]));
            }
        }
        // Kafka's tools take an id that begins with a dash for an option.
        if !text.starts_with('-') {
            return text;
        }
    }
    String::new()
}

/// What a host of a role must have, in MiB.
pub fn needed_memory_mib(a: &ApacheSettings, role: Role) -> i64 {
    let heap = match role {
        // Tools are JVMs too.
        Role::Control | Role::Plain => 256,
        Role::Coordinator => a.coordinator_heap.map_or(LEAST_COORDINATOR_MIB, i64::from),
        Role::Broker => a.broker_heap.map_or(LEAST_BROKER_MIB, i64::from),
    };
    heap + BESIDE_HEAP_MIB
}

/// Variables for playbooks and templates.
pub fn vars(a: &ApacheSettings, inventory: &Inventory, uuid: Option<&str>) -> Vars {
    let mut v = Vars::new();
    let mut put = |k: &str, x: Value| v.insert(k.to_owned(), x);
    let dir = format!("/opt/{}", directory(&a.version));
    let start = |script: &str, file: &str| format!("{dir}/bin/{script}-start.sh {{{{ septet.config_dir }}}}/{file}");
    let local = is_local(inventory);
    put("kafka_version", json!(a.version));
    put("kafka_dir", json!(dir));
    put("kafka_home", json!(HOME));
    put("kafka_tools", json!(TOOLS));
    put("java_least", json!(least_java(&a.version)));
    put("java_home", json!(""));
    put("service_type", json!("simple"));
    put("broker_command", json!(start("kafka-server", "server.properties")));
    put("broker_files", json!(["{{ septet.config_dir }}/server.properties", "{{ septet.config_dir }}/{{ septet.log_config }}"]));
    match a.metadata {
        Metadata::Zookeeper => {
            put("coordinator_command", json!(start("zookeeper-server", "zoo.cfg")));
            put("coordinator_files", json!(["{{ septet.config_dir }}/zoo.cfg", "{{ septet.config_dir }}/{{ septet.log_config }}"]));
        }
        Metadata::Kraft => {
            put("coordinator_command", json!(start("kafka-server", "server.properties")));
            put(
                "coordinator_files",
                json!(["{{ septet.config_dir }}/server.properties", "{{ septet.config_dir }}/{{ septet.log_config }}"]),
            );
            put("kraft_cluster_id", json!(uuid.map_or_else(|| "(not known yet)".into(), cluster_id)));
        }
    }
    // 4.0 and newer log with Log4j 2, 3.x with Reload4j.
    let (log_config, log_option) = match numbers(&a.version).is_some_and(|v| v.0 >= 4) {
        true => ("log4j2.yaml", "-Dlog4j2.configurationFile=file:{{ septet.config_dir }}/log4j2.yaml"),
        false => ("log4j.properties", "-Dlog4j.configuration=file:{{ septet.config_dir }}/log4j.properties"),
    };
    put("log_config", json!(log_config));
    // Heaps: the user's setting; small ones in local containers; else by the host's memory, which the playbook knows.
    let coordinator = if a.metadata == Metadata::Kraft { LOCAL_CONTROLLER_MIB } else { LOCAL_ZOOKEEPER_MIB };
    let fixed = |configured: Option<u32>, here: u32| configured.or(local.then_some(here)).unwrap_or(0);
    put("broker_heap_mib", json!(fixed(a.broker_heap, LOCAL_BROKER_MIB)));
    put("coordinator_heap_mib", json!(fixed(a.coordinator_heap, coordinator)));
    put("beside_heap_mib", json!(BESIDE_HEAP_MIB));
    // On one machine seven JVMs start at once: the quick compiler and the simple collector cost least.
    let jvm = if local {
        "-server -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true"
    } else {
        "-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true"
    };
    put("jvm_options", json!(jvm));
    put(
        "service_environment",
        json!([
            "KAFKA_HEAP_OPTS=-Xms{{ heap_mib }}m -Xmx{{ heap_mib }}m",
            "KAFKA_JVM_PERFORMANCE_OPTS={{ septet.jvm_options }}",
            format!("KAFKA_LOG4J_OPTS={log_option}"),
            // Without `-loggc`, which is its default.
            "EXTRA_ARGS=-name kafkaServer",
            // Left empty, it would open a port of its own to everybody.
            "KAFKA_JMX_OPTS= ",
            "LOG_DIR=/var/log/kafka",
            "{% if septet.java_home %}JAVA_HOME={{ septet.java_home }}{% endif %}",
        ]),
    );
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_cluster_id_in_kafkas_form() {
        let id = cluster_id("0c1d5c7e-97a4-4a7b-b0e7-5d1c2f3a4b5c");
        assert_eq!(id, cluster_id("0c1d5c7e-97a4-4a7b-b0e7-5d1c2f3a4b5c"));
        assert_ne!(id, cluster_id("1c1d5c7e-97a4-4a7b-b0e7-5d1c2f3a4b5c"));
        for n in 0..500 {
            let id = cluster_id(&n.to_string());
            assert_eq!(id.len(), 22, "{id}");
            assert!(!id.starts_with('-') && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
        }
    }

    #[test]
    fn the_java_that_a_version_needs() {
        assert_eq!((least_java("3.9.1"), least_java("4.1.1")), (11, 17));
    }
}
