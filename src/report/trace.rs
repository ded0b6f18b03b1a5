//! Events and what lies below them (connections, agents, the journal) as `tracing` shows them, for `-vv`.

use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    events::{Event, Sink},
    visible::visible_line,
};

/// Writes `tracing`'s events to standard error: those of Septet from `debug` on, unless `RUST_LOG` says otherwise.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("septet=debug"));
    // A second call, as in tests, changes nothing.
    let _ = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).try_init();
}

/// Gives events to `tracing`.
pub struct Trace;

impl Sink for Trace {
    fn event(&self, event: &Event) {
        let text = serde_json::to_string(event).unwrap_or_default();
        tracing::debug!(target: "septet::event", "{}", visible_line(&text));
    }
}
