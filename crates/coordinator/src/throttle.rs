//! Log lines that strangers can cause: some of them, not a log full.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines in one period.
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Period {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

/// Warns a few times in a period, and then counts.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Period>);

impl Throttle {
    /// Logs the line, or counts it for the next that is logged.
    pub fn warn(&self, line: impl FnOnce() -> String) {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if period.began.is_none_or(|t| t.elapsed() > PERIOD) {
            (period.began, period.lines) = (Some(Instant::now()), 0);
        }
        if period.lines >= LINES {
            period.left_out += 1;
            return;
        }
        period.lines += 1;
        match std::mem::take(&mut period.left_out) {
            0 => tracing::warn!("{}", line()),
            n => tracing::warn!("{} ({n} similar messages before this one were left out)", line()),
        }
    }
}
