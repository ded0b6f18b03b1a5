//! Each planted bug with the seed that finds it and the invariant that it breaks there.

use crate::{bugs::Bug, world::World};

/// Bug, seed, invariant.
const FOUND: &[(Bug, u64, &str)] = &[
    (Bug::TruncationSkipped, 1, "progress"),
    (Bug::TruncatedToHighWatermark, 0, "committed"),
    (Bug::LocalEpochsIgnored, 71, "progress"),
    (Bug::FetchEpochNotCompared, 1, "isr"),
    (Bug::EndOfEpochIsEndOfLog, 1, "log matching"),
    (Bug::EpochCacheNotTruncated, 7, "progress"),
    (Bug::RecordEpochsRewritten, 0, "log matching"),
    (Bug::StaleLeaderEpochAccepted, 212, "epochs"),
    (Bug::StaleControllerAccepted, 1, "controllers"),
    (Bug::ObeysBeforeItRegistered, 4, "log matching"),
    (Bug::LateFetchAnswerAccepted, 1, "log matching"),
    (Bug::PendingIsrNotCounted, 5, "high watermark"),
    (Bug::ProposalDroppedOnTimeout, 348, "high watermark"),
    (Bug::ShrinkBeforeConfirmed, 0, "high watermark"),
    (Bug::IsrMemberNotWaitedFor, 0, "high watermark"),
    (Bug::JoinsBeforeCaughtUp, 0, "isr"),
    (Bug::HighWatermarkRestoredTooHigh, 427, "high watermark"),
    (Bug::FollowerCommitsItsLog, 11, "high watermark"),
    (Bug::AcknowledgedOnAppend, 0, "acknowledged"),
    (Bug::AcknowledgedByLaterLeadership, 1, "acknowledged"),
    (Bug::MinIsrIgnored, 1, "acknowledged"),
    (Bug::UncommittedServed, 1, "consumed"),
    (Bug::VersionNotCompared, 93, "controllers"),
    (Bug::ControllerEpochNotChecked, 111, "controllers"),
    (Bug::ControllerEpochNotRaised, 1, "controllers"),
    (Bug::RefusedWriteTakenForWritten, 1111, "high watermark"),
    (Bug::UncleanElection, 2, "isr"),
    (Bug::IsrEmptied, 2, "isr"),
    (Bug::LeaderEpochNotRaised, 0, "epochs"),
    (Bug::BouncedBrokerKeepsItsPlace, 5, "acknowledged"),
    (Bug::BouncedBrokerNotSeenAtLoad, 15, "log matching"),
    (Bug::ReassignedBeforeInSync, 4, "isr"),
    (Bug::LeadsAgainUntold, 4, "acknowledged"),
    (Bug::StatesNotLoaded, 82, "progress"),
    (Bug::DecisionSentOnce, 20, "progress"),
];

/// No seed up to 2,500 finds these: other rules catch what they let through.
const CAUGHT_OTHERWISE: &[Bug] =
    &[Bug::BrokerEpochNotJudged, Bug::NewBrokerTakesItsOldPlace, Bug::RegistersBeforeItLeft, Bug::OlderMetadataAccepted];

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        assert!(CAUGHT_OTHERWISE.contains(bug) != FOUND.iter().any(|(b, ..)| b == bug), "no seed finds {bug:?}");
    }
    for (bug, seed, invariant) in FOUND {
        let found = World::run(*seed, Some(*bug), false).violation;
        assert!(found.as_ref().is_some_and(|v| v.starts_with(invariant)), "{bug:?}, seed {seed}: {found:?}");
        // Without the bug, the seed breaks nothing.
        assert_eq!(World::run(*seed, None, false).violation, None, "seed {seed}");
    }
    println!("{} planted bugs found", FOUND.len());
}

/// Prints the table above anew: `SEPTET_SURVEY=n` looks through n seeds, from `SEPTET_FROM` on, for each
/// bug, or for those that `SEPTET_BUG` names.
#[test]
fn survey() {
    let Some(seeds) = std::env::var("SEPTET_SURVEY").ok().and_then(|s| s.parse::<u64>().ok()) else {
        return;
    };
    let from: u64 = std::env::var("SEPTET_FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let only = std::env::var("SEPTET_BUG").unwrap_or_default();
    for bug in Bug::ALL.iter().filter(|b| only.is_empty() || only.split(',').any(|name| name == format!("{b:?}"))) {
        let found = (from..from + seeds).find_map(|s| World::run(s, Some(*bug), false).violation.map(|v| (s, v)));
        match found {
            Some((seed, why)) => println!("    (Bug::{bug:?}, {seed}, {:?}),", why.split(" at ").next().unwrap_or_default()),
            None => println!("    // {bug:?}: not found"),
        }
    }
}
