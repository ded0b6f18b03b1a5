//! Randomness from a seed: SplitMix64.

/// A generator; the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included, and another one below `parts`.
    pub(super) fn between_and_part(&mut self, low: u64, high: u64, parts: u64) -> (u64, u64) {
        let next = self.next();
        (low + next % (high.saturating_sub(low) + 1), (next >> 32) % parts)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.between_and_part(low, high, 1).0
    }
}
