//! What callers see of a session.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::error::Error;

/// State of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// There is no connection now; the session goes on.
    Disconnected,
    /// A server serves the session.
    SyncConnected,
    /// A server refused an identity. Final.
    AuthFailed,
    /// A server has ended the session. Final.
    Expired,
    /// The client was closed. Final.
    Closed,
}

impl SessionState {
    /// Whether the session is over.
    pub fn is_terminated(self) -> bool {
        matches!(self, Self::AuthFailed | Self::Expired | Self::Closed)
    }

    /// What requests fail with.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Disconnected | Self::SyncConnected => Error::ConnectionLoss,
            Self::AuthFailed => Error::AuthFailed,
            Self::Expired => Error::SessionExpired,
            Self::Closed => Error::ClientClosed,
        }
    }
}

/// Id of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

/// What another client needs to go on with a session; see [`Connector::with_session`](crate::Connector::with_session).
#[derive(Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub(crate) id: SessionId,
    pub(crate) password: Vec<u8>,
    pub(crate) timeout: Duration,
    pub(crate) last_zxid: i64,
}

impl SessionInfo {
    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo").field("id", &self.id).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// What the session's task and its clients share.
#[derive(Debug)]
pub struct Shared {
    pub state: watch::Sender<SessionState>,
    info: Mutex<SessionInfo>,
}

impl Shared {
    pub fn new(info: SessionInfo) -> Self {
        Self { state: watch::Sender::new(SessionState::Disconnected), info: Mutex::new(info) }
    }

    pub fn info(&self) -> MutexGuard<'_, SessionInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> SessionState {
        *self.state.borrow()
    }
}

/// Follows the state of a session.
#[derive(Debug, Clone)]
pub struct StateWatcher(pub(crate) watch::Receiver<SessionState>);

impl StateWatcher {
    /// The newest state, which [`StateWatcher::changed`] then does not return.
    pub fn state(&mut self) -> SessionState {
        *self.0.borrow_and_update()
    }

    /// The newest state.
    pub fn peek_state(&self) -> SessionState {
        *self.0.borrow()
    }

    /// Waits for another state than the last one seen. States that followed each other quickly are skipped, but not a final one.
    /// Once a final state was returned it waits for ever.
    pub async fn changed(&mut self) -> SessionState {
        match self.0.changed().await {
            Ok(()) => *self.0.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }
}
