//! Making topics: the assignment in the coordinator, from which the controller gives each partition its state.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kafka_protocol::ResponseError;
use septet_zookeeper as zk;

use super::{
    Image, path,
    session::{PERSISTENT, ignore_exists},
};
use crate::{core::assignment, groups::OFFSETS_TOPIC};

/// Partitions of one topic, at the most.
const MAX_PARTITIONS: i32 = 10_000;

/// Longest value of a topic's setting, and all of them together, in bytes: they lie in one znode.
const MAX_CONFIG_BYTES: usize = 16 * 1024;

/// Why a topic is not made: an error code and a sentence.
pub type Refusal = (ResponseError, String);

/// Kafka's rules for names (Topic.java).
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let bad = |why: &str| Err((ResponseError::InvalidTopicException, format!("Topic name {name:?} {why}")));
    match name {
        "" => bad("is empty"),
        "." | ".." => bad("may not be . or .."),
        n if n.len() > 249 => bad("is longer than 249 characters"),
        n if !n.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => {
            bad("may have only ASCII letters, digits, '.', '_' and '-'")
        }
        _ => Ok(()),
    }
}

/// Where the partitions of a new topic go. `seed` is where the round begins.
pub fn assign(image: &Image, partitions: i32, replication_factor: i16, seed: usize) -> Result<Vec<Vec<i32>>, Refusal> {
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err((ResponseError::InvalidPartitions, format!("number of partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")));
    }
    let Some(factor) = usize::try_from(replication_factor).ok().filter(|f| *f > 0) else {
        return Err((ResponseError::InvalidReplicationFactor, "Replication factor must be larger than 0.".into()));
    };
    let brokers = image.brokers.iter().map(|(id, b)| (*id, b.rack.clone())).collect();
    assignment::assign(&brokers, partitions as usize, factor, seed, seed, 0).ok_or_else(|| {
        let text = format!("Replication factor: {replication_factor} larger than available brokers: {}.", image.brokers.len());
        (ResponseError::InvalidReplicationFactor, text)
    })
}

/// Refuses settings that are too long for a znode.
pub fn check_config_size(config: &serde_json::Map<String, serde_json::Value>) -> Result<(), Refusal> {
    let bytes: usize = config.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes <= MAX_CONFIG_BYTES {
        return Ok(());
    }
    Err((ResponseError::InvalidConfig, format!("the topic's settings have {bytes} bytes; {MAX_CONFIG_BYTES} are allowed")))
}

/// An id for a topic. One that begins with a dash would be an option to Kafka's tools, which is why Kafka avoids it too.
fn new_id() -> String {
    loop {
        let id = URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// Writes the znodes of a topic.
pub async fn create(client: &zk::Client, name: &str, assignment: &[Vec<i32>], config: &serde_json::Value) -> Result<(), Refusal> {
    let lost = |e: zk::Error| match e {
        zk::Error::NodeExists => (ResponseError::TopicAlreadyExists, format!("Topic '{name}' already exists.")),
        e => (ResponseError::UnknownServerError, format!("the coordinator: {e}")),
    };
    let map: serde_json::Map<String, serde_json::Value> =
        assignment.iter().enumerate().map(|(i, r)| (i.to_string(), r.clone().into())).collect();
    let data = serde_json::json!({
        "version": 3, "topic_id": new_id(), "partitions": map, "adding_replicas": {}, "removing_replicas": {},
    })
    .to_string();
    if client.check_stat(&format!("{}/{name}", path::TOPICS)).await.map_err(lost)?.is_some() {
        return Err(lost(zk::Error::NodeExists));
    }
    let settings = serde_json::json!({ "version": 1, "config": config }).to_string();
    ignore_exists(client.create(&format!("{}/{name}", path::CONFIG_TOPICS), settings.as_bytes(), &PERSISTENT).await).map_err(lost)?;
    client.create(&format!("{}/{name}", path::TOPICS), data.as_bytes(), &PERSISTENT).await.map_err(lost)?;
    Ok(())
}

/// Gives an id to a topic that has none. Returns it with the znode's new version; `None` if the znode has changed meanwhile.
pub async fn give_id(client: &zk::Client, name: &str, version: i32) -> Result<Option<(String, i32)>, zk::Error> {
    let at = format!("{}/{name}", path::TOPICS);
    let (data, _) = match client.get_data(&at).await {
        Ok(found) => found,
        Err(zk::Error::NoNode) => return Ok(None),
        Err(e) => return Err(e),
    };
    let Ok(serde_json::Value::Object(mut value)) = serde_json::from_slice(&data) else {
        return Ok(None);
    };
    let id = new_id();
    value.insert("version".into(), 3.into());
    value.insert("topic_id".into(), id.clone().into());
    match client.set_data(&at, serde_json::Value::Object(value).to_string().as_bytes(), Some(version)).await {
        Ok(stat) => Ok(Some((id, stat.version))),
        Err(zk::Error::NoNode | zk::Error::BadVersion) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a topic is one of Kafka's own.
pub fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == "__transaction_state"
}
