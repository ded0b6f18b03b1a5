//! The two ends of a watch: the callers' watchers, and the sinks that the session fills.
//!
//! Invariant: a sink never waits and never grows beyond its capacity; dropping a watcher takes its watch back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::{EventType, WatchedEvent};
use crate::{path::Root, session::state::SessionState};

/// Number of a watcher within its session.
pub type WatcherId = u64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watchers that were dropped since the session looked last.
#[derive(Debug, Default)]
pub struct Dropped {
    ids: Mutex<Vec<WatcherId>>,
    notify: Notify,
}

impl Dropped {
    fn add(&self, id: WatcherId) {
        lock(&self.ids).push(id);
        self.notify.notify_one();
    }

    /// Waits until [`Dropped::take`] may return something.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }

    /// The watchers dropped since the last call.
    pub fn take(&self) -> Vec<WatcherId> {
        std::mem::take(&mut lock(&self.ids))
    }
}

/// Events of one persistent watcher that its caller has not taken yet.
#[derive(Debug, Default)]
pub struct Queue {
    events: Mutex<VecDeque<WatchedEvent>>,
    notify: Notify,
}

impl Queue {
    fn push(&self, event: WatchedEvent) {
        let mut events = lock(&self.events);
        if events.len() >= PersistentWatcher::CAPACITY {
            events.clear();
            events.push_back(WatchedEvent { event_type: EventType::EventsLost, ..WatchedEvent::session(event.session_state) });
        }
        events.push_back(event);
        drop(events);
        self.notify.notify_one();
    }
}

/// Where the session delivers events.
#[derive(Debug)]
pub enum Sink {
    /// one event, then the watch is over
    Once(Option<oneshot::Sender<WatchedEvent>>),
    /// all events
    Each(Arc<Queue>),
}

impl Sink {
    /// Delivers an event.
    pub fn deliver(&mut self, event: &WatchedEvent) {
        match self {
            // A receiver that is gone has told `Dropped`.
            Self::Once(sender) => drop(sender.take().map(|s| s.send(event.clone()))),
            Self::Each(queue) => queue.push(event.clone()),
        }
    }
}

/// What a request that sets a watch gets besides its answer.
#[derive(Debug)]
pub enum Handle {
    /// of a one-shot watch
    Once(WatcherId, oneshot::Receiver<WatchedEvent>, Arc<Dropped>),
    /// of a persistent watch
    Each(WatcherId, Arc<Queue>, Arc<Dropped>),
}

impl Handle {
    /// Both ends of a one-shot watch.
    pub fn once(id: WatcherId, dropped: Arc<Dropped>) -> (Sink, Self) {
        let (sender, receiver) = oneshot::channel();
        (Sink::Once(Some(sender)), Self::Once(id, receiver, dropped))
    }

    /// Both ends of a persistent watch.
    pub fn each(id: WatcherId, dropped: Arc<Dropped>) -> (Sink, Self) {
        let queue = Arc::new(Queue::default());
        (Sink::Each(queue.clone()), Self::Each(id, queue, dropped))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (Self::Once(id, _, dropped) | Self::Each(id, _, dropped)) = self;
        dropped.add(*id);
    }
}

/// A one-shot watch. It survives lost connections; dropping it takes it back at the server.
#[derive(Debug)]
pub struct OneshotWatcher {
    handle: Handle,
    root: Root,
}

impl OneshotWatcher {
    pub(crate) fn new(handle: Handle, root: Root) -> Self {
        Self { handle, root }
    }

    /// Waits for the event: a change of the node, or the end of the session.
    pub async fn changed(mut self) -> WatchedEvent {
        let received = match &mut self.handle {
            Handle::Once(_, receiver, _) => receiver.await.ok(),
            Handle::Each(..) => None,
        };
        let mut event = received.unwrap_or_else(|| WatchedEvent::session(SessionState::Closed));
        event.path = self.root.relative(event.path);
        event
    }
}

/// A persistent watch. It survives lost connections; dropping it takes it back at the server.
#[derive(Debug)]
pub struct PersistentWatcher {
    handle: Handle,
    root: Root,
    /// the session's last state, once it was reported
    ended: Option<SessionState>,
}

impl PersistentWatcher {
    /// Events that are kept for a caller that does not take them; see [`EventType::EventsLost`].
    pub const CAPACITY: usize = 4096;

    pub(crate) fn new(handle: Handle, root: Root) -> Self {
        Self { handle, root, ended: None }
    }

    /// Waits for the next event. After the end of the session it returns that again. Dropping the future loses no event.
    pub async fn changed(&mut self) -> WatchedEvent {
        let queue = match &self.handle {
            Handle::Each(_, queue, _) => queue,
            Handle::Once(..) => return WatchedEvent::session(SessionState::Closed),
        };
        loop {
            if let Some(mut event) = lock(&queue.events).pop_front() {
                if event.event_type == EventType::Session && event.session_state.is_terminated() {
                    self.ended = Some(event.session_state);
                }
                event.path = self.root.relative(event.path);
                return event;
            }
            match self.ended {
                Some(state) => return WatchedEvent::session(state),
                None => queue.notify.notified().await,
            }
        }
    }
}
