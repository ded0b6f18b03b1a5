//! Answers that come in pages, and a cloud that does not know at once what it has.

use std::{thread, time::Duration};

use serde_json::json;

use super::{cloud::Cloud, cluster::Cluster};

#[test]
fn in_the_accounts_network() {
    in_pages_and_late("in_the_accounts_network", "default");
}

#[test]
fn in_a_network_of_its_own() {
    in_pages_and_late("in_a_network_of_its_own", "new");
}

fn in_pages_and_late(test: &str, vpc: &str) {
    let Some(cloud) = Cloud::new(test) else { return };
    cloud.bystander();
    // What the account has anyway is not new.
    thread::sleep(Duration::from_millis(2100));
    cloud.set(json!({"page_size": 2, "consistency_ms": 2000, "late_everywhere": true, "state_delay_s": 0.5}));
    let cluster = Cluster::new(&cloud, "pages");
    cluster.set("vpc", vpc);
    let others = cloud.others("pages");
    cluster.up();
    cluster.is_whole("up");
    // At once again: nothing is made twice.
    cluster.up();
    cluster.is_whole("a second up");
    let id = cluster.id("kafka02");
    cloud.instance(&id, "terminate");
    thread::sleep(Duration::from_secs(1));
    cluster.up();
    cluster.is_whole("a broker that was terminated");
    assert_ne!(cluster.id("kafka02"), id);
    let receipt = cluster.ok(&["down", "--yes", "--json"]).json();
    assert_eq!(receipt["left"], json!([]));
    cluster.is_gone("down");
    thread::sleep(Duration::from_millis(2100));
    cluster.is_gone("down, and a while");
    assert_eq!(cloud.others("pages"), others);
    assert!(cloud.calls().iter().any(|c| c.get("NextToken").is_some()), "nothing came in pages");
}
