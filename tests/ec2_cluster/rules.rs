//! Who may reach what: the rules of the security groups, all of them, and how they follow the inventory.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::json;

use super::{cloud::Cloud, cluster::Cluster};

/// What every host lets in.
const HOSTS: [&str; 1] = ["tcp 22 control"];
/// What coordinators let in.
const COORDINATORS: [&str; 5] =
    ["tcp 2181 brokers", "tcp 2181 control", "tcp 2181 coordinators", "tcp 2888 coordinators", "tcp 3888 coordinators"];
/// What brokers let in, without clients from outside.
const BROKERS: [&str; 2] = ["tcp 9092 brokers", "tcp 9092 control"];

/// Insists on all rules of all groups, with what brokers let in beside their own listener; what leaves is not held back. Hosts are in
/// the group of their role and in that of all.
#[track_caller]
fn opens(cluster: &Cluster, hosts: &[&str], control: &[&str], outside: &[&str]) {
    let brokers: Vec<&str> = BROKERS.iter().chain(outside).copied().collect();
    let sorted = |list: &[&str]| {
        let mut list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        list.sort();
        list
    };
    let wanted: BTreeMap<String, Vec<String>> =
        [("hosts", hosts), ("control", control), ("brokers", &brokers), ("coordinators", &COORDINATORS)]
            .map(|(k, l)| (k.to_owned(), sorted(l)))
            .into();
    let mut is = cluster.openings();
    is.values_mut().for_each(|l| l.sort());
    assert_eq!(is, wanted);
    // In no other group either, whose rules would count too.
    let groups = cluster.groups();
    for (name, instance) in cluster.instances() {
        let own = match &name[..2] {
            "co" => "control",
            "zk" => "coordinators",
            _ => "brokers",
        };
        let is: BTreeSet<&str> = instance["groups"].as_array().unwrap().iter().map(|g| g.as_str().unwrap()).collect();
        assert_eq!(is, ["hosts", own].map(|k| groups[k]["id"].as_str().unwrap()).into(), "{instance}");
    }
}

/// Parameters for a rule.
fn permission<'a>(port: &'a str, source: &'a str) -> [(&'static str, &'a str); 4] {
    let kind = if source.starts_with("sg-") { "IpPermissions.1.Groups.1.GroupId" } else { "IpPermissions.1.IpRanges.1.CidrIp" };
    [("IpPermissions.1.IpProtocol", "tcp"), ("IpPermissions.1.FromPort", port), ("IpPermissions.1.ToPort", port), (kind, source)]
}

/// Changes what a group lets in, as somebody does in a console.
fn by_hand(cloud: &Cloud, action: &str, group: &str, port: &str, source: &str) {
    cloud.aws(action, &[&[("GroupId", group)][..], &permission(port, source)].concat());
}

/// Makes of a cluster what versions before this one made: every port between all hosts, and no group of the coordinators.
fn as_before(cluster: &Cluster) {
    let (cloud, groups) = (cluster.cloud, cluster.groups());
    let id = |kind: &str| groups[kind]["id"].as_str().unwrap();
    for port in ["2181", "2888", "3888", "9092", "9093"] {
        by_hand(cloud, "AuthorizeSecurityGroupIngress", id("hosts"), port, id("hosts"));
    }
    for (group, rules) in [("coordinators", &COORDINATORS[..]), ("brokers", &BROKERS)] {
        for rule in rules {
            let [_, port, source] = rule.split(' ').collect::<Vec<_>>()[..] else { panic!("{rule}") };
            by_hand(cloud, "RevokeSecurityGroupIngress", id(group), port, id(source));
        }
    }
    for (name, instance) in cluster.instances() {
        if name.starts_with("zk") {
            cloud.aws("ModifyInstanceAttribute", &[("InstanceId", instance["id"].as_str().unwrap()), ("GroupId.1", id("hosts"))]);
        }
    }
    cloud.aws("DeleteSecurityGroup", &[("GroupId", id("coordinators"))]);
}

/// A cluster of an earlier version: the plan shows what changes, and nothing is closed before what takes its place is open and counts.
#[test]
fn groups_of_an_earlier_version() {
    let Some(cloud) = Cloud::new("groups_of_an_earlier_version") else { return };
    let cluster = Cluster::new(&cloud, "older");
    cluster.up();
    as_before(&cluster);
    let names: BTreeMap<String, String> =
        cluster.groups().into_iter().map(|(kind, g)| (kind, g["name"].as_str().unwrap().to_owned())).collect();
    let lines = [
        format!(
            "+ group {}: open 2181 from brokers, 2181 from control, 2181 from coordinators, 2888 from coordinators, 3888 from coordinators",
            names["brokers"].replace("brokers", "coordinators")
        ),
        format!("~ group {}: open 9092 from brokers, 9092 from control", names["brokers"]),
        "~ security groups of older-zk01, older-zk02, older-zk03: join coordinators".to_owned(),
        format!("~ group {}: close 2181 from hosts, 2888 from hosts, 3888 from hosts, 9092 from hosts, 9093 from hosts", names["hosts"]),
    ];
    let shown: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.run(&["plan"]).shows(&shown);

    // Where hosts cannot join, nothing is closed.
    cloud.fault(json!({"action": "ModifyInstanceAttribute", "code": "IncorrectState", "status": 400, "times": 1000, "dry_run": false}));
    cluster.run(&["up"]).code(1).says(&["cannot change the security groups of older-zk01, older-zk02, older-zk03"]);
    cloud.calm();
    assert!(cluster.openings()["hosts"].contains(&"tcp 2888 hosts".to_owned()));

    cloud.forget_calls();
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
    let order: Vec<String> = cloud.calls().into_iter().filter(|c| c.changes() && !c.action.contains("KeyPair")).map(|c| c.action).collect();
    assert_eq!(order.iter().filter(|a| *a == "ModifyInstanceAttribute").count(), 3, "{order:?}");
    assert_eq!(order.iter().position(|a| a.starts_with("Revoke")), Some(order.len() - 1), "{order:?}");
    cluster.down();
    cluster.is_gone("down");
}

/// Things that look like the cluster's and do not carry its UUID stay as they are.
#[test]
fn what_has_no_uuid_of_ours_is_left_alone() {
    let Some(cloud) = Cloud::new("what_has_no_uuid_of_ours_is_left_alone") else { return };
    let cluster = Cluster::new(&cloud, "alone");
    let vpc = cloud.state()["default_vpc"].as_str().unwrap().to_owned();
    for (kind, uuid) in [("hosts", None), ("control", Some("not a UUID")), ("coordinators", Some("../../x"))] {
        let mut params: Vec<(String, String)> = [
            ("GroupName", format!("theirs-{kind}").as_str()),
            ("GroupDescription", "theirs"),
            ("VpcId", &vpc),
            ("TagSpecification.1.ResourceType", "security-group"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec();
        let tags = [("septet:name", "alone"), ("septet:group", kind), ("septet:prefix", "alone")];
        for (n, (key, value)) in tags.into_iter().chain(uuid.map(|u| ("septet:cluster", u))).enumerate() {
            let tag = format!("TagSpecification.1.Tag.{}", n + 1);
            params.extend([(format!("{tag}.Key"), key.to_owned()), (format!("{tag}.Value"), value.to_owned())]);
        }
        let params: Vec<(&str, &str)> = params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        cloud.aws("CreateSecurityGroup", &params);
    }
    let theirs: Vec<serde_json::Value> = cluster.things()["security_groups"].iter().map(|g| g["id"].clone()).collect();
    assert_eq!(theirs.len(), 3);
    for id in &theirs {
        by_hand(&cloud, "AuthorizeSecurityGroupIngress", id.as_str().unwrap(), "443", "198.51.100.0/24");
    }
    let before = cluster.things();
    cluster.up();
    cloud.still_has(&before);
    for instance in cluster.instances().values() {
        assert!(instance["groups"].as_array().unwrap().iter().all(|g| !theirs.contains(g)), "{instance}");
    }
    cluster.up();
    cluster.down();
    cloud.still_has(&before);
    assert_eq!(cluster.things()["security_groups"].len(), 3);
}

/// A key pair of somebody's that has the name of the lock, and the tag of its holder, is no lock.
#[test]
fn a_key_pair_in_the_place_of_the_lock() {
    let Some(cloud) = Cloud::new("a_key_pair_in_the_place_of_the_lock") else { return };
    let cluster = Cluster::new(&cloud, "keyed");
    let name = cluster.lock();
    let tag = |n: i32, what: &str| format!("TagSpecification.1.Tag.{n}.{what}");
    let (k1, v1, k2, v2) = (tag(1, "Key"), tag(1, "Value"), tag(2, "Key"), tag(2, "Value"));
    cloud.aws(
        "CreateKeyPair",
        &[
            ("KeyName", name.as_str()),
            ("TagSpecification.1.ResourceType", "key-pair"),
            (&k1, "septet:holder"),
            (&v1, "somebody"),
            (&k2, "septet:seen"),
            (&v2, "1"),
        ],
    );
    let before = cloud.state()["key_pairs"].clone();
    cluster.run(&["up"]).code(1).says(&[&name]);
    assert_eq!(cloud.state()["key_pairs"], before);
}

#[test]
fn just_what_is_needed() {
    let Some(cloud) = Cloud::new("just_what_is_needed") else { return };
    let cluster = Cluster::new(&cloud, "rules");
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);

    // Another place to log in from: in the plan, and then so.
    cluster.set("ssh", "{from: [198.51.100.0/24, 203.0.113.7/32]}");
    let group = cluster.groups()["control"]["name"].as_str().unwrap().to_owned();
    let line = format!("~ group {group}: open 22 from 198.51.100.0/24, 22 from 203.0.113.7/32; close 22 from 192.0.2.1/32");
    cluster.run(&["plan"]).shows(&[&line]);
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
    cloud.forget_calls();
    cluster.up().says(&[&line]);
    opens(&cluster, &HOSTS, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);
    // Opened first, closed then: whoever runs this may be let in by it.
    let changes: Vec<String> = cloud.calls().into_iter().filter(|c| c.action.ends_with("Ingress")).map(|c| c.action).collect();
    assert_eq!(changes, ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]);

    // What somebody opened by hand is closed again, and what somebody closed is opened.
    let groups = cluster.groups();
    let id = |kind: &str| groups[kind]["id"].as_str().unwrap();
    let change = |action: &str, kind: &str, port: &str, source: &str| by_hand(&cloud, action, id(kind), port, source);
    change("AuthorizeSecurityGroupIngress", "hosts", "9092", "0.0.0.0/0");
    change("AuthorizeSecurityGroupIngress", "brokers", "19092", "0.0.0.0/0");
    change("AuthorizeSecurityGroupIngress", "coordinators", "2888", id("brokers"));
    change("RevokeSecurityGroupIngress", "coordinators", "3888", id("coordinators"));
    change("RevokeSecurityGroupIngress", "control", "22", "203.0.113.7/32");
    // So is what somebody made a member of another group.
    let broker = cluster.id("kafka01");
    let both = [("InstanceId", broker.as_str()), ("GroupId.1", id("hosts")), ("GroupId.2", id("coordinators"))];
    cloud.aws("ModifyInstanceAttribute", &both);
    cluster.run(&["plan"]).shows(&["~ security groups of rules-kafka01: join brokers; leave coordinators"]);
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);

    // Clients outside, if they are asked for, and not any more.
    cluster.set("external", "{from: [10.0.0.0/8]}");
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &["tcp 19092 10.0.0.0/8"]);
    cluster.unset("external");
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);
    // Nothing to do is nothing done.
    cloud.forget_calls();
    cluster.up();
    let changes: Vec<String> =
        cloud.calls().into_iter().filter(|c| c.changes() && !c.action.contains("KeyPair")).map(|c| c.action).collect();
    assert!(changes.is_empty(), "{changes:?}");

    // Tags of the inventory are put on what stands, too.
    cluster.set("tags", "{course: kafka-102}");
    cluster.run(&["plan"]).shows(&["~ tags of", "course=kafka-102"]);
    cluster.up();
    let things = cluster.things();
    for kind in ["instances", "volumes", "security_groups"] {
        assert!(things[kind].iter().all(|v| v["tags"]["course"] == "kafka-102"), "{things:#?}");
    }
}

/// What somebody opened by hand that no rule of Septet's looks like: other protocols, other kinds of addresses.
#[test]
fn nothing_of_another_kind_stays_open() {
    let Some(cloud) = Cloud::new("nothing_of_another_kind_stays_open") else { return };
    let cluster = Cluster::new(&cloud, "kinds");
    cluster.up();
    let id = cluster.groups()["hosts"]["id"].as_str().unwrap().to_owned();
    let ports = [("GroupId", id.as_str()), ("IpPermissions.1.FromPort", "9092"), ("IpPermissions.1.ToPort", "9092")];
    let open = |more: &[(&str, &str)]| cloud.aws("AuthorizeSecurityGroupIngress", &[&ports[..], more].concat());
    open(&[("IpPermissions.1.IpProtocol", "tcp"), ("IpPermissions.1.Ipv6Ranges.1.CidrIpv6", "::/0")]);
    open(&[("IpPermissions.1.IpProtocol", "udp"), ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")]);
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
}

#[test]
fn open_as_in_a_classroom() {
    let Some(cloud) = Cloud::new("open_as_in_a_classroom") else { return };
    let cluster = Cluster::new(&cloud, "open");
    cluster.set("security", "classroom");
    let warning = "warning: security: classroom opens every TCP port of every host to the whole internet";
    cluster.ok(&["plan"]).says(&[warning]);
    cluster.up().says(&[warning]);
    opens(&cluster, &["tcp 0-65535 0.0.0.0/0"], &["tcp 22 192.0.2.1/32"], &[]);
    // The lesson is over.
    cluster.unset("security");
    cluster.up().says(&["close 0-65535 from 0.0.0.0/0"]);
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);

    // Open to all, by one's own list: said.
    cluster.down();
    cluster.set("ssh", "{from: [0.0.0.0/0]}");
    cluster.set("external", "{from: [0.0.0.0/0]}");
    let plan = cluster.ok(&["plan", "--json"]).json();
    let warned: Vec<&str> =
        plan["checks"].as_array().unwrap().iter().filter(|c| c["verdict"] == "warn").map(|c| c["finding"].as_str().unwrap()).collect();
    assert!(warned.iter().any(|f| f.contains("port 22 is open to 0.0.0.0/0")), "{warned:?}");
    assert!(warned.iter().any(|f| f.contains("external listener is open to nearly everybody")), "{warned:?}");
}

/// A page that answers with something, and counts.
struct Page {
    url: String,
    says: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
}

impl Page {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (says, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicU32::new(0)));
        let (what, count) = (says.clone(), asked.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                count.fetch_add(1, Ordering::SeqCst);
                let body = what.lock().unwrap().clone();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            }
        });
        Self { url, says, asked }
    }
    fn says(&self, text: &str) {
        text.clone_into(&mut self.says.lock().unwrap());
    }
}

#[test]
fn where_one_logs_in_from_is_asked() {
    let Some(cloud) = Cloud::new("where_one_logs_in_from_is_asked") else { return };
    let cluster = Cluster::new(&cloud, "asks");
    let page = Page::new();
    cluster.set("ssh", &format!("{{ask: \"{}\"}}", page.url));
    // No address is an error before anything is made.
    page.says("<html>Welcome</html>");
    let before = cloud.state();
    cluster.run(&["up"]).code(1).says(&["does not return this machine's address", "<html>", "from:"]);
    assert_eq!(cloud.state()["security_groups"], before["security_groups"]);
    page.says("203.0.113.9\n");
    cluster.ok(&["plan"]).shows(&["port 22 is open to 203.0.113.9/32"]);
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 203.0.113.9/32"], &[]);
    // From another place.
    page.says("198.51.100.4");
    cluster.up().says(&["open 22 from 198.51.100.4/32; close 22 from 203.0.113.9/32"]);
    opens(&cluster, &HOSTS, &["tcp 22 198.51.100.4/32"], &[]);
    // Whoever says it is not asked about it; nor does anybody ask to take it down.
    let asked = page.asked.load(Ordering::SeqCst);
    cluster.set("ssh", &format!("{{from: [192.0.2.1/32], ask: \"{}\"}}", page.url));
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
    cluster.down();
    assert_eq!(page.asked.load(Ordering::SeqCst), asked);
    assert_eq!(cloud.ours("asks")["security_groups"], Vec::<serde_json::Value>::new());
}

/// A run that was cut off between two groups: the next one brings the first of them to all its rules, before a host is made.
#[test]
fn groups_that_were_made_before() {
    let Some(cloud) = Cloud::new("groups_that_were_made_before") else { return };
    let cluster = Cluster::new(&cloud, "halves");
    cloud.fault(json!({"action": "CreateSecurityGroup", "code": "Unavailable", "status": 400, "skip": 1, "dry_run": false}));
    cluster.run(&["up"]).code(1).says(&["cannot make security group"]);
    assert_eq!(cluster.things()["security_groups"].len(), 1);
    cloud.calm();
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
    cluster.up();
    opens(&cluster, &HOSTS, &["tcp 22 192.0.2.1/32"], &[]);
}

/// From inside of the VPC one comes from the address that this machine has on the way there.
#[test]
fn from_inside_of_the_network() {
    let Some(cloud) = Cloud::new("from_inside_of_the_network") else { return };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("172.31.0.0:22").is_err() {
        septet_testing::skip("from_inside_of_the_network", "this machine has no way to anywhere");
        return;
    }
    let own = format!("tcp 22 {}/32", socket.local_addr().unwrap().ip());
    let cluster = Cluster::new(&cloud, "inside");
    cluster.unset("ssh");
    cluster.set("connect", "private");
    cloud.set(json!({"state_delay_s": 600}));
    let mut up = cluster.spawn(&["up"]);
    cloud.awaits("a launch", |calls| calls.iter().any(|c| c.action == "RunInstances" && c.is_ok() && !c.dry_run));
    up.kill().unwrap();
    up.wait().unwrap();
    opens(&cluster, &HOSTS, &[&own], &[]);
}
