//! Between a server and its leader a proposal comes late, or its answer is lost: that holds up nothing else, and what was given up does not
//! happen after what came later.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use common::{DEADLINE, Ensemble, LONG_MS, client::Client, eventually, free_port};

/// How long the parts of a handshake are, without a secret.
const HELLO_BYTES: usize = 61;
const REPLY_BYTES: usize = 46;

/// What is done to the first frame with these bytes in it.
enum Trouble {
    /// the answer to it is lost
    LoseAnswer(&'static [u8]),
    /// it and what follows on its connection waits
    Stall(&'static [u8]),
}

#[derive(Default)]
struct Rules {
    trouble: Option<Trouble>,
    /// that happened
    happened: bool,
    released: bool,
}

type Shared = Arc<(Mutex<Rules>, Condvar)>;

fn forward(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut part = vec![0; bytes];
    from.read_exact(&mut part)?;
    to.write_all(&part)
}

/// The next frame, and its number.
fn frame(from: &mut TcpStream) -> io::Result<(u64, Vec<u8>)> {
    let mut bytes = vec![0; 12];
    from.read_exact(&mut bytes)?;
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let number = u64::from_be_bytes(bytes[4..].try_into().unwrap());
    bytes.resize(12 + length, 0);
    from.read_exact(&mut bytes[12..])?;
    Ok((number, bytes))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// What a server asks of another goes through here.
fn relay(near: TcpStream, target: u16, shared: &Shared) -> io::Result<()> {
    let far = TcpStream::connect(("127.0.0.1", target))?;
    let lost = Arc::new(Mutex::new(None));
    let (mut asks_from, mut asks_to) = (near.try_clone()?, far.try_clone()?);
    let (mut answers_from, mut answers_to) = (far, near);
    let (its_lost, shared) = (lost.clone(), shared.clone());
    std::thread::spawn(move || -> io::Result<()> {
        forward(&mut asks_from, &mut asks_to, HELLO_BYTES)?;
        loop {
            let (number, bytes) = frame(&mut asks_from)?;
            let mut rules = shared.0.lock().unwrap();
            match rules.trouble {
                Some(Trouble::LoseAnswer(part)) if contains(&bytes, part) => {
                    *its_lost.lock().unwrap() = Some(number);
                    rules.trouble = None;
                }
                Some(Trouble::Stall(part)) if contains(&bytes, part) => {
                    rules.trouble = None;
                    rules.happened = true;
                    while !rules.released {
                        rules = shared.1.wait(rules).unwrap();
                    }
                }
                _ => {}
            }
            drop(rules);
            asks_to.write_all(&bytes)?;
        }
    });
    forward(&mut answers_from, &mut answers_to, REPLY_BYTES)?;
    loop {
        let (number, bytes) = frame(&mut answers_from)?;
        if lost.lock().unwrap().take_if(|n| *n == number).is_none() {
            answers_to.write_all(&bytes)?;
        }
    }
}

/// Three servers, and one of them, which does not lead, asks the others through a relay.
fn behind_a_relay() -> (Ensemble, usize, Shared) {
    let mut ensemble = Ensemble::start(3, "");
    let shared = Shared::default();
    let behind = ensemble.follower();
    ensemble.servers[behind].kill();
    let file = ensemble.servers[behind].dir.join("zoo.cfg");
    let mut text = fs::read_to_string(&file).unwrap();
    for server in ensemble.servers.iter().enumerate().filter(|(i, _)| *i != behind).map(|(_, s)| s) {
        let (target, port) = (server.peer_port, free_port());
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        text = text.replace(&format!("=127.0.0.1:{target}:1"), &format!("=127.0.0.1:{port}:1"));
        let shared = shared.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || relay(near, target, &shared));
            }
        });
    }
    fs::write(file, text).unwrap();
    ensemble.servers[behind].start();
    assert_ne!(ensemble.leader(), behind);
    (ensemble, behind, shared)
}

#[test]
fn a_lost_answer_of_the_leader_holds_up_nobody() {
    let (ensemble, behind, shared) = behind_a_relay();
    let mut client = Client::new(ensemble.port(behind), LONG_MS);
    let mut other = Client::new(ensemble.port(behind), LONG_MS);
    client.create("/n", b"", 0).unwrap().unwrap();
    other.create("/o", b"", 0).unwrap().unwrap();
    shared.0.lock().unwrap().trouble = Some(Trouble::LoseAnswer(b"whose answer is lost"));
    let longest = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let (mut longest, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(5));
            while Instant::now() < until {
                let began = Instant::now();
                other.set("/o", b"x").unwrap().unwrap();
                longest = longest.max(began.elapsed());
            }
            longest
        });
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        let stat = client.set("/n", b"whose answer is lost").unwrap().unwrap();
        assert_eq!(stat.version, 1, "it happened once");
        let own = began.elapsed();
        others.join().unwrap().max(own)
    });
    assert!(shared.0.lock().unwrap().trouble.is_none(), "no answer was lost");
    println!("the longest wait was {longest:?}");
    // A proposal is given up after 10 s.
    assert!(longest < Duration::from_secs(4), "{longest:?}");
    assert_eq!(client.get("/n", false).unwrap().unwrap().1.version, 1);
}

#[test]
fn a_write_that_was_given_up_does_not_happen_after_those_of_the_next_connection() {
    let (ensemble, behind, shared) = behind_a_relay();
    let mut client = Client::new(ensemble.port(behind), LONG_MS);
    client.create("/n", b"", 0).unwrap().unwrap();
    shared.0.lock().unwrap().trouble = Some(Trouble::Stall(b"the first"));
    assert!(client.set("/n", b"the first").is_err(), "it is answered");
    assert!(shared.0.lock().unwrap().happened);
    // The client comes back to the same server, whose next connection to the leader is well.
    let mut client = eventually("the client is back", || client.resume(ensemble.port(behind)).ok());
    client.set("/n", b"the second").unwrap().unwrap();
    shared.0.lock().unwrap().released = true;
    shared.1.notify_all();
    let deadline = Instant::now() + DEADLINE.min(Duration::from_secs(3));
    let mut version = 0;
    while Instant::now() < deadline {
        // Behind it in the leader's log.
        client.create("/m", b"", 0).unwrap().unwrap();
        client.delete("/m").unwrap().unwrap();
        let (data, stat) = client.get("/n", false).unwrap().unwrap();
        assert_eq!(data, b"the second", "what was given up happened after what came later");
        version = stat.version;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(version, 1);
}
