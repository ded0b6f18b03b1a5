//! One file per API. A handler gets a decoded request and answers with a response; it never fails as a whole.
//!
//! Invariant: what has an effect is done when [`handle`] ends; only waiting is left to the rest of an [`Outcome`].

mod alter_configs;
mod api_versions;
mod control;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_producers;
mod elect_leaders;
mod fetch;
mod fetch_answer;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leaders;
mod leave_group;
mod list_groups;
mod list_offsets;
mod log_dirs;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod reassignments;
mod sync_group;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest, AlterReplicaLogDirsRequest, ApiKey,
        ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
        ElectLeadersRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
        JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest,
        OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
        ResponseHeader, SyncGroupRequest,
    },
    protocol::{Decodable, Encodable},
};

use crate::{
    broker::Broker,
    cluster::control::frame_answer,
    metrics::Timer,
    net::{answer::Answer, budget::Share, pipeline::Outcome},
    wire::{self, Layout},
};

/// A request as it came, with the share of the budget that it takes.
#[derive(Debug, Default)]
pub struct Request {
    /// its bytes, without the length
    pub frame: Bytes,
    /// given back when it is answered
    pub share: Share,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The bytes are not a request of this version.
    #[error("bad request: {0}")]
    Malformed(String),
    /// Records that nobody waits for were not taken.
    #[error("records without acknowledgement are not taken: {0:?}")]
    Unacknowledged(ResponseError),
    /// The answer could not be written down; a mistake of ours.
    #[error("answer to {0:?} does not encode: {1}")]
    Encode(ApiKey, String),
}

/// Where a request comes from.
#[derive(Debug, Clone)]
pub struct Context {
    /// name of the listener: addresses in answers are those of the same listener
    pub listener: String,
    /// the client's address
    pub peer: Option<std::net::IpAddr>,
    /// counts the connections of this broker, in the order in which they were accepted
    pub connection: u64,
}

/// An API that is served: its key, the versions that are advertised, the oldest that is really served, its layout.
pub struct Api {
    /// key
    pub key: ApiKey,
    /// versions in ApiVersions
    pub versions: (i16, i16),
    /// Produce is advertised from 0, or librdkafka up to 2.11 does not compress (KAFKA-18659); older ones are refused
    pub served_from: i16,
    /// what its requests look like
    pub layout: Layout,
}

/// All APIs that are served.
pub const APIS: &[Api] = &[
    Api { key: ApiKey::Produce, versions: (0, 11), served_from: 3, layout: Layout { flexible: 9, fields: "s h i [ s [ i y ] ]" } },
    Api {
        key: ApiKey::Fetch,
        versions: (4, 17),
        served_from: 4,
        layout: Layout {
            flexible: 12,
            fields: "i@4-14 i i i b i@7-99 i@7-99 [ s@4-12 u@13-99 [ i i@9-99 l i@12-99 l@5-99 i {0@17-99 u } ] ] [@7-99 s@7-12 u@13-99 I ] s@11-99 \
                     {0@12-99 s } <1@15-99 i l >",
        },
    },
    Api {
        key: ApiKey::ListOffsets,
        versions: (1, 9),
        served_from: 1,
        layout: Layout { flexible: 6, fields: "i b@2-99 [ s [ i i@4-99 l ] ]" },
    },
    Api {
        key: ApiKey::Metadata,
        versions: (0, 12),
        served_from: 0,
        layout: Layout { flexible: 9, fields: "[ u@10-99 s ] b@4-99 b@8-10 b@8-99" },
    },
    Api {
        key: ApiKey::OffsetCommit,
        versions: (2, 9),
        served_from: 2,
        layout: Layout { flexible: 8, fields: "s i s s@7-99 l@2-4 [ s [ i l i@6-99 s ] ]" },
    },
    Api {
        key: ApiKey::OffsetFetch,
        versions: (1, 9),
        served_from: 1,
        layout: Layout { flexible: 6, fields: "s@0-7 [@0-7 s I ] [@8-99 s s@9-99 i@9-99 [ s I ] ] b@7-99" },
    },
    Api { key: ApiKey::FindCoordinator, versions: (0, 6), served_from: 0, layout: Layout { flexible: 3, fields: "s@0-3 b@1-99 S@4-99" } },
    Api {
        key: ApiKey::JoinGroup,
        versions: (0, 9),
        served_from: 0,
        layout: Layout { flexible: 6, fields: "s i i@1-99 s s@5-99 s [ s y ] s@8-99" },
    },
    Api { key: ApiKey::Heartbeat, versions: (0, 4), served_from: 0, layout: Layout { flexible: 4, fields: "s i s s@3-99" } },
    Api {
        key: ApiKey::LeaveGroup,
        versions: (0, 5),
        served_from: 0,
        layout: Layout { flexible: 4, fields: "s s@0-2 [@3-99 s s s@5-99 ]" },
    },
    Api {
        key: ApiKey::SyncGroup,
        versions: (0, 5),
        served_from: 0,
        layout: Layout { flexible: 4, fields: "s i s s@3-99 s@5-99 s@5-99 [ s y ]" },
    },
    Api { key: ApiKey::DescribeGroups, versions: (0, 5), served_from: 0, layout: Layout { flexible: 5, fields: "S b@3-99" } },
    Api { key: ApiKey::ListGroups, versions: (0, 5), served_from: 0, layout: Layout { flexible: 3, fields: "S@4-99 S@5-99" } },
    Api { key: ApiKey::DeleteGroups, versions: (0, 2), served_from: 0, layout: Layout { flexible: 2, fields: "S" } },
    Api { key: ApiKey::OffsetDelete, versions: (0, 0), served_from: 0, layout: Layout { flexible: 99, fields: "s [ s [ i ] ]" } },
    Api { key: ApiKey::ApiVersions, versions: (0, 4), served_from: 0, layout: Layout { flexible: 3, fields: "s@3-99 s@3-99" } },
    Api {
        key: ApiKey::CreateTopics,
        versions: (2, 7),
        served_from: 2,
        layout: Layout { flexible: 5, fields: "[ s i h [ i I ] [ s s ] ] i b" },
    },
    Api { key: ApiKey::DeleteTopics, versions: (1, 6), served_from: 1, layout: Layout { flexible: 4, fields: "[@6-99 s u ] S@1-5 i" } },
    Api {
        key: ApiKey::OffsetForLeaderEpoch,
        versions: (2, 4),
        served_from: 2,
        layout: Layout { flexible: 4, fields: "i@3-99 [ s [ i i i ] ]" },
    },
    Api { key: ApiKey::InitProducerId, versions: (0, 4), served_from: 0, layout: Layout { flexible: 2, fields: "s i l@3-99 h@3-99" } },
    Api {
        key: ApiKey::AlterPartition,
        versions: (2, 3),
        served_from: 2,
        layout: Layout { flexible: 0, fields: "i l [ u [ i i I@0-2 [@3-99 i l ] b i ] ]" },
    },
    Api { key: ApiKey::DeleteRecords, versions: (0, 2), served_from: 0, layout: Layout { flexible: 2, fields: "[ s [ i l ] ] i" } },
    Api { key: ApiKey::DescribeConfigs, versions: (1, 4), served_from: 1, layout: Layout { flexible: 4, fields: "[ b s S ] b b@3-99" } },
    Api { key: ApiKey::AlterConfigs, versions: (0, 2), served_from: 0, layout: Layout { flexible: 2, fields: "[ b s [ s s ] ] b" } },
    Api { key: ApiKey::AlterReplicaLogDirs, versions: (1, 2), served_from: 1, layout: Layout { flexible: 2, fields: "[ s [ s I ] ]" } },
    Api { key: ApiKey::DescribeLogDirs, versions: (1, 4), served_from: 1, layout: Layout { flexible: 2, fields: "[ s I ]" } },
    Api { key: ApiKey::CreatePartitions, versions: (0, 3), served_from: 0, layout: Layout { flexible: 2, fields: "[ s i [ I ] ] i b" } },
    Api {
        key: ApiKey::IncrementalAlterConfigs,
        versions: (0, 1),
        served_from: 0,
        layout: Layout { flexible: 1, fields: "[ b s [ s b s ] ] b" },
    },
    Api { key: ApiKey::ElectLeaders, versions: (0, 2), served_from: 0, layout: Layout { flexible: 2, fields: "b@1-99 [ s I ] i" } },
    Api {
        key: ApiKey::AlterPartitionReassignments,
        versions: (0, 0),
        served_from: 0,
        layout: Layout { flexible: 0, fields: "i [ s [ i I ] ]" },
    },
    Api { key: ApiKey::ListPartitionReassignments, versions: (0, 0), served_from: 0, layout: Layout { flexible: 0, fields: "i [ s I ]" } },
    Api { key: ApiKey::DescribeProducers, versions: (0, 0), served_from: 0, layout: Layout { flexible: 0, fields: "[ s I ]" } },
    Api { key: ApiKey::DescribeCluster, versions: (0, 1), served_from: 0, layout: Layout { flexible: 0, fields: "b b@1-99" } },
];

/// What is answered before the broker knows the cluster. Everything else waits: a client would be told that the cluster is empty.
const BEFORE_READY: &[ApiKey] = &[ApiKey::ApiVersions, ApiKey::AlterPartition];

fn encode<R: Encodable>(header: &RequestHeader, key: ApiKey, version: i16, response: &R) -> Result<Bytes, RequestError> {
    let head = ResponseHeader::default().with_correlation_id(header.correlation_id);
    // Made as long as the answer is, since a buffer that grows takes more than twice that.
    let mut out = BytesMut::with_capacity(16 + response.compute_size(version).unwrap_or(0));
    out.extend_from_slice(&[0; 4]);
    head.encode(&mut out, key.response_header_version(version))
        .and_then(|()| response.encode(&mut out, version))
        .map_err(|e| RequestError::Encode(key, e.to_string()))?;
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

/// Counts a request, if its API and version are served.
pub fn measured(broker: &Broker, request: &Request) -> Option<Timer> {
    let [a, b, c, d] = request.frame.get(..4)?.try_into().ok()?;
    let (number, version) = (i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d]));
    let served = |a: &&Api| a.key as i16 == number && (a.served_from..=a.versions.1).contains(&version);
    if !control::serves(number, version) && !APIS.iter().any(|a| served(&a)) {
        return None;
    }
    broker.requests.begin(number, version, || ApiKey::try_from(number).map_or_else(|()| number.to_string(), |key| format!("{key:?}")))
}

/// Handles one request: when this ends, its ordered part is done, and the next request of the connection may be begun.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: Request) -> Result<Outcome, RequestError> {
    let Request { mut frame, share: frame_share } = request;
    let bad = |text: &str| RequestError::Malformed(text.to_owned());
    if frame.len() < 8 {
        return Err(bad("shorter than a header"));
    }
    let (number, version) = (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]));
    if control::serves(number, version) {
        if !wire::header_fits(&frame, true) {
            return Err(bad("header is cut off"));
        }
        let header = RequestHeader::decode(&mut frame, 2).map_err(|e| RequestError::Malformed(e.to_string()))?;
        let body = control::handle(broker, number, version, &frame, context.connection).await?;
        return Ok(Answer::from(frame_answer(header.correlation_id, &body)).into());
    }
    let api = APIS.iter().find(|a| a.key as i16 == number).ok_or_else(|| RequestError::Malformed(format!("API {number} is not served")))?;
    let key = api.key;
    let in_range = version >= api.versions.0 && version <= api.versions.1;
    if key == ApiKey::ApiVersions && !in_range {
        // The answer has the form of version 0, whatever was asked in.
        let correlation_id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        let header = RequestHeader::default().with_correlation_id(correlation_id);
        return encode(&header, key, 0, &api_versions::unsupported()).map(|bytes| Answer::from(bytes).into());
    }
    if !in_range || version < api.served_from {
        return Err(RequestError::Malformed(format!("{key:?} version {version} is not served")));
    }
    let head_version = key.request_header_version(version);
    if !wire::header_fits(&frame, head_version >= 2) {
        return Err(bad("header is cut off"));
    }
    let header = RequestHeader::decode(&mut frame, head_version).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let elements = wire::weigh(&api.layout, version, &frame).ok_or_else(|| {
        RequestError::Malformed(format!("{key:?} version {version}: a length does not fit the frame, or there are too many"))
    })?;
    if !BEFORE_READY.contains(&key) {
        broker.ready().await;
    }
    // For what is decoded now, and for the answer until it is written.
    let share = broker.budgets.responses.take(elements * wire::ELEMENT_BYTES).await;
    macro_rules! decode {
        ($t:ty) => {
            <$t>::decode(&mut frame, version).map_err(|e| RequestError::Malformed(format!("{key:?} version {version}: {e}")))?
        };
    }
    let bytes = match key {
        ApiKey::ApiVersions => encode(&header, key, version, &api_versions::handle(&decode!(ApiVersionsRequest), version)),
        ApiKey::Metadata => {
            let request = decode!(MetadataRequest);
            drop(share);
            let (response, share) = metadata::handle(broker, context, &request, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::Produce => {
            let request = decode!(ProduceRequest);
            let Some(produced) = produce::handle(broker, &request, version)? else {
                return Ok(Outcome::None);
            };
            if produced.is_done() {
                encode(&header, key, version, &produced.response(broker, context, version))
            } else {
                // The records are in the log; only what the wait needs stays in memory.
                drop((request, frame, frame_share));
                let (broker, context) = (broker.clone(), context.clone());
                let rest = async move {
                    let response = produced.acknowledged().await.response(&broker, &context, version);
                    Ok(Some(Answer { share, ..encode(&header, key, version, &response)?.into() }))
                };
                return Ok(Outcome::Later { bytes: elements * wire::ELEMENT_BYTES, rest: Box::pin(rest) });
            }
        }
        ApiKey::Fetch => {
            let wanted = fetch::Wanted::new(broker, &decode!(FetchRequest), version);
            // Only what the wait needs stays in memory.
            drop((frame, frame_share, share));
            return fetch::handle(broker, context, wanted, header.correlation_id, version).await.map(Outcome::from);
        }
        ApiKey::ListOffsets => encode(&header, key, version, &list_offsets::handle(broker, &decode!(ListOffsetsRequest), version)),
        ApiKey::FindCoordinator => {
            encode(&header, key, version, &find_coordinator::handle(broker, context, &decode!(FindCoordinatorRequest), version).await)
        }
        ApiKey::JoinGroup => {
            let wanted = join_group::Wanted::new(context, &header, &decode!(JoinGroupRequest), version);
            // The wait for the other members holds nothing of the frame.
            drop((frame, frame_share, share));
            let (response, share) = join_group::handle(broker, wanted, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::SyncGroup => {
            let wanted = sync_group::Wanted::new(&decode!(SyncGroupRequest), version);
            drop((frame, frame_share, share));
            let (response, share) = sync_group::handle(broker, wanted).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::Heartbeat => encode(&header, key, version, &heartbeat::handle(broker, &decode!(HeartbeatRequest))),
        ApiKey::LeaveGroup => encode(&header, key, version, &leave_group::handle(broker, &decode!(LeaveGroupRequest), version)),
        ApiKey::DescribeGroups => {
            let request = decode!(DescribeGroupsRequest);
            drop(share);
            let (response, share) = describe_groups::handle(broker, &request).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::ListGroups => {
            let request = decode!(ListGroupsRequest);
            drop(share);
            let (response, share) = list_groups::handle(broker, &request, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::DeleteGroups => encode(&header, key, version, &delete_groups::handle(broker, &decode!(DeleteGroupsRequest)).await),
        ApiKey::OffsetDelete => encode(&header, key, version, &offset_delete::handle(broker, &decode!(OffsetDeleteRequest)).await),
        ApiKey::OffsetCommit => encode(&header, key, version, &offset_commit::handle(broker, &decode!(OffsetCommitRequest), version).await),
        ApiKey::OffsetFetch => {
            let request = decode!(OffsetFetchRequest);
            drop(share);
            let (response, share) = offset_fetch::handle(broker, &request, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::CreateTopics => encode(&header, key, version, &create_topics::handle(broker, &decode!(CreateTopicsRequest), version).await),
        ApiKey::DeleteTopics => encode(&header, key, version, &delete_topics::handle(broker, &decode!(DeleteTopicsRequest), version).await),
        ApiKey::OffsetForLeaderEpoch => {
            encode(&header, key, version, &offset_for_leader_epoch::handle(broker, &decode!(OffsetForLeaderEpochRequest)))
        }
        ApiKey::AlterPartition => {
            encode(&header, key, version, &control::alter_partition(broker, &decode!(AlterPartitionRequest), version).await)
        }
        ApiKey::InitProducerId => encode(&header, key, version, &init_producer_id::handle(broker, &decode!(InitProducerIdRequest)).await),
        ApiKey::DeleteRecords => {
            let request = decode!(DeleteRecordsRequest);
            // Waits for the disk.
            let deleted = tokio::task::block_in_place(|| delete_records::handle(broker, &request));
            if deleted.is_done() {
                encode(&header, key, version, &deleted.response())
            } else {
                drop((request, frame, frame_share));
                let broker = broker.clone();
                let rest = async move {
                    let response = deleted.replicated(&broker).await.response();
                    Ok(Some(Answer { share, ..encode(&header, key, version, &response)?.into() }))
                };
                return Ok(Outcome::Later { bytes: elements * wire::ELEMENT_BYTES, rest: Box::pin(rest) });
            }
        }
        ApiKey::DescribeConfigs => {
            let request = decode!(DescribeConfigsRequest);
            drop(share);
            let (response, share) = describe_configs::handle(broker, &request, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::AlterConfigs => encode(&header, key, version, &alter_configs::whole(broker, &decode!(AlterConfigsRequest)).await),
        ApiKey::IncrementalAlterConfigs => {
            encode(&header, key, version, &alter_configs::incremental(broker, &decode!(IncrementalAlterConfigsRequest)).await)
        }
        ApiKey::AlterReplicaLogDirs => encode(&header, key, version, &log_dirs::alter(broker, &decode!(AlterReplicaLogDirsRequest))),
        ApiKey::DescribeLogDirs => {
            let request = decode!(DescribeLogDirsRequest);
            drop(share);
            let (response, share) = log_dirs::describe(broker, &request, version).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::CreatePartitions => {
            encode(&header, key, version, &create_partitions::handle(broker, &decode!(CreatePartitionsRequest)).await)
        }
        ApiKey::ElectLeaders => encode(&header, key, version, &elect_leaders::handle(broker, &decode!(ElectLeadersRequest), version).await),
        ApiKey::AlterPartitionReassignments => {
            encode(&header, key, version, &reassignments::alter(broker, &decode!(AlterPartitionReassignmentsRequest)).await)
        }
        ApiKey::ListPartitionReassignments => {
            encode(&header, key, version, &reassignments::list(broker, &decode!(ListPartitionReassignmentsRequest)).await)
        }
        ApiKey::DescribeProducers => {
            let request = decode!(DescribeProducersRequest);
            drop(share);
            let (response, share) = describe_producers::handle(broker, &request).await;
            return Ok(Answer { share, ..encode(&header, key, version, &response)?.into() }.into());
        }
        ApiKey::DescribeCluster => {
            encode(&header, key, version, &describe_cluster::handle(broker, context, &decode!(DescribeClusterRequest), version))
        }
        other => return Err(RequestError::Malformed(format!("{other:?} is not served"))),
    }?;
    Ok(Answer { share, ..bytes.into() }.into())
}
