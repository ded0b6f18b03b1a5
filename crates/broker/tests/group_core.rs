//! One group's state machine: what GroupCoordinator of Kafka 3.9 answers, and what holds whatever the order of requests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use proptest::prelude::*;
use septet_broker::groups::{
    GroupValue,
    core::{Answer, Effects, Group, Join, Joined, Limits, Now, State, Store, Sync, Synced, Token},
};

const LIMITS: Limits = Limits { initial_rebalance_delay_ms: 3000, min_session_ms: 1, max_session_ms: 1_000_000, max_size: 5 };
const SESSION: i32 = 10_000;
const REBALANCE: i32 = 60_000;

/// A subscription as consumers send it: version, topics.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 1];
    out.extend((topics.len() as i32).to_be_bytes());
    for t in topics {
        out.extend((t.len() as i16).to_be_bytes());
        out.extend(t.as_bytes());
    }
    out.extend([0xff; 4]);
    out.into()
}

fn request(member_id: &str, new_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        new_member_id: new_id.into(),
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: REBALANCE,
        session_timeout_ms: SESSION,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(&["t"]))],
        ..Join::default()
    }
}

fn of_static(instance: &str, new_id: &str) -> Join {
    Join { instance_id: Some(instance.into()), ..request("", new_id) }
}

/// A group with a clock, its answers, and a log that takes records when it is told.
struct World {
    group: Group,
    now: Now,
    next: Token,
    limits: Limits,
    joins: HashMap<Token, Joined>,
    syncs: HashMap<Token, Synced>,
    stores: Vec<Store>,
    written: Vec<GroupValue>,
}

impl World {
    fn new() -> Self {
        let now = Now { ticks: 0, wall: 1_700_000_000_000 };
        let (joins, syncs) = Default::default();
        Self { group: Group::new("g", now), now, next: 0, limits: LIMITS, joins, syncs, stores: vec![], written: vec![] }
    }
    fn take(&mut self, fx: Effects) {
        for (token, answer) in fx.answers {
            let again = match answer {
                Answer::Join(j) => self.joins.insert(token, j).is_some(),
                Answer::Sync(s) => self.syncs.insert(token, s).is_some(),
            };
            assert!(!again, "request {token} is answered twice");
        }
        self.stores.extend(fx.stores);
    }
    fn join(&mut self, join: Join) -> Token {
        let (token, mut fx) = (self.next, Effects::default());
        self.next += 1;
        self.group.join(token, join, &self.limits, self.now, &mut fx);
        self.take(fx);
        token
    }
    fn sync(&mut self, member_id: &str, generation: i32, assignments: &[(&str, &str)]) -> Token {
        let assignments = assignments.iter().map(|(m, a)| ((*m).to_owned(), Bytes::copy_from_slice(a.as_bytes()))).collect();
        self.sync_with(Sync { member_id: member_id.into(), generation, assignments, ..Sync::default() })
    }
    fn sync_with(&mut self, sync: Sync) -> Token {
        let (token, mut fx) = (self.next, Effects::default());
        self.next += 1;
        self.group.sync(token, sync, self.now, &mut fx);
        self.take(fx);
        token
    }
    fn leave(&mut self, member_id: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        let mut fx = Effects::default();
        let result = self.group.leave(member_id, instance, &self.limits, self.now, &mut fx);
        self.take(fx);
        result
    }
    fn heartbeat(&mut self, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        self.group.heartbeat(member_id, None, generation, self.now)
    }
    fn after(&mut self, ms: i64) {
        (self.now.ticks, self.now.wall) = (self.now.ticks + ms, self.now.wall + ms);
        let mut fx = Effects::default();
        self.group.tick(&self.limits, self.now, &mut fx);
        self.take(fx);
    }
    fn stored(&mut self, result: Result<(), ResponseError>) {
        if self.stores.is_empty() {
            return;
        }
        let (store, mut fx) = (self.stores.remove(0), Effects::default());
        if result.is_ok() {
            self.written.push(store.value);
        }
        self.group.stored(store.id, result, &self.limits, self.now, &mut fx);
        self.take(fx);
    }
    fn joined(&self, token: Token) -> &Joined {
        self.joins.get(&token).unwrap_or_else(|| panic!("join {token} waits"))
    }
    fn join_error(&self, token: Token) -> Option<ResponseError> {
        self.joined(token).error
    }
    fn synced(&self, token: Token) -> (Option<ResponseError>, &str) {
        let s = self.syncs.get(&token).unwrap_or_else(|| panic!("sync {token} waits"));
        (s.error, std::str::from_utf8(&s.assignment).unwrap())
    }
    fn waits(&self, token: Token) -> bool {
        !self.joins.contains_key(&token) && !self.syncs.contains_key(&token)
    }
    /// A stable group of these members in generation 1.
    fn stable(joins: Vec<Join>) -> Self {
        let mut w = Self::new();
        let ids: Vec<String> = joins.iter().map(|j| j.new_member_id.clone()).collect();
        let tokens: Vec<Token> = joins.into_iter().map(|j| w.join(j)).collect();
        while w.group.state() == State::PreparingRebalance {
            w.after(3000);
        }
        assert!(tokens.iter().all(|t| w.join_error(*t).is_none()));
        let leader = w.joined(tokens[0]).leader.clone();
        let assignments: Vec<(String, String)> = ids.iter().map(|id| (id.clone(), format!("for {id}"))).collect();
        let assignments: Vec<(&str, &str)> = assignments.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        for id in ids.iter().filter(|id| **id != leader) {
            w.sync(id, 1, &[]);
        }
        w.sync(&leader, 1, &assignments);
        w.stored(Ok(()));
        assert_eq!((w.group.state(), w.group.generation()), (State::Stable, 1));
        w
    }
}

#[test]
fn two_members_form_a_generation() {
    let mut w = World::new();
    let a = w.join(request("", "a"));
    w.after(2900);
    assert!(w.waits(a) && w.group.state() == State::PreparingRebalance, "the first rebalance waits for more members");
    let b = w.join(request("", "b"));
    w.after(100);
    assert!(w.waits(a), "one came: as long again");
    w.after(3000);
    let (first, second) = (w.joined(a).clone(), w.joined(b).clone());
    assert_eq!((first.generation, second.generation, first.leader.as_str(), second.leader.as_str()), (1, 1, "a", "a"));
    assert_eq!(first.members.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(second.members.is_empty() && first.protocol.as_deref() == Some("range"));
    assert_eq!(w.group.state(), State::CompletingRebalance);
    let sync_b = w.sync("b", 1, &[]);
    let sync_a = w.sync("a", 1, &[("a", "0"), ("b", "1")]);
    assert!(w.waits(sync_a) && w.waits(sync_b), "not before the record is committed");
    assert_eq!(w.group.state(), State::CompletingRebalance);
    w.stored(Ok(()));
    assert_eq!((w.synced(sync_a), w.synced(sync_b), w.group.state()), ((None, "0"), (None, "1"), State::Stable));
    assert_eq!((w.heartbeat("a", 1), w.heartbeat("a", 0)), (Ok(()), Err(ResponseError::IllegalGeneration)));
    assert_eq!(w.heartbeat("nobody", 1), Err(ResponseError::UnknownMemberId));
    let value = w.written.last().unwrap();
    assert_eq!((value.generation, value.leader.as_deref(), value.members.len()), (1, Some("a"), 2));
    assert_eq!(value.members[1].assignment, Bytes::from_static(b"1"));
    // A follower that asks again gets what it has; the leader begins a rebalance.
    let again = w.join(request("b", ""));
    assert_eq!((w.joined(again).generation, w.group.state()), (1, State::Stable));
    let leader = w.join(request("a", ""));
    assert!(w.waits(leader) && w.group.state() == State::PreparingRebalance);
    assert_eq!(w.heartbeat("b", 1), Err(ResponseError::RebalanceInProgress));
    let late = w.sync("b", 1, &[]);
    assert_eq!(w.synced(late).0, Some(ResponseError::RebalanceInProgress));
    let follower = w.join(request("b", ""));
    assert_eq!((w.joined(leader).generation, w.joined(follower).generation), (2, 2));
}

#[test]
fn a_dynamic_member_gets_its_id_first() {
    let mut w = World::new();
    let known = |id: &str, new: &str| Join { require_known_member_id: true, ..request(id, new) };
    let first = w.join(known("", "a"));
    assert_eq!((w.join_error(first), w.joined(first).member_id.as_str()), (Some(ResponseError::MemberIdRequired), "a"));
    assert_eq!(w.group.state(), State::Empty);
    let second = w.join(known("a", ""));
    w.after(3000);
    assert_eq!((w.join_error(second), w.joined(second).generation), (None, 1));
    // One that got an id is waited for, until its session ends.
    let a = w.join(known("a", ""));
    assert_eq!(w.joined(a).generation, 1, "the same answer while the assignment is awaited");
    w.join(known("", "b"));
    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..known("a", "") };
    let a = w.join(changed);
    assert!(w.waits(a), "b may still come");
    w.after(i64::from(SESSION));
    assert_eq!((w.joined(a).generation, w.joined(a).members.len()), (2, 1));
    let late = w.join(known("b", ""));
    assert_eq!(w.join_error(late), Some(ResponseError::UnknownMemberId));
    // Static members have none to wait for.
    let s = w.join(Join { require_known_member_id: false, ..of_static("i", "i-1") });
    assert!(w.waits(s));
}

#[test]
fn sessions_end_and_rebalances_do() {
    let mut w = World::stable(vec![request("", "a"), request("", "b")]);
    w.after(9000);
    assert_eq!(w.heartbeat("a", 1), Ok(()));
    w.after(1000);
    assert_eq!((w.group.state(), w.group.members().count()), (State::PreparingRebalance, 1), "b was not heard of");
    // A member that does not join again within the rebalance time-out is removed.
    for _ in 0..9 {
        w.after(6000);
        assert_eq!(w.heartbeat("a", 1), Err(ResponseError::RebalanceInProgress));
    }
    w.after(6000);
    assert_eq!((w.group.state(), w.group.members().count(), w.group.generation()), (State::Empty, 0, 2));
    assert_eq!(w.stores.len(), 1, "the empty group is written");
    w.stored(Ok(()));
    assert!(w.written.last().unwrap().members.is_empty());
    // One that never sends SyncGroup is removed, too, though its heart beats.
    let a = w.join(request("", "a"));
    let b = w.join(request("", "b"));
    w.after(3000);
    w.after(3000);
    assert_eq!((w.joined(a).generation, w.joined(b).generation), (3, 3));
    w.sync("a", 3, &[("a", "x")]);
    w.stored(Ok(()));
    for _ in 0..10 {
        assert_eq!((w.heartbeat("a", 3), w.heartbeat("b", 3)), (Ok(()), Ok(())));
        w.after(6000);
    }
    assert_eq!((w.group.state(), w.heartbeat("b", 3)), (State::PreparingRebalance, Err(ResponseError::UnknownMemberId)));
}

#[test]
fn a_new_member_that_never_comes_back_is_removed() {
    let mut w = World::stable(vec![request("", "a")]);
    w.group.heartbeat("a", None, 1, w.now).unwrap();
    let long = Join { rebalance_timeout_ms: 1_000_000, session_timeout_ms: 1_000_000, ..request("a", "") };
    w.join(long);
    assert_eq!(w.group.generation(), 2);
    let b = w.join(request("", "b"));
    w.after(5 * 60_000);
    assert_eq!(w.join_error(b), Some(ResponseError::UnknownMemberId));
    assert_eq!(w.group.members().count(), 1);
}

#[test]
fn a_write_that_fails_begins_a_rebalance() {
    let mut w = World::new();
    w.join(request("", "a"));
    w.after(3000);
    let sync = w.sync("a", 1, &[("a", "x")]);
    w.stored(Err(ResponseError::CoordinatorNotAvailable));
    assert_eq!(w.synced(sync).0, Some(ResponseError::CoordinatorNotAvailable));
    assert_eq!(w.group.state(), State::PreparingRebalance);
    let a = w.join(request("a", ""));
    assert_eq!(w.joined(a).generation, 2);
    // A result for a generation that is over changes nothing.
    w.sync("a", 2, &[("a", "x")]);
    let b = w.join(request("", "b"));
    w.stored(Ok(()));
    assert_eq!((w.group.state(), w.waits(b)), (State::PreparingRebalance, true));
}

#[test]
fn protocols_are_chosen_by_votes() {
    let with = |id: &str, protocols: &[&str]| Join {
        protocols: protocols.iter().map(|p| ((*p).into(), Bytes::copy_from_slice(p.as_bytes()))).collect(),
        ..request("", id)
    };
    let mut w = World::new();
    w.join(with("a", &["only-a", "range", "sticky"]));
    w.join(with("b", &["sticky", "range"]));
    let c = w.join(with("c", &["sticky", "range"]));
    let other = w.join(with("d", &["only-a"]));
    assert_eq!(w.join_error(other), Some(ResponseError::InconsistentGroupProtocol));
    let kind = w.join(Join { protocol_type: "connect".into(), ..with("d", &["range"]) });
    assert_eq!(w.join_error(kind), Some(ResponseError::InconsistentGroupProtocol));
    let none = World::new().join(with("x", &[]));
    assert_eq!(none, 0);
    w.after(3000);
    w.after(3000);
    assert_eq!(w.joined(c).protocol.as_deref(), Some("sticky"));
    let wrong = w.sync_with(Sync { member_id: "a".into(), generation: 1, protocol: Some("range".into()), ..Sync::default() });
    assert_eq!(w.synced(wrong).0, Some(ResponseError::InconsistentGroupProtocol));
    let wrong = w.sync_with(Sync { member_id: "a".into(), generation: 1, protocol_type: Some("connect".into()), ..Sync::default() });
    assert_eq!(w.synced(wrong).0, Some(ResponseError::InconsistentGroupProtocol));
    let wrong = w.sync("a", 2, &[]);
    assert_eq!(w.synced(wrong).0, Some(ResponseError::IllegalGeneration));
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    for skips in [false, true] {
        let mut w = World::stable(vec![of_static("one", "one-1"), of_static("two", "two-1")]);
        let back = w.join(Join { supports_skipping: skips, ..of_static("one", "one-2") });
        assert!(w.waits(back) && w.group.state() == State::Stable, "until its new id is committed");
        w.stored(Ok(()));
        let answer = w.joined(back).clone();
        assert_eq!((answer.error, answer.generation, answer.member_id.as_str()), (None, 1, "one-2"));
        // Before version 9 it must not know that it leads, or it would assign.
        let want = if skips { ("one-2", true, 2) } else { ("one-1", false, 0) };
        assert_eq!((answer.leader.as_str(), answer.skip_assignment, answer.members.len()), want);
        assert_eq!(w.group.leader(), Some("one-2"));
        let sync = w.sync("one-2", 1, &[]);
        assert_eq!(w.synced(sync), (None, "for one-1"), "with the assignment that it had");
        // The old id is fenced wherever the instance is named.
        let fenced = Some(ResponseError::FencedInstanceId);
        assert_eq!(w.group.heartbeat("one-1", Some("one"), 1, w.now).err(), fenced);
        assert_eq!(w.group.check_commit("one-1", Some("one"), 1, w.now).err(), fenced);
        let old = w.join(Join { member_id: "one-1".into(), ..of_static("one", "") });
        assert_eq!(w.join_error(old), fenced);
        assert_eq!(w.leave("one-1", Some("one")).err(), fenced);
        let strange = w.join(Join { member_id: "two-1".into(), ..of_static("three", "") });
        assert_eq!(w.join_error(strange), Some(ResponseError::UnknownMemberId));
        assert!(w.written.last().unwrap().members.iter().any(|m| m.id == "one-2" && m.instance_id.as_deref() == Some("one")));
        // An administrator names the instance only.
        assert_eq!(w.leave("", Some("one")), Ok(()));
        assert_eq!(w.leave("", Some("one")), Err(ResponseError::UnknownMemberId));
        assert_eq!(w.group.state(), State::PreparingRebalance);
    }
}

#[test]
fn a_static_member_whose_new_id_is_not_written_keeps_the_old_one() {
    let mut w = World::stable(vec![of_static("one", "one-1")]);
    let back = w.join(of_static("one", "one-2"));
    w.stored(Err(ResponseError::NotCoordinator));
    assert_eq!(w.join_error(back), Some(ResponseError::NotCoordinator));
    assert_eq!(w.group.heartbeat("one-1", Some("one"), 1, w.now), Ok(()));
    assert_eq!(w.group.leader(), Some("one-1"));
}

#[test]
fn a_static_member_that_changes_the_protocol_or_comes_between_rebalances() {
    let mut w = World::stable(vec![of_static("one", "one-1"), of_static("two", "two-1")]);
    let other = Join {
        protocols: vec![("sticky".into(), subscription(&["t"])), ("range".into(), subscription(&["t"]))],
        ..of_static("one", "one-2")
    };
    let back = w.join(other);
    w.stored(Ok(()));
    // range stays, the only one that two supports.
    assert_eq!((w.join_error(back), w.group.state()), (None, State::Stable));
    // While an assignment is awaited the leader may know the old id only.
    let lead = w.join(Join { member_id: "one-2".into(), ..of_static("one", "") });
    let two = w.join(Join { member_id: "two-1".into(), ..of_static("two", "") });
    assert_eq!((w.joined(lead).generation, w.joined(two).generation), (2, 2));
    let waiting = w.sync("two-1", 2, &[]);
    let back = w.join(of_static("two", "two-2"));
    assert_eq!(w.synced(waiting).0, Some(ResponseError::FencedInstanceId));
    assert!(w.waits(back) && w.group.state() == State::PreparingRebalance);
    // Static members stay until their sessions end, and one leads that is there.
    w.after(i64::from(SESSION));
    assert_eq!((w.joined(back).generation, w.joined(back).leader.as_str()), (3, "two-2"));
}

#[test]
fn a_group_has_a_largest_size() {
    let mut w = World::new();
    w.limits.max_size = 2;
    let all: Vec<Token> = (0..3).map(|i| w.join(request("", &format!("m{i}")))).collect();
    assert_eq!(w.join_error(all[2]), Some(ResponseError::GroupMaxSizeReached));
    w.after(3000);
    w.after(3000);
    assert_eq!((w.joined(all[0]).generation, w.joined(all[1]).generation), (1, 1));
    let more = w.join(request("", "m3"));
    assert_eq!(w.join_error(more), Some(ResponseError::GroupMaxSizeReached));
    // Loaded by a broker that allows fewer, it sheds those that join last.
    let full = World::stable(vec![request("", "a"), request("", "b"), request("", "c")]);
    let mut w = World { limits: Limits { max_size: 2, ..LIMITS }, ..World::new() };
    w.group = Group::restore("g", full.written.last().unwrap().clone(), w.now);
    let mut fx = Effects::default();
    w.group.loaded(&w.limits, w.now, &mut fx);
    assert_eq!(w.group.state(), State::PreparingRebalance);
    let all: Vec<Token> = ["a", "b", "c"].iter().map(|id| w.join(request(id, ""))).collect();
    assert_eq!(w.join_error(all[2]), Some(ResponseError::GroupMaxSizeReached));
    assert_eq!(w.joined(all[0]).generation, 2);
}

#[test]
fn who_may_commit() {
    let mut w = World::new();
    let commit = |w: &mut World, id: &str, generation: i32| w.group.check_commit(id, None, generation, w.now).err();
    assert_eq!(commit(&mut w, "", -1), None, "nobody is there");
    w.join(request("", "a"));
    w.after(3000);
    assert_eq!(commit(&mut w, "a", 1), Some(ResponseError::RebalanceInProgress));
    w.sync("a", 1, &[]);
    w.stored(Ok(()));
    for (id, generation, want) in [
        ("a", 1, None),
        ("a", 0, Some(ResponseError::IllegalGeneration)),
        ("a", -1, Some(ResponseError::IllegalGeneration)),
        ("", -1, Some(ResponseError::UnknownMemberId)),
        ("b", 1, Some(ResponseError::UnknownMemberId)),
    ] {
        assert_eq!(commit(&mut w, id, generation), want, "{id:?} {generation}");
    }
    w.join(request("", "b"));
    assert_eq!(commit(&mut w, "a", 1), None, "the generation before may still commit");
    for (topic, want) in [("t", Err(ResponseError::GroupSubscribedToTopic)), ("other", Ok(()))] {
        assert_eq!(w.group.check_offset_delete(topic), want);
    }
}

#[test]
fn a_group_survives_its_record() {
    let w = World::stable(vec![of_static("one", "one-1"), request("", "b")]);
    let value = w.written.last().unwrap().clone();
    let mut back = World { now: w.now, ..World::new() };
    back.group = Group::restore("g", value, w.now);
    assert_eq!(back.group.describe(), w.group.describe());
    assert_eq!((back.group.leader(), back.group.subscribed()), (w.group.leader(), w.group.subscribed()));
    assert_eq!((back.heartbeat("b", 1), back.group.heartbeat("one-1", Some("one"), 1, back.now)), (Ok(()), Ok(())));
    let sync = back.sync("b", 1, &[]);
    assert_eq!(back.synced(sync), (None, "for b"));
    back.after(i64::from(SESSION));
    assert_eq!((back.group.state(), back.group.members().count()), (State::Empty, 0));
}

/// What clients and time do.
#[derive(Debug, Clone)]
enum Step {
    Join(usize, u8),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Forget(usize),
    Tick(i64),
    Stored(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0usize..5;
    let step = prop_oneof![
        4 => (client.clone(), any::<u8>()).prop_map(|(c, n)| Step::Join(c, n)),
        4 => client.clone().prop_map(Step::Sync),
        2 => client.clone().prop_map(Step::Heartbeat),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.prop_map(Step::Forget),
        3 => prop_oneof![Just(1i64), Just(3000), Just(7000), Just(60_000)].prop_map(Step::Tick),
        4 => prop::bool::weighted(0.9).prop_map(Step::Stored),
    ];
    prop::collection::vec(step, 0..120)
}

/// What a client knows.
#[derive(Debug, Clone, Default)]
struct Known {
    id: String,
    generation: i32,
    asked: Option<Token>,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order(steps in steps()) {
        let mut w = World::new();
        w.limits.max_size = 4;
        let mut clients = vec![Known::default(); 5];
        // Of each generation: who leads, and what was assigned by the record that was written.
        let mut leaders: BTreeMap<i32, String> = BTreeMap::new();
        let mut checked: HashSet<Token> = HashSet::new();
        let mut sync_of: HashMap<Token, (String, i32)> = HashMap::new();
        let mut generation = 0;
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join(c, how) => {
                    let known = clients[c].clone();
                    let instance = (c >= 3).then(|| format!("i{c}"));
                    let protocols: Vec<_> = ["range", "sticky"].iter().skip(usize::from(how % 4 == 3)).map(|p| ((*p).to_owned(), subscription(&["t"]))).collect();
                    let join = Join {
                        instance_id: instance.clone(), protocols, supports_skipping: how % 8 > 3,
                        require_known_member_id: instance.is_none() && how % 2 == 0,
                        ..request(&known.id, &format!("c{c}-{n}"))
                    };
                    clients[c].asked = Some(w.join(join));
                }
                Step::Sync(c) => {
                    let Known { id, generation, .. } = clients[c].clone();
                    let all: Vec<(String, String)> = w.group.members().map(|m| (m.id.clone(), format!("{}@{generation}", m.id))).collect();
                    let all: Vec<(&str, &str)> = all.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                    let leads = leaders.get(&generation) == Some(&id);
                    let token = w.sync(&id, generation, if leads { &all } else { &[] });
                    sync_of.insert(token, (id, generation));
                }
                Step::Heartbeat(c) => drop(w.heartbeat(&clients[c].id.clone(), clients[c].generation)),
                Step::Leave(c) => drop(w.leave(&clients[c].id.clone(), None)),
                Step::Forget(c) => clients[c] = Known::default(),
                Step::Tick(ms) => w.after(ms),
                Step::Stored(good) => w.stored(if good { Ok(()) } else { Err(ResponseError::CoordinatorNotAvailable) }),
            }
            // Clients learn.
            for (c, known) in clients.iter_mut().enumerate() {
                let Some(answer) = known.asked.and_then(|t| w.joins.get(&t)) else { continue };
                known.asked = None;
                match answer.error {
                    None => (known.id, known.generation) = (answer.member_id.clone(), answer.generation),
                    Some(ResponseError::MemberIdRequired) => known.id = answer.member_id.clone(),
                    Some(_) => *known = Known::default(),
                }
                if answer.error.is_none() && c < 3 {
                    let leader = leaders.entry(answer.generation).or_insert_with(|| answer.leader.clone());
                    // A static leader may have got another id since.
                    prop_assert!(*leader == answer.leader || leader.starts_with(&answer.leader[..2]), "{leader} and {}", answer.leader);
                }
                if answer.error.is_none() && answer.leader == answer.member_id {
                    leaders.insert(answer.generation, answer.leader.clone());
                    prop_assert!(answer.members.iter().any(|m| m.0 == answer.member_id));
                } else {
                    prop_assert!(answer.members.is_empty());
                }
            }
            // Never back, and one leader that is a member.
            prop_assert!(w.group.generation() >= generation);
            generation = w.group.generation();
            let members: Vec<&str> = w.group.members().map(|m| m.id.as_str()).collect();
            // While a rebalance waits, only those count that have joined; static members stay without joining.
            prop_assert!(members.len() <= 4 + 2 || w.group.state() == State::PreparingRebalance);
            match members.is_empty() {
                true => prop_assert!(matches!(w.group.state(), State::Empty | State::PreparingRebalance)),
                false => prop_assert!(members.contains(&w.group.leader().unwrap())),
            }
            if matches!(w.group.state(), State::PreparingRebalance | State::CompletingRebalance | State::Stable) {
                prop_assert!(w.group.next_deadline().is_some() || !w.stores.is_empty(), "it waits for ever");
            }
            // An assignment is handed out in its generation only, and only after its record was written.
            let stable: HashSet<i32> = w.written.iter().filter(|v| !v.members.is_empty()).map(|v| v.generation).collect();
            let new: Vec<Token> = w.syncs.keys().copied().filter(|t| !checked.contains(t)).collect();
            for token in new {
                checked.insert(token);
                let answer = &w.syncs[&token];
                if answer.error.is_none() {
                    let (_, g) = &sync_of[&token];
                    prop_assert_eq!(*g, w.group.generation());
                    prop_assert!(stable.contains(g));
                    let assignment = std::str::from_utf8(&answer.assignment).unwrap();
                    prop_assert!(assignment.is_empty() || assignment.ends_with(&format!("@{g}")), "{assignment} in {g}");
                }
            }
            if w.group.state() == State::Stable {
                prop_assert!(stable.contains(&w.group.generation()));
            }
        }
        // Nobody waits for ever: time alone ends each wait.
        for _ in 0..200 {
            if w.joins.len() + w.syncs.len() == w.next as usize {
                break;
            }
            w.stored(Ok(()));
            if let Some(at) = w.group.next_deadline() {
                w.after((at - w.now.ticks).max(0));
            }
        }
        prop_assert_eq!(w.joins.len() + w.syncs.len(), w.next as usize, "a request is not answered");
    }

    #[test]
    fn an_unloaded_group_has_answered_everything(steps in steps()) {
        let mut w = World::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join(c, _) => {
                    let id = w.group.members().nth(c).map(|m| m.id.clone()).filter(|_| n % 2 == 0).unwrap_or_default();
                    w.join(request(&id, &format!("m{n}")));
                }
                Step::Sync(c) => {
                    let id = w.group.members().nth(c).map(|m| m.id.clone()).unwrap_or_default();
                    w.sync(&id, w.group.generation(), &[]);
                }
                Step::Tick(ms) => w.after(ms),
                Step::Stored(good) => w.stored(if good { Ok(()) } else { Err(ResponseError::CoordinatorNotAvailable) }),
                _ => {}
            }
        }
        let mut fx = Effects::default();
        w.group.unload(ResponseError::NotCoordinator, w.now, &mut fx);
        w.take(fx);
        prop_assert_eq!(w.joins.len() + w.syncs.len(), w.next as usize);
        prop_assert_eq!(w.group.next_deadline(), None);
        let late = w.join(request("", "late"));
        prop_assert_eq!(w.join_error(late), Some(ResponseError::CoordinatorNotAvailable));
    }
}
