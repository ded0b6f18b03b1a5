//! `down`: what is removed, in which order, what is waited for, what it says; and what is not touched.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};

use super::{
    cloud::{Cloud, Things},
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

fn ids(things: &Things) -> BTreeSet<String> {
    // Interfaces go with their instances.
    let kinds = things.iter().filter(|(k, _)| *k != "network_interfaces");
    kinds.flat_map(|(_, list)| list).map(|v| v["id"].as_str().unwrap().to_owned()).collect()
}

fn receipt_ids(receipt: &Value, list: &str) -> BTreeSet<String> {
    let all = receipt[list].as_array().unwrap();
    let ids: BTreeSet<String> = all.iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), all.len(), "something is there twice: {receipt}");
    ids
}

#[test]
fn all_of_it_and_a_receipt() {
    let Some(cloud) = Cloud::new("all_of_it_and_a_receipt") else { return };
    let cluster = Cluster::new(&cloud, "bill");
    cloud.bystander();
    let others = cloud.others("bill");
    cluster.up();
    let there = ids(&cluster.things());
    assert_eq!(there.len(), 7 + 13 + 4 + 1);
    cloud.set(json!({"state_delay_s": 1}));
    cloud.forget_calls();
    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    cluster.is_gone("down");
    assert_eq!(cloud.others("bill"), others);

    assert_eq!((&receipt["cluster"], &receipt["left"], &receipt["kept"]), (&json!("bill"), &json!([]), &json!([])));
    assert_eq!(receipt_ids(&receipt, "removed"), there);
    let (began, listed) = (receipt["began_at"].as_str().unwrap(), receipt["listed_at"].as_str().unwrap());
    assert!(began.ends_with('Z'), "RFC 3339 in UTC, so that it is ordered as a text: {began}");
    for r in receipt["removed"].as_array().unwrap() {
        assert!((began..=listed).contains(&r["removed_at"].as_str().unwrap()), "{r}");
        assert!(!r["name"].as_str().unwrap().is_empty() && !r["kind"].as_str().unwrap().is_empty(), "{r}");
    }
    let last = cluster.ok(&["history", "-n", "1", "--json"]).json()[0].clone();
    assert_eq!((&last["command"], &last["cluster"], &last["status"]), (&json!("down"), &json!("bill"), &json!("completed")));
    let log = cluster.ok(&["history", "log", &last["execution"].to_string(), "--json"]).out;
    let event = log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|e| e["event"] == "receipt").unwrap();
    assert_eq!(event["receipt"], receipt);

    // In the order of dependence; what is in use is waited for, not tried at.
    let calls: Vec<_> = cloud.calls().into_iter().filter(|c| c.changes() && c.get("KeyName") != Some(&cluster.lock())).collect();
    let first = |action: &str| calls.iter().position(|c| c.action == action).unwrap_or_else(|| panic!("no {action} in {calls:#?}"));
    let last = |action: &str| calls.iter().rposition(|c| c.action == action).unwrap();
    assert!(first("TerminateInstances") < first("DeleteVolume"));
    assert!(first("DeleteVolume") < first("DeleteSecurityGroup"));
    assert!(last("DeleteSecurityGroup") < last("DeleteKeyPair"));
    assert!(calls[first("DeleteVolume")].at - calls[first("TerminateInstances")].at >= 1.0);
    assert_eq!(calls.iter().filter(|c| c.action == "TerminateInstances").count(), 1, "{calls:#?}");
    let in_use: Vec<_> = calls.iter().filter(|c| !c.is_ok() && c.result.as_deref() != Some("InvalidVolume.NotFound")).collect();
    assert!(in_use.is_empty(), "{in_use:#?}");

    // Once more.
    cluster.down().says(&["cluster bill does not exist"]);
    let nothing = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(nothing, json!({"cluster": "bill", "removed": [], "left": []}));
    assert_eq!(cloud.others("bill"), others);
}

#[test]
fn who_asks_for_it() {
    let Some(cloud) = Cloud::new("who_asks_for_it") else { return };
    let cluster = Cluster::new(&cloud, "typed");
    cluster.up();
    for (typed, says) in
        [("wrong\n", "that is not the cluster's name; nothing was removed"), ("", "not confirmed: type the cluster's name")]
    {
        let ran = cluster.run_with(&["down"], typed).code(1).says(&[says, "Type the cluster's name (typed)"]);
        assert!(cluster.instances().values().all(|i| ran.err.contains(i["id"].as_str().unwrap())), "{}", ran.show());
        cluster.is_whole("a down that was not meant");
    }
    // The name is enough, from another machine too: nothing local is needed.
    fs::remove_dir_all(cluster.state()).unwrap();
    let down = cluster.run_with(&["down"], "typed\n").code(0);
    down.shows(&["instance", "typed-kafka03", "volume", "security-group", "key-pair", "UTC"]).says(&[
        "destroyed 25 resources of cluster typed",
        "a listing by that id at",
        "finds 0",
    ]);
    cluster.is_gone("down");
}

#[test]
fn what_is_protected_is_named() {
    let Some(cloud) = Cloud::new("what_is_protected_is_named") else { return };
    let cluster = Cluster::new(&cloud, "held");
    cluster.up();
    let id = cluster.id("zk02");
    cloud.aws("ModifyInstanceAttribute", &[("InstanceId", &id), ("DisableApiTermination.Value", "true")]);
    // It is no matter of time: said soon.
    Ran::of(cluster.command(&["down", "--yes"]), "", Duration::from_secs(45)).code(1).says(&[&id, "protected", "hint:"]);
    assert_eq!(cluster.instances().keys().collect::<Vec<_>>(), ["zk02"]);
    cloud.aws("ModifyInstanceAttribute", &[("InstanceId", &id), ("DisableApiTermination.Value", "false")]);
    cluster.down();
    cluster.is_gone("down");
}

#[test]
fn data_is_kept_and_found_again() {
    let Some(cloud) = Cloud::new("data_is_kept_and_found_again") else { return };
    let cluster = Cluster::new(&cloud, "keep");
    cluster.up();
    let data = |cluster: &Cluster| -> BTreeSet<String> {
        let volumes = cluster.things()["volumes"].clone();
        volumes.iter().filter(|v| v["size"] == 20).map(|v| v["id"].as_str().unwrap().to_owned()).collect()
    };
    let (before, there) = (cluster.instances(), data(&cluster));
    assert_eq!(there.len(), 6);
    let receipt = cluster.ok(&["down", "--yes", "--keep-data", "--json"]).json();
    assert_eq!(receipt_ids(&receipt, "kept"), there);
    let left = cluster.things();
    assert_eq!(ids(&left), there);
    assert!(left["volumes"].iter().all(|v| v["state"] == "available"), "{left:#?}");
    cluster.ok(&["down", "--yes", "--keep-data"]).says(&["cluster keep does not exist, except for data that is kept"]);

    // The same volumes, each for its host, in its zone; no new ones.
    cluster.ok(&["plan"]).shows(&["+ host keep-kafka02 (t3.small with the data of vol-"]);
    cloud.forget_calls();
    cluster.up();
    cluster.is_whole("an up with kept data");
    assert_eq!(data(&cluster), there);
    let after = cluster.instances();
    for (host, is) in &after {
        let was = &before[host];
        assert_ne!(is["id"], was["id"]);
        assert_eq!((&is["zone"], &is["name"]), (&was["zone"], &was["name"]));
        let of = |i: &Value| i["volumes"].as_array().unwrap().iter().find(|v| v["device"] == "/dev/sdf").map(|v| v["id"].clone());
        assert_eq!(of(is), of(was), "{host}");
    }
    assert_eq!(cloud.done("AttachVolume").len(), 6);
    // It still outlives its host, and goes with the cluster.
    cloud.instance(after["kafka01"]["id"].as_str().unwrap(), "terminate");
    cluster.up();
    cluster.is_whole("a broker that was terminated");
    assert_eq!(data(&cluster), there);
    assert_eq!(cluster.instances()["kafka01"]["private_ip"], after["kafka01"]["private_ip"]);
    cluster.ok(&["down", "--yes", "--keep-data"]);
    assert_eq!(data(&cluster), there);
    // Whoever has lost the state can still have both.
    fs::remove_dir_all(cluster.state()).unwrap();
    cluster.up();
    assert_eq!(data(&cluster), there);
    cluster.ok(&["down", "--yes", "--keep-data"]);
    cluster.down();
    cluster.is_gone("down");
}

#[test]
fn whose_time_is_over() {
    let Some(cloud) = Cloud::new("whose_time_is_over") else { return };
    let (one, two, endless) = (Cluster::new(&cloud, "over"), Cluster::new(&cloud, "lasts"), Cluster::new(&cloud, "endless"));
    one.more("ttl: 1m");
    two.more("ttl: 2d");
    for cluster in [&one, &two, &endless] {
        cluster.up();
    }
    two.ok(&["down", "--all-expired", "--yes"]).says(&["no cluster has expired"]);
    // The minute need not be waited for.
    let mut form: Vec<(String, String)> = vec![("Tag.1.Key".into(), "septet:expires".into()), ("Tag.1.Value".into(), "1000000000".into())];
    form.extend(ids(&one.things()).into_iter().enumerate().map(|(n, id)| (format!("ResourceId.{}", n + 1), id)));
    let form: Vec<(&str, &str)> = form.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    cloud.aws("CreateTags", &form);
    // By somebody else, with another inventory; asked for by a word.
    two.run_with(&["down", "--all-expired"], "lasts\n").code(1).says(&["over", "2001-09-09", "nothing was removed"]);
    one.is_whole("a down that was not meant");
    let receipts = two.ok(&["down", "--all-expired", "--yes", "--json"]).json();
    assert_eq!((&receipts[0]["cluster"], receipts.as_array().unwrap().len()), (&json!("over"), 1));
    one.is_gone("down of what is over");
    two.is_whole("down of what is over");
    endless.is_whole("down of what is over");
}

#[test]
fn a_network_of_its_own() {
    let Some(cloud) = Cloud::new("a_network_of_its_own") else { return };
    let cluster = Cluster::new(&cloud, "own");
    cluster.set("vpc", "{new: 10.88.0.0/20}");
    cluster.set("zones", "[us-east-1a, us-east-1b, us-east-1c]");
    cloud.bystander();
    let before = cloud.state();
    cluster.ok(&["plan"]).shows(&["a VPC of the cluster's own will be made"]);
    cluster.up();
    cluster.is_whole("up");
    let things = cluster.things();
    assert_eq!((things["vpcs"].len(), things["subnets"].len(), things["internet_gateways"].len()), (1, 3, 1));
    let vpc = &things["vpcs"][0];
    assert_eq!(vpc["cidr"], "10.88.0.0/20");
    assert_eq!(things["internet_gateways"][0]["vpc"], vpc["id"]);
    let subnets: BTreeSet<&str> = things["subnets"].iter().map(|s| s["cidr"].as_str().unwrap()).collect();
    assert_eq!(subnets, ["10.88.0.0/22", "10.88.4.0/22", "10.88.8.0/22"].into());
    // A table of routes of its own: the main one is anybody's.
    let [table] = things["route_tables"].as_slice() else { panic!("{things:#?}") };
    assert_eq!(table["associations"].as_array().unwrap().len(), 3, "{table}");
    let out = json!({"destination": "0.0.0.0/0", "target": things["internet_gateways"][0]["id"], "state": "active"});
    assert!(table["routes"].as_array().unwrap().contains(&out), "{table}");
    assert!(cluster.instances().values().all(|i| i["vpc"] == vpc["id"]));
    let there = ids(&things);
    cluster.up();
    assert_eq!(ids(&cluster.things()), there);

    cloud.forget_calls();
    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(receipt_ids(&receipt, "removed"), there);
    cluster.is_gone("down");
    let order: Vec<String> = cloud.calls().into_iter().filter(|c| c.changes() && c.is_ok()).map(|c| c.action).collect();
    let at = |action: &str| order.iter().position(|a| a == action).unwrap();
    assert!(at("TerminateInstances") < at("DeleteSubnet") && at("DeleteSubnet") < at("DeleteRouteTable"));
    assert!(at("DeleteRouteTable") < at("DetachInternetGateway"), "{order:?}");
    assert!(at("DetachInternetGateway") < at("DeleteInternetGateway") && at("DeleteInternetGateway") < at("DeleteVpc"), "{order:?}");
    let after = cloud.state();
    for kind in ["vpcs", "subnets", "internet_gateways", "route_tables", "security_groups", "key_pairs", "volumes", "network_interfaces"] {
        assert_eq!(after[kind], before[kind]);
    }
}

/// In a cluster that ends by itself an instance takes its data along. What is made in its place has a volume of its own all the same.
#[test]
fn what_ends_with_its_data_is_made_with_a_new_volume() {
    let Some(cloud) = Cloud::new("what_ends_with_its_data_is_made_with_a_new_volume") else { return };
    let cluster = Cluster::new(&cloud, "along");
    cluster.more("ttl: 2h");
    cluster.up();
    let data = |i: &Value| i["volumes"].as_array().unwrap().iter().find(|v| v["device"] == "/dev/sdf").map(|v| v["id"].clone());
    let before = cluster.instances();
    cloud.set(json!({"state_delay_s": 3}));
    cloud.instance(&cluster.id("kafka02"), "terminate");
    cluster.run(&["up"]).code(1).says(&[NO_WAY_IN, "along-kafka02: waiting until", "+ host along-kafka02"]);
    cloud.set(json!({"state_delay_s": 0}));
    cluster.is_whole("an instance that ended with its data");
    let after = cluster.instances();
    assert!(data(&after["kafka02"]).is_some() && data(&after["kafka02"]) != data(&before["kafka02"]), "{after:#?}");
    cluster.down();
}

/// An instance that is about to end has the host's address and data still: its successor waits for both.
#[test]
fn what_is_about_to_end_is_waited_for() {
    let Some(cloud) = Cloud::new("what_is_about_to_end_is_waited_for") else { return };
    let cluster = Cluster::new(&cloud, "leave");
    cluster.up();
    let before = cluster.instances();
    let volumes = ids(&cluster.things()).into_iter().filter(|i| i.starts_with("vol-")).count();
    cloud.set(json!({"state_delay_s": 3}));
    for host in ["kafka02", "zk01"] {
        cloud.instance(&cluster.id(host), "terminate");
    }
    let id = before["kafka02"]["id"].as_str().unwrap();
    cluster.run(&["up"]).code(1).says(&[&format!("leave-kafka02: waiting until {id} has ended"), "+ host leave-kafka02"]);
    cloud.set(json!({"state_delay_s": 0}));
    cluster.up();
    cluster.is_whole("hosts that were about to end");
    let after = cluster.instances();
    let data = |i: &Value| i["volumes"].as_array().unwrap().iter().find(|v| v["device"] == "/dev/sdf").map(|v| v["id"].clone());
    for host in ["kafka02", "zk01"] {
        assert_ne!(after[host]["id"], before[host]["id"]);
        assert_eq!((&after[host]["private_ip"], data(&after[host])), (&before[host]["private_ip"], data(&before[host])), "{host}");
    }
    assert_eq!(ids(&cluster.things()).into_iter().filter(|i| i.starts_with("vol-")).count(), volumes);
    cluster.down();
    cluster.is_gone("down");
}

/// A second instance in a host's place, however it came there: it goes, with the volume that nobody has used; the host stays.
#[test]
fn a_second_one_goes_with_what_came_with_it() {
    let Some(cloud) = Cloud::new("a_second_one_goes_with_what_came_with_it") else { return };
    let cluster = Cluster::new(&cloud, "twice");
    cluster.up();
    let (before, there) = (cluster.instances(), ids(&cluster.things()));
    let host = &before["kafka01"];
    let mut params: Vec<(String, String)> = [
        ("ImageId", host["image"].as_str().unwrap()),
        ("InstanceType", "t3.small"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("SubnetId", host["subnet"].as_str().unwrap()),
        ("BlockDeviceMapping.1.DeviceName", "/dev/sdf"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "20"),
        ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec();
    for (number, kind) in ["instance", "volume"].into_iter().enumerate() {
        let at = format!("TagSpecification.{}", number + 1);
        params.push((format!("{at}.ResourceType"), kind.to_owned()));
        for (tag, (key, value)) in host["tags"].as_object().unwrap().iter().enumerate() {
            params.push((format!("{at}.Tag.{}.Key", tag + 1), key.clone()));
            params.push((format!("{at}.Tag.{}.Value", tag + 1), value.as_str().unwrap().to_owned()));
        }
    }
    let params: Vec<(&str, &str)> = params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    // Which one is older is told in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    cloud.aws("RunInstances", &params);
    assert_eq!(cluster.things()["instances"].len(), 8);
    cluster.run(&["up"]).says(&["- host twice-kafka01 (i-", "a second one in its place"]);
    cluster.is_whole("a second instance in a host's place");
    assert_eq!(cluster.instances()["kafka01"]["id"], host["id"]);
    assert_eq!(ids(&cluster.things()), there);
    cluster.down();
    cluster.is_gone("down");
}

/// A host that was made without a volume is started without one, whatever the inventory says by then.
#[test]
fn volumes_count_when_a_host_is_made() {
    let Some(cloud) = Cloud::new("volumes_count_when_a_host_is_made") else { return };
    let cluster = Cluster::new(&cloud, "bare");
    cluster.set("volume", "false");
    cluster.up();
    cluster.unset("volume");
    cloud.instance(&cluster.id("kafka01"), "stop");
    Ran::of(cluster.command(&["up"]), "", Duration::from_secs(45)).code(1).says(&["~ host bare-kafka01: start", super::cluster::NO_WAY_IN]);
    assert_eq!(cluster.instances()["kafka01"]["state"], "running");
    cluster.down();
    cluster.is_gone("down");
}
