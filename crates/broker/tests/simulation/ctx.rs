//! What a step may use and what it leaves behind: time, randomness, messages to send, facts.

use crate::{bugs::Bug, facts::Fact, message::Body, rng::Rng};

/// Surroundings of a step.
pub struct Ctx {
    /// Milliseconds.
    pub now: i64,
    /// The run's randomness.
    pub rng: Rng,
    /// A planted bug.
    pub bug: Option<Bug>,
    /// Messages to send: from, to, what.
    pub out: Vec<(i32, i32, Body)>,
    /// What happened.
    pub facts: Vec<Fact>,
    ids: u64,
}

impl Ctx {
    /// At the beginning.
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        Self { now: 0, rng: Rng::new(seed), bug, out: Vec::new(), facts: Vec::new(), ids: 0 }
    }

    /// Whether a bug is planted.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A number that was not used before.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Sends.
    pub fn send(&mut self, from: i32, to: i32, body: Body) {
        self.out.push((from, to, body));
    }
}
