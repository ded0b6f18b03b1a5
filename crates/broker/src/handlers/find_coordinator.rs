//! FindCoordinator: the broker that leads a group's partition of the offsets topic, which is made when it is
//! first asked for. From version 4 on for several groups at once.

use std::{collections::HashSet, sync::Arc};

use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator_response::Coordinator},
    protocol::StrBytes,
};

use super::{Context, metadata};
use crate::{
    broker::Broker,
    groups::{OFFSETS_TOPIC, partition_for},
    warn_quietly,
};

async fn find(broker: &Broker, context: &Context, key_type: i8, key: &str) -> Result<(i32, String, u16), ResponseError> {
    if key_type == 1 {
        // As InitProducerId has it: clients end with this at once, where they would ask again after others.
        return Err(ResponseError::TransactionalIdAuthorizationFailed);
    }
    if key_type != 0 {
        return Err(ResponseError::InvalidRequest);
    }
    let image = broker.image();
    let Some(topic) = image.topic(OFFSETS_TOPIC) else {
        // With too few brokers too, as on Kafka: clients ask again, and more brokers may be on their way.
        let why = metadata::auto_create(broker, OFFSETS_TOPIC).await;
        if why == ResponseError::InvalidReplicationFactor {
            warn_quietly!("{OFFSETS_TOPIC} is not made: offsets.topic.replication.factor is larger than the number of brokers");
        }
        return Err(ResponseError::CoordinatorNotAvailable);
    };
    let number = partition_for(key, topic.partitions.len() as i32);
    let leader = topic.partitions.get(&number).map_or(-1, |p| p.leader);
    let endpoint = image.brokers.get(&leader).and_then(|b| metadata::endpoint(b, context)).ok_or(ResponseError::CoordinatorNotAvailable)?;
    Ok((leader, endpoint.host.clone(), endpoint.port))
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: &FindCoordinatorRequest, version: i16) -> FindCoordinatorResponse {
    let answer = FindCoordinatorResponse::default().with_error_message(None);
    if version < 4 {
        return match find(broker, context, request.key_type, &request.key).await {
            Ok((id, host, port)) => answer.with_node_id(BrokerId(id)).with_host(StrBytes::from_string(host)).with_port(port.into()),
            Err(e) => answer.with_error_code(e.code()).with_node_id(BrokerId(-1)).with_port(-1),
        };
    }
    let mut seen = HashSet::new();
    let mut coordinators = Vec::new();
    // One that is named again is answered once.
    for key in request.coordinator_keys.iter().filter(|k| seen.insert(k.as_str())) {
        let one = Coordinator::default().with_key(key.clone()).with_error_message(None);
        coordinators.push(match find(broker, context, request.key_type, key).await {
            Ok((id, host, port)) => one.with_node_id(BrokerId(id)).with_host(StrBytes::from_string(host)).with_port(port.into()),
            Err(e) => one.with_error_code(e.code()).with_node_id(BrokerId(-1)).with_port(-1),
        });
    }
    answer.with_coordinators(coordinators)
}
