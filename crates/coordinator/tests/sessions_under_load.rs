//! While servers have more to do than they can: sessions whose clients are heard live on, and those whose clients are gone end in time.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use common::{
    Ensemble, LONG_MS,
    client::{Client, EPHEMERAL, set_body},
    hang_up,
};
use septet_coordinator::protocol::op;

const TIMEOUT: Duration = Duration::from_millis(2000);
/// A client of ZooKeeper is heard each third of its timeout.
const PAUSE: Duration = Duration::from_millis(600);
/// Clients of each server whose sessions live, and in each wave those that are gone.
const LIVE: usize = 60;
const GONE: usize = 20;
const WAVES: usize = 3;
/// How much later than its time a session may end: all of these servers, their clients and what else is tested share a machine.
const LATE: Duration = Duration::from_secs(4);

fn with_ephemeral(port: u16, path: &str) -> Client {
    let mut client = Client::new(port, TIMEOUT.as_millis() as i32);
    client.create(path, b"", EPHEMERAL).unwrap().unwrap();
    client
}

/// Writes as much as a server takes, until it is to stop; how many writes were done.
fn load(port: u16, path: &str, stop: &AtomicBool) -> u64 {
    let mut client = Client::new(port, LONG_MS);
    client.create(path, b"", 0).unwrap().unwrap();
    let (body, mut under_way, mut done) = (set_body(path, &[7; 4000]), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        client.send_all(&vec![(op::SET_DATA, body.clone()); 100]).unwrap();
        under_way += 100;
        while under_way > 400 {
            assert_eq!(client.receive().unwrap().err, 0);
            (under_way, done) = (under_way - 1, done + 1);
        }
    }
    done
}

/// Keeps sessions alive until it is to stop: the longest pause between two signs of life.
fn keep_alive(clients: &mut [Client], stop: &AtomicBool) -> Result<Duration, String> {
    let (mut before, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        longest = longest.max(now - before);
        before = now;
        for (i, client) in clients.iter_mut().enumerate() {
            client.ping().map_err(|e| format!("client {i} after pauses of {longest:?} at the most: {e}"))?;
        }
        std::thread::sleep(PAUSE.saturating_sub(now.elapsed()));
    }
    Ok(longest)
}

#[test]
fn the_living_stay_and_the_dead_go() {
    let ensemble = Ensemble::start(3, "maxClientCnxns=0");
    let mut live: Vec<Vec<Client>> =
        (0..3).map(|i| (0..LIVE).map(|k| with_ephemeral(ensemble.port(i), &format!("/live-{i}-{k}"))).collect()).collect();
    let (stop, stop_load, writes) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let ended: Vec<Duration> = std::thread::scope(|scope| {
        let kept: Vec<_> = live.iter_mut().map(|clients| scope.spawn(|| keep_alive(clients, &stop))).collect();
        for i in 0..3 {
            let (ensemble, writes, stop_load) = (&ensemble, &writes, &stop_load);
            scope.spawn(move || writes.fetch_add(load(ensemble.port(i), &format!("/load-{i}"), stop_load), Ordering::Relaxed));
        }
        let ensemble = &ensemble;
        let waves = || {
            let mut ended = Vec::new();
            for wave in 0..WAVES {
                // Of each: when it was heard last, at the earliest.
                let leave = move |k: usize| {
                    let path = format!("gone-{wave}-{k}");
                    let client = with_ephemeral(ensemble.port(k % 3), &format!("/{path}"));
                    let heard = Instant::now();
                    hang_up(&client.stream);
                    (path, heard)
                };
                let mut looks = Client::new(ensemble.port(wave % 3), LONG_MS);
                let leaving: Vec<_> = (0..3 * GONE).map(|k| scope.spawn(move || leave(k))).collect();
                let mut gone: Vec<(String, Instant)> = leaving.into_iter().map(|t| t.join().unwrap()).collect();
                // This server may be behind those that were asked.
                looks.sync().unwrap().unwrap();
                let deadline = Instant::now() + TIMEOUT + 3 * LATE;
                while !gone.is_empty() && Instant::now() < deadline {
                    let there = looks.children("/", false).unwrap().unwrap();
                    gone.retain(|(path, heard)| {
                        let there = there.contains(path);
                        if !there {
                            ended.push(heard.elapsed());
                        }
                        there
                    });
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert!(gone.is_empty(), "{} sessions of clients that are gone live on", gone.len());
            }
            ended
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(waves));
        stop_load.store(true, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
        for (i, kept) in kept.into_iter().enumerate() {
            let longest = kept.join().unwrap().unwrap_or_else(|e| panic!("server {}: {e}", i + 1));
            println!("signs of life to server {} were {longest:?} apart at the most", i + 1);
        }
        ended.unwrap_or_else(|e| std::panic::resume_unwind(e))
    });
    let (first, last) = (ended.iter().min().unwrap(), ended.iter().max().unwrap());
    println!("{} writes; sessions of {TIMEOUT:?} ended after {first:?} to {last:?}", writes.load(Ordering::Relaxed));
    assert!(writes.load(Ordering::Relaxed) > 2000, "hardly any load");
    // What a client asked last was heard a moment before it was answered.
    assert!(*first > TIMEOUT - Duration::from_millis(500) && *last < TIMEOUT + LATE, "{first:?} to {last:?}");
    for client in live.iter_mut().flatten() {
        client.ping().unwrap();
    }
    let mut looks = Client::new(ensemble.port(0), LONG_MS);
    looks.sync().unwrap().unwrap();
    let there = looks.children("/", false).unwrap().unwrap();
    let mine = |kind: &str| there.iter().filter(|name| name.starts_with(kind)).count();
    assert_eq!((mine("live-"), mine("gone-")), (3 * LIVE, 0));
}
