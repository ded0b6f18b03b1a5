//! Registers, written and read by several clients while servers are stopped, killed and started again: their histories
//! are linearizable. `SEPTET_SEED=n` gives another run of faults.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod checker;

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use checker::{Action, Operation, State, Swapped, check};
use common::{Ensemble, LONG_MS, Server, client::Client, eventually};
use septet_coordinator::{jute::Writer, protocol::op};

const REGISTERS: usize = 6;
const CLIENTS: u64 = 5;
const BAD_VERSION: i32 = -103;
/// Time with faults.
const TROUBLE: Duration = Duration::from_secs(14);
/// A client that has no answer by then looks for another server.
const PATIENCE: Duration = Duration::from_millis(1500);

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

fn path(register: usize) -> String {
    format!("/r{register}")
}

fn number(data: &[u8]) -> u64 {
    u64::from_be_bytes(data.try_into().unwrap())
}

/// Sets a register's data, if it has this version (-1: whatever it has); the new version or a code.
fn set(client: &mut Client, register: usize, value: u64, version: i32) -> io::Result<Result<i32, i32>> {
    let mut w = Writer::default();
    w.string(&path(register)).buffer(&value.to_be_bytes()).int(version);
    let reply = client.call(op::SET_DATA, &w.0)?;
    if reply.err != 0 {
        return Ok(Err(reply.err));
    }
    // The sixth field of a stat, behind four longs.
    Ok(Ok(i32::from_be_bytes(reply.body[32..36].try_into().unwrap())))
}

/// Syncs and reads: what is shown is at least as new as what anybody was told before.
fn read(client: &mut Client, register: usize) -> io::Result<State> {
    client.sync()?.unwrap();
    let (data, stat) = client.get(&path(register), false)?.unwrap();
    Ok(State { value: number(&data), version: stat.version })
}

/// One operation of a client; what is not answered has no end.
fn operate(client: &mut Client, register: usize, value: u64, known: i32, rng: &mut Rng, begin: Instant) -> (Option<Operation>, bool) {
    let now = || begin.elapsed().as_nanos() as u64;
    let called = now();
    let (action, lost) = match rng.below(10) {
        0..5 => match read(client, register) {
            Ok(state) => (Some(Action::Read(state)), false),
            Err(_) => (None, true),
        },
        5..8 => match set(client, register, value, -1) {
            Ok(got) => (Some(Action::Write { value, got: Some(got.unwrap()) }), false),
            Err(_) => (Some(Action::Write { value, got: None }), true),
        },
        _ => {
            let swap = |got| Some(Action::Swap { expected: known, value, got });
            match set(client, register, value, known) {
                Ok(Ok(version)) => (swap(Some(Swapped::Done(version))), false),
                Ok(Err(code)) => {
                    assert_eq!(code, BAD_VERSION);
                    (swap(Some(Swapped::BadVersion)), false)
                }
                Err(_) => (swap(None), true),
            }
        }
    };
    let answered = (!lost).then(now);
    (action.map(|action| Operation { called, answered, action }), lost)
}

/// A client's part of each register's history.
fn work(ports: &[u16], me: u64, seed: u64, values: &AtomicU64, stop: &AtomicBool, begin: Instant) -> Vec<(usize, Operation)> {
    let mut rng = Rng(seed ^ me.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let mut client = Client::new(ports[me as usize % ports.len()], LONG_MS);
    let mut known = [0; REGISTERS];
    let mut done = Vec::new();
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while !stop.load(Ordering::SeqCst) {
        let register = rng.below(REGISTERS as u64) as usize;
        let value = values.fetch_add(1, Ordering::SeqCst);
        let (operation, lost) = operate(&mut client, register, value, known[register], &mut rng, begin);
        if let Some(operation) = operation {
            if let Action::Read(State { version, .. }) = operation.action {
                known[register] = version;
            }
            done.push((register, operation));
        }
        if lost {
            let next = loop {
                if stop.load(Ordering::SeqCst) {
                    return done;
                }
                match client.resume(ports[rng.below(ports.len() as u64) as usize]) {
                    Ok(next) => break next,
                    Err(_) => std::thread::sleep(Duration::from_millis(30)),
                }
            };
            client = next;
            client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        std::thread::sleep(rng.ms(1, 8));
    }
    done
}

/// One fault after the other; each is over when the next begins.
fn trouble(ensemble: &mut Ensemble, rng: &mut Rng) -> usize {
    let end = Instant::now() + TROUBLE;
    let mut faults = 0;
    while Instant::now() < end {
        std::thread::sleep(rng.ms(200, 900));
        let leader = ensemble.servers.iter().position(|s| common::mode(s).as_deref() == Some("leader"));
        let any = rng.below(3) as usize;
        let victim = leader.filter(|_| any != 0).unwrap_or(any);
        let lasts = rng.ms(100, 2500);
        let server = &mut ensemble.servers[victim];
        match rng.below(8) {
            0..3 => {
                server.signal("STOP");
                std::thread::sleep(lasts);
                server.signal("CONT");
            }
            3..5 => {
                server.kill();
                std::thread::sleep(lasts / 2);
                server.start();
            }
            5 => {
                server.terminate();
                server.start();
            }
            6 => {
                // Stopped while another is killed: nobody has a majority, and the one that comes back was asleep.
                server.signal("STOP");
                let other = &mut ensemble.servers[(victim + 1) % 3];
                other.kill();
                std::thread::sleep(lasts / 2);
                other.start();
                ensemble.servers[victim].signal("CONT");
            }
            _ => {
                ensemble.servers.iter_mut().for_each(Server::kill);
                ensemble.servers.iter_mut().for_each(Server::start);
            }
        }
        faults += 1;
    }
    faults
}

/// An old value in the place of what a read showed: the newest that was overwritten for certain before the read began.
fn stale(history: &[Operation]) -> Option<Vec<Operation>> {
    let written = |o: &Operation| match o.action {
        Action::Write { value, got: Some(version) } => Some((o.answered?, State { value, version })),
        _ => None,
    };
    let mut bad = history.to_vec();
    for read in bad.iter_mut().rev().filter(|o| matches!(o.action, Action::Read(_))) {
        let mut before: Vec<State> = history.iter().filter_map(written).filter(|(at, _)| *at < read.called).map(|(_, s)| s).collect();
        before.sort_by_key(|s| s.version);
        if let [.., old, _] = before[..] {
            read.action = Action::Read(old);
            return Some(bad);
        }
    }
    None
}

#[test]
fn registers_are_linearizable_through_faults() {
    let seed = std::env::var("SEPTET_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    let mut rng = Rng(seed);
    let mut ensemble = Ensemble::start(3, "snapCount=500");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    for register in 0..REGISTERS {
        client.create(&path(register), &0u64.to_be_bytes(), 0).unwrap().unwrap();
    }
    let ports: Vec<u16> = ensemble.servers.iter().map(|s| s.port).collect();
    let (values, stop, begin) = (AtomicU64::new(1), AtomicBool::new(false), Instant::now());
    let mut all = Vec::new();
    let mut faults = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|me| {
                let (ports, values, stop) = (&ports, &values, &stop);
                scope.spawn(move || work(ports, me, seed, values, stop, begin))
            })
            .collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            faults = trouble(&mut ensemble, &mut rng);
            ensemble.leader();
        }));
        stop.store(true, Ordering::SeqCst);
        all.extend(clients.into_iter().flat_map(|c| c.join().unwrap()));
        result.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    // In the end each server shows the same.
    for port in ports {
        let mut client = Client::new(port, LONG_MS);
        for register in 0..REGISTERS {
            let called = begin.elapsed().as_nanos() as u64;
            let state = eventually("a read", || read(&mut client, register).ok());
            all.push((register, Operation { called, answered: Some(begin.elapsed().as_nanos() as u64), action: Action::Read(state) }));
        }
    }
    let unknown = all.iter().filter(|(_, o)| o.answered.is_none()).count();
    println!("seed {seed}: {} operations, {unknown} of unknown outcome, {faults} faults", all.len());
    assert!(all.len() > 300 && faults >= 3, "{} operations, {faults} faults: hardly anything was tested", all.len());
    let first = State { value: 0, version: 0 };
    let mut found = 0;
    for register in 0..REGISTERS {
        let history: Vec<Operation> = all.iter().filter(|(r, _)| *r == register).map(|(_, o)| *o).collect();
        if let Err(e) = check(first, &history) {
            panic!("register {register} with seed {seed}: no order fits: {e}");
        }
        // The checker is no good if it lets an old value pass.
        if let Some(bad) = stale(&history) {
            assert!(check(first, &bad).is_err(), "register {register} with seed {seed}: a stale read was not found");
            found += 1;
        }
    }
    assert!(found > 0);
}
