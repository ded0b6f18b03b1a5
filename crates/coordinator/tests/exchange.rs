//! From and to ZooKeeper's own files: nothing is lost on the way, in both directions.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use common::{
    Ensemble, LONG_MS, PROGRAM,
    client::{Client, EPHEMERAL, SEQUENTIAL, auth_body, create_body, multi_body, path_body, set_body, ttl_body},
    zookeeper::{ZooKeeper, skip},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use septet_coordinator::{
    acl::{Acl, Id},
    exchange::{Data, password, read_snapshot, write_snapshot},
    jute::{Reader, Writer},
    protocol::{Caller, Create, Kind, Op, Write, op},
    state::{Ask, Command as Asked, Origin, State},
};

/// A state after random changes.
fn random(seed: u64) -> State {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut state = State::default();
    let mut time_ms = 1_000;
    let origin = Origin { server: 1, boot: 1 };
    let mut apply = |ask, time_ms| state.apply(3, &Asked { origin, seq: 1, time_ms, ask });
    for id in 1..4 {
        apply(Ask::CreateSession { id, password: password(id).to_vec(), timeout_ms: 1000 * id as i32 }, time_ms);
    }
    for _ in 0..rng.random_range(0..80) {
        time_ms += 1;
        let path: String = (0..rng.random_range(1..5)).map(|_| format!("/{}", ["a", "b", "c-d", "é"].choose(&mut rng).unwrap())).collect();
        let data = rng.random::<bool>().then(|| vec![7; rng.random_range(0..5)]);
        let id = |scheme: &str, id: &str| Acl { perms: 31, id: Id::new(scheme, id) };
        let acl = [vec![Acl::world(31)], vec![Acl::world(31), id("digest", "a:b")], vec![id("ip", "10.0.0.0/8"), Acl::world(15)]];
        let acl = acl.choose(&mut rng).unwrap().clone();
        let kind = [Kind::Persistent, Kind::Persistent, Kind::Persistent, Kind::Ephemeral, Kind::Container, Kind::Ttl(77)];
        let kind = *kind.choose(&mut rng).unwrap();
        let op = match rng.random_range(0..10) {
            0 => Op::Delete { path, version: -1 },
            1 | 2 => Op::SetData { path, data, version: -1 },
            3 => Op::SetAcl { path, acl, version: -1 },
            n => Op::Create(Create { path, data, acl, kind, sequential: n == 4, with_stat: false }),
        };
        let session = rng.random_range(1..4);
        apply(Ask::Write { session, caller: Caller::default(), write: Write::One(op) }, time_ms);
    }
    if rng.random() {
        apply(Ask::CloseSession { id: 2 }, time_ms);
    }
    state
}

#[test]
fn a_thousand_random_trees_out_and_in() {
    let mut nodes = 0;
    for seed in 0..1000 {
        let state = random(seed);
        let data = Data::of(&state);
        let mut bytes = Vec::new();
        write_snapshot(&data, &mut bytes).unwrap();
        let mut back = read_snapshot(&bytes).unwrap_or_else(|(at, e)| panic!("seed {seed}: byte {at}: {e}"));
        back.zxid = state.zxid;
        assert_eq!(back, data, "seed {seed}");
        let again = back.into_state().unwrap();
        assert_eq!(again.tree, state.tree, "seed {seed}");
        let sessions = |s: &State| s.sessions.iter().map(|(id, s)| (*id, s.timeout_ms, s.password.clone())).collect::<Vec<_>>();
        assert_eq!(sessions(&again), sessions(&state), "seed {seed}");
        nodes += state.tree.len();
    }
    assert!(nodes > 8000, "{nodes}");
}

#[test]
fn damage_is_found() {
    let mut bytes = Vec::new();
    write_snapshot(&Data::of(&random(5)), &mut bytes).unwrap();
    for at in 0..bytes.len() - 5 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // Not covered by the sum: the number of the database, which nobody reads, is.
        assert!(read_snapshot(&damaged).is_err(), "byte {at}");
        assert!(read_snapshot(&bytes[..at]).is_err(), "cut at {at}");
    }
}

type View = BTreeMap<String, (Vec<u8>, Vec<u8>)>;

/// Data, stats and ACLs of all nodes, as they are answered to the super user.
fn view(port: u16) -> View {
    let mut client = Client::new(port, LONG_MS);
    assert_eq!(client.call(op::AUTH, &auth_body("digest", "super:test")).unwrap().err, 0);
    let (mut found, mut left) = (View::new(), vec!["/".to_owned()]);
    while let Some(path) = left.pop() {
        let get = client.call(op::GET_DATA, &path_body(&path, false)).unwrap();
        let mut w = Writer::default();
        w.string(&path);
        let acl = client.call(op::GET_ACL, &w.0).unwrap();
        assert_eq!((get.err, acl.err), (0, 0), "{path}");
        let children = client.call(op::GET_CHILDREN, &path_body(&path, false)).unwrap();
        let prefix = if path == "/" { "" } else { &path };
        left.extend(Reader(&children.body).vector(4, |r| r.string()).unwrap().iter().map(|c| format!("{prefix}/{c}")));
        found.insert(path, (get.body, acl.body));
    }
    client.close().unwrap();
    found
}

/// Changes of all kinds. The client keeps its session and its ephemeral node.
fn fill(port: u16, root: &str) -> Client {
    let mut client = Client::new(port, LONG_MS);
    let mut ok = |code: i32, body: &[u8]| {
        let reply = client.call(code, body).unwrap();
        assert_eq!(reply.err, 0, "{code} {}", body.escape_ascii());
    };
    ok(op::AUTH, &auth_body("digest", "ann:secret"));
    for (path, flags) in [("", 0), ("/eph", EPHEMERAL), ("/s-", SEQUENTIAL), ("/s-", SEQUENTIAL), ("/gone", 0), ("/multi", 0)] {
        ok(op::CREATE, &create_body(&format!("{root}{path}"), b"data", flags));
    }
    let path = |name: &str| format!("{root}/{name}");
    ok(op::CREATE_CONTAINER, &create_body(&path("container"), b"", 4));
    ok(op::CREATE_TTL, &ttl_body(&path("ttl"), 1 << 38));
    let mut w = Writer::default();
    w.string(&path("mine")).nullable(None).int(2).int(31).string("auth").string("").int(1).string("ip").string("10.0.0.0/8").int(0);
    ok(op::CREATE, &w.0);
    let mut w = Writer::default();
    w.string(&path("mine")).int(1).int(31).string("auth").string("").int(0);
    ok(op::SET_ACL, &w.0);
    ok(op::SET_DATA, &set_body(root, b"other"));
    let mut w = Writer::default();
    w.string(&path("gone")).int(-1);
    ok(op::DELETE, &w.0);
    ok(op::MULTI, &multi_body(&[(op::CREATE, create_body(&path("multi/x"), b"", 0)), (op::SET_DATA, set_body(&path("multi"), b"in"))]));
    for (name, data) in [("", ""), ("/zookeeper_limits", "count=100,bytes=1000"), ("/zookeeper_stats", "count=0,bytes=0")] {
        ok(op::CREATE, &create_body(&format!("/zookeeper/quota{root}{name}"), data.as_bytes(), 0));
    }
    client
}

fn run(arguments: &[&str], paths: &[&Path]) -> Result<String, String> {
    let out = Command::new(PROGRAM).args(arguments).args(paths).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

const CONFIG: &str = "extendedTypesEnabled=true\nDigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

/// What one server shows after the other's data became its own.
fn same(got: &View, want: &View) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (path, want) in want {
        assert_eq!(&got[path], want, "{path}");
    }
}

#[test]
fn from_zookeeper_and_back() {
    // Snapshots that were taken under load, with a log behind each.
    let start = |dir| ZooKeeper::start_in(dir, &format!("{CONFIG}\nsnapCount=20"), &[]);
    let Some(zookeeper) = start(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()) else {
        return skip("ZooKeeper's own files");
    };
    let session = fill(zookeeper.port, "/one");
    assert!(fill(zookeeper.port, "/two").close().unwrap());
    for i in 0..100 {
        let mut client = Client::new(zookeeper.port, LONG_MS);
        client.create(&format!("/one/{i}"), b"x", 0).unwrap().unwrap();
        client.close().unwrap();
    }
    let want = view(zookeeper.port);
    assert!(want.contains_key("/one/eph") && !want.contains_key("/two/eph"));
    let files = zookeeper.stop();

    let mut ours = Ensemble::build(1, |_| CONFIG.to_owned());
    let server = &mut ours.servers[0];
    let config = server.dir.join("zoo.cfg");
    let done = run(&["import"], &[&config, &files.path().join("data")]).unwrap();
    assert!(done.starts_with(&format!("imported {} nodes, 1 sessions, zxid 0x", want.len())), "{done}");
    let again = run(&["import"], &[&config, &files.path().join("data")]).unwrap_err();
    assert!(again.contains("this server has data already"), "{again}");
    server.start();
    same(&view(server.port), &want);
    // The session goes on, and its ephemeral node is still its own.
    let mut session = session.resume(server.port).unwrap();
    assert_eq!(session.get("/one/eph", false).unwrap().unwrap().1.ephemeral_owner, session.session);
    let running = run(&["export"], &[&config, files.path()]).unwrap_err();
    assert!(running.contains("is in use: stop the server first"), "{running}");
    session.create("/one/eph2", b"", EPHEMERAL).unwrap().unwrap();
    fill(server.port, "/three").close().unwrap();
    let want = view(server.port);
    server.kill();
    // And once more, from its own files.
    server.start();
    same(&view(server.port), &want);
    server.kill();

    let out = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let done = run(&["export"], &[&config, &out.path().join("data")]).unwrap();
    assert!(done.contains("/version-2/snapshot.") && done.contains(&format!(": {} nodes", want.len())), "{done}");
    assert!(run(&["export"], &[&config, &out.path().join("data")]).unwrap_err().contains("there is data of ZooKeeper's"));
    let zookeeper = start(out).unwrap();
    same(&view(zookeeper.port), &want);
    let mut session = session.resume(zookeeper.port).unwrap();
    session.set("/one/eph2", b"y").unwrap().unwrap();
    fill(zookeeper.port, "/four").close().unwrap();
}

#[test]
fn an_ensemble_from_one_servers_files() {
    let Some(zookeeper) = ZooKeeper::start(CONFIG, &[]) else { return skip("ZooKeeper's own files") };
    fill(zookeeper.port, "/one").close().unwrap();
    let want = view(zookeeper.port);
    let files = zookeeper.stop();
    let mut ours = Ensemble::build(3, |_| CONFIG.to_owned());
    for server in &mut ours.servers {
        run(&["import"], &[&server.dir.join("zoo.cfg"), &files.path().join("data/version-2")]).unwrap();
        server.start();
    }
    ours.leader();
    (0..3).for_each(|i| {
        let got = view(ours.port(i));
        // Each shows the ensemble's configuration there.
        let without = |v: &View| v.iter().filter(|(p, _)| *p != "/zookeeper/config").map(|(p, d)| (p.clone(), d.clone())).collect::<View>();
        same(&without(&got), &without(&want));
    });
    // One that lost its disk gets all of it from the others.
    let follower = ours.follower();
    ours.servers[follower].kill();
    let dir = ours.servers[follower].dir.join("data/version-2");
    fs::remove_dir_all(&dir).unwrap();
    ours.servers[follower].start();
    ours.leader();
    assert!(view(ours.port(follower)).contains_key("/one/mine"));
}

/// An entry of a log, with its sum.
fn entry(body: &[u8]) -> Vec<u8> {
    let (mut a, mut b) = (1u64, 0u64);
    for byte in body {
        a = (a + u64::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let mut w = Writer::default();
    w.long((b << 16 | a) as i64).buffer(body).0.push(b'B');
    w.0
}

#[test]
fn garbage_in_a_log_never_panics() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut snapshot = Vec::new();
    write_snapshot(&Data::of(&random(5)), &mut snapshot).unwrap();
    fs::write(dir.path().join("snapshot.0"), snapshot).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let head = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0";
    let (mut read, mut refused) = (0, 0);
    for zxid in 1..2000i64 {
        let mut w = Writer::default();
        let code = [-11, -10, -1, 1, 2, 5, 7, 13, 14, 15, 16, 19, 20, 21].choose(&mut rng).copied().unwrap();
        w.long(1).int(1).long(zxid).long(5).int(code);
        if rng.random() {
            w.string("/a").nullable(None).int(0);
        }
        w.0.extend((0..rng.random_range(0..30)).map(|_| rng.random::<u8>() & 3));
        let mut file = [&head[..], &entry(&w.0)].concat();
        if rng.random_range(0..4) == 0 {
            let n = rng.random_range(0..file.len());
            file.truncate(n);
        }
        fs::write(dir.path().join("log.1"), file).unwrap();
        match septet_coordinator::exchange::read(dir.path(), None) {
            Ok(_) => read += 1,
            Err(e) => {
                assert!(e.to_string().contains("log.1: damaged at byte "), "{e}");
                refused += 1;
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} {refused}");
}

#[test]
fn what_is_not_zookeepers_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    common::write_config(dir.path(), common::free_port(), "");
    let config = dir.path().join("zoo.cfg");
    let from = dir.path().join("from");
    fs::create_dir_all(&from).unwrap();
    let import = || run(&["import"], &[&config, &from]).unwrap_err();
    assert!(import().contains("there is no snapshot.ZXID"), "{}", import());
    fs::write(from.join("snapshot.5.gz"), "").unwrap();
    assert!(import().contains("compressed snapshots are not read"), "{}", import());
    fs::remove_file(from.join("snapshot.5.gz")).unwrap();
    fs::write(from.join("snapshot.5"), "nonsense, and more of it").unwrap();
    assert!(import().contains("snapshot.5: damaged at byte "), "{}", import());
    assert!(!dir.path().join("data/version-2/snapshot").exists());
}
