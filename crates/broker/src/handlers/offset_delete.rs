//! OffsetDelete: offsets of topics that no member of the group is subscribed to.

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetDeleteRequest, OffsetDeleteResponse,
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    },
};

use crate::broker::Broker;

/// Answers a request.
pub async fn handle(broker: &Broker, request: &OffsetDeleteRequest) -> OffsetDeleteResponse {
    let image = broker.image();
    let group = request.group_id.0.as_str();
    let exists = |topic: &str, partition: i32| image.topic(topic).is_some_and(|t| t.partitions.contains_key(&partition));
    let named = request.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.0.to_string(), p.partition_index)));
    let places: Vec<(String, i32)> = named.filter(|(t, p)| exists(t, *p)).collect();
    let result = match broker.groups.shard_for(&image, group, false) {
        Ok(shard) => shard.delete_offsets(group, &places).await,
        Err(e) => Err(e),
    };
    let errors = match result {
        Ok(errors) => errors,
        Err(e) => return OffsetDeleteResponse::default().with_error_code(e.code()),
    };
    // In the order of the request, as those that exist were handed on.
    let mut errors = errors.into_iter();
    let topics = request.topics.iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| {
            let error = match exists(t.name.as_str(), p.partition_index) {
                true => errors.next().flatten(),
                false => Some(ResponseError::UnknownTopicOrPartition),
            };
            OffsetDeleteResponsePartition::default().with_partition_index(p.partition_index).with_error_code(error.map_or(0, |e| e.code()))
        });
        OffsetDeleteResponseTopic::default().with_name(t.name.clone()).with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
