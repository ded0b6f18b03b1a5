//! What other servers send, and what lies on disk: valid samples, changed by a seed, with checksums made right again, make no decoder panic,
//! hang, or take memory by a length that it was told. `SEPTET_FUZZ=n` multiplies the iterations.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use septet_coordinator::{
    acl,
    config::Config,
    exchange,
    peer::{
        Ask, SnapshotPart, check,
        frame::Seal,
        handshake::{self, Identity},
    },
    protocol::{Caller, Create, Kind, Op, Write},
    raft::{Body, Entry, EntryId, HardState, Membership, Message, Payload},
    reconfigure::Target as Servers,
    state::{Command, Origin, State},
    storage::{LogStore, LogWrite, encode_commands, read_state, write_first_state},
};
use septet_mutate::{PeakAlloc, Target, run};
use tempfile::TempDir;
use tokio::{io, runtime::Runtime, sync::watch};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SEED: u64 = 20_261_129;
/// Serde reserves up to 1 MiB for a sequence before it has read it, and sequences nest.
const MEMORY: usize = 6 << 20;

fn try_one(name: &str, samples: Vec<Vec<u8>>, iterations: u32, decode: &dyn Fn(&[u8])) {
    let times = std::env::var("SEPTET_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    run(&Target { name, samples, iterations: iterations * times, memory: MEMORY, decode }, SEED, &HEAP);
}

fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn config(dir: &Path) -> Config {
    Config::parse(&dir.join("zoo.cfg"), &format!("dataDir={}\nclientPort=1\n", dir.display())).unwrap().0
}

fn commands() -> Vec<Command> {
    let command = |seq, ask| Command { origin: Origin { server: 2, boot: 7 }, seq, time_ms: 1_700_000_000_000, ask };
    let create = |path: &str, kind| {
        Op::Create(Create { path: path.into(), data: Some(b"data".to_vec()), acl: acl::open(), kind, sequential: false, with_stat: true })
    };
    let write = |write| septet_coordinator::state::Ask::Write { session: 5, caller: Caller::default(), write };
    vec![
        command(1, septet_coordinator::state::Ask::CreateSession { id: 5, password: vec![1; 16], timeout_ms: 4000 }),
        command(2, write(Write::One(create("/a", Kind::Persistent)))),
        command(3, write(Write::Multi(vec![create("/a/b", Kind::Ephemeral), Op::SetData { path: "/a".into(), data: None, version: -1 }]))),
        command(4, septet_coordinator::state::Ask::MoveSession { id: 5, password: vec![1; 16] }),
    ]
}

fn entries() -> Vec<Entry> {
    let id = |index| EntryId { term: 2, leader: 2, index };
    let membership = Membership { voters: [1, 2, 3].into(), learners: [4].into(), addresses: [(1, "h:1:2:participant".into())].into() };
    vec![
        Entry { id: id(2), payload: Payload::Blank },
        Entry { id: id(3), payload: Payload::Commands(encode_commands(&commands()).unwrap()) },
        Entry { id: id(4), payload: Payload::Membership(membership) },
        Entry { id: id(5), payload: Payload::Commands(encode_commands(&[]).unwrap()) },
    ]
}

/// What one server asks of another.
fn asks() -> Vec<Vec<u8>> {
    let last = EntryId { term: 2, leader: 2, index: 5 };
    let message = |body| Ask::Raft(Message { term: 2, body });
    let prev = EntryId { term: 1, leader: 1, index: 1 };
    let part = SnapshotPart { term: 2, last, offset: 0, data: vec![9; 40], done: true };
    let lines = [(1, "a:1:2".to_owned()), (2, "[::1]:1:2:observer;0.0.0.0:3".to_owned())];
    let all = [
        message(Body::PreVote { last }),
        message(Body::VoteAnswer { granted: true }),
        message(Body::Append { prev, commit: 1, round: 3, entries: entries() }),
        message(Body::AppendRefused { at: 3, hint: last, round: 1, voting: true }),
        message(Body::TimeoutNow),
        Ask::Snapshot(part),
        Ask::Propose { term: 2, commands: commands() },
        Ask::ReadIndex,
        Ask::Touch(vec![1, -1, 77]),
        Ask::Status,
        Ask::Target(lines.into()),
    ];
    all.iter().map(|ask| postcard::to_stdvec(ask).unwrap()).collect()
}

fn what_other_servers_send() {
    let dir = directory();
    // Beside tokio's thread nothing may take memory: one runtime, without threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (_covered, covers) = watch::channel(0);
    let log = LogStore::open(dir.path(), covers).unwrap();
    for ask in asks() {
        // Each is one that is taken, or no sample is worth much.
        match postcard::from_bytes(&ask).unwrap() {
            Ask::Raft(message) => check::message(2, &message, 2, &log).unwrap(),
            Ask::Propose { commands, .. } => check::proposal(2, &commands).unwrap(),
            _ => {}
        }
    }
    try_one("ask", asks(), 20_000, &|b| match postcard::from_bytes::<Ask>(b) {
        Ok(Ask::Raft(message)) => drop(check::message(2, &message, 2, &log)),
        Ok(Ask::Snapshot(part)) => drop(check::snapshot(&part, 2)),
        Ok(Ask::Propose { commands, .. }) => drop(check::proposal(2, &commands)),
        Ok(Ask::Touch(sessions)) => drop(check::sessions(&sessions)),
        Ok(Ask::Target(lines)) => drop(Servers::from_lines(2, &lines)),
        Ok(Ask::ReadIndex | Ask::Status) | Err(_) => {}
    });
    let framed = |runtime: &Runtime, body: &[u8]| {
        let mut out = Vec::new();
        runtime.block_on(Seal::new(None).write(&mut out, 1, body, 1 << 20)).unwrap();
        out
    };
    drop(_inside);
    let samples: Vec<Vec<u8>> = asks().iter().map(|a| framed(&runtime, a)).collect();
    try_one("frame", samples, 5_000, &|b| drop(runtime.block_on(Seal::new(None).read(&mut &*b, 1 << 20))));
    let identity = |me| Identity { me, others: [1, 2, 3].into_iter().collect(), secret: None };
    let mut hello = Vec::new();
    let _ = runtime.block_on(handshake::call(&mut io::join(io::empty(), &mut hello), &identity(1), 2));
    assert_eq!(hello.len(), 61);
    try_one("hello", vec![hello], 5_000, &|b| drop(runtime.block_on(handshake::answer(&mut io::join(b, io::sink()), &identity(2)))));
}

/// A record as it lies on disk.
fn record(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let sums = [crc32c::crc32c(&length), crc32c::crc32c(body)].map(u32::to_be_bytes);
    [&length[..], &sums[0], &sums[1], body].concat()
}

/// The bodies of the records of a file.
fn bodies(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(12) {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        out.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    out
}

/// A data directory with a snapshot and a log behind it, and the name of the log.
fn stored(runtime: &Runtime) -> (TempDir, String) {
    let dir = directory();
    let version = dir.path().join("version-2");
    write_first_state(&version, State::default(), &config(dir.path())).unwrap();
    let _inside = runtime.enter();
    let (_covered, covers) = watch::channel(2);
    let log = LogStore::open(&version, covers).unwrap();
    let hard = HardState { term: 2, voted_for: Some(2) };
    let (done, wait) = std::sync::mpsc::channel();
    log.write(LogWrite { truncate: None, entries: entries(), hard: Some(hard) }, move |result| done.send(result).unwrap());
    wait.recv().unwrap().unwrap();
    let names = fs::read_dir(&version).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let name = names.filter(|n| n.starts_with("log.")).max().unwrap();
    (dir, name)
}

fn what_lies_on_disk() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (dir, log) = stored(&runtime);
    drop(runtime);
    let version = dir.path().join("version-2");
    let tree = read_state(&version).unwrap();
    assert_eq!(tree.sessions.len(), 1);
    for (name, whole, iterations) in
        [(log.as_str(), true, 500), (&log, false, 1500), ("snapshot", false, 1500), ("vote", false, 500), ("purged", false, 500)]
    {
        let path = version.join(name);
        let good = fs::read(&path).unwrap();
        let parts = bodies(&good);
        let label = format!("{name}, {}", if whole { "bytes" } else { "records" });
        // Bytes are damage; with their checksums right, they are what a forger, or an earlier version, wrote.
        let samples = if whole { vec![good.clone()] } else { parts.clone() };
        try_one(&label, samples, iterations, &|b| {
            let bytes =
                if whole { b.to_vec() } else { parts.iter().take(parts.len() - 1).flat_map(|p| record(p)).chain(record(b)).collect() };
            fs::write(&path, bytes).unwrap();
            let _ = read_state(&version);
        });
        fs::write(&path, &good).unwrap();
    }
    // A log is cut where a write was torn, so it is read as far as it goes.
    assert_eq!(read_state(&version).unwrap().sessions.len(), 1);
}

fn adler(bytes: &[u8]) -> i64 {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    i64::from(b) << 16 | i64::from(a)
}

fn files_of_zookeeper() {
    let dir = directory();
    let version = dir.path().join("version-2");
    let mut state = State::default();
    commands().iter().for_each(|c| drop(state.apply(1, c)));
    write_first_state(&version, state, &config(dir.path())).unwrap();
    let out = directory();
    exchange::export(&config(dir.path()), out.path()).unwrap();
    let files = out.path().join("version-2");
    let snapshot =
        fs::read_dir(&files).unwrap().map(|e| e.unwrap().path()).find(|p| p.display().to_string().contains("snapshot.")).unwrap();
    let good = fs::read(&snapshot).unwrap();
    // The checksum, and a path behind it, end the file.
    let content = good[..good.len() - 13].to_vec();
    assert_eq!(good[content.len()..content.len() + 8], adler(&content).to_be_bytes());
    try_one("snapshot.ZXID", vec![content], 8_000, &|b| {
        fs::write(&snapshot, [b, &adler(b).to_be_bytes(), &good[good.len() - 5..]].concat()).unwrap();
        let _ = exchange::read(out.path(), None).map(exchange::Data::into_state);
    });
    fs::write(&snapshot, &good).unwrap();
    assert!(exchange::read(out.path(), None).unwrap().into_state().is_ok());
    // Entries of a log: session, cxid, zxid, time, operation, and its fields.
    let entry = |code: i32, body: &[u8]| {
        [&5i64.to_be_bytes()[..], &1i32.to_be_bytes(), &(1i64 << 40).to_be_bytes(), &7i64.to_be_bytes(), &code.to_be_bytes(), body].concat()
    };
    let text = |s: &str| [&(s.len() as i32).to_be_bytes()[..], s.as_bytes()].concat();
    let acls = [&1i32.to_be_bytes()[..], &31i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
    let create = [&text("/n")[..], &text("data"), &acls, &[0], &3i32.to_be_bytes()].concat();
    let part = [&1i32.to_be_bytes()[..], &text("")].concat();
    let multi = [&1i32.to_be_bytes()[..], &1i32.to_be_bytes(), &(create.len() as i32).to_be_bytes(), &create].concat();
    let samples = vec![
        entry(1, &create),
        entry(2, &text("/a")),
        entry(5, &[&text("/a")[..], &text("x"), &4i32.to_be_bytes()].concat()),
        entry(7, &[&text("/a")[..], &acls, &1i32.to_be_bytes()].concat()),
        entry(-10, &4000i32.to_be_bytes()),
        entry(-11, &[&1i32.to_be_bytes()[..], &text("/a/b")].concat()),
        entry(14, &multi),
        entry(14, &part),
        entry(21, &[&create[..create.len() - 5], &3i32.to_be_bytes()[..], &9i64.to_be_bytes()].concat()),
    ];
    try_one("log.ZXID", samples, 8_000, &|b| {
        let head = [&0x5a4b_4c47i32.to_be_bytes()[..], &2i32.to_be_bytes(), &0i64.to_be_bytes()].concat();
        let file = [&head[..], &adler(b).to_be_bytes(), &(b.len() as i32).to_be_bytes(), b, b"B"].concat();
        fs::write(files.join("log.1"), file).unwrap();
        let _ = exchange::read(out.path(), None).map(exchange::Data::into_state);
    });
}

/// One after the other: the heap of the process is measured.
#[test]
fn no_decoder_panics_hangs_or_takes_memory_by_a_number() {
    what_other_servers_send();
    what_lies_on_disk();
    files_of_zookeeper();
}
