//! `upgrade` to other programs of the bundle: looked at, cut off, continued, and what restarts together.

use std::{fs, io::Write, thread, time::Duration};

use super::{
    clients::{CREATE_TOPIC, python},
    harness::{Cluster, docker, enabled},
    restart::{history, killed_when, started},
    upgrade::speaks_another_protocol,
    watch::Watch,
    writer::Writer,
};

/// Makes a program of the bundle another one by its digest, which does the same.
fn built_again(cluster: &Cluster, program: &str) {
    let path = cluster.path().join("bundle").join(program);
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"built again").unwrap();
}

#[test]
fn other_programs_one_after_the_other() {
    if !enabled("other_programs_one_after_the_other") {
        return;
    }
    let cluster = Cluster::new("o");
    cluster.run(&["upgrade"]).code(1).says(&["does not exist", "up` makes it"]);
    cluster.ok(&["up"]);
    let (servers, zookeeper) = (cluster.bootstrap(), cluster.zookeeper());
    assert!(python(CREATE_TOPIC, &[&servers, "upgraded", "3", "-1"]).is_null());
    cluster.ok(&["upgrade", "--check"]).says(&["nothing to upgrade: all 6 hosts run it"]);
    cluster.run(&["upgrade", "--engine-version", "4.1.1"]).code(2).says(&["`septet -i inventory.yml upgrade` brings its hosts to it"]);

    built_again(&cluster, "septet-broker");
    built_again(&cluster, "septet-coordinator");
    let before = started(&cluster);
    let would = cluster.ok(&["upgrade", "--check", "--json"]).json();
    let changes = would["changes"].as_array().unwrap();
    let turns: Vec<u64> = changes.iter().map(|c| c["turn"].as_u64().unwrap()).collect();
    assert_eq!(turns, [1, 2, 3, 4, 5, 6], "{would}");
    let roles: Vec<&str> = changes.iter().map(|c| c["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["coordinators", "coordinators", "coordinators", "brokers", "brokers", "brokers"]);
    assert!(changes.iter().all(|c| c["from"] != c["to"] && c["to"].as_str().unwrap().len() == 12), "{would}");
    let leader = changes[2]["host"].as_str().unwrap().to_owned();
    let table = cluster.ok(&["health"]).out;
    assert!(table.lines().any(|l| l.contains(&leader) && l.contains("leader")), "{leader}: {table}");
    cluster.ok(&["upgrade", "--check"]).shows(&["coordinators\n", &format!("3. {leader}: from ")]).says(&["6 hosts would be upgraded"]);
    // A setting that no `up` has brought to the hosts yet goes with it, and is announced.
    assert!(would["pending"].is_null(), "{would}");
    cluster.edit("log_retention_hours: 72", "log_retention_hours: 71");
    let pending = format!("3 files on 3 hosts ({})", ["kafka01", "kafka02", "kafka03"].map(|h| cluster.host(h)).join(", "));
    cluster.ok(&["upgrade", "--check"]).shows(&["configuration is pending, and the upgrade applies it as `septet", &pending]);
    assert_eq!(started(&cluster), before, "a look changes nothing");

    // Cut off after two hosts: the same command goes on with those that are left.
    let writer = Writer::start(&servers, "upgraded", cluster.path());
    let watch = Watch::start(&servers, &zookeeper);
    killed_when(&cluster, &["upgrade"], || {
        thread::sleep(Duration::from_secs(1));
        let now = started(&cluster);
        now.iter().filter(|(host, at)| before[*host] != **at).count() >= 2
    });
    thread::sleep(Duration::from_secs(1));
    let cut_off = started(&cluster);
    let goes_on = cluster.ok(&["upgrade"]);
    watch.never_two_at_once();
    goes_on.says(&["continues execution", "upgraded already: ", "the cluster is healthy"]);
    let after = started(&cluster);
    for (host, at) in &after {
        assert_ne!(*at, before[host], "{host}");
        assert_eq!(*at == cut_off[host], cut_off[host] != before[host], "{host}: {before:?} {cut_off:?} {after:?}");
    }
    writer.lost_nothing(&servers, "upgraded");
    let statuses: Vec<_> = history(&cluster).iter().take(2).map(|e| e["status"].to_string()).collect();
    assert_eq!(statuses, ["\"completed\"", "\"killed\""]);
    cluster.ok(&["upgrade"]).says(&["0 hosts upgraded, 6 ran it already"]);
    assert_eq!(started(&cluster), after);

    // Coordinators that do not understand one another have one turn.
    speaks_another_protocol(&cluster, "septet-coordinator");
    let would = cluster.ok(&["upgrade", "--check", "--json"]).json();
    assert!(would["notes"][0].as_str().unwrap().contains("speaks another peer protocol: all restart together"), "{would}");
    assert!(would["changes"].as_array().unwrap().iter().all(|c| c["turn"] == 1), "{would}");
    // What is not as the inventory has it is made so first.
    let name = cluster.host("kafka02");
    docker(&["stop", "-t", "5", &name]);
    cluster.run(&["upgrade"]).code(1).says(&[&format!("~ host {name}: start"), "`septet -i inventory.yml up` makes it so"]);
    docker(&["start", &name]);
    cluster.ok(&["upgrade"]).says(&["all restart together", "3 hosts upgraded, 3 ran it already"]);
    cluster.ok(&["up"]).says(&["nothing changed"]);
    cluster.is_whole();
}
