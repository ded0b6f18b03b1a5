//! Log lines that clients can cause: at most one a second of each kind.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// A kind of line that was not logged yet.
    pub const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// `None` if the line is to be left out; else what to write behind it about those that were left out.
    pub fn note(&self) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            state.1 += 1;
            return None;
        }
        let (_, left_out) = std::mem::replace(&mut *state, (Some(now), 0));
        Some(if left_out == 0 { String::new() } else { format!(" ({left_out} more like this before)") })
    }
}

/// Warns, unless a line of this kind was logged within the last second.
#[macro_export]
macro_rules! warn_quietly {
    ($($what:tt)*) => {{
        static KIND: $crate::net::quiet::Quiet = $crate::net::quiet::Quiet::new();
        if let Some(more) = KIND.note() {
            tracing::warn!("{}{more}", format_args!($($what)*));
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line() {
        let kind = Quiet::new();
        let lines: Vec<_> = (0..1000).filter_map(|_| kind.note()).collect();
        assert_eq!(lines, [""]);
        std::thread::sleep(INTERVAL);
        assert_eq!(kind.note().as_deref(), Some(" (999 more like this before)"));
    }
}
