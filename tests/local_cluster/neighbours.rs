//! Others on the same machine: a second cluster, foreign containers, taken names, ports and subnets, and no docker.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use super::harness::{Cluster, Foreign, docker, docker_try, enabled, eventually};

/// Things that are none of septet's; removed when dropped.
struct Bystanders(String);

impl Bystanders {
    fn new(name: &str, image: &str) -> Self {
        let this = Self(format!("{name}-bystander"));
        // Nearly ours: a label without an identity.
        docker(&["network", "create", "--label", "septet.cluster", &this.0]);
        docker(&["volume", "create", "--label", "septet.cluster", &this.0]);
        let volume = format!("{}:/x", this.0);
        docker(&[
            "run",
            "-d",
            "--init",
            "--name",
            &this.0,
            "--label",
            "septet.role=broker",
            "-v",
            &volume,
            "--network",
            &this.0,
            image,
            "sleep",
            "3600",
        ]);
        this
    }

    fn are_untouched(&self) {
        let state = ["inspect", "--format", "{{.State.Running}} {{.RestartCount}}"];
        assert_eq!(docker(&[&state[..], &[&self.0]].concat()), "true 0");
        docker(&["network", "inspect", &self.0]);
        docker(&["volume", "inspect", &self.0]);
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        docker_try(&["rm", "-fv", &self.0]);
        docker_try(&["network", "rm", &self.0]);
        docker_try(&["volume", "rm", "-f", &self.0]);
    }
}

#[test]
fn side_by_side() {
    if !enabled("side_by_side") {
        return;
    }
    let (one, two) = (Cluster::new("d"), Cluster::new("e"));
    // A second run on one cluster is told who is at work.
    let mut up = one.spawn(&["up"]);
    eventually("up is under way", Duration::from_secs(60), || !one.networks().is_empty());
    one.run(&["up"]).code(1).says(&["another run is at work", &up.id().to_string(), "since"]);
    one.run(&["down", "--yes"]).code(1).says(&["another run is at work"]);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    one.is_whole();

    let image = docker(&["inspect", "--format", "{{.Config.Image}}", &one.host("zk01")]);
    let bystanders = Bystanders::new(&one.name, &image);
    taken(&one, &two);

    let before = one.seen();
    two.write_inventory("");
    two.ok(&["up"]);
    two.is_whole();
    assert_eq!(one.seen(), before);
    let addresses = |c: &Cluster| -> Vec<String> { c.seen().into_values().map(|s| s.address).collect() };
    assert!(!addresses(&two).iter().any(|a| addresses(&one).contains(a)));
    assert_ne!(one.bootstrap(), two.bootstrap());

    torn_down(&one);
    two.is_whole();
    bystanders.are_untouched();
    two.ok(&["down", "--yes"]);
    two.is_gone();
    bystanders.are_untouched();
}

/// What the second cluster wants and others have: errors that say so, and nothing is made or touched.
fn taken(one: &Cluster, two: &Cluster) {
    let subnet = docker(&["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", &one.networks()[0]]);
    two.write_inventory(&format!("subnet: {subnet}"));
    two.run(&["up"]).code(1).says(&[&format!("subnet {subnet} is in use"), "hint:"]);
    two.is_gone();

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    two.write_inventory(&format!("ports_from: {port}"));
    two.run(&["up"]).code(1).says(&[&format!("port {port} on 127.0.0.1 is in use"), "hint:"]);
    two.is_gone();
    drop(listener);

    two.write_inventory("");
    let name = two.host("zk02");
    let foreign = Foreign::new(&name, one);
    for command in [&["up"][..], &["plan"]] {
        two.run(command).code(1).says(&[&name, "does not belong to this cluster", "left alone", "hint:"]);
    }
    two.is_gone();
    foreign.is_untouched(&name);
}

fn torn_down(one: &Cluster) {
    let before = one.seen();
    one.run_with(&["down"], "").code(1).says(&["nothing was removed", "hint:"]);
    for wrong in ["\n", "e2e\n", "yes\n"] {
        let ran = one.run_with(&["down"], wrong).says(&["nothing was removed"]);
        assert_ne!(ran.code, Some(0), "{}", ran.show());
    }
    assert_eq!(one.seen(), before);

    let receipt = one.run_with(&["down"], &format!("{}\n", one.name)).code(0);
    for host in before.values() {
        assert!(receipt.out.contains(&host.name), "{}", receipt.show());
    }
    receipt.says(&["destroyed 15 resources", "finds 0"]);
    one.is_gone();
    for host in before.values() {
        assert_ne!(docker_try(&["inspect", &host.id]).code, Some(0));
    }
    // The key is forgotten with the cluster.
    let keys = fs::read_dir(one.state().join("septet/clusters")).unwrap();
    assert_eq!(keys.count(), 0);
    one.ok(&["down"]).says(&["does not exist"]);
    let nothing = one.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(nothing["removed"], serde_json::json!([]));
}

#[test]
fn docker_does_not_answer() {
    if !enabled("docker_does_not_answer") {
        return;
    }
    let cluster = Cluster::new("n");
    for args in [&["up"][..], &["health"], &["plan"], &["endpoints"], &["down", "--yes"]] {
        let mut c = cluster.command(args);
        c.env("DOCKER_HOST", "unix:///nonexistent.sock");
        let ran = super::harness::Ran::of(c, "", Duration::from_secs(30));
        ran.code(1).says(&["Docker is not running", "hint:"]);
    }
}

#[test]
fn a_second_network() {
    if !enabled("a_second_network") {
        return;
    }
    let cluster = Cluster::new("w");
    cluster.ok(&["up"]);
    let network = format!("{}-app", cluster.name);
    docker(&["network", "create", &network]);
    let before = cluster.bootstrap();
    for id in cluster.containers() {
        docker(&["network", "connect", &network, &id]);
    }
    // In six runs a random choice among two networks of seven hosts would go wrong.
    let mut seen: Vec<_> = (0..6).map(|_| cluster.run(&["health"])).collect();
    // Docker itself rewrites /etc/hosts when a network is connected; one run puts it back.
    seen.push(cluster.run(&["up"]));
    let up = cluster.run(&["up"]);
    let hosts = docker(&["exec", &cluster.host("zk01"), "cat", "/etc/hosts"]);
    for id in cluster.containers() {
        docker(&["network", "disconnect", &network, &id]);
    }
    docker(&["network", "rm", &network]);
    for ran in seen {
        ran.code(0);
    }
    up.code(0).says(&["nothing changed"]);
    let subnet = cluster.seen()["broker1"].address.rsplit_once('.').unwrap().0.to_owned();
    let ours = hosts.lines().filter(|l| l.contains(&cluster.name)).collect::<Vec<_>>();
    assert!(ours.len() >= 7 && ours.iter().all(|l| l.starts_with(&subnet)), "{hosts}");
    assert_eq!(cluster.bootstrap(), before);
    cluster.ok(&["up"]);
    cluster.ok(&["up"]).says(&["nothing changed"]);
}

#[test]
fn what_others_hold_is_named() {
    if !enabled("what_others_hold_is_named") {
        return;
    }
    let cluster = Cluster::new("h");
    cluster.ok(&["up"]);
    let image = docker(&["inspect", "--format", "{{.Config.Image}}", &cluster.host("zk01")]);
    let name = format!("{}-guest", cluster.name);
    let (network, volume) = (cluster.networks()[0].clone(), cluster.volumes()[0].clone());
    let guest = Foreign(docker(&[
        "run",
        "-d",
        "--init",
        "--name",
        &name,
        "--network",
        &network,
        "-v",
        &format!("{volume}:/x"),
        &image,
        "sleep",
        "600",
    ]));

    let ran = cluster.run(&["down", "--yes"]).code(1);
    // What was removed is on the receipt, what holds the rest is named, and the hint works.
    for host in super::harness::SEVEN {
        assert!(ran.out.contains(&cluster.host(host)), "{}", ran.show());
    }
    let ran = ran.says(&[
        "destroyed 7 resources",
        &format!("in use by {name}"),
        "not removed: network",
        "hint: `docker network disconnect --force",
    ]);
    let removed = cluster.host("zk01");
    let journal = |file: &str| fs::read(cluster.state().join("septet").join(file)).unwrap_or_default();
    // SQLite keeps text as it is, in its file or in what is not merged into it yet.
    let remembered = [journal("journal.db"), journal("journal.db-wal")].concat().windows(removed.len()).any(|w| w == removed.as_bytes());
    assert!(remembered, "{removed} is not in the journal");
    let command = |ran: &super::harness::Ran| {
        let hint = ran.err.lines().find_map(|l| l.strip_prefix("hint: `docker ")).unwrap().to_owned();
        hint.split('`').next().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    docker(&command(&ran).iter().map(String::as_str).collect::<Vec<_>>());
    let ran = cluster.run(&["down", "--yes"]).code(1).says(&[&format!("cannot remove volume {volume}: in use by {name}")]);
    docker(&command(&ran).iter().map(String::as_str).collect::<Vec<_>>());
    cluster.ok(&["down", "--yes"]).says(&["destroyed 1 resources"]);
    cluster.is_gone();
    drop(guest);
}
