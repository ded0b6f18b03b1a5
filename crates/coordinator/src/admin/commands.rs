//! The commands of the admin server, with the fields of `org.apache.zookeeper.server.admin.Commands` of ZooKeeper 3.8.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use super::{VERSION, facts};
use crate::{
    node::Node,
    server::{Counters, stats::uptime_ms},
};

/// Watched paths that are shown.
const MAX_PATHS: usize = 20_000;

/// A command: its name, its other names, and whether it needs a server that serves.
type Command = (&'static str, &'static [&'static str], bool);

/// All of them.
pub const COMMANDS: &[Command] = &[
    ("configuration", &["conf", "config"], true),
    ("connection_stat_reset", &["crst"], true),
    ("connections", &["cons"], true),
    ("dirs", &[], true),
    ("dump", &[], true),
    ("environment", &["env", "envi"], false),
    ("get_trace_mask", &["gtmk"], false),
    ("hash", &[], true),
    ("initial_configuration", &["icfg"], true),
    ("is_read_only", &["isro"], true),
    ("last_snapshot", &["lsnp"], true),
    ("leader", &["lead"], true),
    ("monitor", &["mntr"], false),
    ("observer_connection_stat_reset", &["orst"], true),
    ("observers", &["obsr"], true),
    ("ruok", &[], true),
    ("server_stats", &["srvr"], true),
    ("set_trace_mask", &["stmk"], false),
    ("stat_reset", &["srst"], true),
    ("stats", &["stat"], true),
    ("system_properties", &["sysp"], false),
    ("voting_view", &[], true),
    ("watch_summary", &["wchs"], true),
    ("watches", &["wchc"], true),
    ("watches_by_path", &["wchp"], true),
    ("zabstate", &[], false),
];

/// The answer to a command, with its arguments.
pub fn answer(node: &Node, counters: &Counters, asked: &str, arguments: &[(String, String)]) -> Value {
    let found = COMMANDS.iter().find(|(name, others, _)| *name == asked || others.contains(&asked));
    let mut out = Map::new();
    let error = match found {
        None => Some(format!("Unknown command: {asked}")),
        Some((_, _, true)) if !node.is_serving() && !node.is_read_only() => {
            Some("This ZooKeeper instance is not currently serving requests".into())
        }
        Some((name, _, _)) => fill(&mut out, node, counters, name, arguments),
    };
    out.insert("command".into(), json!(found.map_or(asked, |(name, _, _)| name)));
    out.insert("error".into(), json!(error));
    Value::Object(out)
}

/// Fills in a command's fields. Returns an error for its field.
fn fill(out: &mut Map<String, Value>, node: &Node, counters: &Counters, name: &str, arguments: &[(String, String)]) -> Option<String> {
    let c = &node.config;
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    match name {
        "configuration" => {
            let dir = c.data_dir.join("version-2").display().to_string();
            set("client_port", json!(c.client_port));
            set("data_dir", json!(dir));
            set("data_log_dir", json!(dir));
            set("tick_time", json!(c.tick_ms));
            set("max_client_cnxns", json!(c.max_client_connections));
            set("min_session_timeout", json!(c.min_session_timeout_ms));
            set("max_session_timeout", json!(c.max_session_timeout_ms));
            set("server_id", json!(if c.members.is_empty() { 0 } else { c.id }));
            set("client_port_listen_backlog", json!(-1));
        }
        "connection_stat_reset" => node.with(|_, l| l.connections.iter().for_each(|c| c.stats.reset())),
        "stat_reset" => counters.reset(),
        "connections" => {
            set("connections", connections(node, false));
            set("secure_connections", json!([]));
        }
        "dirs" => {
            let (data, log) = facts::disk(node);
            set("datadir_size", json!(data));
            set("logdir_size", json!(log));
        }
        "dump" => {
            let expiry = node.session_expiry().unwrap_or_default();
            let expiry: Map<String, Value> =
                expiry.into_iter().map(|(ms, ids)| ((uptime_ms() as i64 + ms).to_string(), json!(ids))).collect();
            let owned = node.with(|s, _| s.tree.ephemerals().iter().take(MAX_PATHS).map(|(id, p)| (id.to_string(), json!(p))).collect());
            set("expiry_time_to_session_ids", Value::Object(expiry));
            set("session_id_to_ephemeral_paths", Value::Object(owned));
        }
        "environment" => facts::environment().into_iter().for_each(|(key, value)| set(key, json!(value))),
        "get_trace_mask" => set("tracemask", json!(306)),
        "set_trace_mask" => {
            let mask = arguments.iter().find(|(key, _)| key == "traceMask").map(|(_, v)| v.parse::<i64>().map_err(|_| v));
            match mask {
                None => return Some("setTraceMask requires long traceMask argument".into()),
                Some(Err(text)) => return Some(format!("setTraceMask requires long traceMask argument, got {text}")),
                Some(Ok(mask)) => set("tracemask", json!(mask)),
            }
        }
        "hash" => set("digests", json!([])),
        "initial_configuration" => set("initial_configuration", json!(initial(node))),
        "is_read_only" => set("read_only", json!(node.is_read_only())),
        "last_snapshot" => {
            let made = facts::snapshot_time(node);
            set("zxid", json!(if made.is_some() { "0" } else { "ffffffffffffffff" }));
            set("timestamp", json!(made.unwrap_or(-1)));
        }
        "leader" if c.members.is_empty() => return Some("server is not initialized".into()),
        "leader" => {
            let leader = node.leader_id();
            set("is_leader", json!(node.is_leader()));
            set("leader_id", json!(leader.map_or(-1, |id| id as i64)));
            set("leader_ip", json!(leader.and_then(|id| node.members().remove(&id)).map_or_else(String::new, |m| m.host)));
        }
        "monitor" => facts::monitor(node, counters).into_iter().for_each(|(key, value)| set(key, value)),
        "observers" => {
            set("synced_observers", json!(node.followers().2));
            set("observers", json!([]));
        }
        "server_stats" | "stats" => {
            statistics(&mut set, node, counters);
            if name == "stats" {
                set("connections", connections(node, true));
                set("secure_connections", json!([]));
            }
        }
        "voting_view" => {
            let member = |(id, m): (&u64, &crate::config::Member)| {
                let server = json!({
                    "server_addresses": [format!("{}:{}", m.host, m.port)],
                    "election_addresses": [format!("{}:{}", m.host, m.election_port)],
                    "client_address": m.client.clone().unwrap_or_default(),
                    "learner_type": "participant",
                });
                (id.to_string(), server)
            };
            set("current_config", Value::Object(node.members().iter().filter(|(_, m)| !m.observer).map(member).collect()));
        }
        "watch_summary" => {
            let (connections, paths, total) = facts::watch_summary(node);
            set("num_connections", json!(connections));
            set("num_paths", json!(paths));
            set("num_total_watches", json!(total));
        }
        "watches" => {
            let all = facts::watches_by_session(node, MAX_PATHS);
            set("session_id_to_watched_paths", Value::Object(all.into_iter().map(|(id, p)| (id.to_string(), json!(p))).collect()));
        }
        "watches_by_path" => {
            let all = facts::watches_by_path(node, MAX_PATHS);
            set("path_to_session_ids", Value::Object(all.into_iter().map(|(path, ids)| (path, json!(ids))).collect()));
        }
        "zabstate" => {
            let member = c.members.get(&c.id).filter(|_| node.is_serving());
            set("voting", json!(member.is_some_and(|m| !m.observer)));
            set("zabstate", json!(if member.is_some() { "broadcast" } else { "" }));
            if let Some(m) = member {
                let zxid = node.with(|s, _| s.zxid);
                set("myid", json!(c.id));
                set("is_leader", json!(node.is_leader()));
                set("quorum_address", json!([format!("{}:{}", m.host, m.port)]));
                set("election_address", json!([format!("{}:{}", m.host, m.election_port)]));
                set("client_address", json!(format!("{}:{}", c.client_address, c.client_port)));
                set("last_zxid", json!(format!("0x{zxid:x}")));
                set("zab_epoch", json!(zxid >> 32));
                set("zab_counter", json!(zxid & 0xffff_ffff));
            }
        }
        _ => {}
    }
    None
}

fn connections(node: &Node, brief: bool) -> Value {
    node.with(|_, l| json!(l.connections.iter().take(MAX_PATHS).map(|c| facts::connection(c, brief)).collect::<Vec<_>>()))
}

fn statistics(set: &mut impl FnMut(&str, Value), node: &Node, counters: &Counters) {
    let (min, mean, max) = counters.latency.ms();
    let (data, log) = facts::disk(node);
    let (zxid, connections) = node.with(|s, l| (s.zxid, l.connections.len()));
    let sizes = json!({"last_buffer_size": -1, "min_buffer_size": -1, "max_buffer_size": -1});
    set("version", json!(VERSION));
    set("read_only", json!(node.is_read_only()));
    set("client_response", sizes.clone());
    set("node_count", json!(facts::node_count(node)));
    set(
        "server_stats",
        json!({
            "packets_sent": counters.sent.load(Relaxed),
            "packets_received": counters.received.load(Relaxed),
            "fsync_threshold_exceed_count": 0,
            "client_response_stats": sizes,
            "data_dir_size": data,
            "log_dir_size": log,
            "provider_null": false,
            "last_processed_zxid": zxid,
            "outstanding_requests": counters.outstanding.load(Relaxed).max(0),
            "server_state": facts::mode(node),
            "avg_latency": mean,
            "max_latency": max,
            "min_latency": min,
            "num_alive_client_connections": connections,
            "uptime": uptime_ms(),
            "auth_failed_count": counters.auth_failed.load(Relaxed),
            "non_mtlsremote_conn_count": 0,
            "non_mtlslocal_conn_count": 0,
        }),
    );
}

/// The configuration file, without what is secret in it.
fn initial(node: &Node) -> String {
    let text = std::fs::read_to_string(&node.config.path).unwrap_or_default();
    let shown = |line: &str| match line.split_once('=') {
        Some((key, _)) if key.contains("superDigest") || key.to_ascii_lowercase().contains("password") => format!("{key}=<hidden>\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(shown).collect()
}
