//! The network: delays, losses, reordering, cuts of one direction or both. Messages to and from the coordinators keep their order.

use std::collections::{BTreeMap, BTreeSet};

use crate::{clients::FIRST_CLIENT, message::ZNODES, rng::Rng};

/// The network.
#[derive(Default)]
pub struct Network {
    /// Directions on which nothing arrives.
    pub cut: BTreeSet<(i32, i32)>,
    /// Directions that are slow.
    pub slow: BTreeSet<(i32, i32)>,
    /// Messages of a thousand that are lost, but for those of the coordinators.
    pub loss: i64,
    last: BTreeMap<(i32, i32), i64>,
    /// Messages that were lost.
    pub lost: u64,
    /// Messages that arrive after one that was sent later.
    pub reordered: u64,
}

impl Network {
    /// When a message arrives; `None` if it does not.
    pub fn deliver(&mut self, from: i32, to: i32, now: i64, rng: &mut Rng) -> Option<i64> {
        let ordered = from == ZNODES || to == ZNODES;
        let slow = !ordered && self.slow.contains(&(from, to));
        if self.cut.contains(&(from, to)) || !ordered && rng.per_mille(self.loss) {
            self.lost += 1;
            return None;
        }
        let delay = if slow { rng.range(1, 220) } else { rng.range(1, 5) };
        let last = self.last.entry((from, to)).or_default();
        let mut at = now + delay;
        if ordered {
            at = at.max(*last);
        } else if at < *last && from < FIRST_CLIENT {
            self.reordered += 1;
        }
        *last = (*last).max(at);
        Some(at)
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.loss = 0;
    }
}
