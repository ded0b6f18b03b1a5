//! Playbooks: parsed with places, run by one worker per host, reported as events.

mod keywords;
mod lockstep;
pub mod model;
pub mod parse;
pub mod runner;
mod worker;

pub use crate::events::{Event, TaskStatus};
pub use crate::rolling::{Gate, Order};
pub use parse::words;
pub use runner::{Options, Recap, Runner};
