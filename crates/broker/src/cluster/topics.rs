//! Making topics: the assignment in the coordinator, from which the controller gives each partition its state.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kafka_protocol::ResponseError;
use zookeeper_client as zk;

use super::{
    Image, path,
    session::{PERSISTENT, ignore_exists},
};
use crate::groups::OFFSETS_TOPIC;

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

/// Where the partitions of a new topic go.
pub fn assign(image: &Image, partitions: i32, replication_factor: i16, start: usize) -> Result<Vec<Vec<i32>>, Refusal> {
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err((ResponseError::InvalidPartitions, format!("number of partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")));
    }
    check_replication(usize::try_from(replication_factor).unwrap_or(0))?;
    let ids: Vec<i32> = image.brokers.keys().copied().collect();
    if ids.is_empty() {
        return Err((ResponseError::InvalidReplicationFactor, "there is no broker".into()));
    }
    Ok((0..partitions as usize).map(|p| vec![ids[(start + p) % ids.len()]]).collect())
}

/// There is no replication yet: more than one replica would be a promise that is not kept.
pub fn check_replication(factor: usize) -> Result<(), Refusal> {
    match factor {
        1 => Ok(()),
        n => Err((
            ResponseError::InvalidReplicationFactor,
            format!("replication factor {n}: this version of the bundled broker keeps one replica of a partition; ask for 1"),
        )),
    }
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

/// Gives an id to a topic that has none. `false` if its znode has changed meanwhile.
pub async fn give_id(client: &zk::Client, name: &str, version: i32) -> Result<bool, zk::Error> {
    let at = format!("{}/{name}", path::TOPICS);
    let (data, _) = match client.get_data(&at).await {
        Ok(found) => found,
        Err(zk::Error::NoNode) => return Ok(false),
        Err(e) => return Err(e),
    };
    let Ok(serde_json::Value::Object(mut value)) = serde_json::from_slice(&data) else {
        return Ok(false);
    };
    value.insert("version".into(), 3.into());
    value.insert("topic_id".into(), new_id().into());
    match client.set_data(&at, serde_json::Value::Object(value).to_string().as_bytes(), Some(version)).await {
        Ok(_) => Ok(true),
        Err(zk::Error::NoNode | zk::Error::BadVersion) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a topic is one of Kafka's own.
pub fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == "__transaction_state"
}
