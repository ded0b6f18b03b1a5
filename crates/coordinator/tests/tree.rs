//! The tree under random writes: what fails leaves no trace, and what is counted is counted as ZooKeeper does.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use septet_coordinator::{
    acl::Acl,
    protocol::{Caller, Code, Create, EventType, Kind, Op, Stat, Write, WriteAnswer, perm, valid_path},
    tree::{Stamp, Tree, split},
};

type Event = (EventType, String);

fn told(events: Vec<septet_coordinator::tree::Event>) -> Vec<Event> {
    events.into_iter().map(|e| (e.kind, e.path)).collect()
}

fn apply(tree: &mut Tree, write: &Write, stamp: Stamp) -> Result<WriteAnswer, Code> {
    tree.apply(write, &Caller::default(), stamp, &mut Vec::new())
}

fn stamp(zxid: i64, session: i64) -> Stamp {
    Stamp { session, zxid, time_ms: 1_000_000 + zxid }
}

/// A tree, and a model of what its stats must be, made from the events alone.
#[derive(Default)]
struct Rig {
    tree: Tree,
    zxid: i64,
    creates: BTreeMap<String, i32>,
    pzxid: BTreeMap<String, i64>,
}

fn failed(answer: &Result<WriteAnswer, Code>) -> bool {
    match answer {
        Err(_) => true,
        Ok(WriteAnswer::Multi(results, _)) => results.iter().any(Result::is_err),
        Ok(_) => false,
    }
}

impl Rig {
    fn write(&mut self, write: &Write, session: i64) -> (Result<WriteAnswer, Code>, Vec<Event>) {
        self.zxid += 1;
        let before = self.tree.clone();
        let earlier = || septet_coordinator::tree::Event { kind: EventType::Created, path: "/an earlier event".into(), acl: [].into() };
        let mut events = vec![earlier()];
        let answer = self.tree.apply(write, &Caller::default(), stamp(self.zxid, session), &mut events);
        assert_eq!(events.remove(0), earlier());
        let events = told(events);
        if failed(&answer) {
            assert_eq!(self.tree, before, "{write:?} failed and changed something");
            assert_eq!(events, []);
        }
        self.note(&events);
        (answer, events)
    }

    fn drop_ephemerals(&mut self, session: i64) -> Vec<Event> {
        self.zxid += 1;
        let mut events = Vec::new();
        self.tree.drop_ephemerals(session, self.zxid, &mut events);
        let events = told(events);
        self.note(&events);
        events
    }

    fn note(&mut self, events: &[Event]) {
        for (kind, path) in events {
            match kind {
                EventType::Created => {
                    *self.creates.entry(split(path).0.to_owned()).or_default() += 1;
                    self.creates.insert(path.clone(), 0);
                    self.pzxid.insert(path.clone(), self.zxid);
                }
                EventType::Deleted => {
                    self.creates.remove(path);
                    self.pzxid.remove(path);
                }
                EventType::ChildrenChanged if self.pzxid.contains_key(path) || self.tree.get(path).is_some() => {
                    self.pzxid.insert(path.clone(), self.zxid);
                }
                _ => {}
            }
        }
    }

    fn all(&self) -> Vec<String> {
        let mut found = vec!["/".to_owned()];
        let mut next = 0;
        while let Some(path) = found.get(next).cloned() {
            let prefix = if path == "/" { String::new() } else { path.clone() };
            found.extend(self.tree.children(&path).map(|c| format!("{prefix}/{c}")));
            next += 1;
        }
        found
    }

    fn check(&self) {
        let all = self.all();
        assert_eq!(all.len(), self.tree.len(), "a node without a parent that lists it");
        let (mut bytes, mut ephemerals) = (0, 0);
        for path in &all {
            let node = self.tree.get(path).unwrap();
            let stat = node.stat();
            assert!(valid_path(path), "{path}");
            bytes += (path.len() + node.data().map_or(0, <[u8]>::len)) as u64;
            assert_eq!(stat.data_length as usize, node.data().map_or(0, <[u8]>::len));
            assert_eq!(stat.num_children as usize, node.child_count());
            let creates = self.creates.get(path).copied().unwrap_or(0);
            assert_eq!(stat.cversion, 2 * creates - stat.num_children, "{path}");
            assert_eq!(stat.pzxid, self.pzxid.get(path).copied().unwrap_or(0), "{path}");
            assert!(stat.czxid <= stat.mzxid && stat.czxid <= stat.pzxid && stat.mzxid <= self.zxid);
            if node.kind() == Kind::Ephemeral {
                ephemerals += 1;
                assert!(node.child_count() == 0, "{path} is ephemeral and has children");
            }
        }
        assert_eq!(self.tree.ephemeral_count(), ephemerals);
        assert_eq!(self.tree.approximate_bytes(), bytes);
        // What is counted as the tree changes is what is there, and what a tree that is read from a snapshot counts.
        let read: Tree = postcard::from_bytes(&postcard::to_stdvec(&self.tree.freeze()).unwrap()).unwrap();
        assert!(read == self.tree);
        for path in all.iter().map(String::as_str).chain(["/none", "/a/none"]) {
            let prefix = if path == "/" { path.to_owned() } else { format!("{path}/") };
            let below = all.iter().filter(|other| *other != "/" && other.starts_with(&prefix)).count();
            assert_eq!((self.tree.count_below(path), read.count_below(path)), (below, below), "{path}");
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![8 => "(/[ab]){1,3}", 1 => Just("/".to_owned()), 1 => "/zookeeper(/quota)?"]
}

fn version() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(-1), 1 => 0..2i32]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![4 => Just(Kind::Persistent), 3 => Just(Kind::Ephemeral), 1 => Just(Kind::Container), 1 => (1..5i64).prop_map(Kind::Ttl)]
}

fn simple() -> impl Strategy<Value = Op> {
    let data = || prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..10));
    let perms = || prop_oneof![12 => Just(perm::ALL), 1 => 0..32i32].prop_map(|perms| vec![Acl::world(perms)]);
    prop_oneof![
        6 => (path(), data(), perms(), kind(), prop::bool::weighted(0.2), any::<bool>()).prop_map(
            |(path, data, acl, kind, sequential, with_stat)| Op::Create(Create { path, data, acl, kind, sequential, with_stat })
        ),
        3 => (path(), version()).prop_map(|(path, version)| Op::Delete { path, version }),
        3 => (path(), data(), version()).prop_map(|(path, data, version)| Op::SetData { path, data, version }),
        1 => (path(), perms(), version()).prop_map(|(path, acl, version)| Op::SetAcl { path, acl, version }),
        1 => (path(), version()).prop_map(|(path, version)| Op::Check { path, version }),
        1 => ("(/[ab]){0,2}", prop::bool::ANY).prop_map(|(path, limits)| {
            let name = if limits { "zookeeper_limits" } else { "zookeeper_stats" };
            Op::Create(Create {
                path: format!("/zookeeper/quota{path}/{name}"),
                data: Some(b"count=5,bytes=9".to_vec()),
                acl: vec![Acl::world(perm::ALL)],
                kind: Kind::Persistent,
                sequential: false,
                with_stat: false,
            })
        }),
        1 => "(/[ab]){1,2}".prop_map(|path| plain(&format!("/zookeeper/quota{path}"), perm::ALL, Kind::Persistent, false)),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Write(Write, i64),
    Drop(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let fail = Just(Op::Invalid { op: 1, code: Code::InvalidAcl });
    let multi = prop::collection::vec(prop_oneof![12 => simple().boxed(), 1 => fail.boxed()], 0..6).prop_map(Write::Multi);
    prop_oneof![
        6 => (simple(), 1..4i64).prop_map(|(w, s)| Step::Write(Write::One(w), s)),
        4 => (multi, 1..4i64).prop_map(|(w, s)| Step::Write(w, s)),
        1 => (1..4i64).prop_map(Step::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_writes_keep_the_invariants(steps in prop::collection::vec(step(), 1..40)) {
        let mut rig = Rig::default();
        rig.check();
        for s in &steps {
            match s {
                Step::Write(write, session) => {
                    let (answer, events) = rig.write(write, *session);
                    if let (Ok(WriteAnswer::Created(path, shown)), Write::One(Op::Create(Create { with_stat, data, .. }))) = (&answer, write) {
                        prop_assert_eq!(shown.is_some(), *with_stat);
                        let stat = rig.tree.get(path).unwrap().stat();
                        // Usage is counted where it is asked for, after the answer.
                        let stat = if path.ends_with("zookeeper_stats") { Stat { data_length: data.as_ref().map_or(0, |d| d.len() as i32), ..stat } } else { stat };
                        prop_assert_eq!(shown.unwrap_or(stat), stat);
                        prop_assert_eq!(events, vec![(EventType::Created, path.clone()), (EventType::ChildrenChanged, split(path).0.to_owned())]);
                    }
                }
                Step::Drop(session) => {
                    let own = |rig: &Rig| rig.all().into_iter().filter(|p| rig.tree.get(p).unwrap().stat().ephemeral_owner == *session).count();
                    let owned = own(&rig);
                    let gone = rig.drop_ephemerals(*session).iter().filter(|(kind, _)| *kind == EventType::Deleted).count();
                    prop_assert_eq!((gone, own(&rig)), (owned, 0));
                }
            }
            rig.check();
        }
    }

    /// A multi that goes through does what its parts do one by one.
    #[test]
    fn a_multi_is_its_parts(steps in prop::collection::vec(simple(), 0..12), parts in prop::collection::vec(simple(), 1..6)) {
        let (mut one, mut many) = (Tree::default(), Tree::default());
        for s in &steps {
            let _ = apply(&mut one, &Write::One(s.clone()), stamp(1, 1));
            let _ = apply(&mut many, &Write::One(s.clone()), stamp(1, 1));
        }
        let (mut events, mut singly) = (Vec::new(), Vec::new());
        let Ok(WriteAnswer::Multi(results, ops)) = one.apply(&Write::Multi(parts.clone()), &Caller::default(), stamp(2, 1), &mut events) else { panic!() };
        prop_assert_eq!(ops, parts.iter().map(Op::code).collect::<Vec<_>>());
        let single: Vec<_> = parts.iter().map_while(|p| many.apply(&Write::One(p.clone()), &Caller::default(), stamp(2, 1), &mut singly).map_err(|c| c as i32).ok()).collect();
        if single.len() == parts.len() {
            prop_assert_eq!(results, single.into_iter().map(Ok).collect::<Vec<_>>());
            prop_assert_eq!(one, many);
            prop_assert_eq!(events, singly);
        } else {
            prop_assert!(results[..single.len()].iter().all(|r| *r == Err(0)));
            prop_assert!(results[single.len()].as_ref().is_err_and(|c| *c != 0 && *c != -2));
            prop_assert!(results[single.len() + 1..].iter().all(|r| *r == Err(-2)));
        }
    }
}

fn plain(path: &str, perms: i32, kind: Kind, sequential: bool) -> Op {
    Op::Create(Create { path: path.into(), data: Some(b"data".to_vec()), acl: vec![Acl::world(perms)], kind, sequential, with_stat: false })
}

fn create(path: &str) -> Write {
    Write::One(plain(path, perm::ALL, Kind::Persistent, false))
}

fn with(path: &str, ephemeral: bool, sequential: bool) -> Write {
    Write::One(plain(path, perm::ALL, if ephemeral { Kind::Ephemeral } else { Kind::Persistent }, sequential))
}

fn perms(path: &str, perms: i32) -> Write {
    Write::One(plain(path, perms, Kind::Persistent, false))
}

fn delete(path: &str, version: i32) -> Write {
    Write::One(Op::Delete { path: path.into(), version })
}

fn set(path: &str, version: i32) -> Write {
    Write::One(Op::SetData { path: path.into(), data: Some(b"new".to_vec()), version })
}

fn multi(all: Vec<Write>) -> Write {
    Write::Multi(all.iter().flat_map(|w| w.ops().to_vec()).collect())
}

#[test]
fn why_a_write_fails() {
    let mut rig = Rig::default();
    for w in [create("/a"), create("/a/b"), with("/e", true, false), perms("/locked", 0), perms("/no-delete", perm::CREATE)] {
        rig.write(&w, 1).0.unwrap();
    }
    rig.write(&create("/no-delete/x"), 1).0.unwrap();
    let check = |path: &str, version| Write::One(Op::Check { path: path.into(), version });
    let acl = |path: &str, version| Write::One(Op::SetAcl { path: path.into(), acl: vec![Acl::world(1)], version });
    for (write, code) in [
        (create("/a"), Code::NodeExists),
        (create("/"), Code::NodeExists),
        (create("/zookeeper"), Code::NodeExists),
        (create("/none/x"), Code::NoNode),
        (create("/e/x"), Code::NoChildrenForEphemerals),
        (with("/e/x", true, true), Code::NoChildrenForEphemerals),
        (create("/locked/x"), Code::NoAuth),
        (delete("/none", -1), Code::NoNode),
        (delete("/a", -1), Code::NotEmpty),
        (delete("/a", 3), Code::BadVersion),
        (delete("/a/b", 1), Code::BadVersion),
        (delete("/no-delete/x", -1), Code::NoAuth),
        (delete("/no-delete/none", -1), Code::NoAuth),
        (delete("/", -1), Code::BadArguments),
        (delete("/zookeeper", -1), Code::BadArguments),
        (delete("/zookeeper/quota", -1), Code::BadArguments),
        (delete("/zookeeper/config", -1), Code::BadArguments),
        (delete("/zookeeper/none", -1), Code::NoNode),
        (set("/none", -1), Code::NoNode),
        (set("/a", 1), Code::BadVersion),
        (set("/locked", -1), Code::NoAuth),
        (acl("/a", 1), Code::BadVersion),
        (acl("/locked", -1), Code::NoAuth),
        (check("/none", -1), Code::NoNode),
        (check("/a", 1), Code::BadVersion),
        (check("/locked", 0), Code::NoAuth),
        // The order of the checks is ZooKeeper's: a parent that is not there comes before a bad name.
        (create("/none//x"), Code::NoNode),
        (create("/a//x"), Code::NoNode),
        (create("/a/"), Code::BadArguments),
        (create("/a/."), Code::BadArguments),
        (create("//x"), Code::BadArguments),
        (create("x"), Code::BadArguments),
        (set("/a/", -1), Code::BadArguments),
        (delete("/a/", -1), Code::NoNode),
        (delete("a", -1), Code::BadArguments),
    ] {
        let (answer, _) = rig.write(&multi(vec![create("/before"), write.clone(), create("/behind")]), 2);
        let Ok(WriteAnswer::Multi(results, _)) = answer else { panic!("{answer:?}") };
        assert_eq!(results, [Err(0), Err(code as i32), Err(-2)], "{write:?}");
        assert_eq!(rig.write(&write, 2).0, Err(code), "{write:?}");
    }
    rig.check();
}

#[test]
fn stats_as_zookeeper_shows_them() {
    let mut rig = Rig::default();
    rig.write(&create("/a"), 7).0.unwrap();
    rig.write(&with("/a/e", true, false), 7).0.unwrap();
    rig.write(&create("/a/b"), 7).0.unwrap();
    rig.write(&delete("/a/b", 0), 7).0.unwrap();
    let got = rig.write(&set("/a", 0), 7).0;
    let want = Stat {
        czxid: 1,
        mzxid: 5,
        ctime: 1_000_001,
        mtime: 1_000_005,
        version: 1,
        cversion: 3,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 3,
        num_children: 1,
        pzxid: 4,
    };
    assert_eq!(got, Ok(WriteAnswer::Stat(want)));
    assert_eq!(rig.tree.get("/a/e").unwrap().stat().ephemeral_owner, 7);
    rig.write(&Write::One(Op::SetAcl { path: "/a".into(), acl: vec![Acl::world(perm::READ)], version: 0 }), 7).0.unwrap();
    assert_eq!(rig.tree.get("/a").unwrap().stat(), Stat { aversion: 1, ..want });
    // A fresh ensemble, as ZooKeeper 3.8 shows it.
    let fresh = |path: &str| Tree::default().get(path).map(|n| (n.stat().cversion, n.stat().num_children)).unwrap();
    assert_eq!((fresh("/"), fresh("/zookeeper")), ((-1, 1), (-2, 2)));
    assert_eq!(rig.drop_ephemerals(7), [(EventType::Deleted, "/a/e".into()), (EventType::ChildrenChanged, "/a".into())]);
    assert_eq!(rig.tree.get("/a").unwrap().stat(), Stat { aversion: 1, cversion: 4, num_children: 0, pzxid: 7, ..want });
    rig.check();
}

#[test]
fn sequential_names_never_repeat() {
    let mut rig = Rig::default();
    rig.write(&create("/q"), 1).0.unwrap();
    let mut next = |write: &Write| match rig.write(write, 1).0 {
        Ok(WriteAnswer::Created(path, _)) => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(&with("/q/n-", false, true)), "/q/n-0000000000");
    assert_eq!(next(&with("/q/", true, true)), "/q/0000000001");
    assert_eq!(next(&create("/q/plain")), "/q/plain");
    assert_eq!(next(&with("/q/n-", false, true)), "/q/n-0000000003");
    // As in ZooKeeper, the first in the root: `/zookeeper` was not counted.
    assert_eq!(next(&with("/", false, true)), "/0000000001");
    for path in ["/q/n-0000000003", "/q/plain"] {
        rig.write(&delete(path, -1), 1).0.unwrap();
    }
    rig.drop_ephemerals(1);
    // A name that failed to be made does not count, one in a multi that failed neither.
    assert!(failed(&rig.write(&multi(vec![with("/q/n-", false, true), create("/q/n-0000000004"), create("/q/n-0000000004")]), 1).0));
    let both = rig.write(&multi(vec![with("/q/n-", false, true), with("/q/n-", false, true)]), 1).0;
    let named = |n: &str| Ok(WriteAnswer::Created(format!("/q/n-{n}"), None));
    assert_eq!(both, Ok(WriteAnswer::Multi(vec![named("0000000004"), named("0000000005")], vec![1, 1])));
    // The name is taken: ZooKeeper does not look for the next free one.
    rig.write(&create("/q/n-0000000007"), 1).0.unwrap();
    assert_eq!(rig.write(&with("/q/n-", false, true), 1).0, Err(Code::NodeExists));
    rig.check();
}

/// Each change once cost a copy of its parent's list of children.
#[test]
fn a_change_does_not_copy_its_siblings() {
    let mut tree = Tree::default();
    let began = std::time::Instant::now();
    apply(&mut tree, &create("/many"), stamp(1, 1)).unwrap();
    for zxid in 2..30_002 {
        apply(&mut tree, &with("/many/n-", true, true), stamp(zxid, 1)).unwrap();
        apply(&mut tree, &set("/many", -1), stamp(zxid, 1)).unwrap();
    }
    tree.drop_ephemerals(1, 30_002, &mut Vec::new());
    assert_eq!((tree.len(), tree.ephemeral_count()), (5, 0));
    // It takes a second here, and took many minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn nodes_are_counted_without_looking_at_them() {
    let mut rig = Rig::default();
    let mut create = |path: String| {
        let create =
            Create { path, data: None, acl: septet_coordinator::acl::open(), kind: Kind::Persistent, sequential: false, with_stat: false };
        apply(&mut rig.tree, &Write::One(Op::Create(create)), stamp(1, 1)).unwrap();
    };
    create("/wide".into());
    (0..20_000).for_each(|i| create(format!("/wide/{i}")));
    let deep: Vec<String> = (1..1000).map(|depth| "/d".repeat(depth)).collect();
    deep.iter().for_each(|path| create(path.clone()));
    let began = std::time::Instant::now();
    for _ in 0..50_000 {
        assert_eq!((rig.tree.count_below("/wide"), rig.tree.count_below("/d")), (20_000, deep.len() - 1));
    }
    // To walk over them would take minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    for path in deep.iter().rev() {
        assert_eq!(rig.tree.count_below("/d"), path.len() / 2 - 1);
        apply(&mut rig.tree, &Write::One(Op::Delete { path: path.clone(), version: -1 }), stamp(2, 1)).unwrap();
    }
    assert_eq!(rig.tree.count_below("/"), rig.tree.len() - 1);
}
