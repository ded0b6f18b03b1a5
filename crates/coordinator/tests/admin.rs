//! Four-letter words and HTTP commands, beside those of ZooKeeper 3.8: the same lines and fields, whatever their values.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

use common::{
    DEADLINE, Ensemble, LONG_MS,
    client::{Client, EPHEMERAL},
    eventually, free_port,
    zookeeper::{ZooKeeper, skip},
};
use serde_json::Value;

/// A client with something to show.
fn busy(port: u16) -> Client {
    let mut client = Client::new(port, LONG_MS);
    client.create("/e", b"", EPHEMERAL).unwrap().unwrap();
    client.get("/e", true).unwrap().unwrap();
    client.exists("/none", true).unwrap().unwrap_err();
    client.children("/", true).unwrap().unwrap();
    client
}

/// A text in which each number, date and path of a file is the same.
fn shape(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.split_once(" expire at ") {
            Some((n, _)) => format!("{n} expire at DATE:"),
            None => line.split("version: ").next().unwrap().to_owned(),
        };
        let line = if line.starts_with("data") && line.contains("Dir=") { line.split_once('=').unwrap().0.to_owned() } else { line };
        let mut last = ' ';
        for c in line.replace("0x", "#").chars() {
            let hex = last == '#' && c.is_ascii_hexdigit();
            if hex {
                continue;
            }
            let c = if c.is_ascii_digit() { '9' } else { c };
            if !(c == '9' && last == '9') {
                out.push(c);
            }
            last = c;
        }
        out.push('\n');
    }
    out
}

fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut out = String::new();
    let _ = stream.read_to_string(&mut out);
    out
}

fn command(port: u16, name: &str) -> Value {
    let text = http(port, &format!("GET /commands/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Names of fields, at all depths. Those that are numbers are keys of a map.
fn fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                let key = if key.parse::<i64>().is_ok() { "N".to_owned() } else { key.clone() };
                let inner = fields(value).into_iter().map({
                    let key = key.clone();
                    move |f| format!("{key}.{f}")
                });
                inner.chain([key]).collect::<Vec<_>>()
            })
            .collect(),
        Value::Array(all) => all.iter().flat_map(fields).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn words_and_commands_are_zookeepers() {
    let admin_port = free_port();
    let ours = Ensemble::start(1, &format!("admin.enableServer=true\nadmin.serverPort={admin_port}"));
    let Some(zookeeper) = ZooKeeper::start("", &[]) else { return skip("the comparison of words") };
    let (_mine, _theirs) = (busy(ours.port(0)), busy(zookeeper.port));
    let ask = |word: &str| (ours.servers[0].ask(word).unwrap(), zookeeper.ask(word).unwrap());
    for word in ["ruok", "isro", "gtmk", "srvr", "conf", "dirs", "wchs", "wchp", "wchc", "hash", "crst", "srst", "stmk\0\0\0\0\0\0\0\u{7}"]
    {
        let (got, want) = ask(word);
        assert_eq!(shape(&got), shape(&want), "{word}\n{got}\n{want}");
    }
    // ZooKeeper shows the connection that asks, too.
    let without_asker = |text: &str| {
        let keep = |l: &&str| !l.contains("[9](queued=9,recved=9,sent=9)") && !l.contains("sessionId: #\n") && !l.ends_with("sessionId: #");
        shape(text).lines().filter(keep).collect::<Vec<_>>().join("\n")
    };
    for word in ["cons", "stat"] {
        let (got, want) = ask(word);
        assert_eq!(without_asker(&got), without_asker(&want), "{word}\n{got}\n{want}");
    }
    let (got, want) = ask("dump");
    // ZooKeeper also shows, for a while, the times at which a session would have ended had it not been heard since.
    let empty = |l: &&str| !l.starts_with("0 expire at");
    let head = |text: &str| {
        let text: Vec<&str> = text.lines().filter(empty).collect();
        shape(&text.join("\n")).lines().take(9).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(head(&got), head(&want), "{got}\n{want}");

    let keys = |text: &str| text.lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect::<BTreeSet<_>>();
    let (got, want) = ask("mntr");
    assert_eq!(keys(&got).difference(&keys(&want)).collect::<Vec<_>>(), [] as [&String; 0]);
    for key in ["avg_latency", "znode_count", "watch_count", "ephemerals_count", "approximate_data_size", "global_sessions", "uptime"] {
        assert!(keys(&got).contains(&format!("zk_{key}")), "{got}");
    }
    let number = |text: &str, key: &str| text.lines().find_map(|l| l.strip_prefix(&format!("zk_{key}\t")).map(str::to_owned));
    for key in ["znode_count", "watch_count", "ephemerals_count", "approximate_data_size", "global_sessions", "server_state"] {
        assert_eq!(number(&got, key), number(&want, key), "{key}");
    }

    let names =
        "configuration connections dirs dump get_trace_mask hash initial_configuration is_read_only last_snapshot leader observers ruok
        server_stats stats voting_view watch_summary watches watches_by_path zabstate nonsense stat_reset connection_stat_reset
        set_trace_mask set_trace_mask?traceMask=7 set_trace_mask?traceMask=x conf cons wchs isro lsnp";
    for name in names.split_whitespace() {
        let (got, want) = (command(admin_port, name), command(zookeeper.admin_port, name));
        assert_eq!(fields(&got), fields(&want), "{name}\n{got}\n{want}");
        assert_eq!((&got["command"], &got["error"]), (&want["command"], &want["error"]), "{name}");
    }
    let names = |port| {
        let page = http(port, "GET /commands HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        page.lines().filter(|l| l.starts_with("<a ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(admin_port), names(zookeeper.admin_port));
}

#[test]
fn the_admin_server_is_there_when_it_is_asked_for() {
    let port = free_port();
    let ours = Ensemble::start(3, &format!("admin.serverPort={port}"));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    drop(ours);
    // All three on one port: two go on without it, as ZooKeeper does.
    let ours = Ensemble::start(
        3,
        &format!("admin.enableServer=true\nadmin.serverPort={port}\nadmin.commandURL=/ask/\nadmin.serverAddress=127.0.0.1"),
    );
    let get = |target: &str| http(port, &format!("GET {target} HTTP/1.1\r\n\r\n"));
    let leader = get("/ask/leader");
    assert!(leader.contains("\"leader_ip\": \"127.0.0.1\"") && leader.contains("\"error\": null"), "{leader}");
    assert!(get("/ask/voting_view").contains("\"learner_type\": \"participant\""));
    assert!(get("/ask/zabstate").contains("\"zabstate\": \"broadcast\""));
    assert!(get("/commands/ruok").starts_with("HTTP/1.1 404 "));
    assert!(http(port, "POST /ask/ruok HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    let warned = |i: usize| ours.servers[i].stderr().contains("the admin server cannot listen on");
    eventually("two go without it", || ((0..3).filter(|i| warned(*i)).count() == 2).then_some(()));
    // Garbage and slow clients cost their connection only.
    let mut held: Vec<TcpStream> = (0..15).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    held.iter_mut().for_each(|s| s.write_all(b"GET /ask").unwrap());
    assert!(get("/ask/ruok").starts_with("HTTP/1.1 200 OK"));
    assert_eq!(http(port, &"x".repeat(100_000)), "");
    assert!(get("/ask/ruok").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn prometheus_finds_the_gauges() {
    let port = free_port();
    let provider = "metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
    let ours = Ensemble::start(1, &format!("{provider}\nmetricsProvider.httpPort={port}\nmetricsProvider.httpHost=127.0.0.1"));
    let _client = busy(ours.port(0));
    let page = http(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{page}");
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("# TYPE znode_count gauge\nznode_count 6\n") && body.contains("\nephemerals_count 1\n"), "{body}");
    for line in body.lines().filter(|l| !l.starts_with("# ")) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(http(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
}

#[test]
fn no_secret_is_shown() {
    let port = free_port();
    let _ours = Ensemble::start(
        1,
        &format!("admin.enableServer=true\nadmin.serverPort={port}\nDigestAuthenticationProvider.superDigest=super:geheim"),
    );
    let text = command(port, "initial_configuration")["initial_configuration"].as_str().unwrap().to_owned();
    assert!(text.contains("superDigest=<hidden>\n") && !text.contains("geheim"), "{text}");
}
