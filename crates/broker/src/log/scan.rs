//! Walks over the heads of a segment's batches.
//!
//! Invariant: memory is that of one piece; small batches are read many at a time, large ones are skipped.

use super::{LogError, Segment};
use crate::batch::{HEAD_BYTES, Head};

/// Bytes that are read at once.
const PIECE: usize = 32 * 1024;

impl Segment {
    /// Shows the heads of all batches from the one that holds an offset on, with their positions.
    pub fn scan(&self, from: i64, see: &mut dyn FnMut(&Head, u32) -> Result<(), LogError>) -> Result<(), LogError> {
        let mut position = self.position_of(from)?;
        let (mut piece, mut begins) = (Vec::new(), position);
        let mut last_size = 0;
        while position < self.size() {
            let within = (position - begins) as usize;
            let head = match piece.get(within..within + HEAD_BYTES).and_then(Head::parse) {
                Some(head) => head,
                None => {
                    let left = (self.size() - position) as usize;
                    piece.resize(if last_size > PIECE { HEAD_BYTES } else { PIECE }.min(left), 0);
                    begins = position;
                    self.read_at(&mut piece, position)?;
                    let Some(head) = Head::parse(&piece) else { break };
                    head
                }
            };
            see(&head, position)?;
            last_size = head.size;
            position = position.saturating_add(head.size as u32);
        }
        Ok(())
    }

    /// The bytes of a batch.
    pub fn batch_at(&self, head: &Head, position: u32) -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; head.size.min((self.size() - position) as usize)];
        self.read_at(&mut bytes, position)?;
        Ok(bytes)
    }
}
