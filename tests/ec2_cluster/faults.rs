//! Every call of `up` and of `down` goes wrong once, in each of the ways in which calls go wrong; the same command again, and
//! there are exactly seven hosts, or nothing; never a second of anything, and never somebody else's.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    cloud::{Cloud, Things},
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

/// No command may take longer, whatever goes wrong.
const LIMIT: Duration = Duration::from_secs(45);

struct Way {
    what: &'static str,
    fault: Value,
    /// whether the command must succeed all the same
    goes_through: bool,
    forbidden: bool,
}

fn ways() -> Vec<Way> {
    let way = |what, fault, goes_through| Way { what, fault, goes_through, forbidden: false };
    let forbidden = json!({"code": "UnauthorizedOperation", "status": 403, "message": "You are not authorized to perform this operation."});
    vec![
        way("is throttled", json!({"code": "RequestLimitExceeded", "status": 503}), true),
        way("fails inside of EC2", json!({"code": "InternalError", "status": 500}), true),
        way("is cut off before its effect", json!({"kind": "reset"}), true),
        way("is cut off after its effect", json!({"kind": "reset", "when": "after"}), true),
        way("has its effect and no answer", json!({"kind": "hang", "when": "after"}), true),
        Way { what: "is forbidden", fault: forbidden, goes_through: false, forbidden: true },
    ]
}

/// A cluster with a network of its own, so that there is every kind of thing.
fn cluster<'a>(cloud: &'a Cloud, name: &str) -> Cluster<'a> {
    let cluster = Cluster::new(cloud, name);
    cluster.set("vpc", "new");
    cluster.set("zones", "[us-east-1a, us-east-1b]");
    cluster.set("call_timeout", "1");
    cluster
}

/// What a command calls, in order of appearance.
fn actions(cloud: &Cloud, run: impl FnOnce()) -> Vec<String> {
    cloud.forget_calls();
    run();
    let mut seen = BTreeSet::new();
    cloud.calls().into_iter().filter(|c| !c.dry_run).map(|c| c.action).filter(|a| seen.insert(a.clone())).collect()
}

/// What went wrong in the cases of one test.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn insist(&mut self, case: &str, good: bool, why: impl FnOnce() -> String) {
        if !good {
            self.0.push(format!("{case}: {}", why()));
        }
    }
}

/// Instances of a cluster that were ever made.
fn ever_made(cloud: &Cloud, name: &str) -> usize {
    cloud.state()["instances"].as_array().unwrap().iter().filter(|i| i["tags"]["septet:name"] == name).count()
}

fn is_gone(cluster: &Cluster) -> Vec<Value> {
    cluster.things().into_values().flatten().collect()
}

/// Runs a command whose calls go wrong as ordered.
fn strike(cluster: &Cluster, args: &[&str], action: &str, way: &Way, failures: &mut Failures) -> Ran {
    let case = format!("{} in `{}` {}", action, args[0], way.what);
    let mut fault = way.fault.clone();
    fault["action"] = json!(action);
    cluster.cloud.fault(fault);
    let ran = Ran::of(cluster.command(args), "", LIMIT);
    let reached = cluster.cloud.faults().is_empty();
    cluster.cloud.calm();
    failures.insist(&case, reached, || "was not called".into());
    failures.insist(&case, ran.code.is_some(), || format!("takes longer than {LIMIT:?}: {}", ran.show()));
    let good = ran.code == Some(0) || ran.err.contains(NO_WAY_IN);
    failures.insist(&case, good || !way.goes_through, || ran.show());
    if way.forbidden && !good {
        let service = match action {
            "GetParameter" => "ssm",
            "GetServiceQuota" => "servicequotas",
            "GetCallerIdentity" => "sts",
            _ => "ec2",
        };
        let action = format!("{service}:{action}");
        let named = ran.err.contains(&format!("these credentials may not {action}"));
        // Whoever one is may always be asked: there is no statement for that.
        let told = ran.err.contains(&format!("\"Action\":\"{action}\"")) || service == "sts";
        failures.insist(&case, named && told, || ran.show());
    }
    ran
}

fn end(failures: Failures, others: &Things, cloud: &Cloud, none: &str) {
    assert_eq!(cloud.others(none), *others);
    assert!(failures.0.is_empty(), "{} cases:\n\n{}", failures.0.len(), failures.0.join("\n\n"));
}

#[test]
fn each_call_of_up() {
    let Some(cloud) = Cloud::new("each_call_of_up") else { return };
    cloud.bystander();
    let others = cloud.others("none");
    let first = cluster(&cloud, "first");
    let actions = actions(&cloud, || drop(first.up()));
    first.down();
    assert!(actions.len() > 20, "{actions:?}");
    let (mut failures, mut number) = (Failures::default(), 0);
    for action in &actions {
        for way in ways() {
            number += 1;
            let cluster = cluster(&cloud, &format!("u{number}"));
            strike(&cluster, &["up"], action, &way, &mut failures);
            let case = format!("`up` after {action} {}", way.what);
            let again = Ran::of(cluster.command(&["up"]), "", LIMIT);
            failures.insist(&case, again.err.contains(NO_WAY_IN), || again.show());
            let flaws = cluster.flaws();
            failures.insist(&case, flaws.is_empty(), || format!("{flaws:?}"));
            let made = ever_made(&cloud, &cluster.name);
            failures.insist(&case, made == 7, || format!("{made} instances were made"));
            let things = cluster.things();
            let networks = (things["vpcs"].len(), things["subnets"].len(), things["internet_gateways"].len());
            failures.insist(&case, networks == (1, 2, 1), || format!("{networks:?}"));
            let down = Ran::of(cluster.command(&["down", "--yes"]), "", LIMIT);
            let left = is_gone(&cluster);
            failures.insist(&case, down.code == Some(0) && left.is_empty(), || format!("{}{left:#?}", down.show()));
        }
    }
    eprintln!("{number} cases: {actions:?}");
    end(failures, &others, &cloud, "none");
}

#[test]
fn each_call_of_down() {
    let Some(cloud) = Cloud::new("each_call_of_down") else { return };
    cloud.bystander();
    let others = cloud.others("none");
    let first = cluster(&cloud, "first");
    first.up();
    let actions = actions(&cloud, || drop(first.down()));
    assert!(actions.len() > 14, "{actions:?}");
    let (mut failures, mut number) = (Failures::default(), 0);
    for action in &actions {
        for way in ways() {
            number += 1;
            let cluster = cluster(&cloud, &format!("d{number}"));
            cluster.up();
            strike(&cluster, &["down", "--yes"], action, &way, &mut failures);
            let case = format!("`down` after {action} {}", way.what);
            let again = Ran::of(cluster.command(&["down", "--yes"]), "", LIMIT);
            let left = is_gone(&cluster);
            failures.insist(&case, again.code == Some(0) && left.is_empty(), || format!("{}{left:#?}", again.show()));
        }
    }
    eprintln!("{number} cases: {actions:?}");
    end(failures, &others, &cloud, "none");
}

/// Data that is given back to its host: the volume is attached once, to the right one.
#[test]
fn each_call_with_kept_data() {
    let Some(cloud) = Cloud::new("each_call_with_kept_data") else { return };
    let mut failures = Failures::default();
    let kept = Cluster::new(&cloud, "kept");
    kept.set("call_timeout", "1");
    kept.up();
    for action in ["AttachVolume", "DescribeVolumes", "RunInstances"] {
        for way in ways() {
            kept.ok(&["down", "--yes", "--keep-data"]);
            strike(&kept, &["up"], action, &way, &mut failures);
            let case = format!("`up` with kept data after {action} {}", way.what);
            let again = Ran::of(kept.command(&["up"]), "", LIMIT);
            failures.insist(&case, again.err.contains(NO_WAY_IN), || again.show());
            let flaws = kept.flaws();
            failures.insist(&case, flaws.is_empty(), || format!("{flaws:?}"));
        }
    }
    kept.down();
    kept.is_gone("down");
    assert!(failures.0.is_empty(), "{} cases:\n\n{}", failures.0.len(), failures.0.join("\n\n"));
}
