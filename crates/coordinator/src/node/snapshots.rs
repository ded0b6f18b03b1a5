//! Snapshots on their way to another server and from one, in parts.

use std::{io, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{Node, apply::Work, consensus::Input};
use crate::{
    peer::{Ask, Peer, SnapshotAnswer, SnapshotPart},
    raft::{EntryId, SnapshotVerdict},
    storage::{Image, Machine},
};

/// Bytes of one part.
const PART_BYTES: usize = 1024 * 1024;
/// Largest snapshot that is taken, in bytes: what one record can hold.
const MAX_BYTES: u64 = u32::MAX as u64;
/// Time for the answer to a part. The last one is answered when the snapshot has been decoded.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// A snapshot of which a part has arrived.
#[derive(Debug)]
pub(super) struct Incoming {
    from: u64,
    last: EntryId,
    bytes: Vec<u8>,
}

/// Sends the newest snapshot, which must cover everything up to an index; the index that it covers.
pub(super) async fn send(machine: &Machine, work: &mpsc::UnboundedSender<Work>, peer: &Peer, term: u64, base: u64) -> io::Result<u64> {
    let mut found = machine.on_disk().await?;
    if found.as_ref().is_none_or(|(last, _)| last.index < base) {
        let (reply, wait) = oneshot::channel();
        let _ = work.send(Work::Snapshot(reply));
        wait.await.map_err(io::Error::other)?;
        found = machine.on_disk().await?;
    }
    let (last, bytes) = found.ok_or_else(|| io::Error::other("there is no snapshot"))?;
    let mut offset = 0;
    let mut restarts = 0;
    loop {
        let end = (offset + PART_BYTES).min(bytes.len());
        let done = end == bytes.len();
        let part = SnapshotPart { term, last, offset: offset as u64, data: bytes[offset..end].to_vec(), done };
        match peer.call::<SnapshotAnswer>(&Ask::Snapshot(part), PART_TIMEOUT).await? {
            SnapshotAnswer::More if !done => offset = end,
            SnapshotAnswer::Restart if restarts < 3 => {
                restarts += 1;
                offset = 0;
            }
            SnapshotAnswer::Taken => return Ok(last.index),
            SnapshotAnswer::Stale => return Err(io::Error::other("another server leads")),
            other => return Err(io::Error::other(format!("unexpected answer {other:?}"))),
        }
    }
}

impl Node {
    /// Takes a part of a snapshot.
    pub(super) async fn receive_snapshot(&self, from: u64, part: SnapshotPart) -> Result<SnapshotAnswer, String> {
        if part.term < self.view().status.term {
            return Ok(SnapshotAnswer::Stale);
        }
        let mut incoming = self.incoming.lock().await;
        if part.offset == 0 {
            *incoming = Some(Incoming { from, last: part.last, bytes: Vec::new() });
        }
        let fits = |i: &&mut Incoming| i.from == from && i.last == part.last && i.bytes.len() as u64 == part.offset;
        let Some(held) = incoming.as_mut().filter(fits) else { return Ok(SnapshotAnswer::Restart) };
        if part.offset + part.data.len() as u64 > MAX_BYTES {
            *incoming = None;
            return Err(format!("a snapshot of more than {MAX_BYTES} bytes"));
        }
        held.bytes.extend_from_slice(&part.data);
        if !part.done {
            return Ok(SnapshotAnswer::More);
        }
        let Some(Incoming { bytes, last, .. }) = incoming.take() else { return Ok(SnapshotAnswer::Restart) };
        let decoded = tokio::task::spawn_blocking(move || Image::received(&bytes, last).map(|image| (image, bytes))).await;
        let (image, bytes) = decoded.map_err(|e| e.to_string())?.inspect_err(|e| {
            self.refusals.warn(|| format!("refused a snapshot of server.{from}: {e}"));
        })?;
        let (reply, wait) = oneshot::channel();
        self.consensus.tell(Input::Snapshot { from, term: part.term, image: Box::new(image), bytes, reply });
        match wait.await.map_err(|_| "consensus has ended")? {
            SnapshotVerdict::Stale(_) => Ok(SnapshotAnswer::Stale),
            SnapshotVerdict::Known | SnapshotVerdict::Install => Ok(SnapshotAnswer::Taken),
        }
    }
}
