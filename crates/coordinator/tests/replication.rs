//! What would make replication a lie: each of these lost data, sessions or the lead.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{
    Ensemble, LONG_MS, Server,
    client::{Client, EPHEMERAL},
    eventually, mode,
};

const MEGA: usize = 1 << 20;

fn others(of: usize) -> [usize; 2] {
    [(of + 1) % 3, (of + 2) % 3]
}

/// A client that goes on with its session on any of these servers, until it is told to stop.
fn keep_alive(mut client: Client, ports: &[u16], stop: &AtomicBool) -> Client {
    while !stop.load(Ordering::Relaxed) {
        if client.ping().is_ok() {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        for port in ports {
            match client.resume(*port) {
                Ok(c) => {
                    client = c;
                    break;
                }
                Err(e) => assert_ne!(e.to_string(), "session expired"),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    client
}

#[test]
fn a_leader_that_was_paused_ends_no_session_of_the_others() {
    // What it does first when it goes on is a race, and one of the outcomes is harmless.
    (0..5).for_each(|_| pause_a_leader());
}

fn pause_a_leader() {
    let ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let ports = others(leader).map(|i| ensemble.port(i));
    let clients: Vec<_> = (0..6)
        .map(|i| {
            let mut client = Client::new(ports[i % 2], 2500);
            client.create(&format!("/e{i}"), b"", EPHEMERAL).unwrap().unwrap();
            client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            client
        })
        .collect();
    let owners: Vec<i64> = clients.iter().map(|c| c.session).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let kept: Vec<_> = clients.into_iter().map(|c| scope.spawn(|| keep_alive(c, &ports, &stop))).collect();
        let checked = std::panic::catch_unwind(|| {
            ensemble.servers[leader].signal("STOP");
            std::thread::sleep(Duration::from_millis(2800));
            ensemble.servers[leader].signal("CONT");
            // Time for what it would do.
            std::thread::sleep(Duration::from_secs(2));
            ensemble.leader();
            for i in 0..3 {
                let mut seer = Client::new(ensemble.port(i), LONG_MS);
                seer.sync().unwrap().unwrap();
                for (n, session) in owners.iter().enumerate() {
                    let owner = seer.exists(&format!("/e{n}"), false).unwrap().map(|s| s.ephemeral_owner);
                    assert_eq!(owner, Ok(*session), "session {n} of 6");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        kept.into_iter().for_each(|k| drop(k.join().expect("a session ended")));
        checked.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}

fn blank(server: &Server) {
    fs::remove_dir_all(server.dir.join("data/version-2")).unwrap();
}

#[test]
fn a_server_whose_disk_was_wiped_does_not_outvote_what_it_lost() {
    let mut ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let [wiped, away] = others(leader);
    ensemble.servers[away].kill();
    let mut client = Client::new(ensemble.port(leader), LONG_MS);
    for i in 0..100 {
        client.create(&format!("/n{i}"), b"acknowledged", 0).unwrap().unwrap();
    }
    for i in [leader, wiped] {
        ensemble.servers[i].kill();
    }
    blank(&ensemble.servers[wiped]);
    // It may have come late to the first formation, too.
    let caught_up = |server: &Server| server.stderr().matches("caught up with the ensemble").count();
    let before = caught_up(&ensemble.servers[wiped]);
    for i in [wiped, away] {
        ensemble.servers[i].start();
    }
    // Two of three run, and neither may serve: only the third has the writes.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        for i in [wiped, away] {
            assert_eq!(mode(&ensemble.servers[i]), None, "server {i} serves without the writes");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(ensemble.servers[wiped].stderr().contains("directory was blank and the ensemble has data"));
    ensemble.servers[leader].start();
    ensemble.leader();
    let all_there = |port| {
        let mut client = Client::new(port, LONG_MS);
        client.sync().unwrap().unwrap();
        let lost: Vec<_> = (0..100).filter(|i| client.exists(&format!("/n{i}"), false).unwrap().is_err()).collect();
        assert!(lost.is_empty(), "{} of 100 acknowledged writes are lost", lost.len());
    };
    (0..3).for_each(|i| all_there(ensemble.port(i)));
    // It has caught up, and its vote counts from now on, after a restart too.
    eventually("it votes", || (caught_up(&ensemble.servers[wiped]) > before).then_some(()));
    ensemble.servers[leader].kill();
    ensemble.servers[wiped].kill();
    ensemble.servers[wiped].start();
    ensemble.leader();
    all_there(ensemble.port(wiped));
    all_there(ensemble.port(away));
}

#[test]
fn a_blank_server_that_is_killed_while_it_catches_up_has_no_vote_yet() {
    let mut ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let [wiped, away] = others(leader);
    Client::new(ensemble.port(leader), LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    (0..3).for_each(|i| ensemble.servers[i].kill());
    blank(&ensemble.servers[wiped]);
    // It learns that there is data, and cannot get it; killed and started, it is as blank as before.
    for _ in 0..2 {
        for i in [wiped, away] {
            ensemble.servers[i].start();
        }
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(mode(&ensemble.servers[away]), None);
        for i in [wiped, away] {
            ensemble.servers[i].kill();
        }
    }
    (0..3).for_each(|i| ensemble.servers[i].start());
    ensemble.leader();
    Client::new(ensemble.port(wiped), LONG_MS).exists("/n", false).unwrap().unwrap();
}

#[test]
fn a_new_ensemble_waits_for_each_of_its_servers() {
    let mut ensemble = Ensemble::build(3, |_| String::new());
    ensemble.servers[1].start();
    ensemble.servers[2].start();
    eventually("it says whom it waits for", || ensemble.servers[1].stderr().contains("waiting for server.1").then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(mode(&ensemble.servers[2]), None);
    ensemble.servers[0].start();
    ensemble.leader();
    // Once formed, two are enough.
    ensemble.servers[0].kill();
    ensemble.servers[1].kill();
    ensemble.servers[1].start();
    ensemble.leader();
}

/// Longest time between two acknowledged writes of a client that goes on with whichever of these servers it reaches.
fn longest_gap(ports: [u16; 2], act: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|w| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut client = Client::new(ports[w], LONG_MS);
                    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        match client.set("/n", b"x") {
                            Ok(answer) => {
                                answer.unwrap();
                                longest = longest.max(last.elapsed());
                                last = Instant::now();
                            }
                            Err(_) => {
                                // To the server that it was on, as one does that has only this.
                                if let Ok(c) = client.resume(ports[w]) {
                                    client = c;
                                } else {
                                    std::thread::sleep(Duration::from_millis(10));
                                }
                            }
                        }
                    }
                    longest.max(last.elapsed())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        act();
        std::thread::sleep(Duration::from_secs(12));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|w| w.join().unwrap()).max().unwrap()
    })
}

#[test]
fn writes_go_on_soon_after_the_leader_is_cut_off_or_killed() {
    let mut ensemble = Ensemble::start(3, "");
    Client::new(ensemble.port(0), LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    let leader = ensemble.leader();
    let ports = others(leader).map(|i| ensemble.port(i));
    // For the others it is as if it were cut off: its kernel answers, it does not.
    let gap = longest_gap(ports, || ensemble.servers[leader].signal("STOP"));
    assert!(gap < Duration::from_secs(4), "cut off: {gap:?}");
    println!("cut off: {gap:?}");
    ensemble.servers[leader].signal("CONT");
    let leader = ensemble.leader();
    let ports = others(leader).map(|i| ensemble.port(i));
    let gap = longest_gap(ports, || ensemble.servers[leader].kill());
    println!("killed: {gap:?}");
    assert!(gap < Duration::from_secs(2), "killed: {gap:?}");
}

#[test]
fn a_leader_that_is_stopped_hands_over_and_clients_go_on() {
    let mut ensemble = Ensemble::start(3, "");
    Client::new(ensemble.port(0), LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    let leader = ensemble.leader();
    let ports = others(leader).map(|i| ensemble.port(i));
    let gap = longest_gap(ports, || assert!(ensemble.servers[leader].terminate().success()));
    println!("stopped: {gap:?}");
    assert!(gap < Duration::from_secs(1), "stopped: {gap:?}");
    assert!(ensemble.servers[leader].stderr().contains("leadership went to server."), "{}", ensemble.servers[leader].stderr());
    // Their clients saw nothing of it.
    for i in others(leader) {
        let log = ensemble.servers[i].stderr();
        assert!(!log.contains("not serving") && !log.contains("not known to be committed"), "{log}");
    }
}

#[test]
fn the_log_is_synced_before_the_server_votes_or_answers() {
    let mut ensemble = Ensemble::start(1, "");
    let server = &mut ensemble.servers[0];
    let mut client = Client::new(server.port, LONG_MS);
    for i in 0..10 {
        client.create(&format!("/{i}"), b"", 0).unwrap().unwrap();
    }
    server.kill();
    let logs: Vec<_> = fs::read_dir(server.dir.join("data/version-2")).unwrap().map(|e| e.unwrap().path()).collect();
    let logs: Vec<_> = logs.iter().filter_map(|p| p.to_str()).filter(|p| p.contains("/log.")).collect();
    assert!(!logs.is_empty());
    let (library, syncs) = (server.dir.join("syncs.so"), server.dir.join("syncs"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/syncs.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(compiled.unwrap().success());
    server.wrapper = vec!["env".into(), format!("LD_PRELOAD={}", library.display()), format!("SYNCS={}", syncs.display())];
    server.start();
    let mut client = Client::new(server.port, LONG_MS);
    client.exists("/9", false).unwrap().unwrap();
    let noted = fs::read_to_string(&syncs).unwrap();
    let vote = noted.lines().position(|l| l.starts_with("rename") && l.ends_with("/vote")).expect("it voted");
    for log in logs {
        let synced = noted.lines().position(|l| l.starts_with(&format!("sync {log} ")));
        assert!(synced.is_some_and(|s| s < vote), "{log} is not synced before the vote:\n{noted}");
    }
    // A mark says that everything before it is durable: what was synced ended where the mark begins.
    for i in 10..30 {
        client.create(&format!("/{i}"), b"", 0).unwrap().unwrap();
    }
    server.kill();
    let noted = fs::read_to_string(&syncs).unwrap();
    let newest = fs::read_dir(server.dir.join("data/version-2")).unwrap().map(|e| e.unwrap().path());
    let newest = newest.filter(|p| p.to_str().unwrap().contains("/log.")).max().unwrap();
    let (bytes, mut at, mut marks) = (fs::read(&newest).unwrap(), 0, 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if length == 18 && bytes[at + 12..at + 14] == [0x85, 0] {
            let line = format!("sync {} {at}", newest.display());
            assert!(noted.lines().any(|l| l == line), "nothing was synced before the mark at {at}:\n{noted}");
            marks += 1;
        }
        at += 12 + length;
    }
    assert!(marks >= 20, "{marks} marks");
}

#[test]
fn a_leader_whose_disk_is_full_does_not_keep_the_others_from_leading() {
    let mut ensemble = Ensemble::start(3, "");
    Client::new(ensemble.port(0), LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    let full = 1;
    ensemble.servers.iter_mut().for_each(Server::kill);
    let server = &mut ensemble.servers[full];
    // Its data on a small file system; started again whenever it ends, as systemd does; filled when it is told to.
    let script = r#"
        cp -a "$1/data" "$1/saved" && mount -t tmpfs -o size=64m none "$1/data" && cp -a "$1/saved/." "$1/data/" || exit 9
        (while [ ! -e "$1/fill" ]; do sleep 0.1; done; dd if=/dev/zero of="$1/data/fill" bs=64k 2>/dev/null; dd if=/dev/zero of="$1/data/fill2" bs=1 2>/dev/null
         while [ ! -e "$1/free" ]; do sleep 0.1; done; rm "$1/data/fill" "$1/data/fill2") &
        shift
        while :; do "$@"; sleep 0.3; done"#;
    let dir = server.dir.to_str().unwrap().to_owned();
    server.wrapper = ["unshare", "-rmp", "--fork", "--kill-child", "sh", "-c", script, "sh", &dir].map(str::to_owned).to_vec();
    server.start();
    // It has waited for a leader when the others come, so it is the one, mostly.
    let leads = (0..8).any(|_| {
        others(full).iter().for_each(|i| ensemble.servers[*i].kill());
        std::thread::sleep(Duration::from_secs(3));
        others(full).iter().for_each(|i| ensemble.servers[*i].start());
        ensemble.leader() == full
    });
    assert!(leads);
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    fs::write(ensemble.servers[full].dir.join("fill"), b"").unwrap();
    // What the leader cannot write makes it end; what it had is known to the others.
    let ports = others(full).map(|i| ensemble.port(i));
    let mut written = 0;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < Duration::from_secs(20) {
        match client.set("/n", &vec![7; 10_000]) {
            Ok(answer) => {
                answer.unwrap();
                written += 1;
                last = Instant::now();
            }
            Err(_) => {
                if let Some(c) = ports.iter().find_map(|p| client.resume(*p).ok()) {
                    client = c;
                }
            }
        }
        assert!(last.elapsed() < Duration::from_secs(10), "no leader for {:?} after {written} writes", last.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    let stderr = ensemble.servers[full].stderr();
    assert!(stderr.contains("this server stops") && stderr.contains("waits for room"), "{stderr}");
    assert_ne!(mode(&ensemble.servers[full]).as_deref(), Some("leader"));
    // With room it is back.
    fs::write(ensemble.servers[full].dir.join("free"), b"").unwrap();
    ensemble.leader();
    Client::new(ensemble.port(full), LONG_MS).set("/n", b"").unwrap().unwrap();
}

#[test]
fn log_in_memory_and_on_disk_is_bounded_in_bytes() {
    let mut ensemble = Ensemble::start(3, "");
    let away = ensemble.follower();
    ensemble.servers[away].kill();
    let leader = ensemble.leader();
    let mut client = Client::new(ensemble.port(leader), LONG_MS);
    client.create("/n", b"", 0).unwrap().unwrap();
    let data = |i: u8| vec![i; 900_000];
    for i in 0..=255 {
        client.set("/n", &data(i)).unwrap().unwrap();
    }
    let server = &ensemble.servers[leader];
    assert!(server.peak_mib() < 180, "{} MiB", server.peak_mib());
    // The other is far behind: what is not in memory any more comes from the log's files, or as a snapshot.
    ensemble.servers[away].start();
    ensemble.leader();
    let mut late = Client::new(ensemble.port(away), LONG_MS);
    late.sync().unwrap().unwrap();
    let (found, stat) = late.get("/n", false).unwrap().unwrap();
    assert_eq!((found, stat.version), (data(255), 256));
    for server in &ensemble.servers {
        let log = || -> u64 {
            let files = fs::read_dir(server.dir.join("data/version-2")).unwrap();
            files.filter_map(|f| f.unwrap().metadata().ok()).map(|m| m.len()).sum()
        };
        eventually("the log shrinks", || (log() < 190 * MEGA as u64).then_some(()));
    }
}

/// A directory as an earlier version left it, kept in `fixtures`.
fn from_fixture(server: &Server, name: &str) -> std::path::PathBuf {
    let dir = server.dir.join("data/version-2");
    fs::create_dir_all(&dir).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    dir
}

#[test]
fn a_directory_of_format_3_is_read_and_its_server_becomes_three() {
    let mut ensemble = Ensemble::build(3, |_| String::new());
    // It stood alone, with a snapshot and a log behind it: ACLs, a multi, an ephemeral node, what was deleted.
    let dir = from_fixture(&ensemble.servers[0], "format-3");
    assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "3\n");
    ensemble.servers.iter_mut().for_each(Server::start);
    for i in 0..3 {
        let mut client = Client::new(ensemble.port(i), LONG_MS);
        client.sync().unwrap().unwrap();
        let mut want: Vec<_> = (0..20).filter(|i| *i != 4).map(|i| format!("n{i}")).collect();
        want.extend(["acl", "e", "m1", "s-0000000022", "zookeeper"].map(str::to_owned));
        want.sort();
        assert_eq!(client.children("/", false).unwrap().unwrap(), want);
        let (data, stat) = client.get("/n3", false).unwrap().unwrap();
        assert_eq!((data.as_slice(), stat.version), (&b"changed"[..], 1));
        assert_eq!(client.get("/n5", false).unwrap().unwrap().0, b"multi");
        assert_eq!(client.get("/acl", false).unwrap(), Err(-102));
        assert_ne!(client.exists("/e", false).unwrap().unwrap().ephemeral_owner, 0);
    }
    assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "5\n");
}

#[test]
fn a_directory_of_format_4_is_read_and_written_on() {
    let mut ensemble = Ensemble::build(1, |_| String::new());
    let server = &mut ensemble.servers[0];
    // A snapshot, and two files of the log.
    let dir = from_fixture(server, "format-4");
    assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "4\n");
    let mut want: Vec<_> = (0..20).filter(|i| *i != 4).map(|i| format!("n{i}")).collect();
    want.extend(["e", "later", "zookeeper"].map(str::to_owned));
    for new in ["new-1", "new-2"] {
        server.start();
        let mut client = Client::new(server.port, LONG_MS);
        want.sort();
        assert_eq!(client.children("/", false).unwrap().unwrap(), want);
        assert_eq!(client.get("/n3", false).unwrap().unwrap().0, b"changed");
        assert_eq!(client.get("/later", false).unwrap().unwrap().0, [0; 700]);
        client.create(&format!("/{new}"), b"", 0).unwrap().unwrap();
        want.push(new.to_owned());
        server.kill();
        assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "5\n");
    }
}

#[test]
fn a_directory_of_the_first_format_is_read_and_one_of_a_later_is_refused() {
    let mut ensemble = Ensemble::build(1, |_| String::new());
    let server = &mut ensemble.servers[0];
    let dir = from_fixture(server, "format-1");
    server.start();
    let mut client = Client::new(server.port, LONG_MS);
    let names = client.children("/", false).unwrap().unwrap();
    let mut want: Vec<_> = (0..30).filter(|i| ![4, 5].contains(i)).map(|i| format!("n{i}")).collect();
    want.extend(["e", "m1", "s-0000000031", "zookeeper"].map(str::to_owned));
    want.sort();
    assert_eq!(names, want);
    let (data, stat) = client.get("/n3", false).unwrap().unwrap();
    assert_eq!((data.as_slice(), stat.version, stat.mzxid), (&b"changed"[..], 1, 0x1_0000_0022));
    server.kill();
    assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "5\n");
    for later in ["6\n", "x"] {
        fs::write(dir.join("format"), later).unwrap();
        server.start();
        eventually("it ends", || (!server.is_running()).then_some(()));
        let want = format!("{}: format {:?}, this version knows formats up to 5", dir.join("format").display(), later.trim());
        assert!(server.stderr().contains(&want), "{}", server.stderr());
        server.kill();
    }
}
