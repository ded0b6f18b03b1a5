//! Settings of topics, as they lie under `/config/topics`.
//!
//! Invariant: what is known of a topic was read from the coordinator. A partition is not opened before its topic's settings are known:
//! with the broker's defaults, records would go that the topic keeps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use septet_zookeeper as zk;

use super::{image::parse_config, path, topics::is_internal};
use crate::{broker::Broker, configs::Settings, replica::Throttles, topic_settings::TopicSettings};

/// Znodes that are read at once.
const AT_ONCE: usize = 256;

/// Pause before they are tried again.
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// Why settings are not known.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// There is no session with the coordinator.
    #[error("settings of topics: there is no session with the coordinator")]
    NoSession,
    /// The coordinator.
    #[error("settings of topic {0}: {1}")]
    Topic(String, zk::Error),
    /// It took too long.
    #[error("settings of topics cannot be read in time")]
    Late,
}

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

    /// Reads what is not known of these topics, and tries for so long.
    pub async fn load(&self, broker: &Broker, topics: impl Iterator<Item = &str>, limit: Duration) -> Result<(), Unread> {
        let topics: Vec<&str> = topics.collect();
        let all = async {
            loop {
                let unknown: Vec<&str> = {
                    let known = self.lock();
                    topics.iter().copied().filter(|t| !known.contains_key(*t)).collect()
                };
                match self.read(broker, &unknown).await {
                    Ok(()) => return,
                    Err(e) => tracing::warn!("{e}; trying again"),
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        };
        tokio::time::timeout(limit, all).await.map_err(|_| Unread::Late)
    }

    /// Reads the settings of these topics again. The first that cannot be read is the error; the others are read nevertheless.
    pub async fn read(&self, broker: &Broker, topics: &[&str]) -> Result<(), Unread> {
        if topics.is_empty() {
            return Ok(());
        }
        let client = broker.zookeeper.borrow().clone().ok_or(Unread::NoSession)?;
        let mut first = Ok(());
        for some in topics.chunks(AT_ONCE) {
            let paths: Vec<String> = some.iter().map(|t| format!("{}/{t}", path::CONFIG_TOPICS)).collect();
            let read = join_all(paths.iter().map(|p| client.get_data(p))).await;
            for (topic, result) in some.iter().zip(read) {
                let (written, config) = match result {
                    Ok((data, stat)) => (stat.mzxid, parse_config(&data)),
                    Err(zk::Error::NoNode) => (-1, BTreeMap::new()),
                    Err(e) => {
                        first = first.and(Err(Unread::Topic((*topic).to_owned(), e)));
                        continue;
                    }
                };
                self.take(topic, written, config);
            }
        }
        first
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
