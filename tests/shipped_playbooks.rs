//! What the shipped playbooks would write on every host.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use septet::{
    inventory::Role,
    playbook::{Event, TaskStatus},
};
use serde_json::json;
use support::{Case, vars};

/// A user's own variables under names that were Septet's once change nothing of what ships.
#[test]
fn variables_of_the_user_do_not_change_what_ships() {
    let own = "domain: site.dev, role: web, index: 7, cluster: mine, node_id: 42, prefix: p, engine: e, address: a, fqdn: f, metadata: m, \
               config_dir: /x, broker_user: bob, coordinator_user: eve, broker_data: /d, voters: v, combined: 'yes', java_home: /j, \
               program_dir: /q, service_type: x, broker_unit: u, data_volume: d, external_listener: l, log_config: l";
    let inventory = |vars: &str| format!("cluster: local\nprefix: peter\ndomain: foo.bar\nvars: {{{vars}}}\n");
    for host in ["peter-kafka02", "peter-zk03", "peter-control01"] {
        let plain = files(&site(Case::new().inventory(&inventory("")), false), host);
        let with = files(&site(Case::new().inventory(&inventory(own)), false), host);
        assert_eq!(with, plain, "{host}");
    }
    for (version, metadata) in [("3.9.1", "zookeeper"), ("4.1.1", "kraft")] {
        let plain = apache_files(&apache(version, metadata, ""), "peter-kafka01");
        assert_eq!(apache_files(&apache(version, metadata, &format!("vars: {{{own}}}\n")), "peter-kafka01"), plain);
    }
}

/// A port that the user chose stands wherever the usual one stood, and nowhere else does anything change.
#[test]
fn ports_of_the_user_reach_every_file() {
    let own = "vars: {kafka_port: 9192, external_port: 29192, zookeeper_port: 2281, controller_port: 9193}\n";
    let ports = [("9092", "9192"), ("19092", "29192"), ("2181", "2281"), ("9093", "9193")];
    let moved = |text: &str| {
        let words = regex::Regex::new("[0-9]+").unwrap();
        let other = |word: &str| ports.iter().find(|(is, _)| *is == word).map_or(word, |(_, to)| to).to_owned();
        words.replace_all(text, |c: &regex::Captures<'_>| other(&c[0])).into_owned()
    };
    let check = |plain: String, with: String, usual: &[&str]| {
        assert!(usual.iter().all(|port| plain.contains(port)), "{usual:?}");
        assert_eq!(with, moved(&plain));
    };
    let inventory = |more: &str| format!("cluster: local\nprefix: peter\n{more}");
    for (host, usual) in [("peter-kafka02", vec!["9092", "2181"]), ("peter-zk03", vec!["2181"])] {
        let of = |more: &str| files(&site(Case::new().inventory(&inventory(more)), false), host);
        check(of(""), of(own), &usual);
    }
    for (version, metadata, usual) in [("3.9.1", "zookeeper", ["9092", "2181"]), ("4.1.1", "kraft", ["9092", "9093"])] {
        let of = |more: &str| apache_files(&apache(version, metadata, more), "peter-kafka01");
        check(of(""), of(own), &usual);
    }
}

/// Addresses as the Docker provider gives them.
fn site(mut case: Case, renaming: bool) -> Case {
    for host in &case.inventory.hosts {
        let base = match host.id.role() {
            Role::Control => 10,
            Role::Coordinator => 20,
            Role::Broker => 50,
            Role::Plain => 140,
        };
        let mut v = vars(json!({"address": format!("10.20.30.{}", base + host.id.index)}));
        if host.id.role() == Role::Broker {
            v.insert("external_listener".into(), format!("localhost:{}", 19019 + host.id.index).into());
        }
        if renaming {
            let old = host.name.replace("peter", "kisu");
            v.insert("other_names".into(), json!([format!("{old}.foo.bar"), old]));
        }
        case.addresses.insert(host.id, v);
    }
    case
}

fn files(case: &Case, host: &str) -> String {
    let ran = case.try_run("site.yml").unwrap();
    assert!(!ran.recap.failed(), "{}", ran.told());
    ran.files(host).into_iter().map(|(path, text)| format!("===== {path}\n{text}<EOF>\n")).collect()
}

#[test]
fn site_goes_through_on_all_hosts() {
    let case = site(Case::new(), false);
    let ran = case.try_run("site.yml").unwrap();
    assert_eq!(ran.all_hosts().len(), 7);
    for (host, c) in &ran.recap.hosts {
        assert_eq!((c.failed, c.unreachable, c.ignored, c.ok), (0, 0, 0, 0), "{host}");
    }
    assert!(!ran.events.iter().any(|e| matches!(e, Event::Task { status: TaskStatus::Failed, .. })));
    insta::assert_snapshot!(ran.host("peter-kafka02"));
}

#[test]
fn every_shipped_template_is_rendered_by_site() {
    let case = site(Case::new().own("data_volume", "vol-0123").own("expires", "1800000000"), false);
    let mut written = Vec::new();
    let ran = case.try_run("site.yml").unwrap();
    written.extend(ran.all_hosts().iter().flat_map(|h| ran.files(h).into_keys()));
    for (version, metadata) in [("3.9.1", "zookeeper"), ("4.1.1", "kraft")] {
        let ran = apache(version, metadata, "").try_run("apache.yml").unwrap();
        written.extend(ran.all_hosts().iter().flat_map(|h| ran.files(h).into_keys()));
    }
    // Each tool has a name of its own.
    written.extend(written.iter().any(|w| w.ends_with("/kafka-topics.sh")).then(|| "/kafka-tool".to_owned()));
    let shipped = septet::project::shipped();
    let (_, templates) = shipped.iter().find(|(k, _)| *k == "templates").unwrap();
    for file in templates.files() {
        let name = file.path().file_name().unwrap().to_str().unwrap();
        assert!(written.iter().any(|w| w.ends_with(&format!("/{name}"))), "{name}: {written:?}");
    }
}

/// A cluster of Apache Kafka; what would be looked for on the way is said.
fn apache(version: &str, metadata: &str, more: &str) -> Case {
    let text = format!("cluster: local\nprefix: peter\nengine: {{apache: {{version: {version}, metadata: {metadata}}}}}\n{more}");
    site(Case::new().inventory(&text), false).own("kafka_archive", "/a.tgz").own("kafka_archive_sha256", "0".repeat(64))
}

/// The files that matter on one host of a cluster of Apache Kafka.
fn apache_files(case: &Case, host: &str) -> String {
    let ran = case.try_run("apache.yml").unwrap();
    assert!(!ran.recap.failed(), "{}", ran.told());
    let wanted = |p: &String| p.ends_with(".properties") || p.ends_with(".cfg") || p.ends_with("-server.service");
    ran.files(host).into_iter().filter(|(p, _)| wanted(p)).map(|(path, text)| format!("===== {path}\n{text}<EOF>\n")).collect()
}

#[test]
fn files_of_apache_kafka() {
    let zookeeper = apache("3.9.1", "zookeeper", "");
    let kraft = apache("4.1.1", "kraft", "vars: {kafka_config: {log.retention.bytes: 1000}}\n");
    let combined = apache("4.1.1", "kraft", "groups: {coordinators: {count: 0}}\n");
    let all = [
        ("zookeeper, a coordinator", apache_files(&zookeeper, "peter-zk01")),
        ("zookeeper, a broker", apache_files(&zookeeper, "peter-kafka02")),
        ("kraft, a controller", apache_files(&kraft, "peter-controller03")),
        ("kraft, a broker", apache_files(&kraft, "peter-kafka02")),
        ("combined", apache_files(&combined, "peter-kafka01")),
    ];
    insta::assert_snapshot!(all.map(|(what, files)| format!("########## {what}\n{files}")).concat());
}

#[test]
fn files_of_a_broker() {
    insta::assert_snapshot!(files(&site(Case::new(), false), "peter-kafka02"));
}

#[test]
fn files_of_a_coordinator() {
    insta::assert_snapshot!(files(&site(Case::new(), false), "peter-zk02"));
}

#[test]
fn files_while_hosts_are_renamed() {
    let ran = site(Case::new(), true).try_run("site.yml").unwrap();
    let (mut broker, mut coordinator) = (ran.files("peter-kafka02"), ran.files("peter-zk02"));
    let hosts = broker.remove("/etc/hosts").unwrap();
    assert_eq!(hosts, coordinator.remove("/etc/hosts").unwrap(), "the same on all hosts");
    // Only `hosts` knows old names.
    let plain = site(Case::new(), false).try_run("site.yml").unwrap();
    for (path, text) in broker.iter().chain(&coordinator) {
        if !["/var/lib/septet/names/hosts", "/var/lib/septet/names/names-in-use"].contains(&path.as_str()) {
            assert!(!text.contains("kisu"), "{path}");
        }
    }
    assert_eq!(broker["/etc/septet/server.properties"], plain.files("peter-kafka02")["/etc/septet/server.properties"]);
    insta::assert_snapshot!(hosts);
}

#[test]
fn configuration_of_the_users_own() {
    let case = Case::new().inventory(
        "cluster: other\nprefix: a\ngroups:\n  coordinators: {count: 1}\n  brokers:\n    count: 2\n    vars: {num_partitions: 12}\n    hosts:\n      2: {kafka_config: {message.max.bytes: 1000, auto.create.topics.enable: false, log.retention.ms: -1}}\nvars:\n  log_retention_hours: 5\n  zookeeper_tick_time: 500\n  zookeeper_config: {maxSessionTimeout: 9000, snapCount: 1000}\n",
    );
    let ran = site(case, false).try_run("site.yml").unwrap();
    let (one, two, zk) = (ran.files("a-kafka01"), ran.files("a-kafka02"), ran.files("a-zk01"));
    insta::assert_snapshot!(format!(
        "===== a-kafka01\n{}<EOF>\n===== a-kafka02\n{}<EOF>\n===== a-zk01\n{}<EOF>\n===== hosts\n{}<EOF>\n",
        one["/etc/septet/server.properties"], two["/etc/septet/server.properties"], zk["/etc/septet/zoo.cfg"], two["/etc/hosts"],
    ));
}

#[test]
fn addresses_that_are_not_known_yet_are_no_obstacle() {
    // `septet plan` before the first `up`.
    let mut case = Case::new();
    for host in &case.inventory.hosts {
        case.addresses.insert(host.id, vars(json!({"address": "(not known yet)"})));
    }
    let text = files(&case, "peter-kafka01");
    assert!(text.contains("(not known yet) peter-kafka02.foo.bar peter-kafka02\n"), "{text}");
    assert!(!text.contains("EXTERNAL://"), "{text}");
}

#[test]
fn a_project_overrides_a_template_and_nothing_else_does() {
    let own = site(Case::new().file("templates/zoo.cfg", "mine={{ septet.index }}\n"), false);
    assert!(files(&own, "peter-zk03").contains("===== /etc/septet/zoo.cfg\nmine=3\n<EOF>"));
    // Files that merely have such a name where septet is run are none of its business.
    let stray = site(Case::new().file("hosts", "6.6.6.6 evil\n").file("zoo.cfg", "stray\n").file("files/zoo.cfg", "stray\n"), false);
    let text = files(&stray, "peter-zk03");
    assert!(!text.contains("evil") && !text.contains("stray"), "{text}");
}
