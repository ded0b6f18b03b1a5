//! Brokers of Apache, in the place of ours or beside them.

use std::{fs, process::Command, time::Duration};

use kafka_protocol::messages::MetadataRequest;

use super::{
    client::{Client, eventually},
    processes::{Cluster, Process},
    tools,
};

/// Time for a Java program to start on a machine that is busy.
const START: Duration = Duration::from_secs(150);

/// Stops the first broker.
pub fn stop(cluster: &mut Cluster) {
    stop_node(cluster, 1);
}

/// Stops a broker by SIGTERM.
pub fn stop_node(cluster: &mut Cluster, id: i32) {
    let status = cluster.node(id).running().terminate();
    assert!([Some(0), Some(143)].contains(&status.code()), "{status}");
    cluster.node(id).process = None;
}

/// Starts a broker of Apache on the first broker's directory and port.
pub fn start(cluster: &mut Cluster) -> u16 {
    start_node(cluster, 1)
}

/// Starts a broker of Apache on a broker's directory and port. What its defaults would make on a small machine is made smaller.
pub fn start_node(cluster: &mut Cluster, id: i32) -> u16 {
    let dir = cluster.node(id).dir.clone();
    let file = dir.join("apache.properties");
    let text = fs::read_to_string(dir.join("server.properties")).unwrap();
    fs::write(&file, format!("{text}\nlog.cleaner.dedupe.buffer.size=2000000\nnum.network.threads=1\nnum.io.threads=2\n")).unwrap();
    let mut command = Command::new(tools::kafka("kafka-server-start.sh"));
    // Starts in half the time, and without a file of what the garbage collector does.
    command.env("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1").env("EXTRA_ARGS", "-name kafkaServer");
    command.arg(&file).env("KAFKA_HEAP_OPTS", "-Xmx256m -Xms256m").env("LOG_DIR", &dir).stdin(std::process::Stdio::null());
    command.stdout(fs::File::options().create(true).append(true).open(cluster.dir.path().join("apache.stdout")).unwrap());
    let node = cluster.node(id);
    node.process = Some(Process::spawn(command, node.dir.join("apache.stderr")));
    node.port
}

/// Waits until a broker of Apache answers and sees so many brokers.
pub fn wait(cluster: &mut Cluster, id: i32, brokers: usize) {
    let out = cluster.dir.path().join("apache.stdout");
    let node = cluster.node(id);
    let port = node.port;
    let process = node.running();
    eventually("Apache's broker answers and sees the others", START, || {
        assert!(!process.has_ended(), "{}", fs::read_to_string(&out).unwrap_or_default());
        let mut client = Client::try_connect(port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_millis(2000))).unwrap();
        let seen = client.try_call(9, &MetadataRequest::default().with_topics(Some(vec![]))).ok()?;
        (seen.brokers.len() == brokers && seen.controller_id.0 >= 0).then_some(())
    });
}
