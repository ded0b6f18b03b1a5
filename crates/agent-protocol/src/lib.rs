//! What the orchestrator and `septet-agent` say to each other over an SSH channel.
//!
//! Purpose: one closed set of [`Action`]s, their [`Outcome`]s, and the framing that carries them.
//! Invariant: a frame that was cut, flipped or is too long is never delivered; a peer with
//! another [`PROTOCOL_VERSION`] is refused before any action is performed.

mod action;
mod frame;
mod mode;

pub use action::*;
pub use frame::*;
pub use mode::ModeChange;

/// Version of this protocol. Both sides must have the same; the agent states its own in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 5;

/// Directory on a host that belongs to Septet: agents, stored blobs, what is restored at boot.
pub const STATE_DIR: &str = "/var/lib/septet";

/// Directory (below [`STATE_DIR`]) where blobs lie under their SHA-256. Only root can enter it.
pub const STORE_DIR: &str = "/var/lib/septet/store";
