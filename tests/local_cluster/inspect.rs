//! Looking at a cluster: `check`, `logs` and `exec` over many hosts, `bundle`.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::harness::{Cluster, SEVEN, docker, enabled, signal};

#[test]
fn inspected() {
    if !enabled("inspected") {
        return;
    }
    let cluster = Cluster::new("j");
    // Before there is a host.
    cluster.ok(&["check"]).shows(&["0 failed"]);
    cluster.ok(&["up"]);
    checks(&cluster);
    many_logs(&cluster);
    many_commands(&cluster);
    bundled(&cluster);
}

fn checks(cluster: &Cluster) {
    let all = cluster.run(&["check", "--json"]).json();
    let findings = all.as_array().unwrap();
    let of = |host: &str, check: &str| {
        let found = findings.iter().find(|f| f["place"] == cluster.host(host).as_str() && f["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} of {host} in {all:#}")).clone()
    };
    for host in SEVEN {
        for check in ["disk", "memory", "clock", "names", "packages", "kernel"] {
            assert_ne!(of(host, check)["verdict"], "fail", "{all:#}");
        }
    }
    assert_eq!(of("kafka01", "names")["finding"], "7 names resolve");
    assert_eq!((&of("kafka01", "ports")["verdict"], &of("zk02", "ports")["verdict"]), (&"pass".into(), &"pass".into()), "{all:#}");

    // A name that leads elsewhere, and a port behind a firewall.
    let (one, two, zk) = (cluster.host("kafka01"), cluster.host("kafka02"), cluster.host("zk01"));
    docker(&["exec", &one, "sh", "-c", &format!("sed 's/^[0-9.]* *{two}/10.9.9.9 {two}/' /etc/hosts > /tmp/h && cat /tmp/h > /etc/hosts")]);
    docker(&["exec", &zk, "systemctl", "stop", "zookeeper-server"]);
    let squat = "systemd-run --unit=squatter systemd-socket-activate --listen=2181 /bin/sleep 600";
    docker(&["exec", &zk, "sh", "-c", squat]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let failed = cluster.run(&["check"]).code(1);
    failed.shows(&[&format!("{two} resolves to 10.9.9.9, not"), "names: `septet up` writes the names", "another program listens on 2181"]);
    docker(&["exec", &zk, "systemctl", "stop", "squatter"]);
    cluster.ok(&["up"]);
    cluster.ok(&["check"]).shows(&["0 failed"]);
}

fn many_logs(cluster: &Cluster) {
    let out = cluster.ok(&["logs", "brokers", "-n", "5"]).out;
    let hosts: BTreeSet<&str> = out.lines().filter_map(|l| Some(l.split_once(" | ")?.0)).collect();
    assert_eq!(hosts.len(), 3, "{out}");
    let times: Vec<&str> = out.lines().filter_map(|l| l.split_once(" | ")?.1.split(' ').next()).filter(|w| w.starts_with("20")).collect();
    assert!(times.len() >= 6 && times.is_sorted(), "{out}");
    for line in cluster.ok(&["logs", "brokers", "-n", "2", "--json"]).out.lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(v["host"].is_string() && v["line"].is_string());
    }
    // Followed: what any of them says comes at once.
    let mut follow = cluster.command(&["logs", "coordinators", "-f", "-n", "0", "--all"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for host in ["zk01", "zk03"] {
        docker(&["exec", &cluster.host(host), "logger", "-t", "mark", &format!("said by {host}")]);
        wanted.insert(format!("{} | said by {host}", cluster.host(host)));
    }
    for line in lines.map(Result::unwrap) {
        wanted.retain(|w| {
            let (host, text) = w.split_once(" | ").unwrap();
            !(line.starts_with(host) && line.ends_with(text))
        });
        if wanted.is_empty() {
            break;
        }
    }
    assert!(wanted.is_empty());
    signal(&follow, "INT");
    assert_eq!(follow.wait().unwrap().code(), Some(130));
    // One that does not run is named, and the others are shown.
    docker(&["stop", "-t", "5", &cluster.host("zk02")]);
    let some = cluster.run(&["logs", "coordinators", "-n", "1"]).code(1).says(&[&cluster.host("zk02"), "stopped"]);
    assert!(some.out.contains(&cluster.host("zk01")) && some.out.contains(&cluster.host("zk03")), "{}", some.show());
    docker(&["start", &cluster.host("zk02")]);
    cluster.ok(&["health", "--wait", "180"]);
}

fn many_commands(cluster: &Cluster) {
    let all = cluster.ok(&["exec", "all", "--forks", "2", "--", "hostname"]).says(&["7 hosts: 7 ok"]);
    let wanted: Vec<String> = SEVEN.iter().map(|h| format!("{0} | {0}", cluster.host(h))).collect();
    assert_eq!(all.out.lines().collect::<Vec<_>>(), wanted);
    let name = cluster.host("kafka02");
    let some = cluster.run(&["exec", "brokers", "--", &format!("test $(hostname) != {name}")]).code(1);
    some.says(&["3 hosts: 2 ok, 1 failed", &format!("failed on {name} (1)")]);
}

fn bundled(cluster: &Cluster) {
    cluster.edit("log_retention_hours: 72", "my_password: hunter2-very-secret\n  log_retention_hours: 72");
    let file = cluster.path().join("report.tar.gz");
    cluster.ok(&["bundle", "report.tar.gz"]).shows(&["report.tar.gz"]);
    cluster.run(&["bundle", "report.tar.gz"]).code(1).says(&["exists", "name another file"]);
    cluster.ok(&["bundle", "another.tar.gz"]);
    let dir = cluster.path().join("unpacked");
    fs::create_dir(&dir).unwrap();
    assert!(Command::new("tar").arg("xzf").arg(&file).arg("-C").arg(&dir).arg("--strip-components=1").status().unwrap().success());
    let read = |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(read("health.txt").contains("healthy") && read("history.txt").contains("completed"));
    assert!(read("about.json").contains("bundled"));
    assert!(read("inventory.yml").contains("my_password: (redacted)"));
    let broker = format!("hosts/{}", cluster.host("kafka01"));
    assert!(read(&format!("{broker}/service.log")).contains("septet-broker"));
    assert!(read(&format!("{broker}/config.txt")).contains("log.dirs=/data/kafka-logs"));
    assert!(read(&format!("{broker}/state.txt")).contains("/etc/os-release"));
    // The ensemble's secret, and what looks like one, is nowhere.
    let secret = docker(&["exec", &cluster.host("zk01"), "cat", "/etc/septet/ensemble.secret"]);
    assert_eq!(secret.len(), 64);
    let found = Command::new("grep").args(["-rlE", &format!("{secret}|hunter2|BEGIN .*PRIVATE KEY")]).arg(&dir).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
}
