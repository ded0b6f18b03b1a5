//! Another configuration, and another version of the programs, for a cluster that is at work.

use std::{collections::BTreeMap, fs};

use super::{
    clients::{CREATE_TOPIC, python},
    harness::{Cluster, Seen, enabled},
    watch::Watch,
    writer::Writer,
};

/// Stands in a program of the bundle before the number of its peer protocol.
const MARK: &[u8] = b"septet-peer-protocol=";

/// Hosts whose service was started again.
fn restarted(before: &BTreeMap<String, Seen>, after: &BTreeMap<String, Seen>) -> Vec<String> {
    after.iter().filter(|(host, is)| before[*host].unit_started != is.unit_started).map(|(host, _)| host.clone()).collect()
}

/// Makes a program of the bundle say that it speaks another protocol; otherwise it is the same.
pub fn speaks_another_protocol(cluster: &Cluster, program: &str) {
    let path = cluster.path().join("bundle").join(program);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(MARK.len()).position(|w| w == MARK).unwrap() + MARK.len();
    assert!(bytes[at].is_ascii_digit());
    bytes[at] = b'9';
    fs::write(&path, bytes).unwrap();
}

#[test]
fn changed_while_it_works() {
    if !enabled("changed_while_it_works") {
        return;
    }
    let cluster = Cluster::new("x");
    cluster.ok(&["up"]);
    let (servers, zookeeper) = (cluster.bootstrap(), cluster.zookeeper());
    for topic in ["configured", "upgraded"] {
        assert!(python(CREATE_TOPIC, &[&servers, topic, "3", "-1"]).is_null());
    }

    // One broker after the other.
    let before = cluster.seen();
    cluster.edit("log_retention_hours: 72", "log_retention_hours: 48");
    let writer = Writer::start(&servers, "configured", cluster.path());
    let watch = Watch::start(&servers, &zookeeper);
    cluster.ok(&["up"]).says(&["checking that it is safe to stop"]);
    watch.never_two_at_once();
    writer.lost_nothing(&servers, "configured");
    assert_eq!(restarted(&before, &cluster.seen()), ["broker1", "broker2", "broker3"]);

    // Coordinators that do not understand their predecessors would each stand alone: all of them restart together.
    let before = cluster.seen();
    let together = "coordinators: the new version speaks another peer protocol: all restart together";
    speaks_another_protocol(&cluster, "septet-coordinator");
    cluster.ok(&["plan"]).says(&[together]);
    assert_eq!(cluster.seen(), before);
    let writer = Writer::start(&servers, "upgraded", cluster.path());
    let ran = cluster.ok(&["up"]).says(&[together]);
    assert!(!ran.err.contains("checking that it is safe to stop"), "{}", ran.show());
    writer.lost_nothing(&servers, "upgraded");
    assert_eq!(restarted(&before, &cluster.seen()), ["coordinator1", "coordinator2", "coordinator3"]);
    cluster.is_whole();
    let ran = cluster.ok(&["up"]).says(&["nothing changed"]);
    assert!(!ran.err.contains("peer protocol"), "{}", ran.show());
}
