//! The watches of a session: which watchers there are, which watches the server has, and what is to be set or taken back.
//! Pure: frames go out through what is returned, events through the sinks.
//!
//! Invariants:
//! - After [`Table::set_again`] the server has exactly the watches that have watchers.
//! - A watch is taken back only if no request that sets one on the same path is under way, and none that has a watcher is
//!   taken with it: a server keeps one mode per session and path, and removes by path (ZOOKEEPER-4466, ZOOKEEPER-4472).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    EventType, WatchedEvent,
    watcher::{Dropped, Handle, Sink, WatcherId},
};
use crate::{
    jute::Writer,
    protocol::{op, xid},
};

/// Kinds of watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// on a node that exists
    Data,
    /// on a node that does not exist
    Exist,
    /// on the children of a node
    Child,
    /// [`AddWatchMode::Persistent`](super::AddWatchMode)
    Persistent,
    /// [`AddWatchMode::PersistentRecursive`](super::AddWatchMode)
    Recursive,
}

/// Kinds of watches that a server distinguishes, as bits.
const DATA: u8 = 1;
const CHILD: u8 = 2;
const PERSISTENT: u8 = 4;

impl Kind {
    fn bit(self) -> u8 {
        match self {
            Self::Data | Self::Exist => DATA,
            Self::Child => CHILD,
            Self::Persistent | Self::Recursive => PERSISTENT,
        }
    }

    /// Whether an event on its very path concerns it (ZKWatchManager.materialize).
    fn concerns(self, event: EventType) -> bool {
        match event {
            EventType::NodeCreated | EventType::NodeDataChanged => self != Self::Child,
            EventType::NodeDeleted => true,
            EventType::NodeChildrenChanged => matches!(self, Self::Child | Self::Persistent),
            EventType::Session | EventType::EventsLost => false,
        }
    }
}

#[derive(Debug, Default)]
struct Path {
    watchers: BTreeMap<WatcherId, (Kind, Sink)>,
    /// what the server has
    server: u8,
    /// requests under way that may set a watch here
    under_way: usize,
}

impl Path {
    fn kinds(&self) -> u8 {
        self.watchers.values().fold(0, |all, (kind, _)| all | kind.bit())
    }

    /// The WatcherType to take back, and what the server has after it.
    fn surplus(&self) -> Option<(i32, u8)> {
        let used = self.kinds();
        if self.under_way > 0 || self.server == 0 || (self.server | used) & PERSISTENT != 0 && used != 0 {
            return None;
        }
        match self.server & !used {
            0 => None,
            CHILD => Some((1, self.server & !CHILD)),
            DATA => Some((2, self.server & !DATA)),
            _ => Some((3, 0)),
        }
    }
}

/// Longest SetWatches frame, in bytes of paths, as ZooKeeper's client splits them (ClientCnxn.SET_WATCHES_MAX_LENGTH).
const SET_WATCHES_BYTES: usize = 128 * 1024;

/// All watches of a session.
#[derive(Debug, Default)]
pub struct Table {
    paths: HashMap<Arc<str>, Path>,
    by_id: HashMap<WatcherId, Arc<str>>,
    /// watchers of a recursive watch; without any, ancestors need not be searched
    recursive: usize,
    /// paths that may have a watch without a watcher
    dirty: BTreeSet<Arc<str>>,
    next_id: WatcherId,
    dropped: Arc<Dropped>,
}

impl Table {
    /// Watchers that were dropped.
    pub fn dropped(&self) -> &Arc<Dropped> {
        &self.dropped
    }

    /// Notes a request that sets a watch. Returns whether it must not set one at the server, which has a persistent watch there
    /// that would be replaced; it delivers the same events.
    pub fn asked(&mut self, path: &str, kind: Kind) -> bool {
        let entry = match self.paths.get_mut(path) {
            Some(entry) => entry,
            None => self.paths.entry(path.into()).or_default(),
        };
        entry.under_way += 1;
        let mut covering = entry.watchers.values().filter(|(k, _)| k.bit() == PERSISTENT);
        kind.bit() != PERSISTENT && entry.server & PERSISTENT != 0 && covering.any(|(k, _)| *k == Kind::Persistent || kind.bit() == DATA)
    }

    /// The answer to a request noted with [`Table::asked`]: the watch that it has set, if any.
    pub fn answered(&mut self, path: &str, set: Option<Kind>) -> Option<Handle> {
        let (key, _) = self.paths.get_key_value(path)?;
        let key = key.clone();
        let entry = self.paths.get_mut(path)?;
        entry.under_way = entry.under_way.saturating_sub(1);
        let Some(kind) = set else {
            self.dirty.insert(key);
            return None;
        };
        let id = self.next_id;
        self.next_id += 1;
        let (sink, handle) = match kind.bit() {
            PERSISTENT => Handle::each(id, self.dropped.clone()),
            _ => Handle::once(id, self.dropped.clone()),
        };
        // Behind a persistent watch it is not set on its own; see `asked`.
        if entry.server & PERSISTENT == 0 || kind.bit() == PERSISTENT {
            entry.server |= kind.bit();
        }
        entry.watchers.insert(id, (kind, sink));
        self.recursive += usize::from(kind == Kind::Recursive);
        self.by_id.insert(id, key);
        Some(handle)
    }

    fn forget(&mut self, id: WatcherId) {
        let Some(path) = self.by_id.remove(&id) else { return };
        if let Some(entry) = self.paths.get_mut(&path)
            && let Some((kind, _)) = entry.watchers.remove(&id)
        {
            self.recursive -= usize::from(kind == Kind::Recursive);
            self.dirty.insert(path);
        }
    }

    /// Takes away the watchers that were dropped.
    pub fn sweep(&mut self) {
        for id in self.dropped.take() {
            self.forget(id);
        }
    }

    /// A watch to take back at the server: its path and WatcherType.
    pub fn removal(&mut self) -> Option<(Arc<str>, i32)> {
        while let Some(path) = self.dirty.pop_first() {
            let Some(entry) = self.paths.get_mut(&path) else { continue };
            let surplus = entry.surplus();
            if let Some((_, rest)) = surplus {
                entry.server = rest;
            }
            if entry.watchers.is_empty() && entry.server == 0 && entry.under_way == 0 {
                self.paths.remove(&path);
            }
            if let Some((kind, _)) = surplus {
                return Some((path, kind));
            }
        }
        None
    }

    /// Delivers an event of the server.
    pub fn event(&mut self, event_type: EventType, path: &str) {
        let event = WatchedEvent::node(event_type, path);
        let mut over = Vec::new();
        if let Some(entry) = self.paths.get_mut(path) {
            for (id, (kind, sink)) in &mut entry.watchers {
                if kind.concerns(event_type) {
                    sink.deliver(&event);
                    if kind.bit() != PERSISTENT {
                        over.push(*id);
                    }
                }
            }
            entry.server &= match event_type {
                EventType::NodeCreated | EventType::NodeDataChanged => !DATA,
                EventType::NodeDeleted => !(DATA | CHILD),
                EventType::NodeChildrenChanged => !CHILD,
                EventType::Session | EventType::EventsLost => !0,
            };
            if entry.watchers.is_empty()
                && let Some((key, _)) = self.paths.get_key_value(path)
            {
                self.dirty.insert(key.clone());
            }
        }
        over.into_iter().for_each(|id| self.forget(id));
        if self.recursive == 0 || event_type == EventType::NodeChildrenChanged {
            return;
        }
        let mut at = path;
        while at.len() > 1 {
            at = at.rfind('/').map_or("/", |i| if i == 0 { "/" } else { &at[..i] });
            let above = self.paths.get_mut(at).into_iter().flat_map(|entry| entry.watchers.values_mut());
            above.filter(|(kind, _)| *kind == Kind::Recursive).for_each(|(_, sink)| sink.deliver(&event));
        }
    }

    /// Tells persistent watchers of a change of the session's state.
    pub fn session_changed(&mut self, event: &WatchedEvent) {
        let all = self.paths.values_mut().flat_map(|entry| entry.watchers.values_mut());
        all.filter(|(kind, _)| kind.bit() == PERSISTENT).for_each(|(_, sink)| sink.deliver(event));
    }

    /// Tells all watchers; those of one-shot watches are over with it.
    pub fn interrupt(&mut self, event: &WatchedEvent) {
        for (_, (_, sink)) in self.paths.values_mut().flat_map(|entry| &mut entry.watchers) {
            sink.deliver(event);
        }
        let once = self.paths.values().flat_map(|e| e.watchers.iter()).filter(|(_, (kind, _))| kind.bit() != PERSISTENT);
        let once: Vec<WatcherId> = once.map(|(id, _)| *id).collect();
        once.into_iter().for_each(|id| self.forget(id));
    }

    /// The connection is lost, and with it what the server knew and what was under way.
    pub fn disconnected(&mut self) {
        self.sweep();
        self.paths.retain(|_, entry| {
            (entry.server, entry.under_way) = (0, 0);
            !entry.watchers.is_empty()
        });
        self.dirty.clear();
    }

    /// Frames that set all watches on a new connection. `since` is the newest transaction seen: the server reports at once what has
    /// changed after it.
    pub fn set_again(&mut self, since: i64) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut lists: [Vec<&str>; 5] = Default::default();
        let mut bytes = 0;
        // SetWatches2 came with 3.6; older servers know the first three lists.
        let code = if self.paths.values().any(|e| e.kinds() & PERSISTENT != 0) { op::SET_WATCHES2 } else { op::SET_WATCHES };
        let mut flush = |lists: &mut [Vec<&str>; 5]| {
            let mut w = Writer::framed();
            w.int(xid::SET_WATCHES).int(code).long(since);
            let count = if code == op::SET_WATCHES2 { 5 } else { 3 };
            for list in &lists[..count] {
                w.strings(list.iter().copied());
            }
            lists.iter_mut().for_each(Vec::clear);
            frames.push(w.frame());
        };
        for (path, entry) in &mut self.paths {
            let has = |wanted: Kind| entry.watchers.values().any(|(kind, _)| *kind == wanted);
            let kinds = [Kind::Data, Kind::Exist, Kind::Child, Kind::Persistent, Kind::Recursive].map(has);
            entry.server = entry.kinds();
            for (list, _) in lists.iter_mut().zip(kinds).filter(|(_, has)| *has) {
                list.push(path);
                bytes += 4 + path.len();
            }
            // All kinds of a path go into one frame: of two modes the server keeps the later.
            if bytes >= SET_WATCHES_BYTES {
                flush(&mut lists);
                bytes = 0;
            }
        }
        if bytes > 0 {
            flush(&mut lists);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets a watch, as a request and its answer do.
    fn set(table: &mut Table, path: &str, kind: Kind) -> Handle {
        table.asked(path, kind);
        table.answered(path, Some(kind)).expect("a watch")
    }

    fn removals(table: &mut Table) -> Vec<(String, i32)> {
        table.sweep();
        std::iter::from_fn(|| table.removal()).map(|(path, kind)| (path.to_string(), kind)).collect()
    }

    #[test]
    fn only_what_nobody_needs_is_taken_back() {
        // (kinds that are dropped, kinds that stay, WatcherType)
        let cases: [(&[Kind], &[Kind], Option<i32>); 10] = [
            (&[Kind::Data], &[], Some(2)),
            (&[Kind::Child], &[], Some(1)),
            (&[Kind::Data, Kind::Child], &[], Some(3)),
            (&[Kind::Data, Kind::Exist], &[Kind::Child], Some(2)),
            (&[Kind::Child], &[Kind::Data], Some(1)),
            (&[Kind::Data], &[Kind::Exist], None),
            (&[Kind::Persistent], &[], Some(3)),
            (&[Kind::Persistent], &[Kind::Data], None),
            (&[Kind::Recursive, Kind::Data], &[], Some(3)),
            (&[Kind::Data], &[Kind::Recursive], None),
        ];
        for (gone, stay, want) in cases {
            let mut table = Table::default();
            // Persistent ones last: behind them others are not set on their own.
            let dropped: Vec<Handle> = gone.iter().rev().map(|k| set(&mut table, "/a", *k)).collect();
            let kept: Vec<Handle> = stay.iter().map(|k| set(&mut table, "/a", *k)).collect();
            assert_eq!(removals(&mut table), []);
            drop(dropped);
            let want: Vec<_> = want.map(|kind| ("/a".to_owned(), kind)).into_iter().collect();
            assert_eq!(removals(&mut table), want, "{gone:?} {stay:?}");
            drop(kept);
            removals(&mut table);
            assert!(table.paths.is_empty() && table.by_id.is_empty() && table.recursive == 0, "{table:?}");
        }
    }

    #[test]
    fn nothing_is_taken_back_while_another_is_being_set() {
        let mut table = Table::default();
        let old = set(&mut table, "/a", Kind::Data);
        table.asked("/a", Kind::Data);
        drop(old);
        assert_eq!(removals(&mut table), []);
        // It fails: what the first left goes now.
        assert!(table.answered("/a", None).is_none());
        assert_eq!(removals(&mut table), [("/a".to_owned(), 2)]);
        assert!(table.paths.is_empty());
    }

    #[test]
    fn fired_watches_are_not_taken_back_and_leave_nothing() {
        for (kind, event) in [
            (Kind::Data, EventType::NodeDataChanged),
            (Kind::Exist, EventType::NodeCreated),
            (Kind::Child, EventType::NodeChildrenChanged),
            (Kind::Child, EventType::NodeDeleted),
        ] {
            let mut table = Table::default();
            let handle = set(&mut table, "/a", kind);
            table.event(event, "/a");
            drop(handle);
            assert_eq!(removals(&mut table), []);
            assert!(table.paths.is_empty() && table.by_id.is_empty(), "{table:?}");
        }
    }

    #[test]
    fn a_one_shot_watch_behind_a_persistent_one_is_not_set_on_its_own() {
        let cases = [
            (Kind::Persistent, Kind::Data, true),
            (Kind::Persistent, Kind::Exist, true),
            (Kind::Persistent, Kind::Child, true),
            (Kind::Recursive, Kind::Data, true),
            // Recursive watches do not tell of children.
            (Kind::Recursive, Kind::Child, false),
            (Kind::Data, Kind::Data, false),
            (Kind::Persistent, Kind::Persistent, false),
        ];
        for (there, asked, want) in cases {
            let mut table = Table::default();
            let _handle = set(&mut table, "/a", there);
            assert_eq!(table.asked("/a", asked), want, "{there:?} {asked:?}");
            assert!(!table.asked("/b", asked));
        }
    }

    #[test]
    fn after_a_lost_connection_only_watches_with_watchers_are_set() {
        let mut table = Table::default();
        let gone = set(&mut table, "/gone", Kind::Recursive);
        let _data = set(&mut table, "/d", Kind::Data);
        table.asked("/never-answered", Kind::Data);
        drop(gone);
        table.disconnected();
        let frames = table.set_again(9);
        let mut want = Writer::framed();
        want.int(-8).int(101).long(9).int(1).string("/d").int(0).int(0);
        assert_eq!(frames, [want.frame()]);
        assert_eq!(table.paths.len(), 1);
    }
}
