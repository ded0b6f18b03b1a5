//! Decoders of what comes from outside, as functions of bytes: for the tests that mutate valid samples, and for libFuzzer (`fuzz/`).
//!
//! Invariant: none of them panics, loops for long, or takes memory by a length that it was told.

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest, AlterReplicaLogDirsRequest, ApiKey,
        ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
        ElectLeadersRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
        JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest,
        OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
        SyncGroupRequest,
    },
    protocol::Decodable,
};

use crate::{
    batch::{self, Head},
    cluster::{control, image},
    config::Config,
    groups,
    handlers::APIS,
    log, records, replica, wire,
};

/// Largest batch here, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Decodes a request. Returns the number of bytes that are left.
pub fn decode_request(key: ApiKey, v: i16, mut b: Bytes) -> Result<usize, String> {
    let result = match key {
        ApiKey::Produce => ProduceRequest::decode(&mut b, v).map(drop),
        ApiKey::Fetch => FetchRequest::decode(&mut b, v).map(drop),
        ApiKey::ListOffsets => ListOffsetsRequest::decode(&mut b, v).map(drop),
        ApiKey::Metadata => MetadataRequest::decode(&mut b, v).map(drop),
        ApiKey::OffsetCommit => OffsetCommitRequest::decode(&mut b, v).map(drop),
        ApiKey::OffsetFetch => OffsetFetchRequest::decode(&mut b, v).map(drop),
        ApiKey::FindCoordinator => FindCoordinatorRequest::decode(&mut b, v).map(drop),
        ApiKey::JoinGroup => JoinGroupRequest::decode(&mut b, v).map(drop),
        ApiKey::SyncGroup => SyncGroupRequest::decode(&mut b, v).map(drop),
        ApiKey::Heartbeat => HeartbeatRequest::decode(&mut b, v).map(drop),
        ApiKey::LeaveGroup => LeaveGroupRequest::decode(&mut b, v).map(drop),
        ApiKey::DescribeGroups => DescribeGroupsRequest::decode(&mut b, v).map(drop),
        ApiKey::ListGroups => ListGroupsRequest::decode(&mut b, v).map(drop),
        ApiKey::DeleteGroups => DeleteGroupsRequest::decode(&mut b, v).map(drop),
        ApiKey::OffsetDelete => OffsetDeleteRequest::decode(&mut b, v).map(drop),
        ApiKey::ApiVersions => ApiVersionsRequest::decode(&mut b, v).map(drop),
        ApiKey::CreateTopics => CreateTopicsRequest::decode(&mut b, v).map(drop),
        ApiKey::DeleteTopics => DeleteTopicsRequest::decode(&mut b, v).map(drop),
        ApiKey::InitProducerId => InitProducerIdRequest::decode(&mut b, v).map(drop),
        ApiKey::AlterPartition => AlterPartitionRequest::decode(&mut b, v).map(drop),
        ApiKey::DeleteRecords => DeleteRecordsRequest::decode(&mut b, v).map(drop),
        ApiKey::OffsetForLeaderEpoch => OffsetForLeaderEpochRequest::decode(&mut b, v).map(drop),
        ApiKey::DescribeConfigs => DescribeConfigsRequest::decode(&mut b, v).map(drop),
        ApiKey::AlterConfigs => AlterConfigsRequest::decode(&mut b, v).map(drop),
        ApiKey::IncrementalAlterConfigs => IncrementalAlterConfigsRequest::decode(&mut b, v).map(drop),
        ApiKey::AlterReplicaLogDirs => AlterReplicaLogDirsRequest::decode(&mut b, v).map(drop),
        ApiKey::DescribeLogDirs => DescribeLogDirsRequest::decode(&mut b, v).map(drop),
        ApiKey::CreatePartitions => CreatePartitionsRequest::decode(&mut b, v).map(drop),
        ApiKey::ElectLeaders => ElectLeadersRequest::decode(&mut b, v).map(drop),
        ApiKey::AlterPartitionReassignments => AlterPartitionReassignmentsRequest::decode(&mut b, v).map(drop),
        ApiKey::ListPartitionReassignments => ListPartitionReassignmentsRequest::decode(&mut b, v).map(drop),
        ApiKey::DescribeProducers => DescribeProducersRequest::decode(&mut b, v).map(drop),
        ApiKey::DescribeCluster => DescribeClusterRequest::decode(&mut b, v).map(drop),
        other => return Err(format!("{other:?} is not served")),
    };
    result.map(|()| b.len()).map_err(|e| e.to_string())
}

/// A request's frame, checked and decoded as on a connection: of clients, and of the controller.
pub fn request(frame: &[u8]) {
    let Some([a, b, c, d]) = frame.first_chunk() else { return };
    let (number, version) = (i16::from_be_bytes([*a, *b]), i16::from_be_bytes([*c, *d]));
    let mut body = Bytes::copy_from_slice(frame);
    let api = APIS.iter().find(|a| a.key as i16 == number && (a.served_from..=a.versions.1).contains(&version));
    let header = match api {
        _ if control::key::ALL.iter().any(|(key, min, max)| *key == number && (*min..=*max).contains(&version)) => 2,
        Some(api) => api.key.request_header_version(version),
        None => return,
    };
    if !wire::header_fits(&body, header >= 2) || RequestHeader::decode(&mut body, header).is_err() {
        return;
    }
    match api {
        Some(api) if wire::fits(&api.layout, version, &body) => drop(decode_request(api.key, version, body)),
        Some(_) => {}
        None => control_request(number, version, &body),
    }
}

fn control_request(number: i16, version: i16, body: &[u8]) {
    match number {
        control::key::LEADER_AND_ISR => {
            if let Ok(request) = control::LeaderAndIsr::decode(body, version) {
                drop(request.decode_answer(body));
            }
        }
        control::key::UPDATE_METADATA => drop(control::UpdateMetadata::decode(body, version)),
        control::key::STOP_REPLICA => drop(control::StopReplica::decode(body, version)),
        _ => drop(control::decode_controlled_shutdown(body)),
    }
}

/// The body of an answer of another broker: the first byte chooses which.
pub fn answer(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => drop(replica::answers::fetch(Bytes::copy_from_slice(body))),
        1 => drop(replica::answers::list_offsets(Bytes::copy_from_slice(body))),
        2 => drop(replica::answers::alter_partition(Bytes::copy_from_slice(body))),
        3 => drop(control::decode_partitions_answer(body, true)),
        4 => drop(control::decode_partitions_answer(body, false)),
        _ => drop(control::decode_code(body)),
    }
}

/// A batch as a producer or a leader sends it, with everything that is done with its records. Its length and checksum are made right
/// first, since little else would come through.
pub fn batch(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    if copy.len() > 21 {
        let length = (copy.len() - 12) as u32;
        copy[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&copy[21..]);
        copy[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    for b in [bytes, &copy[..]] {
        let _ = Head::parse(b);
        let Ok(heads) = batch::validate(b, BATCH_BYTES) else { continue };
        let [head] = heads[..] else { continue };
        let _ = records::check(b, &head, BATCH_BYTES, true);
        let _ = records::first_at(b, &head, head.base_timestamp, head.base_offset);
        let _ = records::marker(b, &head);
        log::fuzz::compact(b, &head);
    }
}

/// The body of a compressed batch: the first byte chooses the codec.
pub fn codec(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    if let Ok(mut reader) = records::decompress(i16::from(kind % 4) + 1, body, BATCH_BYTES as u64) {
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }
}

/// Files of the log directory that are read as a whole: checkpoints, epochs, producer snapshots, aborted transactions.
pub fn file(bytes: &[u8]) {
    log::fuzz::files(bytes);
}

/// A record of the offsets topic: two bytes of the key's length, key, value.
pub fn group_record(bytes: &[u8]) {
    let Some(([a, b], rest)) = bytes.split_first_chunk() else { return };
    let key = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
    let (key, value) = (Bytes::copy_from_slice(&rest[..key]), Bytes::copy_from_slice(&rest[key..]));
    groups::decode_any(key.clone(), None);
    groups::decode_any(key, Some(value));
}

/// A znode's data.
pub fn znode(bytes: &[u8]) {
    image::parse_any(bytes);
}

/// `server.properties`.
pub fn properties(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok((config, _)) = Config::parse(std::path::Path::new("server.properties"), &text, "host") {
        let _ = config.overlaid(&config.raw);
    }
}
