//! SyncGroup. While it waits for the leader's assignment it keeps nothing of its frame.

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{SyncGroupRequest, SyncGroupResponse},
    protocol::StrBytes,
};

use crate::{
    broker::Broker,
    groups::core::{Sync, Synced},
    net::budget::Share,
};

/// What a request asks for, with copies of its strings and bytes.
#[derive(Debug)]
pub struct Wanted {
    group: String,
    sync: Sync,
    /// version 5 and later must name protocol and type
    unnamed: bool,
}

impl Wanted {
    /// Takes what is needed from a request.
    pub fn new(request: &SyncGroupRequest, version: i16) -> Self {
        let owned = |s: &Option<StrBytes>| s.as_ref().map(ToString::to_string);
        let sync = Sync {
            generation: request.generation_id,
            member_id: request.member_id.to_string(),
            instance_id: owned(&request.group_instance_id),
            protocol_type: owned(&request.protocol_type),
            protocol: owned(&request.protocol_name),
            assignments: request.assignments.iter().map(|a| (a.member_id.to_string(), Bytes::copy_from_slice(&a.assignment))).collect(),
        };
        let unnamed = version >= 5 && (sync.protocol_type.is_none() || sync.protocol.is_none());
        Self { group: request.group_id.0.to_string(), sync, unnamed }
    }
}

/// Answers a request. The share is for the answer.
pub async fn handle(broker: &Broker, wanted: Wanted) -> (SyncGroupResponse, Share) {
    let Wanted { group, sync, unnamed } = wanted;
    let synced = match broker.groups.shard_for(&broker.image(), &group, false) {
        _ if unnamed => Synced::error(ResponseError::InconsistentGroupProtocol),
        Ok(shard) => shard.sync(&group, sync).await,
        Err(e) => Synced::error(e),
    };
    let share = broker.budgets.responses.take(synced.assignment.len()).await;
    let response = SyncGroupResponse::default()
        .with_error_code(synced.error.map_or(0, |e| e.code()))
        .with_protocol_type(synced.protocol_type.map(StrBytes::from_string))
        .with_protocol_name(synced.protocol.map(StrBytes::from_string))
        .with_assignment(synced.assignment);
    (response, share)
}
