//! Four-letter words: plain-text questions about this server, answered and the connection closed.
//! Field names are ZooKeeper 3.8's.

use std::{fmt::Write as _, sync::atomic::Ordering};

use crate::{
    node::Node,
    server::{Counters, limits::descriptors},
};

/// What this server calls itself. Tools parse the number in front.
pub const VERSION: &str = concat!("3.8.0-septet-", env!("CARGO_PKG_VERSION"), ", built on septet");

/// The word that the first four bytes of a connection spell, if they do.
pub fn word(head: i32) -> Option<[u8; 4]> {
    let bytes = head.to_be_bytes();
    bytes.iter().all(u8::is_ascii_lowercase).then_some(bytes)
}

/// The answer to a word.
pub fn answer(node: &Node, counters: &Counters, word: [u8; 4]) -> String {
    let name = String::from_utf8_lossy(&word).into_owned();
    if !node.config.four_letter_words.contains(&name) {
        return format!("{name} is not executed because it is not in the whitelist.\n");
    }
    match name.as_str() {
        "ruok" => "imok".into(),
        "conf" => conf(node),
        "isro" if node.is_serving() => "rw".into(),
        "isro" => "null".into(),
        _ if !node.is_serving() => "This ZooKeeper instance is not currently serving requests\n".into(),
        "srvr" => format!("Zookeeper version: {VERSION}\n{}", srvr(node, counters)),
        "stat" => stat(node, counters),
        "mntr" => mntr(node, counters),
        other => format!("{other} is not supported\n"),
    }
}

fn mode(node: &Node) -> &'static str {
    match (node.config.members.is_empty(), node.is_leader()) {
        (true, _) => "standalone",
        (_, true) => "leader",
        _ => "follower",
    }
}

fn srvr(node: &Node, counters: &Counters) -> String {
    let (min, mean, max) = counters.latency_ms();
    let (zxid, nodes, connections) = node.with(|s, l| (s.zxid, s.tree.len(), l.connections.len()));
    format!(
        "Latency min/avg/max: {min}/{mean:.4}/{max}\nReceived: {}\nSent: {}\nConnections: {connections}\nOutstanding: {}\n\
         Zxid: 0x{zxid:x}\nMode: {}\nNode count: {nodes}\n",
        counters.received.load(Ordering::Relaxed),
        counters.sent.load(Ordering::Relaxed),
        counters.outstanding.load(Ordering::Relaxed).max(0),
        mode(node),
    )
}

fn stat(node: &Node, counters: &Counters) -> String {
    let mut out = format!("Zookeeper version: {VERSION}\nClients:\n");
    node.with(|_, l| {
        for c in l.connections.iter() {
            let _ = writeln!(out, " /{}[{}](queued=0,recved={},sent={})", c.address, u8::from(c.session != 0), c.received, c.sent);
        }
    });
    out.push('\n');
    out + &srvr(node, counters)
}

fn mntr(node: &Node, counters: &Counters) -> String {
    let (min, mean, max) = counters.latency_ms();
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "zk_{key}\t{value}");
    };
    line("version", VERSION.into());
    line("server_state", mode(node).into());
    line("peer_state", if node.is_leader() { "leading - broadcast" } else { "following - broadcast" }.into());
    line("min_latency", min.to_string());
    line("avg_latency", format!("{mean:.4}"));
    line("max_latency", max.to_string());
    line("packets_received", counters.received.load(Ordering::Relaxed).to_string());
    line("packets_sent", counters.sent.load(Ordering::Relaxed).to_string());
    line("outstanding_requests", counters.outstanding.load(Ordering::Relaxed).max(0).to_string());
    node.with(|s, l| {
        line("num_alive_connections", l.connections.len().to_string());
        line("znode_count", s.tree.len().to_string());
        line("watch_count", l.watches.len().to_string());
        line("ephemerals_count", s.tree.ephemeral_count().to_string());
        line("approximate_data_size", s.tree.approximate_bytes().to_string());
        line("global_sessions", s.sessions.len().to_string());
    });
    let fds = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    line("open_file_descriptor_count", fds("/proc/self/fd").to_string());
    line("max_file_descriptor_count", descriptors().to_string());
    if mode(node) == "leader" {
        let (all, synced) = node.followers();
        line("learners", all.to_string());
        line("synced_followers", synced.to_string());
        line("synced_observers", "0".into());
    }
    out
}

fn conf(node: &Node) -> String {
    let c = &node.config;
    let mut out = format!(
        "clientPort={}\ndataDir={}\ndataLogDir={}\ntickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nserverId={}\n",
        c.client_port,
        c.data_dir.join("version-2").display(),
        c.data_dir.join("version-2").display(),
        c.tick_ms,
        c.max_client_connections,
        c.min_session_timeout_ms,
        c.max_session_timeout_ms,
        if c.members.is_empty() { 0 } else { c.id },
    );
    for (id, m) in &c.members {
        let _ = writeln!(out, "server.{id}={}:{}", m.host, m.port);
    }
    out
}
