//! One session, one connection, one order: what a client may rely on.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::Write;

use common::{
    Ensemble, LONG_MS,
    client::{Client, EPHEMERAL, create_body, hello, path_body, read_frame, set_body},
    eventually, hang_up, is_ended,
};
use septet_coordinator::protocol::op;

const NO_NODE: i32 = -101;

#[test]
fn the_newer_of_two_connections_has_the_session() {
    let ensemble = Ensemble::start(3, "");
    for (from, to) in [(0, 0), (0, 1), (1, 2), (2, 2)] {
        let mut old = Client::new(ensemble.port(from), LONG_MS);
        let path = format!("/e{from}{to}");
        old.create(&path, b"", EPHEMERAL).unwrap().unwrap();
        let mut new = old.resume(ensemble.port(to)).unwrap();
        assert_eq!(new.session, old.session);
        assert!(is_ended(&mut old.stream), "the old connection goes on");
        new.sync().unwrap().unwrap();
        assert_eq!(new.exists(&path, false).unwrap().unwrap().ephemeral_owner, new.session);
        new.set(&path, b"x").unwrap().unwrap();
        assert!(new.close().unwrap());
    }
}

#[test]
fn of_many_that_come_at_once_for_a_session_one_stays() {
    let ensemble = Ensemble::start(1, "");
    let first = Client::new(ensemble.port(0), LONG_MS);
    let one_is_left = || {
        let all = ensemble.servers[0].ask("stat").unwrap();
        (all.lines().filter(|l| l.contains("[1]")).count() == 1).then_some(())
    };
    for _ in 0..10 {
        // All stay open on this side: the server ends them.
        let _open: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| first.resume(ensemble.port(0)))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        eventually("one is left", one_is_left);
    }
    let mut last = first.resume(ensemble.port(0)).unwrap();
    last.ping().unwrap();
    eventually("the new one is left", one_is_left);
    last.create("/x", b"", 0).unwrap().unwrap();
}

#[test]
fn a_wrong_password_gets_no_session() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/e", b"", EPHEMERAL).unwrap().unwrap();
    for (session, password) in [(client.session, vec![7; 16]), (client.session, vec![]), (client.session + 1, client.password.clone())] {
        let mut stream = ensemble.servers[0].raw().unwrap();
        stream.write_all(&hello(0, LONG_MS, session, &password)).unwrap();
        // Protocol, timeout, session and a password of 16 zeros, read-only: ZooKeeper's way to say that it is gone.
        let mut want = vec![0; 37];
        want[19] = 16;
        assert_eq!(read_frame(&mut stream).unwrap(), want);
        assert!(is_ended(&mut stream));
        // Whoever guesses does not end the connection of the session's own client.
        client.exists("/e", false).unwrap().unwrap();
    }
    let mut client = client.resume(ensemble.port(0)).unwrap();
    assert_eq!(client.exists("/e", false).unwrap().unwrap().ephemeral_owner, client.session);
}

#[test]
fn a_new_session_needs_no_password_and_no_read_only_field() {
    let ensemble = Ensemble::start(1, "");
    let whole = hello(0, 1, 0, &[]);
    let old = [&28i32.to_be_bytes()[..], &whole[4..whole.len() - 1]].concat();
    for (bytes, length) in [(&whole, 37), (&old, 36)] {
        let mut stream = ensemble.servers[0].raw().unwrap();
        stream.write_all(bytes).unwrap();
        let answer = read_frame(&mut stream).unwrap();
        assert_eq!(answer.len(), length);
        // Asked for 1 ms, given the least: two ticks.
        assert_eq!((&answer[4..8], &answer[16..20]), (&1000i32.to_be_bytes()[..], &16i32.to_be_bytes()[..]));
        assert_ne!(answer[8..16], [0; 8]);
    }
    // No more than the most.
    assert_eq!(Client::new(ensemble.port(0), i32::MAX).timeout_ms, LONG_MS);
}

#[test]
fn a_close_is_answered_each_time() {
    let ensemble = Ensemble::start(1, "");
    for i in 0..100 {
        let mut client = Client::new(ensemble.port(0), LONG_MS);
        client.create("/e", b"", EPHEMERAL).unwrap().unwrap();
        assert!(client.close().unwrap_or_else(|e| panic!("close {i}: {e}")));
        assert!(is_ended(&mut client.stream));
        assert!(client.resume(ensemble.port(0)).is_err());
    }
}

#[test]
fn requests_take_effect_in_their_order() {
    let ensemble = Ensemble::start(3, "");
    for server in [ensemble.leader(), ensemble.follower()] {
        let mut client = Client::new(ensemble.port(server), LONG_MS);
        for path in ["/a", "/b"] {
            let _ = client.create(path, b"", 0).unwrap();
        }
        for i in 0..30 {
            let (old, new) = (format!("{i} old").into_bytes(), format!("{i} new").into_bytes());
            client.set("/a", &old).unwrap().unwrap();
            // The read stands between two writes that go to the log together.
            let read = |path: &str| (op::GET_DATA, path_body(path, false));
            let write = |path: &str, data: &[u8]| (op::SET_DATA, set_body(path, data));
            let made = (op::CREATE, create_body("/e", b"", EPHEMERAL));
            client
                .send_all(&[
                    write("/b", b"x"),
                    read("/a"),
                    write("/a", &new),
                    read("/a"),
                    read("/e"),
                    made,
                    (op::EXISTS, path_body("/e", false)),
                ])
                .unwrap();
            let replies: Vec<_> = (0..7).map(|_| client.receive().unwrap()).collect();
            assert!(replies.windows(2).all(|w| w[0].xid + 1 == w[1].xid && w[0].zxid <= w[1].zxid));
            assert_eq!(replies[1].body[4..4 + old.len()], old, "a read saw the write behind it");
            assert_eq!(replies[3].body[4..4 + new.len()], new);
            assert_eq!((replies[4].err, replies[5].err, replies[6].err), (NO_NODE, 0, 0));
            client.delete("/e").unwrap().unwrap();
        }
        // What comes before a close is done before it.
        client.create("/mine", b"mine", EPHEMERAL).unwrap().unwrap();
        client.send_all(&[(op::SET_DATA, set_body("/b", b"y")), (op::GET_DATA, path_body("/mine", false)), (op::CLOSE, vec![])]).unwrap();
        assert_eq!([0; 3].map(|_| client.receive().unwrap().err), [0; 3]);
    }
}

#[test]
fn a_thousand_requests_under_way_are_answered_in_order() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    let all: Vec<_> = (0..2000)
        .map(|i| match i % 5 {
            0 => (op::EXISTS, path_body(&format!("/n{}", i - 1), false)),
            1 => (op::GET_CHILDREN, path_body("/none", false)),
            2 => (op::PING, vec![]),
            _ => (op::CREATE, create_body(&format!("/n{i}"), b"data", 0)),
        })
        .collect();
    client.send_all(&all).unwrap();
    for i in 0..2000 {
        // The client sees to it that no zxid is lower than one before.
        let reply = client.receive().unwrap();
        let xid = if i % 5 == 2 { -2 } else { i + 1 };
        assert_eq!((reply.xid, reply.err), (xid, if i == 0 || i % 5 == 1 { NO_NODE } else { 0 }));
    }
}

#[test]
fn requests_of_a_client_that_left_are_not_outstanding() {
    let ensemble = Ensemble::start(1, "");
    let server = &ensemble.servers[0];
    for _ in 0..5 {
        let mut client = Client::new(server.port, LONG_MS);
        let all: Vec<_> = (0..500).map(|i| (op::SET_DATA, set_body("/none", &[i as u8; 100]))).collect();
        client.send_all(&all).unwrap();
        hang_up(&client.stream);
    }
    eventually("nothing is outstanding", || (server.measured("outstanding_requests")? == "0").then_some(()));
    eventually("nobody is connected", || (server.measured("num_alive_connections")? == "0").then_some(()));
}

#[test]
fn a_server_that_is_behind_does_not_take_a_client_back_in_time() {
    let ensemble = Ensemble::start(3, "");
    let (leader, follower) = (ensemble.leader(), ensemble.follower());
    let mut writer = Client::new(ensemble.port(leader), LONG_MS);
    writer.create("/n", b"", 0).unwrap().unwrap();
    for i in 1..=100 {
        assert_eq!(writer.set("/n", b"x").unwrap().unwrap().version, i);
        // Comes to the other server with what it has seen: the client checks each zxid, and the version says it too.
        writer = writer.resume(ensemble.port(if i % 2 == 1 { follower } else { leader })).unwrap();
        assert_eq!(writer.exists("/n", false).unwrap().unwrap().version, i);
    }
    // A zxid from the future is refused, not believed.
    writer.zxid += 1 << 40;
    assert!(writer.resume(ensemble.port(follower)).is_err());
}

#[test]
fn a_session_lists_its_ephemerals_by_what_their_paths_begin_with() {
    let ensemble = Ensemble::start(1, "");
    let (mut mine, mut other) = (Client::new(ensemble.port(0), LONG_MS), Client::new(ensemble.port(0), LONG_MS));
    mine.create("/a", b"", 0).unwrap().unwrap();
    for path in ["/b", "/a/y", "/ab", "/a/x"] {
        mine.create(path, b"", EPHEMERAL).unwrap().unwrap();
    }
    other.create("/a/z", b"", EPHEMERAL).unwrap().unwrap();
    let all = ["/a/x", "/a/y", "/ab", "/b"];
    for (prefix, want) in [
        ("", &all[..]),
        ("/", &all),
        (" ", &all),
        ("/a", &all[..3]),
        ("/a/", &all[..2]),
        ("/ab", &all[2..3]),
        ("/b/", &[]),
        ("a", &[]),
        ("~", &[]),
    ] {
        assert_eq!(mine.ephemerals(prefix).unwrap().unwrap(), want, "{prefix:?}");
    }
}
