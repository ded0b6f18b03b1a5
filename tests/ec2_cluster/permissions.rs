//! The policy that ships with Septet: it suffices, and each of its actions and resources is needed; where one is missing, the
//! error names it.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    cluster::{Cluster, NO_WAY_IN},
    harness::Ran,
};

/// No command may take longer, whatever is missing.
const LIMIT: Duration = Duration::from_secs(30);

/// Who runs septet may do what a policy says; the console may do everything.
pub fn restricted(cloud: &Cloud, policy: &Value) {
    let all = json!({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]});
    cloud.set(json!({"iam": {
        "AKIDTEST": {"user": "lesson", "policy": policy},
        "AKIDCONSOLE": {"user": "admin", "policy": all},
    }}));
}

pub fn shipped() -> Value {
    serde_json::from_str(include_str!("../../src/provider/ec2/policy.json")).unwrap()
}

/// What is done without containers: with a network of its own and in the account's, with data that is kept, with other rules and
/// tags, with the end of its time. The first command that fails, or nothing.
fn a_life(cluster: &Cluster) -> Option<Ran> {
    let cloud = cluster.cloud;
    cluster.more("ttl: 8h");
    let run = |args: &[&str]| {
        let ran = Ran::of(cluster.command(args), "", LIMIT);
        let good = ran.code == Some(0) || ran.err.contains(NO_WAY_IN);
        if good { Ok(()) } else { Err(ran) }
    };
    let life = || -> Result<(), Ran> {
        run(&["plan"])?;
        run(&["up"])?;
        cluster.set("ssh", "{from: [198.51.100.0/24]}");
        cluster.set("tags", "{course: kafka-101}");
        run(&["up"])?;
        // Somebody takes a host out of its group.
        let (broker, hosts) = (cluster.id("kafka02"), cluster.groups()["hosts"]["id"].as_str().unwrap().to_owned());
        cloud.aws("ModifyInstanceAttribute", &[("InstanceId", &broker), ("GroupId.1", &hosts)]);
        cloud.instance(&cluster.id("kafka01"), "stop");
        run(&["up"])?;
        run(&["down", "--yes", "--keep-data"])?;
        run(&["up"])?;
        run(&["down", "--yes"])?;
        run(&["down", "--yes", "--all-expired"])?;
        cluster.set("vpc", "new");
        cluster.set("image", "debian-12");
        run(&["up"])?;
        run(&["down", "--yes"])
    };
    life().err()
}

fn actions(statement: &Value) -> Vec<String> {
    strings(&statement["Action"])
}

fn strings(v: &Value) -> Vec<String> {
    match v {
        Value::Array(a) => a.iter().map(|v| v.as_str().unwrap().to_owned()).collect(),
        v => vec![v.as_str().unwrap().to_owned()],
    }
}

/// The policy without one part: what it was, the rest, and which actions an error may name.
fn without_one() -> Vec<(String, Value, Vec<String>)> {
    let whole = shipped();
    let mut out = Vec::new();
    for (n, statement) in whole["Statement"].as_array().unwrap().iter().enumerate() {
        let sid = statement["Sid"].as_str().unwrap();
        let mut rest = whole.clone();
        rest["Statement"].as_array_mut().unwrap().remove(n);
        out.push((sid.to_owned(), rest, actions(statement)));
        for key in ["Action", "Resource"] {
            let all = strings(&statement[key]);
            for one in all.iter().filter(|_| all.len() > 1) {
                let mut rest = whole.clone();
                rest["Statement"][n][key] = json!(all.iter().filter(|a| *a != one).collect::<Vec<_>>());
                let named = if key == "Action" { vec![one.clone()] } else { actions(statement) };
                out.push((format!("{sid}: {one}"), rest, named));
            }
        }
    }
    out
}

#[test]
fn the_policy_suffices_and_all_of_it_is_needed() {
    if !super::cloud::sweeps("the_policy_suffices_and_all_of_it_is_needed") {
        return;
    }
    let new = || Cloud::new("the_policy_suffices_and_all_of_it_is_needed");
    let Some(mut cloud) = new() else { return };
    let shown = |ran: &Option<Ran>| ran.as_ref().map(Ran::show).unwrap_or_default();
    restricted(&cloud, &shipped());
    let ran = a_life(&Cluster::new(&cloud, "allowed"));
    assert!(ran.is_none(), "{}", shown(&ran));

    // What comes into play only where hosts are reached, or where an answer is a warning.
    let elsewhere = [
        "ec2:StopInstances",
        "ec2:DescribeInstanceAttribute",
        "servicequotas:GetServiceQuota",
        // Debian's images are also found by their owner, and the stand-in asks for no snapshots.
        "debian/*",
        "snapshot/*",
    ];
    let (mut needless, mut unnamed) = (BTreeSet::new(), Vec::new());
    for (number, (what, policy, named)) in without_one().into_iter().enumerate() {
        // A cloud that has seen much is slow.
        if number % 8 == 7 {
            cloud = new().unwrap();
        }
        let cluster = Cluster::new(&cloud, &format!("less{number}"));
        restricted(&cloud, &policy);
        match a_life(&cluster) {
            None if elsewhere.iter().any(|a| what.ends_with(a)) => {}
            None => drop(needless.insert(what)),
            Some(ran) => {
                let by_name = named.iter().any(|a| ran.err.contains(&format!("these credentials may not {a}")));
                // A tag that may not be set in the creating call is refused as CreateTags.
                let statement = ran.err.contains("\"Effect\":\"Allow\"");
                if !by_name || !statement || ran.code != Some(1) {
                    unnamed.push(format!("without {what}: {}", ran.show()));
                }
            }
        }
        // What a life has left that was cut short.
        cloud.set(json!({"iam": null}));
        cluster.run(&["down", "--yes"]);
    }
    let good = unnamed.is_empty() && needless.is_empty();
    assert!(good, "all goes without {needless:#?}\n{} errors that do not name what is missing:\n\n{}", unnamed.len(), unnamed.join("\n\n"));
}
