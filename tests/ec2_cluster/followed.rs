//! Hints about a cloud that is as it is: what they say is done, and the command that failed goes on.

use super::{cloud::Cloud, cluster::Cluster};

/// Data in a zone where the cluster has no subnet now.
#[test]
fn a_zone_is_added_for_the_data_in_it() {
    let Some(cloud) = Cloud::new("a_zone_is_added_for_the_data_in_it") else { return };
    let cluster = Cluster::new(&cloud, "zones");
    cluster.set("zones", "[us-east-1a]");
    cluster.up();
    cluster.ok(&["down", "--yes", "--keep-data"]);
    cluster.set("zones", "[us-east-1b]");
    let before = cloud.state();
    cluster.run(&["up"]).code(1).says(&["data that was kept lies in zone us-east-1a", "hint: add that zone to `zones`"]);
    assert_eq!(cloud.state()["security_groups"], before["security_groups"], "the network's zones stay once it is made");
    cluster.set("zones", "[us-east-1a, us-east-1b]");
    cluster.up();
    cluster.is_whole("a zone that was added");
    cluster.down();
    cluster.is_gone("down");
}

/// An account whose default network was removed, as many are.
#[test]
fn a_network_is_made_where_there_is_none() {
    let Some(cloud) = Cloud::new("a_network_is_made_where_there_is_none") else { return };
    let state = cloud.state();
    for subnet in state["subnets"].as_array().unwrap() {
        cloud.aws("DeleteSubnet", &[("SubnetId", subnet["id"].as_str().unwrap())]);
    }
    for gateway in state["internet_gateways"].as_array().unwrap() {
        let id = gateway["id"].as_str().unwrap();
        cloud.aws("DetachInternetGateway", &[("InternetGatewayId", id), ("VpcId", gateway["vpc"].as_str().unwrap())]);
        cloud.aws("DeleteInternetGateway", &[("InternetGatewayId", id)]);
    }
    for vpc in state["vpcs"].as_array().unwrap() {
        cloud.aws("DeleteVpc", &[("VpcId", vpc["id"].as_str().unwrap())]);
    }
    let cluster = Cluster::new(&cloud, "bare");
    cluster.run(&["up"]).code(1).says(&["hint: write `vpc: new` below `ec2:`"]);
    cluster.set("vpc", "new");
    cluster.up();
    cluster.is_whole("up");
    cluster.down();
    cluster.is_gone("down");
}
