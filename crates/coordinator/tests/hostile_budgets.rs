//! Clients that want more than their share, of memory or of descriptors: they are refused, the others are served.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{
    DEADLINE, Ensemble, LONG_MS, Server,
    client::{Client, create_body, frame, hello, multi_body, path_body, read_frame, set_body},
    eventually, is_ended,
};
use septet_coordinator::protocol::{MAX_PATH_BYTES, op};

const BAD_ARGUMENTS: i32 = -8;
const NO_NODE: i32 = -101;
const MEGA: usize = 1 << 20;

fn measured(server: &Server, key: &str) -> usize {
    eventually("it answers", || server.measured(key)).parse().unwrap()
}

#[test]
fn watches_on_paths_of_a_megabyte_are_refused() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    for i in 0..1000 {
        let path = format!("/{i}{}", "x".repeat(MEGA - 1000));
        assert_eq!(client.exists(&path, true).unwrap(), Err(BAD_ARGUMENTS));
    }
    assert_eq!(measured(&ensemble.servers[0], "watch_count"), 0);
    assert!(ensemble.servers[0].peak_mib() < 100, "{} MiB", ensemble.servers[0].peak_mib());
}

#[test]
fn a_path_has_a_longest_length() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    let longest = format!("/{}", "x".repeat(MAX_PATH_BYTES - 1));
    let longer = format!("{longest}x");
    assert_eq!(client.create(&longest, b"", 0).unwrap(), Ok(longest.clone()));
    assert_eq!(client.create(&longer, b"", 0).unwrap(), Err(BAD_ARGUMENTS));
    assert!(client.get(&longest, true).unwrap().is_ok());
    for answer in [client.get(&longer, false).unwrap().err(), client.exists(&longer, false).unwrap().err()] {
        assert_eq!(answer, Some(BAD_ARGUMENTS));
    }
    assert_eq!(client.children(&longer, true).unwrap(), Err(BAD_ARGUMENTS));
    assert_eq!(client.set_watches(0, [&[], &[&longer], &[]]).unwrap(), Err(BAD_ARGUMENTS));
    assert_eq!(client.call(op::SYNC, &path_body(&longer, false)).unwrap().err, BAD_ARGUMENTS);
    // Another multi in a multi is answered as ZooKeeper answers it.
    let mut multi = Vec::new();
    for _ in 0..10_000 {
        multi.extend_from_slice(&[0, 0, 0, 14, 0, 0xff, 0xff, 0xff, 0xff]);
    }
    assert_eq!(client.call(op::MULTI, &multi).unwrap().err, -5);
    client.delete(&longest).unwrap().unwrap();
    assert_eq!(measured(&ensemble.servers[0], "watch_count"), 0);
}

#[test]
fn watches_past_the_limit_are_refused_with_an_error() {
    let ensemble = Ensemble::start(1, "");
    let server = &ensemble.servers[0];
    let mut client = Client::new(server.port, LONG_MS);
    let batch = |from: usize| (from..from + 1000).map(|i| (op::EXISTS, path_body(&format!("/n{i}"), true))).collect::<Vec<_>>();
    for n in 0..100 {
        client.send_all(&batch(1000 * n)).unwrap();
        (0..1000).for_each(|_| assert_eq!(client.receive().unwrap().err, NO_NODE));
    }
    assert_eq!(measured(server, "watch_count"), 100_000);
    assert_eq!(client.exists("/one-more", true).unwrap(), Err(BAD_ARGUMENTS));
    assert_eq!(client.get("/", true).unwrap().err(), Some(BAD_ARGUMENTS));
    assert_eq!(client.children("/", true).unwrap(), Err(BAD_ARGUMENTS));
    eventually("it is logged", || server.stderr().contains("a watch was refused: the connection has 100000 watches").then_some(()));
    // One that is there already, and reads without a watch.
    assert_eq!(client.exists("/n7", true).unwrap(), Err(NO_NODE));
    assert!(client.get("/", false).unwrap().is_ok());
    // One that fired makes room.
    client.create("/n7", b"", 0).unwrap().unwrap();
    assert_eq!(client.exists("/one-more", true).unwrap(), Err(NO_NODE));
    assert_eq!(client.events.len(), 1);
    // Clients take any answer to setWatches for success, so a connection whose watches find no room ends.
    let error = client.set_watches(0, [&[], &["/yet-another"], &[]]).unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock);
    eventually("all are gone", || (server.measured("watch_count")? == "0").then_some(()));
}

#[test]
fn watches_have_a_budget_in_bytes() {
    // That of all connections together is in the tests of the watches themselves.
    let ensemble = Ensemble::start(1, "");
    let server = &ensemble.servers[0];
    let path = |i: usize| format!("/{}/{i}", "p".repeat(16_000));
    let mut client = Client::new(server.port, LONG_MS);
    let mut refused = 0;
    for from in (0..2500).step_by(100) {
        let all: Vec<_> = (from..from + 100).map(|i| (op::EXISTS, path_body(&path(i), true))).collect();
        client.send_all(&all).unwrap();
        for _ in 0..100 {
            match client.receive().unwrap().err {
                NO_NODE => {}
                BAD_ARGUMENTS => refused += 1,
                other => panic!("{other}"),
            }
        }
    }
    assert!((400..500).contains(&refused), "{refused}");
    assert!(server.stderr().contains("a watch was refused: the connection's watches take"));
    assert!(server.peak_mib() < 150, "{} MiB", server.peak_mib());
    // One for each kind and path: the same again is no more.
    assert_eq!(client.exists(&path(0), true).unwrap(), Err(NO_NODE));
    drop(client);
    eventually("all are gone", || (server.measured("watch_count")? == "0").then_some(()));
    assert_eq!(Client::new(server.port, LONG_MS).exists(&path(1), true).unwrap(), Err(NO_NODE));
}

fn connected(server: &Server) -> TcpStream {
    let mut stream = server.raw().unwrap();
    stream.write_all(&hello(0, LONG_MS, 0, &[0; 16])).unwrap();
    read_frame(&mut stream).unwrap();
    stream
}

fn request(op: i32, body: &[u8]) -> Vec<u8> {
    frame(&[&1i32.to_be_bytes()[..], &op.to_be_bytes(), body].concat())
}

#[test]
fn answers_that_nobody_reads_have_a_budget() {
    let ensemble = Ensemble::start(1, "maxClientCnxns=0");
    let server = &ensemble.servers[0];
    let mut good = Client::new(server.port, LONG_MS);
    good.create("/big", &vec![7; 1_000_000], 0).unwrap().unwrap();
    let ask = request(op::GET_DATA, &path_body("/big", false)).repeat(30);
    let mut mean: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = connected(server);
            stream.write_all(&ask).unwrap();
            stream
        })
        .collect();
    // 3 GB, if they were all made.
    for _ in 0..20 {
        assert_eq!(good.get("/big", false).unwrap().unwrap().0.len(), 1_000_000);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(server.peak_mib() < 500, "{} MiB", server.peak_mib());
    eventually("they are gone", || (server.measured("num_alive_connections")? == "1").then_some(()));
    mean.iter_mut().for_each(|m| assert!(is_ended(m)));
    // One that asks for much and reads it, slowly at first, gets it all.
    let mut slow = connected(server);
    slow.write_all(&ask).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..30 {
        assert_eq!(read_frame(&mut slow).unwrap().len(), 16 + 4 + 1_000_000 + 68);
    }
}

#[test]
fn requests_that_are_not_answered_yet_have_a_budget() {
    // Nobody to commit them: the others are stopped, not dead.
    let ensemble = Ensemble::start(3, "maxClientCnxns=0");
    let leader = ensemble.leader();
    let server = &ensemble.servers[leader];
    Client::new(server.port, LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    let mut clients: Vec<_> = (0..40).map(|_| connected(server)).collect();
    let others: Vec<_> = ensemble.servers.iter().enumerate().filter(|(i, _)| *i != leader).map(|(_, s)| s).collect();
    others.iter().for_each(|s| s.signal("STOP"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in &mut clients {
            client.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            scope.spawn(|| {
                let write = request(op::SET_DATA, &set_body("/n", &vec![1; 1_000_000]));
                let mut rest: &[u8] = &[];
                while !stop.load(Ordering::Relaxed) {
                    if rest.is_empty() {
                        rest = &write;
                    }
                    match client.write(rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                        Err(_) => break,
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(6));
        stop.store(true, Ordering::Relaxed);
    });
    let peak = server.peak_mib();
    others.iter().for_each(|s| s.signal("CONT"));
    assert!(peak < 700, "{peak} MiB");
    drop(clients);
    ensemble.leader();
    Client::new(ensemble.port(leader), LONG_MS).set("/n", b"").unwrap().unwrap();
}

#[test]
fn requests_of_which_a_part_has_arrived_have_a_budget() {
    let ensemble = Ensemble::start(1, "maxClientCnxns=0");
    let server = &ensemble.servers[0];
    let part = &request(op::SET_DATA, &set_body("/none", &vec![1; 1_000_000]))[..900_000];
    let mut held: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connected(server);
            stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = stream.write_all(part);
            stream
        })
        .collect();
    // Small requests have nothing to wait for, and large ones not for long.
    let mut good = Client::new(server.port, LONG_MS);
    good.create("/n", b"", 0).unwrap().unwrap();
    good.set("/n", &vec![1; 1_000_000]).unwrap().unwrap();
    assert!(server.peak_mib() < 200, "{} MiB", server.peak_mib());
    held.iter_mut().for_each(|s| assert!(is_ended(s)));
}

#[test]
fn descriptors_are_kept_for_files_and_servers() {
    let mut ensemble = Ensemble::start(3, "maxClientCnxns=0\nsnapCount=50");
    let i = ensemble.leader();
    let server = &mut ensemble.servers[i];
    server.kill();
    server.wrapper = ["prlimit", "--nofile=220:220"].map(str::to_owned).to_vec();
    server.start();
    ensemble.leader();
    let server = &ensemble.servers[i];
    assert_eq!(measured(server, "max_file_descriptor_count"), 220);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..400 {
        let mut stream = server.raw().unwrap();
        let answered = stream.write_all(&hello(0, LONG_MS, 0, &[0; 16])).is_ok() && read_frame(&mut stream).is_ok();
        if answered {
            held.push(stream);
        } else {
            refused += 1;
        }
    }
    assert!(held.len() > 50 && refused > 200, "{} and {refused}", held.len());
    assert!(server.stderr().contains("refused a client: "), "no line in the log");
    assert!(server.stderr().matches("refused a client: ").count() < 50, "a line for each");
    // Those that are in are served, with new log files and snapshots; and other servers come and go.
    let mut kept = Client::new(ensemble.port((i + 1) % 3), LONG_MS);
    for n in 0..200 {
        kept.create(&format!("/{n}"), b"", 0).unwrap().unwrap();
    }
    let first = &mut held[0];
    first.write_all(&request(op::CREATE, &create_body("/mine", b"", 0))).unwrap();
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_frame(first).unwrap()[12..16], [0; 4]);
    let other = (i + 1) % 3;
    ensemble.servers[other].kill();
    ensemble.servers[other].start();
    held.truncate(10);
    ensemble.leader();
    assert!(ensemble.servers[i].is_running());
    // Room again.
    let mut stream = connected(&ensemble.servers[i]);
    stream.write_all(&request(op::PING, &[])).unwrap();
    let _ = stream.read(&mut [0; 4]).unwrap();
}

/// A small request whose answer would be large.
#[test]
fn an_answer_to_many_reads_is_bounded() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/big", &vec![7; 900_000], 0).unwrap().unwrap();
    let read = |n: usize| multi_body(&(0..n).map(|_| (op::GET_DATA, path_body("/big", false))).collect::<Vec<_>>());
    assert_eq!(client.call(op::MULTI_READ, &read(8)).unwrap().err, 0);
    for _ in 0..20 {
        assert_eq!(client.call(op::MULTI_READ, &read(9_000)).unwrap().err, -8);
    }
    assert!(ensemble.servers[0].peak_mib() < 150, "{} MiB", ensemble.servers[0].peak_mib());
}
