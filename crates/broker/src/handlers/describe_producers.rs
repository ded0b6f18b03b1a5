//! DescribeProducers: what is known of the producers of partitions that this broker leads (KIP-664).

use std::collections::HashSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeProducersRequest, DescribeProducersResponse, ProducerId,
        describe_producers_response::{PartitionResponse, ProducerState, TopicResponse},
    },
    protocol::StrBytes,
};

use crate::{broker::Broker, net::budget::Share};

/// Memory that a producer takes in an answer, in bytes.
const PRODUCER_BYTES: usize = 160;

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Broker, request: &DescribeProducersRequest) -> (DescribeProducersResponse, Share) {
    let mut seen = HashSet::new();
    let (mut topics, mut count) = (Vec::new(), 0);
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for number in topic.partition_indexes.iter().filter(|p| seen.insert((topic.name.as_str(), **p))) {
            let producers = match broker.led(topic.name.as_str(), *number) {
                Some(led) => led.partition.producers(),
                None => Err(broker.image().not_led(topic.name.as_str(), *number)),
            };
            count += producers.as_ref().map_or(0, Vec::len);
            partitions.push((*number, producers));
        }
        topics.push((topic.name.clone(), partitions));
    }
    let share = broker.budgets.responses.take(count * PRODUCER_BYTES).await;
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(number, producers)| {
            let answer = PartitionResponse::default().with_partition_index(number).with_error_message(None);
            match producers {
                Ok(all) => {
                    let state = |(id, p): (i64, crate::log::Producer)| {
                        ProducerState::default()
                            .with_producer_id(ProducerId(id))
                            .with_producer_epoch(p.epoch.into())
                            .with_last_sequence(p.batches().last().map_or(-1, |b| b.last_sequence))
                            .with_last_timestamp(p.last_timestamp)
                            .with_coordinator_epoch(p.coordinator_epoch)
                            .with_current_txn_start_offset(p.transaction.unwrap_or(-1))
                    };
                    answer.with_active_producers(all.into_iter().map(state).collect())
                }
                Err(e) => {
                    let why = match e {
                        ResponseError::NotLeaderOrFollower => "This server is not the leader of the partition.".to_owned(),
                        _ => "This server does not host this topic-partition.".to_owned(),
                    };
                    answer.with_error_code(e.code()).with_error_message(Some(StrBytes::from_string(why)))
                }
            }
        });
        TopicResponse::default().with_name(name).with_partitions(partitions.collect())
    });
    (DescribeProducersResponse::default().with_topics(topics.collect()), share)
}
