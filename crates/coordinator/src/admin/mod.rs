//! What operators ask a server: four-letter words on the client port, and the admin server's HTTP commands.
//!
//! Invariant: nothing here changes what clients see, but for the counters that `srst` and `crst` reset; answers are
//! bounded in bytes.

mod commands;
mod facts;
pub mod four_letter;
pub mod http;
mod text;

/// What this server calls itself. Tools parse the number in front.
pub const VERSION: &str = concat!("3.8.0-septet-", env!("CARGO_PKG_VERSION"), ", built on septet");
