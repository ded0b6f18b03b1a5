//! Operations whose effects take time or two servers: containers, TTLs, ACLs over an ensemble and restarts, persistent
//! watches. What each single answer is, is compared with ZooKeeper's in `differential`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{
    Ensemble, LONG_MS,
    client::{Client, EPHEMERAL, auth_body, create_body, path_body, stat, ttl_body},
    eventually,
    zookeeper::{ZooKeeper, skip},
};
use septet_coordinator::{
    jute::{Reader, Writer},
    protocol::op,
};

const SOON: &str = "znode.container.checkIntervalMs=100";

fn exists(client: &mut Client, path: &str) -> bool {
    client.exists(path, false).unwrap().is_ok()
}

/// Containers and nodes with a TTL come and go.
fn containers_and_ttls(port: u16, count: impl Fn() -> usize) {
    let mut client = Client::new(port, LONG_MS);
    let before = count();
    for path in ["/used", "/unused", "/full"] {
        assert_eq!(client.call(op::CREATE_CONTAINER, &create_body(path, b"", 4)).unwrap().err, 0);
    }
    for path in ["/used/x", "/full/x"] {
        client.create(path, b"", 0).unwrap().unwrap();
    }
    for (path, ttl) in [("/short", 300), ("/long", 3_600_000), ("/parent", 300)] {
        assert_eq!(client.call(op::CREATE_TTL, &ttl_body(path, ttl)).unwrap().err, 0);
    }
    client.create("/parent/x", b"", 0).unwrap().unwrap();
    client.exists("/used", true).unwrap().unwrap();
    client.exists("/short", true).unwrap().unwrap();
    client.delete("/used/x").unwrap().unwrap();
    let mut gone = [client.event().unwrap(), client.event().unwrap()];
    gone.sort();
    assert_eq!(gone, [(2, "/short".into()), (2, "/used".into())]);
    // Looked at several times more, the others stay.
    std::thread::sleep(Duration::from_millis(400));
    let there: Vec<_> = ["/unused", "/full", "/long", "/parent"].into_iter().filter(|p| exists(&mut client, p)).collect();
    assert_eq!(there, ["/unused", "/full", "/long", "/parent"]);
    client.delete("/parent/x").unwrap().unwrap();
    eventually("the parent goes", || (!exists(&mut client, "/parent")).then_some(()));
    client.delete("/full/x").unwrap().unwrap();
    eventually("the container goes", || (!exists(&mut client, "/full")).then_some(()));
    assert_eq!(count(), before + 2);
}

fn nodes(srvr: &str) -> usize {
    srvr.lines().find_map(|l| l.strip_prefix("Node count: ")).unwrap().parse().unwrap()
}

#[test]
fn containers_and_ttls_here() {
    let ensemble = Ensemble::start(1, &format!("{SOON}\nextendedTypesEnabled=true"));
    containers_and_ttls(ensemble.port(0), || nodes(&ensemble.servers[0].ask("srvr").unwrap()));
}

#[test]
fn containers_and_ttls_in_zookeeper() {
    let Some(zookeeper) = ZooKeeper::start("extendedTypesEnabled=true", &[&format!("-D{SOON}")]) else { return skip("the comparison") };
    containers_and_ttls(zookeeper.port, || nodes(&zookeeper.ask("srvr").unwrap()));
}

#[test]
fn a_container_that_is_never_used_goes_where_that_is_wished() {
    let ensemble = Ensemble::start(1, &format!("{SOON}\nznode.container.maxNeverUsedIntervalMs=200"));
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    let began = Instant::now();
    assert_eq!(client.call(op::CREATE_CONTAINER, &create_body("/c", b"", 4)).unwrap().err, 0);
    client.exists("/c", true).unwrap().unwrap();
    assert_eq!(client.event().unwrap(), (2, "/c".into()));
    assert!(began.elapsed() > Duration::from_millis(190));
}

fn create_with(client: &mut Client, path: &str, acl: &[(i32, &str, &str)]) -> i32 {
    let mut w = Writer::default();
    w.string(path).nullable(None).int(acl.len() as i32);
    acl.iter().for_each(|(perms, scheme, id)| {
        w.int(*perms).string(scheme).string(id);
    });
    w.int(0);
    client.call(op::CREATE, &w.0).unwrap().err
}

/// Identities go with the changes to the leader, and lists, null data and containers outlive servers.
#[test]
fn acls_hold_on_each_server_and_after_restarts() {
    let mut ensemble = Ensemble::start(3, "snapCount=10");
    let follower = ensemble.follower();
    let mut owner = Client::new(ensemble.port(follower), LONG_MS);
    assert_eq!(owner.call(op::AUTH, &auth_body("digest", "ann:secret")).unwrap().err, 0);
    assert_eq!(create_with(&mut owner, "/mine", &[(31, "auth", ""), (1, "ip", "10.9.9.9")]), 0);
    assert_eq!(create_with(&mut owner, "/here", &[(31, "ip", "127.0.0.0/8")]), 0);
    assert_eq!(owner.call(op::CREATE_CONTAINER, &create_body("/container", b"", 4)).unwrap().err, 0);
    owner.create("/mine/child", b"", 0).unwrap().unwrap();
    // Snapshots, and entries behind them.
    for i in 0..40 {
        owner.create(&format!("/n{i}"), b"", EPHEMERAL).unwrap().unwrap();
    }
    let check = |port: u16| {
        let mut other = Client::new(port, LONG_MS);
        other.sync().unwrap().unwrap();
        assert_eq!(other.get("/mine", false).unwrap().unwrap_err(), -102);
        assert_eq!(other.exists("/mine", false).unwrap().unwrap_err(), -102);
        assert_eq!(other.set("/mine", b"").unwrap().unwrap_err(), -102);
        assert_eq!(other.delete("/mine/child").unwrap().unwrap_err(), -102);
        assert_eq!(other.call(op::GET_DATA, &path_body("/here", false)).unwrap().body[..4], [255; 4]);
        let mut again = Client::new(port, LONG_MS);
        assert_eq!(again.call(op::AUTH, &auth_body("digest", "ann:secret")).unwrap().err, 0);
        let reply = again.call(op::GET_DATA, &path_body("/mine", false)).unwrap();
        let mut r = Reader(&reply.body);
        assert_eq!((reply.err, r.nullable().unwrap(), stat(&mut r).unwrap().num_children), (0, None, 1));
        assert!(exists(&mut again, "/container"));
    };
    (0..3).for_each(|i| check(ensemble.port(i)));
    drop(owner);
    ensemble.servers.iter_mut().for_each(|s| s.kill());
    ensemble.servers.iter_mut().for_each(|s| s.start());
    ensemble.leader();
    (0..3).for_each(|i| check(ensemble.port(i)));
}

/// An event goes to those only who may read the node.
#[test]
fn events_are_for_those_who_may_read() {
    let ensemble = Ensemble::start(1, "");
    let mut writer = Client::new(ensemble.port(0), LONG_MS);
    let mut watcher = Client::new(ensemble.port(0), LONG_MS);
    watcher.exists("/secret", true).unwrap().unwrap_err();
    watcher.exists("/open", true).unwrap().unwrap_err();
    assert_eq!(writer.call(op::AUTH, &auth_body("digest", "a:b")).unwrap().err, 0);
    assert_eq!(create_with(&mut writer, "/secret", &[(31, "auth", "")]), 0);
    writer.create("/open", b"", 0).unwrap().unwrap();
    assert_eq!(watcher.event().unwrap(), (1, "/open".into()));
}

#[test]
fn acls_are_skipped_where_that_is_wished() {
    let ensemble = Ensemble::start(1, "skipACL=yes");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    assert_eq!(create_with(&mut client, "/x", &[(31, "digest", "a:b")]), 0);
    client.set("/x", b"").unwrap().unwrap();
    assert_eq!(client.call(op::WHO_AM_I, &[]).unwrap().body[..4], 1i32.to_be_bytes());
}

/// Standard and persistent watches of one client on one path do not replace one another, as they do in ZooKeeper 3.8
/// (ZOOKEEPER-4466).
#[test]
fn watches_of_several_modes_live_side_by_side() {
    let ensemble = Ensemble::start(1, "");
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/a", b"", 0).unwrap().unwrap();
    let mut add = Writer::default();
    add.string("/a").int(1);
    assert_eq!(client.call(op::ADD_WATCH, &add.0).unwrap().err, 0);
    client.get("/a", true).unwrap().unwrap();
    for i in 0..3 {
        client.set("/a", &[i]).unwrap().unwrap();
        client.create(&format!("/a/{i}"), b"", 0).unwrap().unwrap();
        let events = std::mem::take(&mut client.events);
        assert_eq!(events, [(3, "/a".into()), (1, format!("/a/{i}"))]);
    }
    let mut which = Writer::default();
    which.string("/a").int(3);
    assert_eq!(client.call(op::CHECK_WATCHES, &which.0).unwrap().err, 0);
    assert_eq!(client.call(op::REMOVE_WATCHES, &which.0).unwrap().err, 0);
    assert_eq!(client.call(op::CHECK_WATCHES, &which.0).unwrap().err, -121);
    client.set("/a", b"").unwrap().unwrap();
    assert_eq!(client.events, []);
    assert_eq!(ensemble.servers[0].measured("watch_count").as_deref(), Some("0"));
}

/// Hard limits hold with `enforceQuota`, in ZooKeeper and here.
fn quotas(port: u16) {
    let mut client = Client::new(port, LONG_MS);
    client.create("/q", b"", 0).unwrap().unwrap();
    client.create("/zookeeper/quota/q", b"", 0).unwrap().unwrap();
    client.create("/zookeeper/quota/q/zookeeper_limits", b"count=1,bytes=1=;byteHardLimit=10;countHardLimit=3", 0).unwrap().unwrap();
    client.create("/zookeeper/quota/q/zookeeper_stats", b"count=1,bytes=0", 0).unwrap().unwrap();
    client.create("/q/a", b"12345", 0).unwrap().unwrap();
    assert_eq!(client.create("/q/b", b"123456", 0).unwrap(), Err(-125));
    client.create("/q/b", b"12345", 0).unwrap().unwrap();
    assert_eq!(client.create("/q/c", b"", 0).unwrap(), Err(-125));
    assert_eq!(client.set("/q/a", b"123456").unwrap().unwrap_err(), -125);
    client.set("/q/a", b"1").unwrap().unwrap();
    let (data, _) = client.get("/zookeeper/quota/q/zookeeper_stats", false).unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&data), "count=3,bytes=6");
}

#[test]
fn quotas_are_enforced_where_that_is_wished() {
    let ensemble = Ensemble::start(1, "enforceQuota=true");
    quotas(ensemble.port(0));
    let Some(zookeeper) = ZooKeeper::start("enforceQuota=true", &[]) else { return skip("the comparison") };
    quotas(zookeeper.port);
}

/// What `zkCli.sh config` shows.
#[test]
fn the_configuration_is_a_node() {
    let ensemble = Ensemble::start(3, "");
    let mut client = Client::new(ensemble.port(1), LONG_MS);
    let (data, stat) = client.get("/zookeeper/config", false).unwrap().unwrap();
    let text = String::from_utf8(data).unwrap();
    let ports = ensemble.servers.iter().enumerate().map(|(i, s)| format!("server.{}=127.0.0.1:{}:1:participant\n", i + 1, s.peer_port));
    assert_eq!(text, ports.collect::<String>() + "version=0");
    assert_eq!(stat.data_length as usize, text.len());
}
