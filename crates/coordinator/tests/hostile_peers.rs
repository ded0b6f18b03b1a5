//! What comes to the port of the servers from others than the servers: it changes nothing, stores nothing, ends nobody.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use common::{DEADLINE, Ensemble, LONG_MS, PROGRAM, Server, client::Client, eventually, is_ended};
use septet_coordinator::{
    acl,
    format2::OldWrite as Change,
    peer::{
        Ask, PEER_VERSION, SnapshotPart, check,
        handshake::{self, Identity, Keys},
        secret::Secret,
    },
    protocol::{Caller, Create, Kind, MAX_PATH_BYTES, Op, Write as New},
    raft::{Body, Data, Entry, EntryId, HardState, Membership, Message, Payload},
    state::{self, Command as Wanted, Origin},
    storage::{Image, LogStore, LogWrite, encode_commands},
};
use tokio::{net::TcpStream as Stream, sync::watch, time::timeout};

const MAX_FRAME: usize = 64 << 20;
/// On all servers of a test with a secret.
const SECRET: &str = "a long secret of the ensemble";

fn secret_file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    (dir, path)
}

fn secret(text: &str) -> Secret {
    Secret::read(&secret_file("s", text).1).unwrap()
}

fn identity(me: u64, secret: Option<Secret>) -> Identity {
    Identity { me, others: (1..=3).filter(|i| *i != me).collect(), secret }
}

/// A connection to server `to` that claims to come from another one.
struct Forger {
    stream: Stream,
    keys: Keys,
    number: u64,
}

impl Forger {
    async fn connect(server: &Server, from: u64, to: u64, secret: Option<Secret>) -> std::io::Result<Self> {
        let mut stream = Stream::connect(("127.0.0.1", server.peer_port)).await?;
        let keys = handshake::call(&mut stream, &identity(from, secret), to).await?;
        Ok(Self { stream, keys, number: 0 })
    }

    /// The answer, or `None` if the connection ended instead.
    async fn ask(&mut self, ask: &Ask) -> Option<Vec<u8>> {
        self.number += 1;
        self.keys.send.write(&mut self.stream, self.number, &postcard::to_stdvec(ask).unwrap(), MAX_FRAME).await.ok()?;
        let answer = timeout(DEADLINE, self.keys.receive.read(&mut self.stream, MAX_FRAME)).await.unwrap();
        answer.ok().map(|(_, body)| body)
    }
}

fn id(term: u64, leader: u64, index: u64) -> EntryId {
    EntryId { term, leader, index }
}

fn command(server: u64, write: Change) -> Wanted {
    Wanted { origin: Origin { server, boot: 1 }, seq: 1, time_ms: 1, ask: state::Ask::OldWrite { session: 1, write } }
}

fn entry(id: EntryId) -> Entry {
    Entry { id, payload: Payload::Commands(encode_commands(&[]).unwrap()) }
}

fn propose(commands: Vec<Wanted>) -> Ask {
    Ask::Propose { term: 1, commands }
}

fn raft(term: u64, body: Body) -> Ask {
    Ask::Raft(Message { term, body })
}

fn append(term: u64, prev: EntryId, ids: &[EntryId]) -> Ask {
    raft(term, Body::Append { prev, commit: 0, round: 0, entries: ids.iter().map(|i| entry(*i)).collect() })
}

/// Messages of server 2 that no server sends.
fn impossible(term: u64) -> Vec<(&'static str, Ask)> {
    let vote = |term, last| raft(term, Body::Vote { last, transfer: true });
    let far = u64::MAX - 5;
    let snapshot = |term, last, data: &[u8]| Ask::Snapshot(SnapshotPart { term, last, offset: 0, data: data.to_vec(), done: true });
    let one = |payload| {
        let entries = vec![Entry { id: id(1, 2, 2), payload }];
        raft(term, Body::Append { prev: id(1, 1, 1), commit: 0, round: 0, entries })
    };
    let path = |path: &str| Change::Delete { path: path.into(), version: -1 };
    let new = |long: &str| {
        let data = Some(vec![]);
        let create = Create { path: long.into(), data, acl: acl::open(), kind: Kind::Persistent, sequential: false, with_stat: false };
        let write = New::One(Op::Create(create));
        Wanted { ask: state::Ask::Write { session: 1, caller: Caller::default(), write }, ..command(2, path("/")) }
    };
    let collect = Wanted { ask: state::Ask::Collect { path: "/x".into(), never_used_ms: 0, term }, ..command(2, path("/")) };
    vec![
        ("a vote for the greatest term", vote(u64::MAX, id(u64::MAX, 2, u64::MAX))),
        ("a vote for a great term", vote(term + (1 << 21), id(term, 2, 1_000_000))),
        ("a question before a vote for a great term", raft(u64::MAX, Body::PreVote { last: id(term, 2, 1) })),
        ("a vote with a log of a later term", vote(term + 1, id(term + 2, 2, 1))),
        ("a vote with a log of the greatest index", vote(term + 1, id(term, 2, u64::MAX))),
        ("a leader of the greatest term", append(u64::MAX, EntryId::default(), &[])),
        ("a leader that speaks for another", append(term + 1, id(term, 1, 1), &[id(term + 1, 3, 2)])),
        ("an answer of the greatest term", raft(u64::MAX, Body::VoteAnswer { granted: true })),
        ("an acknowledgement of the greatest index", raft(term, Body::AppendAck { matched: u64::MAX, round: 0, voting: true })),
        ("a refusal of the greatest index", raft(term, Body::AppendRefused { at: u64::MAX, hint: id(1, 1, far), round: 0, voting: true })),
        ("entries that do not begin at the beginning", append(term, EntryId::default(), &[id(1, 2, 7)])),
        ("entries with a gap", append(term, id(1, 1, 1), &[id(1, 2, 2), id(1, 2, 4)])),
        ("entries that go back", append(term, id(1, 1, 1), &[id(1, 2, 2), id(0, 1, 3)])),
        ("an entry of a later term", append(term, id(1, 1, 1), &[id(term + 1, 2, 2)])),
        ("an entry of the greatest index", append(term, id(1, 2, u64::MAX - 1), &[id(1, 2, u64::MAX)])),
        ("an entry in place of a committed one", append(term, EntryId::default(), &[id(0, 9, 1)])),
        ("a place behind one that was never committed", append(term, id(0, 3, 1), &[id(0, 3, 2)])),
        ("commands that are none", one(Payload::Commands(Data([255; 40].as_slice().into())))),
        ("a membership of nobody", one(Payload::Membership(Membership::default()))),
        ("a snapshot of garbage", snapshot(term, id(1, 1, 900_000), b"garbage")),
        ("a snapshot of nothing", snapshot(term, id(1, 1, 900_000), b"")),
        ("a snapshot of the greatest index", snapshot(term, id(1, 1, far), b"garbage")),
        ("commands of another server", propose(vec![command(3, path("/x"))])),
        ("a change as the last version wrote it", propose(vec![command(2, path("/x"))])),
        ("a path that is too long", propose(vec![new(&format!("/{}", "x".repeat(MAX_PATH_BYTES)))])),
        ("a container of another server's", propose(vec![collect])),
        ("a multi in a multi", propose(vec![command(2, Change::Multi(vec![Change::Multi(vec![path("/x")])]))])),
    ]
}

/// A multi in a multi, so many times, as it is encoded.
fn nested(depth: usize) -> Vec<u8> {
    let ask = |write| postcard::to_stdvec(&propose(vec![command(2, write)])).unwrap();
    let (flat, empty) = (ask(Change::Multi(vec![Change::Multi(vec![])])), ask(Change::Multi(vec![])));
    let same = flat.iter().zip(&empty).take_while(|(a, b)| a == b).count();
    // Each level is the variant and a count of one.
    let level = &flat[same - 1..same + 1];
    assert_eq!(level[1], 1);
    [&flat[..same - 1], &level.repeat(depth), &[level[0], 0]].concat()
}

#[test]
fn bytes_of_any_kind_decode_or_do_not() {
    use proptest::prelude::*;
    let seeds: Vec<Vec<u8>> = impossible(1).iter().map(|(_, ask)| postcard::to_stdvec(ask).unwrap()).chain([nested(50)]).collect();
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let strategy = (prop::sample::select(seeds), prop::collection::vec(change, 0..6), any::<prop::sample::Index>());
    proptest!(ProptestConfig::with_cases(5000), |((mut bytes, changes, cut) in strategy)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(1 + cut.index(bytes.len()));
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let log = LogStore::open(dir.path(), watch::channel(u64::MAX).1).unwrap();
        // What passes is for Raft; nothing may panic before.
        match postcard::from_bytes::<Ask>(&bytes) {
            Ok(Ask::Raft(message)) => drop(check::message(2, &message, 1, &log)),
            Ok(Ask::Snapshot(part)) => drop((check::snapshot(&part, 1), Image::received(&part.data, part.last))),
            Ok(Ask::Propose { commands, .. }) => drop(check::proposal(2, &commands)),
            _ => {}
        }
    });
}

fn stored_vote(server: &Server) -> Vec<u8> {
    fs::read(server.dir.join("data/version-2/vote")).unwrap()
}

fn term_of(server: &Server) -> u64 {
    // The upper half of a zxid.
    let srvr = eventually("it serves", || server.ask("srvr").ok().filter(|s| s.contains("Zxid")));
    let zxid = srvr.lines().find_map(|l| l.strip_prefix("Zxid: 0x")).unwrap().to_owned();
    u64::from_str_radix(&zxid, 16).unwrap() >> 32
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_messages_are_refused_logged_and_not_stored() {
    // Without a secret anybody may speak: the sharper check.
    let mut ensemble = Ensemble::start(3, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    for i in 0..20 {
        client.create(&format!("/{i}"), b"", 0).unwrap().unwrap();
    }
    let term = term_of(&ensemble.servers[0]);
    let vote = stored_vote(&ensemble.servers[0]);
    for (n, (what, ask)) in impossible(term).into_iter().enumerate() {
        let server = &ensemble.servers[0];
        let before = server.stderr().matches("refused a ").count();
        let mut forger = Forger::connect(server, 2, 1, None).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        match forger.ask(&ask).await {
            Some(answer) => {
                let text = postcard::from_bytes::<Result<(), String>>(&answer).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(text.is_err(), "{what}: it was taken");
                // A few lines say what goes on, not one for each.
                assert_eq!(server.stderr().matches("refused a ").count(), before + usize::from(n < 10), "{what}: not logged");
            }
            // It does not even decode.
            None => assert_eq!(what, "a multi in a multi"),
        }
        assert_eq!(stored_vote(&ensemble.servers[0]), vote, "{what}: stored");
        client.set("/0", what.as_bytes()).unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
    }
    assert!(ensemble.servers.iter_mut().all(Server::is_running));
    // What is on disk is as good as before.
    for server in &mut ensemble.servers {
        server.kill();
        server.start();
    }
    ensemble.leader();
    Client::new(ensemble.port(0), LONG_MS).exists("/19", false).unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_nested_ten_thousand_deep_is_an_error() {
    let mut ensemble = Ensemble::start(3, "");
    for (i, depth) in [(0, 2), (0, 10_000), (1, 1_000_000)] {
        let from = if i == 0 { 2 } else { 1 };
        let mut forger = Forger::connect(&ensemble.servers[i], from, i as u64 + 1, None).await.unwrap();
        forger.keys.send.write(&mut forger.stream, 1, &nested(depth), MAX_FRAME).await.unwrap();
        let end = timeout(DEADLINE, forger.keys.receive.read(&mut forger.stream, MAX_FRAME)).await.unwrap();
        assert!(end.is_err(), "depth {depth}");
        assert!(ensemble.servers[i].is_running());
    }
    ensemble.leader();
    assert!(ensemble.servers.iter_mut().all(Server::is_running));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_secret_nobody_speaks() {
    let (_dir, file) = secret_file("secret", SECRET);
    let mut ensemble = Ensemble::start(3, &format!("peerSecretFile={}", file.display()));
    assert!(!ensemble.servers[0].stderr().contains("peerSecretFile is not set"));
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/x", b"", 0).unwrap().unwrap();
    let server = &ensemble.servers[0];
    for (wrong, reason) in [(None, "has none"), (Some(secret("a long secret of another")), "differs")] {
        let error = Forger::connect(server, 2, 1, wrong).await.err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    eventually("it is logged", || server.stderr().contains("has a secret of the ensemble").then_some(()));
    // Neither a server that is none, nor for another one, nor itself.
    for (from, to) in [(9, 1), (2, 3), (1, 1)] {
        assert!(Forger::connect(server, from, to, Some(secret(SECRET))).await.is_err());
    }
    // With it, the handshake is what the servers do.
    let mut right = Forger::connect(server, 2, 1, Some(secret(SECRET))).await.unwrap();
    assert!(right.ask(&Ask::Touch(vec![])).await.is_some());
    client.set("/x", b"y").unwrap().unwrap();
    assert!(ensemble.servers.iter_mut().all(Server::is_running));
}

/// What one side of a connection says, taken down.
async fn recorded(server: &Server) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (listener.local_addr().unwrap(), server.peer_port);
    let relay = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = Stream::connect(("127.0.0.1", target)).await.unwrap();
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let mut said = Vec::new();
        let asks = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = near_read.read(&mut part).await {
                said.extend_from_slice(&part[..n]);
                far_write.write_all(&part[..n]).await.unwrap();
            }
        };
        tokio::select! {
            () = asks => {}
            _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
        }
        said
    });
    let mut stream = Stream::connect(address).await.unwrap();
    let keys = handshake::call(&mut stream, &identity(2, Some(secret(SECRET))), 1).await.unwrap();
    let mut forger = Forger { stream, keys, number: 0 };
    assert!(forger.ask(&Ask::Touch(vec![])).await.is_some());
    drop(forger);
    relay.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_repeated_changed_or_injected() {
    let (_dir, file) = secret_file("secret", SECRET);
    let mut ensemble = Ensemble::start(3, &format!("peerSecretFile={}", file.display()));
    let server = &ensemble.servers[0];
    // A whole conversation again: the nonce of this server is another one.
    let said = recorded(server).await;
    let mut again = TcpStream::connect(("127.0.0.1", server.peer_port)).unwrap();
    again.set_read_timeout(Some(DEADLINE)).unwrap();
    again.write_all(&said).unwrap();
    let mut answer = Vec::new();
    let _ = again.read_to_end(&mut answer);
    assert_eq!(answer.len(), 46, "more than the reply to a hello");
    // The same frame twice, one that was left out, one with a bit that changed.
    let body = postcard::to_stdvec(&Ask::Touch(vec![7])).unwrap();
    for round in 0..3 {
        let mut forger = Forger::connect(server, 2, 1, Some(secret(SECRET))).await.unwrap();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        forger.keys.send.write(&mut first, 1, &body, MAX_FRAME).await.unwrap();
        match round {
            0 => second.extend_from_slice(&first),
            1 => {
                forger.keys.send.write(&mut Vec::new(), 2, &body, MAX_FRAME).await.unwrap();
                forger.keys.send.write(&mut second, 3, &body, MAX_FRAME).await.unwrap();
            }
            _ => {
                forger.keys.send.write(&mut second, 2, &body, MAX_FRAME).await.unwrap();
                second[12] ^= 1;
            }
        }
        use tokio::io::AsyncWriteExt;
        let receive = &mut forger.keys.receive;
        forger.stream.write_all(&first).await.unwrap();
        assert_eq!(timeout(DEADLINE, receive.read(&mut forger.stream, MAX_FRAME)).await.unwrap().unwrap().0, 1);
        forger.stream.write_all(&second).await.unwrap();
        let end = timeout(DEADLINE, receive.read(&mut forger.stream, MAX_FRAME)).await.unwrap();
        assert!(end.is_err(), "round {round}: a second answer");
    }
    eventually("it is logged", || server.stderr().contains("a frame with a wrong tag").then_some(()));
    ensemble.leader();
    assert!(ensemble.servers.iter_mut().all(Server::is_running));
}

#[test]
fn an_ensemble_without_a_secret_runs_and_says_so_loudly() {
    let ensemble = Ensemble::start(3, "");
    for server in &ensemble.servers {
        assert!(server.stderr().contains("peerSecretFile is not set: ANY HOST THAT REACHES THE PORT OF THE SERVERS"));
    }
    let alone = Ensemble::start(1, "");
    assert!(!alone.servers[0].stderr().contains("peerSecretFile"));
}

#[test]
fn servers_with_different_secrets_say_why_they_do_not_talk() {
    let files = [0, 1].map(|i| secret_file("secret", &format!("{i} is a long secret")));
    let ensemble = Ensemble::spawn(2, |i| format!("peerSecretFile={}", files[i].1.display()));
    for server in &ensemble.servers {
        eventually("the reason", || server.stderr().contains("the ensemble's secret (peerSecretFile) differs").then_some(()));
        assert!(common::mode(server).is_none());
    }
}

#[test]
fn a_secret_that_is_none_is_refused_at_the_start() {
    let table: [(&[u8], u32, &str); 9] = [
        (b"", 0o600, "is empty"),
        (b" \n\t\n", 0o600, "is empty"),
        (b"fifteen bytes..", 0o600, "holds a secret of 15 bytes, at least 16 are needed"),
        (b"0123456789abcdef0123456789abcd\n", 0o600, "holds a secret of 15 bytes"),
        (&[b'x'; 4097], 0o600, "is larger than 4096 bytes"),
        (b"a long enough secret", 0o604, "mode 0604 gives access to others"),
        (b"a long enough secret", 0o642, "mode 0642 gives access to others"),
        (b"a long enough secret", 0o640, ""),
        (b"0123456789abcdef0123456789abcdef\n", 0o400, ""),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    common::write_config(dir.path(), 1, &format!("peerSecretFile={}", file.display()));
    let check = || {
        let out = Command::new(PROGRAM).arg("--check").arg(dir.path().join("zoo.cfg")).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for (bytes, mode, reason) in table {
        let _ = fs::remove_file(&file);
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let (code, err) = check();
        if reason.is_empty() {
            assert_eq!(code, Some(0), "{err}");
        } else {
            assert_eq!(code, Some(2));
            assert!(err.contains(&format!("{}: peerSecretFile: {reason}", file.display())), "{err}");
        }
        assert!(!err.contains("long enough"), "the secret is shown");
    }
    fs::remove_file(&file).unwrap();
    assert!(check().1.contains("peerSecretFile: No such file"));
    // Neither a directory, nor a FIFO, for which a reader would wait.
    fs::create_dir(&file).unwrap();
    assert!(check().1.contains("is not a regular file"));
    fs::remove_dir(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert!(check().1.contains("is not a regular file"));
}

#[test]
fn hexadecimal_digits_are_bytes() {
    let hex = "00112233445566778899aabbccddeeff";
    assert_eq!(secret(hex), secret(&format!("\n{}\n", hex.to_uppercase())));
    assert_ne!(secret(hex), secret(&format!("{hex}x")));
    assert_eq!(format!("{:?}", secret(hex)), "Secret(…)");
}

fn reaches(address: &str, port: u16) -> bool {
    let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
}

#[test]
fn the_port_of_the_servers_listens_on_its_own_address() {
    // All of 127.0.0.0/8 is this host.
    let ensemble = Ensemble::start(3, "");
    for server in &ensemble.servers {
        assert!(reaches("127.0.0.1", server.peer_port));
        assert!(!reaches("127.0.0.2", server.peer_port), "it listens everywhere");
    }
    drop(ensemble);
    let ensemble = Ensemble::start(3, "quorumListenOnAllIPs=true");
    for server in &ensemble.servers {
        assert!(reaches("127.0.0.1", server.peer_port) && reaches("127.0.0.2", server.peer_port));
    }
}

#[test]
fn a_name_that_does_not_resolve_yet_is_waited_for() {
    // With an /etc/hosts of its own, in a mount namespace.
    let mut ensemble = Ensemble::spawn(1, |_| String::new());
    let server = &mut ensemble.servers[0];
    server.kill();
    let hosts = server.dir.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let config = fs::read_to_string(server.dir.join("zoo.cfg")).unwrap();
    let port = server.peer_port;
    fs::write(server.dir.join("zoo.cfg"), format!("{config}server.1=zk-late:{port}:1\nserver.2=zk-other:{port}:1\n")).unwrap();
    let script = format!("mount --bind '{}' /etc/hosts && exec \"$0\" \"$@\"", hosts.display());
    server.wrapper = ["unshare", "-rm", "sh", "-c", &script].map(str::to_owned).to_vec();
    server.start();
    let server = &mut ensemble.servers[0];
    eventually("it says what it waits for", || {
        server.stderr().contains(&format!("server.1=zk-late:{port}: cannot listen yet")).then_some(())
    });
    assert!(server.is_running() && server.ask("ruok").unwrap() == "imok");
    // As Debian writes it.
    fs::write(&hosts, "127.0.0.1 localhost\n127.0.1.1 zk-late\n").unwrap();
    eventually("it listens there", || reaches("127.0.1.1", port).then_some(()));
    assert!(!reaches("127.0.0.5", port));
    eventually("it warns", || server.stderr().contains("zk-late resolves to a loopback address on this host").then_some(()));
    // And when that is mended.
    fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.5 zk-late\n").unwrap();
    eventually("it follows", || (reaches("127.0.0.5", port) && !reaches("127.0.1.1", port)).then_some(()));
    assert!(server.is_running());
}

#[test]
fn strangers_that_connect_and_say_nothing_hold_up_no_server() {
    let (_dir, file) = secret_file("secret", SECRET);
    let mut ensemble = Ensemble::start(3, &format!("peerSecretFile={}", file.display()));
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/x", b"", 0).unwrap().unwrap();
    let mut held: Vec<TcpStream> = Vec::new();
    for server in &ensemble.servers {
        for i in 0..300 {
            let mut stream = TcpStream::connect(("127.0.0.1", server.peer_port)).unwrap();
            let version = PEER_VERSION.to_be_bytes();
            // A hello without an end, a long frame of version 1, and nothing at all.
            let _ = stream.write_all([&[b"SEPTETZK", &version[..]].concat()[..], &[7, 0xff, 0xff, 0xff, 0, 0, 0], b""][i % 3]);
            held.push(stream);
        }
    }
    // A server that comes back finds its way through.
    let follower = ensemble.follower();
    ensemble.servers[follower].kill();
    ensemble.servers[follower].start();
    ensemble.leader();
    for server in &ensemble.servers {
        let fds: usize = server.measured("open_file_descriptor_count").unwrap().parse().unwrap();
        assert!(fds < 150, "{fds} descriptors");
        assert!(server.peak_mib() < 100);
    }
    // And those that wait are sent away.
    let began = Instant::now();
    for stream in &mut held {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(is_ended(stream));
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    client.set("/x", b"y").unwrap().unwrap();
}

#[test]
fn a_directory_with_a_forged_term_says_what_to_do_and_can_be_repaired() {
    let mut ensemble = Ensemble::start(3, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/x", b"kept", 0).unwrap().unwrap();
    ensemble.servers.iter_mut().for_each(Server::kill);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for server in &mut ensemble.servers {
        // As the first version stored it.
        let dir = server.dir.join("data/version-2");
        let log = LogStore::open(&dir, watch::channel(u64::MAX).1).unwrap();
        let hard = Some(HardState { term: u64::MAX, voted_for: Some(2) });
        runtime.block_on(log.write_all(LogWrite { hard, ..LogWrite::default() })).unwrap();
        drop(log);
        server.start();
        let vote = dir.join("vote");
        let wanted = format!("{}: term {} is beyond what elections reach", vote.display(), u64::MAX);
        eventually("it ends", || (!server.is_running()).then_some(()));
        assert!(server.stderr().contains(&wanted) && server.stderr().contains("--reset-term"), "{}", server.stderr());
        server.kill();
        let out = Command::new(PROGRAM).arg("--reset-term").arg(server.dir.join("zoo.cfg")).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{}: term {} was removed\n", dir.display(), u64::MAX));
        let out = Command::new(PROGRAM).arg("--reset-term").arg(server.dir.join("zoo.cfg")).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{}: nothing to repair\n", dir.display()));
    }
    ensemble.servers.iter_mut().for_each(Server::start);
    ensemble.leader();
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    assert_eq!(client.get("/x", false).unwrap().unwrap().0, b"kept");
}
