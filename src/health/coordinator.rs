//! The ensemble: one leader, the others followers, one epoch, all up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Checker, Problem, QUESTION_TIMEOUT, QUORUM};
use crate::{
    inventory::{HostId, Role},
    ssh::Connection,
};

/// Transactions that a follower may be behind: what is on its way while one asks.
const MAX_LAG: u64 = 1000;
/// The mode of a server that is cut off from the others and serves reads all the same (`readonlymode.enabled`).
const READ_ONLY: &str = "read-only";
/// Longest answer to a four-letter word, in bytes.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;

/// A server's report about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorView {
    /// leader, follower, standalone
    pub mode: String,
    /// its newest transaction
    pub zxid: u64,
}

async fn word(control: &Connection, host: &str, port: u16, word: &str) -> Result<String, String> {
    let ask = async {
        let mut stream = control.tcp(host, port).await.map_err(|e| e.to_string())?;
        let text = |e: io::Error| e.to_string();
        stream.write_all(word.as_bytes()).await.map_err(text)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.map_err(text)?;
        Ok::<_, String>(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(QUESTION_TIMEOUT, ask).await.map_err(|_| format!("no answer to `{word}` in time"))?
}

/// What a server answers; `None` while it has no leader.
type View = Result<Option<CoordinatorView>, String>;

async fn view(control: &Connection, host: &str, port: u16) -> View {
    parsed(&word(control, host, port, "srvr").await?)
}

/// What a server says of itself.
fn parsed(text: &str) -> View {
    let get = |k: &str| text.lines().find_map(|l| l.strip_prefix(k)).map(str::trim);
    let (Some(mode), Some(zxid)) = (get("Mode:"), get("Zxid:")) else {
        let first = text.lines().next().unwrap_or("an empty answer").trim();
        return if first.contains("not currently serving") { Ok(None) } else { Err(format!("strange answer: {first}")) };
    };
    // It answers reads of clients that asked for that, and is no part of a majority.
    if mode == READ_ONLY {
        return Ok(None);
    }
    let zxid = u64::from_str_radix(zxid.trim_start_matches("0x"), 16).map_err(|_| format!("strange zxid {zxid}"))?;
    Ok(Some(CoordinatorView { mode: mode.to_owned(), zxid }))
}

async fn ask_all(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> Vec<(HostId, View)> {
    let asks = ids
        .iter()
        .map(|id| async move { (*id, view(control, &checker.address(*id).unwrap_or_default(), checker.inventory.ports.zookeeper).await) });
    join_all(asks).await
}

/// Asks all servers; those that do not answer, or have no leader, are left out.
pub async fn views(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> BTreeMap<HostId, CoordinatorView> {
    ask_all(checker, control, ids).await.into_iter().filter_map(|(id, v)| Some((id, v.ok()??))).collect()
}

/// Servers that answer that they have no leader.
pub async fn leaderless(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> BTreeSet<HostId> {
    ask_all(checker, control, ids).await.into_iter().filter(|(_, v)| matches!(v, Ok(None))).map(|(id, _)| id).collect()
}

/// Checks the ensemble over the hosts that can be reached.
pub async fn check(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> (Vec<Problem>, BTreeMap<HostId, String>) {
    judge(checker, ask_all(checker, control, ids).await)
}

fn judge(checker: &Checker<'_>, answers: Vec<(HostId, View)>) -> (Vec<Problem>, BTreeMap<HostId, String>) {
    let mut problems = Vec::new();
    let mut notes = BTreeMap::new();
    let mut add = |host: String, reason: String| problems.push(Problem::new(host, reason));
    let mut views: BTreeMap<HostId, CoordinatorView> = BTreeMap::new();
    let mut answered = 0;
    for (id, v) in answers {
        answered += usize::from(v.is_ok());
        match v {
            Ok(Some(v)) => {
                notes.insert(id, v.mode.clone());
                views.insert(id, v);
            }
            Ok(None) => add(checker.name(id), "coordinator: it has no leader with a majority (not serving)".into()),
            Err(e) => add(checker.name(id), format!("coordinator: {e}")),
        }
    }
    let all = checker.inventory.of(Role::Coordinator).count();
    let leaders: Vec<HostId> = views.iter().filter(|(_, v)| v.mode == "leader" || v.mode == "standalone").map(|(id, _)| *id).collect();
    match leaders.as_slice() {
        [_] => {}
        [] if answered == 0 => add(QUORUM.into(), format!("none of {all} answers")),
        [] => add(QUORUM.into(), format!("no leader among the {answered} of {all} that answer")),
        many => {
            let names: Vec<String> = many.iter().map(|id| checker.name(*id)).collect();
            add(QUORUM.into(), format!("{} leaders: {}", many.len(), names.join(", ")));
        }
    }
    if let Some(top) = leaders.first().and_then(|l| views.get(l)) {
        for (id, v) in &views {
            // A follower names the epoch of its last transaction: as long as the new epoch has none, that is the old one.
            let fresh = top.zxid as u32 == 0 && v.zxid >> 32 < top.zxid >> 32;
            if v.zxid >> 32 != top.zxid >> 32 && !fresh {
                add(checker.name(*id), format!("coordinator: epoch {} while the leader is in {}", v.zxid >> 32, top.zxid >> 32));
            } else if !fresh && top.zxid.saturating_sub(v.zxid) > MAX_LAG {
                add(checker.name(*id), format!("coordinator: {} transactions behind the leader", top.zxid - v.zxid));
            }
        }
    }
    (problems, notes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        inventory::{Group, Inventory},
        observed::Observed,
    };

    fn reported(answers: &[View]) -> Vec<String> {
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), "cluster: c\nprefix: p\n").unwrap();
        let observed = Observed::default();
        let checker = Checker { inventory: &inventory, observed: &observed, fleet: None };
        let host = |i: usize| HostId { group: Group::COORDINATORS, index: i as u16 + 1 };
        let (problems, _) = judge(&checker, answers.iter().enumerate().map(|(i, v)| (host(i), v.clone())).collect());
        problems.into_iter().map(|p| format!("{}: {}", p.host, p.reason)).collect()
    }

    fn is(mode: &str, zxid: u64) -> View {
        Ok(Some(CoordinatorView { mode: mode.into(), zxid }))
    }

    #[test]
    fn one_leader_and_nobody_behind() {
        assert_eq!(reported(&[is("leader", 0x2_0000_0005), is("follower", 0x2_0000_0004), is("follower", 0x2_0000_0005)]), [""; 0]);
        // The new epoch has no transaction yet.
        assert_eq!(reported(&[is("leader", 0x3_0000_0000), is("follower", 0x2_0000_0004), is("follower", 0x2_0000_0004)]), [""; 0]);
        let behind = reported(&[is("leader", 0x2_0000_2000), is("follower", 0x2_0000_0004), is("follower", 0x1_0000_0004)]);
        assert_eq!(
            behind,
            ["p-zk02: coordinator: 8188 transactions behind the leader", "p-zk03: coordinator: epoch 1 while the leader is in 2"]
        );
    }

    #[test]
    fn who_serves_reads_only_is_no_part_of_the_ensemble() {
        let srvr = |mode: &str| format!("Zookeeper version: 3.8\nConnections: 1\nZxid: 0x200000005\nMode: {mode}\nNode count: 5\n");
        assert_eq!(parsed(&srvr("follower")), is("follower", 0x2_0000_0005));
        assert_eq!(parsed(&srvr("observer")), is("observer", 0x2_0000_0005));
        assert_eq!(parsed(&srvr("read-only")), Ok(None));
        assert_eq!(parsed("This ZooKeeper instance is not currently serving requests\n"), Ok(None));
        assert!(parsed("hello\n").is_err());
    }

    #[test]
    fn who_elects_answers() {
        let electing = "coordinator: it has no leader with a majority (not serving)";
        assert_eq!(
            reported(&[Ok(None), Ok(None), Err("refused".into())]),
            [
                &format!("p-zk01: {electing}"),
                &format!("p-zk02: {electing}"),
                "p-zk03: coordinator: refused",
                "coordinators: no leader among the 2 of 3 that answer"
            ]
        );
        let gone = reported(&[Err("refused".into()), Err("refused".into()), Err("refused".into())]);
        assert_eq!(gone.last().unwrap(), "coordinators: none of 3 answers");
        assert_eq!(reported(&[is("leader", 1), is("leader", 1), is("follower", 1)]), ["coordinators: 2 leaders: p-zk01, p-zk02"]);
    }
}
