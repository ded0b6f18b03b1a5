//! `ttl` on EC2: instances that shut themselves down at the cluster's end, what goes with them, and what removes the rest.
//!
//! The clock is the real one. Containers share the kernel's, so it cannot be moved for a host alone; a time that is faked for
//! systemd (libfaketime) does not reach the kernel's timers; and a timer file that the test edits proves nothing about the one that
//! Septet wrote. So the ends are a few minutes away, and are waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::{SEVEN, docker, docker_try, enabled, eventually, node_image},
};

/// How far the end is put off, in seconds: enough to see that the first one has no effect.
const PUT_OFF_S: u64 = 40;
/// How long after a cluster's end its instances may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(90);

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sleep_until(s: u64) {
    thread::sleep(Duration::from_secs(s.saturating_sub(now_s())));
}

/// A cluster as `septet list` has it, asked with the inventory of any cluster.
fn listed(asked_by: &Cluster, name: &str) -> Option<Value> {
    let list = asked_by.ok(&["list", "--json"]).json();
    list.as_array().unwrap().iter().find(|f| f["name"] == name).cloned()
}

/// When a cluster expires, in seconds since 1970.
fn end_of(cluster: &Cluster) -> u64 {
    let listed = listed(cluster, &cluster.name).unwrap();
    let out = Command::new("date").args(["-d", listed["expires"].as_str().unwrap(), "+%s"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
}

/// What becomes of the instances that shut themselves down.
fn behaviors(cluster: &Cluster) -> BTreeSet<String> {
    cluster.instances().values().map(|i| i["shutdown_behavior"].as_str().unwrap().to_owned()).collect()
}

/// Devices of data that are deleted when their instances are terminated: how many of how many.
fn data_that_ends(cluster: &Cluster) -> (usize, usize) {
    let instances = cluster.instances();
    let data: Vec<&Value> =
        instances.values().flat_map(|i| i["volumes"].as_array().unwrap()).filter(|v| v["device"] == "/dev/sdf").collect();
    (data.iter().filter(|v| v["delete_on_termination"] == true).count(), data.len())
}

/// How often a data volume was told, since calls were forgotten, what it is to do when its instance ends.
fn flags(cloud: &Cloud, wanted: &str) -> usize {
    let key = "BlockDeviceMapping.1.Ebs.DeleteOnTermination";
    let calls = cloud.calls();
    calls.iter().filter(|c| c.action == "ModifyInstanceAttribute" && c.params.get(key).is_some_and(|v| v == wanted)).count()
}

/// Insists that only that is left of a cluster which costs nothing, and so many volumes with data.
#[track_caller]
fn is_over(cluster: &Cluster, data: usize) {
    let things = cluster.things();
    let left: BTreeMap<&str, usize> = things.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.as_str(), v.len())).collect();
    let volumes = (data > 0).then_some(("volumes", data));
    assert_eq!(left, [("security_groups", 4), ("key_pairs", 1)].into_iter().chain(volumes).collect(), "{things:#?}");
    for volume in &things["volumes"] {
        assert_eq!((&volume["state"], &volume["size"], &volume["snapshot"]), (&json!("available"), &json!(20), &Value::Null), "{volume}");
    }
    let state = cluster.cloud.state();
    let of_them = |v: &&Value| v["tags"]["septet:name"] == cluster.name.as_str();
    // They are listed for a while, as is why they ended.
    for instance in state["instances"].as_array().unwrap().iter().filter(of_them) {
        let seen = (&instance["state"], &instance["state_reason"], &instance["public_ip"], &instance["volumes"]);
        assert_eq!(seen, (&json!("terminated"), &json!("Client.InstanceInitiatedShutdown"), &Value::Null, &json!([])), "{instance}");
    }
    // A public address that is bound to nothing costs.
    assert!(!cluster.cloud.aws("DescribeAddresses", &[]).contains("publicIp"));
}

/// Removes what has expired with another cluster's inventory, from a directory in which nothing was ever run.
#[track_caller]
fn removed_from_elsewhere(cluster: &Cluster) {
    let elsewhere = Cluster::new(cluster.cloud, "elsewhere");
    let found = listed(&elsewhere, &cluster.name).unwrap();
    assert_eq!((&found["hosts"], &found["running"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!(found["hourly"].as_f64().unwrap_or_default(), 0.0, "{found}");
    elsewhere.ok(&["list"]).shows(&[&cluster.name, "expired"]);
    let receipts = elsewhere.ok(&["down", "--all-expired", "--yes", "--json"]).json();
    let [receipt] = receipts.as_array().unwrap().as_slice() else { panic!("{receipts}") };
    assert_eq!((&receipt["cluster"], &receipt["left"]), (&json!(cluster.name), &json!([])), "{receipt}");
    assert_eq!(receipt["removed"].as_array().unwrap().len(), 4 + 1, "{receipt}");
    cluster.is_gone("down of what has expired");
    assert_eq!(listed(&elsewhere, &cluster.name), None);
}

/// From `up` to nothing, while no septet runs and no call is made.
#[test]
fn it_ends_by_itself() {
    if !enabled("it_ends_by_itself") {
        return;
    }
    let Some(cloud) = Cloud::paired("it_ends_by_itself", &node_image()) else { return };
    let cluster = Cluster::new(&cloud, "lease");
    cluster.set("connect", "private");
    cluster.set("public_addresses", "all");
    cluster.more("ttl: 4m");
    let up = cluster.ok(&["up"]);
    eprintln!("an up with a ttl: {:.1} s", up.took.as_secs_f64());
    cluster.is_whole("up");
    assert_eq!(behaviors(&cluster), ["terminate".to_owned()].into());
    cluster.ok(&["health"]).shows(&["warning: the cluster expires at", "septet extend TTL"]);
    // What it costs now is what was planned: instances, volumes and addresses.
    let planned = cluster.ok(&["plan", "--json"]).json()["cost"]["hourly"].as_f64().unwrap();
    let costs = listed(&cluster, &cluster.name).unwrap()["hourly"].as_f64().unwrap();
    assert!((planned - costs).abs() < 1e-3, "{planned} {costs}");
    let first = end_of(&cluster);
    cloud.forget_calls();
    cluster.ok(&["extend", &format!("{}s", (first + PUT_OFF_S).saturating_sub(now_s()).max(60))]).says(&["expires at"]);
    let second = end_of(&cluster);
    assert!(second >= first + PUT_OFF_S, "{first} {second}");
    for host in SEVEN {
        let timer = cluster.ok(&["exec", host, "--", "cat /etc/systemd/system/septet-expiry.timer"]).out;
        assert!(timer.contains(&format!("OnCalendar=@{second}\n")), "{host}: {timer}");
    }
    // Data ends with its host again, now that the host itself ends with the cluster; in between it did not.
    assert_eq!(data_that_ends(&cluster), (6, 6));
    assert_eq!((flags(&cloud, "false"), flags(&cloud, "true")), (6, 6));
    cluster.ok(&["up"]).says(&["nothing changed"]);

    // The machine that made it is gone.
    fs::remove_dir_all(cluster.state()).unwrap();
    cloud.forget_calls();
    let filter = format!("label=septet.test.cloud={}", cloud.pid());
    let containers = || docker(&["ps", "-aq", "--filter", &filter]).lines().count();
    let running = || cluster.instances().values().filter(|i| i["state"] == "running").count();
    sleep_until(first + 10);
    assert!(now_s() < second, "this machine is too slow for the test");
    assert_eq!((running(), containers()), (7, 7), "the end that was put off has passed without effect");
    eventually("the first host shuts down", Duration::from_secs(PUT_OFF_S) + GONE_WITHIN, || running() < 7);
    assert!(now_s() >= second, "{} s early", second - now_s());
    eventually("all hosts are gone", GONE_WITHIN, || cluster.instances().is_empty() && containers() == 0);
    assert!(cloud.calls().is_empty(), "not by themselves: {:#?}", cloud.calls());
    is_over(&cluster, 0);
    removed_from_elsewhere(&cluster);
}

/// The hosts of a cluster whose `up` ended before it had logged in to any of them, and one that is stopped when the end comes.
#[test]
fn a_host_that_was_never_reached_ends_too() {
    if !enabled("a_host_that_was_never_reached_ends_too") {
        return;
    }
    let Some(cloud) = Cloud::paired("a_host_that_was_never_reached_ends_too", &node_image()) else { return };
    let cluster = Cluster::new(&cloud, "cut");
    cluster.more("ttl: 1m");
    cluster.up();
    let (first, stopped) = (end_of(&cluster), cluster.id("kafka03"));
    cloud.instance(&stopped, "stop");
    let left = || -> Vec<(String, Value)> { cluster.instances().into_iter().map(|(h, i)| (h, i["state"].clone())).collect() };
    let only_stopped = [("kafka03".to_owned(), json!("stopped"))];
    eventually("all but the one that is stopped are gone", GONE_WITHIN + Duration::from_secs(60), || left() == only_stopped);
    assert!(now_s() >= first, "{} s early", first - now_s());

    // The end that it knows has passed: with that it would end as soon as it has booted.
    cluster.up();
    let second = end_of(&cluster);
    assert_eq!(cluster.id("kafka03"), stopped);
    let host = docker(&["ps", "-q", "--filter", &format!("label=septet.test.instance={stopped}")]);
    let asks = |args: &[&str]| docker_try(&[&["exec", &host], args].concat()).out;
    // Before it is `starting`, systemd is `initializing`, or does not answer.
    let has_booted = || ["running", "degraded"].contains(&asks(&["systemctl", "is-system-running"]).trim());
    eventually("the host has booted", Duration::from_secs(30), has_booted);
    assert_eq!(asks(&["systemctl", "is-active", "septet-expiry.timer"]), "active\n");
    assert!(asks(&["cat", "/etc/systemd/system/septet-expiry.timer"]).contains(&format!("OnCalendar=@{second}\n")));
    eventually("all hosts are gone", GONE_WITHIN + Duration::from_secs(60), || cluster.instances().is_empty());
    assert!(now_s() >= second, "{} s early", second - now_s());
    is_over(&cluster, 0);
    removed_from_elsewhere(&cluster);
}

/// The same on paper, where hosts are told to shut down: what goes with an instance, in a cluster with an end, in one without, and in one
/// that got its end later.
#[test]
fn what_goes_with_its_instance() {
    let Some(cloud) = Cloud::new("what_goes_with_its_instance") else { return };
    let power_off = |cluster: &Cluster, hosts: &[&str]| hosts.iter().for_each(|h| cloud.instance(&cluster.id(h), "poweroff"));
    let (ends, endless) = (Cluster::new(&cloud, "ends"), Cluster::new(&cloud, "endless"));
    ends.more("ttl: 1h");
    // Its second volume is not data, and would stay if it were not told otherwise.
    ends.set("image", "ami-00000000000000017");
    ends.up();
    endless.up();
    assert_eq!((behaviors(&ends), ends.things()["volumes"].len()), (["terminate".to_owned()].into(), 7 + 7 + 6));
    assert_eq!(behaviors(&endless), ["stop".to_owned()].into());
    assert_eq!(data_that_ends(&ends), (6, 6));
    power_off(&ends, &SEVEN);
    is_over(&ends, 0);
    // From another directory, by its inventory alone: its time is not over.
    let elsewhere = Cluster::new(&cloud, "ends");
    elsewhere.ok(&["down", "--all-expired", "--yes"]).says(&["no cluster has expired"]);
    elsewhere.down();
    ends.is_gone("down");

    // A host that is shut down is not to lose anything in a cluster that does not end.
    let before = endless.instances();
    power_off(&endless, &["kafka01"]);
    let host = endless.instances()["kafka01"].clone();
    assert_eq!((&host["state"], &host["volumes"]), (&json!("stopped"), &before["kafka01"]["volumes"]), "{host}");
    endless.more("ttl: 2h");
    endless.up();
    assert_eq!(behaviors(&endless), ["terminate".to_owned()].into());
    endless.is_whole("an up that gives it an end");
    // The one that was started boots with it; the others were made without, and run.
    let end = format!("# end: {} endless\n", end_of(&endless));
    for (host, instance) in endless.instances() {
        assert_eq!(instance["user_data"].as_str().unwrap().contains(&end), host == "kafka01", "{host}");
    }
    // Nobody has set the timers of those that run: until then no data is at stake.
    assert_eq!(data_that_ends(&endless), (0, 6));
    power_off(&endless, &SEVEN);
    is_over(&endless, 6);
    endless.down();
    endless.is_gone("down");
}

/// Data that is to outlive a cluster which ends by itself, that becomes so later, or that `down` is told to keep.
#[test]
fn data_that_is_kept_outlives_the_end() {
    let Some(cloud) = Cloud::new("data_that_is_kept_outlives_the_end") else { return };
    let power_off = |cluster: &Cluster| SEVEN.iter().for_each(|h| cloud.instance(&cluster.id(h), "poweroff"));
    let cluster = Cluster::new(&cloud, "held");
    cluster.more("ttl: 1h");
    cluster.set("volume", "{keep: true}");
    cluster.up();
    assert_eq!(data_that_ends(&cluster), (0, 6));
    power_off(&cluster);
    is_over(&cluster, 6);
    // It is paid for without hosts too.
    let found = listed(&cluster, &cluster.name).unwrap();
    assert!((found["hourly"].as_f64().unwrap() - 6.0 * 20.0 * 0.08 / 730.0).abs() < 1e-4, "{found}");
    // Volumes that come back to new hosts do as the inventory has it now.
    cluster.set("volume", "{size: 20}");
    cluster.up();
    cluster.is_whole("an up with kept data");
    assert_eq!(data_that_ends(&cluster), (6, 6));
    // An end that is put off, and hosts that do not know it yet: they may still end at the one before.
    cluster.run(&["extend", "2h"]).code(1).says(&[NO_WAY_IN]);
    assert_eq!(data_that_ends(&cluster), (0, 6));
    cluster.up();
    assert_eq!(data_that_ends(&cluster), (0, 6));
    // In place, and shown before.
    let hosts = SEVEN[1..].iter().map(|h| cluster.host(h)).collect::<Vec<_>>().join(", ");
    cluster.run(&["plan"]).shows(&[&format!("~ data of {hosts}: goes with its host at the end of the cluster's life\n")]);
    // As an `up` that reaches the hosts does it.
    for host in &SEVEN[1..] {
        let mapping = [("BlockDeviceMapping.1.DeviceName", "/dev/sdf"), ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true")];
        cloud.aws("ModifyInstanceAttribute", &[&[("InstanceId", cluster.id(host).as_str())], &mapping[..]].concat());
    }
    assert_eq!(data_that_ends(&cluster), (6, 6));
    cluster.set("volume", "{keep: true}");
    cluster.run(&["plan"]).shows(&[&format!("~ data of {hosts}: outlives its host\n")]);
    cluster.up();
    assert_eq!(data_that_ends(&cluster), (0, 6));
    cluster.set("volume", "{size: 20}");
    // What Septet removes it removes by name: data stays if asked to.
    let receipt = cluster.ok(&["down", "--yes", "--keep-data", "--json"]).json();
    assert_eq!((&receipt["left"], receipt["kept"].as_array().unwrap().len()), (&json!([]), 6), "{receipt}");
    assert_eq!(cluster.things()["volumes"].len(), 6);
    cluster.up();
    cluster.is_whole("an up with the data that down kept");
    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(receipt["left"], json!([]), "{receipt}");
    cluster.is_gone("down");

    // AWS may take a spot instance back at any time.
    cluster.set("spot", "true");
    cluster.up().says(&["spot and ttl: an instance that AWS takes back takes its data along"]);
    cluster.set("volume", "{keep: true}");
    let ran = cluster.up();
    assert!(!ran.err.contains("spot and ttl"), "{}", ran.show());
    assert_eq!(data_that_ends(&cluster), (0, 6));
    cluster.down();
}
