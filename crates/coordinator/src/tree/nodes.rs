//! All nodes by path, in shards that a frozen view shares with the tree.
//!
//! Invariant: a view never changes. What the tree changes while a view lives is copied first: one shard, which is references to
//! nodes, and one node. So a view costs as little time with a million nodes as with ten.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use super::Znode;

/// With a million nodes a shard has a thousand: some tens of microseconds to copy.
const SHARDS: usize = 1024;

type Shard = HashMap<Arc<str>, Arc<Znode>>;

/// Which shard: the same one for a path in all trees of this process, and not to be foreseen by clients.
static PLACES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Nodes by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    shards: Vec<Arc<Shard>>,
    len: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], len: 0 }
    }
}

fn place(path: &str) -> usize {
    (PLACES.hash_one(path) % SHARDS as u64) as usize
}

impl Nodes {
    /// A node.
    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.shards[place(path)].get(path).map(|node| &**node)
    }

    /// A node, to change it.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Znode> {
        Arc::make_mut(&mut self.shards[place(path)]).get_mut(path).map(Arc::make_mut)
    }

    /// Whether there is a node.
    pub fn contains(&self, path: &str) -> bool {
        self.shards[place(path)].contains_key(path)
    }

    /// Adds a node; the one that was there.
    pub fn insert(&mut self, path: Arc<str>, node: Znode) -> Option<Arc<Znode>> {
        let old = Arc::make_mut(&mut self.shards[place(&path)]).insert(path, Arc::new(node));
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a node out.
    pub fn remove(&mut self, path: &str) -> Option<(Arc<str>, Znode)> {
        let found = Arc::make_mut(&mut self.shards[place(path)]).remove_entry(path);
        self.len -= usize::from(found.is_some());
        found.map(|(path, node)| (path, Arc::unwrap_or_clone(node)))
    }

    /// All nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Znode)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(path, node)| (path, &**node))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }
}
