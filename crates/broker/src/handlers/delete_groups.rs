//! DeleteGroups: groups without members, with their offsets.

use std::collections::HashSet;

use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, delete_groups_response::DeletableGroupResult};

use crate::broker::Broker;

/// Answers a request.
pub async fn handle(broker: &Broker, request: &DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::new();
    for id in request.groups_names.iter().filter(|g| seen.insert(g.0.as_str())) {
        let result = match broker.groups.shard_for(&broker.image(), &id.0, true) {
            Ok(shard) => shard.delete_group(&id.0).await,
            Err(e) => Err(e),
        };
        results.push(DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(result.err().map_or(0, |e| e.code())));
    }
    DeleteGroupsResponse::default().with_results(results)
}
