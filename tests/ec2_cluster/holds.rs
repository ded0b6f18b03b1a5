//! One run at a time on a cluster, from whatever machine: who holds it is told, and what a killed run held is taken over.

use std::{process::Command, thread, time::Duration};

use serde_json::json;

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

/// The same from another state directory, as another machine has it.
fn elsewhere(cluster: &Cluster, state: &str, args: &[&str]) -> Command {
    let mut c = cluster.command(args);
    c.env("XDG_STATE_HOME", cluster.path().join(state)).env("USER", "anna");
    c
}

fn run(command: Command) -> Ran {
    Ran::of(command, "", Duration::from_secs(60))
}

#[test]
fn the_second_is_told() {
    let Some(cloud) = Cloud::new("the_second_is_told") else { return };
    let cluster = Cluster::new(&cloud, "held");
    cloud.fault(json!({"action": "CreateSecurityGroup", "kind": "hang"}));
    let mut first = cluster.start(elsewhere(&cluster, "state", &["up"]));
    cloud.awaits("the first is at work", |calls| calls.iter().any(|c| c.result.as_deref() == Some("hang")));
    let pid = format!("process {}", first.id());
    let who = ["another run is at work on cluster `held`: anna on ", &pid, "(septet up), since 20", "UTC", "hint:"];
    for command in ["up", "down"] {
        run(elsewhere(&cluster, "other", &[command, "--yes"])).code(1).says(&who);
        // On the same machine too, by its lock file.
        cluster.run(&[command, "--yes"]).code(1).says(&["another run is at work on cluster `held`: ", &pid, "since 20"]);
    }
    // Who only looks may look; who has another cluster is not held up.
    cluster.ok(&["plan"]);
    let another = Cluster::new(&cloud, "another");
    another.up();
    another.down();

    // Killed: others wait for its silence, its own machine goes on at once.
    first.kill().unwrap();
    first.wait().unwrap();
    run(elsewhere(&cluster, "other", &["up"])).code(1).says(&who).says(&["5 minutes after its last sign of life"]);
    cluster.up();
    cluster.is_whole("a run that was killed");
    let key = |cluster: &Cluster| cluster.things()["key_pairs"].iter().find(|k| k["name"] == cluster.lock()).cloned();
    assert_eq!(key(&cluster), None, "the hold is given back");

    // Silence of more than five minutes.
    cloud.fault(json!({"action": "DescribeInstances", "kind": "hang"}));
    let mut first = cluster.spawn(&["up"]);
    cloud.awaits("it is at work", |calls| {
        calls.last().is_some_and(|c| c.result.as_deref() == Some("hang"))
            || calls.iter().rev().take(3).any(|c| c.result.as_deref() == Some("hang"))
    });
    first.kill().unwrap();
    first.wait().unwrap();
    run(elsewhere(&cluster, "other", &["up"])).code(1).says(&["another run is at work"]);
    let id = key(&cluster).unwrap()["id"].as_str().unwrap().to_owned();
    cloud.aws("CreateTags", &[("ResourceId.1", &id), ("Tag.1.Key", "septet:seen"), ("Tag.1.Value", "1000000000")]);
    run(elsewhere(&cluster, "other", &["up"])).code(1).says(&[NO_WAY_IN]);
    cluster.down();
    cluster.is_gone("down");

    // A key pair of that name that is nobody's hold is left alone.
    cloud.aws("CreateKeyPair", &[("KeyName", &cluster.lock())]);
    cluster.run(&["up"]).code(1).says(&[&cluster.lock(), "does not belong to this cluster", "left alone"]);
    let keys = cloud.state()["key_pairs"].as_array().unwrap().clone();
    assert!(keys.iter().any(|k| k["name"] == cluster.lock()) && keys.len() == 1, "{keys:?}");
}

/// A run whose hold was taken away ends by itself: it must not change a cluster that another run may have in hand.
#[test]
fn a_hold_that_is_lost() {
    let Some(cloud) = Cloud::new("a_hold_that_is_lost") else { return };
    let cluster = Cluster::new(&cloud, "lost");
    cloud.fault(json!({"action": "CreateSecurityGroup", "kind": "hang", "times": 3}));
    let up = elsewhere(&cluster, "state", &["up"]);
    let up = thread::spawn(move || run(up));
    cloud.awaits("it is at work", |calls| calls.iter().any(|c| c.result.as_deref() == Some("hang")));
    cloud.aws("DeleteKeyPair", &[("KeyName", &cluster.lock())]);
    let ran = up.join().unwrap().code(1);
    ran.says(&[
        "stopped, since cluster `lost` may be changed by another run: the lock was removed or taken over",
        "hint: run the same command",
    ]);
    cloud.calm();
    cluster.up();
    cluster.is_whole("a run that lost its hold");
}

#[test]
fn many_at_once() {
    let Some(cloud) = Cloud::new("many_at_once") else { return };
    let cluster = Cluster::new(&cloud, "many");
    for consistency_ms in [0, 800] {
        cloud.set(json!({"consistency_ms": consistency_ms}));
        for verb in ["up", "down"] {
            let states = ["a", "b", "c", "d", "e"];
            let commands = states.map(|s| elsewhere(&cluster, s, &[verb, "--yes"]));
            let all = commands.map(|c| thread::spawn(move || run(c)));
            let all = all.map(|t| t.join().unwrap());
            let good = |r: &Ran| if verb == "up" { r.err.contains(NO_WAY_IN) } else { r.code == Some(0) };
            for ran in &all {
                assert!(good(ran) || ran.err.contains("another run is at work on cluster `many`"), "{}", ran.show());
            }
            assert!(all.iter().any(good), "{all:#?}");
            thread::sleep(Duration::from_millis(consistency_ms));
            if verb == "up" { cluster.is_whole("five at once") } else { cluster.is_gone("five at once") }
        }
    }
}
