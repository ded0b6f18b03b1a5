//! The journal: a record of the runs on this machine, in SQLite, modelled as Spring Batch models jobs.
//!
//! | table | a row is |
//! |---|---|
//! | `instance` | a command with its identifying parameters on a cluster, until it has succeeded |
//! | `execution` | one attempt at it: start, end, status, exit code, user, version |
//! | `step` | counts and errors of a phase, of a host in a phase, of a task in a phase, or of a task that failed on a host |
//! | `output` | an event, for replays; without tasks that found nothing to do, which are only counted |
//!
//! Invariants: nothing is decided by what stands here, except what a person is told, and since when a restart counts as done; a
//! journal that is damaged, locked or read-only is a warning and never stops a command; its size is bounded.

mod legacy;
mod process;
mod read;
mod record;
mod store;
mod write;

pub use process::Process;
pub use read::{Details, Execution, Journal, Step};
pub use record::Recorder;

#[cfg(test)]
pub use {record::Attempt, store::prepare};
