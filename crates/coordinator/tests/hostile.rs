//! Clients that are broken or mean: their connection ends, and the others are served as before.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::{
    Ensemble, LONG_MS, Server,
    client::{Client, create_body, frame, hello, path_body, read_frame},
    eventually, is_ended,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use septet_coordinator::protocol::{Offered, Request, decode, op};

/// A connection with a session, and what follows is up to the caller.
fn connected(server: &Server) -> TcpStream {
    let mut stream = server.raw().unwrap();
    stream.write_all(&hello(0, LONG_MS, 0, &[0; 16])).unwrap();
    read_frame(&mut stream).unwrap();
    stream
}

fn request(xid: i32, op: i32, body: &[u8]) -> Vec<u8> {
    frame(&[&xid.to_be_bytes()[..], &op.to_be_bytes(), body].concat())
}

#[test]
fn lengths_that_cannot_be_end_the_connection() {
    let mut ensemble = Ensemble::start(1, "jute.maxbuffer=10000");
    let mut good = Client::new(ensemble.port(0), LONG_MS);
    good.create("/x", b"", 0).unwrap().unwrap();
    let server = &ensemble.servers[0];
    for length in [0, 1, 27, 1025, 0x0100_0000, i32::MAX, -1, i32::MIN] {
        let mut stream = server.raw().unwrap();
        let _ = stream.write_all(&[&length.to_be_bytes()[..], &[0; 2000]].concat());
        assert!(is_ended(&mut stream), "a first record of {length}");
    }
    for length in [0, 7, 10_001, i32::MAX, -1, i32::MIN] {
        let mut stream = connected(server);
        stream.write_all(&length.to_be_bytes()).unwrap();
        assert!(is_ended(&mut stream), "a request of {length}");
        good.ping().unwrap();
    }
    // The largest that may be is taken.
    let mut stream = connected(server);
    let rest = 8 + create_body("/large", b"", 0).len();
    let body = create_body("/large", &vec![1; 10_000 - rest], 0);
    stream.write_all(&request(1, op::CREATE, &body)).unwrap();
    assert_eq!(read_frame(&mut stream).unwrap()[12..16], [0; 4]);
    assert!(ensemble.servers[0].peak_mib() < 200);
    assert!(ensemble.servers[0].is_running());
}

#[test]
fn half_frames_keep_nobody_waiting() {
    let ensemble = Ensemble::start(1, "minSessionTimeout=500");
    let server = &ensemble.servers[0];
    let hello = hello(0, 500, 0, &[0; 16]);
    let mut held = Vec::new();
    for cut in [0, 1, 3, 4, 5, 20, hello.len() - 1] {
        let mut stream = server.raw().unwrap();
        stream.write_all(&hello[..cut]).unwrap();
        held.push(stream);
    }
    let half = request(1, op::GET_DATA, &path_body("/", false));
    let mut late = Vec::new();
    for cut in [1, 4, 6, 12, half.len() - 1] {
        let mut stream = server.raw().unwrap();
        stream.write_all(&hello).unwrap();
        read_frame(&mut stream).unwrap();
        stream.write_all(&half[..cut]).unwrap();
        late.push(stream);
    }
    let mut good = Client::new(server.port, LONG_MS);
    for i in 0..100 {
        good.create(&format!("/{i}"), b"", 0).unwrap().unwrap();
    }
    // What came late is not waited for longer than the session lasts.
    assert!(late.iter_mut().all(is_ended));
    good.ping().unwrap();
}

#[test]
fn garbage_of_any_kind() {
    let mut ensemble = Ensemble::start(1, "maxClientCnxns=0");
    let mut good = Client::new(ensemble.port(0), LONG_MS);
    let server = &ensemble.servers[0];
    let codes = prop_oneof![-12..30i32, 100..107i32, any::<i32>()];
    let bytes = || prop::collection::vec(any::<u8>(), 0..120);
    let mut runner = TestRunner::deterministic();
    let strategy = (bytes(), prop::collection::vec((codes, bytes()), 1..20));
    for i in 0..100 {
        let (first, requests) = strategy.new_tree(&mut runner).unwrap().current();
        let mut stream = server.raw().unwrap();
        let _ = stream.write_all(&first);
        drop(stream);
        // Framed garbage is answered, with whatever; so a ping behind it is too, unless the answer ends the connection, as
        // ZooKeeper's does to what it does not know and to wrong credentials.
        let mut stream = connected(server);
        let all: Vec<u8> =
            requests.iter().flat_map(|(code, body)| request(1, *code, body)).chain(request(77, op::SYNC, &[0, 0, 0, 0])).collect();
        let _ = stream.write_all(&all);
        let ends = |(code, body): &(i32, Vec<u8>)| {
            let whole = [&[0; 4][..], &code.to_be_bytes(), body].concat();
            matches!(decode(&whole, Offered::default()).unwrap().1, Request::Close | Request::Unknown | Request::Auth { .. })
        };
        let closes = requests.iter().any(ends);
        loop {
            match read_frame(&mut stream) {
                Ok(reply) if reply[..4] == 77i32.to_be_bytes() => break,
                Ok(_) => {}
                Err(e) => {
                    assert!(closes, "round {i}: {e}");
                    break;
                }
            }
        }
        good.ping().unwrap();
    }
    assert!(ensemble.servers[0].is_running());
}

#[test]
fn a_client_that_never_reads_is_dropped_and_costs_little() {
    let ensemble = Ensemble::start(1, "");
    let server = &ensemble.servers[0];
    let mut good = Client::new(server.port, LONG_MS);
    good.create("/big", &vec![7; 900_000], 0).unwrap().unwrap();
    let mut mean = connected(server);
    mean.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask = request(1, op::GET_DATA, &path_body("/big", false)).repeat(100);
    // Answers of nearly 10 GB, if they were all made.
    for _ in 0..100 {
        if mean.write_all(&ask).is_err() {
            break;
        }
        good.ping().unwrap();
    }
    // Watch events, too, are for those who read.
    eventually("it is dropped", || {
        good.set("/big", &[1; 1000]).unwrap().unwrap();
        let all = server.ask("stat").unwrap();
        (all.lines().filter(|l| l.contains("[1]")).count() == 1).then_some(())
    });
    assert!(server.peak_mib() < 200, "{} MiB", server.peak_mib());
    // When it reads at last, it gets what was under way, and then the end.
    mean.set_read_timeout(Some(common::DEADLINE)).unwrap();
    let mut got = Vec::new();
    let _ = mean.read_to_end(&mut got);
    assert!(got.len() < 64 << 20);
    assert!(good.resume(server.port).is_ok());
}

#[test]
fn connections_per_address_are_limited_from_the_first_byte_on() {
    let ensemble = Ensemble::start(1, "maxClientCnxns=4");
    let server = &ensemble.servers[0];
    // The words that were asked at the start are gone by now, or soon.
    let mut held = Vec::new();
    eventually("four connections", || {
        let mut client = connected_now(server)?;
        client.set_nonblocking(true).unwrap();
        let is_open = matches!(client.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        if is_open {
            held.push(client);
        }
        (held.len() == 2).then_some(())
    });
    // Two that say nothing count as well.
    let silent: Vec<_> = (0..2).map(|_| server.raw().unwrap()).collect();
    for _ in 0..20 {
        let mut more = server.raw().unwrap();
        let _ = more.write_all(&hello(0, LONG_MS, 0, &[0; 16]));
        assert!(is_ended(&mut more) && read_frame(&mut more).is_err());
    }
    for client in &mut held {
        client.write_all(&request(5, op::PING, &[])).unwrap();
        assert_eq!(read_frame(client).unwrap()[..4], (-2i32).to_be_bytes());
    }
    drop(silent);
    eventually("room again", || connected_now(server));
}

/// A session, unless the server has no room.
fn connected_now(server: &Server) -> Option<TcpStream> {
    let mut stream = server.raw().ok()?;
    stream.write_all(&hello(0, LONG_MS, 0, &[0; 16])).ok()?;
    read_frame(&mut stream).ok()?;
    Some(stream)
}
