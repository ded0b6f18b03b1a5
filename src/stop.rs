//! Stopping. Every command stops in the same way: at the first Ctrl-C the task in hand ends and nothing else begins; what runs on
//! hosts for this program ends with it; the exit code is 130. The second Ctrl-C does not wait for the task in hand.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::error::{Error, Kind, Result};

/// Time between two looks at the flag.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the user wants to stop.
pub fn asked(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

/// Waits until the user wants to stop.
pub async fn raised(flag: &AtomicBool) {
    while !asked(flag) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// The error of a command that was stopped.
pub fn error() -> Error {
    Error::failed("interrupted").kind(Kind::Interrupted)
}

/// An error if the user wants to stop, for between two steps.
pub fn check(flag: &AtomicBool) -> Result<()> {
    if asked(flag) { Err(error()) } else { Ok(()) }
}

/// Gives up waiting when the user wants to stop: for what only looks.
pub async fn or_stop<T>(flag: &AtomicBool, what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        r = what => r,
        () = raised(flag) => Err(error()),
    }
}
