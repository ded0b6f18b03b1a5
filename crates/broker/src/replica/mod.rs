//! Replicas on this broker: what the controller decides about them, fetching from leaders, changes of the ISR, controlled shutdown.
//!
//! Invariant: a decision of an older controller, or one that was meant for an earlier registration of this broker, changes nothing.

pub(crate) mod answers;
mod fetcher;
mod isr;
mod manager;
pub mod offline;
mod out_of_range;
mod session;
pub mod shutdown;
mod throttle;
mod tracked;

pub use fetcher::Fetchers;
pub use isr::{ask_controller, send_proposals};
pub use manager::Manager;
pub use throttle::{RATES, REPLICAS, Side, Throttles};
