//! A ZooKeeper client: one session over any number of connections, watches that survive them, bounded queues.
//! Wire format: zookeeper.jute and ZooDefs.java of ZooKeeper 3.8.
//!
//! Invariants:
//! - A request is never sent twice. Requests that were under way when a connection is lost fail with
//!   [`Error::ConnectionLoss`], reads too; whether they took effect is unknown.
//! - A session is expired only when a server says so.
//! - Every watch that has a watcher is set again on each new connection before any other request is sent.
//! - A watch event is delivered before the answer to any read that shows the change.
//! - Memory is bounded: requests by [`Connector::with_queue`], answers by [`Connector::with_max_answer`], the events of a
//!   persistent watcher by [`PersistentWatcher::CAPACITY`].

mod acl;
mod client;
mod create;
mod error;
pub mod jute;
mod path;
pub mod protocol;
mod servers;
mod session;
mod watch;

pub use acl::{Acl, Acls, AuthUser, Permission};
pub use client::{
    Client, Connector,
    multi::{MultiReadResult, MultiReader, MultiWriteError, MultiWriteResult, MultiWriter},
};
pub use create::{CreateMode, CreateOptions, Created};
pub use error::Error;
pub use protocol::Stat;
pub use session::state::{SessionId, SessionInfo, SessionState, StateWatcher};
pub use watch::{
    AddWatchMode, EventType, WatchedEvent,
    watcher::{OneshotWatcher, PersistentWatcher},
};
