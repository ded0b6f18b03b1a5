//! Before anything is made: `plan` and the checks of `up` make nothing, find what would go wrong, and say what it costs.

use serde_json::{Value, json};

use super::{cloud::Cloud, cluster::Cluster, harness::Ran};

/// Insists that nothing but looking was done, and that all is as it was.
#[track_caller]
fn nothing_was_made(cloud: &Cloud, before: &Value) {
    // Who holds the cluster is written down and taken back.
    let meant: Vec<_> = cloud.calls().into_iter().filter(|c| c.changes() && !c.action.contains("KeyPair")).collect();
    assert!(meant.is_empty(), "{meant:#?}");
    assert_eq!(cloud.state(), *before);
}

fn checks(ran: &Ran) -> Vec<(String, String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let list = ran.json()["checks"].as_array().unwrap().clone();
    list.iter().map(|c| (text(&c["name"]), text(&c["verdict"]), text(&c["finding"]))).collect()
}

/// What the test's cluster is to say, and how it is brought about.
struct Case<'a> {
    what: &'a str,
    settings: Settings<'a>,
    says: &'a [&'a str],
    /// what the hint says
    mended: Settings<'a>,
}

type Settings<'a> = &'a [(&'a str, &'a str)];

fn case<'a>(what: &'a str, settings: Settings<'a>, says: &'a [&'a str], mended: Settings<'a>) -> Case<'a> {
    Case { what, settings, says, mended }
}

#[test]
fn a_plan_makes_nothing() {
    let Some(cloud) = Cloud::new("a_plan_makes_nothing") else { return };
    cloud.bystander();
    let cluster = Cluster::new(&cloud, "plan");
    cluster.unset("public_addresses");
    let before = cloud.state();
    // What opens to whom, the key and the volumes are resources of the plan.
    let plan = cluster.run(&["plan", "--exit-code"]).code(4).shows(&[
        "+ security group control: lets in 22 from 192.0.2.1/32",
        "+ security group coordinators: lets in 2181 from brokers",
        "2888 from coordinators",
        "+ security group brokers: lets in 9092 from brokers, 9092 from control",
        "+ key pair: the cluster's login key",
        "+ 6 data volumes (gp3",
    ]);
    let plan = plan.shows(&["pass  credentials:", "pass  region: us-east-1", "pass  clock:", "pass  instance types:", "pass  image:"]);
    let plan = plan.shows(&["pass  network:", "pass  vCPU quota: 14 vCPUs", "pass  permissions: RunInstances", "pass  ssh:"]);
    plan.shows(&["+ network", "+ host plan-kafka03 (t3.small)"]).says(&["`septet -i inventory.yml up` does it"]);
    nothing_was_made(&cloud, &before);
    // A plan asks no hold of anybody: it only looks.
    assert!(!cloud.calls().iter().any(|c| c.changes()), "{:#?}", cloud.calls());
    // The dry runs are such, and ask for what `up` asks for.
    let tried: Vec<_> = cloud.calls().into_iter().filter(|c| c.dry_run).collect();
    let mut names: Vec<&str> = tried.iter().map(|c| c.action.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["CreateSecurityGroup", "ImportKeyPair", "RunInstances"]);
    assert!(tried.iter().all(|c| c.result.as_deref() == Some("DryRunOperation")), "{tried:#?}");
    let json = cluster.ok(&["plan", "--json"]);
    assert!(checks(&json).iter().all(|(_, verdict, _)| verdict == "pass"), "{}", json.show());
    nothing_was_made(&cloud, &before);
}

#[test]
fn what_it_costs() {
    let Some(cloud) = Cloud::new("what_it_costs") else { return };
    let cluster = Cluster::new(&cloud, "cost");
    cluster.unset("public_addresses");
    // us-east-1: t3.micro 0.0104, t3.small 0.0208, an address 0.005 an hour; a GiB of gp3 0.08 a month.
    let hours = 0.0104 + 6.0 * 0.0208 + 0.005 + (6.0 * 20.0 + 7.0 * 8.0) * 0.08 / 730.0;
    let cost = |cluster: &Cluster| cluster.ok(&["plan", "--json"]).json()["cost"].clone();
    let is = cost(&cluster);
    assert!((is["hourly"].as_f64().unwrap() - hours).abs() < 1e-4, "{is} instead of {hours}");
    assert!((is["monthly"].as_f64().unwrap() - hours * 730.0).abs() < 0.1, "{is}");
    assert_eq!(is["unknown"], json!([]));
    let day = is["as_of"].as_str().unwrap();
    assert!(day.starts_with("20") && day.len() == 10, "{is}");
    cluster.ok(&["plan"]).shows(&["6 × t3.small", &format!("about {hours:.2} USD per hour"), day]);
    // Larger volumes cost more, clients from outside need addresses.
    cluster.set("volume", "{size: 100, iops: 5000}");
    cluster.set("external", "{from: [10.0.0.0/8]}");
    let more = hours + 3.0 * 0.005 + 6.0 * (80.0 * 0.08 + 2000.0 * 0.005) / 730.0;
    let is = cost(&cluster);
    assert!((is["hourly"].as_f64().unwrap() - more).abs() < 1e-4, "{is} instead of {more}");
    // What the table does not know is named, and not guessed.
    cluster.set("instance_type", "g4dn.xlarge");
    let is = cost(&cluster);
    assert_eq!(is["unknown"], json!(["g4dn.xlarge in us-east-1"]));
    cluster.ok(&["plan"]).shows(&["without g4dn.xlarge in us-east-1, of which the table has no price"]);
}

#[test]
fn what_would_go_wrong() {
    let Some(cloud) = Cloud::new("what_would_go_wrong") else { return };
    let small = network(&cloud);
    let subnets = format!("[{}]", small.1);
    let private = [("vpc", small.0.as_str()), ("public_addresses", "")];
    let no_way = format!("{} of {} have no route to an internet gateway", small.1, small.0);
    let no_way = no_way.as_str();
    let unreachable = [no_way, "`connect: private`"];
    let too_small = [("vpc", small.0.as_str()), ("subnets", subnets.as_str())];
    let cases = [
        case(
            "an unknown type",
            &[("instance_type", "t3.gigantic")],
            &["t3.gigantic", "check `instance_type`"],
            &[("instance_type", "t3.small")],
        ),
        case(
            "no programs for it",
            &[("instance_type", "{brokers: t4g.small}")],
            &["t4g.small is for aarch64", "choose other instance types"],
            &[("instance_type", "{brokers: t3.small}")],
        ),
        case(
            "an alternative without programs",
            &[("instance_type", "[t3.small, t4g.small]")],
            &["t4g.small is for aarch64"],
            &[("instance_type", "[t3.small, t3a.small]")],
        ),
        case(
            "an image of another architecture",
            &[("image", "ami-0deb1200000a00000")],
            &["is for arm64, the instance types are for x86_64", "or another image"],
            &[("image", "debian-12")],
        ),
        case("no such image", &[("image", "ami-00000000000000000")], &["ami-00000000000000000", "check `image`"], &[("image", "")]),
        case(
            "a system volume that is too small",
            &[("root_volume", "{size: 4}")],
            &["needs a system volume of 8 GiB", "or make it at least that"],
            &[("root_volume", "{size: 8}")],
        ),
        case("a system volume without a size", &[("root_volume", "{size: 4}")], &["leave its `size` out"], &[("root_volume", "")]),
        case(
            "no such VPC",
            &[("vpc", "vpc-0123456789abcdef0")],
            &["there is no VPC vpc-0123456789abcdef0", "check `vpc` and `region`"],
            &[("vpc", "default")],
        ),
        case(
            "no such subnet",
            &[("subnets", "[subnet-0123456789abcdef0]")],
            &["there is no subnet subnet-0123456789abcdef0", "check `subnets`"],
            &[("subnets", "")],
        ),
        case(
            "no such zone",
            &[("zones", "[us-east-1x]")],
            &["no subnet in zone us-east-1x", "check `zones`"],
            &[("zones", "[us-east-1a]")],
        ),
        case(
            "a subnet that is too small",
            &too_small,
            &["no row of free addresses for 7 hosts", "`vpc: new`"],
            &[("vpc", "new"), ("subnets", "")],
        ),
        case("subnets that nobody outside reaches", &private, &unreachable, &[("connect", "private"), ("public_addresses", "none")]),
        case("no region", &[("region", "")], &["no region is set", "AWS_REGION"], &[("region", "us-east-1")]),
    ];
    for c in cases {
        let cluster = Cluster::new(&cloud, "wrong");
        for (key, value) in c.settings {
            if value.is_empty() { cluster.unset(key) } else { cluster.set(key, value) }
        }
        cloud.forget_calls();
        let before = cloud.state();
        eprintln!("{}", c.what);
        let ran = cluster.run(&["up"]);
        assert!(matches!(ran.code, Some(1 | 2)), "{}: {}", c.what, ran.show());
        ran.says(c.says).says(&["hint:"]);
        nothing_was_made(&cloud, &before);
        // As the hint says.
        for (key, value) in c.mended {
            if value.is_empty() { cluster.unset(key) } else { cluster.set(key, value) }
        }
        cluster.ok(&["plan"]).shows(&["+ host wrong-kafka03"]);
    }
}

/// A VPC with a subnet of 16 addresses: id of both.
fn network(cloud: &Cloud) -> (String, String) {
    let id = |text: &str, tag: &str| {
        let after = text.split(&format!("<{tag}>")).nth(1).unwrap();
        after.split('<').next().unwrap().to_owned()
    };
    let vpc = id(&cloud.aws("CreateVpc", &[("CidrBlock", "10.7.0.0/16")]), "vpcId");
    let params = [("VpcId", vpc.as_str()), ("CidrBlock", "10.7.1.0/28"), ("AvailabilityZone", "us-east-1a")];
    let subnet = id(&cloud.aws("CreateSubnet", &params), "subnetId");
    (vpc, subnet)
}

#[test]
fn what_the_account_refuses() {
    let Some(cloud) = Cloud::new("what_the_account_refuses") else { return };
    let cluster = Cluster::new(&cloud, "none");
    let before = cloud.state();
    let refused = |says: &[&str]| {
        let ran = cluster.run(&["up"]).code(1).says(says).says(&["hint:"]);
        nothing_was_made(&cloud, &before);
        cloud.calm();
        cloud.forget_calls();
        ran
    };
    // Nobody's credentials.
    cloud.set(json!({"iam": {}}));
    refused(&["AuthFailure", "AWS_PROFILE"]);
    cloud.set(json!({"iam": null}));
    let mut c = cluster.command(&["up"]);
    c.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    Ran::of(c, "", std::time::Duration::from_secs(60)).code(1).says(&["credentials", "hint:"]);
    // Credentials that are good for looking only until they are looked at.
    cloud.fault(json!({"action": "GetCallerIdentity", "code": "InvalidClientTokenId", "status": 403}));
    refused(&["credentials: they are not accepted", "InvalidClientTokenId", "aws configure"]);
    cloud.fault(json!({"action": "GetCallerIdentity", "code": "ExpiredToken", "status": 403}));
    refused(&["ExpiredToken", "aws sso login"]);
    cloud.fault(json!({"action": "DescribeAvailabilityZones", "code": "AuthFailure", "status": 401}));
    refused(&["region: us-east-1 cannot be used", "enabled for the account"]);
    cloud.set(json!({"vcpu_limit": 8}));
    refused(&["vCPU quota: 14 vCPUs are needed, the account may run 8", "choose smaller types", "Service Quotas"]);
    cloud.set(json!({"vcpu_limit": 256}));
    cluster.ok(&["plan"]);
    // A quota that cannot be read is no reason not to begin; a plan says so.
    cloud.fault(json!({"action": "GetServiceQuota", "code": "AccessDeniedException", "status": 400}));
    cluster.ok(&["plan"]).shows(&["warn  vCPU quota: it may not be read with these credentials"]);
    cloud.calm();
    // A dry run that is refused: which action, and the statement.
    for action in ["RunInstances", "CreateSecurityGroup", "ImportKeyPair"] {
        let says = "You are not authorized to perform this operation.";
        cloud.fault(json!({"action": action, "dry_run": true, "code": "UnauthorizedOperation", "status": 403, "message": says}));
        let action = format!("ec2:{action}");
        refused(&[
            "permissions:",
            &format!("these credentials may not {action}"),
            &format!("\"Action\":\"{action}\""),
            "\"Effect\":\"Allow\"",
        ]);
    }
}

/// Another type for hosts that exist: what would fail is found before the first of them is stopped.
#[test]
fn what_cannot_be_resized() {
    let Some(cloud) = Cloud::new("what_cannot_be_resized") else { return };
    let untouched = |cluster: &Cluster, says: &[&str]| {
        let before = cluster.instances();
        cloud.forget_calls();
        cluster.run(&["up"]).code(1).says(&["nothing was begun", "hint:"]).says(says);
        assert!(!cloud.calls().iter().any(|c| c.action.ends_with("Instances") && c.changes() && !c.dry_run), "{:#?}", cloud.calls());
        assert_eq!(cluster.instances(), before);
    };
    let spot = Cluster::new(&cloud, "spot");
    spot.set("spot", "true");
    spot.up();
    spot.set("instance_type", "{control: t3.micro, coordinators: t3.small, brokers: t3.medium}");
    let id = spot.id("kafka02");
    untouched(&spot, &[&format!("spot-kafka02 ({id}) is a spot instance, which cannot be stopped"), "terminate such hosts one at a time"]);
    assert!(!spot.run(&["up"]).err.contains("spot-zk01 ("), "only what is to change is named");
    // As the hint says.
    cloud.instance(&id, "terminate");
    spot.run(&["up"]).code(1).says(&["spot-kafka01 ("]);
    spot.down();

    let other = Cluster::new(&cloud, "arch");
    other.up();
    other.set("instance_type", "{control: t3.micro, coordinators: t4g.small, brokers: t3.small}");
    let who = format!("arch-zk03 ({}) is for x86_64, a t4g.small for arm64", other.id("zk03"));
    untouched(&other, &["t4g.small is for aarch64", &who]);
}

/// An engine that a host has no memory for.
#[test]
fn what_does_not_fit() {
    let Some(cloud) = Cloud::new("what_does_not_fit") else { return };
    let cluster = Cluster::new(&cloud, "heap");
    let before = cloud.state();
    for (heap, says) in [
        ("{broker: 6g}", "t3.small: 2048 MiB of memory are too little for a broker"),
        ("{broker: 1g, coordinator: 2g}", "t3.small: 2048 MiB of memory are too little for a coordinator"),
    ] {
        cluster.more(&format!("engine: {{apache: {{heap: {heap}}}}}"));
        // Before anything is downloaded, too.
        cluster.run(&["up"]).code(1).says(&["instance types", says, "or a smaller `heap`"]);
        nothing_was_made(&cloud, &before);
    }
    cluster.more("engine: {apache: {heap: {broker: 1g}}}");
    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.small, brokers: t3.micro}");
    cluster.run(&["up"]).code(1).says(&["t3.micro: 1024 MiB of memory are too little for a broker"]);
    nothing_was_made(&cloud, &before);
    // As the hint says: a larger type, or a smaller heap.
    cluster.set("instance_type", "{control: t3.micro, coordinators: t3.small, brokers: t3.medium}");
    cluster.ok(&["plan"]);
    cluster.set("instance_type", "t3.small");
    cluster.more("engine: {apache: {heap: {broker: 512m, coordinator: 256m}}}");
    cluster.ok(&["plan"]);
}

/// EC2's clock is the one that counts.
#[test]
fn the_clock() {
    let Some(cloud) = Cloud::new("the_clock") else { return };
    let cluster = Cluster::new(&cloud, "late");
    let before = cloud.state();
    cloud.set(json!({"clock_skew_s": 120}));
    let (name, verdict, finding) = checks(&cluster.ok(&["plan", "--json"])).into_iter().find(|c| c.0 == "clock").unwrap();
    assert_eq!((name.as_str(), verdict.as_str()), ("clock", "warn"), "{finding}");
    for skew in [-290, 290] {
        cloud.set(json!({"clock_skew_s": skew}));
        let ran = cluster.run(&["up"]).code(1).says(&[
            "clock: this machine's clock differs by ",
            "refuses requests at 300 s",
            "hint: set this machine's clock",
        ]);
        let told = ran.err.split("differs by ").nth(1).unwrap().split(' ').next().unwrap().parse::<i64>().unwrap();
        assert!((told - skew).abs() <= 3, "{told}");
        nothing_was_made(&cloud, &before);
    }
    // So far off that the first call is refused: whatever it is.
    cloud.set(json!({"clock_skew_s": 1000}));
    for command in ["plan", "up", "health"] {
        let ran = cluster.run(&[command]).code(1);
        ran.says(&["this machine's clock differs by ", "(AuthFailure)", "hint: set this machine's clock"]);
    }
    nothing_was_made(&cloud, &before);
    cloud.set(json!({"clock_skew_s": 0, "iam": {}}));
    cluster.run(&["plan"]).code(1).says(&["these credentials are not accepted", "(AuthFailure)", "hint: check the profile"]);
    cloud.set(json!({"iam": null}));
    let checks = checks(&cluster.ok(&["plan", "--json"]));
    assert!(checks.iter().any(|c| c.0 == "clock" && c.1 == "pass"), "{checks:?}");
}
