//! The network: delays, losses, duplicates, reordering, cuts of one direction or both.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Rng;

/// The network.
#[derive(Default)]
pub struct Network {
    /// directions in which nothing arrives
    pub cut: BTreeSet<(u64, u64)>,
    /// directions that are slow and out of order
    pub slow: BTreeSet<(u64, u64)>,
    /// messages of a thousand that are lost
    pub loss: u64,
    /// messages of a thousand that arrive twice
    pub twice: u64,
    last: BTreeMap<(u64, u64), u64>,
    pub lost: u64,
    pub reordered: u64,
    pub repeated: u64,
}

impl Network {
    /// When a message arrives: never, once or twice.
    pub fn deliver(&mut self, from: u64, to: u64, now: u64, rng: &mut Rng) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || rng.per_mille(self.loss) {
            self.lost += 1;
            return Vec::new();
        }
        let slow = self.slow.contains(&(from, to));
        let delay = |rng: &mut Rng| match slow {
            // As after a cut, when TCP tries again later and later.
            true if rng.per_mille(30) => rng.range(300, 4000),
            true => rng.range(1, 300),
            false => rng.range(1, 5),
        };
        let last = self.last.entry((from, to)).or_default();
        let mut at = now + delay(rng);
        if !slow {
            // A connection keeps its order, but for what a slow time left behind.
            at = at.max((*last).min(now + 5));
        }
        self.reordered += u64::from(at < *last);
        *last = (*last).max(at);
        let mut all = vec![at];
        if rng.per_mille(self.twice) {
            self.repeated += 1;
            all.push(at + rng.range(1, 200));
        }
        all
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.loss = 0;
        self.twice = 0;
    }
}
