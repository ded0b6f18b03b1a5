//! The children of one node in the order of their paths: places of nodes in chunks, so that one more among a million moves a few KiB.
//!
//! Invariant: no chunk is empty or longer than [`CHUNK`], and two that lie side by side have more than half of that.

use super::nodes::{NodeId, Nodes};

/// Children of a chunk.
const CHUNK: usize = 512;

#[derive(Debug, Clone, Default)]
pub struct Order {
    chunks: Vec<Vec<NodeId>>,
    len: usize,
}

/// Children in their order.
#[derive(Debug, Default)]
pub struct Iter<'a> {
    all: std::iter::Flatten<std::slice::Iter<'a, Vec<NodeId>>>,
    left: usize,
}

impl Iterator for Iter<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        self.left = self.left.saturating_sub(1);
        self.all.next().copied()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl Order {
    /// The chunk where a path is or belongs, and its place there.
    fn find(&self, path: &[u8], nodes: &Nodes) -> (usize, Result<usize, usize>) {
        let before = |chunk: &Vec<NodeId>| chunk.last().is_some_and(|last| nodes.path(*last) < path);
        // Behind all others it belongs into the last one.
        let at = self.chunks.partition_point(before).min(self.chunks.len().saturating_sub(1));
        (at, self.chunks.get(at).map_or(Err(0), |chunk| chunk.binary_search_by(|id| nodes.path(*id).cmp(path))))
    }

    /// Adds a node; whether it was not there.
    pub fn insert(&mut self, id: NodeId, nodes: &Nodes) -> bool {
        let (mut at, Err(mut place)) = self.find(nodes.path(id), nodes) else { return false };
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
            self.chunks.push(Vec::with_capacity(1));
        } else if self.chunks[at].len() == CHUNK {
            // Names that count up fill their chunks.
            let kept = if place == CHUNK { CHUNK } else { CHUNK / 2 };
            let behind = self.chunks[at].split_off(kept);
            self.chunks.insert(at + 1, behind);
            if place >= kept {
                (at, place) = (at + 1, place - kept);
            }
        }
        self.chunks[at].insert(place, id);
        self.len += 1;
        true
    }

    /// Removes the node with a path, which must still be among the nodes; whether it was there.
    pub fn remove(&mut self, path: &[u8], nodes: &Nodes) -> bool {
        let (at, Ok(place)) = self.find(path, nodes) else { return false };
        self.chunks[at].remove(place);
        self.len -= 1;
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        }
        for first in [at, at.saturating_sub(1)] {
            let length = |at: usize| self.chunks.get(at).map_or(CHUNK, Vec::len);
            if length(first) + length(first + 1) <= CHUNK / 2 {
                let behind = self.chunks.remove(first + 1);
                self.chunks[first].extend(behind);
            }
        }
        true
    }

    /// All of them, in their order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { all: self.chunks.iter().flatten(), left: self.len }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::page::Head, *};
    use crate::protocol::Stat;

    #[derive(Debug, Clone)]
    enum Step {
        /// so many numbers from one on, upwards or downwards
        Insert(u32, u32, bool),
        Remove(u32, u32, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0..3000u32, prop_oneof![0..4u32, 0..1500u32], any::<bool>());
        prop_oneof![
            range().prop_map(|(from, count, up)| Step::Insert(from, count, up)),
            range().prop_map(|(from, count, up)| Step::Remove(from, count, up)),
        ]
    }

    fn numbers(from: u32, count: u32, up: bool) -> Vec<u32> {
        if up { (from..from + count).collect() } else { (from..from + count).rev().collect() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec(step(), 0..24)) {
            let (mut nodes, mut order, mut model) = (Nodes::default(), Order::default(), BTreeMap::new());
            let path = |n: u32| format!("/p/{n:04}");
            for step in steps {
                match step {
                    Step::Insert(from, count, up) => for n in numbers(from, count, up) {
                        let known = nodes.find(&path(n));
                        let id = known.unwrap_or_else(|| nodes.insert(&path(n), &Head { acl: 0, stat: Stat::default() }, None));
                        prop_assert_eq!(order.insert(id, &nodes), known.is_none());
                        model.insert(path(n), id);
                    },
                    Step::Remove(from, count, up) => for n in numbers(from, count, up) {
                        let was = model.remove(&path(n));
                        prop_assert_eq!(order.remove(path(n).as_bytes(), &nodes), was.is_some());
                        was.into_iter().for_each(|id| nodes.remove(id));
                    },
                }
                prop_assert!(order.iter().eq(model.values().copied()));
                prop_assert_eq!((order.len(), order.iter().len()), (model.len(), model.len()));
                prop_assert!(order.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
                prop_assert!(order.chunks.windows(2).all(|two| two[0].len() + two[1].len() > CHUNK / 2));
            }
        }
    }
}
