//! Requests that wait for the high watermark.
//!
//! Invariant: a wait ends once: when the high watermark reaches its offset, or the leadership that it began under ends.

use std::{collections::BTreeMap, sync::Mutex, sync::MutexGuard, sync::PoisonError};

use tokio::sync::oneshot;

/// How a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The high watermark has reached the offset.
    Reached,
    /// This broker does not lead any more.
    LeadershipLost,
}

/// Waits of one partition, by offset.
#[derive(Debug, Default)]
pub struct Commits(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_offset: BTreeMap<(i64, u64), oneshot::Sender<Commit>>,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for the high watermark to reach an offset. The caller compares it after that, under the partition's lock.
    pub fn wait(&self, offset: i64) -> oneshot::Receiver<Commit> {
        let (send, receive) = oneshot::channel();
        let mut waiting = self.lock();
        // Those that gave up are forgotten when there are many.
        if waiting.by_offset.len() >= 1024 && waiting.next.is_multiple_of(1024) {
            waiting.by_offset.retain(|_, w| !w.is_closed());
        }
        let key = (offset, waiting.next);
        waiting.next += 1;
        waiting.by_offset.insert(key, send);
        receive
    }

    /// The high watermark has moved.
    pub fn reached(&self, high_watermark: i64) {
        let done = {
            let mut waiting = self.lock();
            if waiting.by_offset.first_key_value().is_none_or(|((offset, _), _)| *offset > high_watermark) {
                return;
            }
            let later = waiting.by_offset.split_off(&(high_watermark.saturating_add(1), 0));
            std::mem::replace(&mut waiting.by_offset, later)
        };
        done.into_values().for_each(|w| {
            let _ = w.send(Commit::Reached);
        });
    }

    /// The leadership has ended.
    pub fn lost(&self) {
        let all = std::mem::take(&mut self.lock().by_offset);
        all.into_values().for_each(|w| {
            let _ = w.send(Commit::LeadershipLost);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waits_end_in_the_order_of_offsets() {
        let commits = Commits::default();
        let mut waits: Vec<_> = [10, 5, 5, 11].into_iter().map(|o| commits.wait(o)).collect();
        commits.reached(4);
        assert!(waits.iter_mut().all(|w| w.try_recv().is_err()));
        commits.reached(10);
        let ended: Vec<_> = waits.iter_mut().map(|w| w.try_recv().ok()).collect();
        assert_eq!(ended, [Some(Commit::Reached), Some(Commit::Reached), Some(Commit::Reached), None]);
        commits.lost();
        assert_eq!(waits[3].try_recv().unwrap(), Commit::LeadershipLost);
    }
}
