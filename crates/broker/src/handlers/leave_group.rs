//! LeaveGroup: one member up to version 2, later several, also static ones that an administrator names.

use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse, leave_group_response::MemberResponse};

use crate::broker::Broker;

/// Answers a request.
pub fn handle(broker: &Broker, request: &LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let group = request.group_id.0.as_str();
    let members: Vec<(&str, Option<&str>)> = match version {
        ..=2 => vec![(request.member_id.as_str(), None)],
        _ => request.members.iter().map(|m| (m.member_id.as_str(), m.group_instance_id.as_deref())).collect(),
    };
    let result = broker.groups.shard_for(&broker.image(), group, false).and_then(|s| s.leave(group, &members));
    let answer = LeaveGroupResponse::default();
    match result {
        Err(e) => answer.with_error_code(e.code()),
        Ok(errors) if version <= 2 => answer.with_error_code(errors.first().copied().flatten().map_or(0, |e| e.code())),
        Ok(errors) => {
            let one = |(m, e): (&kafka_protocol::messages::leave_group_request::MemberIdentity, Option<kafka_protocol::ResponseError>)| {
                MemberResponse::default()
                    .with_member_id(m.member_id.clone())
                    .with_group_instance_id(m.group_instance_id.clone())
                    .with_error_code(e.map_or(0, |e| e.code()))
            };
            answer.with_members(request.members.iter().zip(errors).map(one).collect())
        }
    }
}
