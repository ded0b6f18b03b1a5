//! Requests of every API that is served, in every version, with arrays of none to two elements and with nulls.

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest, AlterReplicaLogDirsRequest, ApiKey,
        ApiVersionsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest,
        DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
        DescribeProducersRequest, ElectLeadersRequest, FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
        IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest,
        ListPartitionReassignmentsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        OffsetForLeaderEpochRequest, ProduceRequest, ProducerId, SyncGroupRequest, TopicName, TransactionalId,
        alter_configs_request::{AlterConfigsResource, AlterableConfig},
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        alter_partition_request::{BrokerState, PartitionData, TopicData},
        alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic},
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_producers_request::TopicRequest,
        elect_leaders_request::TopicPartitions,
        fetch_request::{FetchPartition, FetchTopic, ForgottenTopic},
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        list_partition_reassignments_request::ListPartitionReassignmentsTopics,
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use uuid::Uuid;

/// The number that the first element of an array begins with.
pub const FIRST: i32 = 0x4a4b_4c4d;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A name that an element of an array begins with.
fn name(i: usize) -> StrBytes {
    text(&format!("{}-topic{i}", if i == 0 { "A" } else { "S" }))
}

fn id(i: usize) -> Uuid {
    Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 + i as u128)
}

fn number(i: usize) -> i32 {
    if i == 0 { FIRST } else { i as i32 }
}

fn list<T>(n: usize, one: impl Fn(usize) -> T) -> Vec<T> {
    (0..n).map(one).collect()
}

fn produce(v: i16, n: usize, nulls: bool) -> ProduceRequest {
    assert!(v >= 3);
    let partition =
        |i| PartitionProduceData::default().with_index(number(i)).with_records((!nulls).then(|| Bytes::from_static(b"R-records")));
    ProduceRequest::default()
        .with_transactional_id((!nulls).then(|| TransactionalId(text("S-transaction"))))
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(list(n, |i| TopicProduceData::default().with_name(TopicName(name(i))).with_partition_data(list(n, partition))))
}

fn fetch(v: i16, n: usize) -> FetchRequest {
    let partition = |i| {
        let p = FetchPartition::default().with_partition(number(i)).with_fetch_offset(5).with_partition_max_bytes(1 << 20);
        let p = if v >= 5 { p.with_log_start_offset(-1) } else { p };
        let p = if v >= 9 { p.with_current_leader_epoch(3) } else { p };
        if v >= 12 { p.with_last_fetched_epoch(2) } else { p }
    };
    let topic = |i| {
        let t = FetchTopic::default().with_partitions(list(n, partition));
        if v >= 13 { t.with_topic_id(id(i)) } else { t.with_topic(TopicName(name(i))) }
    };
    let r = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(5)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(1)
        .with_topics(list(n, topic));
    let forgotten = |i| {
        let t = ForgottenTopic::default().with_partitions(list(n, number));
        if v >= 13 { t.with_topic_id(id(i)) } else { t.with_topic(TopicName(name(i))) }
    };
    let r = if v >= 7 { r.with_session_id(9).with_session_epoch(8).with_forgotten_topics_data(list(n, forgotten)) } else { r };
    if v >= 11 { r.with_rack_id(text("S-rack")) } else { r }
}

fn list_offsets(v: i16, n: usize) -> ListOffsetsRequest {
    let partition = |i| {
        let p = ListOffsetsPartition::default().with_partition_index(number(i)).with_timestamp(-1);
        if v >= 4 { p.with_current_leader_epoch(7) } else { p }
    };
    let topic = |i| ListOffsetsTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, partition));
    let r = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(list(n, topic));
    if v >= 2 { r.with_isolation_level(1) } else { r }
}

fn metadata(v: i16, n: usize, nulls: bool) -> MetadataRequest {
    let topic = |i| {
        let t = MetadataRequestTopic::default();
        if v >= 12 && i > 0 { t.with_name(None).with_topic_id(id(i)) } else { t.with_name(Some(TopicName(name(i)))) }
    };
    let topics = list(n, topic);
    let r = MetadataRequest::default().with_topics((!nulls || v == 0).then_some(topics));
    let r = if v >= 4 { r.with_allow_auto_topic_creation(false) } else { r };
    let r = if v >= 8 { r.with_include_topic_authorized_operations(true) } else { r };
    if (8..=10).contains(&v) { r.with_include_cluster_authorized_operations(true) } else { r }
}

fn offset_commit(v: i16, n: usize, nulls: bool) -> OffsetCommitRequest {
    let partition = |i| {
        let p = OffsetCommitRequestPartition::default().with_partition_index(number(i)).with_committed_offset(42);
        let p = p.with_committed_metadata((!nulls).then(|| text("S-metadata")));
        if v >= 6 { p.with_committed_leader_epoch(4) } else { p }
    };
    let r = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("S-group")))
        .with_generation_id_or_member_epoch(-1)
        .with_member_id(text("S-member"))
        .with_topics(list(n, |i| OffsetCommitRequestTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, partition))));
    let r = if v <= 4 { r.with_retention_time_ms(1000) } else { r };
    if v >= 7 { r.with_group_instance_id((!nulls).then(|| text("S-instance"))) } else { r }
}

fn offset_fetch(v: i16, n: usize, nulls: bool) -> OffsetFetchRequest {
    let topics = list(n, |i| OffsetFetchRequestTopic::default().with_name(TopicName(name(i))).with_partition_indexes(list(n, number)));
    let of_group =
        || list(n, |i| OffsetFetchRequestTopics::default().with_name(TopicName(name(i))).with_partition_indexes(list(n, number)));
    let group = |i| {
        let g = OffsetFetchRequestGroup::default().with_group_id(GroupId(name(i))).with_topics((!nulls).then(of_group));
        if v >= 9 { g.with_member_id((!nulls).then(|| text("S-member"))).with_member_epoch(5) } else { g }
    };
    let r = OffsetFetchRequest::default();
    let r = match v {
        ..=7 => r.with_group_id(GroupId(text("S-group"))).with_topics((!nulls || v < 2).then_some(topics)),
        _ => r.with_groups(list(n, group)),
    };
    if v >= 7 { r.with_require_stable(true) } else { r }
}

fn find_coordinator(v: i16, n: usize) -> FindCoordinatorRequest {
    let r = FindCoordinatorRequest::default();
    let r = if v >= 4 { r.with_coordinator_keys(list(n, name)) } else { r.with_key(text("S-group")) };
    if v >= 1 { r.with_key_type(0) } else { r }
}

fn instance(nulls: bool) -> Option<StrBytes> {
    (!nulls).then(|| text("S-instance"))
}

fn join_group(v: i16, n: usize, nulls: bool) -> JoinGroupRequest {
    let protocol = |i| JoinGroupRequestProtocol::default().with_name(name(i)).with_metadata(Bytes::from_static(b"R-metadata"));
    let r = JoinGroupRequest::default()
        .with_group_id(GroupId(text("S-group")))
        .with_session_timeout_ms(6000)
        .with_member_id(text("S-member"))
        .with_protocol_type(text("S-consumer"))
        .with_protocols(list(n, protocol));
    let r = if v >= 1 { r.with_rebalance_timeout_ms(7000) } else { r };
    let r = if v >= 5 { r.with_group_instance_id(instance(nulls)) } else { r };
    if v >= 8 { r.with_reason((!nulls).then(|| text("S-reason"))) } else { r }
}

fn sync_group(v: i16, n: usize, nulls: bool) -> SyncGroupRequest {
    let one = |i| SyncGroupRequestAssignment::default().with_member_id(name(i)).with_assignment(Bytes::from_static(b"R-assignment"));
    let r = SyncGroupRequest::default()
        .with_group_id(GroupId(text("S-group")))
        .with_generation_id(3)
        .with_member_id(text("S-member"))
        .with_assignments(list(n, one));
    let r = if v >= 3 { r.with_group_instance_id(instance(nulls)) } else { r };
    let named = |s| (!nulls).then(|| text(s));
    if v >= 5 { r.with_protocol_type(named("S-consumer")).with_protocol_name(named("S-range")) } else { r }
}

fn heartbeat(v: i16, nulls: bool) -> HeartbeatRequest {
    let r = HeartbeatRequest::default().with_group_id(GroupId(text("S-group"))).with_generation_id(3).with_member_id(text("S-member"));
    if v >= 3 { r.with_group_instance_id(instance(nulls)) } else { r }
}

fn leave_group(v: i16, n: usize, nulls: bool) -> LeaveGroupRequest {
    let r = LeaveGroupRequest::default().with_group_id(GroupId(text("S-group")));
    let member = |i| {
        let m = MemberIdentity::default().with_member_id(name(i)).with_group_instance_id(instance(nulls));
        if v >= 5 { m.with_reason((!nulls).then(|| text("S-reason"))) } else { m }
    };
    if v >= 3 { r.with_members(list(n, member)) } else { r.with_member_id(text("S-member")) }
}

fn groups(n: usize) -> Vec<GroupId> {
    list(n, |i| GroupId(name(i)))
}

fn list_groups(v: i16, n: usize) -> ListGroupsRequest {
    let r = ListGroupsRequest::default();
    let r = if v >= 4 { r.with_states_filter(list(n, name)) } else { r };
    if v >= 5 { r.with_types_filter(list(n, name)) } else { r }
}

fn describe_groups(v: i16, n: usize) -> DescribeGroupsRequest {
    let r = DescribeGroupsRequest::default().with_groups(groups(n));
    if v >= 3 { r.with_include_authorized_operations(true) } else { r }
}

fn offset_delete(n: usize) -> OffsetDeleteRequest {
    let partition = |i| OffsetDeleteRequestPartition::default().with_partition_index(number(i));
    let topic = |i| OffsetDeleteRequestTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, partition));
    OffsetDeleteRequest::default().with_group_id(GroupId(text("S-group"))).with_topics(list(n, topic))
}

fn create_topics(n: usize, nulls: bool) -> CreateTopicsRequest {
    let assignment =
        |i| CreatableReplicaAssignment::default().with_partition_index(number(i)).with_broker_ids(list(n, |i| BrokerId(number(i))));
    let config = |i| CreatableTopicConfig::default().with_name(name(i)).with_value((!nulls).then(|| text("S-value")));
    let topic = |i| {
        let t = CreatableTopic::default().with_name(TopicName(name(i))).with_num_partitions(3).with_replication_factor(1);
        t.with_assignments(list(n, assignment)).with_configs(list(n, config))
    };
    CreateTopicsRequest::default().with_topics(list(n, topic)).with_timeout_ms(1000).with_validate_only(true)
}

fn delete_topics(v: i16, n: usize, nulls: bool) -> DeleteTopicsRequest {
    let r = DeleteTopicsRequest::default().with_timeout_ms(500);
    let topic = |i| DeleteTopicState::default().with_name((!nulls).then(|| TopicName(name(i))));
    if v >= 6 { r.with_topics(list(n, topic)) } else { r.with_topic_names(list(n, |i| TopicName(name(i)))) }
}

fn epochs(v: i16, n: usize) -> OffsetForLeaderEpochRequest {
    let partition = |i| OffsetForLeaderPartition::default().with_partition(number(i)).with_current_leader_epoch(2).with_leader_epoch(1);
    let topic = |i| OffsetForLeaderTopic::default().with_topic(TopicName(name(i))).with_partitions(list(n, partition));
    let r = OffsetForLeaderEpochRequest::default().with_topics(list(n, topic));
    if v >= 3 { r.with_replica_id(BrokerId(-1)) } else { r }
}

fn alter_partition(v: i16, n: usize) -> AlterPartitionRequest {
    let member = |i| BrokerState::default().with_broker_id(BrokerId(number(i))).with_broker_epoch(-1);
    let partition = |i| {
        let p = PartitionData::default().with_partition_index(number(i)).with_leader_epoch(1).with_partition_epoch(2);
        match v >= 3 {
            true => p.with_new_isr_with_epochs(list(n, member)),
            false => p.with_new_isr((0..n).map(|i| BrokerId(number(i))).collect()),
        }
    };
    let topic = |i: usize| TopicData::default().with_topic_id(Uuid::from_u128(i as u128 + 1)).with_partitions(list(n, partition));
    AlterPartitionRequest::default().with_broker_id(BrokerId(1)).with_broker_epoch(1 << 40).with_topics(list(n, topic))
}

fn delete_records(n: usize) -> DeleteRecordsRequest {
    let partition = |i| DeleteRecordsPartition::default().with_partition_index(number(i)).with_offset(-1);
    let topic = |i| DeleteRecordsTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, partition));
    DeleteRecordsRequest::default().with_topics(list(n, topic)).with_timeout_ms(1000)
}

fn init_producer_id(v: i16, nulls: bool) -> InitProducerIdRequest {
    let r = InitProducerIdRequest::default().with_transactional_id((!nulls).then(|| TransactionalId(text("S-transaction"))));
    let r = r.with_transaction_timeout_ms(1000);
    if v >= 3 { r.with_producer_id(ProducerId(7)).with_producer_epoch(8) } else { r }
}

fn encoded<R: Encodable + Decodable + PartialEq + std::fmt::Debug>(v: i16, request: &R) -> Bytes {
    let mut b = BytesMut::new();
    request.encode(&mut b, v).unwrap_or_else(|e| panic!("version {v}: {request:?}: {e}"));
    let b = b.freeze();
    assert_eq!(&R::decode(&mut b.clone(), v).unwrap(), request, "version {v}: every field of the sample is in its bytes");
    b
}

fn describe_configs(v: i16, n: usize, nulls: bool) -> DescribeConfigsRequest {
    let resource = |i: usize| {
        let keys = list(n, |i| if i == 0 { text("A-key") } else { text("S-key") });
        // A resource begins with its type, not with a length.
        DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(&format!("S-{i}")))
            .with_configuration_keys((!nulls).then_some(keys))
    };
    let r = DescribeConfigsRequest::default().with_resources(list(n, resource)).with_include_synonyms(true);
    if v >= 3 { r.with_include_documentation(true) } else { r }
}

fn alter_configs(n: usize, nulls: bool) -> AlterConfigsRequest {
    let config = |i| AlterableConfig::default().with_name(name(i)).with_value((!nulls).then(|| text("S-value")));
    let resource = |i: usize| {
        AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(&format!("S-{i}"))).with_configs(list(n, config))
    };
    AlterConfigsRequest::default().with_resources(list(n, resource)).with_validate_only(true)
}

fn incremental_alter_configs(n: usize, nulls: bool) -> IncrementalAlterConfigsRequest {
    use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let config =
        |i| AlterableConfig::default().with_name(name(i)).with_config_operation(i as i8).with_value((!nulls).then(|| text("S-value")));
    let resource = |i: usize| {
        AlterConfigsResource::default().with_resource_type(4).with_resource_name(text(&format!("S-{i}"))).with_configs(list(n, config))
    };
    IncrementalAlterConfigsRequest::default().with_resources(list(n, resource)).with_validate_only(true)
}

fn alter_log_dirs(n: usize) -> AlterReplicaLogDirsRequest {
    let topic = |i| AlterReplicaLogDirTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, number));
    let dir = |i| AlterReplicaLogDir::default().with_path(name(i)).with_topics(list(n, topic));
    AlterReplicaLogDirsRequest::default().with_dirs(list(n, dir))
}

fn describe_log_dirs(n: usize, nulls: bool) -> DescribeLogDirsRequest {
    let topic = |i| DescribableLogDirTopic::default().with_topic(TopicName(name(i))).with_partitions(list(n, number));
    DescribeLogDirsRequest::default().with_topics((!nulls).then(|| list(n, topic)))
}

fn create_partitions(n: usize, nulls: bool) -> CreatePartitionsRequest {
    let assignment = |_| CreatePartitionsAssignment::default().with_broker_ids(list(n, |i| BrokerId(number(i))));
    let topic = |i| {
        let t = CreatePartitionsTopic::default().with_name(TopicName(name(i))).with_count(7);
        t.with_assignments((!nulls).then(|| list(n, assignment)))
    };
    CreatePartitionsRequest::default().with_topics(list(n, topic)).with_timeout_ms(500).with_validate_only(true)
}

fn describe_cluster(v: i16) -> DescribeClusterRequest {
    let r = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    if v >= 1 { r.with_endpoint_type(1) } else { r }
}

fn elect_leaders(v: i16, n: usize, nulls: bool) -> ElectLeadersRequest {
    let topic = |i| TopicPartitions::default().with_topic(TopicName(name(i))).with_partitions(list(n, number));
    let r = ElectLeadersRequest::default().with_topic_partitions((!nulls).then(|| list(n, topic))).with_timeout_ms(5);
    if v >= 1 { r.with_election_type(1) } else { r }
}

fn alter_reassignments(n: usize, nulls: bool) -> AlterPartitionReassignmentsRequest {
    let partition = |i| {
        let p = ReassignablePartition::default().with_partition_index(number(i));
        p.with_replicas((!nulls).then(|| list(n, |i| BrokerId(number(i)))))
    };
    let topic = |i| ReassignableTopic::default().with_name(TopicName(name(i))).with_partitions(list(n, partition));
    AlterPartitionReassignmentsRequest::default().with_timeout_ms(5).with_topics(list(n, topic))
}

fn list_reassignments(n: usize, nulls: bool) -> ListPartitionReassignmentsRequest {
    let topic = |i| ListPartitionReassignmentsTopics::default().with_name(TopicName(name(i))).with_partition_indexes(list(n, number));
    ListPartitionReassignmentsRequest::default().with_timeout_ms(5).with_topics((!nulls).then(|| list(n, topic)))
}

fn describe_producers(n: usize) -> DescribeProducersRequest {
    let topic = |i| TopicRequest::default().with_name(TopicName(name(i))).with_partition_indexes(list(n, number));
    DescribeProducersRequest::default().with_topics(list(n, topic))
}

/// Samples of the body of a request.
pub fn samples(key: ApiKey, v: i16) -> Vec<Bytes> {
    let mut out = Vec::new();
    for n in 0..3 {
        for nulls in [false, true] {
            out.push(match key {
                ApiKey::Produce => encoded(v, &produce(v, n, nulls)),
                ApiKey::Fetch => encoded(v, &fetch(v, n)),
                ApiKey::ListOffsets => encoded(v, &list_offsets(v, n)),
                ApiKey::Metadata => encoded(v, &metadata(v, n, nulls)),
                ApiKey::OffsetCommit => encoded(v, &offset_commit(v, n, nulls)),
                ApiKey::OffsetFetch => encoded(v, &offset_fetch(v, n, nulls)),
                ApiKey::FindCoordinator => encoded(v, &find_coordinator(v, n)),
                ApiKey::JoinGroup => encoded(v, &join_group(v, n, nulls)),
                ApiKey::SyncGroup => encoded(v, &sync_group(v, n, nulls)),
                ApiKey::Heartbeat => encoded(v, &heartbeat(v, nulls)),
                ApiKey::LeaveGroup => encoded(v, &leave_group(v, n, nulls)),
                ApiKey::DescribeGroups => encoded(v, &describe_groups(v, n)),
                ApiKey::ListGroups => encoded(v, &list_groups(v, n)),
                ApiKey::DeleteGroups => encoded(v, &DeleteGroupsRequest::default().with_groups_names(groups(n))),
                ApiKey::OffsetDelete => encoded(v, &offset_delete(n)),
                ApiKey::ApiVersions => {
                    let r = ApiVersionsRequest::default();
                    let named = || {
                        ApiVersionsRequest::default().with_client_software_name(text("S-name")).with_client_software_version(text("S-1.0"))
                    };
                    encoded(v, &if v >= 3 { named() } else { r })
                }
                ApiKey::CreateTopics => encoded(v, &create_topics(n, nulls)),
                ApiKey::DeleteTopics => encoded(v, &delete_topics(v, n, nulls)),
                ApiKey::InitProducerId => encoded(v, &init_producer_id(v, nulls)),
                ApiKey::AlterPartition => encoded(v, &alter_partition(v, n)),
                ApiKey::DeleteRecords => encoded(v, &delete_records(n)),
                ApiKey::OffsetForLeaderEpoch => encoded(v, &epochs(v, n)),
                ApiKey::DescribeConfigs => encoded(v, &describe_configs(v, n, nulls)),
                ApiKey::AlterConfigs => encoded(v, &alter_configs(n, nulls)),
                ApiKey::IncrementalAlterConfigs => encoded(v, &incremental_alter_configs(n, nulls)),
                ApiKey::AlterReplicaLogDirs => encoded(v, &alter_log_dirs(n)),
                ApiKey::DescribeLogDirs => encoded(v, &describe_log_dirs(n, nulls)),
                ApiKey::CreatePartitions => encoded(v, &create_partitions(n, nulls)),
                ApiKey::ElectLeaders => encoded(v, &elect_leaders(v, n, nulls)),
                ApiKey::AlterPartitionReassignments => encoded(v, &alter_reassignments(n, nulls)),
                ApiKey::ListPartitionReassignments => encoded(v, &list_reassignments(n, nulls)),
                ApiKey::DescribeProducers => encoded(v, &describe_producers(n)),
                ApiKey::DescribeCluster => encoded(v, &describe_cluster(v)),
                other => panic!("no samples of {other:?}: write some"),
            });
        }
    }
    out
}
