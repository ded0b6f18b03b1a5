//! A deterministic simulation of an ensemble around the Raft core.
//!
//! A seed gives everything. `SEPTET_SEED=n cargo test -p septet-coordinator --test simulation one_seed -- --nocapture` prints the whole
//! trace of one, with a planted bug if `SEPTET_BUG` names one, with an operator if `SEPTET_EDITS` is set; `SEPTET_SEEDS=n` runs more seeds.
#![allow(clippy::unwrap_used, missing_docs)]

mod bugs;
mod clients;
mod disk;
mod driver;
mod facts;
mod faults;
mod invariants;
mod network;
mod operator;
mod planted;
mod rng;
mod server;
mod trace;
mod world;

use std::{collections::BTreeMap, time::Instant};

use bugs::Bug;
use world::{Outcome, World};

#[test]
fn seeds_keep_all_invariants() {
    keep_all_invariants(SEEDS, World::run);
}

#[test]
fn seeds_with_an_operator_keep_all_invariants() {
    keep_all_invariants(SEEDS, World::run_with_edits);
}

fn keep_all_invariants(seeds: u64, run: fn(u64, Option<Bug>, bool) -> Outcome) {
    let mut failed = None;
    let (begin, mut steps, mut faults, mut sums) = (Instant::now(), 0, BTreeMap::new(), [0u64; 7]);
    let seeds: u64 = std::env::var("SEPTET_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(seeds);
    for seed in 0..seeds {
        let outcome = run(seed, None, false);
        if let Some(violation) = outcome.violation {
            eprintln!("seed {seed}: {violation}");
            failed.get_or_insert(seed);
            continue;
        }
        steps += outcome.steps;
        for (kind, n) in outcome.faults {
            *faults.entry(kind).or_insert(0) += n;
        }
        let [lost, reordered, repeated] = outcome.messages;
        for (sum, n) in
            sums.iter_mut().zip([outcome.acknowledged, outcome.reads, outcome.terms, outcome.changes, lost, reordered, repeated])
        {
            *sum += n;
        }
    }
    assert_eq!(failed, None, "SEPTET_SEED=n one_seed prints the steps of a seed");
    let [acknowledged, reads, terms, changes, lost, reordered, repeated] = sums;
    println!("{seeds} seeds, {steps} steps in {:.1?}; {acknowledged} writes acknowledged, {reads} reads", begin.elapsed());
    println!("{terms} terms, {changes} changes of members; faults: {faults:?}");
    println!("messages lost: {lost}, reordered: {reordered}, repeated: {repeated}");
    assert!(acknowledged > seeds * 20 && reads > seeds * 20, "clients hardly got anything done");
}

/// Seeds of an ordinary run.
const SEEDS: u64 = 50;

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("SEPTET_SEED").ok().and_then(|s| s.parse().ok()) else {
        return;
    };
    let bug = std::env::var("SEPTET_BUG").ok().map(|name| *Bug::ALL.iter().find(|b| format!("{b:?}") == name).unwrap());
    let run = if std::env::var_os("SEPTET_EDITS").is_some() { World::run_with_edits } else { World::run };
    let outcome = run(seed, bug, true);
    assert_eq!(outcome.violation, None);
}

/// Hashes of the traces of some seeds, one with a planted bug.
fn hashes() -> Vec<u64> {
    let plain = (0..3).map(|seed| World::run(seed, None, false).hash);
    plain.chain([World::run(1, Some(Bug::CommitIsLast), false).hash]).collect()
}

#[test]
fn a_seed_has_the_same_trace_in_another_process() {
    let here = format!("hashes: {:?}", hashes());
    if std::env::var_os("SEPTET_HASHES").is_some() {
        println!("{here}");
        return;
    }
    let name = "a_seed_has_the_same_trace_in_another_process";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", name, "--nocapture"]).env("SEPTET_HASHES", "1").output().unwrap();
    let there = String::from_utf8(output.stdout).unwrap();
    assert!(there.contains(&here), "{here}\nin the other process: {there}");
    let all = hashes();
    assert!(all.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len(), "seeds do not differ");
}
