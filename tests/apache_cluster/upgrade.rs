//! Apache Kafka 3.9.1 to 4.1.1 with its own controllers, and the step that cannot be undone.

use std::{fs, time::Duration};

use super::{
    archives,
    clients::{consume_all, numbers, produce_numbers},
    harness::{Cluster, Ran, docker, enabled},
    steps::{WITH_CONTROLLERS, add, inside, tool},
    writer::Writer,
};

const RECORDS: usize = 200;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(900);

/// septet with the time that seven JVMs may need.
fn run(cluster: &Cluster, args: &[&str]) -> Ran {
    Ran::of(cluster.command(args), "", COMMAND_TIMEOUT)
}

/// The versions of the processes that serve.
fn versions(cluster: &Cluster) -> Vec<String> {
    let of = |host: &&str| {
        let script = "tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value kafka-server)/cmdline | grep -o -m1 'kafka_2.13-[0-9.]*[0-9]' | head -n1";
        docker(&["exec", &cluster.host(host), "sh", "-c", script])
    };
    WITH_CONTROLLERS.iter().filter(|h| !h.starts_with("control0")).map(of).collect()
}

fn metadata_version(cluster: &Cluster) -> String {
    let server = inside(cluster);
    let told = tool(cluster, &["kafka-features.sh", "--bootstrap-server", &server, "describe"]).out;
    let line = told.lines().find(|l| l.contains("metadata.version")).unwrap_or_else(|| panic!("{told}")).to_owned();
    line.split("FinalizedVersionLevel: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn from_3_9_to_4_1() {
    if !enabled("from_3_9_to_4_1") {
        return;
    }
    let (Some(old), Some(new)) = (archives::find("3.9.1"), archives::find("4.1.1")) else { return };
    let cluster = Cluster::of("v", &WITH_CONTROLLERS);
    add(&cluster, &format!("engine: {{apache: {{{}}}}}\n", old.settings()));
    run(&cluster, &["up"]).code(0);
    let servers = cluster.bootstrap();
    let inner = inside(&cluster);
    for topic in ["numbers", "during"] {
        let words = ["kafka-topics.sh", "--bootstrap-server", &inner, "--create", "--topic", topic, "--partitions", "3"];
        tool(&cluster, &[&words[..], &["--replication-factor", "3"]].concat());
    }
    produce_numbers(&servers, "numbers", RECORDS);
    assert_eq!(metadata_version(&cluster), "3.9-IV0");

    // Archives that are named here are the user's to change.
    let inventory = || fs::read_to_string(cluster.inventory()).unwrap();
    let text = inventory();
    run(&cluster, &["upgrade", "--engine-version", "4.1.1"]).code(2).says(&["write `version: 4.1.1` there yourself"]);
    assert_eq!(inventory(), text);
    cluster.edit(&old.settings(), &new.settings());
    let before = versions(&cluster);
    let looked = run(&cluster, &["upgrade", "--engine-version", "4.1.1", "--check"]).code(0);
    looked.shows(&["brokers\n", ": from 3.9.1 to 4.1.1\n"]).says(&["6 hosts would be upgraded"]);
    assert_eq!(versions(&cluster), before, "a look changes nothing");
    let writer = Writer::start(&servers, "during", cluster.path());
    let upgraded = run(&cluster, &["upgrade", "--engine-version", "4.1.1"]).code(0);
    upgraded.says(&["checking that it is safe to stop", "6 hosts upgraded", "upgrade --finish` raises it"]);
    writer.lost_nothing(&servers, "during");
    assert_eq!(versions(&cluster), ["kafka_2.13-4.1.1"; 6]);
    assert_eq!(metadata_version(&cluster), "3.9-IV0");
    // Back again is refused with nothing touched, the last step is taken once.
    cluster.edit(&new.settings(), &old.settings());
    run(&cluster, &["upgrade"]).code(1).says(&["has Apache Kafka 4.1.1, 3.9.1 is older: nothing was touched"]);
    cluster.edit(&old.settings(), &new.settings());
    run(&cluster, &["upgrade", "--finish"]).code(0).says(&["0 hosts upgraded, 6 ran it already", "metadata.version was raised from level"]);
    assert!(metadata_version(&cluster).starts_with("4.1"), "{}", metadata_version(&cluster));
    let again = run(&cluster, &["upgrade", "--finish"]).code(0);
    assert!(!again.err.contains("metadata.version"), "{}", again.show());
    assert_eq!(consume_all(&servers, "numbers"), numbers(RECORDS));
    run(&cluster, &["up"]).code(0).says(&["nothing changed"]);
    cluster.is_whole();
}
