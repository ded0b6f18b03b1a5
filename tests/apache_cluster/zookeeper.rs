//! Apache Kafka 3.9.1 with ZooKeeper, on one cluster.

use std::collections::BTreeMap;

use super::{
    archives,
    clients::{KAZOO, consume_all, numbers, produce_numbers, python},
    harness::{Cluster, SEVEN, docker, enabled, eventually},
    steps::{
        PATIENCE, cluster, console_tools, create_topic, down, inside, is_named, is_spread, notes, other_engines_refused, restart_all,
        same_hosts_restarted, tell_memory, tool,
    },
    watch::Watch,
    writer::Writer,
};

const RECORDS: usize = 600;

#[test]
fn with_zookeeper() {
    if !enabled("with_zookeeper") {
        return;
    }
    let Some(archive) = archives::find("3.9.1") else { return };
    let cluster = cluster("b", &SEVEN, &archive, ", metadata: zookeeper");
    let up = cluster.ok(&["up"]).says(&["up and healthy"]);
    eprintln!("up with ZooKeeper: {:.1} s", up.took.as_secs_f64());
    cluster.is_whole();
    cluster.ok(&["up"]).says(&["nothing changed"]);
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);

    let (servers, zookeeper) = (cluster.bootstrap(), cluster.zookeeper());
    what_zookeeper_has(&cluster, &zookeeper);
    for topic in ["orders", "numbers", "during"] {
        create_topic(&servers, topic, &serde_json::json!({}));
        is_spread(&servers, topic);
    }
    let listed = tool(&cluster, &["kafka-topics.sh", "--bootstrap-server", &inside(&cluster), "--list"]).out;
    assert!(listed.lines().any(|l| l == "orders"), "{listed}");
    produce_numbers(&servers, "numbers", RECORDS);
    for broker in servers.split(',') {
        assert_eq!(consume_all(broker, "numbers"), numbers(RECORDS));
    }
    console_tools(&cluster, "orders");
    other_engines_refused(
        &cluster,
        "apache-zookeeper-3",
        &[("engine: bundled", "bundled-3"), ("engine: {apache: {version: 3.9.1}}", "apache-kraft-3")],
    );

    renamed_at_work(&cluster, &servers, &zookeeper);
    the_leader_stopped(&cluster, &servers);
    restart_all(&cluster);
    cluster.is_whole();
    assert_eq!((cluster.bootstrap(), cluster.zookeeper()), (servers.clone(), zookeeper));
    assert_eq!(consume_all(&servers, "numbers"), numbers(RECORDS));
    tell_memory(&cluster);
    down(&cluster);
}

fn what_zookeeper_has(cluster: &Cluster, zookeeper: &str) {
    for server in zookeeper.split(',') {
        let seen = python(KAZOO, &[server]);
        assert_eq!(seen["ids"], serde_json::json!(["1", "2", "3"]), "{seen}");
        let controller = seen["controller"]["brokerid"].as_u64().unwrap();
        assert_eq!(seen["hosts"]["2"]["host"], cluster.host("kafka02"), "{seen}");
        let roles = notes(cluster);
        assert_eq!(roles[&format!("kafka0{controller}")], "controller", "{roles:?}");
        let mut of_coordinators: Vec<&str> = ["zk01", "zk02", "zk03"].iter().map(|h| roles[*h].as_str()).collect();
        of_coordinators.sort_unstable();
        assert_eq!(of_coordinators, ["follower", "follower", "leader"], "{roles:?}");
    }
}

fn renamed_at_work(cluster: &Cluster, servers: &str, zookeeper: &str) {
    let (old, new) = (cluster.prefix(), format!("siku{}", std::process::id()));
    let before = cluster.seen();
    let writer = Writer::start(servers, "during", cluster.path());
    let watch = Watch::start(servers, zookeeper);
    let renamed = cluster.ok(&["rename", &new]);
    watch.never_two_at_once();
    eprintln!("renamed in {:.1} s", renamed.took.as_secs_f64());
    writer.lost_nothing(servers, "during");
    is_named(cluster, &new, &old);
    same_hosts_restarted(&before, &cluster.seen());
    assert_eq!((cluster.bootstrap(), cluster.zookeeper()), (servers.to_owned(), zookeeper.to_owned()));
    let known = python(KAZOO, &[zookeeper]).to_string();
    assert!(known.contains(&format!("{new}-kafka03")) && !known.contains(&format!("{old}-")), "{known}");
    assert_eq!(consume_all(servers, "numbers"), numbers(RECORDS));
}

/// The one that leads: the others choose another.
fn the_leader_stopped(cluster: &Cluster, servers: &str) {
    let leader = notes(cluster).into_iter().find(|(h, n)| h.starts_with("zk") && n == "leader").unwrap().0;
    let name = cluster.host(&leader);
    docker(&["exec", &name, "systemctl", "stop", "zookeeper-server"]);
    let mut problems = BTreeMap::new();
    eventually("two of three serve", PATIENCE, || {
        problems = cluster.problems();
        problems.len() == 1
    });
    let inactive = |r: &String| r.contains("zookeeper-server.service is inactive");
    assert!(problems.get(&leader).is_some_and(|r: &Vec<String>| r.iter().any(inactive)), "{problems:?}");
    assert_eq!(consume_all(servers, "numbers"), numbers(RECORDS));
    create_topic(servers, "with-two", &serde_json::json!({}));
    docker(&["exec", &name, "systemctl", "start", "zookeeper-server"]);
    cluster.ok(&["health", "--wait", "300"]);
}
