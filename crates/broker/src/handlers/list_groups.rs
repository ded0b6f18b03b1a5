//! ListGroups: the groups of this broker, by state and type from versions 4 and 5 on.

use kafka_protocol::{
    ResponseError,
    messages::{GroupId, ListGroupsRequest, ListGroupsResponse, list_groups_response::ListedGroup},
    protocol::StrBytes,
};

use crate::{broker::Broker, net::budget::Share, wire::ELEMENT_BYTES};

/// All groups have this type so far (KIP-848 has another).
const CLASSIC: &str = "classic";

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Broker, request: &ListGroupsRequest, version: i16) -> (ListGroupsResponse, Share) {
    let (groups, loading) = broker.groups.list();
    let named = |filter: &[StrBytes], name: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(name));
    let groups: Vec<_> = groups
        .into_iter()
        .filter(|(_, _, state)| named(&request.states_filter, state.name()) && named(&request.types_filter, CLASSIC))
        .collect();
    let share = broker.budgets.responses.take(groups.iter().map(|(id, _, _)| ELEMENT_BYTES + 2 * id.len()).sum()).await;
    let groups = groups.into_iter().map(|(id, protocol_type, state)| {
        let group = ListedGroup::default()
            .with_group_id(GroupId(StrBytes::from_string(id)))
            .with_protocol_type(StrBytes::from_string(protocol_type));
        let group = if version >= 4 { group.with_group_state(StrBytes::from_static_str(state.name())) } else { group };
        if version >= 5 { group.with_group_type(StrBytes::from_static_str(CLASSIC)) } else { group }
    });
    let error = if loading { ResponseError::CoordinatorLoadInProgress.code() } else { 0 };
    (ListGroupsResponse::default().with_error_code(error).with_groups(groups.collect()), share)
}
