//! The tree of znodes. Pure: no clock, no IO; every change is given its zxid and time.
//!
//! Invariant: each node but the root has its parent, listed there as a child; an ephemeral node has no
//! children and is listed under its owner. A change that fails leaves the tree as it was.

mod apply;
mod children;
mod node;
mod nodes;
mod order;
pub mod owner;
mod page;
mod quota;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use children::Children;
pub use node::{Frozen, Plain, Znode};
use nodes::{NodeId, Nodes};
use page::{Head, Record};

use crate::{
    acl::{self, Acl, List, Table},
    protocol::{EventType, Kind, Stat, perm},
};

/// A change that watches may wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// what happened
    pub kind: EventType,
    /// to which node
    pub path: String,
    /// the node's ACL: only clients that may read it hear of the event
    pub acl: List,
}

/// The tree.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Nodes,
    children: Children,
    acls: Table,
    ephemerals: BTreeMap<i64, BTreeSet<Arc<str>>>,
    /// containers and nodes with a TTL
    passing: BTreeSet<Arc<str>>,
    /// paths that have a limits node below `/zookeeper/quota`
    quotas: BTreeSet<String>,
    data_bytes: u64,
    path_bytes: u64,
}

/// Whose change, when.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// session
    pub session: i64,
    /// transaction id
    pub zxid: i64,
    /// milliseconds since 1970
    pub time_ms: i64,
}

/// Parent and name of a path other than the root.
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

/// The node of the ensemble's configuration.
pub const CONFIG_NODE: &str = "/zookeeper/config";

/// Nodes that ZooKeeper keeps for itself: they are never deleted.
const SPECIAL: [&str; 4] = ["/", "/zookeeper", CONFIG_NODE, "/zookeeper/quota"];

impl Default for Tree {
    fn default() -> Self {
        let (open, readable) = (acl::open(), [Acl::world(perm::READ)]);
        let node = |path: &str| {
            let config = path == CONFIG_NODE;
            let stat = Stat { aversion: if config { -1 } else { 0 }, ..Stat::default() };
            (path.to_owned(), Some(Vec::new()), if config { &readable[..] } else { &open[..] }, stat)
        };
        Self::build(SPECIAL.map(node).into()).unwrap_or_else(|_| Self::empty())
    }
}

impl Tree {
    fn empty() -> Self {
        Self {
            nodes: Nodes::default(),
            children: Children::default(),
            acls: Table::default(),
            ephemerals: BTreeMap::new(),
            passing: BTreeSet::new(),
            quotas: BTreeSet::new(),
            data_bytes: 0,
            path_bytes: 0,
        }
    }

    /// A node.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        self.node(self.nodes.find(path)?)
    }
    fn node(&self, id: NodeId) -> Option<Znode<'_>> {
        self.nodes.get(id).map(|record| Znode { tree: self, id, record })
    }
    /// All nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Znode<'_>> {
        self.nodes.iter().map(|(id, record)| Znode { tree: self, id, record })
    }
    /// The names of a node's children, in their order.
    pub fn children<'a>(&'a self, path: &str) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        self.children_paths(path).map(|p| split(p).1)
    }
    fn children_paths<'a>(&'a self, path: &str) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let all = self.nodes.find(path).map_or_else(Default::default, |id| self.children.of(id));
        all.map(|id| std::str::from_utf8(self.nodes.path(id)).unwrap_or_default())
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 0
    }
    /// Number of nodes below one.
    pub fn count_below(&self, path: &str) -> usize {
        self.nodes.find(path).map_or(0, |id| self.children.count_below(id))
    }
    /// Number of ephemeral nodes.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }
    /// The ephemeral nodes of all sessions.
    pub fn ephemerals(&self) -> &BTreeMap<i64, BTreeSet<Arc<str>>> {
        &self.ephemerals
    }
    /// Number of different ACLs.
    pub fn acl_count(&self) -> usize {
        self.acls.len()
    }
    /// Bytes of paths and data.
    pub fn approximate_bytes(&self) -> u64 {
        self.data_bytes + self.path_bytes
    }

    /// Containers and nodes with a TTL that are due at this time, in milliseconds since 1970. A container that never had
    /// a child is due after `never_used_ms`, or never if that is 0. Source: ContainerManager.
    pub fn due(&self, now_ms: i64, never_used_ms: i64) -> Vec<String> {
        self.passing.iter().filter(|path| self.is_due(path, now_ms, never_used_ms)).map(|path| (**path).to_owned()).collect()
    }

    pub(super) fn is_due(&self, path: &str, now_ms: i64, never_used_ms: i64) -> bool {
        self.get(path).is_some_and(|node| {
            let stat = node.stored_stat();
            let elapsed = now_ms.saturating_sub(stat.mtime);
            node.child_count() == 0
                && match node.kind() {
                    Kind::Container => stat.cversion > 0 || (never_used_ms != 0 && elapsed > never_used_ms),
                    Kind::Ttl(ttl) => ttl != 0 && elapsed > ttl,
                    Kind::Persistent | Kind::Ephemeral => false,
                }
        })
    }

    /// Adds a node, of which there must be none, without listing it below its parent.
    fn put(&mut self, path: &str, head: &Head, data: Option<&[u8]>) -> NodeId {
        self.data_bytes += data.map_or(0, |d| d.len() as u64);
        self.path_bytes += path.len() as u64;
        let owner = head.stat.ephemeral_owner;
        match owner::kind(owner) {
            Kind::Persistent => {}
            Kind::Ephemeral => drop(self.ephemerals.entry(owner).or_default().insert(path.into())),
            Kind::Container | Kind::Ttl(_) => drop(self.passing.insert(path.into())),
        }
        self.nodes.insert(path, head, data)
    }

    /// Adds a node below its parent.
    fn add(&mut self, parent: NodeId, path: &str, head: &Head, data: Option<&[u8]>) -> NodeId {
        let id = self.put(path, head, data);
        self.children.insert((parent, split(path).0), id, &self.nodes);
        id
    }

    /// Takes a node out that has no children. The number of its ACL is its own no longer.
    fn take(&mut self, path: &str) {
        let Some(id) = self.nodes.find(path) else { return };
        let Some(Record { head, data, .. }) = self.nodes.get(id) else { return };
        self.data_bytes -= data.map_or(0, |d| d.len() as u64);
        self.path_bytes -= path.len() as u64;
        self.acls.release(head.acl);
        self.passing.remove(path);
        let owner = head.stat.ephemeral_owner;
        if let Some(set) = self.ephemerals.get_mut(&owner) {
            set.remove(path);
            if set.is_empty() {
                self.ephemerals.remove(&owner);
            }
        }
        if let Some(parent) = self.nodes.find(split(path).0) {
            self.children.remove(parent, path, &self.nodes);
        }
        self.nodes.remove(id);
    }

    /// Changes a node's data and stat.
    fn set(&mut self, id: NodeId, path: &str, head: &Head, data: Option<&[u8]>) {
        let old = self.nodes.get(id).and_then(|record| record.data).map_or(0, |d| d.len() as u64);
        self.data_bytes = self.data_bytes - old + data.map_or(0, |d| d.len() as u64);
        self.nodes.set(id, path, head, data);
    }
}

/// Where a node lies and which number its ACL has does not matter.
impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        let node = |node: &Znode<'_>, other: &Self| {
            let found = other.get(node.path());
            found.is_some_and(|o| {
                (o.stat(), o.stored_stat(), o.acl(), o.data()) == (node.stat(), node.stored_stat(), node.acl(), node.data())
            })
        };
        self.len() == other.len()
            && self.iter().all(|n| node(&n, other) && self.children(n.path()).eq(other.children(n.path())))
            && self.iter().all(|n| self.count_below(n.path()) == other.count_below(n.path()))
            && (&self.ephemerals, &self.passing, &self.quotas) == (&other.ephemerals, &other.passing, &other.quotas)
            && (self.data_bytes, self.path_bytes, self.acl_count()) == (other.data_bytes, other.path_bytes, other.acl_count())
    }
}

impl Eq for Tree {}
