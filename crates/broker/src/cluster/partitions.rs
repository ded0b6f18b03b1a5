//! Giving a topic more partitions: they are written to its znode, and the controller gives them leaders.
//!
//! Invariant: the znode is written by its version, so that partitions that were added meanwhile are not lost.

use kafka_protocol::ResponseError;
use septet_zookeeper as zk;
use serde_json::Value;

use super::{path, topics::Refusal};

/// Adds partitions to a topic that has `first`. `added` are their replicas.
pub async fn add(client: &zk::Client, topic: &str, first: usize, added: &[Vec<i32>]) -> Result<(), Refusal> {
    let at = format!("{}/{topic}", path::TOPICS);
    let lost = |e: zk::Error| match e {
        zk::Error::NoNode => (ResponseError::UnknownTopicOrPartition, format!("The topic '{topic}' does not exist.")),
        zk::Error::BadVersion => (ResponseError::InvalidRequest, "The topic has changed meanwhile; try again.".to_owned()),
        e => (ResponseError::UnknownServerError, format!("the coordinator: {e}")),
    };
    if client.check_stat(&format!("{}/{topic}", path::DELETE_TOPICS)).await.map_err(lost)?.is_some() {
        return Err((ResponseError::InvalidTopicException, "The topic is queued for deletion.".to_owned()));
    }
    let (data, stat) = client.get_data(&at).await.map_err(lost)?;
    let mut value: Value = serde_json::from_slice(&data).unwrap_or_default();
    let Some(partitions) = value["partitions"].as_object_mut().filter(|p| p.len() == first) else {
        return Err(lost(zk::Error::BadVersion));
    };
    for (number, replicas) in (first..).zip(added) {
        partitions.insert(number.to_string(), replicas.clone().into());
    }
    client.set_data(&at, value.to_string().as_bytes(), Some(stat.version)).await.map_err(lost)?;
    Ok(())
}
