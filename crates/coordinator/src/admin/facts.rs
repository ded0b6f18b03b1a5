//! What both the four-letter words and the HTTP commands show, under ZooKeeper 3.8's names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::VERSION;
use crate::{
    node::Node,
    server::{Connection, Counters, limits::descriptors, stats::uptime_ms},
};

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// `standalone`, `leader`, `follower`, `observer` or `read-only`.
pub fn mode(node: &Node) -> &'static str {
    match (node.config.members.is_empty(), node.is_leader()) {
        _ if node.is_read_only() => "read-only",
        (true, _) => "standalone",
        (_, true) => "leader",
        _ if node.is_observer() => "observer",
        _ => "follower",
    }
}

fn peer_state(mode: &str) -> &'static str {
    match mode {
        "leader" => "leading - broadcast",
        "observer" => "observing - broadcast",
        _ => "following - broadcast",
    }
}

/// Bytes of snapshots and of the log.
pub fn disk(node: &Node) -> (u64, u64) {
    let (mut snapshots, mut log) = (0, 0);
    for entry in fs::read_dir(node.config.data_dir.join("version-2")).into_iter().flatten().flatten() {
        let bytes = entry.metadata().map_or(0, |m| m.len());
        if entry.file_name().to_string_lossy().starts_with("log.") { log += bytes } else { snapshots += bytes }
    }
    (snapshots, log)
}

/// Nodes as ZooKeeper counts them: the root has two names.
pub fn node_count(node: &Node) -> usize {
    node.with(|s, _| s.tree.len()) + 1
}

/// The values of `mntr` and `monitor`, without their prefix.
pub fn monitor(node: &Node, counters: &Counters) -> Vec<(&'static str, Value)> {
    let (min, mean, max) = counters.latency.ms();
    let mode = mode(node);
    let mut all = vec![("version", json!(VERSION)), ("server_state", json!(mode))];
    if !matches!(mode, "standalone" | "read-only") {
        all.push(("peer_state", json!(peer_state(mode))));
    }
    all.extend([
        ("min_latency", json!(min)),
        ("avg_latency", json!(mean)),
        ("max_latency", json!(max)),
        ("packets_received", json!(counters.received.load(Relaxed))),
        ("packets_sent", json!(counters.sent.load(Relaxed))),
        ("outstanding_requests", json!(counters.outstanding.load(Relaxed).max(0))),
        ("auth_failed_count", json!(counters.auth_failed.load(Relaxed))),
        ("connection_rejected", json!(counters.rejected.load(Relaxed))),
        ("uptime", json!(uptime_ms())),
        ("local_sessions", json!(0)),
        ("connection_drop_probability", json!(0.0)),
        ("non_mtls_remote_conn_count", json!(0)),
        ("non_mtls_local_conn_count", json!(0)),
        ("outstanding_tls_handshake", json!(0)),
        ("max_file_descriptor_count", json!(descriptors())),
        ("open_file_descriptor_count", json!(fs::read_dir("/proc/self/fd").map_or(0, Iterator::count))),
    ]);
    node.with(|s, l| {
        all.extend([
            ("num_alive_connections", json!(l.connections.len())),
            ("znode_count", json!(s.tree.len() + 1)),
            ("watch_count", json!(l.watches.len())),
            ("ephemerals_count", json!(s.tree.ephemeral_count())),
            ("approximate_data_size", json!(s.tree.approximate_bytes())),
            ("global_sessions", json!(s.sessions.len())),
        ]);
    });
    if mode != "standalone" {
        all.push(("quorum_size", json!(node.members().values().filter(|m| !m.observer).count())));
    }
    if mode == "leader" {
        let (learners, synced, observers) = node.followers();
        all.extend([
            ("learners", json!(learners)),
            ("synced_followers", json!(synced)),
            ("synced_non_voting_followers", json!(0)),
            ("synced_observers", json!(observers)),
            ("pending_syncs", json!(0)),
        ]);
    }
    all
}

/// `java.lang.System`'s part of the environment that there is here.
pub fn environment() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let memory = |key: &str, file: &str| {
        let kib = read(file).lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        format!("{}MB", kib.unwrap_or(0) / 1024)
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    vec![
        ("zookeeper.version", VERSION.to_owned()),
        ("host.name", read("/proc/sys/kernel/hostname")),
        ("os.name", "Linux".into()),
        ("os.arch", std::env::consts::ARCH.into()),
        ("os.version", read("/proc/sys/kernel/osrelease")),
        ("user.name", variable("USER")),
        ("user.home", variable("HOME")),
        ("user.dir", std::env::current_dir().unwrap_or_default().display().to_string()),
        ("os.memory.free", memory("MemAvailable:", "/proc/meminfo")),
        ("os.memory.max", memory("MemTotal:", "/proc/meminfo")),
        ("os.memory.total", memory("VmRSS:", "/proc/self/status")),
    ]
}

/// A connection; `brief` leaves out its session.
pub fn connection(c: &Connection, brief: bool) -> Value {
    let s = &c.stats;
    let mut all = Map::new();
    all.insert("remote_socket_address".into(), json!(c.address.to_string()));
    all.insert("interest_ops".into(), json!(u8::from(c.session != 0)));
    all.insert("outstanding_requests".into(), json!(s.outstanding.load(Relaxed)));
    all.insert("packets_received".into(), json!(s.received.load(Relaxed)));
    all.insert("packets_sent".into(), json!(s.sent.load(Relaxed)));
    if !brief {
        let (min, mean, max) = s.latency.ms();
        all.insert("session_id".into(), json!(c.session));
        all.insert("last_operation".into(), json!(s.last_operation()));
        all.insert("established".into(), json!(s.established_ms));
        all.insert("session_timeout".into(), json!(s.timeout_ms.load(Relaxed)));
        all.insert("last_cxid".into(), json!(s.last_cxid.load(Relaxed)));
        all.insert("last_zxid".into(), json!(s.last_zxid.load(Relaxed)));
        all.insert("last_response_time".into(), json!(s.last_response_ms.load(Relaxed)));
        all.insert("last_latency".into(), json!(s.last_latency_ms.load(Relaxed)));
        all.insert("min_latency".into(), json!(min));
        all.insert("avg_latency".into(), json!(mean.floor()));
        all.insert("max_latency".into(), json!(max));
    }
    Value::Object(all)
}

/// Watches on data and existence, by path, with the sessions that left them: so many paths at the most.
pub fn watches_by_path(node: &Node, most: usize) -> BTreeMap<String, BTreeSet<i64>> {
    node.with(|_, l| {
        let all = l.watches.data_watches().take(most);
        all.map(|(path, of)| (path.to_owned(), of.map(|id| l.connections.session_of(id)).collect())).collect()
    })
}

/// The same, by session.
pub fn watches_by_session(node: &Node, most: usize) -> BTreeMap<i64, BTreeSet<String>> {
    let mut out: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for (path, sessions) in watches_by_path(node, most) {
        for session in sessions {
            out.entry(session).or_default().insert(path.clone());
        }
    }
    out
}

/// Connections that watch data, paths that are watched, and watches.
pub fn watch_summary(node: &Node) -> (usize, usize, usize) {
    node.with(|_, l| {
        let (mut connections, mut paths, mut total) = (BTreeSet::new(), 0, 0);
        for (_, of) in l.watches.data_watches() {
            paths += 1;
            of.for_each(|id| {
                total += 1;
                connections.insert(id);
            });
        }
        (connections.len(), paths, total)
    })
}

/// When the snapshot on disk was made, in seconds since 1970.
pub fn snapshot_time(node: &Node) -> Option<i64> {
    let path: &Path = &node.config.data_dir.join("version-2/snapshot");
    let made = fs::metadata(path).and_then(|m| m.modified()).ok()?;
    Some(made.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64))
}
