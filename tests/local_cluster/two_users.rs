//! Two state directories on one cluster, as two users or two CI jobs have them: first runs at the same moment, a run that was killed,
//! keys beside each other, and what older versions left under one name.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::harness::{Cluster, Ran, docker, enabled, eventually};

/// septet with another state directory.
fn other(cluster: &Cluster, args: &[&str]) -> Command {
    let mut c = cluster.command(args);
    c.env("XDG_STATE_HOME", cluster.path().join("other"));
    c
}

fn run_other(cluster: &Cluster, args: &[&str]) -> Ran {
    Ran::of(other(cluster, args), "", Duration::from_secs(240))
}

fn locks(cluster: &Cluster) -> String {
    docker(&["volume", "ls", "-q", "--filter", &format!("label=septet.lock={}", cluster.name)])
}

#[test]
fn two_first_runs_make_one_cluster() {
    if !enabled("two_first_runs_make_one_cluster") {
        return;
    }
    let cluster = Cluster::new("u");
    // At the same moment: one of them makes the cluster, the other one is told or finds it made.
    let quiet = |mut c: Command| c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let runs = [quiet(cluster.command(&["up"])), quiet(other(&cluster, &["up"]))].map(|c| c.wait_with_output().unwrap());
    let done = runs.iter().filter(|o| o.status.success()).count();
    let said: String = runs.iter().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).collect();
    assert!(done >= 1, "{said}");
    assert!(done == 2 || said.contains("another run is at work on cluster"), "{said}");
    cluster.ok(&["up"]);
    cluster.is_whole();
    assert_eq!(locks(&cluster), "");

    // The second user's key is added, which is a change; the first user is not locked out, nor is anybody else.
    let add = "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ own key' >> /home/septet/.ssh/authorized_keys";
    docker(&["exec", &cluster.host("zk02"), "sh", "-c", add]);
    let second = cluster.path().join("second");
    let of_second = |args: &[&str]| {
        let mut c = cluster.command(args);
        c.env("XDG_STATE_HOME", &second);
        Ran::of(c, "", Duration::from_secs(240))
    };
    of_second(&["exec", "all", "--", "true"]).code(1);
    of_second(&["up"]).code(0).says(&["keys of other users stay", "(7 changes)"]);
    of_second(&["up"]).code(0).says(&["nothing changed"]);
    cluster.ok(&["up"]).says(&["nothing changed"]);
    cluster.ok(&["exec", "all", "--", "true"]);
    let keys = docker(&["exec", &cluster.host("zk02"), "cat", "/home/septet/.ssh/authorized_keys"]);
    assert!(keys.contains("own key") && keys.matches(" septet ").count() >= 2, "{keys}");

    a_killed_run(&cluster);
    a_lost_lock(&cluster);
    twins(&cluster);
}

/// Another state directory does not wait for a run that was killed, and waits for one that runs.
fn a_killed_run(cluster: &Cluster) {
    docker(&["rm", "-f", &cluster.host("zk03")]);
    let mut up = cluster.spawn(&["up"]);
    eventually("the lock is taken", Duration::from_secs(30), || !locks(cluster).is_empty());
    run_other(cluster, &["up"]).code(1).says(&["another run is at work", &format!("process {}", up.id()), "hint: wait until it has ended"]);
    up.kill().unwrap();
    up.wait().unwrap();
    assert_ne!(locks(cluster), "");
    run_other(cluster, &["up"]).code(0);
    cluster.is_whole();
    assert_eq!(locks(cluster), "");
}

/// A run whose lock was taken away, as of a machine that was asleep, ends by itself, and what it began on a host ends with it.
fn a_lost_lock(cluster: &Cluster) {
    let play = "- hosts: zk03\n  tasks:\n    - command: sleep 317\n";
    std::fs::write(cluster.path().join("waits.yml"), play).unwrap();
    let waits = || !docker(&["exec", &cluster.host("zk03"), "sh", "-c", "pgrep -f 'sleep 31[7]' || true"]).is_empty();
    let command = cluster.command(&["run", "waits.yml"]);
    let run = std::thread::spawn(move || Ran::of(command, "", Duration::from_secs(90)));
    eventually("the task runs", Duration::from_secs(30), waits);
    docker(&["volume", "rm", locks(cluster).lines().next().unwrap()]);
    run.join().unwrap().code(1).says(&["may be changed by another run: the lock was removed or taken over while this run held it"]);
    eventually("the task ends", Duration::from_secs(10), || !waits());
    assert_eq!(locks(cluster), "");
}

/// What two first runs of an older version left: a second identity with a network and a volume.
fn twins(cluster: &Cluster) {
    let twin = "00000000-0000-4000-8000-000000000001";
    let labels = [format!("septet.cluster={twin}"), format!("septet.name={}", cluster.name)];
    let things = [format!("{}-twin-net", cluster.name), format!("{}-twin-vol", cluster.name)];
    let make = || {
        docker(&["network", "create", "--label", &labels[0], "--label", &labels[1], &things[0]]);
        docker(&["volume", "create", "--label", &labels[0], "--label", &labels[1], &things[1]]);
    };
    make();
    cluster.ok(&["health"]);
    cluster.ok(&["up"]).says(&["nothing changed", &format!("`down --uuid {twin}` removes them")]);
    let removed = cluster.ok(&["down", "--yes", "--uuid", twin]);
    removed.shows(&things.each_ref().map(String::as_str)).says(&["destroyed 2 resources"]);
    cluster.is_whole();
    cluster.run(&["down", "--yes", "--uuid", twin]).code(1).says(&["does not exist", "hint: existing ids"]);

    // Data that was kept, and a twin: neither has a host, so nothing tells which is the cluster.
    make();
    cluster.ok(&["down", "--yes", "--keep-data"]);
    docker(&["volume", "inspect", &things[1]]);
    cluster
        .run(&["up"])
        .code(1)
        .says(&["there are 2 clusters called", "hint: `septet -i inventory.yml down --uuid UUID` destroys one of them"]);
    cluster.ok(&["down", "--yes", "--uuid", twin]);
    cluster.ok(&["up"]);
    cluster.is_whole();
    make();
    cluster.ok(&["down", "--yes"]).says(&["destroyed 2 resources", "destroyed 15 resources"]);
    cluster.is_gone();
}
