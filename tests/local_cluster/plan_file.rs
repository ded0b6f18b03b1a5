//! A plan that is written to a file, and applied as it is or not at all.

use std::fs;

use serde_json::Value;

use super::harness::{Cluster, docker, enabled};

fn stages(cluster: &Cluster) -> Vec<(String, String, usize)> {
    let file: Value = serde_json::from_str(&fs::read_to_string(cluster.path().join("plan.json")).unwrap()).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let of = |s: &Value| {
        let name = if s["name"].is_null() { &s["stage"] } else { &s["name"] };
        (text(name), text(&s["order"]), s["steps"].as_array().unwrap().len())
    };
    file["stages"].as_array().unwrap().iter().map(of).collect()
}

fn stage(name: &str, order: &str, steps: usize) -> (String, String, usize) {
    (name.into(), order.into(), steps)
}

#[test]
fn applied_as_planned() {
    if !enabled("applied_as_planned") {
        return;
    }
    let cluster = Cluster::new("p");
    let plan = || cluster.ok(&["plan", "--out", "plan.json"]);
    plan().says(&["up --plan plan.json` does it"]);
    assert_eq!(stages(&cluster), [stage("network", "parallel", 1), stage("hosts", "parallel", 7), stage("configure", "parallel", 7)]);
    cluster.ok(&["up", "--plan", "plan.json"]).says(&["is up and healthy"]);
    cluster.is_whole();
    // What was planned has been done.
    let anew = "hint: `septet -i inventory.yml plan --out FILE` makes a new one";
    cluster.run(&["up", "--plan", "plan.json"]).code(1).says(&["does not apply any more: nothing was touched", "exists", anew]);
    plan().says(&["nothing would change"]);
    assert_eq!(stages(&cluster), []);
    cluster.ok(&["up", "--plan", "plan.json"]).says(&["nothing changed"]);

    // A change of configuration: tasks on three hosts, then restarts that roll.
    cluster.edit("log_retention_hours: 72", "log_retention_hours: 48");
    plan();
    assert_eq!(stages(&cluster), [stage("Brokers, installed", "parallel", 3), stage("Brokers, running", "rolling", 3)]);
    let before = cluster.seen();
    cluster.edit("log_retention_hours: 48", "log_retention_hours: 24");
    cluster.run(&["up", "--plan", "plan.json"]).code(1).says(&["nothing was touched", "the inventory was changed"]);
    cluster.edit("log_retention_hours: 24", "log_retention_hours: 48");
    cluster.run(&["up", "--plan", "plan.json", "-e", "log_retention_hours=1"]).code(1).says(&["are not those of the plan"]);
    // Somebody was on a host since.
    let name = cluster.host("kafka02");
    let config = "/etc/septet/server.properties";
    let copy = docker(&["exec", &name, "cat", config]);
    docker(&["exec", &name, "sh", "-c", &format!("echo '# by hand' >> {config}")]);
    let said = cluster.run(&["up", "--plan", "plan.json"]).code(1);
    said.says(&[&format!("in the plan, and not to be done now: ~ host {name}: Configuration"), anew]);
    assert!(copy.contains("log.retention.hours=72"), "{copy}");
    assert_eq!(cluster.seen(), before);
    // Once it is planned again, it is done, and nothing beyond it.
    plan();
    let done = cluster.ok(&["up", "--plan", "plan.json"]).says(&["checking that it is safe to stop", "(6 changes)"]);
    assert!(!done.err.contains("not in the plan"), "{}", done.show());
    assert!(docker(&["exec", &name, "cat", config]).contains("log.retention.hours=48"));
    // A host that was stopped since.
    plan();
    docker(&["stop", "-t", "5", &name]);
    let stopped = format!("{name}: was running, is stopped");
    cluster.run(&["up", "--plan", "plan.json"]).code(1).says(&[&stopped]);
    plan();
    assert_eq!(stages(&cluster), [stage("hosts", "parallel", 1), stage("configure", "parallel", 1)]);
    cluster.ok(&["up", "--plan", "plan.json"]);
    cluster.is_whole();
    // A key that the hosts do not accept is a step too.
    fs::remove_dir_all(cluster.state()).unwrap();
    plan().says(&["7 steps at the provider"]);
    assert_eq!(stages(&cluster), [stage("keys", "parallel", 7), stage("configure", "parallel", 7)]);
    cluster.ok(&["up", "--plan", "plan.json"]).says(&["adding it", "(7 changes)"]);
    cluster.is_whole();
    // An end for a cluster that had none: the provider's step, and the timers on all hosts.
    cluster.edit("domain: foo.bar", "domain: foo.bar\nttl: 2h");
    plan().says(&["1 step at the provider, 21 changes on hosts"]);
    assert_eq!(stages(&cluster), [stage("lease", "parallel", 1), stage("End of the cluster's life", "parallel", 21)]);
    let done = cluster.ok(&["up", "--plan", "plan.json"]).says(&["expires at", "(22 changes)"]);
    assert!(!done.err.contains("not in the plan"), "{}", done.show());
    plan().says(&["nothing would change"]);
    // It is put off while a host does not run, which learns of it when it starts.
    docker(&["stop", "-t", "5", &name]);
    cluster.ok(&["extend", "3h"]).says(&["1 of 7 hosts do not run: `septet up` starts them with the new end"]);
    cluster.ok(&["up"]).says(&["is up and healthy"]);
    let timers = ["control01", "kafka02"].map(|h| {
        let service = "systemctl show -p ActiveState --value septet-expiry.timer; cat /etc/systemd/system/septet-expiry.*";
        docker(&["exec", &cluster.host(h), "sh", "-c", service])
    });
    assert!(timers[0] == timers[1] && timers[0].starts_with("active"), "{timers:?}");
}
