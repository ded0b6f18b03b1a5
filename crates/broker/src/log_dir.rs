//! Whether the log directory can be used. A disk that is full or broken takes it offline: other brokers lead its partitions then.
//!
//! Invariant: while it is offline, nothing is read or written there on behalf of clients or leaders. One that was broken stays offline
//! until the next start; one that was full is used again when there is room.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::Errno;
use tokio::sync::watch;

use crate::log::LogError;

/// Why it is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No room, or none for this user.
    Full,
    /// The disk, or its file system.
    Broken,
}

impl Failure {
    /// What an error says of the disk; `None` if it says nothing, as of damaged data.
    fn of(error: &io::Error) -> Option<Self> {
        const BROKEN: [Errno; 7] = [Errno::IO, Errno::NXIO, Errno::NODEV, Errno::ROFS, Errno::STALE, Errno::REMOTEIO, Errno::UCLEAN];
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Self::Full),
            _ => error.raw_os_error().filter(|code| BROKEN.iter().any(|b| b.raw_os_error() == *code)).map(|_| Self::Broken),
        }
    }
}

/// The state of the log directory.
#[derive(Debug)]
pub struct LogDir {
    offline: AtomicBool,
    failure: watch::Sender<Option<Failure>>,
}

impl Default for LogDir {
    fn default() -> Self {
        Self { offline: AtomicBool::new(false), failure: watch::Sender::new(None) }
    }
}

impl LogDir {
    /// Whether it cannot be used.
    pub fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    /// Notes an error: one of the disk takes the directory offline.
    pub fn note(&self, error: &LogError) {
        self.note_as(error, Failure::of(&error.source));
    }

    /// Notes an error of a sync. The system may take what it could not write for written from then on, so a later sync proves nothing:
    /// a disk that was full then is as good as broken.
    pub fn note_unsynced(&self, error: &LogError) {
        self.note_as(error, Failure::of(&error.source).map(|_| Failure::Broken));
    }

    fn note_as(&self, error: &LogError, failure: Option<Failure>) {
        let Some(failure) = failure else { return };
        let worse = |known: &mut Option<Failure>| {
            let new = *known != Some(failure) && *known != Some(Failure::Broken);
            if new {
                *known = Some(failure);
            }
            new
        };
        if self.failure.send_if_modified(worse) {
            self.offline.store(true, Ordering::Release);
            tracing::error!("the log directory is offline: {error}; other brokers are to lead its partitions");
        }
    }

    /// There is room again.
    pub fn recovered(&self) {
        self.failure.send_modify(|known| {
            if *known == Some(Failure::Full) {
                *known = None;
                self.offline.store(false, Ordering::Release);
            }
        });
    }

    /// Why it is offline, and what it becomes.
    pub fn subscribe(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: io::Error) -> LogError {
        LogError { path: "f".into(), source }
    }

    #[test]
    fn only_the_disks_errors_take_it_offline() {
        for (source, failure) in [
            (io::Error::from_raw_os_error(28), Some(Failure::Full)),
            (io::Error::from_raw_os_error(122), Some(Failure::Full)),
            (io::Error::from_raw_os_error(5), Some(Failure::Broken)),
            (io::Error::from_raw_os_error(30), Some(Failure::Broken)),
            (io::Error::from_raw_os_error(24), None),
            (io::ErrorKind::InvalidData.into(), None),
            (io::ErrorKind::NotFound.into(), None),
        ] {
            let dir = LogDir::default();
            dir.note(&error(source));
            assert_eq!((*dir.subscribe().borrow(), dir.is_offline()), (failure, failure.is_some()));
        }
        let dir = LogDir::default();
        dir.note(&error(io::Error::from_raw_os_error(28)));
        dir.recovered();
        assert!(!dir.is_offline());
        dir.note(&error(io::Error::from_raw_os_error(28)));
        dir.note(&error(io::Error::from_raw_os_error(5)));
        dir.recovered();
        assert!(dir.is_offline(), "what is broken stays offline");
        let dir = LogDir::default();
        dir.note_unsynced(&error(io::Error::from_raw_os_error(28)));
        dir.recovered();
        assert!(dir.is_offline(), "what was not synced for lack of room may never be");
    }
}
