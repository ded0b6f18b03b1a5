//! What Kafka measures of a broker, under the names that the JMX exporter gives to it (`kafka_TYPE_NAME`, lower case).
//!
//! Invariant: values are read when they are asked for; nothing is counted twice.

mod logs;
mod replication;
mod requests;
mod traffic;

use std::sync::{Arc, Weak};

use septet_daemon::metrics::Registry;

use crate::{
    broker::Broker,
    cluster::{Image, PartitionInfo},
};

pub use replication::ReplicationMetrics;
pub use requests::{Requests, Timer};
pub use traffic::{TopicTraffic, Traffic};

type Ask = fn(&Broker) -> usize;

const GAUGES: &[(&str, &str, Ask)] = &[
    ("kafka_server_replicamanager_partitioncount", "Replicas of this broker", |b| b.storage.all().len()),
    ("kafka_server_replicamanager_leadercount", "Partitions that this broker leads", |b| {
        b.storage.all().iter().filter(|(_, p)| p.partition.leads()).count()
    }),
    ("kafka_server_replicamanager_underreplicatedpartitions", "Partitions that this broker leads and whose ISR is not complete", |b| {
        let image = b.image();
        partitions(&image).filter(|p| p.leader == b.id() && p.isr.len() < p.replicas.len()).count()
    }),
    ("kafka_server_replicamanager_offlinereplicacount", "Replicas of this broker that cannot be used", |b| {
        if b.storage.shared.log_dir.is_offline() { b.storage.all().len() } else { 0 }
    }),
    ("kafka_log_logmanager_offlinelogdirectorycount", "Log directories that cannot be used", |b| {
        usize::from(b.storage.shared.log_dir.is_offline())
    }),
    ("kafka_controller_kafkacontroller_activecontrollercount", "1 on the controller", |b| usize::from(controls(b))),
    ("kafka_controller_kafkacontroller_activebrokercount", "Brokers that are registered; 0 but on the controller", |b| {
        if controls(b) { b.image().brokers.len() } else { 0 }
    }),
    ("kafka_controller_kafkacontroller_globaltopiccount", "Topics; 0 but on the controller", |b| {
        if controls(b) { b.image().topics.len() } else { 0 }
    }),
    ("kafka_controller_kafkacontroller_globalpartitioncount", "Partitions; 0 but on the controller", |b| {
        if controls(b) { partitions(&b.image()).count() } else { 0 }
    }),
    ("kafka_controller_kafkacontroller_offlinepartitionscount", "Partitions without a leader; 0 but on the controller", |b| {
        if controls(b) { partitions(&b.image()).filter(|p| p.leader < 0).count() } else { 0 }
    }),
];

fn controls(broker: &Broker) -> bool {
    broker.controller.borrow().is_some()
}

fn partitions(image: &Image) -> impl Iterator<Item = &PartitionInfo> {
    image.topics.values().flat_map(|topic| topic.partitions.values())
}

/// Enters a broker's metrics into its registry.
pub fn register(broker: &Arc<Broker>) {
    for (name, help, ask) in GAUGES {
        // The registry belongs to the broker: it must not keep it alive.
        let broker_of: Weak<Broker> = Arc::downgrade(broker);
        broker.metrics.ask_gauge(name, help, &[], move || broker_of.upgrade().map(|b| ask(&b) as f64));
    }
    logs::register(broker);
}

/// Metrics of the process, to which others are added.
pub fn registry() -> Arc<Registry> {
    Registry::of_process("septet-broker", env!("CARGO_PKG_VERSION"))
}
