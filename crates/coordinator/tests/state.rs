//! The replicated state: sessions, who may write, and that the same log makes the same state.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use septet_coordinator::{
    acl::{self, Acl, Id},
    protocol::{Caller, Code, Create, EventType, Kind, Op, Write, WriteAnswer},
    state::{Answer, Applied, Ask, Command, Origin, State},
};

const A: Origin = Origin { server: 1, boot: 10 };
const B: Origin = Origin { server: 2, boot: 20 };
const A_RESTARTED: Origin = Origin { server: 1, boot: 11 };

fn op(path: &str, ephemeral: bool, sequential: bool) -> Op {
    let kind = if ephemeral { Kind::Ephemeral } else { Kind::Persistent };
    Op::Create(Create { path: path.into(), data: Some(vec![1]), acl: acl::open(), kind, sequential, with_stat: false })
}

fn create(path: &str, ephemeral: bool) -> Write {
    Write::One(op(path, ephemeral, false))
}

fn at(origin: Origin, ask: Ask) -> Command {
    Command { origin, seq: 1, time_ms: 5, ask }
}

fn new_session(id: i64) -> Ask {
    Ask::CreateSession { id, password: b"secret".to_vec(), timeout_ms: 4000 }
}

fn move_session(id: i64, password: &[u8]) -> Ask {
    Ask::MoveSession { id, password: password.to_vec() }
}

fn write(session: i64, write: Write) -> Ask {
    Ask::Write { session, caller: Caller::default(), write }
}

/// A state, in term 3.
#[derive(Default)]
struct Rig(State);

impl Rig {
    fn apply(&mut self, origin: Origin, ask: Ask) -> Applied {
        self.0.apply(3, &at(origin, ask))
    }
    fn answer(&mut self, origin: Origin, ask: Ask) -> Answer {
        self.apply(origin, ask).answer
    }
    fn write(&mut self, origin: Origin, session: i64, w: Write) -> Result<WriteAnswer, Code> {
        match self.answer(origin, write(session, w)) {
            Answer::Write(result) => result,
            other => panic!("{other:?}"),
        }
    }
    fn has(&self, path: &str) -> bool {
        self.0.tree.get(path).is_some()
    }
}

#[test]
fn a_session_moves_with_its_password_only() {
    let mut rig = Rig::default();
    assert_eq!(rig.answer(A, new_session(1)), Answer::Session(4000));
    rig.write(A, 1, create("/a", true)).unwrap();
    let before = rig.0.sessions.clone();
    for (id, password) in [(1, &b"wrong"[..]), (1, b""), (2, b"secret"), (0, b"secret")] {
        let applied = rig.apply(B, move_session(id, password));
        assert_eq!((applied.answer, applied.moved), (Answer::NoSession, None));
    }
    assert_eq!(rig.0.sessions, before);
    let applied = rig.apply(B, move_session(1, b"secret"));
    assert_eq!((applied.answer, applied.moved, applied.closed), (Answer::Session(4000), Some(1), vec![]));
    assert_eq!(rig.0.sessions[&1].owner, B);
    assert!(rig.has("/a"));
}

#[test]
fn only_the_server_that_has_the_session_writes_for_it() {
    let mut rig = Rig::default();
    rig.apply(A, new_session(1));
    rig.apply(B, move_session(1, b"secret"));
    assert_eq!(rig.write(A, 1, create("/a", false)), Err(Code::SessionMoved));
    assert_eq!(rig.write(B, 1, create("/a", false)), Ok(WriteAnswer::Created("/a".into(), None)));
    // A server that was restarted is another origin: what its former run left in a queue does not count.
    rig.apply(A_RESTARTED, move_session(1, b"secret"));
    assert_eq!(rig.write(A, 1, create("/b", false)), Err(Code::SessionMoved));
    assert_eq!(rig.write(B, 1, create("/b", false)), Err(Code::SessionMoved));
    assert!(!rig.has("/b"));
}

#[test]
fn a_session_belongs_to_the_connection_that_came_last() {
    let mut rig = Rig::default();
    let run = Origin::new_run(1);
    let (first, second) = (run.of_connection(1), run.of_connection(2));
    assert!(first != second && first.is_of_run(&second) && first.is_of_run(&run));
    assert!(!first.is_of_run(&Origin::new_run(1)) && !first.is_of_run(&Origin { server: 2, ..first }));
    assert_eq!(first.of_connection(2), second);
    // Millions of connections later the run is the same.
    assert!(run.of_connection(u64::MAX).is_of_run(&run));
    rig.apply(first, new_session(1));
    rig.write(first, 1, create("/a", false)).unwrap();
    rig.apply(second, move_session(1, b"secret"));
    assert_eq!(rig.write(first, 1, create("/b", false)), Err(Code::SessionMoved));
    rig.write(second, 1, create("/c", false)).unwrap();
    assert!(!rig.has("/b"));
}

#[test]
fn the_end_of_a_session_ends_its_ephemerals_and_no_others() {
    let mut rig = Rig::default();
    rig.apply(A, new_session(1));
    rig.apply(A, new_session(2));
    rig.write(A, 1, create("/keep", false)).unwrap();
    rig.write(A, 1, create("/keep/mine", true)).unwrap();
    rig.write(A, 1, create("/mine", true)).unwrap();
    rig.write(A, 2, create("/other", true)).unwrap();
    let applied = rig.apply(B, Ask::CloseSession { id: 1 });
    assert_eq!((&applied.answer, applied.closed), (&Answer::Closed, vec![1]));
    let event = |kind, path: &str| (kind, path.to_owned());
    let told: Vec<_> = applied.events.into_iter().map(|e| (e.kind, e.path)).collect();
    let (gone, child) = (EventType::Deleted, EventType::ChildrenChanged);
    assert_eq!(told, [event(gone, "/keep/mine"), event(child, "/keep"), event(gone, "/mine"), event(child, "/")]);
    assert!(rig.has("/keep") && rig.has("/other") && !rig.has("/mine") && !rig.has("/keep/mine"));
    // Once more is nothing.
    let again = rig.apply(A, Ask::CloseSession { id: 1 });
    assert_eq!((again.answer, again.closed, again.events), (Answer::Closed, vec![], vec![]));
    assert_eq!(rig.0.tree.ephemeral_count(), 1);
}

#[test]
fn a_session_that_ended_writes_no_more() {
    let mut rig = Rig::default();
    rig.apply(A, new_session(1));
    rig.apply(A, Ask::CloseSession { id: 1 });
    let tree = rig.0.tree.clone();
    for w in [create("/a", false), create("/e", true), Write::Multi(vec![op("/a", false, false)]), Write::Multi(vec![])] {
        assert_eq!(rig.write(A, 1, w), Err(Code::SessionExpired));
    }
    assert_eq!(rig.answer(A, move_session(1, b"secret")), Answer::NoSession);
    assert_eq!(rig.0.tree, tree);
}

#[test]
fn a_zxid_has_its_term_in_the_upper_half() {
    let mut state = State::default();
    assert_eq!(state.zxid, 0);
    state.apply(3, &at(A, new_session(1)));
    assert_eq!(state.zxid, (3 << 32) + 1);
    state.apply(3, &at(A, write(1, create("/a", false))));
    state.apply(3, &at(A, write(1, create("/a", false)))); // a failure counts too
    assert_eq!(state.zxid, (3 << 32) + 3);
    assert_eq!(state.tree.get("/a").unwrap().stat().czxid, (3 << 32) + 2);
    state.begin_term(3);
    assert_eq!(state.zxid, (3 << 32) + 3);
    state.begin_term(5);
    assert_eq!(state.zxid, 5 << 32);
    state.begin_term(4);
    assert_eq!(state.zxid, 5 << 32);
    let stat = |s: &State| s.tree.get("/a").unwrap().stat();
    state.apply(6, &Command { time_ms: 77, ..at(A, write(1, Write::One(Op::SetData { path: "/a".into(), data: None, version: -1 }))) });
    assert_eq!((stat(&state).mzxid, stat(&state).mtime, stat(&state).ctime), ((6 << 32) + 1, 77, 5));
}

fn ask() -> impl Strategy<Value = Ask> {
    let path = || "(/[ab]){1,2}";
    let one = move || {
        prop_oneof![
            3 => (path(), any::<[bool; 2]>()).prop_map(|(path, [ephemeral, sequential])| {
                let Op::Create(mut create) = op(&path, ephemeral, sequential) else { unreachable!() };
                match path.len() {
                    4 if ephemeral => (create.kind, create.data) = (Kind::Ttl(1), None),
                    4 => create.kind = Kind::Container,
                    _ if path.ends_with('b') => create.acl.push(Acl { perms: 31, id: Id::new("digest", "a:b") }),
                    _ => {}
                }
                Op::Create(create)
            }),
            1 => path().prop_map(|path| Op::Delete { path, version: -1 }),
            1 => (path(), 0..2i32).prop_map(|(path, version)| Op::SetData { path, data: Some(vec![9]), version }),
        ]
    };
    let password = prop_oneof![4 => Just(b"secret".to_vec()), 1 => Just(b"wrong".to_vec())];
    prop_oneof![
        2 => (1..4i64).prop_map(new_session),
        1 => (1..4i64).prop_map(|id| Ask::CloseSession { id }),
        1 => "(/[ab]){1,2}".prop_map(|path| Ask::Collect { path, never_used_ms: 1, term: 1 }),
        1 => (1..4i64, password).prop_map(|(id, password)| Ask::MoveSession { id, password }),
        6 => (1..4i64, one()).prop_map(|(s, w)| write(s, Write::One(w))),
        2 => (1..4i64, prop::collection::vec(one(), 0..4)).prop_map(|(s, all)| write(s, Write::Multi(all))),
    ]
}

fn log() -> impl Strategy<Value = Vec<(u64, Command)>> {
    let entry = (prop::bool::weighted(0.1), prop_oneof![Just(A), Just(B)], ask(), any::<u32>());
    prop::collection::vec(entry, 0..60).prop_map(|all| {
        let mut term = 1;
        let step = |(i, (next, origin, ask, time)): (usize, (bool, Origin, Ask, u32))| {
            term += u64::from(next);
            (term, Command { origin, seq: i as u64, time_ms: time.into(), ask })
        };
        all.into_iter().enumerate().map(step).collect()
    })
}

proptest! {
    #[test]
    fn the_same_log_makes_the_same_state(log in log(), at in any::<prop::sample::Index>()) {
        let (mut one, mut other) = (State::default(), State::default());
        let stop = at.index(log.len() + 1);
        for (i, (term, command)) in log.iter().enumerate() {
            if i == stop {
                // A snapshot in between makes no difference.
                other = postcard::from_bytes(&postcard::to_stdvec(&other.freeze()).unwrap()).unwrap();
            }
            let before = one.zxid;
            let (a, b) = (one.apply(*term, command), other.apply(*term, command));
            prop_assert!(one.zxid > before);
            prop_assert_eq!(one.zxid >> 32, *term as i64);
            prop_assert_eq!(&a.answer, &b.answer);
            prop_assert_eq!((&a.events, &a.closed, a.moved), (&b.events, &b.closed, b.moved));
            prop_assert_eq!(&one, &other);
        }
    }

    #[test]
    fn what_is_frozen_stays_as_it_was(log in log(), at in 0usize..30) {
        let mut state = State::default();
        let (before, after) = log.split_at(at.min(log.len()));
        before.iter().for_each(|(term, command)| drop(state.apply(*term, command)));
        let (frozen, was) = (state.freeze(), postcard::to_stdvec(&state.freeze()).unwrap());
        after.iter().for_each(|(term, command)| drop(state.apply(*term, command)));
        let then: State = postcard::from_bytes(&postcard::to_stdvec(&frozen).unwrap()).unwrap();
        prop_assert_eq!(then, postcard::from_bytes(&was).unwrap());
    }

    #[test]
    fn an_ephemeral_has_a_session(log in log()) {
        let mut state = State::default();
        for (term, command) in &log {
            state.apply(*term, command);
            let mut found = 0;
            let mut paths = vec![String::new()];
            while let Some(path) = paths.pop() {
                let node = state.tree.get(if path.is_empty() { "/" } else { &path }).unwrap();
                let owner = node.stat().ephemeral_owner;
                prop_assert!(owner == 0 || state.sessions.contains_key(&owner));
                found += usize::from(owner != 0);
                paths.extend(state.tree.children(if path.is_empty() { "/" } else { &path }).map(|c| format!("{path}/{c}")));
            }
            prop_assert_eq!(found, state.tree.ephemeral_count());
        }
    }
}

#[test]
fn silence_ends_sessions_only_in_the_term_that_noticed_it() {
    let mut state = State::default();
    let session = |id| Command {
        origin: Origin { server: 1, boot: 1 },
        seq: 1,
        time_ms: 1,
        ask: Ask::CreateSession { id, password: vec![], timeout_ms: 1000 },
    };
    for id in 1..=3 {
        state.apply(5, &session(id));
    }
    let expire = |term| Command { ask: Ask::Expire { ids: vec![1, 3, 9], term }, ..session(0) };
    for other in [4, 6] {
        let applied = state.apply(5, &expire(other));
        assert_eq!((applied.closed, state.sessions.len()), (vec![], 3));
    }
    let applied = state.apply(6, &expire(6));
    assert_eq!((applied.closed, state.sessions.keys().copied().collect::<Vec<_>>()), (vec![1, 3], vec![2]));
}
