//! Another prefix for a cluster that is at work, and what survives.

use std::{collections::BTreeMap, fs, thread};

use super::{
    clients::{CREATE_TOPIC, KAZOO, consume_all, metadata, numbers, produce_numbers, python},
    harness::{Cluster, Foreign, SEVEN, Seen, docker, enabled},
    watch::Watch,
    writer::Writer,
};

const RECORDS: usize = 1000;

#[test]
fn renamed_while_it_works() {
    if !enabled("renamed_while_it_works") {
        return;
    }
    let cluster = Cluster::new("b");
    cluster.ok(&["up"]);
    let (servers, zookeeper) = (cluster.bootstrap(), cluster.zookeeper());
    for topic in ["before", "during"] {
        assert!(python(CREATE_TOPIC, &[&servers, topic, "3", "3"]).is_null());
    }
    produce_numbers(&servers, "before", RECORDS);
    let old = cluster.prefix();
    let new = format!("kisu{}", std::process::id());
    let (before, text) = (cluster.seen(), fs::read_to_string(cluster.inventory()).unwrap());

    // Refused before anything is touched.
    cluster.run(&["rename", "Not_A_Name"]).code(2);
    cluster.run(&["rename", &"x".repeat(60)]).code(2);
    let name = format!("{new}-kafka03");
    let foreign = Foreign::new(&name, &cluster);
    cluster.run(&["rename", &new]).code(1).says(&[&name, "left alone"]);
    foreign.is_untouched(&name);
    drop(foreign);
    assert_eq!(fs::read_to_string(cluster.inventory()).unwrap(), text);

    let writer = Writer::start(&servers, "during", cluster.path());
    let watch = Watch::start(&servers, &zookeeper);
    cluster.ok(&["rename", &new]);
    watch.never_two_at_once();
    writer.lost_nothing(&servers, "during");

    assert_eq!(
        fs::read_to_string(cluster.inventory()).unwrap(),
        text.replace(&format!("prefix:   {old}      #"), &format!("prefix:   {new}      #"))
    );
    is_named(&cluster, &new, &old);
    same_hosts(&before, &cluster.seen());
    assert_eq!((cluster.bootstrap(), cluster.zookeeper()), (servers.clone(), zookeeper.clone()));
    assert_eq!(consume_all(&servers, "before"), numbers(RECORDS));
    let known = python(KAZOO, &[&zookeeper]).to_string();
    assert!(known.contains(&format!("{new}-kafka03")), "{known}");
    assert!(!known.contains(&format!("{old}-")), "{known}");
    cluster.ok(&["up"]).says(&["nothing changed"]);

    // Back, by editing the file.
    cluster.edit(&format!("prefix:   {new} "), &format!("prefix:   {old} "));
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&[&format!("rename to {old}-kafka01")]);
    cluster.ok(&["up"]);
    assert_eq!(fs::read_to_string(cluster.inventory()).unwrap(), text);
    is_named(&cluster, &old, &new);
    same_hosts(&before, &cluster.seen());
    assert_eq!(consume_all(&servers, "before"), numbers(RECORDS));

    // All of them restarted at once: it comes back by itself, names included.
    let restarts: Vec<_> =
        SEVEN.iter().map(|h| cluster.host(h)).map(|name| thread::spawn(move || docker(&["restart", "-t", "10", &name]))).collect();
    for r in restarts {
        r.join().unwrap();
    }
    cluster.ok(&["health", "--wait", "180"]);
    is_named(&cluster, &old, &new);
    assert_eq!(cluster.bootstrap(), servers);
    assert_eq!(metadata(&servers, &[])["brokers"].as_array().unwrap().len(), 3);
    assert_eq!(consume_all(&servers, "before"), numbers(RECORDS));
    cluster.ok(&["up"]).says(&["nothing changed"]);
}

/// Every host has the new names everywhere, and the old ones nowhere.
fn is_named(cluster: &Cluster, new: &str, old: &str) {
    cluster.is_whole();
    for host in SEVEN {
        let name = format!("{new}-{host}");
        let script = "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/septet/* 2>/dev/null || true";
        let text = docker(&["exec", &name, "sh", "-c", script]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], [&name, &name], "{text}");
        assert!(!text.contains(&format!("{old}-")), "on {name}: {text}");
        for other in SEVEN {
            let fqdn = format!(" {new}-{other}.foo.bar {new}-{other}");
            assert!(lines.iter().any(|l| l.ends_with(&fqdn)), "no{fqdn} on {name}: {text}");
        }
        let found = docker(&["exec", &name, "getent", "hosts", &format!("{new}-zk02")]);
        assert!(found.contains(&format!("{new}-zk02")), "{found}");
    }
}

/// The same containers under the same addresses, never stopped.
fn same_hosts(before: &BTreeMap<String, Seen>, after: &BTreeMap<String, Seen>) {
    let what = |all: &BTreeMap<String, Seen>| -> Vec<[String; 3]> {
        all.values().map(|s| [s.id.clone(), s.address.clone(), s.container_started.clone()]).collect()
    };
    assert_eq!(what(before), what(after));
    for (host, was) in before {
        // Whoever serves was restarted, to serve under its new name.
        if !host.starts_with("control") {
            assert_ne!(was.unit_started, after[host].unit_started, "{host}");
        }
    }
}
