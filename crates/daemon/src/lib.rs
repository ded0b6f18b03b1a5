//! What the broker and the coordinator share as programs: their start and end, logging, readiness, properties files, metrics.

pub mod logging;
pub mod metrics;
pub mod program;
pub mod properties;
pub mod ready;
pub mod signals;
