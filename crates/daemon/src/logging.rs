//! Logging: lines on standard error, for a journal that adds the time.

use tracing_subscriber::EnvFilter;

/// The variable with the filter, as `tracing_subscriber`'s `EnvFilter` reads it.
pub const VARIABLE: &str = "SEPTET_LOG";

/// Sets up logging by [`VARIABLE`], or by a filter of the program's own if that is not set or does not parse. Once per process; a
/// second call changes nothing.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| default.into());
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = logger.with_ansi(false).without_time().with_target(false).try_init();
}
