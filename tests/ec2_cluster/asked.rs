//! What is asked of EC2 to make the seven hosts: the parameters of every call that creates something, as CloudTrail would show
//! them, and what came of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{
    cloud::{Call, Cloud},
    cluster::Cluster,
    harness::{Ran, SEVEN},
};

/// Launches by their hosts' names without the prefix.
fn launches(cluster: &Cluster) -> BTreeMap<String, Call> {
    let name = |c: &Call| c.tags("instance")["Name"].trim_start_matches(&format!("{}-", cluster.name)).to_owned();
    cluster.cloud.done("RunInstances").into_iter().map(|c| (name(&c), c)).collect()
}

/// Bytes from base64, by a program of others.
fn decoded(text: &str) -> String {
    let mut c = Command::new("base64");
    c.arg("-d");
    Ran::of(c, text, Duration::from_secs(10)).code(0).out
}

fn contains(cidr: &str, address: &str) -> bool {
    let (network, bits) = cidr.split_once('/').unwrap();
    let number = |a: &str| u32::from(a.parse::<Ipv4Addr>().unwrap());
    (number(network) ^ number(address)) >> (32 - bits.parse::<u32>().unwrap()) == 0
}

fn groups_of(call: &Call) -> BTreeSet<&str> {
    (1..6).filter_map(|n| call.get(&format!("NetworkInterface.1.SecurityGroupId.{n}"))).collect()
}

#[test]
fn by_default() {
    let Some(cloud) = Cloud::new("by_default") else { return };
    let cluster = Cluster::new(&cloud, "asked");
    // Nobody connects to the addresses that the instances get here: they stay pending, and the run is killed.
    cloud.set(json!({"state_delay_s": 600}));
    cluster.unset("public_addresses");
    cluster.set("tags", "{course: kafka-101}");
    cluster.more("ttl: 8h");
    let mut up = cluster.spawn(&["up"]);
    cloud.awaits("seven launches", |calls| calls.iter().filter(|c| c.action == "RunInstances" && c.is_ok() && !c.dry_run).count() == 7);
    up.kill().unwrap();
    up.wait().unwrap();

    let launches = launches(&cluster);
    assert_eq!(launches.keys().collect::<BTreeSet<_>>(), SEVEN.map(str::to_owned).iter().collect());
    assert_eq!(cloud.calls().iter().filter(|c| c.action == "RunInstances" && !c.dry_run).count(), 7);
    let uuid = launches["zk01"].tags("instance")["septet:cluster"].clone();
    tags_in_the_creating_call(&cluster, &launches, &uuid);
    places(&cluster, &launches);
    volumes_and_metadata(&cluster, &launches);
    user_data(&cluster, &launches, &uuid);
    let tokens: BTreeSet<&str> = launches.values().filter_map(|c| c.get("ClientToken")).collect();
    assert_eq!(tokens.len(), 7);
    // No other call gives anything a tag, and nothing else is made.
    let made: BTreeSet<String> = cloud.calls().into_iter().filter(Call::changes).map(|c| c.action).collect();
    let wanted = ["AuthorizeSecurityGroupIngress", "CreateSecurityGroup", "ImportKeyPair", "RunInstances"];
    assert_eq!(made, wanted.map(str::to_owned).into());
}

fn tags_in_the_creating_call(cluster: &Cluster, launches: &BTreeMap<String, Call>, uuid: &str) {
    let common = |tags: &BTreeMap<String, String>, name: &str| {
        let expires: u64 = tags["septet:expires"].parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now + 8 * 3600 - 90..=now + 8 * 3600).contains(&expires), "{tags:?}");
        for (key, value) in [
            ("septet:cluster", uuid),
            ("septet:name", &cluster.name),
            ("septet:prefix", &cluster.name),
            ("course", "kafka-101"),
            ("Name", name),
        ] {
            assert_eq!(tags.get(key).map(String::as_str), Some(value), "{key} in {tags:?}");
        }
    };
    let roles = [("control01", "control"), ("zk02", "coordinator"), ("kafka03", "broker")];
    for (host, call) in launches {
        for kind in ["instance", "volume", "network-interface"] {
            let tags = call.tags(kind);
            common(&tags, &cluster.host(host));
            assert_eq!(tags["septet:index"], host[host.len() - 1..], "{tags:?}");
            if let Some((_, role)) = roles.iter().find(|(h, _)| h == host) {
                assert_eq!(tags["septet:role"], *role);
            }
        }
    }
    let groups = cluster.cloud.done("CreateSecurityGroup");
    assert_eq!(groups.len(), 4);
    for call in &groups {
        common(&call.tags("security-group"), call.get("GroupName").unwrap());
    }
    let keys: Vec<Call> = cluster.cloud.done("ImportKeyPair").into_iter().filter(|c| c.get("KeyName") != Some(&cluster.lock())).collect();
    assert_eq!(keys.len(), 1);
    common(&keys[0].tags("key-pair"), keys[0].get("KeyName").unwrap());
    let private = fs::read_to_string(cluster.state().join(format!("septet/clusters/{uuid}/id_ed25519"))).unwrap();
    let public = decoded(keys[0].get("PublicKeyMaterial").unwrap());
    assert_eq!(words(&public, 2), words(&public_half(cluster, &private), 2));
    launches.values().for_each(|c| c.has("KeyName", keys[0].get("KeyName").unwrap()));
}

fn places(cluster: &Cluster, launches: &BTreeMap<String, Call>) {
    let state = cluster.cloud.state();
    let subnets: BTreeMap<&str, &Value> = state["subnets"].as_array().unwrap().iter().map(|s| (s["id"].as_str().unwrap(), s)).collect();
    let groups = cluster.groups();
    let (mut addresses, mut zones) = (BTreeSet::new(), BTreeMap::new());
    for (host, call) in launches {
        let subnet = subnets[call.get("NetworkInterface.1.SubnetId").unwrap()];
        assert_eq!((&subnet["vpc"], &subnet["default_for_az"]), (&state["default_vpc"], &json!(true)));
        let address = call.get("NetworkInterface.1.PrivateIpAddress").unwrap();
        assert!(contains(subnet["cidr"].as_str().unwrap(), address), "{address} of {subnet}");
        assert!(addresses.insert(address), "{address} twice");
        zones.insert(host.as_str(), subnet["zone"].as_str().unwrap());
        let id = |kind: &str| groups[kind]["id"].as_str().unwrap();
        let wanted = match host.as_str() {
            "control01" => vec![id("hosts"), id("control")],
            h if h.starts_with("kafka") => vec![id("hosts"), id("brokers")],
            _ => vec![id("hosts"), id("coordinators")],
        };
        assert_eq!(groups_of(call), wanted.into_iter().collect(), "{host}");
        // Only the control host is reached from outside.
        call.has("NetworkInterface.1.AssociatePublicIpAddress", if host == "control01" { "true" } else { "false" });
        call.has("InstanceType", if host == "control01" { "t3.micro" } else { "t3.small" });
        assert_eq!((call.get("MinCount"), call.get("MaxCount")), (Some("1"), Some("1")));
    }
    for three in [["zk01", "zk02", "zk03"], ["kafka01", "kafka02", "kafka03"]] {
        assert_eq!(three.map(|h| zones[h]).iter().collect::<BTreeSet<_>>().len(), 3, "{zones:?}");
    }
    for instance in cluster.instances().values() {
        assert_eq!(instance["public_ip"].is_string(), instance["name"] == cluster.host("control01"), "{instance}");
    }
}

fn volumes_and_metadata(cluster: &Cluster, launches: &BTreeMap<String, Call>) {
    for (host, call) in launches {
        call.has("MetadataOptions.HttpTokens", "required");
        call.has("MetadataOptions.HttpPutResponseHopLimit", "1");
        call.has("BlockDeviceMapping.1.DeviceName", "/dev/xvda");
        call.has("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true");
        let data = host != "control01";
        for n in 1..=if data { 2 } else { 1 } {
            call.has(&format!("BlockDeviceMapping.{n}.Ebs.VolumeType"), "gp3");
            call.has(&format!("BlockDeviceMapping.{n}.Ebs.Encrypted"), "true");
        }
        if data {
            call.has("BlockDeviceMapping.2.Ebs.VolumeSize", "20");
            // The cluster ends by itself, and its data with it.
            call.has("BlockDeviceMapping.2.Ebs.DeleteOnTermination", "true");
        }
        assert_eq!(call.get(if data { "BlockDeviceMapping.3.DeviceName" } else { "BlockDeviceMapping.2.DeviceName" }), None);
        assert!(!call.params.keys().any(|k| k.contains("InstanceMarketOptions")), "{call:#?}");
    }
    for instance in cluster.instances().values() {
        let options = &instance["metadata_options"];
        assert_eq!((&options["http_tokens"], &options["http_put_response_hop_limit"]), (&json!("required"), &json!(1)));
    }
    let things = cluster.things();
    assert_eq!(things["volumes"].len(), 13);
    assert!(things["volumes"].iter().all(|v| v["encrypted"] == true && v["type"] == "gp3"), "{things:#?}");
}

/// The public half of a private key, as OpenSSH sees it.
fn public_half(cluster: &Cluster, private: &str) -> String {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let path = cluster.path().join("key");
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.write_all(private.as_bytes()).unwrap();
    let mut c = Command::new("ssh-keygen");
    c.args(["-y", "-f"]).arg(path);
    Ran::of(c, "", Duration::from_secs(10)).code(0).out
}

fn words(text: &str, count: usize) -> Vec<&str> {
    text.split_whitespace().take(count).collect()
}

fn user_data(cluster: &Cluster, launches: &BTreeMap<String, Call>, uuid: &str) {
    let private = fs::read_to_string(cluster.state().join(format!("septet/clusters/{uuid}/id_ed25519"))).unwrap();
    let secret = private.lines().nth(3).unwrap();
    let login = public_half(cluster, &private);
    let mut keys = BTreeSet::new();
    for call in launches.values() {
        let text = decoded(call.get("UserData").unwrap());
        assert!(text.starts_with("#cloud-config\n") && !text.contains(secret), "{text}");
        let config = septet::yaml::parse(Path::new("user-data"), text).unwrap().value();
        let planted = &config["ssh_keys"];
        let of_private = public_half(cluster, planted["ed25519_private"].as_str().unwrap());
        assert_eq!(words(planted["ed25519_public"].as_str().unwrap(), 2), words(&of_private, 2));
        assert_eq!(words(&call.tags("instance")["septet:hostkey"], 2), words(&of_private, 2));
        assert_eq!(
            (&config["ssh_deletekeys"], &config["ssh_pwauth"], &config["disable_root"]),
            (&json!(true), &json!(false), &json!(true))
        );
        let user = config["users"].as_array().unwrap().iter().find(|u| u["name"] == "septet").unwrap();
        assert_eq!(words(user["ssh_authorized_keys"][0].as_str().unwrap(), 2), words(&login, 2));
        assert_eq!(user["lock_passwd"], true);
        keys.insert(of_private);
    }
    assert_eq!(keys.len(), 7, "each host has a key of its own");
}

#[test]
fn by_wish() {
    let Some(cloud) = Cloud::new("by_wish") else { return };
    let cluster = Cluster::new(&cloud, "wish");
    cluster.set("instance_type", "{control: t3.nano, coordinators: m5.large, brokers: [c5.large, c5a.large]}");
    cluster.set("image", "debian-12");
    cluster.set("zones", "[us-east-1a, us-east-1b]");
    cluster.set("volume", "{size: 40, iops: 4000, throughput: 250, kms_key: alias/lesson}");
    cluster.set("root_volume", "{size: 12, encrypted: false}");
    cluster.set("spot", "true");
    cluster.up();
    let calls = launches(&cluster);
    assert_eq!(calls.len(), 7);
    for (host, call) in &calls {
        call.has("InstanceMarketOptions.MarketType", "spot");
        call.has("BlockDeviceMapping.1.Ebs.VolumeSize", "12");
        assert_ne!(call.get("BlockDeviceMapping.1.Ebs.Encrypted"), Some("true"));
        if host != "control01" {
            for (key, value) in
                [("VolumeSize", "40"), ("Iops", "4000"), ("Throughput", "250"), ("Encrypted", "true"), ("KmsKeyId", "alias/lesson")]
            {
                call.has(&format!("BlockDeviceMapping.2.Ebs.{key}"), value);
            }
            call.has("BlockDeviceMapping.2.Ebs.DeleteOnTermination", "false");
        }
        let wanted = match &host[..2] {
            "co" => "t3.nano",
            "zk" => "m5.large",
            _ => "c5.large",
        };
        call.has("InstanceType", wanted);
    }
    let instances = cluster.instances();
    let zones: BTreeSet<&str> = instances.values().map(|i| i["zone"].as_str().unwrap()).collect();
    assert_eq!(zones, ["us-east-1a", "us-east-1b"].into());
    assert!(instances.values().all(|i| i["lifecycle"] == "spot" && i["public_ip"].is_null()), "{instances:#?}");
    // The newest of its kind: the stand-in has three.
    let image = cloud.aws("DescribeImages", &[("ImageId.1", instances["zk01"]["image"].as_str().unwrap())]);
    assert!(image.contains("debian-12-amd64-20261012-2257"), "{image}");
    cluster.down();
    cluster.is_gone("down");

    // Data on the system's volume, all hosts with addresses of their own, one subnet.
    let subnet = cloud.state()["subnets"].as_array().unwrap().iter().find(|s| s["zone"] == "us-east-1c").unwrap()["id"].clone();
    for key in ["image", "zones", "root_volume", "spot", "instance_type"] {
        cluster.unset(key);
    }
    cluster.set("volume", "false");
    cluster.set("subnets", &format!("[{}]", subnet.as_str().unwrap()));
    cluster.set("public_addresses", "all");
    cluster.set("connect", "private");
    cloud.set(json!({"state_delay_s": 600}));
    cloud.forget_calls();
    let mut up = cluster.spawn(&["up"]);
    cloud.awaits("seven launches", |calls| calls.iter().filter(|c| c.action == "RunInstances" && c.is_ok() && !c.dry_run).count() == 7);
    up.kill().unwrap();
    up.wait().unwrap();
    for call in launches(&cluster).values() {
        call.has("NetworkInterface.1.SubnetId", subnet.as_str().unwrap());
        call.has("NetworkInterface.1.AssociatePublicIpAddress", "true");
        assert_eq!(call.get("BlockDeviceMapping.2.DeviceName"), None);
        assert!(!call.tags("instance").contains_key("septet:expires"));
    }
    assert_eq!(cluster.things()["volumes"].len(), 7);
}

/// Every call of an `up`, of an `up` that has nothing to do, and of a `down`.
#[test]
fn few_calls() {
    let Some(cloud) = Cloud::new("few_calls") else { return };
    let cluster = Cluster::new(&cloud, "few");
    cluster.up();
    let first = cloud.calls().len();
    cloud.forget_calls();
    cluster.up();
    let second: Vec<String> = cloud.calls().into_iter().map(|c| c.action).collect();
    eprintln!("calls of an up: {first}; of one with nothing to do: {second:?}");
    assert!(first <= 50, "{first}");
    // Who holds it, what there is, and giving it back.
    assert!(second.len() <= 5, "{second:?}");
    cloud.forget_calls();
    cluster.down();
    let last: Vec<String> = cloud.calls().into_iter().map(|c| c.action).collect();
    eprintln!("calls of a down: {}: {last:?}", last.len());
    // One for each volume with data; systems' volumes go with their instances.
    assert_eq!(last.iter().filter(|a| *a == "DeleteVolume").count(), 6, "{last:?}");
    assert!(last.len() <= 40, "{last:?}");
}
