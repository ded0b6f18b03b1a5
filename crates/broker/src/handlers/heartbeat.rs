//! Heartbeat of a group's member.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::broker::Broker;

/// Answers a request.
pub fn handle(broker: &Broker, request: &HeartbeatRequest) -> HeartbeatResponse {
    let group = request.group_id.0.as_str();
    let result = broker
        .groups
        .shard_for(&broker.image(), group, false)
        .and_then(|s| s.heartbeat(group, &request.member_id, request.group_instance_id.as_deref(), request.generation_id));
    HeartbeatResponse::default().with_error_code(result.err().map_or(0, |e| e.code()))
}
