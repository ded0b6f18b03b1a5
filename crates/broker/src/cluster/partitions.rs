//! Giving a topic more partitions: they are written to its znode, and the controller gives them leaders.
//!
//! Invariant: the znode is written by its version, so that partitions that were added meanwhile are not lost.

use kafka_protocol::ResponseError;
use serde_json::Value;
use zookeeper_client as zk;

use super::{path, topics::Refusal};

/// Adds partitions to a topic whose znode has a version. `added` are their replicas, by number from `first` on.
pub async fn add(client: &zk::Client, topic: &str, version: i32, first: usize, added: &[Vec<i32>]) -> Result<(), Refusal> {
    let at = format!("{}/{topic}", path::TOPICS);
    let lost = |e: zk::Error| match e {
        zk::Error::NoNode => (ResponseError::UnknownTopicOrPartition, "The topic does not exist.".to_owned()),
        zk::Error::BadVersion => (ResponseError::InvalidRequest, "The topic has changed meanwhile; try again.".to_owned()),
        e => (ResponseError::UnknownServerError, format!("the coordinator: {e}")),
    };
    let (data, stat) = client.get_data(&at).await.map_err(lost)?;
    let mut value: Value = serde_json::from_slice(&data).unwrap_or_default();
    if stat.version != version || !value["partitions"].is_object() {
        return Err(lost(zk::Error::BadVersion));
    }
    for (number, replicas) in (first..).zip(added) {
        value["partitions"][number.to_string()] = replicas.clone().into();
    }
    client.set_data(&at, value.to_string().as_bytes(), Some(version)).await.map_err(lost)?;
    // So that the controller looks.
    client.set_data(path::SIGNAL, b"partitions", None).await.map_err(lost)?;
    Ok(())
}
