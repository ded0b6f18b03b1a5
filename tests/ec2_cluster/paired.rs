//! The whole way, from RunInstances to a consumed record: instances are containers that run their user data, have their
//! addresses and keep their volumes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    clients::{CREATE_TOPIC, consume_all, kcat, numbers, produce_numbers, python},
    cloud::{Call, Cloud},
    cluster::Cluster,
    harness::{Ran, SEVEN, docker, enabled, eventually, node_image},
    permissions,
};

/// Records in the topic `kept`.
const RECORDS: usize = 300;

fn bootstrap(cluster: &Cluster) -> String {
    cluster.ok(&["endpoints", "--json"]).json()["bootstrap.servers"].as_str().unwrap().to_owned()
}

/// Insists on seven healthy hosts with all the records.
#[track_caller]
fn serves(cluster: &Cluster, after: &str) {
    cluster.is_whole(after);
    let health = cluster.ok(&["health", "--json"]).json();
    assert_eq!((&health["healthy"], &health["problems"]), (&json!(true), &json!([])), "after {after}");
    assert_eq!(consume_all(&bootstrap(cluster), "kept"), numbers(RECORDS), "after {after}");
}

fn part(instances: &BTreeMap<String, Value>, key: &str) -> BTreeMap<String, Value> {
    instances.iter().map(|(h, i)| (h.clone(), i[key].clone())).collect()
}

fn data_volumes(cluster: &Cluster) -> BTreeMap<String, Value> {
    let of = |i: &Value| i["volumes"].as_array().unwrap().iter().find(|v| v["device"] == "/dev/sdf").map(|v| v["id"].clone());
    cluster.instances().iter().filter_map(|(h, i)| Some((h.clone(), of(i)?))).collect()
}

#[test]
fn the_whole_way() {
    if !enabled("the_whole_way") {
        return;
    }
    let Some(cloud) = Cloud::paired("the_whole_way", &node_image()) else { return };
    let cluster = Cluster::new(&cloud, "whole");
    cluster.set("connect", "private");
    cluster.set("public_addresses", "all");
    cluster.set("external", "{from: [10.0.0.0/8]}");
    cloud.bystander();
    let others = cloud.others("whole");
    // Nothing beyond what the shipped policy allows is needed.
    permissions::restricted(&cloud, &permissions::shipped());
    from_nothing(&cluster);
    nothing_to_do(&cluster);
    commands_on_hosts(&cluster);
    another_host_key(&cluster);
    renamed(&cluster);
    stopped_in_the_console(&cluster);
    terminated(&cluster);
    another_type(&cluster);
    lost_state(&cluster);
    kept_data(&cluster);

    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!((&receipt["left"], receipt["removed"].as_array().unwrap().len()), (&json!([]), 7 + 13 + 4 + 1));
    cluster.is_gone("down");
    assert_eq!(cloud.others("whole").keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
    let filter = format!("label=septet.test.cloud={}", cloud.pid());
    eventually("only the bystander's hosts are left", Duration::from_secs(30), || {
        docker(&["ps", "-aq", "--filter", &filter]).lines().count() == 2
    });
    drop(cluster);
    drop(cloud);
    for listing in [&["ps", "-aq"], &["network", "ls"], &["volume", "ls"]] {
        let quiet: &[&str] = if listing[1] == "ls" { &["-q"] } else { &[] };
        assert_eq!(docker(&[&listing[..], quiet, &["--filter", &filter]].concat()), "");
    }
}

fn from_nothing(cluster: &Cluster) {
    let up = cluster.ok(&["up"]).says(&["up and healthy", "bootstrap.servers="]);
    eprintln!("an up from nothing: {:.1} s", up.took.as_secs_f64());
    cluster.is_whole("up");
    for (host, instance) in cluster.instances() {
        assert_eq!(instance["user_data_error"], Value::Null, "{host}");
    }
    let servers = bootstrap(cluster);
    let instances = cluster.instances();
    let wanted: Vec<String> =
        ["kafka01", "kafka02", "kafka03"].iter().map(|h| format!("{}:19092", instances[*h]["private_ip"].as_str().unwrap())).collect();
    assert_eq!(servers.split(',').collect::<BTreeSet<_>>(), wanted.iter().map(String::as_str).collect());
    assert!(python(CREATE_TOPIC, &[&servers, "kept", "3", "3"]).is_null());
    produce_numbers(&servers, "kept", RECORDS);
    serves(cluster, "up");
    // Each broker on its own leads to all.
    for broker in servers.split(',') {
        let listed: Value = serde_json::from_str(&kcat(broker, &["-L", "-J"], "")).unwrap();
        assert_eq!(listed["brokers"].as_array().unwrap().len(), 3, "{listed}");
    }
}

fn nothing_to_do(cluster: &Cluster) {
    // That data volumes have file systems is written down, so that they are never formatted again.
    for volume in &cluster.things()["volumes"] {
        let with_data = volume["size"] == 20;
        assert_eq!(volume["tags"]["septet:formatted"] == "yes", with_data, "{volume}");
    }
    let before = cluster.things();
    let again = cluster.ok(&["up"]).says(&["nothing changed"]);
    eprintln!("an up without changes: {:.2} s", again.took.as_secs_f64());
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);
    assert_eq!(cluster.things(), before);
}

fn commands_on_hosts(cluster: &Cluster) {
    let out = cluster.ok(&["exec", "all", "--", "hostname"]).out;
    let wanted: BTreeSet<String> = SEVEN.iter().map(|h| format!("{0} | {0}", cluster.host(h))).collect();
    assert_eq!(out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), wanted);
    assert_eq!(cluster.ok(&["exec", "kafka01", "-b", "--", "id", "-u"]).out, "0\n");
    let hosts = cluster.ok(&["exec", "zk02", "--", "cat", "/etc/hosts"]).out;
    for (host, instance) in cluster.instances() {
        let line = format!("{} {}", instance["private_ip"].as_str().unwrap(), cluster.host(&host));
        assert!(hosts.lines().any(|l| l.starts_with(&line)), "{line} in {hosts}");
    }
    // Data lies on the volume.
    let mount = cluster.ok(&["exec", "kafka01", "-b", "--", "findmnt -n -o SOURCE /data; ls /data"]).out;
    let volume = data_volumes(cluster)["kafka01"].as_str().unwrap().to_owned();
    assert!(mount.contains(&volume) && mount.contains("kafka-logs"), "{mount}");
    for host in ["control01", "kafka02"] {
        assert_eq!(cluster.ok(&["ssh", host, "--", "hostname"]).out.trim(), cluster.host(host));
    }
    let logs = cluster.ok(&["logs", "kafka03", "-n", "5"]);
    assert!(logs.out.contains("septet-broker"), "{}", logs.show());
}

/// A host whose key is not the one that was planted is not talked to.
fn another_host_key(cluster: &Cluster) {
    let id = cluster.id("kafka03");
    let key = cluster.instances()["kafka03"]["tags"]["septet:hostkey"].as_str().unwrap().to_owned();
    let other = cluster.instances()["kafka02"]["tags"]["septet:hostkey"].as_str().unwrap().to_owned();
    let tag =
        |value: &str| cluster.cloud.aws("CreateTags", &[("ResourceId.1", &id), ("Tag.1.Key", "septet:hostkey"), ("Tag.1.Value", value)]);
    tag(&other);
    cluster.run(&["up"]).code(1).says(&[&cluster.host("kafka03"), "refusing to connect"]);
    tag(&key);
    cluster.ok(&["up"]).says(&["nothing changed"]);
}

fn renamed(cluster: &Cluster) {
    let before = part(&cluster.instances(), "id");
    let ran = cluster.ok(&["rename", "anna"]);
    eprintln!("a rename: {:.1} s", ran.took.as_secs_f64());
    cluster.renamed("anna");
    assert_eq!(part(&cluster.instances(), "id"), before);
    let things = cluster.things();
    for kind in ["instances", "volumes", "network_interfaces"] {
        assert!(things[kind].iter().all(|v| v["tags"]["Name"].as_str().unwrap().starts_with("anna-")), "{things:#?}");
        assert!(things[kind].iter().all(|v| v["tags"]["septet:prefix"] == "anna"), "{things:#?}");
    }
    assert_eq!(cluster.ok(&["exec", "zk03", "--", "hostname"]).out, "anna-zk03\n");
    serves(cluster, "a rename");
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);
}

fn wait_for(cluster: &Cluster, host: &str, state: &str) {
    let id = cluster.id(host);
    eventually(&format!("{host} is {state}"), Duration::from_secs(60), || {
        let all = cluster.cloud.state()["instances"].as_array().unwrap().clone();
        all.iter().any(|i| i["id"] == *id && i["state"] == state)
    });
}

fn stopped_in_the_console(cluster: &Cluster) {
    let before = cluster.instances();
    cluster.cloud.instance(&cluster.id("kafka02"), "stop");
    wait_for(cluster, "kafka02", "stopped");
    cluster.run(&["health"]).code(3).shows(&["anna-kafka02", "stopped"]);
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&["~ host anna-kafka02: start"]);
    cluster.ok(&["up"]).says(&["~ host anna-kafka02: start"]);
    serves(cluster, "a stop in the console");
    let after = cluster.instances();
    assert_eq!(part(&after, "id"), part(&before, "id"));
    assert_eq!(part(&after, "private_ip"), part(&before, "private_ip"));
    for (host, instance) in &after {
        assert!(instance["public_ip"].is_string());
        assert_eq!(instance["public_ip"] == before[host]["public_ip"], host != "kafka02", "{host}");
    }
}

fn terminated(cluster: &Cluster) {
    let (before, volumes) = (cluster.instances(), data_volumes(cluster));
    let id = cluster.id("kafka03");
    cluster.cloud.instance(&id, "terminate");
    eventually("it is gone", Duration::from_secs(60), || !cluster.instances().contains_key("kafka03"));
    let line =
        format!("at {} with the data of {}", before["kafka03"]["private_ip"].as_str().unwrap(), volumes["kafka03"].as_str().unwrap());
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&["+ host anna-kafka03", &line]);
    cluster.ok(&["up"]).says(&["+ host anna-kafka03"]);
    serves(cluster, "a broker that was terminated");
    let after = cluster.instances();
    assert_ne!(after["kafka03"]["id"], before["kafka03"]["id"]);
    assert_eq!(part(&after, "private_ip"), part(&before, "private_ip"));
    assert_eq!(data_volumes(cluster), volumes);
}

/// Hosts in the order in which they were stopped; each must be back before the next goes.
fn one_at_a_time(cluster: &Cluster) -> Vec<String> {
    let names: BTreeMap<String, String> =
        cluster.instances().iter().map(|(h, i)| (i["id"].as_str().unwrap().to_owned(), h.clone())).collect();
    let calls: Vec<Call> = cluster
        .cloud
        .calls()
        .into_iter()
        .filter(|c| c.is_ok() && ["StopInstances", "StartInstances"].contains(&c.action.as_str()))
        .collect();
    for pair in calls.chunks(2) {
        let [stop, start] = pair else { panic!("{calls:#?}") };
        assert_eq!((stop.action.as_str(), start.action.as_str()), ("StopInstances", "StartInstances"), "{calls:#?}");
        assert_eq!(stop.get("InstanceId.1"), start.get("InstanceId.1"), "{calls:#?}");
    }
    calls.iter().step_by(2).map(|c| names[c.get("InstanceId.1").unwrap()].clone()).collect()
}

fn another_type(cluster: &Cluster) {
    let before = cluster.instances();
    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.small, brokers: t3.medium}");
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&["~ host anna-kafka01: from t3.small to t3.medium, stopped and started"]);
    cluster.cloud.forget_calls();
    let ran = cluster.ok(&["up"]).says(&["~ host anna-kafka02: from t3.small to t3.medium"]);
    eprintln!("three brokers of another type: {:.1} s", ran.took.as_secs_f64());
    let order = one_at_a_time(cluster);
    assert_eq!(order.iter().map(String::as_str).collect::<BTreeSet<_>>(), ["kafka01", "kafka02", "kafka03"].into());
    assert_eq!(order.len(), 3);
    serves(cluster, "another type");
    let after = cluster.instances();
    assert_eq!(part(&after, "id"), part(&before, "id"));
    for (host, instance) in &after {
        let wanted = if host.starts_with("kafka") { "t3.medium" } else { before[host]["type"].as_str().unwrap() };
        assert_eq!(instance["type"], wanted, "{host}");
    }
    cluster.ok(&["up"]).says(&["nothing changed"]);
}

fn lost_state(cluster: &Cluster) {
    let before = cluster.instances();
    fs::remove_dir_all(cluster.state()).unwrap();
    let planned = cluster.ok(&["plan"]).says(&["7 steps at the provider"]);
    planned.shows(&[&format!("~ host {}: add the login key of this state directory", cluster.host("kafka03"))]);
    cluster.cloud.forget_calls();
    let ran = cluster.ok(&["up"]).says(&["the hosts do not accept the key of this state directory: adding it"]);
    eprintln!("new login keys: {:.1} s", ran.took.as_secs_f64());
    let order = one_at_a_time(cluster);
    assert_eq!(order.iter().map(String::as_str).collect::<BTreeSet<_>>(), SEVEN.into());
    assert_eq!(order.len(), 7);
    serves(cluster, "a lost state directory");
    assert_eq!(part(&cluster.instances(), "id"), part(&before, "id"));
    // The lost key opens nothing any more: one key is left.
    let keys = cluster.ok(&["exec", "all", "--", "wc -l < .ssh/authorized_keys"]).out;
    assert!(keys.lines().all(|l| l.ends_with("| 1")), "{keys}");
}

fn kept_data(cluster: &Cluster) {
    let volumes = data_volumes(cluster);
    let receipt = cluster.ok(&["down", "--yes", "--keep-data", "--json"]).json();
    assert_eq!(receipt["kept"].as_array().unwrap().len(), 6);
    assert!(cluster.instances().is_empty());
    let up: Ran = cluster.ok(&["up"]);
    eprintln!("an up with kept data: {:.1} s", up.took.as_secs_f64());
    assert_eq!(data_volumes(cluster), volumes);
    serves(cluster, "kept data");
}
