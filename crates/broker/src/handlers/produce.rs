//! Produce: appends to partitions that this broker leads, and waits until that is committed if acks=all.
//!
//! Invariant: the appends of a request are done when [`handle`] returns, so that those of a connection keep their order.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse, TopicName,
        produce_response::{LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::StrBytes,
};

use super::{Context, RequestError, leaders::Leaders};
use crate::{broker::Broker, cluster::topics, partition::Appended, storage::Led};

const ZSTD: u8 = 4;
/// First version whose clients know zstd (KIP-110).
const ZSTD_VERSION: i16 = 7;
/// First version whose answers name the leader (KIP-951).
const LEADER_VERSION: i16 = 10;
/// Longest wait for a commit, in milliseconds.
const MAX_WAIT_MS: i32 = 3_600_000;

/// The codec in the attributes of the first batch, 0 for none.
fn codec(records: &[u8]) -> u8 {
    records.get(22).map_or(0, |attributes| attributes & 7)
}

fn append(
    broker: &Broker,
    request: &ProduceRequest,
    version: i16,
    topic: &str,
    index: i32,
    records: &[u8],
) -> Result<(Appended, Arc<Led>), ResponseError> {
    if !(-1..=1).contains(&request.acks) {
        return Err(ResponseError::InvalidRequiredAcks);
    }
    if request.transactional_id.is_some() {
        return Err(ResponseError::TransactionalIdAuthorizationFailed);
    }
    if topics::is_internal(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    if version < ZSTD_VERSION && codec(records) == ZSTD {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    let Some(led) = broker.led(topic, index) else {
        return Err(broker.image().not_led(topic, index));
    };
    let appended = if codec(records) == 0 {
        led.partition.append_with(records, request.acks == -1)?
    } else {
        // Decompressing takes a while: the thread's other connections go on elsewhere.
        tokio::task::block_in_place(|| led.partition.append_with(records, request.acks == -1))?
    };
    Ok((appended, led))
}

struct Part {
    index: i32,
    result: Result<Appended, ResponseError>,
    /// appended, and not known to be committed
    waits: Option<Arc<Led>>,
}

/// A request whose records are in the log.
pub struct Produced {
    topics: Vec<(TopicName, Vec<Part>)>,
    until: Instant,
}

/// Appends the records of a request; `None` if it wants no answer. A producer that wants none and whose records were not taken
/// learns of it by the end of its connection, as on Kafka: otherwise it would go on writing to a broker that does not lead.
pub fn handle(broker: &Broker, request: &ProduceRequest, version: i16) -> Result<Option<Produced>, RequestError> {
    let mut topics = Vec::new();
    let mut failed = None;
    // One batch for a partition: a second one in the same request would bypass that.
    let mut seen = HashSet::new();
    for topic in &request.topic_data {
        let mut parts = Vec::new();
        for p in &topic.partition_data {
            let once = seen.insert((topic.name.as_str(), p.index));
            let done = match once {
                true => append(broker, request, version, topic.name.as_str(), p.index, p.records.as_deref().unwrap_or_default()),
                false => Err(ResponseError::InvalidRequest),
            };
            parts.push(match done {
                Ok((appended, led)) => Part { index: p.index, result: Ok(appended), waits: (request.acks == -1).then_some(led) },
                Err(e) => {
                    failed = Some(e);
                    Part { index: p.index, result: Err(e), waits: None }
                }
            });
        }
        topics.push((topic.name.clone(), parts));
    }
    let wait = Duration::from_millis(request.timeout_ms.clamp(0, MAX_WAIT_MS) as u64);
    match failed {
        Some(e) if request.acks == 0 => Err(RequestError::Unacknowledged(e)),
        _ => Ok((request.acks != 0).then(|| Produced { topics, until: Instant::now() + wait })),
    }
}

impl Produced {
    /// Whether there is nothing to wait for.
    pub fn is_done(&self) -> bool {
        self.topics.iter().all(|(_, parts)| parts.iter().all(|p| p.waits.is_none()))
    }

    /// Waits until everything is committed, or the request's time is up.
    pub async fn acknowledged(mut self) -> Self {
        let left = self.until.saturating_duration_since(Instant::now());
        let parts = self.topics.iter_mut().flat_map(|(_, parts)| parts);
        join_all(parts.map(|part| async move {
            if let (Some(led), Ok(appended)) = (part.waits.take(), part.result)
                && let Err(e) = led.partition.committed(appended.end_offset, appended.leader_epoch, left).await
            {
                part.result = Err(e);
            }
        }))
        .await;
        self
    }

    /// The answer.
    pub fn response(self, broker: &Broker, context: &Context, version: i16) -> ProduceResponse {
        let image = broker.image();
        let mut leaders = Leaders::default();
        let mut responses = Vec::with_capacity(self.topics.len());
        for (name, parts) in self.topics {
            let partitions = parts.into_iter().map(|part| {
                let answer = PartitionProduceResponse::default().with_index(part.index);
                match part.result {
                    Ok(a) => answer.with_base_offset(a.base_offset).with_log_start_offset(a.start_offset).with_log_append_time_ms(a.time),
                    Err(e) => {
                        let answer = answer.with_error_code(e.code()).with_base_offset(-1);
                        let answer = answer.with_error_message(Some(StrBytes::from_string(format!("{e:?}"))));
                        let leader = (version >= LEADER_VERSION)
                            .then(|| leaders.note(&image, context, e.code(), name.as_str(), part.index))
                            .flatten();
                        match leader {
                            Some((id, epoch)) => {
                                answer.with_current_leader(LeaderIdAndEpoch::default().with_leader_id(id.into()).with_leader_epoch(epoch))
                            }
                            None => answer,
                        }
                    }
                }
            });
            let partitions = partitions.collect();
            responses.push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
        }
        let endpoints =
            leaders.endpoints().map(|(id, host, port)| NodeEndpoint::default().with_node_id(id).with_host(host).with_port(port));
        ProduceResponse::default().with_responses(responses).with_node_endpoints(endpoints.collect())
    }
}
