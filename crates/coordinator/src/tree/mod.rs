//! The tree of znodes. Pure: no clock, no IO; every change is given its zxid and time.
//!
//! Invariant: each node but the root has its parent, listed there as a child; an ephemeral node has no
//! children and is listed under its owner. A change that fails leaves the tree as it was.

mod apply;
mod node;
mod nodes;
pub mod owner;
mod quota;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use node::{Frozen, Plain, Znode};
use nodes::Nodes;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Nodes,
    /// the paths of children by that of their parent, where there are any
    children: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
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
            children: HashMap::new(),
            acls: Table::default(),
            ephemerals: BTreeMap::new(),
            passing: BTreeSet::new(),
            quotas: BTreeSet::new(),
            data_bytes: 0,
            path_bytes: 0,
        }
    }

    /// A node.
    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.nodes.get(path)
    }
    /// All nodes by path, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Znode)> {
        self.nodes.iter()
    }
    /// The names of a node's children, in their order.
    pub fn children<'a>(&'a self, path: &str) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        self.children_paths(path).map(|p| split(p).1)
    }
    fn children_paths<'a>(&'a self, path: &str) -> impl ExactSizeIterator<Item = &'a Arc<str>> + use<'a> {
        static NONE: BTreeSet<Arc<str>> = BTreeSet::new();
        self.children.get(path).unwrap_or(&NONE).iter()
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
        if path == "/" {
            return self.nodes.len() - 1;
        }
        let (mut found, mut left) = (0, vec![path]);
        while let Some(at) = left.pop() {
            let Some(children) = self.children.get(at) else { continue };
            found += children.len();
            left.extend(children.iter().map(|child| &**child));
        }
        found
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
        self.nodes.get(path).is_some_and(|node| {
            let elapsed = now_ms.saturating_sub(node.stat.mtime);
            node.child_count == 0
                && match node.kind() {
                    Kind::Container => node.stat.cversion > 0 || (never_used_ms != 0 && elapsed > never_used_ms),
                    Kind::Ttl(ttl) => ttl != 0 && elapsed > ttl,
                    Kind::Persistent | Kind::Ephemeral => false,
                }
        })
    }

    /// Lists a node below its parent, or no longer.
    fn list(&mut self, parent: &str, child: &Arc<str>, listed: bool) {
        let Some(above) = self.nodes.get_mut(parent) else { return };
        let done = match (self.children.get_mut(parent), listed) {
            (Some(all), true) => all.insert(child.clone()),
            (None, true) => self.children.entry(parent.into()).or_default().insert(child.clone()),
            (Some(all), false) => {
                let removed = all.remove(child);
                if all.is_empty() {
                    self.children.remove(parent);
                }
                removed
            }
            (None, false) => false,
        };
        if done {
            above.child_count = if listed { above.child_count + 1 } else { above.child_count - 1 };
        }
    }

    fn put(&mut self, path: Arc<str>, node: Znode) {
        self.data_bytes += node.data_bytes();
        self.path_bytes += path.len() as u64;
        match node.kind() {
            Kind::Persistent => {}
            Kind::Ephemeral => {
                self.ephemerals.entry(node.stat.ephemeral_owner).or_default().insert(path.clone());
            }
            Kind::Container | Kind::Ttl(_) => {
                self.passing.insert(path.clone());
            }
        }
        let length = path.len() as u64;
        if let Some(old) = self.nodes.insert(path, node) {
            self.data_bytes -= old.data_bytes();
            self.path_bytes -= length;
        }
    }

    fn take(&mut self, path: &str) -> Option<(Arc<str>, Znode)> {
        let (path, node) = self.nodes.remove(path)?;
        self.data_bytes -= node.data_bytes();
        self.path_bytes -= path.len() as u64;
        self.passing.remove(&path);
        let owner = node.stat.ephemeral_owner;
        if let Some(set) = self.ephemerals.get_mut(&owner) {
            set.remove(&path);
            if set.is_empty() {
                self.ephemerals.remove(&owner);
            }
        }
        Some((path, node))
    }
}
