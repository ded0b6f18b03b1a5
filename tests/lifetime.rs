//! `ttl`: a cluster that ends by itself, put off by `extend`, and removed by another command once it is over.
//!
//! A program of its own, since any command of another test's on a local cluster may be the one that removes what is over: nothing
//! of `local_cluster` may run beside it. Needs a Docker daemon and some seven minutes, so it asks for `SEPTET_E2E=1`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, time::Duration};

#[allow(dead_code)]
#[path = "local_cluster/harness.rs"]
mod harness;

use harness::{Cluster, docker, enabled, eventually};

#[test]
fn a_cluster_that_ends_by_itself() {
    if !enabled("a_cluster_that_ends_by_itself") {
        return;
    }
    let cluster = Cluster::new("t");
    cluster.edit("domain: foo.bar", "domain: foo.bar\nttl: 5m");
    cluster.ok(&["up"]);
    let found = |cluster: &Cluster| {
        let list = cluster.ok(&["list", "--json"]).json();
        list.as_array().unwrap().iter().find(|f| f["name"] == cluster.name.as_str()).cloned()
    };
    let listed = found(&cluster).unwrap();
    assert_eq!((&listed["hosts"], &listed["running"], &listed["prefix"]), (&7.into(), &7.into(), &cluster.prefix().into()), "{listed}");
    cluster.ok(&["list"]).shows(&[&cluster.name, "in "]);
    cluster.ok(&["health"]).shows(&["warning: the cluster expires at", "septet extend TTL"]);

    // An end is put off, not brought forward; a later run changes nothing.
    cluster.run(&["extend", "1m"]).code(2).says(&["which is later", "puts the end off only"]);
    cluster.run(&["extend", "soon"]).code(2);
    cluster.ok(&["extend", "6m"]).says(&["expires at"]);
    let later = found(&cluster).unwrap()["expires_s"].as_u64().unwrap();
    assert!(later > listed["expires_s"].as_u64().unwrap());
    let timer = docker(&["exec", &cluster.host("zk01"), "cat", "/etc/systemd/system/septet-expiry.timer"]);
    assert!(timer.contains(&format!("OnCalendar=@{later}")), "{timer}");
    cluster.ok(&["up"]).says(&["nothing changed"]);

    // The machine that made it is gone: the hosts stop all the same, and stay so.
    fs::remove_dir_all(cluster.state()).unwrap();
    let running = || docker(&["ps", "-q", "--filter", &format!("label=septet.name={}", cluster.name)]);
    assert_eq!(running().lines().count(), 7);
    eventually("all hosts have stopped", Duration::from_secs(500), || running().is_empty());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((running().as_str(), cluster.containers().len()), ("", 7));
    // What only looks removes nothing; the next command that changes something does, whatever cluster it is about.
    let other = Cluster::new("y");
    other.run(&["health"]).code(3);
    assert_eq!(cluster.containers().len(), 7);
    other.ok(&["down", "--yes"]).says(&[&format!("cluster {} expired at", cluster.name), "removing it"]);
    cluster.is_gone();
    assert!(found(&other).is_none() && found(&cluster).is_none());
}
