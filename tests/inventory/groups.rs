//! Groups and hosts of the user's: which hosts they make, whose variables win, how hosts that exist are read, and ports.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use septet::inventory::{self, Inventory, Role};

use super::{GOOD, answers};

fn parsed(groups: &str) -> Inventory {
    Inventory::parse(Path::new("inventory.yml"), &format!("{GOOD}groups:\n{groups}")).unwrap()
}

#[test]
fn free_groups_make_hosts_behind_the_engines() {
    let i = parsed(
        "  clients: {count: 2}\n  load_gen: {count: 1, hostname: \"{{ prefix }}-{{ group | replace(from='_', to='') }}{{ index }}\"}\n",
    );
    let names: Vec<&str> = i.hosts.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names[..2], ["peter-control01", "peter-zk01"]);
    assert_eq!(names[7..], ["peter-clients01", "peter-clients02", "peter-loadgen1"]);
    assert!(i.hosts[7..].iter().all(|h| h.id.role() == Role::Plain));
    let select = |p: &str| inventory::select(&i, p).unwrap().iter().map(|h| h.name.as_str()).collect::<Vec<_>>();
    assert_eq!(select("clients"), ["peter-clients01", "peter-clients02"]);
    assert_eq!(select("clients:!clients01"), ["peter-clients02"]);
    // The engine's shape is its own.
    assert_eq!(i.shape(), "bundled-3");
}

#[test]
fn groups_of_groups_and_of_hosts_give_variables_and_patterns() {
    let text = "  brokers: {vars: {rack: a, heap: 1}, hosts: {2: {rack: own}}}\n  clients: {count: 1}\n  kafka:\n    children: [brokers, coordinators]\n    vars: {heap: 9, kind: kafka}\n  canaries:\n    hosts: {kafka02: {canary: true}, peter-clients01: }\n    vars: {level: 1}\n  everything:\n    children:\n      kafka:\n      canaries:\n      tools: {children: {clients: {}}, vars: {tool: 1}}\n    vars: {kind: outer, top: 1}\n";
    let i = parsed(text);
    let select = |p: &str| inventory::select(&i, p).unwrap().iter().map(|h| h.name.trim_start_matches("peter-")).collect::<Vec<_>>();
    assert_eq!(select("kafka"), ["zk01", "zk02", "zk03", "kafka01", "kafka02", "kafka03"]);
    assert_eq!(select("canaries"), ["kafka02", "clients01"]);
    assert_eq!(select("kafka:&canaries"), ["kafka02"]);
    assert_eq!(select("everything:!kafka"), ["clients01"]);
    let vars = |name: &str| serde_json::Value::from(i.find(name).unwrap().vars.clone());
    // The innermost group wins over those around it, the host over all.
    assert_eq!(vars("kafka01"), serde_json::json!({"rack": "a", "heap": 1, "kind": "kafka", "top": 1}));
    assert_eq!(vars("kafka02"), serde_json::json!({"rack": "own", "heap": 1, "kind": "kafka", "top": 1, "level": 1, "canary": true}));
    assert_eq!(vars("clients01"), serde_json::json!({"kind": "outer", "top": 1, "level": 1, "tool": 1}));
    assert_eq!(vars("control01"), serde_json::json!({}));
    let magic = inventory::magic_vars(&i, i.find("kafka02").unwrap());
    assert_eq!(magic["group_names"], serde_json::json!(["brokers", "canaries", "everything", "kafka"]));
    assert_eq!(inventory::common_magic_vars(&i)["groups"]["tools"], serde_json::json!(["peter-clients01"]));
}

#[test]
fn variables_of_ansible_that_are_not_followed() {
    let of = |vars: &str| {
        format!("cluster: c\nprefix: p\nprovider: {{static: {{hosts: {{control: a, coordinators: b, brokers: c}}}}}}\nvars: {{{vars}}}\n")
    };
    let fine = of(
        "ansible_connection: ssh, ansible_become_method: sudo, ansible_become_user: root, ansible_host_key_checking: true, ansible_become: true",
    );
    Inventory::parse(Path::new("inventory.yml"), &fine).unwrap();
    let said = answers(&[
        ("arguments of ssh", &of("ansible_ssh_common_args: '-o ProxyJump=bastion'")),
        ("another connection", &of("ansible_connection: local")),
        ("a password", &of("ansible_password: s3cret")),
        ("another way to root", &of("ansible_become_method: su")),
        ("not root", &of("ansible_become_user: kafka")),
        ("unchecked keys", &of("ansible_host_key_checking: false")),
    ]);
    assert!(!said.contains("s3cret"));
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_ports() {
    let vars = |v: &str| format!("{GOOD}vars: {{{v}}}\n");
    let said = answers(&[
        ("not a number", &vars("kafka_port: kafka")),
        ("only for root", &vars("zookeeper_port: 181")),
        ("too high", &vars("kafka_port: 65536")),
        ("twice", &vars("kafka_port: 5000, external_port: 5000")),
        ("the coordinators' own", &vars("zookeeper_port: 2888")),
        ("of one host", &format!("{GOOD}groups:\n  brokers: {{hosts: {{2: {{kafka_port: 9192}}}}}}\n")),
        ("past the table", &vars("zookeeper_config: {clientPort: 2182}")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn ports_of_the_user() {
    let i = parsed(
        "  clients: {count: 1, vars: {kafka_port: 1}}\nvars: {kafka_port: 9192, zookeeper_port: '2182', zookeeper_config: {clientPort: 2182}}\n",
    );
    assert_eq!((i.ports.kafka, i.ports.zookeeper, i.ports.controller), (9192, 2182, 9093));
}

#[test]
fn ports_of_listeners_that_a_mode_does_not_have_are_free() {
    let read = |engine: &str, vars: &str| {
        Inventory::parse(Path::new("inventory.yml"), &format!("{GOOD}engine: {engine}\nvars: {{{vars}}}\n")).map(|i| i.ports)
    };
    let (zookeeper, kraft) = ("{apache: {version: 3.9.1, metadata: zookeeper}}", "{apache: {metadata: kraft}}");
    for engine in ["bundled", zookeeper] {
        assert_eq!(read(engine, "external_port: 9093").unwrap().external, 9093);
        assert!(read(engine, "external_port: 2181").unwrap_err().message.ends_with("port 2181 is given to two listeners"));
    }
    for port in [2181, 2888, 3888] {
        assert_eq!(read(kraft, &format!("external_port: {port}")).unwrap().external, port);
    }
    let e = read(kraft, "external_port: 9093").unwrap_err();
    assert!(
        e.message.ends_with("port 9093 is given to two listeners") && e.hint.as_deref() == Some("each listener needs its own port"),
        "{e}"
    );
}

#[test]
fn mistakes_in_groups_of_the_users() {
    let groups = |g: &str| format!("{GOOD}groups:\n{g}");
    let said = answers(&[
        ("a reserved name", &groups("  all: {vars: {a: 1}}\n")),
        ("the singular", &groups("  coordinator: {count: 3}\n")),
        ("upper case", &groups("  Clients: {count: 1}\n")),
        ("too many", &groups("  clients: {count: 10001}\n")),
        ("a host that is not there", &groups("  canaries: {hosts: [kafka09]}\n")),
        ("a number of no host", &groups("  clients: {count: 1, hosts: {2: {}}}\n")),
        ("a child that is not there", &groups("  kafka: {children: [broker-s, zk]}\n")),
        ("no such child", &groups("  kafka: {children: [clientz]}\n  clients: {count: 1}\n")),
        ("a group inside itself", &groups("  a: {children: [b]}\n  b: {children: [c]}\n  c: {children: [a]}\n")),
        ("defined twice", &groups("  a: {count: 1}\n  b: {children: {a: {count: 2}}}\n")),
        ("names that meet", &groups("  web: {count: 101}\n  web1: {count: 1}\n")),
        ("ec2: type of a group that is not there", &format!("{GOOD}provider: {{ec2: {{instance_type: {{clients: t3.small}}}}}}\n")),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn hosts_that_exist_are_read_as_ansible_reads_them() {
    use septet::inventory::{ProviderSettings, StaticSettings};
    let of = |text: &str| {
        let i = Inventory::parse(Path::new("i.yml"), &format!("{GOOD}{text}")).unwrap();
        let ProviderSettings::Static(s) = i.provider.clone() else { panic!("{:?}", i.provider) };
        (i, *s)
    };
    let shown = |i: &Inventory, s: &StaticSettings| {
        let one = |h: &inventory::Host| {
            let at = &s.hosts[&h.id];
            format!("{}={}@{}:{}", h.name.trim_start_matches("peter-"), at.user.as_deref().unwrap_or("-"), at.target, at.port.unwrap_or(22))
        };
        i.hosts.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let short = "provider:\n  static:\n    user: ann\n    hosts:\n      control: bastion\n      coordinators: {zk-a: {port: 2222}}\n      brokers: [10.0.0.1, {host: 'fd00::2', user: bob, address: 10.0.0.2}]\n      clients: [c1]\n";
    let (i, s) = of(short);
    assert_eq!(
        shown(&i, &s),
        "control01=ann@bastion:22 zk01=ann@zk-a:2222 kafka01=ann@10.0.0.1:22 kafka02=bob@fd00::2:22 clients01=ann@c1:22"
    );
    assert_eq!(s.hosts[&i.hosts[3].id].address, "10.0.0.2".parse().ok());
    let ansible = "provider: {static: {}}\nvars: {ansible_user: ann}\ngroups:\n  control: {hosts: {bastion: {}}}\n  coordinators: {hosts: {zk-a: {ansible_port: 2222}}}\n  brokers:\n    hosts:\n      one: {ansible_host: 10.0.0.1}\n      two: {ansible_host: 'fd00::2', ansible_user: bob}\n  clients: {hosts: {c1: {ansible_host: c1}}}\n  all_kafka: {children: [brokers, coordinators], vars: {ansible_become_password: secret}}\n";
    let (i, s) = of(ansible);
    assert_eq!(
        shown(&i, &s),
        "control01=ann@bastion:22 zk01=ann@zk-a:2222 kafka01=ann@10.0.0.1:22 kafka02=bob@fd00::2:22 clients01=ann@c1:22"
    );
    assert!(s.hosts[&i.hosts[2].id].become_password.is_some() && s.hosts[&i.hosts[0].id].become_password.is_none());
    assert!(!format!("{s:?}").contains("secret\""), "{s:?}");
    let select = |p: &str| inventory::select(&i, p).unwrap().len();
    assert_eq!((select("all_kafka"), select("clients"), select("all")), (3, 1, 5));
}

#[test]
fn ten_thousand_hosts_are_read_in_half_a_second() {
    let begun = Instant::now();
    let i = parsed("  clients: {count: 9990}\n");
    assert_eq!(i.hosts.len(), 9997);
    let took = begun.elapsed();
    // Much longer where nothing is optimised, and beside other tests.
    assert!(took < Duration::from_millis(if cfg!(debug_assertions) { 30_000 } else { 500 }), "{took:?}");
}
