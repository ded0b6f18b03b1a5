//! A rate over the last seconds, against a limit: Kafka's SimpleRate, for the throttles of replication.
//!
//! Invariant: what is older than the windows does not count; time that has not passed does not make a rate look lower.

use std::collections::VecDeque;

/// Windows that count, the current one among them.
const WINDOWS: usize = 11;
/// Length of a window, in milliseconds.
const WINDOW_MS: i64 = 1000;

/// Bytes by windows.
#[derive(Debug, Default)]
pub struct Rate {
    /// beginning of each window, and bytes in it
    windows: VecDeque<(i64, u64)>,
}

impl Rate {
    fn purge(&mut self, now: i64) {
        while self.windows.front().is_some_and(|(begun, _)| now - begun >= WINDOWS as i64 * WINDOW_MS) || self.windows.len() > WINDOWS {
            self.windows.pop_front();
        }
    }

    /// Counts bytes.
    pub fn record(&mut self, bytes: u64, now: i64) {
        match self.windows.back_mut() {
            Some((begun, sum)) if now - *begun < WINDOW_MS => *sum += bytes,
            _ => self.windows.push_back((now, bytes)),
        }
        self.purge(now);
    }

    /// Bytes a second: over the time since the oldest window that counts began, a window at least.
    pub fn per_second(&mut self, now: i64) -> f64 {
        self.purge(now);
        let Some((oldest, _)) = self.windows.front() else { return 0.0 };
        let sum: u64 = self.windows.iter().map(|(_, bytes)| bytes).sum();
        sum as f64 * 1000.0 / (now - oldest).max(WINDOW_MS) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_windows_that_count() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(5), 0.0);
        rate.record(3000, 0);
        assert_eq!((rate.per_second(0), rate.per_second(1000), rate.per_second(3000)), (3000.0, 3000.0, 1000.0));
        rate.record(3000, 3000);
        assert_eq!(rate.per_second(6000), 1000.0);
        assert_eq!(rate.per_second(11_000), 3000.0 / 8.0, "the first window is too old");
        assert_eq!(rate.per_second(14_000), 0.0);
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_bounded_memory() {
        let mut rate = Rate::default();
        for now in (0..60_000).step_by(100) {
            rate.record(100, now);
            assert!(rate.windows.len() <= WINDOWS);
            if now > 12_000 {
                let r = rate.per_second(now);
                assert!((950.0..1100.0).contains(&r), "{now}: {r}");
            }
        }
    }
}
