//! A slotted page: the records of up to 64 nodes in one allocation.
//!
//! Invariant: records lie in the order of their slots, without gaps; an empty one is no node. A node with more than [`MAX_INLINE`] bytes of
//! path and data has these beside the page, so a page has at most 40 KiB, and that is what a change moves at the most.

use std::{ops::Range, sync::Arc};

use crate::protocol::Stat;

/// Nodes of a page.
pub const SLOTS: usize = 64;
/// Bytes of path and data that lie in the page.
const MAX_INLINE: usize = 512;
/// Longest record without path and data, in bytes.
const MAX_HEAD: usize = 2 + 1 + 4 + 2 * 8 + 20 + 12 + 8 + 4;
const _: () = assert!(SLOTS * (MAX_INLINE + MAX_HEAD) <= u16::MAX as usize);

/// What a node has beside path and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// number of its ACL
    pub acl: u32,
    /// as it is stored: without what follows from data and children
    pub stat: Stat,
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub path: &'a str,
    pub head: Head,
    /// null and empty are not the same
    pub data: Option<&'a [u8]>,
}

/// Path and data of a node that has much of them.
#[derive(Debug, Clone)]
struct Large {
    slot: usize,
    path: Arc<str>,
    data: Arc<[u8]>,
}

/// A record is the length of the path in two bytes, the path, the head, the data; where path and data are large, two zeros and the head.
#[derive(Debug, Clone)]
pub struct Page {
    /// where each slot's record ends
    ends: [u16; SLOTS],
    bytes: Vec<u8>,
    /// in the order of their slots
    large: Vec<Large>,
}

impl Default for Page {
    fn default() -> Self {
        Self { ends: [0; SLOTS], bytes: Vec::new(), large: Vec::new() }
    }
}

/// Bits of a head's first byte: null data, and which numbers follow that most nodes do not have.
const NULL: u8 = 1;
/// `mzxid`, `mtime` and `version` of a node whose data was set
const CHANGED: u8 = 2;
/// `pzxid` and `cversion` of one that has had children
const PARENT: u8 = 4;
const OWNED: u8 = 8;
const ACL_CHANGED: u8 = 16;

fn put_head(out: &mut Vec<u8>, head: &Head, null: bool) {
    let stat = &head.stat;
    let bit = |bit: u8, wanted: bool| if wanted { bit } else { 0 };
    let bits = bit(NULL, null)
        | bit(CHANGED, (stat.mzxid, stat.mtime, stat.version) != (stat.czxid, stat.ctime, 0))
        | bit(PARENT, (stat.pzxid, stat.cversion) != (stat.czxid, 0))
        | bit(OWNED, stat.ephemeral_owner != 0)
        | bit(ACL_CHANGED, stat.aversion != 0);
    out.push(bits);
    out.extend_from_slice(&head.acl.to_le_bytes());
    let mut long = |n: i64| out.extend_from_slice(&n.to_le_bytes());
    long(stat.czxid);
    long(stat.ctime);
    if bits & CHANGED != 0 {
        long(stat.mzxid);
        long(stat.mtime);
    }
    if bits & PARENT != 0 {
        long(stat.pzxid);
    }
    if bits & OWNED != 0 {
        long(stat.ephemeral_owner);
    }
    for (bit, n) in [(CHANGED, stat.version), (PARENT, stat.cversion), (ACL_CHANGED, stat.aversion)] {
        if bits & bit != 0 {
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// The head, and whether the data is null.
fn take_head(bytes: &mut &[u8]) -> Option<(Head, bool)> {
    let [bits] = take(bytes)?;
    let acl = u32::from_le_bytes(take(bytes)?);
    let mut long = |bit: u8, otherwise: i64| {
        if bits & bit == bit { take(bytes).map(i64::from_le_bytes) } else { Some(otherwise) }
    };
    let (czxid, ctime) = (long(0, 0)?, long(0, 0)?);
    let (mzxid, mtime) = (long(CHANGED, czxid)?, long(CHANGED, ctime)?);
    let (pzxid, ephemeral_owner) = (long(PARENT, czxid)?, long(OWNED, 0)?);
    let mut int = |bit: u8| {
        if bits & bit != 0 { take(bytes).map(i32::from_le_bytes) } else { Some(0) }
    };
    let (version, cversion, aversion) = (int(CHANGED)?, int(PARENT)?, int(ACL_CHANGED)?);
    let stat = Stat { czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, ..Stat::default() };
    Some((Head { acl, stat }, bits & NULL != 0))
}

impl Page {
    fn range(&self, slot: usize) -> Range<usize> {
        let start = slot.checked_sub(1).map_or(0, |before| self.ends[before]);
        start.into()..self.ends[slot].into()
    }

    fn large(&self, slot: usize) -> Option<&Large> {
        self.large.binary_search_by_key(&slot, |large| large.slot).ok().map(|at| &self.large[at])
    }

    /// The path in bytes, and the record behind it; nothing if the slot is empty.
    fn split(&self, slot: usize) -> Option<(&[u8], &[u8])> {
        let mut rest = &self.bytes[self.range(slot)];
        match u16::from_le_bytes(take(&mut rest)?) {
            0 => Some((self.large(slot)?.path.as_bytes(), rest)),
            length => rest.split_at_checked(length.into()),
        }
    }

    /// The path of a node in bytes.
    pub fn path(&self, slot: usize) -> Option<&[u8]> {
        self.split(slot).map(|(path, _)| path)
    }

    /// A node.
    pub fn get(&self, slot: usize) -> Option<Record<'_>> {
        let (path, mut rest) = self.split(slot)?;
        let (head, null) = take_head(&mut rest)?;
        let data = self.large(slot).map_or(rest, |large| &large.data);
        Some(Record { path: std::str::from_utf8(path).ok()?, head, data: (!null).then_some(data) })
    }

    /// Puts a node into a slot, whatever was there.
    pub fn put(&mut self, slot: usize, path: &str, head: &Head, data: Option<&[u8]>) {
        self.clear_large(slot);
        let bytes = data.unwrap_or_default();
        let mut record = Vec::with_capacity(path.len().min(MAX_INLINE) + bytes.len().min(MAX_INLINE) + MAX_HEAD);
        let small = path.len() + bytes.len() <= MAX_INLINE && !path.is_empty();
        if small {
            record.extend_from_slice(&(path.len() as u16).to_le_bytes());
            record.extend_from_slice(path.as_bytes());
        } else {
            record.extend_from_slice(&[0; 2]);
            let at = self.large.partition_point(|large| large.slot < slot);
            self.large.reserve_exact(1);
            self.large.insert(at, Large { slot, path: path.into(), data: bytes.into() });
        }
        put_head(&mut record, head, data.is_none());
        if small {
            record.extend_from_slice(bytes);
        }
        self.splice(slot, self.range(slot), &record);
    }

    /// Changes a node's head alone.
    pub fn set_head(&mut self, slot: usize, head: &Head) {
        let Some((_, behind)) = self.split(slot) else { return };
        let mut rest = behind;
        let Some((_, null)) = take_head(&mut rest) else { return };
        let end = self.range(slot).end;
        let place = end - behind.len()..end - rest.len();
        let mut new = Vec::with_capacity(MAX_HEAD);
        put_head(&mut new, head, null);
        self.splice(slot, place, &new);
    }

    /// Takes a node out.
    pub fn remove(&mut self, slot: usize) {
        self.clear_large(slot);
        self.splice(slot, self.range(slot), &[]);
    }

    fn clear_large(&mut self, slot: usize) {
        if let Ok(at) = self.large.binary_search_by_key(&slot, |large| large.slot) {
            self.large.remove(at);
        }
    }

    /// Puts other bytes in the place of some of a slot's record.
    fn splice(&mut self, slot: usize, place: Range<usize>, new: &[u8]) {
        let (old, length) = (place.len(), self.bytes.len());
        let end = place.start + new.len();
        if new.len() > old {
            let more = new.len() - old;
            if self.bytes.capacity() - length < more {
                // Room for some more, but not for as much again, as a vector alone would take.
                self.bytes.reserve_exact(more + length / 16);
            }
            self.bytes.resize(length + more, 0);
        }
        if new.len() != old {
            self.bytes.copy_within(place.end..length, end);
            self.bytes.truncate(length - old + new.len());
            for at in &mut self.ends[slot..] {
                *at = *at - old as u16 + new.len() as u16;
            }
        }
        self.bytes[place.start..end].copy_from_slice(new);
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(String, Head, Option<Vec<u8>>),
        Head(Head),
        Remove,
        /// a view is taken; it is looked at in the end
        View,
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -3..3i64, Just(i64::MAX), Just(i64::MIN), Just(i64::from(i32::MAX))]
    }

    fn head() -> impl Strategy<Value = Head> {
        (any::<u32>(), [(); 6].map(|()| number()), any::<[i32; 3]>()).prop_map(|(acl, n, [version, cversion, aversion])| {
            let [czxid, mzxid, pzxid, ctime, mtime, ephemeral_owner] = n;
            let stat = Stat { czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, ..Stat::default() };
            Head { acl, stat }
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let path = prop_oneof![8 => "/[a-zä]{0,9}", 1 => "/[a]{400,700}"];
        let length = || prop_oneof![8 => 0..20usize, 1 => Just(MAX_INLINE - 1), 1 => 400..700usize];
        let data = prop_oneof![1 => Just(None), 8 => length().prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)).prop_map(Some)];
        prop_oneof![
            6 => (path, head(), data).prop_map(|(path, head, data)| Step::Put(path, head, data)),
            3 => head().prop_map(Step::Head),
            2 => Just(Step::Remove),
            1 => Just(Step::View),
        ]
    }

    type Model = BTreeMap<usize, (String, Head, Option<Vec<u8>>)>;

    fn is_as(page: &Page, model: &Model) {
        for slot in 0..SLOTS {
            let found = page.get(slot).map(|r| (r.path.to_owned(), r.head, r.data.map(<[u8]>::to_vec)));
            assert_eq!(found, model.get(&slot).cloned());
            assert_eq!(page.path(slot), model.get(&slot).map(|(path, ..)| path.as_bytes()));
        }
        assert!(page.bytes.capacity() <= page.bytes.len().max(16) * 2 + 700);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((0..SLOTS, step()), 0..200)) {
            let (mut page, mut model) = (Page::default(), Model::new());
            let mut views = Vec::new();
            for (slot, step) in steps {
                match step {
                    Step::Put(path, head, data) => {
                        page.put(slot, &path, &head, data.as_deref());
                        model.insert(slot, (path, head, data));
                    }
                    Step::Head(head) => {
                        page.set_head(slot, &head);
                        model.entry(slot).and_modify(|node| node.1 = head);
                    }
                    Step::Remove => {
                        page.remove(slot);
                        model.remove(&slot);
                    }
                    Step::View => views.push((page.clone(), model.clone())),
                }
                is_as(&page, &model);
            }
            views.iter().for_each(|(page, model)| is_as(page, model));
        }
    }

    #[test]
    fn a_full_page_of_the_longest_records_has_room() {
        let longest = |n| Stat { czxid: n, mzxid: 0, pzxid: 0, ctime: n, mtime: 0, ephemeral_owner: n, ..Stat::default() };
        let mut page = Page::default();
        let path = format!("/{}", "p".repeat(MAX_INLINE - 1));
        for slot in (0..SLOTS).rev() {
            let stat = Stat { version: i32::MIN, cversion: i32::MIN, aversion: i32::MIN, ..longest(i64::MIN) };
            page.put(slot, &path, &Head { acl: u32::MAX, stat }, None);
        }
        assert!(page.large.is_empty());
        assert!((0..SLOTS).all(|slot| page.get(slot).is_some_and(|r| r.path == path)));
        // Those that are larger are beside it.
        page.put(3, &path, &Head { acl: 0, stat: Stat::default() }, Some(b"x"));
        assert_eq!((page.large.len(), page.get(3).and_then(|r| r.data)), (1, Some(&b"x"[..])));
    }
}
