//! Who may reach what: the rules of the security groups, all of them, and how they follow the inventory.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::json;

use super::{cloud::Cloud, cluster::Cluster};

/// What is open between hosts, and to them from the control host.
const INSIDE: [&str; 6] = ["tcp 2181 hosts", "tcp 22 control", "tcp 2888 hosts", "tcp 3888 hosts", "tcp 9092 hosts", "tcp 9093 hosts"];

/// Insists on all rules of all groups; what leaves is not held back.
#[track_caller]
fn opens(cluster: &Cluster, hosts: &[&str], control: &[&str], brokers: &[&str]) {
    let sorted = |list: &[&str]| {
        let mut list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        list.sort();
        list
    };
    let wanted: BTreeMap<String, Vec<String>> =
        [("hosts", hosts), ("control", control), ("brokers", brokers)].map(|(k, l)| (k.to_owned(), sorted(l))).into();
    let mut is = cluster.openings();
    is.values_mut().for_each(|l| l.sort());
    assert_eq!(is, wanted);
    // Hosts are in no other group, whose rules would count too.
    let ours: Vec<serde_json::Value> = cluster.groups().values().map(|g| g["id"].clone()).collect();
    for instance in cluster.instances().values() {
        assert!(instance["groups"].as_array().unwrap().iter().all(|g| ours.contains(g)), "{instance}");
    }
}

#[test]
fn just_what_is_needed() {
    let Some(cloud) = Cloud::new("just_what_is_needed") else { return };
    let cluster = Cluster::new(&cloud, "rules");
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);

    // Another place to log in from: in the plan, and then so.
    cluster.set("ssh", "{from: [198.51.100.0/24, 203.0.113.7/32]}");
    let group = cluster.groups()["control"]["name"].as_str().unwrap().to_owned();
    let line = format!("~ group {group}: open 22 from 198.51.100.0/24, 22 from 203.0.113.7/32; close 22 from 192.0.2.1/32");
    cluster.run(&["plan"]).shows(&[&line]);
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);
    cloud.forget_calls();
    cluster.up().says(&[&line]);
    opens(&cluster, &INSIDE, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);
    // Opened first, closed then: whoever runs this may be let in by it.
    let changes: Vec<String> = cloud.calls().into_iter().filter(|c| c.action.ends_with("Ingress")).map(|c| c.action).collect();
    assert_eq!(changes, ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]);

    // What somebody opened by hand is closed again, and what somebody closed is opened.
    let groups = cluster.groups();
    let id = |kind: &str| groups[kind]["id"].as_str().unwrap();
    let rule = |port: &'static str, cidr: &'static str| {
        [
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", port),
            ("IpPermissions.1.ToPort", port),
            ("IpPermissions.1.IpRanges.1.CidrIp", cidr),
        ]
    };
    let by_hand = |action: &str, kind: &str, port: &'static str, cidr: &'static str| {
        cloud.aws(action, &[&[("GroupId", id(kind))][..], &rule(port, cidr)].concat());
    };
    by_hand("AuthorizeSecurityGroupIngress", "hosts", "9092", "0.0.0.0/0");
    by_hand("AuthorizeSecurityGroupIngress", "brokers", "19092", "0.0.0.0/0");
    by_hand("RevokeSecurityGroupIngress", "control", "22", "203.0.113.7/32");
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);

    // Clients outside, if they are asked for, and not any more.
    cluster.set("external", "{from: [10.0.0.0/8]}");
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &["tcp 19092 10.0.0.0/8"]);
    cluster.unset("external");
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 198.51.100.0/24", "tcp 22 203.0.113.7/32"], &[]);
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
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);
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
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);

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
    cluster.run(&["up"]).code(1).says(&["does not tell this machine's address", "<html>", "from:"]);
    assert_eq!(cloud.state()["security_groups"], before["security_groups"]);
    page.says("203.0.113.9\n");
    cluster.ok(&["plan"]).shows(&["port 22 is open to 203.0.113.9/32"]);
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 203.0.113.9/32"], &[]);
    // From another place.
    page.says("198.51.100.4");
    cluster.up().says(&["open 22 from 198.51.100.4/32; close 22 from 203.0.113.9/32"]);
    opens(&cluster, &INSIDE, &["tcp 22 198.51.100.4/32"], &[]);
    // Whoever says it is not asked about it; nor does anybody ask to take it down.
    let asked = page.asked.load(Ordering::SeqCst);
    cluster.set("ssh", &format!("{{from: [192.0.2.1/32], ask: \"{}\"}}", page.url));
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);
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
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);
    cluster.up();
    opens(&cluster, &INSIDE, &["tcp 22 192.0.2.1/32"], &[]);
}

/// From inside of the VPC one comes from the address that this machine has on the way there.
#[test]
fn from_inside_of_the_network() {
    let Some(cloud) = Cloud::new("from_inside_of_the_network") else { return };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("172.31.0.0:22").is_err() {
        eprintln!("from_inside_of_the_network: skipped, this machine has no way to anywhere");
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
    opens(&cluster, &INSIDE, &[&own], &[]);
}
