//! `ttl`: a cluster that ends by itself, put off by `extend`, and removed by another command once it is over.
//!
//! A program of its own, since any command of another test's on a local cluster may be the one that removes what is over: nothing that
//! makes a local cluster may run beside it, and be it to find out the node image. Needs a Docker daemon and some seven minutes, so it asks for `SEPTET_E2E=1`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, time::Duration};

#[allow(dead_code)]
#[path = "local_cluster/harness.rs"]
mod harness;

use harness::{Cluster, docker, enabled, eventually};

fn running(cluster: &Cluster) -> usize {
    docker(&["ps", "-q", "--filter", &format!("label=septet.name={}", cluster.name)]).lines().count()
}

/// A cluster whose `up` was killed before it had logged in to any host: those that it started stop by themselves all the same.
fn killed_before_it_logs_in() -> Cluster {
    let cluster = Cluster::new("k");
    cluster.edit("domain: foo.bar", "domain: foo.bar\nttl: 1m");
    // As soon as there is a host at all: it takes longer to be ready for a login than this takes to notice it.
    let mut up = cluster.spawn(&["up"]);
    eventually("a host is started", Duration::from_secs(120), || running(&cluster) > 0);
    up.kill().unwrap();
    up.wait().unwrap();
    let hosts = docker(&["ps", "-q", "--filter", &format!("label=septet.name={}", cluster.name)]);
    assert!(hosts.lines().count() > 0);
    for host in hosts.lines() {
        let agent = docker(&["exec", host, "sh", "-c", "ls /var/lib/septet 2>/dev/null || true"]);
        assert_eq!(agent, "", "the host was logged in to");
    }
    eventually("hosts that nobody has logged in to have stopped", Duration::from_secs(120), || running(&cluster) == 0);
    cluster
}

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
    let later = found(&cluster).unwrap()["expires"].as_str().unwrap().to_owned();
    assert!(later.ends_with('Z') && later.as_str() > listed["expires"].as_str().unwrap(), "{later} {listed}");
    let seconds = std::process::Command::new("date").args(["-d", &later, "+%s"]).output().unwrap();
    let later = String::from_utf8(seconds.stdout).unwrap().trim().to_owned();
    let timer = docker(&["exec", &cluster.host("zk01"), "cat", "/etc/systemd/system/septet-expiry.timer"]);
    assert!(timer.contains(&format!("OnCalendar=@{later}")), "{timer}");
    cluster.ok(&["up"]).says(&["nothing changed"]);

    // The machine that made it is gone: the hosts stop all the same, and stay so.
    fs::remove_dir_all(cluster.state()).unwrap();
    let running = || running(&cluster);
    assert_eq!(running(), 7);
    let killed = killed_before_it_logs_in();
    eventually("all hosts have stopped", Duration::from_secs(500), || running() == 0);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((running(), cluster.containers().len()), (0, 7));
    // What only looks removes nothing; the next command that changes something does, whatever cluster it is about.
    let other = Cluster::new("y");
    other.run(&["health"]).code(3);
    assert_eq!(cluster.containers().len(), 7);
    let expired = |cluster: &Cluster| format!("cluster {} expired at", cluster.name);
    other.ok(&["down", "--yes"]).says(&[&expired(&cluster), &expired(&killed), "removing it"]);
    cluster.is_gone();
    killed.is_gone();
    assert!(found(&other).is_none() && found(&cluster).is_none());
}
