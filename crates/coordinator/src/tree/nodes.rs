//! All nodes: their records in pages that a frozen view shares with the tree, and an index by path.
//!
//! Invariant: a view never changes. What the tree changes while a view lives is copied first: references to 64 pages, and one page,
//! which is a few KiB. So a view costs one reference for each 4096 nodes.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use hashbrown::HashTable;

use super::page::{Head, Page, Record, SLOTS};

/// A node's place in the pages, as long as it is there.
pub type NodeId = u32;

/// Pages of a chapter.
const PAGES: usize = 64;
/// Parts of the index: with a million nodes one has a thousand, and takes some hundred microseconds to grow.
const SHARDS: usize = 1024;

/// The hash of a path: the same one in all trees of this process, and not to be foreseen by clients.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn hash(path: &[u8]) -> u64 {
    HASHES.hash_one(path)
}

fn shard(hash: u64) -> usize {
    // The tables use the lowest bits and the highest ones.
    (hash >> 32) as usize % SHARDS
}

/// Records of nodes by their place.
#[derive(Debug, Clone, Default)]
pub struct Records {
    chapters: Vec<Arc<Vec<Arc<Page>>>>,
    len: usize,
}

impl Records {
    fn page(&self, id: NodeId) -> (&Page, usize) {
        let (page, slot) = (id as usize / SLOTS, id as usize % SLOTS);
        (&self.chapters[page / PAGES][page % PAGES], slot)
    }

    fn page_mut(&mut self, id: NodeId) -> (&mut Page, usize) {
        let (page, slot) = (id as usize / SLOTS, id as usize % SLOTS);
        let chapter = Arc::make_mut(&mut self.chapters[page / PAGES]);
        (Arc::make_mut(&mut chapter[page % PAGES]), slot)
    }

    fn path(&self, id: NodeId) -> &[u8] {
        let (page, slot) = self.page(id);
        page.path(slot).unwrap_or_default()
    }

    /// All nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Record<'_>)> {
        let pages = self.chapters.iter().flat_map(|chapter| chapter.iter());
        let all = pages.flat_map(|page| (0..SLOTS).map(move |slot| page.get(slot)));
        all.zip(0..).filter_map(|(record, id)| Some((id, record?)))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Nodes by path.
#[derive(Debug, Clone)]
pub struct Nodes {
    records: Records,
    index: Vec<HashTable<NodeId>>,
    /// places of nodes that were removed
    free: Vec<NodeId>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { records: Records::default(), index: vec![HashTable::new(); SHARDS], free: Vec::new() }
    }
}

impl Nodes {
    /// The records as they are now, whatever becomes of these nodes.
    pub fn freeze(&self) -> Records {
        self.records.clone()
    }

    /// Where a node is.
    pub fn find(&self, path: &str) -> Option<NodeId> {
        let hash = hash(path.as_bytes());
        self.index[shard(hash)].find(hash, |id| self.records.path(*id) == path.as_bytes()).copied()
    }

    /// A node.
    pub fn get(&self, id: NodeId) -> Option<Record<'_>> {
        let (page, slot) = self.records.page(id);
        page.get(slot)
    }

    /// The path of a node, in bytes; empty if there is none.
    pub fn path(&self, id: NodeId) -> &[u8] {
        self.records.path(id)
    }

    /// Changes what a node has beside its data.
    pub fn set_head(&mut self, id: NodeId, head: &Head) {
        let (page, slot) = self.records.page_mut(id);
        page.set_head(slot, head);
    }

    /// Changes a node.
    pub fn set(&mut self, id: NodeId, path: &str, head: &Head, data: Option<&[u8]>) {
        let (page, slot) = self.records.page_mut(id);
        page.put(slot, path, head, data);
    }

    /// Adds a node, of which there must be none.
    pub fn insert(&mut self, path: &str, head: &Head, data: Option<&[u8]>) -> NodeId {
        let id = self.free.pop().unwrap_or_else(|| self.new_place());
        self.set(id, path, head, data);
        self.records.len += 1;
        let hash_of = hash(path.as_bytes());
        let records = &self.records;
        self.index[shard(hash_of)].insert_unique(hash_of, id, |id| hash(records.path(*id)));
        id
    }

    /// The next place behind all others. Nothing is free, so all of them are taken.
    fn new_place(&mut self) -> NodeId {
        let place = self.records.len;
        if place.is_multiple_of(SLOTS) {
            if place.is_multiple_of(SLOTS * PAGES) {
                self.records.chapters.push(Arc::default());
            }
            if let Some(chapter) = self.records.chapters.last_mut() {
                Arc::make_mut(chapter).push(Arc::default());
            }
        }
        place as NodeId
    }

    /// Takes a node out.
    pub fn remove(&mut self, id: NodeId) {
        let hash = hash(self.path(id));
        if let Ok(entry) = self.index[shard(hash)].find_entry(hash, |other| *other == id) {
            entry.remove();
            let (page, slot) = self.records.page_mut(id);
            page.remove(slot);
            self.records.len -= 1;
            self.free.push(id);
        }
    }

    /// All nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Record<'_>)> {
        self.records.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Stat;

    #[derive(Debug, Clone)]
    enum Step {
        /// adds or changes so many nodes from a number on
        Set(u32, u32, Option<Vec<u8>>),
        /// changes the head of one
        Head(u32),
        /// removes so many from a number on
        Remove(u32, u32),
        /// a view is taken; it is looked at in the end
        View,
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0..5000u32, prop_oneof![4 => 1..5u32, 1 => 1..3000u32]);
        let data = prop::option::weighted(0.9, prop_oneof![8 => 0..20usize, 1 => 500..600usize]).prop_map(|n| n.map(|n| vec![n as u8; n]));
        prop_oneof![
            4 => (range(), data).prop_map(|((from, count), data)| Step::Set(from, count, data)),
            3 => (0..5000u32).prop_map(Step::Head),
            2 => range().prop_map(|(from, count)| Step::Remove(from, count)),
            1 => Just(Step::View),
        ]
    }

    type Model = BTreeMap<String, (Head, Option<Vec<u8>>)>;

    fn all(records: &Records) -> Model {
        let node = |(_, r): (NodeId, Record<'_>)| (r.path.to_owned(), (r.head, r.data.map(<[u8]>::to_vec)));
        records.iter().map(node).collect()
    }

    fn head(n: usize) -> Head {
        Head { acl: n as u32, stat: Stat { mzxid: n as i64, ..Stat::default() } }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn they_are_what_a_map_holds_and_views_stay_as_they_were(steps in prop::collection::vec(step(), 1..40)) {
            let (mut nodes, mut model, mut views) = (Nodes::default(), Model::new(), Vec::new());
            let path = |n: u32| format!("/p/{n}");
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Set(from, count, data) => for n in from..from + count {
                        match nodes.find(&path(n)) {
                            Some(id) => nodes.set(id, &path(n), &head(i), data.as_deref()),
                            None => drop(nodes.insert(&path(n), &head(i), data.as_deref())),
                        }
                        model.insert(path(n), (head(i), data.clone()));
                    },
                    Step::Head(n) => {
                        nodes.find(&path(n)).into_iter().for_each(|id| nodes.set_head(id, &head(i)));
                        model.entry(path(n)).and_modify(|node| node.0 = head(i));
                    }
                    Step::Remove(from, count) => for n in from..from + count {
                        let found = nodes.find(&path(n));
                        prop_assert_eq!(found.is_some(), model.remove(&path(n)).is_some());
                        found.into_iter().for_each(|id| nodes.remove(id));
                    },
                    Step::View => views.push((nodes.freeze(), model.clone())),
                }
                prop_assert_eq!(nodes.len(), model.len());
            }
            views.push((nodes.freeze(), model.clone()));
            for (view, was) in &views {
                prop_assert_eq!(view.len(), was.len());
                prop_assert!(&all(view) == was);
            }
            for n in 0..8000 {
                let found = nodes.find(&path(n)).and_then(|id| nodes.get(id));
                let found = found.map(|r| (r.path.to_owned(), r.head, r.data.map(<[u8]>::to_vec)));
                prop_assert_eq!(found, model.get(&path(n)).map(|(head, data)| (path(n), *head, data.clone())));
            }
        }
    }
}
