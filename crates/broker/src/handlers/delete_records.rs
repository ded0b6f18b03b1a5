//! DeleteRecords: the first offset that can be read moves on.

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};

use crate::{broker::Broker, cluster::topics::is_internal, log::LogError};

fn delete(broker: &Broker, topic: &str, index: i32, offset: i64) -> Result<(i64, bool), ResponseError> {
    if is_internal(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    let Some(led) = broker.led(topic, index) else {
        return Err(broker.image().not_led(topic, index));
    };
    let settings = led.partition.settings();
    if !settings.deletes {
        // As on Kafka: what is compacted is not to lose its beginning.
        return Err(ResponseError::PolicyViolation);
    }
    let (start, moved, gone) = led.partition.delete_below(offset)?;
    if let Some(gone) = gone {
        broker.storage.remove_later(gone, settings);
    }
    Ok((start, moved))
}

/// Answers a request. What was deleted stays so after a crash: the new offsets are on the disk before.
pub fn handle(broker: &Broker, request: &DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::new();
    let mut deleted = false;
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for p in &topic.partitions {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(p.partition_index);
            partitions.push(match delete(broker, topic.name.as_str(), p.partition_index, p.offset) {
                Ok((start, moved)) => {
                    deleted |= moved;
                    answer.with_low_watermark(start)
                }
                Err(e) => answer.with_low_watermark(-1).with_error_code(e.code()),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions));
    }
    let written = if deleted { broker.storage.checkpoint() } else { Ok(()) };
    if let Err(LogError { path, source }) = written {
        tracing::error!("{}: {source}", path.display());
        for p in topics.iter_mut().flat_map(|t| &mut t.partitions).filter(|p| p.error_code == 0) {
            p.error_code = ResponseError::KafkaStorageError.code();
        }
    }
    DeleteRecordsResponse::default().with_topics(topics)
}
