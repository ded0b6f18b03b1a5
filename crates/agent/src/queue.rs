//! Requests that have arrived and not begun. They are read ahead of the one in hand, or a cancel that comes behind them would be
//! seen only when there is nothing left to cancel.
//!
//! Invariant: at most so many requests, and bytes of them, are held; the channel's own flow control keeps back the rest.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use septet_agent_protocol::{FrameError, Request};

/// Requests that are held: more than the items of one loop, which are sent without waiting.
const MAX_REQUESTS: usize = 16 * 1024;
/// Bytes of the frames that they came in.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A request in its turn.
pub struct Queued {
    pub request: Request,
    /// file contents or a chunk of a blob
    pub tail: Vec<u8>,
    /// bytes of the frame that it came in
    pub bytes: usize,
    /// it was cancelled before its turn came
    pub cancelled: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Queued>,
    bytes: usize,
    end: Option<FrameError>,
}

/// The queue between the thread that reads and the one that performs.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request; waits while there is no room.
    pub fn push(&self, request: Request, tail: Vec<u8>, bytes: usize) {
        let mut state = self.lock();
        while state.waiting.len() >= MAX_REQUESTS || (state.bytes + bytes > MAX_BYTES && !state.waiting.is_empty()) {
            state = self.wait(state);
        }
        state.bytes += bytes;
        state.waiting.push_back(Queued { request, tail, bytes, cancelled: false });
        self.changed.notify_all();
    }

    /// Nothing comes any more, for this reason.
    pub fn end(&self, why: FrameError) {
        self.lock().end = Some(why);
        self.changed.notify_all();
    }

    /// What is waiting is not to be begun.
    pub fn cancel(&self) {
        self.lock().waiting.iter_mut().for_each(|q| q.cancelled = true);
    }

    /// The next request; once there is none, why nothing comes any more.
    pub fn pop(&self) -> Result<Queued, FrameError> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.waiting.pop_front() {
                state.bytes -= next.bytes;
                self.changed.notify_all();
                return Ok(next);
            }
            if let Some(why) = state.end.take() {
                return Err(why);
            }
            state = self.wait(state);
        }
    }
}
