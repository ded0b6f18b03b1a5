//! Produce: appends to partitions that this broker leads.

use std::collections::HashSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse,
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::StrBytes,
};

use super::RequestError;
use crate::{broker::Broker, cluster::topics, partition::Appended};

fn append(broker: &Broker, acks: i16, topic: &str, index: i32, records: Option<&[u8]>) -> Result<Appended, ResponseError> {
    if !(-1..=1).contains(&acks) {
        return Err(ResponseError::InvalidRequiredAcks);
    }
    if topics::is_internal(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    let Some(led) = broker.led(topic, index) else {
        return Err(broker.image().not_led(topic, index));
    };
    let records = records.unwrap_or_default();
    if is_compressed(records) {
        // Decompressing takes a while: the thread's other connections go on elsewhere.
        return tokio::task::block_in_place(|| led.partition.append(records));
    }
    led.partition.append(records)
}

/// Whether the attributes of the first batch name a codec.
fn is_compressed(records: &[u8]) -> bool {
    records.get(22).is_some_and(|attributes| attributes & 7 != 0)
}

/// Answers a request; `None` if it wants no answer. A producer that wants none and whose records were not taken learns
/// of it by the end of its connection, as on Kafka: otherwise it would go on writing to a broker that does not lead.
pub fn handle(broker: &Broker, request: &ProduceRequest) -> Result<Option<ProduceResponse>, RequestError> {
    let transactional = request.transactional_id.is_some();
    let mut responses = Vec::new();
    let mut failed = None;
    // One batch for a partition: a second one in the same request would go round that.
    let mut seen = HashSet::new();
    for topic in &request.topic_data {
        let mut partitions = Vec::new();
        for p in &topic.partition_data {
            let result = if transactional {
                Err(ResponseError::TransactionalIdAuthorizationFailed)
            } else if !seen.insert((topic.name.as_str(), p.index)) {
                Err(ResponseError::InvalidRequest)
            } else {
                append(broker, request.acks, topic.name.as_str(), p.index, p.records.as_deref())
            };
            let answer = PartitionProduceResponse::default().with_index(p.index);
            partitions.push(match result {
                Ok(a) => answer.with_base_offset(a.base_offset).with_log_start_offset(a.start_offset).with_log_append_time_ms(a.time),
                Err(e) => {
                    failed = Some(e);
                    answer.with_error_code(e.code()).with_base_offset(-1).with_error_message(Some(StrBytes::from_string(format!("{e:?}"))))
                }
            });
        }
        responses.push(TopicProduceResponse::default().with_name(topic.name.clone()).with_partition_responses(partitions));
    }
    match failed {
        Some(e) if request.acks == 0 => Err(RequestError::Unacknowledged(e)),
        _ => Ok((request.acks != 0).then(|| ProduceResponse::default().with_responses(responses))),
    }
}
