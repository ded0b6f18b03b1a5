//! Watches of this server's clients: those that fire once, persistent ones, and persistent recursive ones.
//!
//! Invariant: a standard watch fires at most once, and one event goes to a connection at most once; what a closed
//! connection left is dropped with it. Sources: WatchManager and DataTree of ZooKeeper.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    protocol::{EventType, WatchKind, WatchMode},
    tree::split,
};

/// Number of a connection on this server.
pub type ConnectionId = u64;

/// Watches of one connection.
pub const MAX_WATCHES: usize = 100_000;
/// Watches of one connection, in bytes.
const MAX_OWN_BYTES: usize = 32 * 1024 * 1024;
/// Watches of all connections, in bytes.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// What a watch takes beside its path, in bytes: entries of three tables.
const ENTRY_BYTES: usize = 200;

/// Why a watch was not left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The connection has as many as it may.
    #[error("the connection has {MAX_WATCHES} watches")]
    Count,
    /// The paths of the connection's watches are as long as they may be together.
    #[error("the connection's watches take {MAX_OWN_BYTES} bytes")]
    Own,
    /// All connections together have as many as they may.
    #[error("the watches of all connections take {MAX_BYTES} bytes")]
    All,
}

/// Modes of one connection's watches on one path, as bits.
type Modes = u8;
const STANDARD: Modes = 1;
const PERSISTENT: Modes = 2;
const RECURSIVE: Modes = 4;

fn bit(mode: WatchMode) -> Modes {
    match mode {
        WatchMode::Standard => STANDARD,
        WatchMode::Persistent => PERSISTENT,
        WatchMode::Recursive => RECURSIVE,
    }
}

/// The watches on data and existence, or those on children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Table {
    Data,
    Child,
}

fn tables(kind: WatchKind) -> &'static [Table] {
    match kind {
        WatchKind::Data => &[Table::Data],
        WatchKind::Children => &[Table::Child],
        WatchKind::Any => &[Table::Data, Table::Child],
    }
}

#[derive(Debug, Default)]
struct Own {
    watches: HashSet<(Table, Arc<str>)>,
    bytes: usize,
}

type Paths = HashMap<Arc<str>, HashMap<ConnectionId, Modes>>;

/// All watches, by path.
#[derive(Debug, Default)]
pub struct Watches {
    data: Paths,
    child: Paths,
    by_connection: HashMap<ConnectionId, Own>,
    bytes: usize,
    /// recursive watches: without any, no path is walked up
    recursive: usize,
}

impl Watches {
    fn table(&mut self, table: Table) -> &mut Paths {
        match table {
            Table::Data => &mut self.data,
            Table::Child => &mut self.child,
        }
    }

    /// Leaves a one-shot watch on a node's data and existence, or on its children.
    pub fn add(&mut self, connection: ConnectionId, path: &str, child: bool) -> Result<(), Full> {
        self.add_to(if child { Table::Child } else { Table::Data }, connection, path, STANDARD)
    }

    /// Leaves a persistent watch, which is on data and children.
    pub fn add_persistent(&mut self, connection: ConnectionId, path: &str, mode: WatchMode) -> Result<(), Full> {
        self.add_to(Table::Data, connection, path, bit(mode))?;
        self.add_to(Table::Child, connection, path, bit(mode))
    }

    fn add_to(&mut self, table: Table, connection: ConnectionId, path: &str, mode: Modes) -> Result<(), Full> {
        let known = self.table(table).get_key_value(path);
        let modes = known.and_then(|(_, of)| of.get(&connection)).copied().unwrap_or(0);
        let key: Arc<str> = known.map_or_else(|| Arc::from(path), |(key, _)| key.clone());
        if modes & mode != 0 {
            return Ok(());
        }
        if modes == 0 {
            let cost = path.len() + ENTRY_BYTES;
            let own = self.by_connection.get(&connection);
            if own.is_some_and(|o| o.watches.len() >= MAX_WATCHES) {
                return Err(Full::Count);
            }
            if own.map_or(0, |o| o.bytes) + cost > MAX_OWN_BYTES {
                return Err(Full::Own);
            }
            if self.bytes + cost > MAX_BYTES {
                return Err(Full::All);
            }
            let own = self.by_connection.entry(connection).or_default();
            own.watches.insert((table, key.clone()));
            own.bytes += cost;
            self.bytes += cost;
        }
        self.table(table).entry(key).or_default().insert(connection, modes | mode);
        self.recursive += usize::from(mode == RECURSIVE);
        Ok(())
    }

    /// Whether a connection has a watch on a path.
    pub fn has(&mut self, connection: ConnectionId, path: &str, kind: WatchKind) -> bool {
        tables(kind).iter().any(|t| self.table(*t).get(path).is_some_and(|of| of.contains_key(&connection)))
    }

    /// Removes a connection's watches on a path, of all modes. Says whether there were any.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, kind: WatchKind) -> bool {
        let mut any = false;
        for table in tables(kind) {
            any |= self.take(*table, connection, path, u8::MAX);
        }
        any
    }

    /// Takes modes of a connection's watches on a path.
    fn take(&mut self, table: Table, connection: ConnectionId, path: &str, modes: Modes) -> bool {
        let Some((key, of)) = self.table(table).get_key_value(path).map(|(k, of)| (k.clone(), of.get(&connection).copied())) else {
            return false;
        };
        let Some(had) = of else { return false };
        let left = had & !modes;
        self.recursive -= usize::from(had & modes & RECURSIVE != 0);
        if let Some(all) = self.table(table).get_mut(path) {
            if left != 0 {
                all.insert(connection, left);
                return true;
            }
            all.remove(&connection);
            if all.is_empty() {
                self.table(table).remove(path);
            }
        }
        let cost = path.len() + ENTRY_BYTES;
        if let Some(own) = self.by_connection.get_mut(&connection)
            && own.watches.remove(&(table, key))
        {
            own.bytes -= cost;
            self.bytes -= cost;
            if own.watches.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
        true
    }

    /// Number of watches, as ZooKeeper counts them: a persistent one twice.
    pub fn len(&self) -> usize {
        self.by_connection.values().map(|o| o.watches.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_connection.is_empty()
    }

    /// Number of watches of one connection.
    pub fn of(&self, connection: ConnectionId) -> usize {
        self.by_connection.get(&connection).map_or(0, |o| o.watches.len())
    }

    /// The connections that watch data or existence, by path: what `wchp` and its like show.
    pub fn data_watches(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = ConnectionId>)> {
        self.data.iter().map(|(path, of)| (&**path, of.keys().copied()))
    }

    /// The connections to which an event goes. Watches that fire once are taken. A deletion fires child watches of the
    /// node too.
    pub fn fire(&mut self, kind: EventType, path: &str) -> HashSet<ConnectionId> {
        let mut out = HashSet::new();
        let tables: &[Table] = match kind {
            EventType::Created | EventType::DataChanged => &[Table::Data],
            EventType::ChildrenChanged => &[Table::Child],
            EventType::Deleted => &[Table::Data, Table::Child],
        };
        for table in tables {
            let here: Vec<_> = self.table(*table).get(path).map(|of| of.iter().map(|(id, m)| (*id, *m)).collect()).unwrap_or_default();
            for (id, modes) in here {
                if modes & (STANDARD | PERSISTENT) != 0 || kind != EventType::ChildrenChanged {
                    out.insert(id);
                }
                if modes & STANDARD != 0 {
                    self.take(*table, id, path, STANDARD);
                }
            }
            let mut at = path;
            while self.recursive > 0 && kind != EventType::ChildrenChanged && at != "/" {
                at = split(at).0;
                let above = self.table(*table).get(at).into_iter().flatten();
                out.extend(above.filter(|(_, modes)| **modes & RECURSIVE != 0).map(|(id, _)| *id));
            }
        }
        out
    }

    /// Forgets a connection.
    pub fn drop_connection(&mut self, connection: ConnectionId) {
        let Some(own) = self.by_connection.get(&connection) else { return };
        let all: Vec<_> = own.watches.iter().cloned().collect();
        for (table, path) in all {
            self.take(table, connection, &path, u8::MAX);
        }
    }
}
