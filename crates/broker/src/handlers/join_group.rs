//! JoinGroup. While it waits for the other members it keeps what the group keeps, and nothing of its frame.

use bytes::Bytes;
use kafka_protocol::{
    messages::{JoinGroupRequest, JoinGroupResponse, RequestHeader, join_group_response::JoinGroupResponseMember},
    protocol::StrBytes,
};

use super::Context;
use crate::{
    broker::Broker,
    groups::core::{Join, Joined},
    net::budget::Share,
    wire::ELEMENT_BYTES,
};

/// What a request asks for, with copies of its strings and bytes.
#[derive(Debug)]
pub struct Wanted {
    group: String,
    join: Join,
}

/// As Kafka shows it: `/` and the address.
fn host(context: &Context) -> String {
    context.peer.map_or_else(String::new, |ip| format!("/{}", ip.to_canonical()))
}

impl Wanted {
    /// Takes what is needed from a request.
    pub fn new(context: &Context, header: &RequestHeader, request: &JoinGroupRequest, version: i16) -> Self {
        let client_id = header.client_id.as_deref().unwrap_or_default().to_owned();
        let instance_id = request.group_instance_id.as_ref().map(ToString::to_string);
        let prefix = instance_id.as_deref().unwrap_or(&client_id);
        let join = Join {
            member_id: request.member_id.to_string(),
            new_member_id: format!("{prefix}-{}", uuid::Uuid::new_v4()),
            client_host: host(context),
            // Version 0 has one time-out for both.
            rebalance_timeout_ms: if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms },
            session_timeout_ms: request.session_timeout_ms,
            protocol_type: request.protocol_type.to_string(),
            protocols: request.protocols.iter().map(|p| (p.name.to_string(), Bytes::copy_from_slice(&p.metadata))).collect(),
            require_known_member_id: version >= 4 && instance_id.is_none(),
            supports_skipping: version >= 9,
            client_id,
            instance_id,
        };
        Self { group: request.group_id.0.to_string(), join }
    }
}

fn text(s: String) -> StrBytes {
    StrBytes::from_string(s)
}

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Broker, wanted: Wanted, version: i16) -> (JoinGroupResponse, Share) {
    let Wanted { group, join } = wanted;
    let joined = match broker.groups.shard_for(&broker.image(), &group, false) {
        Ok(shard) => shard.join(&group, join).await,
        Err(e) => Joined::error(&join.member_id, e),
    };
    // The metadata are the group's own bytes until they are written into the answer.
    let bytes = |(id, instance, metadata): &(String, Option<String>, Bytes)| {
        ELEMENT_BYTES + 2 * id.len() + instance.as_ref().map_or(0, |i| 2 * i.len()) + metadata.len()
    };
    let share = broker.budgets.responses.take(joined.members.iter().map(bytes).sum()).await;
    let member = |(id, instance, metadata): (String, Option<String>, Bytes)| {
        let member = JoinGroupResponseMember::default().with_member_id(text(id)).with_metadata(metadata);
        if version >= 5 { member.with_group_instance_id(instance.map(text)) } else { member }
    };
    let response = JoinGroupResponse::default()
        .with_error_code(joined.error.map_or(0, |e| e.code()))
        .with_generation_id(joined.generation)
        .with_leader(text(joined.leader))
        .with_member_id(text(joined.member_id))
        .with_members(joined.members.into_iter().map(member).collect());
    let response = match version {
        // Not null before version 7.
        ..=6 => response.with_protocol_name(Some(text(joined.protocol.unwrap_or_default()))),
        _ => response.with_protocol_type(joined.protocol_type.map(text)).with_protocol_name(joined.protocol.map(text)),
    };
    (if version >= 9 { response.with_skip_assignment(joined.skip_assignment) } else { response }, share)
}
