//! Fetch: whole batches from an offset on; waits until there is enough or the time is up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::select_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        FetchRequest, FetchResponse,
        fetch_request::FetchPartition,
        fetch_response::{FetchableTopicResponse, PartitionData},
    },
};

use crate::{broker::Broker, partition::Partition};

/// Longest wait, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;
/// Bytes of one answer, at the most, whatever the client allows.
const MAX_BYTES: usize = 64 * 1024 * 1024;

fn read(broker: &Broker, topic: &str, wanted: &FetchPartition, max_bytes: usize) -> Result<crate::partition::Read, ResponseError> {
    let Some(led) = broker.led(topic, wanted.partition) else {
        let known = broker.image().topics.get(topic).is_some_and(|t| t.partitions.contains_key(&wanted.partition));
        return Err(if known { ResponseError::NotLeaderOrFollower } else { ResponseError::UnknownTopicOrPartition });
    };
    led.partition.check_epoch(wanted.current_leader_epoch)?;
    if max_bytes == 0 {
        // The answer is full: offsets only.
        let (start_offset, high_watermark) = led.partition.offsets();
        return Ok(crate::partition::Read { bytes: Vec::new(), high_watermark, start_offset });
    }
    led.partition.read(wanted.fetch_offset, max_bytes)
}

fn once(broker: &Broker, request: &FetchRequest) -> (FetchResponse, usize, bool) {
    let mut room = (request.max_bytes.max(0) as usize).min(MAX_BYTES);
    let (mut total, mut failed) = (0, false);
    let mut responses = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for wanted in &topic.partitions {
            let max = room.min(wanted.partition_max_bytes.max(0) as usize);
            // The first partition with records gives at least one batch, so that a client is never stuck.
            let max = if total == 0 { max.max(1) } else { max };
            let data = PartitionData::default().with_partition_index(wanted.partition);
            partitions.push(match read(broker, topic.topic.as_str(), wanted, max) {
                Ok(r) => {
                    let bytes = if r.bytes.len() > room && total > 0 { Vec::new() } else { r.bytes };
                    total += bytes.len();
                    room = room.saturating_sub(bytes.len());
                    data.with_high_watermark(r.high_watermark)
                        .with_last_stable_offset(r.high_watermark)
                        .with_log_start_offset(r.start_offset)
                        .with_records(Some(Bytes::from(bytes)))
                }
                Err(e) => {
                    failed = true;
                    data.with_error_code(e.code()).with_high_watermark(-1)
                }
            });
        }
        responses.push(FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_partitions(partitions));
    }
    (FetchResponse::default().with_responses(responses), total, failed)
}

/// Answers a request. Sessions are declined by answering with session 0.
pub async fn handle(broker: &Arc<Broker>, request: &FetchRequest) -> FetchResponse {
    let until = Instant::now() + Duration::from_millis((request.max_wait_ms.max(0) as u64).min(MAX_WAIT_MS));
    loop {
        // Followed before it is read: what comes in between is not missed.
        let led: Vec<_> =
            request.topics.iter().flat_map(|t| t.partitions.iter().filter_map(|p| broker.led(t.topic.as_str(), p.partition))).collect();
        let mut ends: Vec<_> = led.iter().map(|l| Partition::watch_end(&l.partition)).collect();
        ends.iter_mut().for_each(|e| drop(e.borrow_and_update()));
        let (response, total, failed) = once(broker, request);
        let left = until.saturating_duration_since(Instant::now());
        if failed || total >= request.min_bytes.max(0) as usize || left.is_zero() {
            return response;
        }
        if ends.is_empty() {
            tokio::time::sleep(left).await;
        } else {
            let any = select_all(ends.iter_mut().map(|e| Box::pin(e.changed())));
            let _ = tokio::time::timeout(left, any).await;
        }
    }
}
