//! Three servers: what one was told the others know, and what was acknowledged outlives kill -9.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    io,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use common::{
    Ensemble, LONG_MS,
    client::{Client, EPHEMERAL, SEQUENTIAL, create_body, multi_body, set_body},
    eventually, hang_up,
};
use septet_coordinator::protocol::op;

const CREATED: i32 = 1;
const DELETED: i32 = 2;
const CHANGED: i32 = 3;
const CHILD: i32 = 4;
const NO_NODE: i32 = -101;

#[test]
fn what_one_server_was_told_the_others_show_and_watches_fire() {
    let ensemble = Ensemble::start(3, "");
    let [mut a, mut b, mut c] = [0, 1, 2].map(|i| Client::new(ensemble.port(i), LONG_MS));
    assert_eq!(a.create("/x", b"one", 0).unwrap(), Ok("/x".into()));
    for client in [&mut b, &mut c] {
        client.sync().unwrap().unwrap();
        assert_eq!(client.get("/x", true).unwrap().unwrap().0, b"one");
        assert_eq!(client.exists("/x/new", true).unwrap(), Err(NO_NODE));
        assert_eq!(client.children("/x", true).unwrap(), Ok(vec![]));
    }
    let changed = a.set("/x", b"two").unwrap().unwrap();
    assert_eq!((changed.version, changed.data_length), (1, 3));
    // The event comes before anything that shows the change: a client that saw no event sees the old data.
    for client in [&mut b, &mut c] {
        let seen = eventually("the new data", || {
            let (data, _) = client.get("/x", false).unwrap().unwrap();
            assert!(data != b"two" || client.events == [(CHANGED, "/x".into())], "the change showed before its event");
            (data == b"two").then_some(data)
        });
        assert_eq!((seen.as_slice(), client.event().unwrap()), (&b"two"[..], (CHANGED, "/x".into())));
    }
    a.create("/x/new", b"", 0).unwrap().unwrap();
    for client in [&mut b, &mut c] {
        let mut got = [client.event().unwrap(), client.event().unwrap()];
        got.sort();
        assert_eq!(got, [(CREATED, "/x/new".into()), (CHILD, "/x".into())]);
        client.exists("/x/new", true).unwrap().unwrap();
    }
    // Each fired once. Names in sequence are given once, whoever asks.
    let mut names = BTreeSet::new();
    for _ in 0..5 {
        for client in [&mut a, &mut b, &mut c] {
            let name = client.create("/x/n-", b"", SEQUENTIAL).unwrap().unwrap();
            assert!(names.last().is_none_or(|last| *last < name), "{name} after {names:?}");
            names.insert(name);
            assert_eq!(client.events, []);
        }
    }
    a.delete("/x/new").unwrap().unwrap();
    for client in [&mut b, &mut c] {
        assert_eq!(client.event().unwrap(), (DELETED, "/x/new".into()));
    }
    // A server that has the same as another shows the same stat.
    let stats = [&mut a, &mut b, &mut c].map(|client| {
        client.sync().unwrap().unwrap();
        client.exists("/x", false).unwrap().unwrap()
    });
    assert_eq!((stats[0], stats[1]), (stats[1], stats[2]));
    assert_eq!((stats[0].num_children, stats[0].cversion), (15, 17));
    for client in [&mut a, &mut b, &mut c] {
        assert!(client.close().unwrap());
    }
}

#[test]
fn an_ephemeral_outlives_its_connection_but_not_its_session() {
    let timeout = Duration::from_millis(2000);
    let ensemble = Ensemble::start(3, "");
    let (leader, follower) = (ensemble.leader(), ensemble.follower());
    let mut seer = Client::new(ensemble.port(leader), LONG_MS);
    let mut back = Client::new(ensemble.port(leader), 2000);
    back.create("/back", b"", EPHEMERAL).unwrap().unwrap();
    let mut gone = Client::new(ensemble.port(follower), 2000);
    assert_eq!(gone.timeout_ms, 2000);
    let last_word = Instant::now();
    gone.create("/gone", b"", EPHEMERAL).unwrap().unwrap();
    for client in [&gone, &back] {
        hang_up(&client.stream);
    }
    // One comes back in time, by another server, and again and again; the other does not.
    let mut back = back.resume(ensemble.port(follower)).unwrap();
    seer.sync().unwrap().unwrap();
    eventually("the session ends", || {
        back.ping().unwrap();
        let there = seer.exists("/gone", true).unwrap().is_ok();
        assert!(there || last_word.elapsed() >= timeout, "gone after {:?}", last_word.elapsed());
        (!there).then_some(())
    });
    assert_eq!(seer.event().unwrap(), (DELETED, "/gone".into()));
    let error = gone.resume(ensemble.port(leader)).unwrap_err();
    assert_eq!(error.to_string(), "session expired");
    // Gone everywhere; the other's is there, everywhere.
    for i in 0..3 {
        let mut client = Client::new(ensemble.port(i), LONG_MS);
        client.sync().unwrap().unwrap();
        assert_eq!(client.exists("/gone", false).unwrap(), Err(NO_NODE));
        assert_eq!(client.exists("/back", false).unwrap().unwrap().ephemeral_owner, back.session);
    }
    // The end of a session at its own wish takes no time.
    assert!(back.close().unwrap());
    seer.sync().unwrap().unwrap();
    assert_eq!(seer.exists("/back", false).unwrap(), Err(NO_NODE));
}

/// Clients that write all the time, each its own nodes, and note what was acknowledged.
struct Load {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
}

impl Load {
    /// Writes until told to stop; a client that loses its server goes on with the next, in the same session.
    fn write(&self, ensemble_ports: &[u16], me: usize) -> Vec<String> {
        let mut done = Vec::new();
        let mut client = Client::new(ensemble_ports[me], LONG_MS);
        let session = client.session;
        for n in 0.. {
            let path = format!("/w/{me}-{n}");
            match client.create(&path, path.as_bytes(), 0) {
                Ok(answer) => {
                    assert_eq!(answer.unwrap(), path);
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                    done.push(path);
                }
                // Nobody knows whether it was done: it counts as neither.
                Err(_) => {
                    let mut next = me;
                    let again = eventually("another server", || {
                        next += 1;
                        if self.stop.load(Ordering::SeqCst) { Some(None) } else { client.resume(ensemble_ports[next % 3]).ok().map(Some) }
                    });
                    match again {
                        Some(c) => client = c,
                        None => break,
                    }
                    assert_eq!(client.session, session);
                }
            }
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
        done
    }
}

/// Runs the load while something is done to the servers; returns all that was acknowledged.
fn under_load(ensemble: &mut Ensemble, act: impl FnOnce(&mut Ensemble, &dyn Fn(usize))) -> Vec<String> {
    let ports: Vec<u16> = ensemble.servers.iter().map(|s| s.port).collect();
    Client::new(ports[0], LONG_MS).create("/w", b"", 0).unwrap().unwrap();
    let load = Load { stop: AtomicBool::new(false), acknowledged: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|me| {
                scope.spawn({
                    let (load, ports) = (&load, &ports);
                    move || load.write(ports, me)
                })
            })
            .collect();
        let more = |n: usize| {
            let from = load.acknowledged.load(Ordering::SeqCst);
            eventually("writes go on", || (load.acknowledged.load(Ordering::SeqCst) >= from + n).then_some(()));
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(ensemble, &more)));
        load.stop.store(true, Ordering::SeqCst);
        let done = writers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        result.unwrap_or_else(|e| std::panic::resume_unwind(e));
        done
    })
}

/// Each acknowledged write is on each running server.
fn check_all_there(ensemble: &Ensemble, acknowledged: &[String]) {
    for server in &ensemble.servers {
        let mut client = Client::new(server.port, LONG_MS);
        client.sync().unwrap().unwrap();
        let there: BTreeSet<_> = client.children("/w", false).unwrap().unwrap().into_iter().map(|c| format!("/w/{c}")).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|p| !there.contains(*p)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
        for path in acknowledged.iter().step_by(1 + acknowledged.len() / 50) {
            assert_eq!(client.get(path, false).unwrap().unwrap().0, path.as_bytes());
        }
    }
}

#[test]
fn kill_9_of_the_leader_loses_no_acknowledged_write_and_no_session() {
    let mut ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let mut client = Client::new(ensemble.port(leader), LONG_MS);
    for path in ["/mine", "/watched", "/parent"] {
        client.create(path, b"", i32::from(path == "/mine")).unwrap().unwrap();
    }
    let seen = client.zxid;
    let acknowledged = under_load(&mut ensemble, |ensemble, more| {
        more(60);
        ensemble.servers[leader].kill();
        more(60);
        ensemble.servers[leader].start();
        ensemble.leader();
        more(30);
    });
    assert!(acknowledged.len() >= 150);
    let other = Client::new(ensemble.port((leader + 1) % 3), LONG_MS).set("/watched", b"new");
    other.unwrap().unwrap();
    // The session goes on elsewhere: same id, its ephemeral is there, and it is told what it missed.
    let mut client = eventually("another server takes the session", || client.resume(ensemble.port((leader + 2) % 3)).ok());
    client.sync().unwrap().unwrap();
    assert_eq!(client.exists("/mine", false).unwrap().unwrap().ephemeral_owner, client.session);
    client.set_watches(seen, [&["/watched", "/mine", "/none"], &["/parent", "/later"], &["/parent", "/w"]]).unwrap().unwrap();
    let mut events = std::mem::take(&mut client.events);
    events.sort();
    let want = [(CREATED, "/parent"), (DELETED, "/none"), (CHANGED, "/watched"), (CHILD, "/w")];
    assert_eq!(events, want.map(|(kind, path)| (kind, path.to_owned())));
    client.create("/later", b"", 0).unwrap().unwrap();
    assert_eq!(client.event().unwrap(), (CREATED, "/later".into()));
    assert!(client.close().unwrap());
    check_all_there(&ensemble, &acknowledged);
    let mut last = Client::new(ensemble.port(leader), LONG_MS);
    last.sync().unwrap().unwrap();
    assert_eq!(last.exists("/mine", false).unwrap(), Err(NO_NODE));
}

#[test]
fn kill_9_of_all_three_loses_no_acknowledged_write() {
    let mut ensemble = Ensemble::start(3, "snapCount=50");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/mine", b"", EPHEMERAL).unwrap().unwrap();
    let acknowledged = under_load(&mut ensemble, |ensemble, more| {
        for _ in 0..2 {
            more(100);
            ensemble.servers.iter_mut().for_each(common::Server::kill);
            ensemble.servers.iter_mut().for_each(common::Server::start);
            ensemble.leader();
        }
        more(10);
    });
    assert!(acknowledged.len() >= 210);
    check_all_there(&ensemble, &acknowledged);
    // Sessions are on disk, too.
    let mut client = client.resume(ensemble.port(2)).unwrap();
    client.sync().unwrap().unwrap();
    assert_eq!(client.exists("/mine", false).unwrap().unwrap().ephemeral_owner, client.session);
    assert!(client.close().unwrap());
}

#[test]
fn without_a_majority_nothing_is_promised_and_then_all_goes_on() {
    let mut ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let mut client = Client::new(ensemble.port(leader), LONG_MS);
    client.create("/before", b"", 0).unwrap().unwrap();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    others.iter().for_each(|i| ensemble.servers[*i].kill());
    // It is not acknowledged: the connection ends.
    let promised = client.create("/alone", b"", 0);
    assert!(promised.is_err(), "{promised:?}");
    eventually("it serves no more", || common::mode(&ensemble.servers[leader]).is_none().then_some(()));
    let said = ensemble.servers[leader].ask("srvr").unwrap();
    assert_eq!(said, "This ZooKeeper instance is not currently serving requests\n");
    assert_eq!(ensemble.servers[leader].ask("ruok").unwrap(), "imok");
    assert_eq!(ensemble.servers[leader].ask("isro").unwrap(), "null");
    assert!(client.resume(ensemble.port(leader)).is_err());
    ensemble.servers[others[0]].start();
    ensemble.leader();
    let mut client = eventually("the session goes on", || client.resume(ensemble.port(others[0])).ok());
    client.sync().unwrap().unwrap();
    client.exists("/before", false).unwrap().unwrap();
    client.create("/behind", b"", 0).unwrap().unwrap();
}

#[test]
fn a_server_that_was_away_for_long_gets_a_snapshot() {
    let mut ensemble = Ensemble::start(3, "snapCount=200");
    let away = ensemble.follower();
    let (port, other) = (ensemble.port(ensemble.leader()), ensemble.port((0..3).find(|i| *i != away && *i != ensemble.leader()).unwrap()));
    ensemble.servers[away].kill();
    Client::new(port, LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    // The log keeps 2,000 entries behind a snapshot: one at a time, so that each is an entry.
    std::thread::scope(|scope| {
        for p in [port, other] {
            scope.spawn(move || {
                let mut client = Client::new(p, LONG_MS);
                for _ in 0..1250 {
                    client.create("/n/", b"some data", SEQUENTIAL).unwrap().unwrap();
                }
            });
        }
    });
    ensemble.servers[away].start();
    let mut late = Client::new(ensemble.port(away), LONG_MS);
    let all = late.children("/n", false).unwrap().unwrap();
    assert_eq!(all.len(), 2500);
    assert_eq!(Client::new(port, LONG_MS).children("/n", false).unwrap().unwrap(), all);
    assert_eq!(late.create("/n/", b"", SEQUENTIAL).unwrap().unwrap(), "/n/0000002500");
}

#[test]
fn a_server_that_comes_back_shows_nobody_the_past() {
    let mut ensemble = Ensemble::start(3, "");
    let away = ensemble.follower();
    Client::new(ensemble.port(away), LONG_MS).create("/n", b"", 0).unwrap().unwrap();
    ensemble.servers[away].kill();
    // These take a while to apply.
    let slow = multi_body(&vec![(op::SET_DATA, set_body("/n", b"x")); 2000]);
    let mut client = Client::new(ensemble.port(ensemble.leader()), LONG_MS);
    for _ in 0..60 {
        assert_eq!(client.call(op::MULTI, &slow).unwrap().err, 0);
    }
    ensemble.servers[away].start();
    // Without a sync: a session begins when its place in the log is reached.
    let mut late = Client::new(ensemble.port(away), LONG_MS);
    assert_eq!(late.exists("/n", false).unwrap().unwrap().version, 120_000);
}

#[test]
fn garbage_on_the_port_of_the_servers_hurts_nobody() {
    use std::{io::Write, net::TcpStream};
    let mut ensemble = Ensemble::start(3, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/x", b"", 0).unwrap().unwrap();
    let held: Vec<io::Result<TcpStream>> = ensemble
        .servers
        .iter()
        .flat_map(|s| {
            let bytes: [&[u8]; 5] = [b"", b"\0\0\0\x08", &[0xff; 64], b"\x07\xff\xff\xff\0\0\0\0\0\0\0\0x", b"GET / HTTP/1.1\r\n\r\n"];
            bytes.map(|b| TcpStream::connect(("127.0.0.1", s.peer_port)).and_then(|mut stream| stream.write_all(b).map(|()| stream)))
        })
        .collect();
    for i in 0..50 {
        client.send(op::CREATE, &create_body(&format!("/x/{i}"), b"", 0)).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(client.receive().unwrap().err, 0);
    }
    ensemble.leader();
    assert!(ensemble.servers.iter_mut().all(common::Server::is_running));
    drop(held);
}
