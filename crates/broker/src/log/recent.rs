//! Where the last batches of a segment begin, so that readers at its end need not walk to them.
//!
//! Invariant: what it holds are the segment's last batches, without a gap; it answers only where it knows the batch before too.

use std::collections::VecDeque;

use super::index::Position;

/// Batches that are remembered. Between two index entries there are as many small ones.
const MOST: usize = 64;

/// The last batches, by their last offsets.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Position>);

impl Recent {
    /// A batch was appended.
    pub fn push(&mut self, batch: Position) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(batch);
    }

    /// Forgets all, and the memory.
    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// Where the batch begins that holds a relative offset, or the first one behind it, if that is known.
    pub fn position_of(&self, relative: u32) -> Option<u32> {
        let i = self.0.partition_point(|b| b.relative < relative);
        let found = self.0.get(i)?;
        (i > 0 || found.position == 0).then_some(found.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_answered() {
        let mut recent = Recent::default();
        assert_eq!(recent.position_of(0), None);
        for i in 0..10 {
            recent.push(Position { relative: i * 3 + 2, position: i * 100 });
        }
        assert_eq!([0, 2, 3, 29, 30].map(|o| recent.position_of(o)), [Some(0), Some(0), Some(100), Some(900), None]);
        for i in 10..70 {
            recent.push(Position { relative: i * 3 + 2, position: i * 100 });
        }
        // The first that is remembered is the seventh: what is before it may be in an earlier one.
        assert_eq!([17, 20, 21, 209].map(|o| recent.position_of(o)), [None, None, Some(700), Some(6900)]);
        recent.clear();
        assert_eq!(recent.position_of(209), None);
    }
}
