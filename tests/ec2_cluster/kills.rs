//! kill -9 at every call of `up` and of `down`, before and after its effect; then `up` or `down`.

use std::{collections::BTreeMap, thread, time::Duration};

use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::{Ran, eventually},
};

/// How long what was just made may be unknown, in some of the runs.
const CONSISTENCY: Duration = Duration::from_millis(1500);

/// Runs septet until its call of a number, which is never answered, and kills it. Says whether it came so far.
fn killed_at(cluster: &Cluster, args: &[&str], number: usize) -> bool {
    let cloud = cluster.cloud;
    cloud.forget_calls();
    let when = if number.is_multiple_of(2) { "before" } else { "after" };
    cloud.fault(json!({"action": "*", "kind": "hang", "when": when, "skip": number, "dry_run": null}));
    let mut child = cluster.spawn(args);
    let mut ended = false;
    eventually("it comes to the call or to its end", Duration::from_secs(60), || {
        ended = child.try_wait().unwrap().is_some();
        ended || cloud.calls().iter().any(|c| c.result.as_deref() == Some("hang"))
    });
    let _ = child.kill();
    child.wait().unwrap();
    cloud.calm();
    !ended
}

fn what_is_left(cluster: &Cluster) -> Vec<Value> {
    cluster.things().into_values().flatten().collect()
}

/// `up` or `down` after a kill, and then the listing.
fn and_then(cluster: &Cluster, up: bool, settle: Duration, failures: &mut BTreeMap<String, String>, case: &str) {
    let limit = Duration::from_secs(60);
    if up {
        let ran = Ran::of(cluster.command(&["up"]), "", limit);
        thread::sleep(settle);
        let flaws = cluster.flaws();
        if !ran.err.contains(NO_WAY_IN) || !flaws.is_empty() {
            failures.insert(format!("{case}, then up"), format!("{flaws:?}\n{}", ran.show()));
        }
    }
    let ran = Ran::of(cluster.command(&["down", "--yes"]), "", limit);
    thread::sleep(settle);
    let left = what_is_left(cluster);
    if ran.code != Some(0) || !left.is_empty() {
        failures.insert(format!("{case}, then down"), format!("{left:#?}\n{}", ran.show()));
    }
}

/// Runs in one cloud, before it has seen so much that it is slow.
const RUNS: usize = 12;

/// With `kept`, data of a cluster before it waits for its hosts.
fn at_every_call(test: &str, verb: &[&str], vpc: &str, kept: bool) {
    let (mut failures, mut number, mut reached) = (BTreeMap::new(), 0, true);
    while reached {
        let Some(cloud) = Cloud::new(test) else { return };
        cloud.bystander();
        let others = cloud.others("none");
        // What the account has anyway is not new.
        thread::sleep(CONSISTENCY);
        for _ in 0..RUNS {
            // What one leaves must not be in the way of the next.
            let cluster = Cluster::new(&cloud, &format!("kill{number}"));
            cluster.set("vpc", vpc);
            cluster.set("zones", "[us-east-1a, us-east-1b]");
            // Every third with a cloud that takes its time to know what it has.
            let settle = if number % 3 == 2 { CONSISTENCY } else { Duration::ZERO };
            cloud.set(json!({"consistency_ms": 0}));
            if verb[0] == "down" || kept {
                cluster.up();
            }
            if kept {
                cluster.ok(&["down", "--yes", "--keep-data"]);
            }
            // What was made before this is known by now.
            thread::sleep(settle);
            cloud.set(json!({"consistency_ms": settle.as_millis() as u64}));
            reached = killed_at(&cluster, verb, number);
            let last = cloud.calls().last().map(|c| c.action.clone()).unwrap_or_default();
            let case = format!("killed at call {number} of {} ({last}), {} ms of consistency", verb[0], settle.as_millis());
            // Four ways round: before and after the effect, then up and then down.
            and_then(&cluster, number / 2 % 2 == 0, settle, &mut failures, &case);
            // A run that ends early because of what it does not know yet is not the end of the calls.
            reached = reached || settle > Duration::ZERO;
            if !reached {
                break;
            }
            number += 1;
        }
        cloud.still_has(&others);
    }
    eprintln!("{test}: {number} calls");
    let text: Vec<String> = failures.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    assert!(text.is_empty() && number > 20, "{} cases of {number}:\n\n{}", text.len(), text.join("\n\n"));
}

#[test]
fn at_every_call_of_up() {
    if !super::cloud::sweeps("at_every_call_of_up") {
        return;
    }
    at_every_call("at_every_call_of_up", &["up"], "default", false);
}

#[test]
fn at_every_call_of_up_with_a_network_of_its_own() {
    if !super::cloud::sweeps("at_every_call_of_up_with_a_network_of_its_own") {
        return;
    }
    at_every_call("at_every_call_of_up_with_a_network_of_its_own", &["up"], "new", false);
}

#[test]
fn at_every_call_of_up_with_kept_data() {
    if !super::cloud::sweeps("at_every_call_of_up_with_kept_data") {
        return;
    }
    at_every_call("at_every_call_of_up_with_kept_data", &["up"], "default", true);
}

#[test]
fn at_every_call_of_down() {
    if !super::cloud::sweeps("at_every_call_of_down") {
        return;
    }
    at_every_call("at_every_call_of_down", &["down", "--yes"], "new", false);
}
