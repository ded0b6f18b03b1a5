//! Volumes that are gone: refused where the cluster would begin anew, named where one host lost what it had.

use super::{
    clients::{CREATE_TOPIC, consume_all, numbers, produce_numbers, python},
    harness::{Cluster, docker, docker_try, enabled},
};

const COORDINATORS: [&str; 3] = ["zk01", "zk02", "zk03"];

/// Removes all containers and the network, and the volumes of some hosts.
fn remove(cluster: &Cluster, volumes_of: &[&str]) {
    for id in cluster.containers() {
        docker(&["rm", "-f", &id]);
    }
    docker(&["network", "rm", &cluster.networks()[0]]);
    for volume in cluster.volumes() {
        if volumes_of.iter().any(|v| volume.ends_with(v)) {
            docker(&["volume", "rm", &volume]);
        }
    }
}

#[test]
fn coordinators_without_data_and_a_broker_without() {
    if !enabled("coordinators_without_data_and_a_broker_without") {
        return;
    }
    let cluster = Cluster::new("l");
    cluster.ok(&["up"]);
    let servers = cluster.bootstrap();
    assert!(python(CREATE_TOPIC, &[&servers, "keep", "3", "3"]).is_null());
    produce_numbers(&servers, "keep", 300);
    // A copy, as a backup of volumes has it.
    for host in COORDINATORS {
        docker(&["exec", &cluster.host(host), "systemctl", "stop", "zookeeper-server"]);
        docker(&["cp", "-a", &format!("{}:/data/zk", cluster.host(host)), &cluster.path().join(host).display().to_string()]);
    }

    remove(&cluster, &["coordinator1", "coordinator2", "coordinator3"]);
    let zk02 = cluster.host("zk02");
    cluster.ok(&["plan"]).shows(&[&format!("+ host {zk02} (without data: no volume of it exists)")]);
    for command in [&["up"][..], &["up"], &["run", "site.yml"]] {
        let ran = cluster.run(command).code(1);
        ran.says(&["3 of 3 coordinators have no data, but brokers have", "no service was touched", "Restore /data/zk on 2 of them"]);
    }
    for (host, unit) in [("zk01", "zookeeper-server"), ("kafka01", "kafka-server")] {
        assert_ne!(docker_try(&["exec", &cluster.host(host), "systemctl", "is-active", unit]).code, Some(0), "{unit} was started");
    }

    // What the hint says.
    for host in &COORDINATORS[..2] {
        let from = format!("{}/.", cluster.path().join(host).display());
        docker(&["exec", &cluster.host(host), "mkdir", "-p", "/data/zk"]);
        docker(&["cp", "-a", &from, &format!("{}:/data/zk", cluster.host(host))]);
    }
    let zk03 = format!("warning: {} has no data: it copies them", cluster.host("zk03"));
    cluster.ok(&["up"]).says(&[&zk03, "up and healthy"]);
    cluster.is_whole();
    let servers = cluster.bootstrap();
    assert_eq!(consume_all(&servers, "keep"), numbers(300));

    // One broker's volume: nothing is refused, and what it had is copied from the others.
    let (kafka02, before) = (cluster.host("kafka02"), cluster.volumes());
    docker(&["rm", "-f", &kafka02]);
    docker(&["volume", "rm", before.iter().find(|v| v.ends_with("broker2")).unwrap()]);
    cluster.ok(&["plan"]).shows(&[&format!("+ host {kafka02} (without data: no volume of it exists)")]);
    cluster.ok(&["up"]).says(&[&format!("warning: {kafka02} has no data"), "whose only replica was there are lost"]);
    cluster.is_whole();
    assert_eq!(consume_all(&servers, "keep"), numbers(300));
    // It has all of it: the two others may go.
    for host in ["kafka01", "kafka03"] {
        docker(&["exec", &cluster.host(host), "systemctl", "kill", "-s", "KILL", "kafka-server"]);
    }
    cluster.ok(&["health", "--wait", "180"]);
    assert_eq!(consume_all(&servers, "keep"), numbers(300));
}
