//! Each planted bug with the seed that finds it and the invariant that it breaks there.

use crate::{
    bugs::Bug,
    world::{Outcome, World},
};

/// Bug, seed, invariant.
const FOUND: &[(Bug, u64, &str)] = &[
    (Bug::VoteForgotten, 1949, "votes"),
    (Bug::HardStateNotWritten, 0, "votes"),
    (Bug::ReportedBeforeSync, 0, "votes"),
    (Bug::TruncationSkipped, 0, "durability"),
    (Bug::AcknowledgedBeforeSync, 0, "durability"),
    (Bug::AcknowledgedUnverified, 14, "durability"),
    (Bug::CommitIsLast, 0, "durability"),
    (Bug::RestartCommitsLog, 1, "durability"),
    (Bug::StaleTermAccepted, 599, "progress"),
    (Bug::PreviousNotCompared, 0, "log matching"),
    (Bug::LogsNotCompared, 1, "leader completeness"),
    (Bug::PreVoteTakenForVote, 21, "election safety"),
    (Bug::RefusalTakenForVote, 0, "election safety"),
    (Bug::ReadWithoutRound, 4, "reads"),
    (Bug::ReadBeforeApplied, 15, "reads"),
    (Bug::FollowerReads, 0, "reads"),
    (Bug::UncommittedApplied, 0, "durability"),
    (Bug::AcknowledgedOnAppend, 0, "state machine safety"),
    (Bug::AcknowledgedByIndex, 2, "state machine safety"),
    (Bug::BlankVotes, 543, "leader completeness"),
    (Bug::PurgedBeforeSnapshot, 12, "progress"),
    (Bug::SnapshotStateLost, 0, "state machine safety"),
    (Bug::SnapshotMembershipLost, 3, "configuration"),
    (Bug::SnapshotNamedTooHigh, 0, "state machine safety"),
    (Bug::AppliedTwice, 0, "state machine safety"),
];

/// The same, where an operator changes the ensemble.
const FOUND_WITH_EDITS: &[(Bug, u64, &str)] = &[(Bug::LeaderDecidesAlone, 1, "agreement"), (Bug::MembershipForgotten, 1, "configuration")];

/// No seed that was tried finds these (2,500 of each): other rules may catch what they let through.
const CAUGHT_OTHERWISE: &[Bug] = &[Bug::EntriesOfAnotherLog, Bug::InstallNotRepaired, Bug::StaleSnapshotAccepted];

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let found = FOUND.iter().chain(FOUND_WITH_EDITS).any(|(b, ..)| b == bug);
        assert!(CAUGHT_OTHERWISE.contains(bug) != found, "no seed finds {bug:?}");
    }
    type Run = fn(u64, Option<Bug>, bool) -> Outcome;
    let plain = FOUND.iter().map(|of| (of, World::run as Run));
    let all = plain.chain(FOUND_WITH_EDITS.iter().map(|of| (of, World::run_with_edits as Run)));
    let mut missed = Vec::new();
    for ((bug, seed, invariant), run) in all {
        let violation = run(*seed, Some(*bug), false).violation.unwrap_or_default();
        if !violation.starts_with(&format!("{invariant}:")) {
            missed.push(format!("{bug:?} with seed {seed}: {violation:?}, not {invariant}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Prints the table above anew: `SEPTET_SURVEY=n` looks at so many seeds.
#[test]
fn survey() {
    let Some(seeds) = std::env::var("SEPTET_SURVEY").ok().and_then(|s| s.parse::<u64>().ok()) else {
        return;
    };
    // With SEPTET_BUG, that one only.
    let wanted = std::env::var("SEPTET_BUG").ok();
    for bug in Bug::ALL.iter().filter(|b| wanted.as_ref().is_none_or(|w| format!("{b:?}") == *w)) {
        let run = if std::env::var_os("SEPTET_EDITS").is_some() { World::run_with_edits } else { World::run };
        let found = (0..seeds).find_map(|seed| run(seed, Some(*bug), false).violation.map(|v| (seed, v)));
        match found {
            Some((seed, violation)) => {
                let invariant = violation.split(':').next().unwrap_or_default();
                println!("    (Bug::{bug:?}, {seed}, {invariant:?}), // {violation}");
            }
            None => println!("    // {bug:?} is not found"),
        }
    }
}
