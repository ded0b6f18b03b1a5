//! Watches: what they tell, where they are kept, and how they reach their callers.

pub mod table;
pub mod watcher;

use crate::session::state::SessionState;

/// How [`Client::watch`](crate::Client::watch) watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddWatchMode {
    /// data and children of one node
    Persistent,
    /// data of a node and of all below it; creation and deletion, but no [`EventType::NodeChildrenChanged`]
    PersistentRecursive,
}

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The session's state has changed. Persistent watchers get each change, one-shot watchers only the last.
    /// After [`SessionState::SyncConnected`] a persistent watcher's caller must read again: changes while there was no connection are
    /// not reported (ZOOKEEPER-4698).
    Session,
    /// The node was created.
    NodeCreated,
    /// The node was deleted.
    NodeDeleted,
    /// The node's data was set.
    NodeDataChanged,
    /// The node got or lost a child.
    NodeChildrenChanged,
    /// More events came than a persistent watcher keeps; those before this one are dropped, and its caller must read again.
    EventsLost,
}

impl EventType {
    /// The type of an event on a node; `None` for others.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::NodeCreated),
            2 => Some(Self::NodeDeleted),
            3 => Some(Self::NodeDataChanged),
            4 => Some(Self::NodeChildrenChanged),
            _ => None,
        }
    }
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedEvent {
    /// what has happened
    pub event_type: EventType,
    /// the session's state; of interest with [`EventType::Session`]
    pub session_state: SessionState,
    /// the node's path below the client's root; empty if the event is not about a node
    pub path: String,
}

impl WatchedEvent {
    pub(crate) fn node(event_type: EventType, path: &str) -> Self {
        Self { event_type, session_state: SessionState::SyncConnected, path: path.to_owned() }
    }

    pub(crate) fn session(session_state: SessionState) -> Self {
        Self { event_type: EventType::Session, session_state, path: String::new() }
    }
}
