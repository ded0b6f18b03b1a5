//! Connections: how many there may be, how much memory their requests and answers take, and how they are served.
//!
//! Invariant: memory and descriptors have limits that do not depend on what clients send or leave unread.

pub mod admission;
pub mod answer;
pub mod budget;
pub mod cold;
pub mod descriptors;
pub mod listeners;
pub mod peer;
pub mod pipeline;
pub mod quiet;
pub mod server;
