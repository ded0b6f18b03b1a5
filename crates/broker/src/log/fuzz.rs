//! What the log reads from its files, as functions of bytes: see [`crate::fuzz`].

use std::collections::HashMap;

use super::{
    checkpoints,
    compaction::{self, OffsetMap, Policy},
    epochs, snapshots,
    transactions::{self, Aborted},
};
use crate::batch::Head;

/// Compacts a batch, as one of a transaction that was aborted and as one that was not.
pub fn compact(batch: &[u8], head: &Head) {
    let aborted = [Aborted { producer_id: head.producer_id, first_offset: 0, last_offset: i64::MAX, last_stable_offset: 0 }];
    for aborted in [&[][..], &aborted] {
        let mut map = OffsetMap::new(100, 1 << 16);
        let _ = compaction::note(&mut map, batch, head, 0, aborted);
        let policy = Policy { map: &map, now: i64::MAX, delete_retention_ms: 0, producers: &HashMap::new(), aborted };
        let _ = compaction::compact(batch, head, &policy);
    }
}

/// Reads bytes as each of the files that are read as a whole.
pub fn files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (checkpoints::parse(&text), epochs::parse(&text), snapshots::decode(bytes), transactions::parse(bytes));
    // Little else would come through.
    let mut copy = bytes.to_vec();
    if copy.len() > 10 {
        let crc = crc32c::crc32c(&copy[6..]);
        copy[2..6].copy_from_slice(&crc.to_be_bytes());
        let _ = snapshots::decode(&copy);
    }
}
