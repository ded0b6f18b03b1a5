//! A follower whose log ends outside of the leader's log.
//!
//! Invariant: nothing that the leader has is cut off.

use std::io;

use kafka_protocol::{
    ResponseError,
    messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    messages::{ApiKey, ListOffsetsRequest},
    protocol::StrBytes,
};

use super::{
    answers::{self, LIST_OFFSETS_VERSION},
    fetcher::{PATIENCE, encode},
};
use crate::{
    broker::Broker,
    core::controller::Name,
    net::peer::Peer,
    partition::{FetchPosition, FollowError},
    storage::Led,
};

/// The log ends outside of the leader's: it is cut where the leader's ends, or begins anew where the leader's begins.
/// As AbstractFetcherThread.fetchOffsetAndTruncate.
pub async fn out_of_range(broker: &Broker, peer: &mut Peer, name: &Name, asked: FetchPosition, led: &Led) -> io::Result<()> {
    let epoch = asked.leader_epoch;
    let latest = list_offset(broker, peer, name, epoch, -1).await?;
    let failed = |e: FollowError| io::Error::other(e.to_string());
    if latest < asked.offset {
        tracing::warn!("{}-{}: the leader's log ends at {latest}, before {}", name.0, name.1, asked.offset);
        return tokio::task::block_in_place(|| {
            led.partition.truncate_to(epoch, latest).map_err(failed)?;
            broker.storage.checkpoint().map_err(|e| io::Error::other(e.to_string()))
        });
    }
    let earliest = list_offset(broker, peer, name, epoch, -2).await?;
    if earliest > asked.offset {
        tracing::info!("{}-{}: begins anew at {earliest}, where the leader's log begins", name.0, name.1);
        return tokio::task::block_in_place(|| {
            if let Some(gone) = led.partition.begin_at(epoch, earliest).map_err(failed)? {
                broker.storage.remove_later(gone, led.partition.settings());
            }
            broker.storage.checkpoint().map_err(|e| io::Error::other(e.to_string()))
        });
    }
    Ok(())
}

async fn list_offset(broker: &Broker, peer: &mut Peer, name: &Name, epoch: i32, timestamp: i64) -> io::Result<i64> {
    let partition = ListOffsetsPartition::default().with_partition_index(name.1).with_current_leader_epoch(epoch).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(kafka_protocol::messages::TopicName(StrBytes::from_string(name.0.clone())))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id(broker.id().into()).with_topics(vec![topic]);
    let body = encode(&request, LIST_OFFSETS_VERSION)?;
    let answer = peer.request(ApiKey::ListOffsets as i16, LIST_OFFSETS_VERSION, &body, PATIENCE).await?;
    let response = answers::list_offsets(answer)?;
    let found = response.topics.first().and_then(|t| t.partitions.first());
    let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer to ListOffsets is empty"))?;
    match ResponseError::try_from_code(found.error_code) {
        None => Ok(found.offset),
        Some(e) => Err(io::Error::other(format!("ListOffsets: {e:?}"))),
    }
}
