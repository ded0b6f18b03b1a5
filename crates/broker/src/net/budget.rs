//! Memory for requests and answers: a share is taken before the memory, and given back with it.
//!
//! Invariant: shares never exceed the budget. What is small goes without one, so that a client that holds large
//! shares delays large requests of others only.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Up to this size no share is taken, in bytes. The number of connections bounds what that may come to.
pub const SMALL: usize = 16 * 1024;

/// A number of bytes that is shared out.
#[derive(Debug)]
pub struct Budget {
    all: u32,
    left: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A part of a budget.
#[derive(Debug, Default)]
pub struct Share(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

impl Share {
    /// Whether there is anything to give back.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let all = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Self { all, left: Arc::new(Semaphore::new(all as usize)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a share. What is larger than the budget gets all of it.
    pub async fn take(&self, bytes: usize) -> Share {
        if bytes <= SMALL {
            return Share::default();
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all);
        if let Ok(permit) = self.left.clone().try_acquire_many_owned(bytes) {
            return Share(Some(permit));
        }
        let waiting = Waiting::new(&self.waiting);
        let permit = self.left.clone().acquire_many_owned(bytes).await.ok();
        drop(waiting);
        Share(permit)
    }

    /// Whether somebody waits for a share.
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counts one that waits, also when it stops waiting early.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The budgets of a broker.
#[derive(Debug)]
pub struct Budgets {
    /// frames of requests, from when they are received until they are answered: `queued.max.request.bytes`
    pub requests: Budget,
    /// decoded requests, and answers until they are written: `septet.queued.max.response.bytes`. Taken after a share
    /// of `requests`, never before, so that two requests cannot wait for each other.
    pub responses: Budget,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn large_shares_wait_and_small_ones_do_not() {
        let budget = Arc::new(Budget::new(100_000));
        let first = budget.take(70_000).await;
        assert!(first.is_some() && !budget.take(SMALL).await.is_some());
        let second = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(1 << 40).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!second.is_finished() && budget.is_contended());
        budget.take(SMALL).await;
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(5), second).await.unwrap().unwrap();
        assert!(second.is_some() && !budget.is_contended());
        // One that stops waiting is not counted any more.
        assert!(tokio::time::timeout(Duration::from_millis(10), budget.take(20_000)).await.is_err());
        assert!(!budget.is_contended());
    }
}
