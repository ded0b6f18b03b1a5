//! DescribeGroups: state, protocol and members.

use std::collections::HashSet;

use kafka_protocol::{
    messages::{
        DescribeGroupsRequest, DescribeGroupsResponse,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
    },
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    groups::core::{Description, MemberDescription},
    net::budget::Share,
    wire::ELEMENT_BYTES,
};

/// READ, DELETE and DESCRIBE, as bits of their numbers in AclOperation: all that there is for a group without ACLs.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;
/// The operations were not asked for.
const NO_OPERATIONS: i32 = i32::MIN;

fn text(s: String) -> StrBytes {
    StrBytes::from_string(s)
}

fn member(m: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(m.id))
        .with_group_instance_id(m.instance_id.map(text))
        .with_client_id(text(m.client_id))
        .with_client_host(text(m.client_host))
        .with_member_metadata(m.metadata)
        .with_member_assignment(m.assignment)
}

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Broker, request: &DescribeGroupsRequest) -> (DescribeGroupsResponse, Share) {
    let image = broker.image();
    let mut seen = HashSet::new();
    let groups = request.groups.iter().filter(|g| seen.insert(g.0.as_str()));
    let groups: Vec<_> = groups.map(|id| (id, broker.groups.shard_for(&image, &id.0, true))).collect();
    // Metadata and assignments are shared with the group; written out they are there once more.
    let weight = groups.iter().map(|(id, shard)| ELEMENT_BYTES + shard.as_ref().map_or(0, |s| s.weight(&id.0))).sum();
    let share = broker.budgets.responses.take(weight).await;
    let operations = if request.include_authorized_operations { ALL_OPERATIONS } else { NO_OPERATIONS };
    let answers = groups.into_iter().map(|(id, shard)| {
        let answer = DescribedGroup::default().with_group_id(id.clone()).with_authorized_operations(operations);
        match shard.and_then(|s| s.describe(&id.0)) {
            Err(e) => answer.with_error_code(e.code()),
            Ok(Description { state, protocol_type, protocol, members }) => answer
                .with_group_state(StrBytes::from_static_str(state))
                .with_protocol_type(text(protocol_type))
                .with_protocol_data(text(protocol))
                .with_members(members.into_iter().map(member).collect()),
        }
    });
    (DescribeGroupsResponse::default().with_groups(answers.collect()), share)
}
