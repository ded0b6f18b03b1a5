//! Quotas: limits and usage below `/zookeeper/quota`, as DataTree, StatsTrack and ZooKeeperServer.checkQuota of
//! ZooKeeper 3.8 keep them.
//!
//! Usage is written into a node's data without changing its stat and without an event. Hard limits are obeyed only
//! with `enforceQuota`; soft ones never refuse anything.

use std::collections::BTreeMap;

use super::{
    Tree,
    apply::{Old, Undo},
    page::Record,
    split,
};
use crate::protocol::Code;

const ROOT: &str = "/zookeeper/quota";
const LIMITS: &str = "/zookeeper_limits";
const STATS: &str = "/zookeeper_stats";

/// The path that a limits node is for.
pub fn limited(path: &str) -> Option<&str> {
    path.strip_prefix(ROOT)?.strip_suffix(LIMITS).filter(|p| !p.is_empty())
}

/// The path that a stats node is for.
fn counted(path: &str) -> Option<&str> {
    path.strip_prefix(ROOT)?.strip_suffix(STATS)
}

/// `count=…,bytes=…` and further keys, as StatsTrack reads and writes them. What is absent is -1.
#[derive(Debug, Default, PartialEq, Eq)]
struct Track(BTreeMap<String, i64>);

impl Track {
    fn parse(data: Option<&[u8]>) -> Self {
        let text = String::from_utf8_lossy(data.unwrap_or_default());
        let pair = |part: &str| {
            let mut words = part.split('=');
            let (key, value) = (words.next()?, words.next()?);
            Some((key.to_owned(), if value.is_empty() { -1 } else { value.parse().ok()? }))
        };
        Self(text.split([',', ';']).filter_map(pair).collect())
    }
    fn get(&self, key: &str) -> i64 {
        self.0.get(key).copied().unwrap_or(-1)
    }
    fn add(&mut self, key: &str, n: i64) {
        let now = self.get(key).wrapping_add(n);
        self.0.insert(key.to_owned(), now);
    }
    fn text(&self) -> Vec<u8> {
        let mut out = format!("count={},bytes={}", self.get("count"), self.get("bytes"));
        let mut more = self.0.iter().filter(|(k, _)| *k != "count" && *k != "bytes").peekable();
        if more.peek().is_some() {
            out.push('=');
        }
        more.for_each(|(key, value)| out.push_str(&format!(";{key}={value}")));
        out.into_bytes()
    }
}

impl Tree {
    /// The nearest path at or above this one with a quota.
    fn with_quota<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.quotas.is_empty() {
            return None;
        }
        let mut at = path;
        while at.len() > 1 {
            if self.quotas.contains(at) {
                return Some(at);
            }
            at = split(at).0;
        }
        None
    }

    fn set_usage(&mut self, path: &str, data: &[u8], undo: &mut Undo) {
        let Some(id) = self.nodes.find(path) else { return };
        let Some(Record { head, data: old, .. }) = self.nodes.get(id) else { return };
        undo.push((path.to_owned(), Old::Data(old.map(<[u8]>::to_vec), head.stat)));
        self.set(id, path, &head, Some(data));
    }

    fn use_more(&mut self, path: &str, bytes: i64, count: i64, undo: &mut Undo) {
        let Some(limited) = self.with_quota(path) else { return };
        let stats = format!("{ROOT}{limited}{STATS}");
        let Some(node) = self.get(&stats) else { return };
        let mut track = Track::parse(node.data());
        track.add("count", count);
        track.add("bytes", bytes);
        self.set_usage(&stats, &track.text(), undo);
    }

    /// What is at and below a path.
    fn usage(&self, path: &str) -> Vec<u8> {
        let (mut count, mut bytes) = (0, 0);
        let mut left = vec![path.to_owned()];
        while let Some(at) = left.pop() {
            // An empty path is the root's other name.
            let Some(node) = self.get(if at.is_empty() { "/" } else { &at }) else { continue };
            count += 1;
            bytes += node.data_bytes();
            left.extend(self.children_paths(if at.is_empty() { "/" } else { &at }).map(str::to_owned));
        }
        format!("count={count},bytes={bytes}").into_bytes()
    }

    /// Counts the usage of all quotas anew, as ZooKeeper does when it starts (DataTree.setupQuota).
    pub fn count_usage(&mut self) {
        for path in self.quotas.clone() {
            let usage = self.usage(&path);
            self.set_usage(&format!("{ROOT}{path}{STATS}"), &usage, &mut Undo::new());
        }
    }

    /// A node was created.
    pub(super) fn quota_created(&mut self, path: &str, bytes: u64, undo: &mut Undo) {
        if let Some(limited) = limited(path)
            && self.quotas.insert(limited.to_owned())
        {
            undo.push((limited.to_owned(), Old::Quota(false)));
        }
        if let Some(counted) = counted(path) {
            let usage = self.usage(counted);
            self.set_usage(path, &usage, undo);
        }
        self.use_more(path, bytes as i64, 1, undo);
    }

    /// A node was deleted.
    pub(super) fn quota_deleted(&mut self, path: &str, bytes: u64, undo: &mut Undo) {
        if let Some(limited) = limited(path)
            && self.quotas.remove(limited)
        {
            undo.push((limited.to_owned(), Old::Quota(true)));
        }
        self.use_more(path, -(bytes as i64), -1, undo);
    }

    /// A node's data changed.
    pub(super) fn quota_changed(&mut self, path: &str, bytes: i64, undo: &mut Undo) {
        self.use_more(path, bytes, 0, undo);
    }

    /// Whether a hard limit leaves room.
    pub(super) fn quota_allows(&self, path: &str, bytes: i64, count: i64) -> Result<(), Code> {
        let Some(limited) = self.with_quota(path) else { return Ok(()) };
        let track = |name: &str| self.get(&format!("{ROOT}{limited}{name}")).map(|n| Track::parse(n.data()));
        let (Some(limits), Some(usage)) = (track(LIMITS), track(STATS)) else { return Ok(()) };
        let over = |diff: i64, key: &str, hard: &str| {
            let limit = limits.get(hard);
            diff != 0 && limit > -1 && usage.get(key).wrapping_add(diff) > limit
        };
        let full = over(count, "count", "countHardLimit") || over(bytes, "bytes", "byteHardLimit");
        if full { Err(Code::QuotaExceeded) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_as_zookeeper_writes_them() {
        for text in ["count=1,bytes=2", "count=-1,bytes=7=;byteHardLimit=5;countHardLimit=6"] {
            assert_eq!(String::from_utf8_lossy(&Track::parse(Some(text.as_bytes())).text()), text);
        }
        assert_eq!(Track::parse(Some(b"count=,bytes=x,junk,=3=;")).text(), b"count=-1,bytes=-1=;=3");
        assert_eq!(Track::parse(None), Track::default());
        assert_eq!(limited("/zookeeper/quota/a/zookeeper_limits"), Some("/a"));
        assert_eq!(limited("/zookeeper/quota/zookeeper_limits"), None);
        assert_eq!(limited("/a/zookeeper_limits"), None);
    }
}
