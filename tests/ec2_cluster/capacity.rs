//! No room: in one zone, for one type, anywhere; an address that somebody took; a quota that is found out late.

use serde_json::json;

use super::{cloud::Cloud, cluster::Cluster};

/// What EC2 says where there is no room; the status is that of an error of its own, and not to be repeated.
fn no_room(cloud: &Cloud, parameter: &str, value: &str) {
    let fault = json!({"action": "RunInstances", "code": "InsufficientInstanceCapacity", "status": 500, "times": -1, "match": {parameter: value},
        "message": "We currently do not have sufficient capacity in the Availability Zone you requested."});
    cloud.fault(fault);
}

#[test]
fn the_next_zone_then_the_next_type() {
    let Some(cloud) = Cloud::new("the_next_zone_then_the_next_type") else { return };
    let cluster = Cluster::new(&cloud, "room");
    cluster.set("zones", "[us-east-1a, us-east-1b, us-east-1c]");
    let state = cloud.state();
    let subnets = state["subnets"].as_array().unwrap();
    let in_a = subnets.iter().find(|s| s["zone"] == "us-east-1a").unwrap()["id"].as_str().unwrap();
    no_room(&cloud, "NetworkInterface.1.SubnetId", in_a);
    let said = "room-zk01: no room for t3.small in us-east-1a (InsufficientInstanceCapacity); trying t3.small in us-east-1b";
    cluster.up().says(&[said]);
    cluster.is_whole("a full zone");
    let zones: Vec<String> =
        ["control01", "zk01", "zk02", "kafka01", "kafka03"].map(|h| cluster.instances()[h]["zone"].as_str().unwrap().to_owned()).into();
    assert_eq!(zones, ["us-east-1b", "us-east-1b", "us-east-1b", "us-east-1b", "us-east-1c"]);
    // Elsewhere at once: not asked again where there is none.
    let refused = cloud
        .calls()
        .into_iter()
        .filter(|c| c.action == "RunInstances" && c.result.as_deref() == Some("InsufficientInstanceCapacity"))
        .count();
    assert_eq!(refused, 3);
    cluster.down();
    cloud.calm();

    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.small, brokers: [t3.small, t3a.small, m5.large]}");
    no_room(&cloud, "InstanceType", "t3.small");
    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.micro, brokers: [t3.small, t3a.small]}");
    cluster.up().says(&["room-kafka02: no room for t3.small in us-east-1a", "trying t3a.small in us-east-1b"]);
    cluster.is_whole("a type without room");
    let instances = cluster.instances();
    assert_eq!(
        ["zk01", "kafka01", "kafka02", "kafka03"].map(|h| instances[h]["type"].as_str().unwrap()),
        ["t3.micro", "t3a.small", "t3a.small", "t3a.small"]
    );
    // What there was room for stays.
    cloud.calm();
    cluster.run(&["plan"]).code(1).says(&["has no public address"]);
    assert!(!cluster.run(&["plan"]).out.contains("~ host"));
    cluster.down();
    cluster.is_gone("down");
}

#[test]
fn no_room_anywhere() {
    let Some(cloud) = Cloud::new("no_room_anywhere") else { return };
    let cluster = Cluster::new(&cloud, "full");
    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.micro, brokers: t3.small}");
    no_room(&cloud, "InstanceType", "t3.small");
    let ran = cluster.run(&["up"]).code(1);
    let ran = ran.says(&[
        "3 hosts: ",
        "full-kafka03",
        "InsufficientInstanceCapacity",
        "nothing is left to try",
        "`septet -i inventory.yml up` resumes from here",
    ]);
    ran.says(&["none of us-east-1a, us-east-1b", "has room for t3.small", "`instance_type: [t3.small, m5.large]`", "or try later"]);
    assert_eq!(cluster.instances().len(), 4);
    cloud.calm();
    cluster.up();
    cluster.is_whole("room again");
    // A quota that is used up while it runs.
    cluster.down();
    let limit = json!({"action": "RunInstances", "code": "VcpuLimitExceeded", "status": 400, "times": 2, "skip": 3, "message": "You have requested more vCPU capacity"});
    cloud.fault(limit);
    cluster.run(&["up"]).code(1).says(&["2 hosts: ", "VcpuLimitExceeded", "the account's quota does not allow more"]);
    assert_eq!(cluster.instances().len(), 5);
    cluster.up();
    cluster.is_whole("a larger quota");
    cluster.down();
    cluster.is_gone("down");
}

#[test]
fn somebody_elses_address() {
    let Some(cloud) = Cloud::new("somebody_elses_address") else { return };
    let cluster = Cluster::new(&cloud, "taken");
    let fault =
        json!({"action": "RunInstances", "code": "InvalidIPAddress.InUse", "status": 400, "skip": 2, "message": "Address is in use."});
    // Nobody has it: what had it a moment ago is still going away.
    cloud.fault(fault);
    let ran = cluster.up();
    assert!(!ran.err.contains("choosing another"), "{}", ran.show());
    cluster.is_whole("an address that was in use");
    cluster.down();
    // Who takes the address of a host that was terminated keeps it.
    cluster.up();
    let was = cluster.instances()["zk02"].clone();
    cloud.instance(was["id"].as_str().unwrap(), "terminate");
    let address = was["private_ip"].as_str().unwrap();
    cloud.aws("CreateNetworkInterface", &[("SubnetId", was["subnet"].as_str().unwrap()), ("PrivateIpAddress", address)]);
    cluster.up().says(&[&format!("taken-zk02: address {address} is in use; choosing another")]);
    cluster.is_whole("an address that somebody took");
    assert_ne!(cluster.instances()["zk02"]["private_ip"], address);
    // A new cluster goes where all is free.
    let second = Cluster::new(&cloud, "second");
    let ran = second.up();
    assert!(!ran.err.contains("choosing another"), "{}", ran.show());
    second.is_whole("up beside another");
    cluster.is_whole("another beside it");
}
