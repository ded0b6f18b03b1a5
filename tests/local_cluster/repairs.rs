//! What is mended in place, with the data that is there: a network that is gone, a host that was disconnected, a port that was taken.

use std::net::{Ipv4Addr, TcpListener};

use super::{
    clients::{CREATE_TOPIC, consume_all, numbers, produce_numbers, python},
    harness::{Cluster, docker, enabled},
};

fn with_records(cluster: &Cluster) {
    cluster.ok(&["up"]);
    let servers = cluster.bootstrap();
    assert!(python(CREATE_TOPIC, &[&servers, "keep", "3", "3"]).is_null());
    produce_numbers(&servers, "keep", 300);
}

fn are_kept(cluster: &Cluster) {
    cluster.is_whole();
    assert_eq!(consume_all(&cluster.bootstrap(), "keep"), numbers(300));
    cluster.ok(&["up"]).says(&["nothing changed"]);
}

fn port(cluster: &Cluster, host: &str) -> u16 {
    let bindings =
        docker(&["inspect", "--format", "{{range .HostConfig.PortBindings}}{{(index . 0).HostPort}}{{end}}", &cluster.host(host)]);
    bindings.parse().unwrap()
}

#[test]
fn network_and_ports() {
    if !enabled("network_and_ports") {
        return;
    }
    let cluster = Cluster::new("r");
    with_records(&cluster);

    // What `docker system prune` does to a cluster that is stopped.
    for id in cluster.containers() {
        docker(&["stop", "-t", "5", &id]);
    }
    docker(&["network", "rm", &cluster.networks()[0]]);
    let kafka02 = cluster.host("kafka02");
    cluster.ok(&["plan"]).shows(&["+ network", &format!("± host {kafka02} (its network is gone: made again, data is kept)")]);
    cluster.ok(&["up"]);
    are_kept(&cluster);

    // One host without its network, one whose port another program took while it was stopped.
    docker(&["network", "disconnect", "-f", &cluster.networks()[0], &cluster.host("kafka01")]);
    docker(&["stop", "-t", "5", &kafka02]);
    let taken = port(&cluster, "kafka02");
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
    let problems = cluster.problems();
    assert_eq!(problems["kafka01"], ["it is not connected to the cluster's network: `up` makes the host again, with its data"]);
    let plan = cluster.ok(&["plan"]);
    plan.shows(&["is not connected to the cluster's network", &format!("port {taken} on 127.0.0.1 is in use by another program")]);
    cluster.ok(&["up"]);
    assert_ne!(port(&cluster, "kafka02"), taken);
    assert!(!cluster.bootstrap().contains(&format!(":{taken}")));
    are_kept(&cluster);
    drop(other);
    are_kept(&cluster);
}

#[test]
fn hints_that_name_commands_keep_data() {
    if !enabled("hints_that_name_commands_keep_data") {
        return;
    }
    let cluster = Cluster::new("k");
    // Two rows of ports that nothing uses now.
    let free =
        |n: u16| (0..60).map(|i| 30_000 + n + i * 120).find(|p| (0..30).all(|o| TcpListener::bind((Ipv4Addr::LOCALHOST, p + o)).is_ok()));
    let (first, second) = (free(0).unwrap(), free(60).unwrap());
    cluster.write_inventory(&format!("ports_from: {first}"));
    with_records(&cluster);
    docker(&["stop", "-t", "5", &cluster.host("kafka01")]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 20)).unwrap();
    cluster.run(&["up"]).code(1).says(&[
        "in use",
        "hint: another program uses the port: stop it",
        "`septet -i inventory.yml down --keep-data`",
    ]);
    cluster.edit(&format!("ports_from: {first}"), &format!("ports_from: {second}"));
    cluster.ok(&["down", "--keep-data", "--yes"]).says(&["kept, for the next"]);
    // What is kept is known, and used.
    cluster.run(&["health"]).code(3).shows(&["its data is kept"]);
    cluster.run(&["endpoints"]).code(1).says(&["has no hosts", "the data of 7 of them is kept", "hint: `septet -i inventory.yml up`"]);
    cluster.ok(&["up"]);
    assert_eq!(port(&cluster, "kafka01"), second + 20);
    are_kept(&cluster);
    drop(taken);
}
