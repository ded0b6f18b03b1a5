//! Every call of `up` and of `down` goes wrong once, in each of the ways in which calls go wrong; the same command again, and
//! there are exactly seven hosts, or nothing; never a second of anything, and never somebody else's.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

/// No command may take longer, whatever goes wrong.
const LIMIT: Duration = Duration::from_secs(30);

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
    #[track_caller]
    fn end(self) {
        assert!(self.0.is_empty(), "{} cases:\n\n{}", self.0.len(), self.0.join("\n\n"));
    }
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

/// Runs the cases of each action in a cloud of its own, for one that has seen much is slow; all that went wrong is told together.
fn each(test: &str, before: impl Fn(&Cluster), run: impl Fn(&Cluster) -> Vec<String>, case: impl Fn(&Cluster, &str, &Way, &mut Failures)) {
    let Some(cloud) = Cloud::new(test) else { return };
    let first = cluster(&cloud, "first");
    before(&first);
    let actions = run(&first);
    drop(first);
    drop(cloud);
    let mut failures = Failures::default();
    for action in &actions {
        let Some(cloud) = Cloud::new(test) else { return };
        cloud.bystander();
        let others = cloud.others("none");
        for (number, way) in ways().iter().enumerate() {
            let cluster = cluster(&cloud, &format!("c{number}"));
            before(&cluster);
            case(&cluster, action, way, &mut failures);
        }
        cloud.still_has(&others);
    }
    eprintln!("{} cases: {actions:?}", actions.len() * ways().len());
    failures.end();
}

/// `down`, as often as it takes; then nothing may be there.
fn goes(cluster: &Cluster, case: &str, failures: &mut Failures) {
    let down = Ran::of(cluster.command(&["down", "--yes"]), "", LIMIT);
    let left: Vec<Value> = cluster.things().into_values().flatten().collect();
    failures.insist(case, down.code == Some(0) && left.is_empty(), || format!("{}{left:#?}", down.show()));
}

#[test]
fn each_call_of_up() {
    if !super::cloud::sweeps("each_call_of_up") {
        return;
    }
    let run = |cluster: &Cluster| {
        let actions = actions(cluster.cloud, || drop(cluster.up()));
        assert!(actions.len() > 20, "{actions:?}");
        actions
    };
    each(
        "each_call_of_up",
        |_| {},
        run,
        |cluster, action, way, failures| {
            strike(cluster, &["up"], action, way, failures);
            let case = format!("`up` after {action} {}", way.what);
            let again = Ran::of(cluster.command(&["up"]), "", LIMIT);
            failures.insist(&case, again.err.contains(NO_WAY_IN), || again.show());
            let flaws = cluster.flaws();
            failures.insist(&case, flaws.is_empty(), || format!("{flaws:?}"));
            let made = ever_made(cluster.cloud, &cluster.name);
            failures.insist(&case, made == 7, || format!("{made} instances were made"));
            let things = cluster.things();
            let networks = (things["vpcs"].len(), things["subnets"].len(), things["internet_gateways"].len());
            failures.insist(&case, networks == (1, 2, 1), || format!("{networks:?}"));
            goes(cluster, &case, failures);
        },
    );
}

#[test]
fn each_call_of_down() {
    if !super::cloud::sweeps("each_call_of_down") {
        return;
    }
    let run = |cluster: &Cluster| {
        let actions = actions(cluster.cloud, || drop(cluster.down()));
        assert!(actions.len() > 14, "{actions:?}");
        actions
    };
    let made = |cluster: &Cluster| drop(cluster.up());
    each("each_call_of_down", made, run, |cluster, action, way, failures| {
        strike(cluster, &["down", "--yes"], action, way, failures);
        goes(cluster, &format!("`down` after {action} {}", way.what), failures);
    });
}

/// Data that is given back to its host: the volume is attached once, to the right one.
#[test]
fn each_call_with_kept_data() {
    if !super::cloud::sweeps("each_call_with_kept_data") {
        return;
    }
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
    failures.end();
}
