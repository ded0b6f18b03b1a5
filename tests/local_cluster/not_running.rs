//! Commands that go to hosts which do not run: they say so at once, as `health` knows it.

use std::{fs, time::Duration};

use super::harness::{Cluster, docker, enabled};

#[test]
fn hosts_that_do_not_run_are_named_at_once() {
    if !enabled("hosts_that_do_not_run_are_named_at_once") {
        return;
    }
    let cluster = Cluster::new("q");
    cluster.ok(&["up"]);
    let says = |args: &[&str], words: &[&str]| {
        let ran = cluster.run(args);
        assert!(ran.took < Duration::from_secs(8), "{}", ran.show());
        ran.code(1).says(words);
    };
    let (paused, stopped, control) = (cluster.host("kafka02"), cluster.host("kafka03"), cluster.host("control01"));
    docker(&["pause", &paused]);
    docker(&["stop", &stopped]);
    for command in [&["ssh", "kafka02", "--", "hostname"][..], &["exec", "kafka02", "--", "hostname"], &["logs", "kafka02"]] {
        says(command, &[&paused, "the host is paused", "up` starts it"]);
    }
    says(&["logs", "kafka03"], &[&stopped, "the host is stopped"]);
    // The others are asked all the same.
    let ran = cluster.run(&["exec", "brokers", "--", "hostname"]).code(1).says(&["the host is paused", "the host is stopped"]);
    assert!(ran.out.contains(&cluster.host("kafka01")), "{}", ran.show());

    docker(&["rm", "-f", &paused]);
    says(&["exec", "kafka02", "--", "hostname"], &["the host does not exist", "up` makes it"]);
    docker(&["stop", &control]);
    says(&["ssh", "--", "hostname"], &[&control, "the host is stopped"]);
    says(&["exec", "kafka01", "--", "hostname"], &["reached through", &control, "the host is stopped"]);
    docker(&["rm", "-f", &control]);
    says(&["exec", "kafka01", "--", "hostname"], &["reached through the control host", "does not exist"]);
    cluster.ok(&["up"]);

    // A key that is not accepted is not taken for a host that does not answer.
    fs::remove_dir_all(cluster.state()).unwrap();
    says(&["exec", "kafka01", "--", "hostname"], &["reached through", &control, "refused"]);
    cluster.ok(&["up"]);
    cluster.is_whole();

    // Names that somebody exchanged are names of ours.
    let (one, two, free) = (cluster.host("kafka01"), cluster.host("kafka02"), cluster.host("aside"));
    for (from, to) in [(&one, &free), (&two, &one), (&free, &two)] {
        docker(&["rename", from, to]);
    }
    cluster.ok(&["up"]);
    cluster.is_whole();

    // A host that runs and has no sshd is looked at through Docker, and its own words are in the error.
    let deaf = cluster.host("kafka01");
    docker(&["exec", &deaf, "systemctl", "stop", "ssh"]);
    cluster.run(&["up"]).code(1).says(&[&deaf, "ssh.service is inactive", "hint:"]);
    docker(&["exec", &deaf, "systemctl", "start", "ssh"]);
    cluster.ok(&["up"]);

    // All hosts are gone, and their data is kept: nothing says that there is no cluster.
    cluster.ok(&["down", "--keep-data", "--yes"]);
    for (command, code) in [("health", 3), ("endpoints", 1)] {
        cluster.run(&[command]).code(code).says(&["the data of 7 of them is kept", "makes the hosts again with their data"]);
    }
}
