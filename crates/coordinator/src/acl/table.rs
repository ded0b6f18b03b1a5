//! Lists that nodes share: most nodes have one of a few (ReferenceCountedACLCache).
//!
//! Invariant: a list is in the table as long as a node has it, once.

use std::{collections::HashMap, sync::Arc};

use super::Acl;

/// A list that nodes share.
pub type List = Arc<[Acl]>;

/// The lists in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    used: HashMap<List, usize>,
}

impl Table {
    /// The shared list with these entries, for one more node.
    pub fn retain(&mut self, list: &[Acl]) -> List {
        if let Some((known, _)) = self.used.get_key_value(list) {
            let known = known.clone();
            if let Some(n) = self.used.get_mut(list) {
                *n += 1;
            }
            return known;
        }
        let list: List = list.into();
        self.used.insert(list.clone(), 1);
        list
    }

    /// One node fewer has this list.
    pub fn release(&mut self, list: &[Acl]) {
        if let Some(n) = self.used.get_mut(list) {
            *n -= 1;
            if *n == 0 {
                self.used.remove(list);
            }
        }
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether no node has a list.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// The lists, in no order.
    pub fn lists(&self) -> Vec<List> {
        self.used.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_while_it_is_used() {
        let mut table = Table::default();
        let (one, other) = ([Acl::world(1)], [Acl::world(2)]);
        let first = table.retain(&one);
        assert!(Arc::ptr_eq(&first, &table.retain(&one)));
        table.retain(&other);
        table.release(&one);
        assert_eq!(table.len(), 2);
        table.release(&one);
        assert_eq!(table.lists(), [List::from(&other[..])]);
        table.release(&one);
        table.release(&other);
        assert!(table.is_empty());
    }
}
