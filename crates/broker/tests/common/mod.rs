//! What the tests share.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod batches;
pub mod client;
pub mod logs;
pub mod processes;
pub mod samples;
pub mod znodes;
