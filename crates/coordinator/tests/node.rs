//! One node in this process: what it answered is there after a restart, with snapshots and a log that was purged.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use septet_coordinator::{
    acl,
    config::Config,
    node::{Node, StartError},
    protocol::{Caller, Code, Create, Kind, Op, Write, WriteAnswer},
    state::{Answer, Ask, State},
    storage::StorageFault,
};
use tempfile::{TempDir, tempdir};

const SESSION: i64 = 77;

fn config(dir: &Path, snap_count: u64) -> Config {
    let text = format!("dataDir={}\nclientPort=1\nsnapCount={snap_count}\n", dir.display());
    Config::parse(&dir.join("zoo.cfg"), &text).unwrap().0
}

async fn start(dir: &Path, snap_count: u64) -> Arc<Node> {
    let node = Node::start(config(dir, snap_count)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), node.wait_serving()).await.expect("it does not serve");
    node
}

async fn ask(node: &Node, ask: Ask) -> (i64, Answer) {
    node.command(ask).await.await.unwrap()
}

async fn write(node: &Node, write: Write) -> Result<WriteAnswer, Code> {
    match ask(node, Ask::Write { session: SESSION, caller: Caller::default(), write }).await.1 {
        Answer::Write(result) => result,
        other => panic!("{other:?}"),
    }
}

/// A session that lasts, and comes to this run of the node.
async fn session(node: &Node) {
    let (id, password) = (SESSION, vec![1]);
    let have = node.with(|s, _| s.sessions.contains_key(&SESSION));
    let come = if have { Ask::MoveSession { id, password } } else { Ask::CreateSession { id, password, timeout_ms: i32::MAX } };
    assert_eq!(ask(node, come).await.1, Answer::Session(i32::MAX));
}

fn create(path: &str, sequential: bool) -> Op {
    Op::Create(Create {
        path: path.into(),
        data: Some(path.as_bytes().to_vec()),
        acl: acl::open(),
        kind: Kind::Persistent,
        sequential,
        with_stat: false,
    })
}

fn state(node: &Node) -> State {
    node.with(|s, _| s.clone())
}

/// Waits until something is so.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempdir()).unwrap()
}

/// The directory of a node that was stopped. A snapshot that it was about to write still goes to the old one: in a
/// program of its own, its end would have ended that.
fn left_by(node: &Path) -> TempDir {
    let (dir, old) = (memory(), node.join("version-2"));
    fs::create_dir(dir.path().join("version-2")).unwrap();
    let names = fs::read_dir(&old).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    // The snapshot last: it may be newer than the rest, but not older.
    let (snapshot, rest): (Vec<_>, Vec<_>) = names.filter(|n| !n.ends_with(".tmp")).partition(|n| n == "snapshot");
    for name in rest.iter().chain(&snapshot) {
        fs::copy(old.join(name), dir.path().join("version-2").join(name)).unwrap();
    }
    dir
}

/// A directory in which a node made snapshots and purged its log, and its state at the end. In memory where there is
/// such a place: each write is synced, and a busy disk takes long.
async fn long_history() -> (TempDir, State) {
    let dir = memory();
    let node = start(dir.path(), 100).await;
    session(&node).await;
    write(&node, Write::One(create("/q", false))).await.unwrap();
    // The log keeps 2,000 entries behind a snapshot.
    for i in 0..2300 {
        let one = match i % 3 {
            0 => Write::One(create("/q/n-", true)),
            1 => Write::One(Op::SetData { path: "/q".into(), data: Some(vec![i as u8; 20]), version: -1 }),
            _ => Write::Multi(vec![create(&format!("/m{i}"), false), Op::Delete { path: format!("/m{i}"), version: 0 }]),
        };
        write(&node, one).await.unwrap();
    }
    let purged = dir.path().join("version-2/purged");
    // One that is due while another is still written is made with the next write.
    let deadline = Instant::now() + Duration::from_secs(15);
    while !purged.exists() {
        assert!(Instant::now() < deadline, "not in time: the log is purged");
        write(&node, Write::One(Op::SetData { path: "/q".into(), data: None, version: -1 })).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let end = state(&node);
    node.stop().await;
    (left_by(dir.path()), end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_state_after_every_restart() {
    let (mut dir, mut want) = long_history().await;
    assert_eq!(want.tree.get("/q").unwrap().child_count(), 767);
    for i in 0..3 {
        let node = start(dir.path(), 100).await;
        // A client is there when its session is applied here: all before it is, too.
        session(&node).await;
        let got = state(&node);
        assert_eq!(got.tree, want.tree);
        assert_eq!(got.sessions.keys().collect::<Vec<_>>(), want.sessions.keys().collect::<Vec<_>>());
        assert!(got.zxid > want.zxid, "a zxid was given twice");
        // Names go on where they were.
        assert_eq!(write(&node, Write::One(create("/q/n-", true))).await, Ok(WriteAnswer::Created(format!("/q/n-{:010}", 767 + i), None)));
        want = state(&node);
        node.stop().await;
        dir = left_by(dir.path());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_or_damaged_stops_the_start() {
    let (dir, _) = long_history().await;
    let version = dir.path().join("version-2");
    let snapshot = version.join("snapshot");
    let good = fs::read(&snapshot).unwrap();
    let refused = || async {
        match Node::start(config(dir.path(), 100)).await {
            Err(StartError::Storage(StorageFault::Damaged { path, .. })) => path,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
    };
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 4;
    fs::write(&snapshot, damaged).unwrap();
    assert_eq!(refused().await, snapshot);
    // Without its snapshot, a purged log is not the whole story.
    fs::remove_file(&snapshot).unwrap();
    assert_eq!(refused().await, snapshot);
    fs::write(&snapshot, good).unwrap();
    start(dir.path(), 100).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_answered_each() {
    let dir = tempdir().unwrap();
    let node = start(dir.path(), 100_000).await;
    session(&node).await;
    let mut waiting = Vec::new();
    for i in 0..3000 {
        waiting.push((
            i,
            node.command(Ask::Write { session: SESSION, caller: Caller::default(), write: Write::One(create(&format!("/{i}"), false)) })
                .await,
        ));
    }
    let mut last = 0;
    for (i, wait) in waiting {
        let (zxid, answer) = wait.await.unwrap();
        assert_eq!(answer, Answer::Write(Ok(WriteAnswer::Created(format!("/{i}"), None))));
        assert!(zxid > last, "answers are in the order of the requests");
        last = zxid;
    }
    let end = state(&node);
    node.stop().await;
    let again = start(dir.path(), 100_000).await;
    session(&again).await;
    assert_eq!(state(&again).tree, end.tree);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_in_its_time_and_not_before() {
    let dir = tempdir().unwrap();
    let node = start(dir.path(), 1000).await;
    let began = Instant::now();
    for (id, timeout_ms) in [(1, 1500), (2, 600_000)] {
        ask(&node, Ask::CreateSession { id, password: vec![], timeout_ms }).await;
    }
    let held = node.clone();
    let has = move |id| held.with(|s, _| s.sessions.contains_key(&id));
    until("the session ends", || {
        let had = has(1);
        assert!(had || began.elapsed() >= Duration::from_millis(1500), "ended after {:?}", began.elapsed());
        !had
    })
    .await;
    assert!(has(2));
    node.stop().await;
}
