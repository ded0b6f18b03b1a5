//! A deterministic simulation of brokers, controllers and the coordinators' znodes around the pure cores.
//!
//! A seed gives everything. `SEPTET_SEED=n cargo test -p septet-broker --test simulation one_seed -- --nocapture` prints the whole
//! trace of one, with a planted bug if `SEPTET_BUG` names one.
#![allow(clippy::unwrap_used, missing_docs)]

mod broker;
mod bugs;
mod clients;
mod controller;
mod ctx;
mod facts;
mod faults;
mod invariants;
mod log;
mod message;
mod network;
mod replica;
mod rng;
mod trace;
mod world;
mod znodes;

use std::{collections::BTreeMap, time::Instant};

use bugs::Bug;
use world::World;

#[test]
fn seeds_keep_all_invariants() {
    let mut failed = None;
    let (begin, mut steps, mut faults, mut sums) = (Instant::now(), 0, BTreeMap::new(), [0u64; 5]);
    let seeds: u64 = std::env::var("SEPTET_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1000);
    for seed in 0..seeds {
        let outcome = World::run(seed, None, false);
        if let Some(violation) = outcome.violation {
            eprintln!("seed {seed}: {violation}");
            failed.get_or_insert((seed, outcome.tail));
            continue;
        }
        steps += outcome.steps;
        for (kind, n) in outcome.faults {
            *faults.entry(kind).or_insert(0) += n;
        }
        let (lost, reordered) = outcome.messages;
        for (sum, n) in sums.iter_mut().zip([outcome.acknowledged, outcome.expired, lost, reordered, outcome.excused]) {
            *sum += n;
        }
    }
    if let Some((seed, tail)) = failed {
        panic!("the last steps of seed {seed}:\n{tail}\nSEPTET_SEED={seed} prints all of them");
    }
    let [acknowledged, expired, lost, reordered, excused] = sums;
    println!("{seeds} seeds, {steps} steps in {:.1?}; {acknowledged} records acknowledged with acks=all", begin.elapsed());
    println!("faults: {faults:?}; sessions expired: {expired}; messages lost: {lost}, reordered: {reordered}");
    println!("elections of the only replica left after a power cut: {excused}");
    assert!(acknowledged > seeds * 20, "producers hardly got anything acknowledged");
}

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("SEPTET_SEED").ok().and_then(|s| s.parse().ok()) else {
        return;
    };
    let bug = std::env::var("SEPTET_BUG").ok().map(|name| *Bug::ALL.iter().find(|b| format!("{b:?}") == name).unwrap());
    let outcome = World::run(seed, bug, true);
    assert_eq!(outcome.violation, None);
}

/// For each planted bug, the first seed that finds it: `SEPTET_SURVEY=n` looks through n seeds.
#[test]
fn survey() {
    let Some(seeds) = std::env::var("SEPTET_SURVEY").ok().and_then(|s| s.parse().ok()) else {
        return;
    };
    for bug in Bug::ALL {
        let found: Vec<(u64, String)> =
            (0..seeds).filter_map(|s| World::run(s, Some(*bug), false).violation.map(|v| (s, v))).take(3).collect();
        println!("{bug:?}: {found:?}");
    }
}
