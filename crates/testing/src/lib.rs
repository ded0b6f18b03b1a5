//! What the tests of all crates share: how one is left out, and ports of its own.

mod ports;
mod skip;

pub use ports::free_port;
pub use skip::skip;
