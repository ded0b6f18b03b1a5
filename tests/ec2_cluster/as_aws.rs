//! What AWS does and its documentation says, where a simpler stand-in would not notice.

use serde_json::{Value, json};

use super::{cloud::Cloud, cluster::Cluster};

/// An image that is deprecated is shown only to those that name its id.
#[test]
fn a_pinned_image_that_is_deprecated() {
    let Some(cloud) = Cloud::new("a_pinned_image_that_is_deprecated") else { return };
    let cluster = Cluster::new(&cloud, "pinned");
    cluster.set("image", "ami-0deb1200000b0000f");
    let plan = cluster.ok(&["plan", "--json"]).json();
    let image = plan["checks"].as_array().unwrap().iter().find(|c| c["name"] == "image").unwrap();
    assert_eq!(image["verdict"], "pass", "{image}");
    assert!(image["finding"].as_str().unwrap().contains("deprecated from 2026-03-11T17:01:00.000Z on"), "{image}");
    cluster.up();
    assert!(cluster.instances().values().all(|i| i["image"] == "ami-0deb1200000b0000f"));
    // One that does not exist is an error before anything is made.
    let other = Cluster::new(&cloud, "nothing");
    other.set("image", "ami-00000000000000000");
    other.run(&["up"]).code(1).says(&["there is no image ami-00000000000000000 in region us-east-1"]);
    other.is_gone("an image that does not exist");
    // Without an id the newest that is not deprecated.
    let newest = Cluster::new(&cloud, "newest");
    newest.set("image", "debian-12");
    newest.up();
    assert!(newest.instances().values().all(|i| i["image"] != "ami-0deb1200000b0000f"));
}

/// An account that has opted in to Local Zones sees them beside the others, and instance types are offered there.
#[test]
fn local_zones_are_left_out() {
    let Some(cloud) = Cloud::new("local_zones_are_left_out") else { return };
    cloud.set(json!({"local_zones": true}));
    let cluster = Cluster::new(&cloud, "local");
    cluster.set("vpc", "new");
    cluster.up();
    let subnets = cluster.things()["subnets"].clone();
    assert_eq!(subnets.len(), 4);
    assert!(subnets.iter().all(|s| s["zone"].as_str().unwrap().len() == "us-east-1a".len()), "{subnets:#?}");
    cluster.down();
    let before = cloud.state();
    cluster.set("zones", "[us-east-1a, us-east-1-bos-1a]");
    cluster
        .run(&["up"])
        .code(1)
        .says(&["us-east-1-bos-1a is not an Availability Zone of this region", "hint: `vpc: new` can use us-east-1a"]);
    assert_eq!(cloud.state()["vpcs"], before["vpcs"]);
    cluster.set("zones", "[us-east-1a]");
    cluster.ok(&["plan"]);
}

/// Where instances see their tags by the account's default, EC2 refuses keys that are no part of a path.
#[test]
fn tags_do_not_go_into_the_metadata() {
    let Some(cloud) = Cloud::new("tags_do_not_go_into_the_metadata") else { return };
    cloud.set(json!({"metadata_tags": true}));
    let cluster = Cluster::new(&cloud, "spaced");
    cluster.set("tags", r#"{"team name": blue, "cost/center": "42"}"#);
    cluster.up();
    cluster.is_whole("up with tags of all kinds");
    let instances = cluster.instances();
    assert!(instances.values().all(|i| i["tags"]["team name"] == "blue" && i["tags"]["cost/center"] == "42"), "{instances:#?}");
    for call in cloud.done("RunInstances") {
        call.has("MetadataOptions.InstanceMetadataTags", "disabled");
    }
}

/// The address of a host that was terminated counts as in use for a while: it is asked for again.
#[test]
fn an_address_that_is_not_free_yet() {
    let Some(cloud) = Cloud::new("an_address_that_is_not_free_yet") else { return };
    let cluster = Cluster::new(&cloud, "again");
    cluster.up();
    let was = cluster.instances()["kafka02"].clone();
    cloud.instance(was["id"].as_str().unwrap(), "terminate");
    cloud.forget_calls();
    cloud.fault(
        json!({"action": "RunInstances", "code": "InvalidIPAddress.InUse", "status": 400, "times": 3, "message": "Address is in use."}),
    );
    let ran = cluster.up();
    assert!(!ran.err.contains("choosing another"), "{}", ran.show());
    assert_eq!(cluster.instances()["kafka02"]["private_ip"], was["private_ip"]);
    let refused: Vec<Value> =
        cloud.calls().iter().filter(|c| c.action == "RunInstances" && !c.dry_run && !c.is_ok()).map(|c| json!(c.result)).collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    cluster.is_whole("an address that was freed late");
}
