//! Settings of topics, as they lie under `/config/topics`.
//!
//! Invariant: what is known of a topic was read from the coordinator; a topic whose settings cannot be read now has the broker's, and
//! they are read again when it is next asked for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::join_all;
use septet_zookeeper as zk;

use super::{image::parse_config, path, topics::is_internal};
use crate::{broker::Broker, configs::Settings, replica::Throttles, topic_settings::TopicSettings};

/// Znodes that are read at once.
const AT_ONCE: usize = 256;

/// Settings by topic, with the transaction that wrote them: what is read later is not replaced by what was written before.
#[derive(Debug)]
pub struct TopicConfigs {
    known: Mutex<HashMap<String, (i64, Settings)>>,
    throttles: Arc<Throttles>,
}

impl TopicConfigs {
    /// Nothing is known yet. The throttles hear of their part.
    pub fn new(throttles: Arc<Throttles>) -> Self {
        Self { known: Mutex::default(), throttles }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (i64, Settings)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is not known of these topics.
    pub async fn load(&self, broker: &Broker, topics: impl Iterator<Item = &str>) {
        let unknown: Vec<&str> = {
            let known = self.lock();
            topics.filter(|t| !known.contains_key(*t)).collect()
        };
        self.read(broker, &unknown).await;
    }

    /// Reads the settings of these topics again.
    pub async fn read(&self, broker: &Broker, topics: &[&str]) {
        let Some(client) = broker.zookeeper.borrow().clone() else { return };
        for some in topics.chunks(AT_ONCE) {
            let paths: Vec<String> = some.iter().map(|t| format!("{}/{t}", path::CONFIG_TOPICS)).collect();
            let read = join_all(paths.iter().map(|p| client.get_data(p))).await;
            for (topic, result) in some.iter().zip(read) {
                let (written, config) = match result {
                    Ok((data, stat)) => (stat.mzxid, parse_config(&data)),
                    Err(zk::Error::NoNode) => (-1, BTreeMap::new()),
                    Err(e) => {
                        tracing::warn!("settings of topic {topic}: {e}; those of the broker count");
                        continue;
                    }
                };
                self.take(topic, written, config);
            }
        }
    }

    /// Takes what a transaction has written, unless something later is known.
    pub fn take(&self, topic: &str, written: i64, config: BTreeMap<String, String>) {
        let mut known = self.lock();
        if known.get(topic).is_none_or(|(before, _)| *before <= written) {
            self.throttles.take_topic(topic, &config);
            known.insert(topic.to_owned(), (written, config));
        }
    }

    /// The topics whose settings are known.
    pub fn topics(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The settings that were given to a topic.
    pub fn given(&self, topic: &str) -> BTreeMap<String, String> {
        self.known(topic).unwrap_or_default()
    }

    /// The same, if they are known.
    pub fn known(&self, topic: &str) -> Option<BTreeMap<String, String>> {
        self.lock().get(topic).map(|(_, config)| config.clone())
    }

    /// Forgets a topic that is deleted.
    pub fn forget(&self, topic: &str) {
        let mut known = self.lock();
        self.throttles.forget(topic);
        known.remove(topic);
    }

    /// What a topic's partitions go by.
    pub fn settings(&self, broker: &Broker, topic: &str) -> TopicSettings {
        let config = broker.dynamic.get().config.clone();
        let defaults = TopicSettings::of(&config);
        // Committed offsets are compacted, not deleted, as on Kafka.
        let defaults = if is_internal(topic) { defaults.of_offsets(&config) } else { defaults };
        defaults.with(topic, &self.given(topic))
    }
}
