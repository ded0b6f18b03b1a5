//! Watches of this server's clients.
//!
//! Invariant: a watch fires at most once; what a closed connection left is dropped with it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::protocol::EventType;

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

#[derive(Debug, Default)]
struct Own {
    watches: HashSet<(bool, Arc<str>)>,
    bytes: usize,
}

/// One-shot watches by path.
#[derive(Debug, Default)]
pub struct Watches {
    data: HashMap<Arc<str>, HashSet<ConnectionId>>,
    child: HashMap<Arc<str>, HashSet<ConnectionId>>,
    by_connection: HashMap<ConnectionId, Own>,
    bytes: usize,
}

impl Watches {
    /// Leaves a watch on a node's data and existence, or on its children.
    pub fn add(&mut self, connection: ConnectionId, path: &str, child: bool) -> Result<(), Full> {
        let map = if child { &mut self.child } else { &mut self.data };
        let known = map.get_key_value(path);
        if known.is_some_and(|(_, of)| of.contains(&connection)) {
            return Ok(());
        }
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
        let path = known.map_or_else(|| Arc::from(path), |(key, _)| key.clone());
        map.entry(path.clone()).or_default().insert(connection);
        let own = self.by_connection.entry(connection).or_default();
        own.watches.insert((child, path));
        own.bytes += cost;
        self.bytes += cost;
        Ok(())
    }

    /// Number of watches.
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

    /// Takes the watches that an event fires. A deletion fires child watches of the node too.
    pub fn fire(&mut self, kind: EventType, path: &str) -> HashSet<ConnectionId> {
        let mut out = HashSet::new();
        let mut take = |child: bool| {
            let map = if child { &mut self.child } else { &mut self.data };
            let Some((path, all)) = map.remove_entry(path) else { return };
            let cost = path.len() + ENTRY_BYTES;
            let key = (child, path);
            for id in all {
                if let Some(own) = self.by_connection.get_mut(&id)
                    && own.watches.remove(&key)
                {
                    own.bytes -= cost;
                    self.bytes -= cost;
                    if own.watches.is_empty() {
                        self.by_connection.remove(&id);
                    }
                }
                out.insert(id);
            }
        };
        match kind {
            EventType::Created | EventType::DataChanged => take(false),
            EventType::ChildrenChanged => take(true),
            EventType::Deleted => {
                take(false);
                take(true);
            }
        }
        out
    }

    /// Forgets a connection.
    pub fn drop_connection(&mut self, connection: ConnectionId) {
        let Some(own) = self.by_connection.remove(&connection) else { return };
        self.bytes -= own.bytes;
        for (child, path) in own.watches {
            let map = if child { &mut self.child } else { &mut self.data };
            if let Some(set) = map.get_mut(&path) {
                set.remove(&connection);
                if set.is_empty() {
                    map.remove(&path);
                }
            }
        }
    }
}
