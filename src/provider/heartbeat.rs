//! Keeping a lock that others take over after a silence, and noticing that it is lost.
//!
//! Invariant: a lock counts as lost before others may take it over, however long this machine or the provider did not answer.

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle};

use crate::{clock::now_s, error::Result};

/// Silence after which a holder of another machine counts as gone, in seconds.
pub const SILENCE_S: u64 = 300;
/// How often a holder renews its lock, in seconds.
pub const EVERY_S: u64 = 20;
/// How long a holder that cannot renew its lock goes on, in seconds: less than others wait by a margin for clocks that differ.
const PATIENCE_S: u64 = SILENCE_S - 30;
/// How often the clock is read. Timers stand still while a machine sleeps, and the clock does not.
const TICK: Duration = Duration::from_secs(5);
/// How long one renewal may take, in seconds.
const RENEWAL_S: u64 = 60;
/// What a renewal gets that begins late, in seconds: a machine that slept asks once before it gives up.
const LEAST_S: u64 = 10;

/// Why a lock is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// it was removed, or another run has it
    Gone,
    /// it could not be renewed for so long that others may take it over
    Silent,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Gone => f.write_str("the lock was removed or taken over while this run held it"),
            Lost::Silent => write!(f, "the lock could not be renewed for {} minutes", PATIENCE_S.div_ceil(60)),
        }
    }
}

/// Renews a lock until it is dropped.
pub struct Heartbeat {
    task: JoinHandle<()>,
    lost: watch::Receiver<Option<Lost>>,
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Heartbeat {
    /// Renews a lock that was taken just now with `renew`, whose argument counts from 1. It returns whether the lock is still ours,
    /// as read back after it was renewed; an error means that this is not known.
    pub fn start<F, R>(renew: F) -> Self
    where
        F: FnMut(u64) -> R + Send + 'static,
        R: Future<Output = Result<bool>> + Send,
    {
        let (tell, lost) = watch::channel(None);
        let task = tokio::spawn(async move {
            let why = keep(renew, now_s, || tokio::time::sleep(TICK)).await;
            let _ = tell.send(Some(why));
            // The receiver tells an end that is not a loss by the sender that is gone.
            std::future::pending::<()>().await;
        });
        Self { task, lost }
    }

    /// Waits until the lock is lost; for ever if it is given back first. It may be dropped meanwhile.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        let mut lost = self.lost.clone();
        async move {
            if let Ok(lost) = lost.wait_for(Option::is_some).await
                && let Some(why) = *lost
            {
                return why;
            }
            std::future::pending().await
        }
    }
}

/// How long a renewal may take that begins so long after the last one that succeeded, both in seconds: what is left of the patience.
fn limit_s(since_s: u64) -> u64 {
    PATIENCE_S.saturating_sub(since_s).clamp(LEAST_S, RENEWAL_S)
}

/// What a renewal answers until the clock shows this time, in seconds since 1970. It is read at each tick: a timer would stand still while
/// the machine sleeps.
async fn answered<T>(
    renewal: impl Future<Output = Result<bool>>,
    until_s: u64,
    clock: impl Fn() -> u64,
    tick: impl Fn() -> T,
) -> Option<Result<bool>>
where
    T: Future<Output = ()>,
{
    let mut renewal = std::pin::pin!(renewal);
    loop {
        tokio::select! {
            biased;
            answer = &mut renewal => return Some(answer),
            () = tick() => {
                if clock() >= until_s {
                    return None;
                }
            }
        }
    }
}

/// Renews until the lock is lost. `clock` is in seconds, and `tick` waits until it is to be read again.
async fn keep<F, R, T>(mut renew: F, clock: impl Fn() -> u64, tick: impl Fn() -> T) -> Lost
where
    F: FnMut(u64) -> R,
    R: Future<Output = Result<bool>>,
    T: Future<Output = ()>,
{
    let (mut renewed, mut tried) = (clock(), clock());
    let mut missed = false;
    let mut n = 0;
    loop {
        tick().await;
        let now = clock();
        if now.saturating_sub(tried) >= EVERY_S || missed {
            n += 1;
            let limit = limit_s(now.saturating_sub(renewed));
            let answer = answered(renew(n), now.saturating_add(limit), &clock, &tick);
            // The timer is for a clock that is set back meanwhile.
            match tokio::time::timeout(Duration::from_secs(limit), answer).await.ok().flatten() {
                Some(Ok(true)) => (renewed, missed) = (now, false),
                // Lists may lag behind: it is looked for once more.
                Some(Ok(false)) if missed => return Lost::Gone,
                Some(Ok(false)) => missed = true,
                Some(Err(_)) | None => {}
            }
            tried = clock();
        }
        if clock().saturating_sub(renewed) > PATIENCE_S {
            return if missed { Lost::Gone } else { Lost::Silent };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;
    use crate::error::Error;

    /// Runs with these results of renewals, the last of them for ever, on a machine that sleeps for `asleep_s` in its third tick. When
    /// it is lost, in seconds, if that is within an hour.
    async fn lost_after(results: &[Option<bool>], asleep_s: u64) -> Option<(u64, Lost)> {
        let (now, ticks) = (Cell::new(1_000), Cell::new(0));
        let (now, ticks) = (&now, &ticks);
        let renew = |n: u64| {
            let result = results[results.len().min(n as usize) - 1];
            async move { result.ok_or_else(|| Error::failed("no answer")) }
        };
        let tick = move || async move {
            ticks.set(ticks.get() + 1);
            now.set(now.get() + TICK.as_secs() + if ticks.get() == 3 { asleep_s } else { 0 });
            if ticks.get() > 720 {
                std::future::pending::<()>().await;
            }
        };
        let kept = keep(renew, || now.get(), tick);
        let why = tokio::time::timeout(Duration::from_millis(50), kept).await.ok()?;
        Some((now.get() - 1_000, why))
    }

    /// When the lock is lost, in seconds, if no renewal succeeds: those whose bit is set hang, the others fail at once. The machine sleeps for
    /// `asleep_s` in its sixth tick, while the first renewal is under way if that one hangs.
    async fn lost_after_hanging(hangs: u32, asleep_s: u64) -> u64 {
        let (now, ticks) = (Cell::new(1_000), Cell::new(0));
        let (now, ticks) = (&now, &ticks);
        let renew = |n: u64| async move {
            if (hangs >> (n - 1).min(31)) & 1 == 1 {
                std::future::pending::<()>().await;
            }
            Err::<bool, _>(Error::failed("no answer"))
        };
        let tick = move || async move {
            ticks.set(ticks.get() + 1);
            now.set(now.get() + TICK.as_secs() + if ticks.get() == 6 { asleep_s } else { 0 });
        };
        keep(renew, || now.get(), tick).await;
        now.get() - 1_000
    }

    #[test]
    fn a_renewal_gets_what_is_left_of_the_patience() {
        let since = [0, 20, 210, 211, 259, 260, 261, 270, 300, 3600, u64::MAX];
        assert_eq!(since.map(limit_s), [60, 60, 60, 59, 11, 10, 10, 10, 10, 10, 10]);
    }

    #[tokio::test]
    async fn a_loss_is_noticed_before_others_take_over_whatever_hangs() {
        const MARGIN_S: u64 = 15;
        // No more renewals than these begin before the loss, whichever of them hang.
        for hangs in (0..1 << 14).chain([u32::MAX]) {
            let after = lost_after_hanging(hangs, 0).await;
            assert!(after > PATIENCE_S && after + MARGIN_S <= SILENCE_S, "{hangs:b}: {after}");
        }
        // A machine that sleeps during a renewal does not wait for the rest of it.
        assert_eq!(lost_after_hanging(1, 3600).await, 3600 + 30);
    }

    #[tokio::test]
    async fn a_lock_is_lost_when_it_is_gone_or_cannot_be_renewed() {
        assert_eq!(lost_after(&[Some(true)], 0).await, None);
        // A single look that does not find it, and failures shorter than the silence, do not matter.
        assert_eq!(lost_after(&[Some(false), Some(true)], 0).await, None);
        assert_eq!(lost_after(&[None, None, None, Some(true)], 0).await, None);
        assert_eq!(lost_after(&[Some(true), Some(false)], 0).await, Some((45, Lost::Gone)));
        let (after, why) = lost_after(&[None], 0).await.unwrap();
        assert_eq!(why, Lost::Silent);
        assert!((PATIENCE_S..SILENCE_S).contains(&after), "{after}");
    }

    #[tokio::test]
    async fn a_machine_that_slept_looks_at_once() {
        // Timers did not run meanwhile, the clock did. Whether another took the lock over is asked in the tick that notices.
        assert_eq!(lost_after(&[Some(true)], 3600).await, None);
        assert_eq!(lost_after(&[Some(false)], 3600).await, Some((3600 + 15, Lost::Gone)));
        assert_eq!(lost_after(&[None], 3600).await, Some((3600 + 15, Lost::Silent)));
    }

    #[tokio::test]
    async fn one_that_is_given_back_is_never_lost() {
        let heartbeat = Heartbeat::start(|_| async { Ok(true) });
        let lost = heartbeat.lost();
        drop(heartbeat);
        assert!(tokio::time::timeout(Duration::from_millis(50), lost).await.is_err());
    }
}
