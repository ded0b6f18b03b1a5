//! Lists that nodes share: most nodes have one of a few (ReferenceCountedACLCache).
//!
//! Invariant: a list is in the table as long as a node has it, once, under one number.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use super::Acl;

/// A list that nodes share.
pub type List = Arc<[Acl]>;

/// The lists in use.
#[derive(Debug, Clone, Default)]
pub struct Table {
    numbers: HashMap<List, u32>,
    /// by number: a list, and how many nodes have it; none where the number is free
    lists: Vec<Option<(List, usize)>>,
    free: Vec<u32>,
}

impl Table {
    /// The number of the list with these entries, for one more node.
    pub fn retain(&mut self, list: &[Acl]) -> u32 {
        if let Some(number) = self.numbers.get(list) {
            if let Some(Some((_, used))) = self.lists.get_mut(*number as usize) {
                *used += 1;
            }
            return *number;
        }
        let list: List = list.into();
        let number = self.free.pop().unwrap_or_else(|| {
            self.lists.push(None);
            (self.lists.len() - 1) as u32
        });
        self.numbers.insert(list.clone(), number);
        self.lists[number as usize] = Some((list, 1));
        number
    }

    /// One node fewer has the list of this number.
    pub fn release(&mut self, number: u32) {
        let Some(place) = self.lists.get_mut(number as usize) else { return };
        if let Some((list, used)) = place {
            *used -= 1;
            if *used == 0 {
                self.numbers.remove(list);
                *place = None;
                self.free.push(number);
            }
        }
    }

    /// The list of a number that a node has; for any other number one that permits nothing, which an empty list would not be.
    pub fn get(&self, number: u32) -> &List {
        static NOTHING: LazyLock<List> = LazyLock::new(|| [Acl::world(0)].into());
        self.lists.get(number as usize).and_then(Option::as_ref).map_or(&NOTHING, |(list, _)| list)
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no node has a list.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The lists with their numbers, in no order.
    pub fn lists(&self) -> Vec<(List, u32)> {
        self.numbers.iter().map(|(list, number)| (list.clone(), *number)).collect()
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
        assert_eq!(first, table.retain(&one));
        let second = table.retain(&other);
        table.release(first);
        assert_eq!((table.len(), &table.get(first)[..], &table.get(second)[..]), (2, &one[..], &other[..]));
        table.release(first);
        assert_eq!(table.lists(), [(List::from(&other[..]), second)]);
        // The number is free, and permits nothing until another list has it.
        assert_eq!(table.get(first)[..], [Acl::world(0)]);
        table.release(first);
        assert_eq!(table.retain(&[Acl::world(3)]), first);
        table.release(first);
        table.release(second);
        assert!(table.is_empty());
    }
}
