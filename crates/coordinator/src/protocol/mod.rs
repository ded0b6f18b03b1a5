//! ZooKeeper's client protocol: operation and error codes, requests, and how answers are written.
//! Source: zookeeper.jute and ZooDefs.java of ZooKeeper 3.8.

mod answer;
mod codes;
mod connect;
mod decode;
mod write;

pub use answer::{EventType, Stat, WriteAnswer, encode_acl, encode_strings, end_of_multi, event, reply, result_of_multi};
pub use codes::{Code, op, perm};
pub use connect::{Connect, connected};
pub use decode::{MAX_PATH_BYTES, Offered, decode, valid_path};
pub use write::{Caller, Create, Kind, Op, Write};

/// Which watches an operation on watches is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// on children
    Children,
    /// on data and existence
    Data,
    /// both
    Any,
}

/// How long a watch stays, and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchMode {
    /// until it fires
    Standard,
    /// until it is removed
    Persistent,
    /// until it is removed, and for all nodes below too
    Recursive,
}

/// A question that the local tree answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// `exists`
    Exists {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
    },
    /// `getData`
    Data {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
    },
    /// `getACL`
    Acl {
        /// path
        path: String,
    },
    /// `getChildren` and `getChildren2`
    Children {
        /// path
        path: String,
        /// leave a watch
        watch: bool,
        /// answer with the stat too
        with_stat: bool,
    },
    /// `getAllChildrenNumber`
    ChildrenNumber {
        /// path
        path: String,
    },
    /// `getEphemerals`: those of the session
    Ephemerals {
        /// beginning of their paths
        prefix: String,
    },
    /// `multiRead`: `Data` and `Children` without watches
    Multi(Vec<Read>),
    /// `setWatches` and `setWatches2`: the watches of a client that comes from another server
    SetWatches {
        /// the last zxid that the client saw
        since: i64,
        /// data watches on nodes that existed
        data: Vec<String>,
        /// watches on nodes that did not exist
        exist: Vec<String>,
        /// child watches
        child: Vec<String>,
        /// persistent watches
        persistent: Vec<String>,
        /// persistent recursive watches
        recursive: Vec<String>,
    },
    /// `addWatch`
    AddWatch {
        /// path
        path: String,
        /// how long it stays
        mode: WatchMode,
    },
    /// `checkWatches` and `removeWatches`
    Watches {
        /// path
        path: String,
        /// which
        kind: WatchKind,
        /// remove them
        remove: bool,
    },
    /// `whoAmI`
    WhoAmI,
}

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// changes the tree
    Write(Write),
    /// reads the local tree
    Read(Read),
    /// `sync`: answers once this server has all that was committed before
    Sync(String),
    /// keeps the session alive
    Ping,
    /// `addAuth`: another identity for this connection
    Auth {
        /// scheme
        scheme: String,
        /// credentials, such as `user:password`
        credentials: Vec<u8>,
    },
    /// a SASL token, which gets none back where SASL is not configured
    Sasl,
    /// ends the session
    Close,
    /// answered with this code
    Refused(Code),
    /// answered with `Unimplemented` and the end of the connection, as ZooKeeper answers operations that it does not know
    Unknown,
}

/// The head of every request behind the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// chosen by the client, repeated in the answer
    pub xid: i32,
    /// operation
    pub op: i32,
}
