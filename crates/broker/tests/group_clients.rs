//! Consumer groups of clients that others wrote, and over restarts: see `common/tools.rs` for where they come from.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, time::Duration};

use common::{
    apache,
    batches::Batch,
    client::{Client, eventually, text, topic_name},
    processes::{Cluster, SOON},
    tools,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        ListGroupsRequest, OffsetCommitRequest, SyncGroupRequest,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        sync_group_request::SyncGroupRequestAssignment,
    },
};

/// Kafka's delay is 3 s.
const QUICK: &str = "group.initial.rebalance.delay.ms=300";

#[test]
fn confluent_kafka() {
    tools::script(&Cluster::start(3, QUICK), "groups_confluent.py");
}

#[test]
fn kafka_python() {
    tools::script(&Cluster::start(3, QUICK), "groups_kafka_python.py");
}

#[test]
fn aiokafka() {
    tools::script(&Cluster::start(3, QUICK), "groups_aiokafka.py");
}

fn fill(cluster: &Cluster, topic: &str, partitions: i32, each: usize) {
    let leaders = cluster.create(topic, partitions);
    for (p, leader) in (0..).zip(leaders) {
        let values: Vec<String> = (0..each).map(|i| format!("{p}-{i}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        cluster.client(leader).produce(topic, p, &Batch::new(1_700_000_000_000).values(&values).build());
    }
}

#[test]
fn kcat() {
    let cluster = Cluster::start(3, QUICK);
    fill(&cluster, "orders", 3, 20);
    let servers = tools::bootstrap(&cluster);
    let arguments = ["-b", &servers, "-X", "auto.offset.reset=earliest", "-c", "60", "-q", "-G", "reader", "orders"];
    let out = tools::run(cluster.dir.path(), &tools::kcat(), &arguments);
    let mut got: Vec<&str> = out.lines().filter(|l| l.contains('-') && !l.contains(' ')).collect();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), 60, "{out}");
    // It has committed when it left.
    let mut client = cluster.client(coordinator(&cluster, "reader"));
    let committed: i64 = (0..3).map(|p| client.committed(7, "reader", "orders", p).1).sum();
    assert_eq!(committed, 60);
}

#[test]
fn apaches_tools() {
    if !tools::has_apache() {
        return;
    }
    let cluster = Cluster::start(3, QUICK);
    fill(&cluster, "orders", 3, 20);
    fill(&cluster, "other", 1, 5);
    let servers = tools::bootstrap(&cluster);
    let (dir, console) = (cluster.dir.path(), tools::kafka("kafka-console-consumer.sh"));
    let arguments =
        ["--bootstrap-server", &servers, "--group", "reader", "--include", "orders|other", "--from-beginning", "--max-messages", "65"];
    let out = tools::run(dir, &console, &arguments);
    assert_eq!(out.lines().filter(|l| l.contains('-') && l.len() < 6).count(), 65, "{out}");
    let tool = tools::kafka("kafka-consumer-groups.sh");
    // Its own limit is five seconds, in which Java hardly starts on a machine that is busy.
    let groups =
        |arguments: &[&str]| tools::run(dir, &tool, &[&["--bootstrap-server", &servers, "--timeout", "60000"], arguments].concat());
    assert!(groups(&["--list", "--state"]).lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == ["reader", "Empty"]));
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG
    let rows = |out: &str| -> Vec<Vec<String>> {
        let row = |l: &str| l.split_whitespace().skip(1).take(5).map(str::to_owned).collect();
        let mut rows: Vec<Vec<String>> = out.lines().filter(|l| l.starts_with("reader ")).map(row).collect();
        rows.sort();
        rows
    };
    let row = |topic: &str, p: i32, at: i32, end: i32| {
        [topic.to_owned(), p.to_string(), at.to_string(), end.to_string(), (end - at).to_string()].to_vec()
    };
    let out = groups(&["--describe", "--group", "reader"]);
    let mut want: Vec<_> = (0..3).map(|p| row("orders", p, 20, 20)).collect();
    want.push(row("other", 0, 5, 5));
    assert_eq!(rows(&out), want, "{out}");
    let out = groups(&["--reset-offsets", "--group", "reader", "--topic", "orders", "--shift-by", "-7", "--execute"]);
    assert!(out.contains("13"), "{out}");
    groups(&["--delete-offsets", "--group", "reader", "--topic", "other"]);
    let out = groups(&["--describe", "--group", "reader"]);
    assert_eq!(rows(&out), (0..3).map(|p| row("orders", p, 13, 20)).collect::<Vec<_>>(), "{out}");
    let out = groups(&["--describe", "--group", "reader", "--state"]);
    assert!(out.contains("Empty"), "{out}");
    assert!(groups(&["--delete", "--group", "reader"]).contains("successful"));
    assert!(!groups(&["--list"]).contains("reader"));
    let (out, _) = tools::try_run(dir, &tool, &["--bootstrap-server", &servers, "--delete", "--group", "reader"]);
    assert!(out.contains("GroupIdNotFoundException"), "{out}");
}

fn coordinator(cluster: &Cluster, group: &str) -> i32 {
    eventually("the group has a coordinator that is loaded", SOON, || {
        let node = cluster.nodes.iter().find(|n| n.process.is_some()).unwrap();
        let mut client = Client::try_connect(node.port).ok()?;
        let answer = client.try_call(3, &FindCoordinatorRequest::default().with_key(text(group))).ok()?;
        let id = (answer.error_code == 0).then_some(answer.node_id.0)?;
        let listed = cluster.client(id).try_call(4, &ListGroupsRequest::default()).ok()?;
        (listed.error_code == 0 && describe(&mut cluster.client(id), group).0 == 0).then_some(id)
    })
}

/// Error, state, member ids.
fn describe(client: &mut Client, group: &str) -> (i16, String, Vec<String>) {
    let mut answer = client.call(5, &DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]));
    let g = answer.groups.remove(0);
    (g.error_code, g.group_state.to_string(), g.members.iter().map(|m| m.member_id.to_string()).collect())
}

fn join(client: &mut Client, version: i16, group: &str, member_id: &str) -> JoinGroupResponse {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(vec![0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].into());
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(300_000)
        .with_member_id(text(member_id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    client.call(version, &if version >= 1 { request.with_rebalance_timeout_ms(60_000) } else { request })
}

/// Joins alone and takes the assignment. Returns the member's id; the generation is 1.
fn form(client: &mut Client, group: &str) -> String {
    let first = join(client, 9, group, "");
    assert_eq!(first.error_code, ResponseError::MemberIdRequired.code());
    let joined = join(client, 9, group, &first.member_id);
    assert_eq!((joined.error_code, joined.generation_id, &joined.leader, joined.members.len()), (0, 1, &joined.member_id, 1));
    let assignment = SyncGroupRequestAssignment::default().with_member_id(joined.member_id.clone()).with_assignment("mine".into());
    let request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(1)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(vec![assignment]);
    let synced = client.call(5, &request);
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    joined.member_id.to_string()
}

fn heartbeat(client: &mut Client, group: &str, member: &str) -> i16 {
    let request = HeartbeatRequest::default().with_group_id(GroupId(text(group))).with_generation_id(1).with_member_id(text(member));
    client.call(4, &request).error_code
}

fn commit(client: &mut Client, group: &str, member: &str, offset: i64) -> i16 {
    let p = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("m")));
    let t = OffsetCommitRequestTopic::default().with_name(topic_name("orders")).with_partitions(vec![p]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(1)
        .with_member_id(text(member))
        .with_topics(vec![t]);
    client.call(8, &request).topics[0].partitions[0].error_code
}

#[test]
fn every_version_of_the_group_apis_works() {
    let cluster = Cluster::start(1, "group.initial.rebalance.delay.ms=0");
    coordinator(&cluster, "g");
    for v in 0..=9i16 {
        let group = format!("group-{v}");
        let mut client = cluster.client(1);
        let first = join(&mut client, v, &group, "");
        let joined = match v {
            ..4 => first,
            _ => {
                assert_eq!(first.error_code, ResponseError::MemberIdRequired.code(), "{v}");
                join(&mut client, v, &group, &first.member_id)
            }
        };
        assert_eq!((joined.error_code, joined.generation_id, joined.protocol_name.as_deref()), (0, 1, Some("range")), "{v}");
        assert!(joined.member_id.starts_with("test-") && joined.leader == joined.member_id && joined.members.len() == 1);
        assert_eq!(joined.protocol_type.as_deref(), (v >= 7).then_some("consumer"));
        let assignment = SyncGroupRequestAssignment::default().with_member_id(joined.member_id.clone()).with_assignment("x".into());
        let sync = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&group)))
            .with_generation_id(1)
            .with_member_id(joined.member_id.clone())
            .with_assignments(vec![assignment]);
        let sync_version = v.min(5);
        if sync_version == 5 {
            let unnamed = client.call(5, &sync);
            assert_eq!(unnamed.error_code, ResponseError::InconsistentGroupProtocol.code());
        }
        let named = |s: SyncGroupRequest| match sync_version {
            5 => s.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range"))),
            _ => s,
        };
        let synced = client.call(sync_version, &named(sync));
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"x"[..]), "{v}");
        let beat = HeartbeatRequest::default().with_group_id(GroupId(text(&group))).with_generation_id(1);
        assert_eq!(client.call(v.min(4), &beat.clone().with_member_id(joined.member_id.clone())).error_code, 0, "{v}");
        assert_eq!(client.call(v.min(4), &beat.with_member_id(text("x"))).error_code, ResponseError::UnknownMemberId.code(), "{v}");
        let described =
            client.call(v.min(5), &DescribeGroupsRequest::default().with_groups(vec![GroupId(text(&group)), GroupId(text("none"))]));
        let states: Vec<_> = described.groups.iter().map(|g| (g.error_code, g.group_state.as_str(), g.members.len())).collect();
        assert_eq!(states, [(0, "Stable", 1), (0, "Dead", 0)], "{v}");
        assert_eq!(
            (&described.groups[0].members[0].client_host[..], &described.groups[0].members[0].client_id[..]),
            ("/127.0.0.1", "test")
        );
        let listed = client.call(v.min(5), &ListGroupsRequest::default());
        assert!(listed.groups.iter().any(|g| g.group_id.0.as_str() == group && g.protocol_type.as_str() == "consumer"), "{v}");
        let leave = LeaveGroupRequest::default().with_group_id(GroupId(text(&group)));
        let leave = match v {
            ..3 => leave.with_member_id(joined.member_id),
            _ => leave.with_members(vec![MemberIdentity::default().with_member_id(joined.member_id)]),
        };
        let left = client.call(v.min(5), &leave);
        assert_eq!((left.error_code, left.members.iter().map(|m| i32::from(m.error_code)).sum::<i32>()), (0, 0), "{v}");
        assert_eq!(describe(&mut client, &group).1, "Empty");
    }
    let filter = |states: &[&str], types: &[&str]| {
        let texts = |l: &[&str]| l.iter().map(|s| text(s)).collect();
        let request = ListGroupsRequest::default().with_states_filter(texts(states)).with_types_filter(texts(types));
        cluster.client(1).call(5, &request).groups.len()
    };
    assert_eq!((filter(&[], &[]), filter(&["empty"], &["Classic"]), filter(&["Stable"], &[]), filter(&[], &["consumer"])), (10, 10, 0, 0));
}

#[test]
fn a_group_and_its_offsets_survive_kill_9() {
    let mut cluster = Cluster::start(1, "group.initial.rebalance.delay.ms=0");
    cluster.create("orders", 1);
    coordinator(&cluster, "g");
    let mut client = cluster.client(1);
    let member = form(&mut client, "g");
    assert_eq!(commit(&mut client, "g", &member, 7), 0);
    cluster.node(1).kill_9();
    cluster.node(1).start();
    cluster.wait();
    coordinator(&cluster, "g");
    let mut client = cluster.client(1);
    assert_eq!(describe(&mut client, "g"), (0, "Stable".into(), vec![member.clone()]));
    assert_eq!((heartbeat(&mut client, "g", &member), commit(&mut client, "g", &member, 8)), (0, 0));
    assert_eq!(client.committed(7, "g", "orders", 0), (0, 8, "m".into()));
}

/// A broker of Apache takes over the directory of ours with the groups in it, and ours takes it back.
#[test]
fn an_apache_broker_takes_over_the_groups_and_gives_them_back() {
    if !tools::has_apache() {
        return;
    }
    let mut cluster = Cluster::start(1, "group.initial.rebalance.delay.ms=0");
    cluster.create("orders", 1);
    coordinator(&cluster, "g");
    let mut client = cluster.client(1);
    let member = form(&mut client, "g");
    assert_eq!((commit(&mut client, "g", &member, 7), client.commit(4, "simple", "orders", &[(0, 3, "")])), (0, vec![0]));
    apache::stop(&mut cluster);
    // What Apache's own tool sees in the log.
    let logs = fs::read_dir(cluster.node(1).logs())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().contains("__consumer_offsets"));
    let segments: Vec<String> = logs.map(|d| d.join(format!("{:020}.log", 0)).display().to_string()).collect();
    let out = tools::run(cluster.dir.path(), &tools::kafka("kafka-dump-log.sh"), &["--offsets-decoder", "--files", &segments.join(",")]);
    for want in
        ["\"group\":\"g\"", "\"topic\":\"orders\",\"partition\":0", "\"offset\":7", "\"protocol\":\"range\"", "\"generation\":1", &member]
    {
        assert!(out.contains(want), "{want}: {out}");
    }
    assert!(!out.contains("Exception"), "{out}");
    let port = apache::start(&mut cluster);
    let mut client = eventually("Apache's broker has loaded the group", Duration::from_secs(120), || {
        let mut client = Client::try_connect(port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(common::client::text("g"))]);
        let answer = client.try_call(5, &request).ok()?;
        (answer.groups[0].error_code == 0).then_some(client)
    });
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(describe(&mut client, "g"), (0, "Stable".into(), vec![member.clone()]));
    assert_eq!(client.committed(7, "g", "orders", 0), (0, 7, "m".into()));
    assert_eq!(client.committed(7, "simple", "orders", 0), (0, 3, String::new()));
    assert_eq!((heartbeat(&mut client, "g", &member), commit(&mut client, "g", &member, 9)), (0, 0));
    let other = form(&mut client, "of-apache");
    drop(client);
    apache::stop(&mut cluster);
    cluster.node(1).start();
    cluster.wait();
    coordinator(&cluster, "g");
    let mut client = cluster.client(1);
    assert_eq!(client.committed(7, "g", "orders", 0), (0, 9, "m".into()));
    assert_eq!(heartbeat(&mut client, "g", &member), 0);
    coordinator(&cluster, "of-apache");
    assert_eq!(describe(&mut client, "of-apache"), (0, "Stable".into(), vec![other.clone()]));
    assert_eq!(heartbeat(&mut client, "of-apache", &other), 0);
}
