//! FindCoordinator: the broker that leads a group's partition of the offsets topic, which is made when it is
//! first asked for.

use std::sync::Arc;

use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse},
    protocol::StrBytes,
};

use super::{Context, metadata};
use crate::{
    broker::Broker,
    groups::{OFFSETS_TOPIC, partition_for},
};

async fn find(broker: &Broker, context: &Context, request: &FindCoordinatorRequest) -> Result<(i32, String, u16), ResponseError> {
    if request.key_type == 1 {
        // As InitProducerId has it: clients end with this at once, where they would ask again after others.
        return Err(ResponseError::TransactionalIdAuthorizationFailed);
    }
    if request.key_type != 0 {
        return Err(ResponseError::InvalidRequest);
    }
    if request.key.is_empty() {
        return Err(ResponseError::InvalidGroupId);
    }
    let image = broker.image();
    let Some(topic) = image.topic(OFFSETS_TOPIC) else {
        return Err(match metadata::auto_create(broker, OFFSETS_TOPIC).await {
            ResponseError::InvalidReplicationFactor => ResponseError::InvalidReplicationFactor,
            _ => ResponseError::CoordinatorNotAvailable,
        });
    };
    let number = partition_for(&request.key, topic.partitions.len() as i32);
    let leader = topic.partitions.get(&number).map_or(-1, |p| p.leader);
    let endpoint = image.brokers.get(&leader).and_then(|b| metadata::endpoint(b, context)).ok_or(ResponseError::CoordinatorNotAvailable)?;
    Ok((leader, endpoint.host.clone(), endpoint.port))
}

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    let answer = FindCoordinatorResponse::default().with_error_message(None);
    match find(broker, context, request).await {
        Ok((id, host, port)) => answer.with_node_id(BrokerId(id)).with_host(StrBytes::from_string(host)).with_port(port.into()),
        Err(e) => answer.with_error_code(e.code()).with_node_id(BrokerId(-1)).with_port(-1),
    }
}
