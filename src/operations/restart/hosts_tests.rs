//! Restarts that are killed at each point, on hosts in memory and recorded in a real journal: what `septet` itself runs, but for the way to
//! the hosts.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use proptest::prelude::*;

use super::{Service, restart};
use crate::journal::Recorder;
use world::{Orphan, Run, Site, id};

#[path = "hosts_world.rs"]
mod world;

const OLD: [Option<f64>; 6] = [Some(4000.0); 6];

#[test]
fn killed_at_every_point_the_same_command_goes_on() {
    for orphan in [Orphan::Lost, Orphan::Done, Orphan::Busy] {
        let mut killed = 0;
        loop {
            let mut site = Site::new(OLD);
            site.world().orphan = orphan;
            let first = site.restart(killed, false);
            if first.is_ok() {
                assert_eq!(site.statuses(), ["1 completed"]);
                break;
            }
            let second = site.restart(usize::MAX, false).unwrap();
            assert_eq!(site.starts(), [1; 6], "killed at {killed}, {orphan:?}");
            assert_eq!(second.restarted.len() + second.already.len(), 6);
            assert_eq!(site.statuses(), ["1 killed", "1 completed"], "killed at {killed}");
            if killed % 16 == 0 {
                // That is done: asked for again, it is another restart.
                site.restart(usize::MAX, false).unwrap();
                assert_eq!(site.starts(), [2; 6]);
                assert_eq!(site.statuses(), ["1 killed", "1 completed", "2 completed"]);
            }
            killed += 1;
        }
        // Each of six hosts: two around the look, gate, three around the restart, gate; beside them start, orders and health.
        assert!(killed >= 6 * 7 + 4, "{killed}");
    }
}

#[test]
fn coordinators_first_the_leader_last_and_what_was_restarted_is_named() {
    let mut site = Site::new(OLD);
    let done = site.restart(usize::MAX, false).unwrap();
    let order: Vec<String> = done.restarted.iter().map(ToString::to_string).collect();
    assert_eq!(order, ["coordinator1", "coordinator2", "coordinator3", "broker2", "broker3", "broker1"]);
    assert!(done.already.is_empty() && site.world().told.is_empty());
    // Killed in the gate behind the second host.
    assert!(site.restart(2 + 12 + 2 * 5, false).is_err());
    let done = site.restart(usize::MAX, false).unwrap();
    assert_eq!((done.restarted.len(), &done.already[..]), (4, &[id(0), id(1)][..]));
    let told = site.world().told.join("\n");
    assert!(told.contains(": coordinator1, coordinator2; `--all` restarts them again"), "{told}");
}

#[test]
fn with_all_every_host_is_restarted_again() {
    let mut site = Site::new(OLD);
    assert!(site.restart(40, false).is_err());
    let before = site.starts();
    assert!(before.contains(&1) && before.contains(&0), "{before:?}");
    let done = site.restart(usize::MAX, true).unwrap();
    assert_eq!((done.restarted.len(), done.already.len()), (6, 0));
    assert_eq!(site.starts(), before.iter().map(|n| n + 1).collect::<Vec<_>>());
}

#[test]
fn after_a_day_all_hosts_are_meant() {
    for (hours, again) in [(23.0, false), (25.0, true)] {
        let mut site = Site::new(OLD);
        assert!(site.restart(40, false).is_err());
        let before = site.starts();
        site.world().pass(hours * 3600.0);
        site.restart(usize::MAX, false).unwrap();
        let expected: Vec<usize> = before.iter().map(|n| if again { n + 1 } else { 1 }).collect();
        assert_eq!(site.starts(), expected, "after {hours} h");
    }
}

#[test]
fn a_service_that_does_not_run_is_always_due() {
    let mut site = Site::new(OLD);
    assert!(site.restart(40, false).is_err());
    // One that was restarted ends by itself.
    site.world().servers.get_mut(&id(0)).unwrap().active = false;
    let done = site.restart(usize::MAX, false).unwrap();
    assert!(done.restarted.contains(&id(0)) && done.already.contains(&id(1)), "{done:?}");
    assert_eq!(site.starts(), [2, 1, 1, 1, 1, 1]);
    // Two brokers that do not run go first, and together.
    let mut site = Site::new([Some(9.0), Some(9.0), Some(9.0), None, None, Some(9.0)]);
    site.restart(usize::MAX, false).unwrap();
    assert_eq!(site.starts(), [1; 6]);
}

#[test]
fn a_gate_that_stays_closed_ends_the_run_and_the_same_command_goes_on() {
    let mut site = Site::new(OLD);
    site.world().closed = Some(id(4));
    let e = site.restart(usize::MAX, false).unwrap_err().to_string();
    assert!(e.contains("the roll stopped before broker2"), "{e}");
    // Neither it nor a host behind it was touched.
    assert_eq!(site.starts(), [1, 1, 1, 0, 0, 0]);
    site.world().closed = None;
    site.restart(usize::MAX, false).unwrap();
    assert_eq!((site.starts(), site.statuses()), (vec![1; 6], vec!["1 failed".to_owned(), "1 completed".to_owned()]));
}

/// What our clock does after the first run was killed, in seconds.
fn after_a_jump(jump_s: f64, reboots: bool) -> (Vec<usize>, Vec<usize>) {
    // Services that were started shortly before the restart was asked for are due as all others are.
    let mut site = Site::new([Some(5.0), Some(600.0), Some(4000.0), Some(5.0), Some(600.0), Some(4000.0)]);
    assert!(site.restart(40, false).is_err());
    let before = site.starts();
    {
        let mut w = site.world();
        w.clock_s += jump_s;
        if reboots {
            w.boot = (2, w.now_s);
            w.pass(60.0);
        }
    }
    site.restart(usize::MAX, false).unwrap();
    (before, site.starts())
}

#[test]
fn a_clock_that_is_set_leaves_no_host_out() {
    // Forward, and by more than a day: as if nothing was.
    for jump_s in [0.0, 60.0, 3600.0, 30.0 * 3600.0] {
        assert_eq!(after_a_jump(jump_s, false).1, [1; 6], "{jump_s}");
    }
    // Back: hosts are restarted again, and none is left out.
    for jump_s in [-60.0, -3600.0] {
        let (before, after) = after_a_jump(jump_s, false);
        assert_eq!(after, before.iter().map(|n| n + 1).collect::<Vec<_>>(), "{jump_s}");
    }
    // After a reboot of our machine the clock alone tells.
    assert_eq!(after_a_jump(0.0, true).1, [1; 6]);
}

#[test]
fn a_service_that_was_started_just_before_is_due() {
    // The restart is recorded 0.2 s after its process was started; the services were started 0.01 s before that.
    let mut site = Site::new([Some(-0.19); 6]);
    assert_eq!(site.restart(usize::MAX, false).unwrap().already, []);
    assert_eq!(site.starts(), [1; 6]);
}

#[test]
fn without_a_record_all_hosts_are_meant() {
    let mut site = Site::new(OLD);
    assert!(site.restart(40, false).is_err());
    let before = site.starts();
    site.world().left = usize::MAX;
    let run = Run { world: site.world.clone(), recorder: Arc::new(Recorder::off()), interrupted: Arc::default() };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(restart(&run, false)).unwrap();
    assert_eq!(site.starts(), before.iter().map(|n| n + 1).collect::<Vec<_>>());
}

#[test]
fn what_was_restarted_since_it_was_asked_for_is_done() {
    let ran = |age_s| Service { active: true, changing: false, age_s };
    assert!(ran(61.0).is_due(60.0));
    assert!(!ran(59.0).is_due(60.0));
    // It does not run: whatever was done to it, it is not done.
    assert!(Service { active: false, ..ran(1.0) }.is_due(60.0));
    assert!(ran(0.0).is_due(0.0));
}

/// A run that is killed: after how many points, what becomes of its last restart, how long until the next, what our clock does then.
fn kills() -> impl Strategy<Value = Vec<(usize, Orphan, f64, f64)>> {
    let orphan = prop_oneof![Just(Orphan::Lost), Just(Orphan::Done), Just(Orphan::Busy)];
    let jump_s = prop_oneof![3 => Just(0.0), 1 => -5000.0..0.0, 1 => 0.0..100_000.0];
    proptest::collection::vec((0..60usize, orphan, 0.0..4000.0, jump_s), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_was_killed_each_host_is_restarted(
        ages_s in proptest::array::uniform6(proptest::option::weighted(0.8, 0.3..9000.0)),
        kills in kills(),
        leader in 3..6usize,
    ) {
        let mut site = Site::new(ages_s);
        site.world().leader = id(leader);
        let mut back = false;
        for (points, orphan, gap_s, jump_s) in kills {
            site.world().orphan = orphan;
            if site.restart(points, false).is_ok() {
                // That one is done; the rest would be another restart.
                break;
            }
            let mut w = site.world();
            w.pass(gap_s);
            w.clock_s += jump_s;
            back |= jump_s < 0.0;
        }
        if site.statuses().last().is_none_or(|s| !s.ends_with("completed")) {
            site.restart(usize::MAX, false).unwrap();
        }
        let starts = site.starts();
        prop_assert!(starts.iter().all(|n| if back { *n >= 1 } else { *n == 1 }), "{starts:?}");
        let statuses = site.statuses();
        let (last, before) = statuses.split_last().unwrap();
        prop_assert!(last == "1 completed" && before.iter().all(|s| s == "1 killed"), "{statuses:?}");
    }
}
