//! Watches of this server's clients.
//!
//! Invariant: a watch fires at most once; what a closed connection left is dropped with it.

use std::collections::{HashMap, HashSet};

use crate::protocol::EventType;

/// Number of a connection on this server.
pub type ConnectionId = u64;

/// One-shot watches by path.
#[derive(Debug, Default)]
pub struct Watches {
    data: HashMap<String, HashSet<ConnectionId>>,
    child: HashMap<String, HashSet<ConnectionId>>,
    by_connection: HashMap<ConnectionId, HashSet<(bool, String)>>,
}

impl Watches {
    /// Leaves a watch on a node's data and existence, or on its children.
    pub fn add(&mut self, connection: ConnectionId, path: &str, child: bool) {
        let map = if child { &mut self.child } else { &mut self.data };
        map.entry(path.to_owned()).or_default().insert(connection);
        self.by_connection.entry(connection).or_default().insert((child, path.to_owned()));
    }

    /// Number of watches.
    pub fn len(&self) -> usize {
        self.by_connection.values().map(HashSet::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_connection.is_empty()
    }

    /// Number of watches of one connection.
    pub fn of(&self, connection: ConnectionId) -> usize {
        self.by_connection.get(&connection).map_or(0, HashSet::len)
    }

    /// Takes the watches that an event fires. A deletion fires child watches of the node too.
    pub fn fire(&mut self, kind: EventType, path: &str) -> HashSet<ConnectionId> {
        let mut out = HashSet::new();
        let mut take = |child: bool| {
            let map = if child { &mut self.child } else { &mut self.data };
            for id in map.remove(path).unwrap_or_default() {
                if let Some(set) = self.by_connection.get_mut(&id) {
                    set.remove(&(child, path.to_owned()));
                    if set.is_empty() {
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
        for (child, path) in self.by_connection.remove(&connection).unwrap_or_default() {
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
