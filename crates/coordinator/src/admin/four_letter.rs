//! Four-letter words: plain-text questions about this server, answered and the connection closed.
//! Formats are those of the classes in `org.apache.zookeeper.server.command` of ZooKeeper 3.8.

use std::{
    fmt::{self, Write},
    sync::atomic::Ordering::Relaxed,
};

use super::{
    VERSION, facts,
    text::{Bounded, java_date},
};
use crate::{
    config::members_text,
    node::Node,
    server::{Connection, Counters},
};

/// Watched paths that are shown.
const MAX_PATHS: usize = 100_000;
/// ZooKeeper's default of what it traces.
const TRACE_MASK: i64 = 306;

/// The word that the first four bytes of a connection spell, if they do.
pub fn word(head: i32) -> Option<[u8; 4]> {
    let bytes = head.to_be_bytes();
    bytes.iter().all(u8::is_ascii_lowercase).then_some(bytes)
}

/// The answer to a word. `stmk` has an argument.
pub fn answer(node: &Node, counters: &Counters, word: [u8; 4], argument: i64) -> String {
    let name = String::from_utf8_lossy(&word).into_owned();
    // As in ZooKeeper, whose scripts need it, `srvr` is always answered.
    if name != "srvr" && !node.config.four_letter_words.contains(&name) {
        return format!("{name} is not executed because it is not in the whitelist.\n");
    }
    let mut out = Bounded::default();
    // An error is a text that became too long, which it says at its end.
    let _ = write(&mut out, node, counters, &name, argument);
    out.end()
}

fn write(out: &mut Bounded, node: &Node, counters: &Counters, name: &str, argument: i64) -> fmt::Result {
    match name {
        "ruok" => return out.write_str("imok"),
        "isro" if node.is_read_only() => return out.write_str("ro"),
        "isro" => return out.write_str(if node.is_serving() { "rw" } else { "null" }),
        "gtmk" => return write!(out, "{TRACE_MASK}"),
        // Nothing is traced here.
        "stmk" => return write!(out, "{argument}"),
        "envi" => {
            out.write_str("Environment:\n")?;
            return facts::environment().into_iter().try_for_each(|(key, value)| writeln!(out, "{key}={value}"));
        }
        // Asked of servers that do not serve, too: it is what shows why.
        "conf" => return conf(out, node),
        _ => {}
    }
    if !node.is_serving() && !node.is_read_only() {
        return out.write_str("This ZooKeeper instance is not currently serving requests\n");
    }
    match name {
        "srvr" => srvr(out, node, counters),
        "stat" => {
            writeln!(out, "Zookeeper version: {VERSION}\nClients:")?;
            connections(out, node, true)?;
            writeln!(out)?;
            statistics(out, node, counters)
        }
        "cons" => {
            connections(out, node, false)?;
            writeln!(out)
        }
        "mntr" => facts::monitor(node, counters).into_iter().try_for_each(|(key, value)| match value.as_str() {
            Some(text) => writeln!(out, "zk_{key}\t{text}"),
            None => writeln!(out, "zk_{key}\t{value}"),
        }),
        "crst" => {
            node.with(|_, l| l.connections.iter().for_each(|c| c.stats.reset()));
            out.write_str("Connection stats reset.\n")
        }
        "srst" => {
            counters.reset();
            out.write_str("Server stats reset.\n")
        }
        "dirs" => {
            let (data, log) = facts::disk(node);
            write!(out, "datadir_size: {data}\nlogdir_size: {log}\n")
        }
        "dump" => dump(out, node),
        // Digests of the tree are not kept here, so there are none to list.
        "hash" => Ok(()),
        "wchs" => {
            let (connections, paths, total) = facts::watch_summary(node);
            write!(out, "{connections} connections watching {paths} paths\nTotal watches:{total}\n")
        }
        "wchp" => {
            for (path, sessions) in facts::watches_by_path(node, MAX_PATHS) {
                writeln!(out, "{path}")?;
                sessions.iter().try_for_each(|s| writeln!(out, "\t0x{s:x}"))?;
            }
            writeln!(out)
        }
        "wchc" => {
            for (session, paths) in facts::watches_by_session(node, MAX_PATHS) {
                writeln!(out, "0x{session:x}")?;
                paths.iter().try_for_each(|p| writeln!(out, "\t{p}"))?;
            }
            writeln!(out)
        }
        other => writeln!(out, "{other} is not supported"),
    }
}

fn connections(out: &mut Bounded, node: &Node, brief: bool) -> fmt::Result {
    node.with(|_, l| l.connections.iter().try_for_each(|c| connection(out, c, brief)))
}

fn connection(out: &mut Bounded, c: &Connection, brief: bool) -> fmt::Result {
    let s = &c.stats;
    let get = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed);
    write!(
        out,
        " /{}[{}](queued={},recved={},sent={}",
        c.address,
        u8::from(c.session != 0),
        s.outstanding.load(Relaxed),
        get(&s.received),
        get(&s.sent)
    )?;
    if !brief && c.session != 0 {
        write!(out, ",sid=0x{:x},lop={},est={}", c.session, s.last_operation(), s.established_ms)?;
        write!(out, ",to={}", s.timeout_ms.load(Relaxed))?;
        if s.last_cxid.load(Relaxed) >= 0 {
            write!(out, ",lcxid=0x{:x}", s.last_cxid.load(Relaxed))?;
        }
        let (min, mean, max) = s.latency.ms();
        write!(
            out,
            ",lzxid=0x{:x},lresp={},llat={},minlat={min},avglat={},maxlat={max}",
            s.last_zxid.load(Relaxed),
            get(&s.last_response_ms),
            get(&s.last_latency_ms),
            mean as u64
        )?;
    }
    out.write_str(")\n")
}

fn srvr(out: &mut Bounded, node: &Node, counters: &Counters) -> fmt::Result {
    writeln!(out, "Zookeeper version: {VERSION}")?;
    statistics(out, node, counters)
}

fn statistics(out: &mut Bounded, node: &Node, counters: &Counters) -> fmt::Result {
    let (min, mean, max) = counters.latency.ms();
    let (zxid, connections) = node.with(|s, l| (s.zxid, l.connections.len()));
    write!(
        out,
        "Latency min/avg/max: {min}/{mean:?}/{max}\nReceived: {}\nSent: {}\nConnections: {connections}\nOutstanding: {}\n\
         Zxid: 0x{zxid:x}\nMode: {}\nNode count: {}\n",
        counters.received.load(Relaxed),
        counters.sent.load(Relaxed),
        counters.outstanding.load(Relaxed).max(0),
        facts::mode(node),
        facts::node_count(node),
    )
}

fn dump(out: &mut Bounded, node: &Node) -> fmt::Result {
    writeln!(out, "SessionTracker dump:")?;
    match node.session_expiry() {
        // Only a leader knows when sessions end.
        Some(expiry) => {
            let count: usize = expiry.values().map(Vec::len).sum();
            writeln!(out, "Session Sets ({})/({count}):", expiry.len())?;
            for (in_ms, sessions) in expiry {
                writeln!(out, "{} expire at {}:", sessions.len(), java_date(facts::now_ms() + in_ms))?;
                sessions.iter().try_for_each(|s| writeln!(out, "\t0x{s:x}"))?;
            }
        }
        None => {
            let all: Vec<_> = node.with(|s, _| s.sessions.iter().map(|(id, s)| (*id, s.timeout_ms)).collect());
            writeln!(out, "Global Sessions({}):", all.len())?;
            all.iter().try_for_each(|(id, ms)| writeln!(out, "0x{id:x}\t{ms}ms"))?;
        }
    }
    writeln!(out, "ephemeral nodes dump:")?;
    node.with(|s, _| {
        let all = s.tree.ephemerals();
        writeln!(out, "Sessions with Ephemerals ({}):", all.len())?;
        all.iter().try_for_each(|(session, paths)| {
            writeln!(out, "0x{session:x}:")?;
            paths.iter().try_for_each(|path| writeln!(out, "\t{path}"))
        })
    })?;
    writeln!(out, "Connections dump:")?;
    node.with(|_, l| {
        writeln!(out, "Connections Sets (1)/({}):", l.connections.len())?;
        l.connections.iter().try_for_each(|c| writeln!(out, "\tip: /{} sessionId: 0x{:x}", c.address, c.session))
    })
}

fn conf(out: &mut Bounded, node: &Node) -> fmt::Result {
    let c = &node.config;
    let (data, log) = facts::disk(node);
    let dir = c.data_dir.join("version-2");
    write!(
        out,
        "clientPort={}\nsecureClientPort=-1\ndataDir={}\ndataDirSize={data}\ndataLogDir={}\ndataLogSize={log}\ntickTime={}\n\
         maxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nclientPortListenBacklog=-1\nserverId={}\n",
        c.client_port,
        dir.display(),
        dir.display(),
        c.tick_ms,
        c.max_client_connections,
        c.min_session_timeout_ms,
        c.max_session_timeout_ms,
        if c.members.is_empty() { 0 } else { c.id },
    )?;
    if let Some(me) = c.members.get(&c.id) {
        write!(
            out,
            "electionAlg=3\nelectionPort={}\nquorumPort={}\npeerType={}\nmembership: \n",
            me.election_port,
            me.port,
            u8::from(me.observer)
        )?;
        writeln!(out, "{}", members_text(&node.members()))?;
    }
    Ok(())
}
