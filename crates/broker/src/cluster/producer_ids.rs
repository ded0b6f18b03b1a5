//! Ids for idempotent producers, out of blocks that brokers take from `/latest_producer_id_block`.
//!
//! Invariant: no id is given twice in a cluster, of Apache's brokers too: a block is taken by compare-and-set before an id of it
//! is given, and the rest of a block is lost with the broker. Source: ZkProducerIdManager and ProducerIdBlockZNode of Kafka.

use std::{ops::Range, time::Duration};

use septet_zookeeper as zk;
use tokio::sync::Mutex;

use super::{path, session::PERSISTENT};

/// Ids of a block.
const BLOCK: i64 = 1000;
/// How often another broker may come first.
const ATTEMPTS: usize = 50;
/// How long the coordinator may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The ids that this broker may give.
#[derive(Debug, Default)]
pub struct ProducerIds {
    left: Mutex<Range<i64>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoProducerId {
    /// The coordinator.
    #[error("the coordinator: {0}")]
    Coordinator(#[from] zk::Error),
    /// It takes too long.
    #[error("{}: no answer within {LIMIT:?}", path::PRODUCER_IDS)]
    Slow,
    /// Others came first, again and again.
    #[error("{}: taken by others {ATTEMPTS} times", path::PRODUCER_IDS)]
    Contended,
    /// What lies there.
    #[error("not a block of producer ids: {0:?}")]
    Malformed(String),
    /// All are used.
    #[error("{}: there is no id left", path::PRODUCER_IDS)]
    Exhausted,
}

/// The block behind the one that is written down; nothing is written down at first.
fn next_block(data: &[u8]) -> Result<Range<i64>, NoProducerId> {
    if data.is_empty() {
        return Ok(0..BLOCK);
    }
    let json: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let last = json.as_ref().and_then(|j| j.get("block_end")?.as_str()?.parse::<i64>().ok()).filter(|last| *last >= 0);
    let last = last.ok_or_else(|| NoProducerId::Malformed(String::from_utf8_lossy(&data[..data.len().min(200)]).into_owned()))?;
    let start = last.checked_add(1).ok_or(NoProducerId::Exhausted)?;
    Ok(start..start.checked_add(BLOCK).ok_or(NoProducerId::Exhausted)?)
}

fn text(broker: i32, block: &Range<i64>) -> String {
    format!(r#"{{"version":1,"broker":{broker},"block_start":"{}","block_end":"{}"}}"#, block.start, block.end - 1)
}

async fn take_block(client: &zk::Client, broker: i32) -> Result<Range<i64>, NoProducerId> {
    for _ in 0..ATTEMPTS {
        let (data, version) = match client.get_data(path::PRODUCER_IDS).await {
            Ok((data, stat)) => (data, stat.version),
            Err(zk::Error::NoNode) => {
                super::session::ignore_exists(client.create(path::PRODUCER_IDS, b"", &PERSISTENT).await)?;
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let block = next_block(&data)?;
        match client.set_data(path::PRODUCER_IDS, text(broker, &block).as_bytes(), Some(version)).await {
            Ok(_) => return Ok(block),
            // Another broker; or this one, whose answer was lost: then a block is lost with it.
            Err(zk::Error::BadVersion | zk::Error::ConnectionLoss) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(NoProducerId::Contended)
}

/// Takes a block for a broker.
pub async fn block(client: &zk::Client, broker: i32) -> Result<Range<i64>, NoProducerId> {
    tokio::time::timeout(LIMIT, take_block(client, broker)).await.map_err(|_| NoProducerId::Slow)?
}

impl ProducerIds {
    /// An id that nobody has.
    pub async fn next(&self, client: &zk::Client, broker: i32) -> Result<i64, NoProducerId> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            *left = block(client, broker).await?;
            tracing::info!("producer ids {} to {} taken", left.start, left.end - 1);
        }
        left.next().ok_or(NoProducerId::Exhausted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_are_written_as_kafka_writes_them() {
        let first = next_block(b"").unwrap();
        let written = text(1, &first);
        assert_eq!(written, r#"{"version":1,"broker":1,"block_start":"0","block_end":"999"}"#);
        assert_eq!(next_block(written.as_bytes()).unwrap(), 1000..2000);
        for bad in ["x", "{}", r#"{"block_end":7}"#, r#"{"block_end":"-2"}"#, r#"{"block_end":"x"}"#] {
            assert!(matches!(next_block(bad.as_bytes()), Err(NoProducerId::Malformed(_))), "{bad}");
        }
        for last in [i64::MAX, i64::MAX - 1, i64::MAX - BLOCK] {
            assert!(matches!(next_block(format!(r#"{{"block_end":"{last}"}}"#).as_bytes()), Err(NoProducerId::Exhausted)), "{last}");
        }
    }
}
