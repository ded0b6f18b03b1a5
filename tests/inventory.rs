//! Inventories: what every mistake is answered with, and what a good one means.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

#[path = "inventory/groups.rs"]
mod groups;

use proptest::prelude::*;
use septet::{
    error::{Error, Kind},
    inventory::{self, Inventory, Role},
};

const GOOD: &str = "cluster: local\nprefix: peter\n";

fn error(text: &str) -> Error {
    match Inventory::parse(Path::new("inventory.yml"), text) {
        Ok(_) => panic!("accepted:\n{text:.200}"),
        Err(e) => {
            assert_eq!(e.kind, Kind::Invalid, "{e}");
            e
        }
    }
}

/// One snapshot of many mistakes: what is written, and what is answered.
fn answers(cases: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, text) in cases {
        let _ = writeln!(out, "## {name}\n{}\n", error(text));
    }
    out
}

#[test]
fn mistakes_in_the_structure() {
    let said = answers(&[
        ("unknown key", "cluster: local\nprefx: peter\nprefix: peter\n"),
        ("unknown key, nothing near", &format!("{GOOD}frobnicate: 1\n")),
        ("duplicate key", &format!("{GOOD}domain: a.b\nprefix: paul\n")),
        ("duplicate key inside", &format!("{GOOD}vars: {{a: 1, b: 2, a: 3}}\n")),
        ("prefix missing", "cluster: local\n"),
        ("cluster missing", "prefix: peter\n"),
        ("empty", ""),
        ("only a comment", "# nothing\n"),
        ("a list", "- cluster: local\n"),
        ("a text", "cluster local\n"),
        ("unknown group", &format!("{GOOD}groups:\n  broker: {{count: 3}}\n")),
        ("unknown key of a group", &format!("{GOOD}groups:\n  brokers: {{conut: 3}}\n")),
        ("a group is a number", &format!("{GOOD}groups:\n  brokers: 3\n")),
        ("vars is a list", &format!("{GOOD}vars: [a, b]\n")),
        ("host index too high", &format!("{GOOD}groups:\n  brokers:\n    count: 2\n    hosts:\n      3: {{rack: b}}\n")),
        ("host index 0", &format!("{GOOD}groups:\n  brokers:\n    hosts: {{0: {{}}}}\n")),
        ("host index is a name", &format!("{GOOD}groups:\n  brokers:\n    hosts: {{kafka01: {{}}}}\n")),
        ("host index twice", &format!("{GOOD}groups:\n  brokers:\n    hosts:\n      1: {{a: 1}}\n      1: {{a: 2}}\n")),
        ("a key that is a list", &format!("{GOOD}vars: {{[a, b]: 1}}\n")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_counts() {
    let count = |group: &str, n: &str| format!("{GOOD}groups:\n  {group}: {{count: {n}}}\n");
    let said = answers(&[
        ("no coordinators", &count("coordinators", "0")),
        ("four coordinators", &count("coordinators", "4")),
        ("nine coordinators", &count("coordinators", "9")),
        ("minus one", &count("coordinators", "-1")),
        ("a text", &count("coordinators", "three")),
        ("a number as text", &count("coordinators", "\"3\"")),
        ("a fraction", &count("brokers", "1.5")),
        ("null", &count("brokers", "~")),
        ("too many brokers", &count("brokers", "101")),
        ("more than 64 bits", &count("brokers", "99999999999999999999")),
        ("two control hosts", &count("control", "2")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_names() {
    let prefix = |p: &str| format!("cluster: local\nprefix: {p}\n");
    let long = "p".repeat(56);
    let said = answers(&[
        ("upper case", &prefix("Peter")),
        ("a dot", &prefix("pe.ter")),
        ("an underscore", &prefix("pe_ter")),
        ("leading digit", &prefix("1peter")),
        ("a number", &prefix("42")),
        ("leading dash", &prefix("-peter")),
        ("trailing dash", &prefix("peter-")),
        ("umlaut", &prefix("jörg")),
        ("empty", &prefix("\"\"")),
        ("a boolean of YAML 1.1", "cluster: no\nprefix: on\n"),
        ("a number of YAML 1.1", "cluster: 12:30\nprefix: peter\n"),
        ("null", "cluster: local\nprefix:\n"),
        ("a list", &prefix("[peter]")),
        ("blank inside", &prefix("pe ter")),
        ("a template", &prefix("\"{{ x }}\"")),
        ("too long: kafka01 has 64", &prefix(&long)),
        ("cluster upper case", "cluster: Local\nprefix: peter\n"),
        ("cluster too long", &format!("cluster: {}\nprefix: peter\n", "c".repeat(41))),
        ("domain with an empty label", &format!("{GOOD}domain: foo..bar\n")),
        ("domain upper case", &format!("{GOOD}domain: Foo.bar\n")),
        ("domain with a leading dot", &format!("{GOOD}domain: .bar\n")),
        ("domain empty", &format!("{GOOD}domain: \"\"\n")),
        ("domain with a long label", &format!("{GOOD}domain: {}.bar\n", "d".repeat(64))),
        ("hostname without index", &format!("{GOOD}groups:\n  brokers:\n    hostname: \"{{{{ prefix }}}}-kafka\"\n")),
        (
            "hostname of another group",
            &format!("{GOOD}groups:\n  brokers: {{hostname: \"{{{{ prefix }}}}-zk{{{{ index | pad(width=2) }}}}\"}}\n"),
        ),
        ("hostname with upper case", &format!("{GOOD}groups:\n  brokers: {{hostname: \"Kafka{{{{ index }}}}\"}}\n")),
        ("hostname with a dot", &format!("{GOOD}groups:\n  brokers: {{hostname: \"kafka{{{{ index }}}}.foo\"}}\n")),
        ("hostname with an unknown variable", &format!("{GOOD}groups:\n  brokers: {{hostname: \"{{{{ prefx }}}}-{{{{ index }}}}\"}}\n")),
        ("hostname that is no template", &format!("{GOOD}groups:\n  brokers: {{hostname: \"{{{{ index\"}}\n")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_provider_and_engine() {
    let provider = |p: &str| format!("{GOOD}provider: {p}\n");
    let said = answers(&[
        ("unknown provider", &provider("{dokcer: {}}")),
        ("provider far off", &provider("{kubernetes: {}}")),
        ("static", &provider("{static: {}}")),
        ("none", &provider("{}")),
        ("null", &provider("")),
        ("a text", &provider("docker")),
        ("two", &provider("{docker: {}, ec2: {}}")),
        ("ec2: unknown setting", &provider("{ec2: {regoin: eu-central-1}}")),
        ("ec2: bad region", &provider("{ec2: {region: Frankfurt}}")),
        ("ec2: bad type", &provider("{ec2: {instance_type: large}}")),
        ("ec2: bad type of a group", &provider("{ec2: {instance_type: {brokers: [t3.small, t3]}}}")),
        ("ec2: unknown group", &provider("{ec2: {instance_type: {broker: t3.small}}}")),
        ("ec2: bad image", &provider("{ec2: {image: ubuntu}}")),
        ("ec2: bad vpc", &provider("{ec2: {vpc: mine}}")),
        ("ec2: bad network of a new vpc", &provider("{ec2: {vpc: {new: 10.0.0.0/8}}}")),
        ("ec2: subnets of a new vpc", &provider("{ec2: {vpc: new, subnets: [subnet-0123456789]}}")),
        ("ec2: bad range", &provider("{ec2: {ssh: {from: [10.0.0.1/8]}}}")),
        ("ec2: who is asked", &provider("{ec2: {ssh: {ask: my-router}}}")),
        ("ec2: external without from", &provider("{ec2: {external: {}}}")),
        ("ec2: too many operations", &provider("{ec2: {volume: {size: 5, iops: 4000}}}")),
        ("ec2: throughput without operations", &provider("{ec2: {volume: {size: 500, throughput: 1000}}}")),
        ("ec2: another type of volume", &provider("{ec2: {volume: {type: io2}}}")),
        ("ec2: a key for nothing", &provider("{ec2: {volume: {encrypted: false, kms_key: x}}}")),
        ("ec2: somebody else's tag", &provider("{ec2: {tags: {septet:cluster: x}}}")),
        ("ec2: connect", &provider("{ec2: {connect: vpn}}")),
        ("ec2: security", &provider("{ec2: {security: none}}")),
        ("ttl", &format!("{GOOD}ttl: 8\n")),
        ("ttl too long", &format!("{GOOD}ttl: 400d\n")),
        ("unknown setting", &provider("{docker: {subnte: 10.1.2.0/24}}")),
        ("bad subnet", &provider("{docker: {subnet: 10.1.2.0/16}}")),
        ("subnet out of range", &provider("{docker: {subnet: 10.1.256.0/24}}")),
        ("port below 1024", &provider("{docker: {ports_from: 80}}")),
        ("port is a text", &provider("{docker: {ports_from: high}}")),
        ("unknown engine", &format!("{GOOD}engine: redpanda\n")),
        ("two engines", &format!("{GOOD}engine: {{bundled: {{}}, apache: {{}}}}\n")),
        ("apache: unknown setting", &format!("{GOOD}engine: {{apache: {{vresion: 4.1.1}}}}\n")),
        ("apache: no version", &format!("{GOOD}engine: {{apache: {{version: latest}}}}\n")),
        ("apache: unknown version", &format!("{GOOD}engine: {{apache: {{version: 4.9.9}}}}\n")),
        ("apache: 3.8", &format!("{GOOD}engine: {{apache: {{version: 3.8.1}}}}\n")),
        ("apache: archive of an old version", &format!("{GOOD}engine: {{apache: {{archive: /x/kafka_2.13-3.7.2.tgz}}}}\n")),
        ("apache: old version", &format!("{GOOD}engine: {{apache: {{version: 2.8.1}}}}\n")),
        (
            "apache: archive of another version",
            &format!("{GOOD}engine: {{apache: {{version: 4.1.1, archive: /x/kafka_2.13-3.9.1.tgz}}}}\n"),
        ),
        ("apache: 4 with zookeeper", &format!("{GOOD}engine: {{apache: {{version: 4.1.1, metadata: zookeeper}}}}\n")),
        ("apache: newest with zookeeper", &format!("{GOOD}engine: {{apache: {{metadata: zookeeper}}}}\n")),
        ("apache: bad metadata", &format!("{GOOD}engine: {{apache: {{metadata: etcd}}}}\n")),
        ("apache: bad digest", &format!("{GOOD}engine: {{apache: {{sha512: abc}}}}\n")),
        ("apache: bad heap", &format!("{GOOD}engine: {{apache: {{heap: {{broker: 1t}}}}}}\n")),
        ("apache: java without archive", &format!("{GOOD}engine: {{apache: {{java: {{sha512: x}}}}}}\n")),
        ("apache: two controllers", &format!("{GOOD}engine: apache\ngroups: {{coordinators: {{count: 2}}}}\n")),
        ("bundled: no coordinators", &format!("{GOOD}groups: {{coordinators: {{count: 0}}}}\n")),
        ("engine is a list", &format!("{GOOD}engine: [bundled]\n")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_the_yaml() {
    let said = answers(&[
        ("a tab", "cluster: local\n\tprefix: peter\n"),
        ("a tab inside", &format!("{GOOD}groups:\n\tbrokers: {{count: 3}}\n")),
        ("an open quote", "cluster: \"local\nprefix: peter\n"),
        ("an open brace", &format!("{GOOD}groups: {{brokers: {{count: 3}}\n")),
        ("two colons", "cluster: local: x\nprefix: peter\n"),
        ("bad indentation", "cluster: local\n  prefix: peter\n"),
        ("an unquoted template", &format!("{GOOD}vars:\n  a: {{{{ prefix }}}}\n")),
        ("a second document", &format!("{GOOD}---\ncluster: other\n")),
        ("an unknown alias", &format!("{GOOD}vars: *nowhere\n")),
        ("an alias inside of what it names", &format!("{GOOD}vars: &a\n  b: *a\n")),
        ("a tag", &format!("{GOOD}vars: {{secret: !vault abc}}\n")),
        ("a merge of a text", &format!("{GOOD}vars: {{<<: text}}\n")),
        ("a control character", "cluster: lo\u{0}cal\nprefix: peter\n"),
    ]);
    insta::assert_snapshot!(said);
}

/// However large or nested a file is, the answer comes at once.
fn bounded(what: &str, text: &str) -> String {
    let begun = Instant::now();
    let e = error(text);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    let message: String = e.message;
    let place = e.place.map(|p| format!("{}:{}", p.line, p.column)).unwrap_or_default();
    format!("{what}: {message} at {place}\n")
}

#[test]
fn hostile_files_are_refused_quickly() {
    let mut laughs = format!("{GOOD}vars:\n  a0: &a0 [lol]\n");
    for i in 1..20 {
        let _ = writeln!(laughs, "  a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(","));
    }
    let mut merges = format!("{GOOD}vars:\n  a0: &a0 {{k: v}}\n");
    for i in 1..20 {
        let _ = writeln!(merges, "  a{i}: &a{i} {{<<: [{}], k{i}: v}}", vec![format!("*a{}", i - 1); 10].join(","));
    }
    // Anchors around one another: each would keep a copy of all that is in it.
    let anchors: String = (0..60).map(|i| format!("&n{i} [")).collect();
    let anchors = format!("{GOOD}vars: {{x: {anchors}{}{}}}\n", "y,".repeat(190_000), "]".repeat(60));
    let flow = |n: usize| format!("{GOOD}vars: {{x: {}{}}}\n", "[".repeat(n), "]".repeat(n));
    let block = format!("{GOOD}vars:\n  x: {}y\n", "- ".repeat(100_000));
    let many = format!("{GOOD}vars:\n  x:\n{}", "  - y\n".repeat(400_000));
    let long_line = format!("{GOOD}vars: {{x: [{}\n", "y, ".repeat(150_000));
    let out = [
        bounded("billion laughs", &laughs),
        bounded("merged laughs", &merges),
        bounded("anchors around anchors", &anchors),
        bounded("100 000 brackets", &flow(100_000)),
        bounded("65 brackets", &flow(65)),
        bounded("100 000 dashes", &block),
        bounded("400 000 items", &many),
        bounded("a line of 450 kB that never ends", &long_line),
        bounded("10 MB", &format!("{GOOD}# {}\n", "x".repeat(10_000_000))),
    ]
    .concat();
    insta::assert_snapshot!(out);
}

#[test]
fn a_file_of_10_mb_is_not_even_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.yml");
    std::fs::write(&path, format!("{GOOD}{}", "# y\n".repeat(2_500_000))).unwrap();
    let begun = Instant::now();
    let e = Inventory::read(&path).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(e.kind, Kind::Invalid);
    assert!(e.message.contains("over the limit of 4194304"), "{e}");
    // Sparse, 1 TB: only its length is looked at.
    let huge = std::fs::File::create(&path).unwrap();
    huge.set_len(1 << 40).unwrap();
    assert!(Inventory::read(&path).unwrap_err().message.contains("over the limit"));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let e = Inventory::read(&dir.path().join("none.yml")).unwrap_err();
    assert_eq!(e.kind, Kind::Invalid);
    assert!(e.message.contains("none.yml: No such file"), "{e}");
    let binary = dir.path().join("binary.yml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let e = Inventory::read(&binary).unwrap_err();
    assert!(e.message.contains("binary.yml: ") && e.message.contains("UTF-8"), "{e}");
    assert_eq!(Inventory::read(dir.path()).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn the_place_is_the_one_in_the_file() {
    // Behind umlauts columns are counted in characters, as an editor does.
    let e = error("cluster: local\nvars: {ä: öü, x: [*nope]}\nprefix: peter\n");
    let place = e.place.unwrap();
    assert_eq!((place.line, place.column), (2, 19));
    // Windows line ends are line ends.
    let e = error("cluster: local\r\nprefix: peter\r\nengine: none\r\n");
    let place = e.place.unwrap();
    assert_eq!((place.line, place.column, place.text.trim_end()), (3, 9, "engine: none"));
}

#[test]
fn the_built_in_inventory_is_seven_hosts() {
    let i = Inventory::built_in().unwrap();
    let names: Vec<&str> = i.hosts.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["peter-control01", "peter-zk01", "peter-zk02", "peter-zk03", "peter-kafka01", "peter-kafka02", "peter-kafka03"]);
    assert_eq!(i.fqdn("peter-zk01"), "peter-zk01.foo.bar");
    assert_eq!(i.shown_path(), "the built-in inventory");
    for name in ["peter-kafka02", "kafka02", "peter-kafka02.foo.bar"] {
        assert_eq!(i.find(name).unwrap().name, "peter-kafka02", "{name}");
    }
    assert!(i.find("kafka2").is_none());
}

#[test]
fn the_shortest_inventory_has_defaults() {
    let i = Inventory::parse(Path::new("i.yml"), GOOD).unwrap();
    assert_eq!(i.hosts.len(), 7);
    assert_eq!(i.domain, None);
    assert_eq!(i.fqdn("peter-zk01"), "peter-zk01");
    // A byte order mark, a document's begin and end, and JSON are YAML too.
    for text in [
        format!("\u{feff}{GOOD}"),
        format!("---\n{GOOD}...\n"),
        r#"{"cluster": "local", "prefix": "peter"}"#.into(),
        format!("{GOOD}domain:\n"),
        format!("{GOOD}groups:\nvars:\n"),
    ] {
        let mut other = Inventory::parse(Path::new("i.yml"), &text).unwrap();
        // All but the digest, which is the text's own.
        other.digest.clone_from(&i.digest);
        assert_eq!(other, i, "{text}");
    }
}

#[test]
fn a_hosts_variables_win_over_its_groups() {
    let i = Inventory::parse(
        Path::new("i.yml"),
        "cluster: local\nprefix: peter\nvars: {a: all, b: all, c: all}\ngroups:\n  brokers:\n    count: 2\n    vars: {b: group, c: group}\n    hosts:\n      2: {c: host, d: [1, {e: 2.5}]}\n",
    )
    .unwrap();
    let json = |v: &septet::template::Vars| serde_json::to_string(v).unwrap();
    assert_eq!(json(&i.vars), r#"{"a":"all","b":"all","c":"all"}"#);
    let brokers: Vec<_> = i.of(Role::Broker).collect();
    assert_eq!(json(&brokers[0].vars), r#"{"b":"group","c":"group"}"#);
    assert_eq!(json(&brokers[1].vars), r#"{"b":"group","c":"host","d":[1,{"e":2.5}]}"#);
    assert!(i.of(Role::Coordinator).all(|h| h.vars.is_empty()));
}

#[test]
fn merges_and_aliases_are_data() {
    let i = Inventory::parse(
        Path::new("i.yml"),
        "cluster: local\nprefix: peter\nvars:\n  base: &base {a: 1, b: 1}\n  more: &more {b: 2, c: 2}\n  both:\n    <<: [*base, *more]\n    c: 3\n  one: {<<: *base}\n  list: [*base]\n",
    )
    .unwrap();
    let json = |k: &str| i.vars.get(k).unwrap().to_string();
    // What is said wins over what is merged, the first merged over the next.
    assert_eq!(json("both"), r#"{"c":3,"a":1,"b":1}"#);
    assert_eq!(json("one"), r#"{"a":1,"b":1}"#);
    assert_eq!(json("list"), r#"[{"a":1,"b":1}]"#);
}

#[test]
fn scalars_have_the_types_that_they_look_like() {
    let i = Inventory::parse(
        Path::new("i.yml"),
        "cluster: local\nprefix: peter\nvars: {n: 1, neg: -7, f: 0.5, t: true, yes: yes, q: \"1\", z: ~, o: 0644, v: 3.9.1, e: '', ip: 10.0.0.1, d: 2024-01-01}\n",
    )
    .unwrap();
    assert_eq!(
        serde_json::to_string(&i.vars).unwrap(),
        r#"{"n":1,"neg":-7,"f":0.5,"t":true,"yes":true,"q":"1","z":null,"o":420,"v":"3.9.1","e":"","ip":"10.0.0.1","d":"2024-01-01"}"#
    );
}

#[test]
fn another_prefix_renames_every_host_and_nothing_else() {
    let i = Inventory::built_in().unwrap();
    let other = i.with_prefix("kisu").unwrap();
    for (a, b) in i.hosts.iter().zip(&other.hosts) {
        assert_eq!((a.id, &a.vars), (b.id, &b.vars));
        assert_eq!(b.name, a.name.replace("peter", "kisu"));
    }
    assert_eq!(other.with_prefix("peter").unwrap(), i);
    for bad in ["Kisu", "", "1kisu", "ki.su", "kisu-", &"k".repeat(56)] {
        let e = i.with_prefix(bad).unwrap_err();
        assert_eq!(e.kind, Kind::Invalid, "{bad}");
    }
    assert!(i.with_prefix(&"k".repeat(53)).is_ok());
}

#[test]
fn another_prefix_must_not_make_two_hosts_of_one_name() {
    let i = Inventory::parse(
        Path::new("i.yml"),
        "cluster: local\nprefix: peter\ngroups:\n  coordinators: {count: 1, hostname: \"kisu-kafka01\"}\n",
    )
    .unwrap();
    let e = i.with_prefix("kisu").unwrap_err();
    assert!(e.message.contains("two hosts would be called `kisu-kafka01`"), "{e}");
}

fn is_dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever prefix is accepted, the host names are DNS labels and all different; what is refused says why.
    #[test]
    fn accepted_prefixes_make_dns_labels(prefix in prop_oneof!["[a-z][a-z0-9-]{0,60}", "[ -~]{0,12}", "\\PC{0,8}"]) {
        let i = Inventory::built_in().unwrap();
        match i.with_prefix(&prefix) {
            Ok(i) => {
                prop_assert!(inventory::check_prefix(&prefix).is_ok());
                let names: std::collections::BTreeSet<_> = i.hosts.iter().map(|h| h.name.as_str()).collect();
                prop_assert_eq!(names.len(), 7);
                for n in names {
                    prop_assert!(is_dns_label(n), "{}", n);
                    prop_assert!(n.starts_with(&prefix));
                }
            }
            Err(e) => {
                prop_assert_eq!(e.kind, Kind::Invalid);
                prop_assert!(e.message.contains("host name"));
                let last = prefix.bytes().last();
                let plain = prefix.starts_with(|c: char| c.is_ascii_lowercase())
                    && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && last != Some(b'-');
                // "-control01" is ten characters long.
                prop_assert!(!plain || prefix.len() > 53, "{}", prefix);
            }
        }
    }

    /// No text makes the parser panic, and every place that is named exists.
    #[test]
    fn any_text_is_answered(text in "([a-z&*<\\[\\]{}:,!|>'\"#% \t\n-]|cluster: x\n|prefix: p\n|groups:\n| brokers:\n){0,60}") {
        if let Err(e) = Inventory::parse(Path::new("i.yml"), &text) {
            prop_assert_eq!(e.kind, Kind::Invalid);
            if let Some(p) = e.place {
                prop_assert!(p.line >= 1 && p.column >= 1);
                prop_assert!(p.line <= text.lines().count() + 1, "{}: {}", p.line, text);
            }
        }
    }
}
