//! `restart` under the gate, cut off and continued; what `history` knows of that, and of an `up` that was killed.

use std::{collections::BTreeMap, fs, process::Stdio, thread, time::Duration};

use serde_json::Value;

use super::{
    clients::{consume_all, kcat},
    harness::{Cluster, docker, enabled, eventually},
};

/// Hosts with a service, by role and number.
const SERVING: [&str; 6] = ["broker1", "broker2", "broker3", "coordinator1", "coordinator2", "coordinator3"];

pub fn started(cluster: &Cluster) -> BTreeMap<String, String> {
    let seen = cluster.seen().into_iter().filter(|(host, _)| SERVING.contains(&host.as_str()));
    seen.map(|(host, s)| (host, s.unit_started)).collect()
}

/// The executions of the cluster, the latest first.
pub fn history(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.ok(&["history", "--cluster", &cluster.name, "--json"]).json();
    list.as_array().unwrap().clone()
}

/// Starts a command and kills it once that is so.
pub fn killed_when(cluster: &Cluster, args: &[&str], mut ready: impl FnMut() -> bool) {
    let (mut command, said) = (cluster.command(args), cluster.path().join("said"));
    let mut child = command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    eventually("the run is under way", Duration::from_secs(240), || {
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early: {}", fs::read_to_string(&said).unwrap());
        ready()
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn restarted_under_the_gate() {
    if !enabled("restarted_under_the_gate") {
        return;
    }
    let cluster = Cluster::new("g");
    cluster.run(&["restart"]).code(1).says(&["does not exist", "up` makes it"]);

    // An `up` that was killed is in the history, and the next one says that it continues it.
    killed_when(&cluster, &["up"], || cluster.containers().len() == 7);
    let list = history(&cluster);
    assert_eq!((&list[0]["command"], &list[0]["status"]), (&"up".into(), &"killed".into()), "{list:?}");
    let number = list[0]["execution"].to_string();
    cluster.ok(&["up"]).says(&[&format!("continues execution {number}, killed in phase `hosts`")]);
    let list = history(&cluster);
    assert_eq!((&list[0]["status"], &list[0]["continues"]), (&"completed".into(), &list[1]["execution"]), "{list:?}");
    let shown = cluster.ok(&["history", "show", &list[0]["execution"].to_string()]);
    shown.shows(&["configure", &cluster.host("kafka01"), "completed"]);
    cluster.ok(&["history", "log", &list[0]["execution"].to_string()]).shows(&["== configure", "== health"]);

    let servers = cluster.bootstrap();
    kcat(&servers, &["-P", "-t", "t"], "before\n");
    let before = started(&cluster);
    let json = cluster.ok(&["restart", "brokers", "--json"]).json();
    assert_eq!((json["restarted"].as_array().unwrap().len(), json["event"].as_str()), (3, Some("result")), "{json}");
    let after = started(&cluster);
    for host in SERVING {
        assert_eq!(before[host] != after[host], host.starts_with("broker"), "{host}: {before:?} {after:?}");
    }

    // Killed after two hosts: the same command restarts those that are left, and no other.
    let before = started(&cluster);
    killed_when(&cluster, &["restart"], || {
        thread::sleep(Duration::from_secs(1));
        let now = started(&cluster);
        SERVING.iter().filter(|h| now[**h] != before[**h]).count() >= 2
    });
    thread::sleep(Duration::from_secs(1));
    let cut_off = started(&cluster);
    let json = cluster.ok(&["restart", "--json"]).json();
    let (restarted, already) = (json["restarted"].as_array().unwrap().len(), json["already"].as_array().unwrap().len());
    assert!(already >= 2 && restarted + already == 6, "{json}");
    let after = started(&cluster);
    for host in SERVING {
        assert_ne!(after[host], before[host], "{host}");
        assert_eq!(after[host] == cut_off[host], cut_off[host] != before[host], "{host}: {before:?} {cut_off:?} {after:?}");
    }
    let list = history(&cluster);
    let statuses: Vec<&str> = list.iter().take(2).map(|e| e["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["completed", "killed"]);
    cluster.is_whole();
    assert_eq!(consume_all(&servers, "t"), ["before"]);

    // A second command while one runs says which, since when and where.
    let mut first = cluster.spawn(&["restart", "zk01"]);
    eventually("it runs", Duration::from_secs(60), || history(&cluster)[0]["status"] == "running");
    let refused = cluster.run(&["restart"]);
    if refused.code == Some(1) {
        let number = history(&cluster)[0]["execution"].to_string();
        let place = cluster.path().display().to_string();
        refused.says(&["another run is at work", "(septet restart), since", &place, &format!("history show {number}")]);
    }
    assert!(first.wait().unwrap().success());

    // A service that does not start stops the roll, and says why.
    let name = cluster.host("kafka02");
    docker(&["exec", &name, "sh", "-c", "echo 'broker.id=none' > /etc/septet/server.properties"]);
    let failed = cluster.run(&["restart", "kafka02"]).code(1);
    failed.says(&[&name, "kafka-server.service does not restart", "logs HOST` shows its log"]);
    cluster.ok(&["up"]);
    docker(&["stop", "-t", "5", &name]);
    cluster.run(&["restart", "kafka02"]).code(1).says(&["does not run", "up` starts it"]);
    cluster.ok(&["up"]);
    cluster.is_whole();
}
