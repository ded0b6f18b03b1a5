//! The same group requests to our broker and to one of Apache: every field of every answer is the same, but for random ids.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use common::{
    apache,
    client::{Client, eventually, text, topic_name},
    processes::Cluster,
};
use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, ListGroupsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        SyncGroupRequest,
        find_coordinator_response::Coordinator,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Request, StrBytes},
};

/// A conversation with a broker.
struct Talk {
    port: u16,
    client: Client,
    /// random parts of member ids, by their first appearance
    ids: Vec<String>,
    notes: Vec<String>,
}

fn is_uuid(s: &str) -> bool {
    s.len() == 36 && s.char_indices().all(|(i, c)| if [8, 13, 18, 23].contains(&i) { c == '-' } else { c.is_ascii_hexdigit() })
}

impl Talk {
    fn client(&self) -> Client {
        Client::connect(self.port)
    }
    fn note(&mut self, what: &str, answer: &impl Debug) {
        let said = format!("{answer:?}");
        let (mut out, mut rest) = (String::new(), said.as_str());
        while !rest.is_empty() {
            match rest.get(..36).filter(|s| is_uuid(s)) {
                Some(id) => {
                    let known = self.ids.iter().position(|i| i == id);
                    let n = known.unwrap_or_else(|| {
                        self.ids.push(id.to_owned());
                        self.ids.len() - 1
                    });
                    out.push_str(&format!("#{n}"));
                    rest = &rest[36..];
                }
                None => {
                    let c = rest.chars().next().unwrap();
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        self.notes.push(format!("{what}: {out}"));
    }
    fn ask<R: Request>(&mut self, what: &str, version: i16, request: &R) -> R::Response
    where
        R::Response: Debug,
    {
        let answer = self.client.call(version, request);
        self.note(&format!("{what} (v{version})"), &answer);
        answer
    }

    fn join(&mut self, what: &str, v: i16, r: &JoinGroupRequest) -> JoinGroupResponse {
        let mut answer = self.client.call(v, r);
        answer.members.sort_by(|a, b| a.group_instance_id.cmp(&b.group_instance_id).then(a.metadata.cmp(&b.metadata)));
        self.note(&format!("{what} (v{v})"), &answer);
        answer
    }
    fn heartbeat(&mut self, what: &str, group: &str, member: &str, instance: Option<&str>, generation: i32) {
        let r = HeartbeatRequest::default().with_group_id(id(group)).with_member_id(text(member)).with_generation_id(generation);
        self.ask(&format!("heartbeat {what}"), 4, &r.with_group_instance_id(instance.map(text)));
    }
    fn sync(&mut self, what: &str, group: &str, member: &str, generation: i32, assignments: &[(&str, &str)]) {
        let r = sync(group, member, generation, assignments);
        self.ask(&format!("sync {what}"), 5, &r);
    }
    fn leave(&mut self, what: &str, v: i16, group: &str, members: &[(&str, Option<&str>)]) {
        let r = LeaveGroupRequest::default().with_group_id(id(group));
        let one = |(m, i): &(&str, Option<&str>)| MemberIdentity::default().with_member_id(text(m)).with_group_instance_id(i.map(text));
        let r = if v >= 3 { r.with_members(members.iter().map(one).collect()) } else { r.with_member_id(text(members[0].0)) };
        self.ask(&format!("leave {what}"), v, &r);
    }
    fn commit(&mut self, what: &str, v: i16, group: &str, (member, generation): (&str, i32), topic: &str, metadata: &str) {
        let p = |i| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(i)
                .with_committed_offset(10 + i64::from(i))
                .with_committed_metadata(Some(text(metadata)))
        };
        let t = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![p(0), p(7)]);
        let r = OffsetCommitRequest::default().with_group_id(id(group)).with_member_id(text(member)).with_topics(vec![t]);
        let mut answer = self.client.call(v, &r.with_generation_id_or_member_epoch(generation));
        answer.topics[0].partitions.sort_by_key(|p| p.partition_index);
        self.note(&format!("commit {what} (v{v})"), &answer);
    }
    fn fetch(&mut self, what: &str, group: &str) {
        for all in [false, true] {
            let t = OffsetFetchRequestTopic::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 1]);
            let r = OffsetFetchRequest::default().with_group_id(id(group)).with_topics((!all).then_some(vec![t]));
            self.ask(&format!("fetch {what}"), 7, &r);
            let t = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 1]);
            let g = OffsetFetchRequestGroup::default().with_group_id(id(group)).with_topics((!all).then_some(vec![t]));
            self.ask(&format!("fetch {what}"), 9, &OffsetFetchRequest::default().with_groups(vec![g]).with_require_stable(true));
        }
    }
    fn describe(&mut self, what: &str, group: &str) {
        for v in [0, 3, 5] {
            let mut answer = self.client.call(v, &DescribeGroupsRequest::default().with_groups(vec![id(group)]));
            answer.groups[0].members.sort_by(|a, b| a.member_metadata.cmp(&b.member_metadata).then(a.member_id.cmp(&b.member_id)));
            self.note(&format!("describe {what} (v{v})"), &answer);
        }
    }
    fn list(&mut self, what: &str) {
        for (v, states) in [(0, &[][..]), (4, &["Stable", "Empty"]), (5, &["PreparingRebalance"]), (5, &[])] {
            let r = ListGroupsRequest::default().with_states_filter(states.iter().map(|s| text(s)).collect());
            let mut answer = self.client.call(v, &r);
            answer.groups.sort_by(|a, b| a.group_id.0.cmp(&b.group_id.0));
            self.note(&format!("list {what} {states:?} (v{v})"), &answer);
        }
    }
    fn delete(&mut self, what: &str, groups: &[&str]) {
        let mut answer = self.client.call(2, &DeleteGroupsRequest::default().with_groups_names(groups.iter().map(|g| id(g)).collect()));
        answer.results.sort_by(|a, b| a.group_id.0.cmp(&b.group_id.0));
        self.note(&format!("delete {what}"), &answer);
    }
    fn offset_delete(&mut self, what: &str, group: &str, topic: &str) {
        let p = |i| OffsetDeleteRequestPartition::default().with_partition_index(i);
        let t = OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![p(0), p(7)]);
        let mut answer = self.client.call(0, &OffsetDeleteRequest::default().with_group_id(id(group)).with_topics(vec![t]));
        answer.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
        self.note(&format!("offset delete {what}"), &answer);
    }
}

fn id(group: &str) -> GroupId {
    GroupId(text(group))
}

fn subscription(topic: &str) -> Bytes {
    let name = [&(topic.len() as i16).to_be_bytes()[..], topic.as_bytes()].concat();
    [&[0, 1, 0, 0, 0, 1][..], &name, &[0xff; 4]].concat().into()
}

fn join(group: &str, member: &str, protocols: &[(&str, &str)]) -> JoinGroupRequest {
    let one = |(name, topic): &(&str, &str)| JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(subscription(topic));
    JoinGroupRequest::default()
        .with_group_id(id(group))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(90_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols.iter().map(one).collect())
}

fn sync(group: &str, member: &str, generation: i32, assignments: &[(&str, &str)]) -> SyncGroupRequest {
    let one = |(m, a): &(&str, &str)| {
        SyncGroupRequestAssignment::default().with_member_id(text(m)).with_assignment(Bytes::copy_from_slice(a.as_bytes()))
    };
    SyncGroupRequest::default()
        .with_group_id(id(group))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.iter().map(one).collect())
}

const RANGE: &[(&str, &str)] = &[("range", "t")];

fn instance(r: JoinGroupRequest, name: &str) -> JoinGroupRequest {
    r.with_group_instance_id(Some(StrBytes::from_string(name.to_owned())))
}

fn what_is_not_there(t: &mut Talk) {
    for (v, kind) in [(0, 0), (2, 0), (2, 9), (3, 0), (4, 0), (6, 0), (6, 9)] {
        let r = FindCoordinatorRequest::default();
        let r = if v >= 4 { r.with_coordinator_keys(["g", ""].map(text).to_vec()) } else { r.with_key(text("")) };
        let answer = t.client.try_call(v, &if v >= 1 { r.with_key_type(kind) } else { r });
        let answer = answer.map(|a| {
            let one = |c: &Coordinator| (c.key.clone(), c.error_code, c.node_id, c.port == i32::from(t.port));
            (a.error_code, a.node_id, a.coordinators.iter().map(one).collect::<Vec<_>>())
        });
        if answer.is_err() {
            t.client = t.client();
        }
        t.note(&format!("coordinator of kind {kind} (v{v})"), &answer.ok());
    }
    for group in ["none", ""] {
        t.heartbeat(group, group, "m", None, 1);
        t.sync(group, group, "m", 1, &[]);
        t.leave(group, 5, group, &[("m", None), ("", Some("i"))]);
        t.leave(group, 1, group, &[("m", None)]);
        t.commit(group, 8, group, ("m", 1), "t", "");
        t.fetch(group, group);
        t.describe(group, group);
        t.delete(group, &[group, "another"]);
        t.offset_delete(group, group, "t");
        t.join(&format!("{group:?} with an id"), 9, &join(group, "m", RANGE));
    }
    t.join("session too short", 9, &join("g", "", RANGE).with_session_timeout_ms(1));
    t.join("session too long", 5, &join("g", "", RANGE).with_session_timeout_ms(i32::MAX));
    t.join("no type", 9, &join("g", "", RANGE).with_protocol_type(text("")));
    t.join("no protocols", 9, &join("g", "", &[]));
    t.describe("after refusals", "g");
    t.list("after refusals");
}

fn one_member(t: &mut Talk) -> String {
    let first = t.join("without an id", 9, &join("g", "", RANGE));
    t.describe("with one that got an id", "g");
    let m = first.member_id.to_string();
    t.join("with the id", 9, &join("g", &m, RANGE));
    t.describe("completing", "g");
    t.heartbeat("completing", "g", &m, None, 1);
    t.commit("completing", 8, "g", (&m, 1), "t", "");
    t.join("the same again", 9, &join("g", &m, RANGE));
    t.sync("of another generation", "g", &m, 7, &[]);
    t.ask("sync of another protocol", 5, &sync("g", &m, 1, &[]).with_protocol_name(Some(text("sticky"))));
    t.ask("sync of another type", 5, &sync("g", &m, 1, &[]).with_protocol_type(Some(text("connect"))));
    t.ask("sync without a type", 5, &sync("g", &m, 1, &[]).with_protocol_type(None));
    t.sync("of a stranger", "g", "stranger", 1, &[]);
    t.sync("of the leader", "g", &m, 1, &[(&m, "all"), ("stranger", "none")]);
    t.sync("again", "g", &m, 1, &[(&m, "other")]);
    t.ask("sync, old", 0, &sync("g", &m, 1, &[]).with_protocol_type(None).with_protocol_name(None));
    t.describe("stable", "g");
    t.list("stable");
    t.heartbeat("stable", "g", &m, None, 1);
    t.heartbeat("of another generation", "g", &m, None, 2);
    t.heartbeat("without a generation", "g", &m, None, -1);
    t.heartbeat("of an instance", "g", &m, Some("i"), 1);
    t.heartbeat("of a stranger", "g", "stranger", None, 1);
    for v in [2, 5, 8, 9] {
        t.commit("of the member", v, "g", (&m, 1), "t", "noted");
    }
    t.commit("with long metadata", 8, "g", (&m, 1), "t", &"x".repeat(5000));
    t.commit("for no topic", 8, "g", (&m, 1), "nowhere", "");
    t.commit("of another generation", 8, "g", (&m, 2), "t", "");
    t.commit("of a stranger", 8, "g", ("stranger", 1), "t", "");
    t.commit("without a group", 8, "g", ("", -1), "t", "");
    t.commit("without a generation", 8, "g", (&m, -1), "t", "");
    t.fetch("of the group", "g");
    t.offset_delete("subscribed", "g", "t");
    t.delete("with a member", &["g"]);
    m
}

fn two_members(t: &mut Talk, m: &str) {
    t.join("of another type", 9, &join("g", "", RANGE).with_protocol_type(text("connect")));
    t.join("of another protocol", 9, &join("g", "", &[("sticky", "t")]));
    let mut second = t.client();
    // Version 3 does not ask for the id first.
    second.send(3, &join("g", "", &[("range", "u"), ("sticky", "u")])).unwrap();
    eventually("the group rebalances", Duration::from_secs(20), || {
        let r = HeartbeatRequest::default().with_group_id(id("g")).with_member_id(text(m)).with_generation_id(1);
        (t.client.call(4, &r).error_code != 0).then_some(())
    });
    t.heartbeat("while it rebalances", "g", m, None, 1);
    t.sync("while it rebalances", "g", m, 1, &[]);
    t.commit("while it rebalances", 8, "g", (m, 1), "t", "");
    t.list("while it rebalances");
    let leads = t.join("of the leader", 9, &join("g", m, &[("sticky", "t"), ("range", "t")]));
    let answer = second.receive::<JoinGroupRequest>(3).unwrap();
    t.note("join of the second", &answer);
    assert_eq!(leads.leader.as_str(), m);
    let other = answer.member_id.to_string();
    let protocol = leads.protocol_name.clone().unwrap();
    let by_name = |r: SyncGroupRequest| r.with_protocol_name(Some(protocol.clone()));
    second.send(5, &by_name(sync("g", &other, 2, &[]))).unwrap();
    t.ask("sync of the leader", 5, &by_name(sync("g", m, 2, &[(m, "a"), (&other, "b")])));
    let answer = second.receive::<SyncGroupRequest>(5).unwrap();
    t.note("sync of the second", &answer);
    t.join("of the second, as before", 9, &join("g", &other, &[("range", "u"), ("sticky", "u")]));
    t.leave("of a stranger and the second", 5, "g", &[("stranger", None), (&other, None), (&other, None)]);
    t.heartbeat("after the second left", "g", m, None, 2);
    t.leave("of the first", 2, "g", &[(m, None)]);
    t.describe("when all have left", "g");
    t.list("when all have left");
    t.commit("of one that left", 8, "g", (m, 2), "t", "");
    t.commit("without a group", 8, "g", ("", -1), "t", "later");
    t.fetch("when all have left", "g");
    t.offset_delete("when all have left", "g", "t");
    t.fetch("when they are deleted", "g");
    t.delete("when all have left", &["g"]);
    t.describe("when it is deleted", "g");
}

fn static_members(t: &mut Talk) {
    let first = t.join("of an instance", 9, &instance(join("s", "", RANGE), "i"));
    let old = first.member_id.to_string();
    t.sync("of the instance", "s", &old, 1, &[(&old, "mine")]);
    t.heartbeat("of the instance", "s", &old, Some("i"), 1);
    t.heartbeat("of another instance", "s", &old, Some("j"), 1);
    let back = t.join("of the instance that is back", 9, &instance(join("s", "", RANGE), "i"));
    let new = back.member_id.to_string();
    t.sync("of the instance that is back", "s", &new, 1, &[]);
    t.heartbeat("of the old id", "s", &old, Some("i"), 1);
    t.heartbeat("of the old id without its name", "s", &old, None, 1);
    t.join("of the old id", 9, &instance(join("s", &old, RANGE), "i"));
    t.join("of an id with another name", 9, &instance(join("s", &new, RANGE), "k"));
    t.ask("sync of the old id", 5, &sync("s", &old, 1, &[]).with_group_instance_id(Some(text("i"))));
    t.leave("of the old id", 5, "s", &[(&old, Some("i"))]);
    let back = t.join("of the instance, older client", 7, &instance(join("s", "", RANGE), "i"));
    t.sync("of the instance, older client", "s", &back.member_id, 1, &[]);
    t.describe("with an instance", "s");
    let changed = t.join("of the instance with another subscription", 9, &instance(join("s", "", &[("range", "u")]), "i"));
    t.sync("of the instance with another subscription", "s", &changed.member_id, changed.generation_id, &[(&changed.member_id, "new")]);
    t.leave("by name", 3, "s", &[("", Some("i")), ("", Some("k"))]);
    t.describe("when the instance is gone", "s");
    // An empty group goes on counting.
    let again = t.join("of the instance into the empty group", 9, &instance(join("s", "", RANGE), "i"));
    t.sync("of the instance again", "s", &again.member_id, again.generation_id, &[]);
    t.leave("by name again", 5, "s", &[("", Some("i"))]);
    t.delete("of static members", &["s", "none"]);
}

fn talk(port: u16) -> Vec<String> {
    let client = eventually("the broker answers", Duration::from_secs(120), || {
        let mut client = Client::try_connect(port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name("t")));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(true);
        let made = client.try_call(9, &request).ok()?.topics[0].partitions.iter().filter(|p| p.leader_id.0 == 1).count() == 3;
        let found = client.try_call(3, &FindCoordinatorRequest::default().with_key(text("g"))).ok()?.error_code == 0;
        let all = DescribeGroupsRequest::default().with_groups((0..20).map(|i| id(&format!("{i}"))).collect());
        let loaded = client.try_call(5, &all).ok()?.groups.iter().all(|g| g.error_code == 0);
        (made && found && loaded).then_some(client)
    });
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut t = Talk { port, client, ids: vec![], notes: vec![] };
    what_is_not_there(&mut t);
    let m = one_member(&mut t);
    two_members(&mut t, &m);
    static_members(&mut t);
    t.notes
}

#[test]
fn every_answer_is_apaches() {
    if !common::tools::has_apache() {
        return;
    }
    let settings = "group.initial.rebalance.delay.ms=0";
    let ours = Cluster::start(1, settings);
    let ours = talk(ours.nodes[0].port);
    let mut cluster = Cluster::start(1, settings);
    apache::stop(&mut cluster);
    let apaches = talk(apache::start(&mut cluster));
    let differ: Vec<String> = ours.iter().zip(&apaches).filter(|(a, b)| a != b).map(|(a, b)| format!("ours   {a}\napache {b}\n")).collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), ours.len(), differ.join("\n"));
    assert_eq!(ours.len(), apaches.len());
}
