//! Settings that are kept in the coordinator, as Kafka keeps them: `/config/topics/T`, `/config/brokers/N` and
//! `/config/brokers/<default>`, and the notifications of changes below `/config/changes`.
//!
//! Invariant: a change and its notification are written at once. Each broker reads a changed entity anew after it was notified; one
//! that begins a session reads all of them, since it may have missed notifications.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use septet_zookeeper as zk;

use super::{controller::Event, image, session::PERSISTENT};
use crate::{broker::Broker, configs::Settings};

/// Where notifications are.
pub const CHANGES: &str = "/config/changes";
/// Name of a notification, before its number.
const PREFIX: &str = "config_change_";
/// Notifications are kept for this long, as Kafka keeps them.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// Attempts to change what others change too.
const ATTEMPTS: usize = 20;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entity {
    /// a topic
    Topic(String),
    /// a broker
    Broker(i32),
    /// all brokers
    Brokers,
}

impl Entity {
    /// Kind and name below `/config`.
    pub fn path(&self) -> String {
        match self {
            Self::Topic(name) => format!("topics/{name}"),
            Self::Broker(id) => format!("brokers/{id}"),
            Self::Brokers => "brokers/<default>".to_owned(),
        }
    }

    fn parse(path: &str) -> Option<Self> {
        match path.split_once('/')? {
            ("topics", name) => Some(Self::Topic(name.to_owned())),
            ("brokers", "<default>") => Some(Self::Brokers),
            ("brokers", id) => id.parse().ok().map(Self::Broker),
            _ => None,
        }
    }
}

/// Settings of an entity, and the version of its znode, if there is one.
pub async fn read(client: &zk::Client, entity: &Entity) -> Result<(Settings, Option<i32>), zk::Error> {
    let (settings, stat) = read_with_stat(client, entity).await?;
    Ok((settings, stat.map(|s| s.version)))
}

async fn read_with_stat(client: &zk::Client, entity: &Entity) -> Result<(Settings, Option<zk::Stat>), zk::Error> {
    match client.get_data(&format!("/config/{}", entity.path())).await {
        Ok((data, stat)) => Ok((image::parse_config(&data), Some(stat))),
        Err(zk::Error::NoNode) => Ok((Settings::new(), None)),
        Err(e) => Err(e),
    }
}

/// Changes settings by a function of those before, which may refuse. Returns those after.
pub async fn change<E: From<zk::Error>>(
    client: &zk::Client,
    entity: &Entity,
    work: impl Fn(&Settings) -> Result<Settings, E>,
) -> Result<Settings, E> {
    let at = format!("/config/{}", entity.path());
    let notification = serde_json::json!({ "version": 2, "entity_path": entity.path() }).to_string();
    let numbered = zk::CreateMode::PersistentSequential.with_acls(zk::Acls::anyone_all());
    for _ in 0..ATTEMPTS {
        let (before, version) = read(client, entity).await?;
        let after = work(&before)?;
        let data = serde_json::json!({ "version": 1, "config": after }).to_string();
        let mut multi = client.new_multi_writer();
        match version {
            Some(version) => multi.add_set_data(&at, data.as_bytes(), Some(version))?,
            None => multi.add_create(&at, data.as_bytes(), &PERSISTENT)?,
        }
        multi.add_create(&format!("{CHANGES}/{PREFIX}"), notification.as_bytes(), &numbered)?;
        match multi.commit().await {
            Ok(_) => {
                if let Err(e) = purge(client).await {
                    tracing::debug!("old notifications are not removed: {e}");
                }
                return Ok(after);
            }
            // Somebody else was faster.
            Err(zk::MultiWriteError::OperationFailed {
                source: zk::Error::BadVersion | zk::Error::NodeExists | zk::Error::NoNode, ..
            }) => {}
            Err(e) => return Err(zk::Error::from(e).into()),
        }
    }
    Err(zk::Error::BadVersion.into())
}

fn number(name: &str) -> Option<i64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Removes notifications that every broker has seen long ago.
async fn purge(client: &zk::Client) -> Result<(), zk::Error> {
    let mut names: Vec<(i64, String)> = client.list_children(CHANGES).await?.into_iter().filter_map(|n| Some((number(&n)?, n))).collect();
    names.sort_unstable();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (_, name) in names {
        let at = format!("{CHANGES}/{name}");
        let Some(stat) = client.check_stat(&at).await? else { continue };
        if now.saturating_sub(Duration::from_millis(stat.ctime.max(0) as u64)) < KEPT {
            break;
        }
        match client.delete(&at, None).await {
            Ok(()) | Err(zk::Error::NoNode) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What is to be read anew.
#[derive(Debug, Default)]
struct Changed {
    topics: BTreeSet<String>,
    brokers: bool,
}

/// Follows changes within one session.
#[derive(Debug, Default)]
pub struct Follower {
    /// number of the last notification that was seen; `None` at the beginning, when everything is to be read
    seen: Option<i64>,
    pending: Changed,
}

impl Follower {
    /// Reads the notifications that are new, and watches for more. To be called again when the watch fires, or the connection was
    /// lost.
    pub async fn read(&mut self, client: &zk::Client, broker: &Broker) -> Result<zk::OneshotWatcher, zk::Error> {
        let (names, watch) = client.list_and_watch_children(CHANGES).await?;
        let mut new: Vec<(i64, String)> = names.into_iter().filter_map(|n| Some((number(&n)?, n))).collect();
        new.sort_unstable();
        let last = new.last().map_or(-1, |(n, _)| *n);
        match self.seen {
            None => {
                self.pending.brokers = true;
                self.pending.topics.extend(broker.topic_configs.topics());
            }
            Some(seen) => {
                for (_, name) in new.into_iter().filter(|(n, _)| *n > seen) {
                    let data = match client.get_data(&format!("{CHANGES}/{name}")).await {
                        Ok((data, _)) => data,
                        Err(zk::Error::NoNode) => continue,
                        Err(e) => return Err(e),
                    };
                    let value: serde_json::Value = serde_json::from_slice(&data).unwrap_or_default();
                    match value["entity_path"].as_str().and_then(Entity::parse) {
                        Some(Entity::Topic(name)) => drop(self.pending.topics.insert(name)),
                        Some(_) => self.pending.brokers = true,
                        // Of users and clients, which have no settings here.
                        None => {}
                    }
                }
            }
        }
        self.seen = Some(last.max(self.seen.unwrap_or(-1)));
        Ok(watch)
    }

    /// Reads what has changed, and has the broker obey it.
    pub async fn apply(&mut self, client: &zk::Client, broker: &Broker) -> Result<(), zk::Error> {
        if !self.pending.brokers && self.pending.topics.is_empty() {
            return Ok(());
        }
        if self.pending.brokers {
            read_broker(client, broker).await?;
        }
        for name in &self.pending.topics {
            let (settings, stat) = read_with_stat(client, &Entity::Topic(name.clone())).await?;
            broker.topic_configs.take(name, stat.map_or(-1, |s| s.mzxid), settings);
            // A topic without a leader may have been allowed an unclean election.
            if let Some(events) = broker.controller() {
                let _ = events.send(Event::Touched(name.clone())).await;
            }
        }
        let changed = std::mem::take(&mut self.pending);
        for ((topic, _), led) in broker.storage.all() {
            if changed.brokers || changed.topics.contains(&topic) {
                led.partition.set_settings(broker.topic_configs.settings(broker, &topic));
            }
        }
        broker.dynamic.applied();
        Ok(())
    }
}

/// Reads what is set for this broker and for all, and has it count.
pub async fn read_broker(client: &zk::Client, broker: &Broker) -> Result<(), zk::Error> {
    let (own, _) = read(client, &Entity::Broker(broker.id())).await?;
    let (all, _) = read(client, &Entity::Brokers).await?;
    broker.storage.shared.throttles.take_rates(&own, &all);
    broker.dynamic.set(&broker.config, own, all);
    let config = broker.dynamic.get().config.clone();
    broker.admission.limit(config.max_connections, config.max_connections_per_ip);
    Ok(())
}

/// Waits until this broker obeys what was changed; other brokers do about then.
pub async fn obeyed(broker: &Broker, entity: &Entity, settings: &Settings, limit: Duration) {
    let obeys = || match entity {
        Entity::Topic(name) => broker.topic_configs.known(name).is_none_or(|known| known == *settings),
        Entity::Broker(id) => *id != broker.id() || broker.dynamic.get().broker == *settings,
        Entity::Brokers => broker.dynamic.get().default == *settings,
    };
    let _ = tokio::time::timeout(limit, broker.dynamic.subscribe().wait_for(|_| obeys())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_have_kafkas_paths() {
        for (entity, path) in
            [(Entity::Topic("a.b".into()), "topics/a.b"), (Entity::Broker(7), "brokers/7"), (Entity::Brokers, "brokers/<default>")]
        {
            assert_eq!(entity.path(), path);
            assert_eq!(Entity::parse(path), Some(entity));
        }
        for path in ["", "topics", "users/a", "brokers/x", "clients/c"] {
            assert_eq!(Entity::parse(path), None, "{path}");
        }
        assert_eq!((number("config_change_0000000012"), number("config_change_"), number("x")), (Some(12), None, None));
    }
}
