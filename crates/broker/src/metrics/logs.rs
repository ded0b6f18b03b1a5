//! Sizes and offsets of the logs.
//!
//! Invariant: no more partitions are named than [`MAX_PARTITIONS`].

use std::sync::{Arc, Weak};

use crate::{broker::Broker, storage::Led};

/// Partitions that are named.
pub const MAX_PARTITIONS: usize = 2000;

type Ask = fn(&Led) -> f64;

const GAUGES: &[(&str, &str, Ask)] = &[
    ("kafka_log_log_size", "Bytes of the segments of a replica", |l| l.partition.size() as f64),
    ("kafka_log_log_numlogsegments", "Segments of a replica", |l| l.partition.segments() as f64),
    ("kafka_log_log_logstartoffset", "First offset of a replica", |l| l.partition.offsets().0 as f64),
    ("kafka_log_log_logendoffset", "Offset behind the last record of a replica", |l| l.partition.offsets().1 as f64),
];

/// Enters them.
pub fn register(broker: &Arc<Broker>) {
    for (name, help, ask) in GAUGES {
        let broker_of: Weak<Broker> = Arc::downgrade(broker);
        broker.metrics.collect_gauges(name, help, MAX_PARTITIONS, move || {
            let Some(broker) = broker_of.upgrade() else { return Vec::new() };
            let mut all = broker.storage.all();
            all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            // Those beyond are not asked.
            all.truncate(MAX_PARTITIONS);
            all.into_iter()
                .map(|((topic, partition), led)| (vec![("topic", topic), ("partition", partition.to_string())], ask(&led)))
                .collect()
        });
    }
}
