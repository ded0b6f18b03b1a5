//! Every version of every API is answered; what is not a request costs the connection that it came on, and no more.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use common::{
    batches::{Batch, GOLDEN},
    client::{Client, eventually, produce_request, text, topic_name},
    processes::{Cluster, SOON},
    samples::samples,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsResponse, AlterPartitionReassignmentsResponse, AlterPartitionResponse, AlterReplicaLogDirsResponse, ApiKey,
        ApiVersionsRequest, ApiVersionsResponse, CreatePartitionsResponse, CreateTopicsResponse, DeleteGroupsResponse,
        DeleteRecordsResponse, DeleteTopicsResponse, DescribeClusterResponse, DescribeConfigsResponse, DescribeGroupsResponse,
        DescribeLogDirsResponse, DescribeProducersResponse, ElectLeadersResponse, FetchResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, GroupId, HeartbeatResponse, IncrementalAlterConfigsResponse, InitProducerIdResponse, JoinGroupResponse,
        LeaveGroupResponse, ListGroupsResponse, ListOffsetsResponse, ListPartitionReassignmentsResponse, MetadataResponse,
        OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochResponse, ProduceResponse,
        SyncGroupResponse,
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    },
    protocol::Decodable,
};
use septet_broker::{cluster::control::key, handlers::APIS};

/// Decodes an answer. Returns the number of bytes that are left.
fn decode(key: ApiKey, version: i16, mut b: Bytes) -> usize {
    match key {
        ApiKey::Produce => drop(ProduceResponse::decode(&mut b, version).unwrap()),
        ApiKey::Fetch => drop(FetchResponse::decode(&mut b, version).unwrap()),
        ApiKey::ListOffsets => drop(ListOffsetsResponse::decode(&mut b, version).unwrap()),
        ApiKey::Metadata => drop(MetadataResponse::decode(&mut b, version).unwrap()),
        ApiKey::OffsetCommit => drop(OffsetCommitResponse::decode(&mut b, version).unwrap()),
        ApiKey::OffsetFetch => drop(OffsetFetchResponse::decode(&mut b, version).unwrap()),
        ApiKey::FindCoordinator => drop(FindCoordinatorResponse::decode(&mut b, version).unwrap()),
        ApiKey::ApiVersions => drop(ApiVersionsResponse::decode(&mut b, version).unwrap()),
        ApiKey::CreateTopics => drop(CreateTopicsResponse::decode(&mut b, version).unwrap()),
        ApiKey::DeleteTopics => drop(DeleteTopicsResponse::decode(&mut b, version).unwrap()),
        ApiKey::OffsetForLeaderEpoch => drop(OffsetForLeaderEpochResponse::decode(&mut b, version).unwrap()),
        ApiKey::JoinGroup => drop(JoinGroupResponse::decode(&mut b, version).unwrap()),
        ApiKey::SyncGroup => drop(SyncGroupResponse::decode(&mut b, version).unwrap()),
        ApiKey::Heartbeat => drop(HeartbeatResponse::decode(&mut b, version).unwrap()),
        ApiKey::LeaveGroup => drop(LeaveGroupResponse::decode(&mut b, version).unwrap()),
        ApiKey::DescribeGroups => drop(DescribeGroupsResponse::decode(&mut b, version).unwrap()),
        ApiKey::ListGroups => drop(ListGroupsResponse::decode(&mut b, version).unwrap()),
        ApiKey::DeleteGroups => drop(DeleteGroupsResponse::decode(&mut b, version).unwrap()),
        ApiKey::OffsetDelete => drop(OffsetDeleteResponse::decode(&mut b, version).unwrap()),
        ApiKey::InitProducerId => drop(InitProducerIdResponse::decode(&mut b, version).unwrap()),
        ApiKey::AlterPartition => drop(AlterPartitionResponse::decode(&mut b, version).unwrap()),
        ApiKey::DeleteRecords => drop(DeleteRecordsResponse::decode(&mut b, version).unwrap()),
        ApiKey::DescribeConfigs => drop(DescribeConfigsResponse::decode(&mut b, version).unwrap()),
        ApiKey::AlterConfigs => drop(AlterConfigsResponse::decode(&mut b, version).unwrap()),
        ApiKey::IncrementalAlterConfigs => drop(IncrementalAlterConfigsResponse::decode(&mut b, version).unwrap()),
        ApiKey::AlterReplicaLogDirs => drop(AlterReplicaLogDirsResponse::decode(&mut b, version).unwrap()),
        ApiKey::DescribeLogDirs => drop(DescribeLogDirsResponse::decode(&mut b, version).unwrap()),
        ApiKey::CreatePartitions => drop(CreatePartitionsResponse::decode(&mut b, version).unwrap()),
        ApiKey::ElectLeaders => drop(ElectLeadersResponse::decode(&mut b, version).unwrap()),
        ApiKey::AlterPartitionReassignments => drop(AlterPartitionReassignmentsResponse::decode(&mut b, version).unwrap()),
        ApiKey::ListPartitionReassignments => drop(ListPartitionReassignmentsResponse::decode(&mut b, version).unwrap()),
        ApiKey::DescribeProducers => drop(DescribeProducersResponse::decode(&mut b, version).unwrap()),
        ApiKey::DescribeCluster => drop(DescribeClusterResponse::decode(&mut b, version).unwrap()),
        other => panic!("{other:?}: say how it is decoded"),
    }
    b.len()
}

#[test]
fn one_broker_and_all_that_can_be_asked_of_it() {
    let cluster = Cluster::start(1, "auto.create.topics.enable=false\nsocket.request.max.bytes=2000000");
    every_version_is_answered(&cluster);
    every_version_works(&cluster);
    api_versions_answers_every_version(&cluster);
    topics_are_not_made_where_that_is_switched_off(&cluster);
    what_is_not_served_ends_the_connection(&cluster);
    garbage_ends_the_connection(&cluster);
    lies_in_records_end_nothing(&cluster);
    half_a_frame_hurts_nobody(&cluster);
}

fn every_version_is_answered(cluster: &Cluster) {
    let mut client = cluster.client(1);
    for api in APIS {
        for version in api.served_from..=api.versions.1 {
            for body in samples(api.key, version) {
                client.send_body(api.key as i16, version, api.key.request_header_version(version), &body).unwrap();
                let answer = client.receive_body(api.key.response_header_version(version));
                let answer = answer.unwrap_or_else(|e| panic!("{:?} version {version}: {e}: {body:02x?}", api.key));
                assert_eq!(decode(api.key, version, answer), 0, "{:?} version {version}", api.key);
            }
        }
    }
}

fn every_version_works(cluster: &Cluster) {
    cluster.create("t", 1);
    eventually("the group has a coordinator", SOON, || {
        (cluster.client(1).call(2, &FindCoordinatorRequest::default().with_key(text("g"))).error_code == 0).then_some(())
    });
    let mut client = cluster.client(1);
    for (i, version) in (0i64..).zip(3..=11) {
        let answer = client.produce_in(version, "t", 0, &GOLDEN);
        assert_eq!((answer.error_code, answer.base_offset, answer.log_append_time_ms), (0, i * 3, -1), "Produce {version}");
    }
    for version in 4..=17 {
        let data = client.fetch_in(version, "t", 0, 4, Duration::ZERO);
        assert_eq!((data.error_code, data.high_watermark, data.records.unwrap().len()), (0, 27, 8 * GOLDEN.len()), "Fetch {version}");
    }
    eventually("the group's coordinator is loaded", SOON, || (client.commit(8, "g", "t", &[(0, 1, "m")]) == [0]).then_some(()));
    for version in 2..=9 {
        assert_eq!(client.commit(version, "g", "t", &[(0, version.into(), "m")]), [0], "OffsetCommit {version}");
        for fetch in 1..=7 {
            assert_eq!(client.committed(fetch, "g", "t", 0), (0, version.into(), "m".into()), "OffsetFetch {fetch}");
        }
        for fetch in 8..=9 {
            let topic = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 7, 0]);
            let one = |id: &str, topics| OffsetFetchRequestGroup::default().with_group_id(GroupId(text(id))).with_topics(topics);
            let groups = vec![one("g", Some(vec![topic])), one("g", None), one("nobody", None)];
            let answer = client.call(fetch, &OffsetFetchRequest::default().with_groups(groups));
            assert_eq!(answer.groups.iter().map(|g| (g.group_id.0.as_str(), g.error_code)).collect::<Vec<_>>(), [("g", 0), ("nobody", 0)]);
            let of_g: Vec<_> = answer.groups[0].topics[0].partitions.iter().map(|p| (p.partition_index, p.committed_offset)).collect();
            assert_eq!(of_g, [(0, version.into()), (7, -1)], "OffsetFetch {fetch}");
        }
    }
    for version in 0..=3 {
        let answer = client.call(version, &FindCoordinatorRequest::default().with_key(text("g")));
        assert_eq!((answer.error_code, answer.node_id.0, answer.host.as_str()), (0, 1, "127.0.0.1"), "FindCoordinator {version}");
    }
    for version in 4..=6 {
        let keys = ["g", "h", "", "g"].map(text).to_vec();
        let answer = client.call(version, &FindCoordinatorRequest::default().with_coordinator_keys(keys));
        let got: Vec<_> = answer.coordinators.iter().map(|c| (c.key.as_str(), c.error_code, c.node_id.0)).collect();
        assert_eq!(got, [("g", 0, 1), ("h", 0, 1), ("", 0, 1)], "FindCoordinator {version}");
    }
}

fn api_versions_answers_every_version(cluster: &Cluster) {
    let mut client = cluster.client(1);
    for version in 0..=4 {
        let named = ApiVersionsRequest::default().with_client_software_name(text("a-client")).with_client_software_version(text("1.0"));
        let answer = client.call(version, &if version >= 3 { named } else { ApiVersionsRequest::default() });
        let got: Vec<_> = answer.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
        let want: Vec<_> = APIS.iter().map(|a| (a.key as i16, a.versions.0, a.versions.1)).chain(key::ALL.iter().copied()).collect();
        assert_eq!((answer.error_code, got), (0, want));
    }
    // Java and kafka-python open with a version that is too high: the answer has the form of version 0.
    for version in [5, 6, 100, i16::MAX, -1, i16::MIN] {
        client.send_body(18, version, 2, &[5, b'j', b'a', b'v', b'a', 2, b'1', 0]).unwrap();
        let mut answer = client.receive_body(0).unwrap();
        assert_eq!(answer.get_i16(), 35, "UNSUPPORTED_VERSION");
        assert_eq!((answer.get_i32(), answer.get_i16(), answer.get_i16(), answer.get_i16(), answer.len()), (1, 18, 0, 4, 0));
    }
    let nameless = client.call(3, &ApiVersionsRequest::default()).error_code;
    assert_eq!(nameless, ResponseError::InvalidRequest.code(), "the connection goes on, and a client has a name");
}

fn topics_are_not_made_where_that_is_switched_off(cluster: &Cluster) {
    let answer = cluster.client(1).metadata(Some(&["wished-for"]), true);
    assert_eq!(answer.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
}

/// Sends bytes on a connection of their own; the broker must close it.
fn ends(cluster: &Cluster, what: &str, bytes: &[u8]) {
    let mut client = cluster.client(1);
    let _ = client.stream.write_all(bytes);
    assert!(client.is_closed(), "{what}");
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

fn head(key: i16, version: i16) -> Vec<u8> {
    [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 1, 0xff, 0xff]].concat()
}

fn what_is_not_served_ends_the_connection(cluster: &Cluster) {
    for (key, version) in [
        (0, 0),
        (0, 2),
        (0, 12),
        (1, 3),
        (1, 18),
        (3, 13),
        (3, -1),
        (4, 0),
        (7, 0),
        (11, 10),
        (47, 1),
        (22, 5),
        (999, 0),
        (-1, 0),
        (i16::MIN, i16::MAX),
    ] {
        ends(cluster, &format!("API {key} version {version}"), &framed(&[&head(key, version)[..], &[0; 40]].concat()));
    }
}

fn garbage_ends_the_connection(cluster: &Cluster) {
    let mut bystander = cluster.client(1);
    let before = resident_bytes(cluster);
    let huge = |n: i32| [&n.to_be_bytes()[..], b"whatever"].concat();
    ends(cluster, "2 GiB", &huge(i32::MAX));
    ends(cluster, "a negative length", &huge(-1));
    ends(cluster, "the smallest length", &huge(i32::MIN));
    ends(cluster, "no length", &huge(0));
    ends(cluster, "shorter than a head", &framed(&[0; 7]));
    ends(cluster, "one byte more than socket.request.max.bytes", &huge(2_000_001));
    ends(cluster, "HTTP", b"GET /metrics HTTP/1.1\r\nHost: kafka\r\n\r\n");
    ends(cluster, "TLS", &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]);
    ends(cluster, "a client id that is too long", &framed(&[0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0, 0, 0, 0]));
    ends(cluster, "a client id that is no text", &framed(&[0, 3, 0, 1, 0, 0, 0, 1, 0, 2, 0xff, 0xfe, 0, 0, 0, 0]));
    for api in APIS {
        for version in [api.served_from, api.versions.1] {
            let tags: &[u8] = if api.key.request_header_version(version) >= 2 { &[0] } else { &[] };
            let start = [&head(api.key as i16, version)[..], tags].concat();
            // (Without a body at first, these two are requests as they stand.)
            if (api.key != ApiKey::ApiVersions || version >= 3) && (api.key, version) != (ApiKey::ListGroups, 0) {
                let what = format!("{:?} version {version}", api.key);
                ends(cluster, &what, &framed(&start));
                ends(cluster, &what, &framed(&[&start[..], &[0x7f; 30]].concat()));
                // (In some this is a null list, which stands for all; in InitProducerId 0 a producer without transactions.)
                if ![(ApiKey::Metadata, 0), (ApiKey::DescribeLogDirs, 1), (ApiKey::ElectLeaders, 0), (ApiKey::InitProducerId, 0)]
                    .contains(&(api.key, version))
                {
                    ends(cluster, &what, &framed(&[&start[..], &[0xff; 60]].concat()));
                }
            }
        }
    }
    // A pseudo-random walk through what a frame could hold, from a fixed seed.
    let mut seed = 0x5eed_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..150 {
        let key = APIS[next() as usize % APIS.len()].key as i16;
        let mut frame = head(key, (next() % 13) as i16);
        frame.extend((0..next() % 80).map(|_| next() as u8));
        let mut client = cluster.client(1);
        client.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        client.send_frame(&frame).unwrap();
        let _ = client.stream.read(&mut [0; 4096]);
    }
    assert_eq!(bystander.produce("t", 0, &GOLDEN), 27, "another connection has not noticed");
    let grown = resident_bytes(cluster).saturating_sub(before);
    assert!(grown < 50_000_000, "{grown} bytes more");
}

fn lies_in_records_end_nothing(cluster: &Cluster) {
    let mut client = cluster.client(1);
    cluster.create("lies", 1);
    let headers = [24, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0];
    for count in [1, i32::MAX] {
        for body in [&headers[..], b"garbage", &[]] {
            let lie = Batch::new(5).count(count).last_offset_delta(count - 1).max_timestamp(9).body(body).build();
            assert_eq!(client.produce_in(9, "lies", 0, &lie).error_code, ResponseError::InvalidRecord.code(), "{count} {body:?}");
        }
    }
    // One batch for each partition in a request, as on Kafka.
    let two = [&GOLDEN[..], &GOLDEN].concat();
    assert_eq!(client.produce_in(9, "lies", 0, &two).error_code, ResponseError::InvalidRecord.code());
    assert_eq!(client.list_offsets(7, "lies", 0, -1), (0, 0, -1), "nothing was stored");
    let mut again = produce_request("lies", 0, &GOLDEN, -1);
    let partition = again.topic_data[0].partition_data[0].clone();
    again.topic_data[0].partition_data.push(partition);
    let codes: Vec<i16> = client.call(9, &again).responses[0].partition_responses.iter().map(|p| p.error_code).collect();
    assert_eq!((codes, client.list_offsets(7, "lies", 0, -1).1), (vec![0, ResponseError::InvalidRequest.code()], 3));
    // The largest timestamp is that of the records, whatever the producer says.
    let wrong = Batch::new(5).records(&[(0, None, Some("a")), (3, None, Some("b"))]).max_timestamp(i64::MAX).build();
    cluster.create("late", 1);
    assert_eq!(client.produce("late", 0, &wrong), 0);
    assert_eq!(client.list_offsets(7, "late", 0, 9), (0, -1, -1));
    assert_eq!(client.list_offsets(7, "late", 0, 8), (0, 1, 8));
}

fn half_a_frame_hurts_nobody(cluster: &Cluster) {
    let before = resident_bytes(cluster);
    let port = cluster.nodes[0].port;
    let announce = |bytes: &[u8]| {
        let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
        s.write_all(bytes).unwrap();
        s
    };
    // Frames that are allowed, but of which no more than a beginning comes.
    let held: Vec<TcpStream> = (0..100)
        .map(|i| match i % 4 {
            0 => announce(&[]),
            1 => announce(&[0, 0]),
            2 => announce(&2_000_000u32.to_be_bytes()),
            _ => announce(&[&2_000_000u32.to_be_bytes()[..], &head(0, 9), &[1; 500]].concat()),
        })
        .collect();
    let mut client = cluster.client(1);
    let begun = Instant::now();
    let end = client.list_offsets(7, "t", 0, -1).1;
    assert_eq!(client.produce("t", 0, &GOLDEN), end);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let grown = resident_bytes(cluster).saturating_sub(before);
    assert!(grown < 50_000_000, "{grown} bytes more, for 100 MB that were announced");
    drop(held);
    // A request that comes byte by byte is a request; two in one packet are two.
    let mut slow = cluster.client(1);
    for byte in framed(&head(18, 0)) {
        slow.stream.write_all(&[byte]).unwrap();
    }
    let mut first = [0; 8];
    slow.stream.read_exact(&mut first).unwrap();
    assert_eq!(first[4..], [0, 0, 0, 1]);
    let mut both = TcpStream::connect(("127.0.0.1", port)).unwrap();
    both.set_read_timeout(Some(SOON)).unwrap();
    both.write_all(&[framed(&head(18, 0)), framed(&head(18, 9))].concat()).unwrap();
    for _ in 0..2 {
        let mut length = [0; 4];
        both.read_exact(&mut length).unwrap();
        both.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).unwrap();
    }
    // The largest request that is allowed is taken.
    let padding = "x".repeat(1_000_000);
    assert_eq!(client.produce("t", 0, &Batch::new(1).values(&[&padding]).build()), end + 3);
    let too_large = produce_request("t", 0, &Batch::new(1).values(&[&padding.repeat(2)]).build(), -1);
    let mut other = cluster.client(1);
    assert!(other.try_call(9, &too_large).is_err(), "larger than socket.request.max.bytes");
    assert_eq!(client.list_offsets(7, "t", 0, -1), (0, end + 4, -1));
}

/// Resident memory of the first broker.
fn resident_bytes(cluster: &Cluster) -> u64 {
    let id = cluster.nodes[0].process.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it still runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("it still runs");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn connections_are_limited() {
    let cluster = Cluster::start(1, "max.connections=5");
    let port = cluster.nodes[0].port;
    // Those that the start of the cluster has used may not be closed yet.
    let held = eventually("five connections are served", SOON, || {
        let mut held: Vec<Client> = (0..5).map(|_| Client::connect(port)).collect();
        held.iter_mut().all(|c| c.try_call(3, &ApiVersionsRequest::default()).is_ok()).then_some(held)
    });
    let mut sixth = Client::connect(port);
    assert!(sixth.try_call(3, &ApiVersionsRequest::default()).is_err());
    drop(held);
    eventually("there is room again", SOON, || Client::connect(port).try_call(3, &ApiVersionsRequest::default()).ok());
}
