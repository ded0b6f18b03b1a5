//! The program as an operator meets it: four-letter words, `--check`, bad configurations, signals.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{fs, process::Command};

use common::{Ensemble, LONG_MS, PROGRAM, client::Client, eventually, write_config};

/// Keys of `key<separator>value` lines.
fn keys(text: &str, separator: char) -> Vec<&str> {
    text.lines().map(|l| l.split_once(separator).unwrap_or_else(|| panic!("{l:?}")).0).collect()
}

#[test]
fn four_letter_words_of_one_that_stands_alone() {
    let ensemble = Ensemble::start(1, "");
    let server = &ensemble.servers[0];
    let mut client = Client::new(server.port, LONG_MS);
    client.create("/e", b"12345", 1).unwrap().unwrap();
    client.exists("/none", true).unwrap().unwrap_err();
    assert_eq!(server.ask("ruok").unwrap(), "imok");
    assert_eq!(server.ask("isro").unwrap(), "rw");
    let srvr = server.ask("srvr").unwrap();
    assert!(srvr.starts_with("Zookeeper version: 3.8.0-"), "{srvr}");
    let want = ["Zookeeper version", "Latency min/avg/max", "Received", "Sent", "Connections", "Outstanding", "Zxid", "Mode", "Node count"];
    assert_eq!(keys(&srvr, ':'), want);
    assert!(srvr.contains("\nMode: standalone\n") && srvr.contains("\nNode count: 6\n") && srvr.contains("\nConnections: 1\n"), "{srvr}");
    assert!(srvr.contains(&format!("\nZxid: 0x{:x}\n", client.zxid)), "{srvr}");
    let stat = server.ask("stat").unwrap();
    let me = client.stream.local_addr().unwrap();
    assert!(stat.contains(&format!("\nClients:\n /{me}[1](queued=0,recved=2,sent=3)\n\nLatency min/avg/max: ")), "{stat}");
    assert_eq!(keys(&server.ask("conf").unwrap(), '=')[..3], ["clientPort", "secureClientPort", "dataDir"]);
    let mntr = server.ask("mntr").unwrap();
    for key in ["version", "server_state", "avg_latency", "packets_received", "outstanding_requests", "open_file_descriptor_count"] {
        assert!(keys(&mntr, '\t').contains(&format!("zk_{key}").as_str()), "{key} in {mntr}");
    }
    let size: usize = ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota", "/e", "12345"].map(str::len).iter().sum();
    let measured = [
        "server_state",
        "znode_count",
        "watch_count",
        "ephemerals_count",
        "global_sessions",
        "approximate_data_size",
        "num_alive_connections",
    ]
    .map(|key| server.measured(key).unwrap());
    assert_eq!(measured, ["standalone", "6", "1", "1", "1", &size.to_string(), "1"]);
    client.close().unwrap();
    eventually("all is gone", || {
        (["watch_count", "ephemerals_count", "global_sessions"].map(|k| server.measured(k).unwrap()) == ["0", "0", "0"]).then_some(())
    });
}

#[test]
fn four_letter_words_of_an_ensemble() {
    let ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    eventually("both follow closely", || {
        let of = |key| ensemble.servers[leader].measured(key);
        (of("synced_followers")? == "2" && of("learners")? == "2").then_some(())
    });
    for (i, server) in ensemble.servers.iter().enumerate() {
        let (state, peer) = if i == leader { ("leader", "leading - broadcast") } else { ("follower", "following - broadcast") };
        assert_eq!(server.measured("server_state").as_deref(), Some(state));
        assert_eq!(server.measured("peer_state").as_deref(), Some(peer));
        assert_eq!(server.measured("synced_followers").is_some(), i == leader);
        let conf = server.ask("conf").unwrap();
        assert!(
            conf.contains(&format!("\nserverId={}\n", i + 1))
                && conf.contains(&format!("\nmembership: \nserver.1=127.0.0.1:{}:1:participant\n", ensemble.servers[0].peer_port)),
            "{conf}"
        );
    }
}

#[test]
fn only_words_of_the_whitelist_are_answered() {
    let refused = |word: &str| format!("{word} is not executed because it is not in the whitelist.\n");
    // The last of two lines wins.
    let ensemble = Ensemble::start(1, "4lw.commands.whitelist= isro,wchx");
    let ask = |word: &str| ensemble.servers[0].ask(word).unwrap();
    for word in ["ruok", "mntr", "stat", "conf", "abcd"] {
        assert_eq!(ask(word), refused(word));
    }
    assert_eq!(ask("isro"), "rw");
    assert_eq!(ask("wchx"), "wchx is not supported\n");
    assert!(ensemble.servers[0].stderr().contains("four-letter word \"wchx\" is not supported"));
    // Scripts of ZooKeeper's need it.
    assert!(ask("srvr").contains("Mode: standalone"));
}

#[test]
fn check_says_what_is_wrong_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zoo.cfg");
    let run = |arguments: &[&str]| {
        let out = Command::new(PROGRAM).args(arguments).arg(&file).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    write_config(dir.path(), 1, "initLimit=10");
    let (code, out, err) = run(&["--check"]);
    assert_eq!((code, out), (Some(0), format!("{}: ok\n", file.display())));
    assert!(err.contains(&format!("{}:6: initLimit is known but has no effect here", file.display())), "{err}");
    assert!(!dir.path().join("data").exists());
    fs::write(&file, "dataDir=/d\nclientPort=x\n").unwrap();
    for arguments in [&["--check"][..], &[]] {
        let (code, _, err) = run(arguments);
        assert_eq!(code, Some(2));
        assert!(err.contains(&format!("{}:2: clientPort: \"x\" is not a number", file.display())), "{err}");
    }
}

#[test]
fn a_start_that_fails_says_why() {
    let ensemble = Ensemble::start(1, "");
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let out = Command::new(PROGRAM).arg(dir.path().join("zoo.cfg")).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    write_config(dir.path(), ensemble.port(0), "");
    let (code, err) = run();
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("cannot listen on 127.0.0.1:{}: ", ensemble.port(0))), "{err}");
    write_config(dir.path(), common::free_port(), "");
    fs::create_dir_all(dir.path().join("data/version-2")).unwrap();
    let vote = dir.path().join("data/version-2/vote");
    fs::write(&vote, b"not a vote, but long enough for one").unwrap();
    let (code, err) = run();
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("{}: damaged at byte 0: ", vote.display())), "{err}");
}

#[test]
fn sigterm_is_a_clean_stop() {
    let mut ensemble = Ensemble::start(3, "");
    let leader = ensemble.leader();
    let mut client = Client::new(ensemble.port(leader), LONG_MS);
    client.create("/x", b"", 1).unwrap().unwrap();
    assert!(ensemble.servers[leader].terminate().success());
    let next = ensemble.leader();
    let mut client = client.resume(ensemble.port(next)).unwrap();
    client.exists("/x", false).unwrap().unwrap();
    ensemble.servers[leader].start();
    ensemble.leader();
    client.ping().unwrap();
    for server in &mut ensemble.servers {
        assert!(server.terminate().success());
    }
}
