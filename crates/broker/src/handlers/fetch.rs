//! Fetch: whole batches from an offset on; waits until there is enough or the time is up.
//!
//! Invariant: an answer names parts of files; neither the wait nor the answer holds records in memory.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use kafka_protocol::{ResponseError, messages::FetchRequest};

use super::{
    RequestError,
    fetch_answer::{self, PART_BYTES, Part},
};
use crate::{broker::Broker, net::answer::Answer, partition::Waiter, storage::Led};

/// Longest wait, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

/// What a request asks for.
#[derive(Debug)]
pub struct Wanted {
    topics: Vec<(String, Vec<WantedPart>)>,
    max_bytes: usize,
    min_bytes: usize,
    until: Instant,
}

#[derive(Debug)]
struct WantedPart {
    index: i32,
    leader_epoch: i32,
    offset: i64,
    max_bytes: usize,
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

impl Wanted {
    /// Takes what is needed from a request. A partition that is named again is left out: its answer would only make
    /// the request more expensive.
    pub fn new(request: FetchRequest) -> Self {
        let wait = Duration::from_millis((size(request.max_wait_ms) as u64).min(MAX_WAIT_MS));
        let mut seen = HashSet::new();
        let mut topics = Vec::new();
        for topic in &request.topics {
            let parts = topic.partitions.iter().filter(|p| seen.insert((topic.topic.as_str(), p.partition)));
            let parts = parts.map(|p| WantedPart {
                index: p.partition,
                leader_epoch: p.current_leader_epoch,
                offset: p.fetch_offset,
                max_bytes: size(p.partition_max_bytes),
            });
            topics.push((topic.topic.to_string(), parts.collect()));
        }
        Self { topics, max_bytes: size(request.max_bytes), min_bytes: size(request.min_bytes), until: Instant::now() + wait }
    }

    fn led(&self, broker: &Broker) -> Vec<Arc<Led>> {
        self.topics.iter().flat_map(|(t, parts)| parts.iter().filter_map(|p| broker.led(t, p.index))).collect()
    }
}

fn find(broker: &Broker, topic: &str, wanted: &WantedPart, max_bytes: usize, at_least_one: bool) -> Result<Part, ResponseError> {
    let Some(led) = broker.led(topic, wanted.index) else {
        return Err(broker.image().not_led(topic, wanted.index));
    };
    led.partition.check_epoch(wanted.leader_epoch)?;
    let found = led.partition.find(wanted.offset, max_bytes, at_least_one)?;
    Ok(Part {
        index: wanted.index,
        error: 0,
        high_watermark: found.high_watermark,
        start_offset: found.start_offset,
        records: found.records,
    })
}

struct Found {
    topics: Vec<(String, Vec<Part>)>,
    bytes: usize,
    failed: bool,
}

fn once(broker: &Broker, wanted: &Wanted) -> Found {
    let mut room = wanted.max_bytes.min(broker.config.fetch_max_bytes);
    let mut out = Found { topics: Vec::with_capacity(wanted.topics.len()), bytes: 0, failed: false };
    for (topic, partitions) in &wanted.topics {
        let mut parts = Vec::with_capacity(partitions.len());
        for wanted in partitions {
            // The first partition with records gives at least one batch, so that a client is never stuck.
            let part = find(broker, topic, wanted, room.min(wanted.max_bytes), out.bytes == 0);
            let part = part.unwrap_or_else(|e| {
                out.failed = true;
                Part { index: wanted.index, error: e.code(), high_watermark: -1, start_offset: -1, records: None }
            });
            let bytes = part.records.as_ref().map_or(0, crate::log::Slice::len);
            out.bytes += bytes;
            room = room.saturating_sub(bytes);
            parts.push(part);
        }
        out.topics.push((topic.clone(), parts));
    }
    out
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, wanted: Wanted, correlation_id: i32, version: i16) -> Result<Answer, RequestError> {
    let parts: usize = wanted.topics.iter().map(|(_, parts)| 1 + parts.len()).sum();
    let enough = |found: &Found| found.failed || found.bytes >= wanted.min_bytes || wanted.until <= Instant::now();
    let mut found = once(broker, &wanted);
    if !enough(&found) {
        drop(found.topics);
        // Registered before it is read again: what comes in between is not missed.
        let waiter = Waiter::new(wanted.led(broker));
        loop {
            found = once(broker, &wanted);
            if enough(&found) {
                break;
            }
            let left = wanted.until.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(left, waiter.woken()).await;
        }
    }
    let share = broker.budgets.responses.take(parts * PART_BYTES).await;
    let answer = fetch_answer::encode(correlation_id, version, found.topics);
    Ok(Answer { share, ..answer })
}
