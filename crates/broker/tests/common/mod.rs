//! What the tests share.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod apache;
pub mod batches;
pub mod client;
pub mod ensemble;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod processes;
pub mod proxy;
pub mod samples;
pub mod tools;
pub mod znodes;

/// A directory that goes away; in memory where that can be had. Kill -9 spares it there as it spares the page cache,
/// and no busy disk makes an fsync last for many seconds.
pub fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
