//! Changes of the ISR, elections, and what brokers send each other.

use septet_daemon::metrics::{Counter, Histogram, Registry};

/// Upper bounds of times, in milliseconds.
const BOUNDS_MS: [f64; 9] = [1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 500.0, 1000.0, 10_000.0];

/// Counters of one broker.
#[derive(Debug)]
pub struct ReplicationMetrics {
    /// In-sync replicas have left.
    pub shrinks: Counter,
    /// In-sync replicas have joined.
    pub expands: Counter,
    /// Bytes of records that were fetched from leaders, and sent to followers.
    pub bytes_in: Counter,
    /// The same, as a leader.
    pub bytes_out: Counter,
    /// Leaders that were elected from outside of the ISR; by the controller.
    pub unclean_elections: Counter,
    /// Time of elections until they are written; by the controller.
    pub elections: Histogram,
}

impl ReplicationMetrics {
    /// In a registry.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| registry.counter(&format!("kafka_{name}_total"), help, &[]);
        Self {
            shrinks: counter(
                "server_replicamanager_isrshrinks",
                "Changes by which replicas left the ISR of partitions that this broker leads",
            ),
            expands: counter(
                "server_replicamanager_isrexpands",
                "Changes by which replicas joined the ISR of partitions that this broker leads",
            ),
            bytes_in: counter("server_brokertopicmetrics_replicationbytesin", "Bytes of records that were fetched from leaders"),
            bytes_out: counter("server_brokertopicmetrics_replicationbytesout", "Bytes of records that were sent to followers"),
            unclean_elections: counter(
                "controller_controllerstats_uncleanleaderelections",
                "Leaders that were elected from outside of the ISR, while this broker was the controller",
            ),
            elections: registry.histogram(
                "kafka_controller_controllerstats_leaderelectionrateandtimems",
                "Time until elections were written, in milliseconds, while this broker was the controller",
                &[],
                &BOUNDS_MS,
            ),
        }
    }
}
