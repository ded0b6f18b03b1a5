//! The children of each node that has some, and how many nodes there are below it.
//!
//! Invariant: a change costs one step for each node above it and no look-up, so it is cheap at any depth; how many nodes are below one is
//! known without looking at them: whoever asks for it holds up nobody.

use std::collections::HashMap;

use super::{
    nodes::{NodeId, Nodes},
    order::{Iter, Order},
    split,
};

/// A node's place in the list of those that have children.
type Place = usize;

#[derive(Debug, Clone, Default)]
struct Family {
    children: Order,
    /// nodes below it, however deep
    below: usize,
    /// that of its parent; none at the root, and in a place that is free
    above: Option<Place>,
}

/// Children of all nodes.
#[derive(Debug, Clone, Default)]
pub struct Children {
    places: HashMap<NodeId, Place>,
    families: Vec<Family>,
    free: Vec<Place>,
}

impl Children {
    fn family(&self, id: NodeId) -> Option<&Family> {
        self.places.get(&id).map(|place| &self.families[*place])
    }

    /// A node's children, in the order of their paths.
    pub fn of(&self, id: NodeId) -> Iter<'_> {
        self.family(id).map_or_else(Iter::default, |family| family.children.iter())
    }

    /// How many children a node has.
    pub fn count(&self, id: NodeId) -> usize {
        self.family(id).map_or(0, |family| family.children.len())
    }

    /// Number of nodes below one.
    pub fn count_below(&self, id: NodeId) -> usize {
        self.family(id).map_or(0, |family| family.below)
    }

    /// The place of a node, and of those above it, which get one if they have none.
    fn place(&mut self, id: NodeId, path: &str, nodes: &Nodes) -> Place {
        let (mut at, mut lowest, mut below) = ((id, path), None, None);
        loop {
            let (id, path) = at;
            let known = self.places.get(&id).copied();
            let place = known.unwrap_or_else(|| {
                let place = self.free.pop().unwrap_or(self.families.len());
                if place == self.families.len() {
                    self.families.push(Family::default());
                }
                self.places.insert(id, place);
                place
            });
            if let Some(child) = below.replace(place) {
                self.families[child].above = Some(place);
            }
            let lowest = *lowest.get_or_insert(place);
            if known.is_some() || path == "/" {
                return lowest;
            }
            let parent = split(path).0;
            let Some(above) = nodes.find(parent) else { return lowest };
            at = (above, parent);
        }
    }

    fn add_above(&mut self, place: Place, add: impl Fn(usize) -> usize) {
        let mut next = Some(place);
        while let Some(place) = next {
            let family = &mut self.families[place];
            family.below = add(family.below);
            next = family.above;
        }
    }

    /// Lists a child below a node. A tree that is read from a snapshot may list what is below a node before the node.
    pub fn insert(&mut self, (parent, path): (NodeId, &str), child: NodeId, nodes: &Nodes) {
        let place = self.place(parent, path, nodes);
        if self.families[place].children.insert(child, nodes) {
            self.add_above(place, |below| below + 1);
        }
    }

    /// Lists a child that has none itself no longer. It must still be among the nodes.
    pub fn remove(&mut self, parent: NodeId, child: &str, nodes: &Nodes) {
        let Some(place) = self.places.get(&parent).copied() else { return };
        if self.families[place].children.remove(child.as_bytes(), nodes) {
            self.add_above(place, |below| below - 1);
            if self.families[place].children.len() == 0 {
                self.places.remove(&parent);
                self.families[place] = Family::default();
                self.free.push(place);
            }
        }
    }
}
