//! What a leader knows of another server, and how much is on the way to it.

use std::collections::VecDeque;

/// Messages that are not answered: a server that stood still has no more to work off than these before it hears news.
const MAX_INFLIGHT: usize = 256;

/// How entries go to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// one message, and the next after its answer or a heartbeat: it is not known where the logs part
    Probe { waiting: bool },
    /// one message after the other, up to a number of bytes that are not answered
    Stream,
    /// none: a snapshot is on its way
    Snapshot,
}

/// Another server, as its leader sees it.
#[derive(Debug)]
pub(super) struct Progress {
    /// index up to which its durable log is known to agree
    pub(super) matched: u64,
    /// index of the next entry to send
    pub(super) next: u64,
    pub(super) flow: Flow,
    /// last index and bytes of each message that is not answered
    inflight: VecDeque<(u64, u64)>,
    inflight_bytes: u64,
    /// newest round that it has answered
    pub(super) round: u64,
    /// tick at which it was last heard
    pub(super) heard: u64,
    /// it has a vote, and what it says counts
    pub(super) voting: bool,
    /// it has answered this leader; before, nobody knows whether it is up
    pub(super) answered: bool,
}

impl Progress {
    pub(super) fn new(next: u64, now: u64) -> Self {
        Self {
            matched: 0,
            next,
            flow: Flow::Probe { waiting: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            round: 0,
            heard: now,
            voting: true,
            answered: false,
        }
    }

    pub(super) fn sent(&mut self, last: u64, bytes: u64) {
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
        self.next = last + 1;
    }

    pub(super) fn room(&self, max: usize) -> bool {
        self.inflight_bytes < max as u64 && self.inflight.len() < MAX_INFLIGHT
    }

    pub(super) fn matches(&mut self, index: u64) {
        self.matched = self.matched.max(index);
        while let Some((_, bytes)) = self.inflight.front().copied().filter(|(last, _)| *last <= index) {
            self.inflight.pop_front();
            self.inflight_bytes -= bytes;
        }
        self.next = self.next.max(index + 1);
    }

    pub(super) fn switch(&mut self, flow: Flow) {
        self.flow = flow;
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// Goes back to one message at a time, from this index on.
    pub(super) fn probe(&mut self, next: u64) {
        self.next = next.max(self.matched + 1);
        self.switch(Flow::Probe { waiting: false });
    }
}
