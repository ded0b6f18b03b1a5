//! A broker of Apache in the place of one of ours.

use std::{fs, process::Command};

use super::{
    processes::{Cluster, Process},
    tools,
};

/// Stops the first broker.
pub fn stop(cluster: &mut Cluster) {
    let status = cluster.node(1).running().terminate();
    assert!([Some(0), Some(143)].contains(&status.code()), "{status}");
    cluster.node(1).process = None;
}

/// Starts a broker of Apache on the first broker's directory and port. What its defaults would make on a small machine is made
/// smaller.
pub fn start(cluster: &mut Cluster) -> u16 {
    let file = cluster.node(1).dir.join("apache.properties");
    let text = fs::read_to_string(cluster.node(1).dir.join("server.properties")).unwrap();
    fs::write(&file, format!("{text}\nlog.cleaner.dedupe.buffer.size=2000000\nnum.network.threads=1\nnum.io.threads=2\n")).unwrap();
    let mut command = Command::new(tools::kafka("kafka-server-start.sh"));
    command.arg(&file).env("KAFKA_HEAP_OPTS", "-Xmx256m").env("LOG_DIR", cluster.dir.path()).stdin(std::process::Stdio::null());
    command.stdout(fs::File::create(cluster.dir.path().join("apache.stdout")).unwrap());
    let node = cluster.node(1);
    node.process = Some(Process::spawn(command, node.dir.join("apache.stderr")));
    node.port
}
