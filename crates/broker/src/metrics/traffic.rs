//! What clients send and read, in all and by topic.
//!
//! Invariant: there are no more topics by name than [`MAX_TOPICS`]; those beyond it are counted in all only.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use septet_daemon::metrics::{Counter, Registry};

/// Topics that are counted by name.
pub const MAX_TOPICS: usize = 1000;

/// Counters of one topic, which are those of all topics too.
#[derive(Debug)]
pub struct TopicTraffic {
    topic: Option<Counters>,
    all: Counters,
}

#[derive(Debug, Clone)]
struct Counters {
    bytes_in: Counter,
    bytes_out: Counter,
    messages_in: Counter,
}

impl Counters {
    fn new(registry: &Registry, labels: &[(&str, &str)]) -> Self {
        let counter = |name: &str, help: &str| registry.counter(&format!("kafka_server_brokertopicmetrics_{name}_total"), help, labels);
        Self {
            bytes_in: counter("bytesin", "Bytes of records that producers sent"),
            bytes_out: counter("bytesout", "Bytes of records that consumers got"),
            messages_in: counter("messagesin", "Records that producers sent"),
        }
    }
}

impl TopicTraffic {
    /// A producer's batch was appended.
    pub fn produced(&self, bytes: usize, records: i32) {
        for c in self.topic.iter().chain([&self.all]) {
            c.bytes_in.add(bytes as u64);
            c.messages_in.add(u64::try_from(records).unwrap_or(0));
        }
    }

    fn consumed(&self, bytes: usize) {
        self.topic.iter().chain([&self.all]).for_each(|c| c.bytes_out.add(bytes as u64));
    }
}

/// Counters of all topics.
#[derive(Debug)]
pub struct Traffic {
    registry: Arc<Registry>,
    all: Counters,
    topics: RwLock<HashMap<String, Arc<TopicTraffic>>>,
}

impl Traffic {
    /// With its counters in a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        let all = Counters::new(&registry, &[]);
        Self { registry, all, topics: RwLock::default() }
    }

    /// Counters of a topic.
    pub fn topic(&self, name: &str) -> Arc<TopicTraffic> {
        if let Some(there) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return there.clone();
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= MAX_TOPICS && !topics.contains_key(name) {
            return Arc::new(TopicTraffic { topic: None, all: self.all.clone() });
        }
        let new = || {
            let counters = Counters::new(&self.registry, &[("topic", name)]);
            Arc::new(TopicTraffic { topic: Some(counters), all: self.all.clone() })
        };
        topics.entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// Records of a topic are sent to a consumer.
    pub fn consumed(&self, name: &str, bytes: usize) {
        if bytes > 0 {
            self.topic(name).consumed(bytes);
        }
    }

    /// A topic is deleted.
    pub fn forget(&self, name: &str) {
        if self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some() {
            self.registry.remove("topic", name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_are_counted_in_all_only() {
        let registry = Arc::<Registry>::default();
        let traffic = Traffic::new(registry.clone());
        for i in 0..=MAX_TOPICS {
            traffic.topic(&format!("t{i}")).produced(10, 2);
        }
        traffic.consumed("t7", 5);
        let text = registry.expose();
        let has = |line: &str| text.lines().any(|l| l == line);
        assert!(has(r#"kafka_server_brokertopicmetrics_bytesin_total{topic="t7"} 10"#), "{text}");
        assert!(has(r#"kafka_server_brokertopicmetrics_bytesout_total{topic="t7"} 5"#));
        assert!(has("kafka_server_brokertopicmetrics_messagesin_total 2002") && !text.contains("\"t1000\""));
        traffic.forget("t7");
        assert!(!registry.expose().contains("\"t7\""));
        traffic.topic("another").produced(1, 1);
        assert!(registry.expose().contains("\"another\""), "there is room again");
    }
}
