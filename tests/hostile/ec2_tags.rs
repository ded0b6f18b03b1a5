//! Tags of a hostile member of the account: they become no path, no command, no option, and nobody's loss.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

/// A UUID that no cluster of these tests has.
const STRANGER: &str = "0123e456-e89b-42d3-a456-426614174000";

/// The text of an element of an XML answer.
fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split('<').next().unwrap().to_owned()
}

fn tag(cloud: &Cloud, id: &str, tags: &[(&str, &str)]) {
    for (key, value) in tags {
        cloud.aws("CreateTags", &[("ResourceId.1", id), ("Tag.1.Key", key), ("Tag.1.Value", value)]);
    }
}

/// A stranger's volume with tags.
fn volume(cloud: &Cloud, tags: &[(&str, &str)]) -> String {
    let id = element(&cloud.aws("CreateVolume", &[("AvailabilityZone", "us-east-1a"), ("Size", "1")]), "volumeId");
    tag(cloud, &id, tags);
    id
}

/// A stranger's security group with tags, and one open port.
fn group(cloud: &Cloud, name: &str, tags: &[(&str, &str)]) -> String {
    let vpc = cloud.state()["vpcs"].as_array().unwrap()[0]["id"].as_str().unwrap().to_owned();
    let params = [("GroupName", name), ("GroupDescription", "of a stranger"), ("VpcId", vpc.as_str())];
    let id = element(&cloud.aws("CreateSecurityGroup", &params), "groupId");
    let rule = [
        ("GroupId", id.as_str()),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "8443"),
        ("IpPermissions.1.ToPort", "8443"),
        ("IpPermissions.1.IpRanges.1.CidrIp", "192.0.2.77/32"),
    ];
    cloud.aws("AuthorizeSecurityGroupIngress", &rule);
    tag(cloud, &id, tags);
    id
}

fn find(cloud: &Cloud, kind: &str, id: &str) -> Option<Value> {
    let gone = |v: &Value| ["terminated", "deleting", "shutting-down"].iter().any(|s| v["state"] == **s);
    cloud.state()[kind].as_array().unwrap().iter().find(|v| v["id"] == id && !gone(v)).cloned()
}

/// A directory of the user's beside the state directory, and the way to it from a cluster's directory.
fn victim(cluster: &Cluster) -> (PathBuf, &'static str) {
    let dir = cluster.path().join("victim");
    fs::create_dir_all(dir.join(".ssh")).unwrap();
    fs::write(dir.join("photo"), "of the user").unwrap();
    fs::write(dir.join(".ssh/id_ed25519"), "not a key, but the user's").unwrap();
    fs::write(dir.join(".ssh/known_hosts"), "the user's").unwrap();
    (dir, "../../../victim")
}

#[track_caller]
fn is_untouched(dir: &std::path::Path) {
    assert_eq!(fs::read_to_string(dir.join("photo")).unwrap(), "of the user");
    assert_eq!(fs::read_to_string(dir.join(".ssh/id_ed25519")).unwrap(), "not a key, but the user's");
    assert_eq!(fs::read_to_string(dir.join(".ssh/known_hosts")).unwrap(), "the user's");
    assert_eq!(fs::read_dir(dir.join(".ssh")).unwrap().count(), 2);
}

#[test]
fn an_identity_is_no_path_to_remove() {
    let Some(cloud) = Cloud::new("an_identity_is_no_path_to_remove") else { return };
    let cluster = Cluster::new(&cloud, "safe");
    let (dir, path) = victim(&cluster);
    let expired = volume(&cloud, &[("septet:cluster", path), ("septet:name", "old"), ("septet:expires", "1")]);
    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    is_untouched(&dir);
    assert!(find(&cloud, "volumes", &expired).is_some());

    // The same under our cluster's name, beside a cluster and without one.
    let named = volume(&cloud, &[("septet:cluster", path), ("septet:name", "safe"), ("septet:role", "broker"), ("septet:index", "1")]);
    cluster.down();
    is_untouched(&dir);
    cluster.up();
    cluster.down();
    is_untouched(&dir);
    assert!(find(&cloud, "volumes", &named).is_some() && find(&cloud, "volumes", &expired).is_some());
    // A filter's wildcard is no identity either.
    let any = volume(&cloud, &[("septet:cluster", "*"), ("septet:name", "safe"), ("septet:expires", "1")]);
    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    cluster.down();
    assert!([any, named, expired].iter().all(|id| find(&cloud, "volumes", id).is_some()));
}

#[test]
fn an_identity_is_no_path_to_a_key() {
    let Some(cloud) = Cloud::new("an_identity_is_no_path_to_a_key") else { return };
    let cluster = Cluster::new(&cloud, "keys");
    let (dir, path) = victim(&cluster);
    let ssh = format!("{path}/.ssh");
    group(&cloud, "evil", &[("septet:cluster", &ssh), ("septet:name", "keys"), ("septet:group", "hosts")]);
    cluster.up();
    is_untouched(&dir);
    let uuids: Vec<String> = cluster.instances().values().map(|v| v["tags"]["septet:cluster"].as_str().unwrap().to_owned()).collect();
    assert_eq!((uuids.len(), uuids[0].len()), (7, 36));
    cluster.down();
    is_untouched(&dir);
}

#[test]
fn a_name_is_no_path_to_a_lock() {
    let Some(cloud) = Cloud::new("a_name_is_no_path_to_a_lock") else { return };
    let cluster = Cluster::new(&cloud, "locks");
    cluster.ok(&["plan"]);
    let lock = cluster.path().join("other.lock");
    fs::write(&lock, "somebody's").unwrap();
    let path = "../../../other";
    let id = volume(&cloud, &[("septet:cluster", STRANGER), ("septet:name", path), ("septet:expires", "1")]);
    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    assert_eq!(fs::read_to_string(&lock).unwrap(), "somebody's");
    assert!(find(&cloud, "volumes", &id).is_some());
    // The same thing with a sound name is one that expired.
    tag(&cloud, &id, &[("septet:name", "old")]);
    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    assert!(find(&cloud, "volumes", &id).is_none());
}

#[test]
fn a_link_in_the_state_directory_is_not_followed() {
    let Some(cloud) = Cloud::new("a_link_in_the_state_directory_is_not_followed") else { return };
    let cluster = Cluster::new(&cloud, "links");
    let (dir, _) = victim(&cluster);
    let clusters = cluster.state().join("septet/clusters");
    fs::create_dir_all(&clusters).unwrap();
    std::os::unix::fs::symlink(&dir, clusters.join(STRANGER)).unwrap();
    volume(&cloud, &[("septet:cluster", STRANGER), ("septet:name", "old"), ("septet:expires", "1")]);
    cluster.ok(&["down", "--all-expired", "--data", "--yes"]);
    is_untouched(&dir);
    assert!(clusters.join(STRANGER).symlink_metadata().is_err(), "the link itself is gone");

    // A link in place of a directory of ours is refused, with what to do.
    fs::remove_dir_all(&clusters).unwrap();
    std::os::unix::fs::symlink(&dir, &clusters).unwrap();
    cluster.run(&["up"]).code(1).says(&["septet/clusters", "follows no link", "hint:"]);
    is_untouched(&dir);
}

/// Runs `septet ssh` with a client that only writes down how it was called, and shows that and the files it was given.
fn ssh(cluster: &Cluster, args: &[&str]) -> (Ran, Vec<String>, String, String) {
    let bin = cluster.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let called = cluster.path().join("called");
    let fake = bin.join("ssh");
    fs::write(&fake, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > '{}'\n", called.display())).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let mut c = cluster.command(&[&["ssh"], args].concat());
    c.env("PATH", &bin);
    let ran = Ran::of(c, "", std::time::Duration::from_secs(60));
    let called = fs::read_to_string(called).unwrap_or_default();
    let called: Vec<String> = called.lines().map(str::to_owned).collect();
    let read = |name: &str| {
        let config = PathBuf::from(called.get(1).cloned().unwrap_or_default());
        fs::read_to_string(config.with_file_name(name)).unwrap_or_default()
    };
    (ran, called.clone(), read("ssh_config"), read("known_hosts"))
}

#[test]
fn names_and_host_keys_are_no_commands() {
    let Some(cloud) = Cloud::new("names_and_host_keys_are_no_commands") else { return };
    let cluster = Cluster::new(&cloud, "named");
    cluster.up();
    cluster.set("connect", "private");
    let (ran, called, config, known) = ssh(&cluster, &["kafka01"]);
    ran.code(0);
    assert_eq!(called[2..], ["--", "named-kafka01"]);
    assert_eq!((config.matches("\nHost ").count(), known.lines().count()), (7, 7));

    let ids: Vec<(String, String)> =
        cluster.instances().into_iter().map(|(name, v)| (name, v["id"].as_str().unwrap().to_owned())).collect();
    let id_of = |name: &str| ids.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let stolen = known.lines().next().unwrap().split_once(' ').unwrap().1.to_owned();
    tag(&cloud, &id_of("control01"), &[("Name", "-oProxyCommand=touch pwned")]);
    tag(&cloud, &id_of("kafka01"), &[("Name", "x\nHost *\n  ProxyCommand touch pwned")]);
    tag(&cloud, &id_of("kafka02"), &[("septet:hostkey", &format!("{stolen}\n* {stolen}"))]);
    tag(&cloud, &id_of("kafka03"), &[("septet:hostkey", "@cert-authority * ssh-ed25519 AAAA")]);

    for (host, full) in [("control01", "named-control01"), ("kafka01", "named-kafka01")] {
        let (ran, called, config, known) = ssh(&cluster, &[host, "--", "uname", "-a b"]);
        ran.code(0);
        assert_eq!(called[2..], ["--", full, "'uname' '-a b'"], "{config}");
        assert!(!config.contains("pwned") && !config.contains("Host *"), "{config}");
        assert_eq!(known.lines().count(), 5, "{known}");
        assert!(known.lines().all(|l| l.split(' ').count() == 3 && !l.starts_with(['*', '@'])), "{known}");
    }
    for host in ["kafka02", "kafka03"] {
        let (ran, called, ..) = ssh(&cluster, &[host]);
        ran.code(1).says(&["holds no host key; refusing to connect", "hint:"]);
        assert!(called.is_empty() || !called.contains(&format!("named-{host}")), "{called:?}");
    }
    // What a person reads is one line each, without control characters. Nobody answers at these addresses.
    cluster.unset("connect");
    let ran = cluster.run(&["plan"]).code(1).says(&[NO_WAY_IN]);
    assert!(!ran.out.contains("\nHost *") && !ran.err.contains("\nHost *"), "{}", ran.show());
    cluster.down();
    cluster.is_gone("down");
}

#[test]
fn what_has_no_identity_of_ours_is_not_ours() {
    let Some(cloud) = Cloud::new("what_has_no_identity_of_ours_is_not_ours") else { return };
    let cluster = Cluster::new(&cloud, "mine");
    // Before there is a cluster: a group that only says what it is for.
    let early = group(&cloud, "early", &[("septet:name", "mine"), ("septet:group", "control")]);
    cluster.up();
    let image = cluster.instances()["kafka01"]["image"].as_str().unwrap().to_owned();
    let launched = cloud.aws("RunInstances", &[("ImageId", &image), ("MinCount", "1"), ("MaxCount", "1"), ("InstanceType", "t3.small")]);
    let instance = element(&launched, "instanceId");
    tag(&cloud, &instance, &[("septet:name", "mine"), ("septet:role", "broker"), ("septet:index", "1")]);
    let late = group(&cloud, "late", &[("septet:name", "mine"), ("septet:group", "hosts")]);
    let before = [early.as_str(), late.as_str()].map(|id| find(&cloud, "security_groups", id).unwrap());

    let planned = cluster.run(&["plan"]).code(1).says(&[NO_WAY_IN]);
    assert!(![&early, &late, &instance].iter().any(|id| planned.out.contains(id.as_str())), "{}", planned.show());
    cluster.up();
    cluster.down();
    assert!(find(&cloud, "instances", &instance).is_some());
    assert_eq!([early.as_str(), late.as_str()].map(|id| find(&cloud, "security_groups", id).unwrap()), before);
    assert_eq!(before[0]["ingress"], json!(["tcp 8443 192.0.2.77/32"]), "{}", before[0]);
}
