//! The bundled coordinator: a ZooKeeper ensemble, replicated by Raft.
//!
//! Purpose: ZooKeeper's client protocol, configuration and four-letter words over a replicated tree of znodes.
//! Invariant: the tree changes only by [`state::State::apply`], which is a pure function of the replicated log;
//! what a client was told is on disk on a majority.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | `zoo.cfg` and `myid` |
//! | [`jute`], [`protocol`] | the wire: records, requests, answers, error codes |
//! | [`acl`], [`tree`], [`state`] | the pure core: permissions, znodes, sessions, commands |
//! | [`format2`] | what earlier versions stored |
//! | [`reconfigure`] | from the membership to the one that `zoo.cfg` asks for |
//! | [`watches`] | who is told of a change on this server |
//! | [`raft`] | consensus, pure too |
//! | [`storage`], [`peer`], [`node`] | log and snapshots on disk, servers among themselves, what drives consensus |
//! | [`server`] | clients |
//! | [`exchange`] | from and to ZooKeeper's own files |
//! | [`admin`] | four-letter words, HTTP commands |
//! | `throttle` | log lines that strangers can cause |

pub mod acl;
pub mod admin;
pub mod config;
pub mod exchange;
pub mod format2;
pub mod node;
pub mod peer;
pub mod protocol;
pub mod raft;
pub mod reconfigure;
pub mod server;
pub mod state;
pub mod storage;
mod throttle;
pub mod tree;
pub mod watches;

pub use septet_zookeeper::jute;
