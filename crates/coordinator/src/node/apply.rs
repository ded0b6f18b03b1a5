//! The task that changes the state: entries that are committed, snapshots that were received; and makes snapshots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{consensus::Input, driver::MAX_LOG_BYTES};
use crate::{
    raft::EntryId,
    storage::{Image, LogStore, Machine},
};

/// Pause after a snapshot that could not be written.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Bytes of entries that are applied at once.
const MAX_APPLIED_BYTES: usize = 4 * 1024 * 1024;

/// What is to be done, in this order.
pub(super) enum Work {
    /// apply the log up to this index
    Apply(u64),
    /// put a snapshot in the place of state and log
    Install(Box<Image>, Vec<u8>),
    /// make a snapshot; answered once it is durable
    Snapshot(oneshot::Sender<()>),
}

/// Between half of it and all: the servers of an ensemble, which apply the same entries, make their snapshots at different times, as
/// ZooKeeper's do (SyncRequestProcessor).
fn some_of(every: u64) -> u64 {
    every - rand::random_range(0..=every / 2)
}

pub(super) struct Applier {
    pub(super) machine: Machine,
    pub(super) log: LogStore,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    /// entries between two snapshots, at the most
    pub(super) every: u64,
    /// entries until the next one
    after: u64,
    snapshotting: Arc<AtomicBool>,
    /// index of the last snapshot that was begun
    covered: u64,
}

impl Applier {
    pub(super) fn new(machine: Machine, log: LogStore, inputs: mpsc::UnboundedSender<Input>, every: u64) -> Self {
        let covered = machine.applied().0.index;
        Self { machine, log, inputs, every, after: some_of(every), snapshotting: Arc::default(), covered }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Work>) {
        while let Some(work) = queue.recv().await {
            if let Err(e) = self.work(work).await {
                let _ = self.inputs.send(Input::Failed(e));
                return;
            }
        }
    }

    async fn work(&mut self, work: Work) -> Result<(), String> {
        match work {
            Work::Apply(upto) => {
                while self.machine.applied().0.index < upto {
                    let from = self.machine.applied().0.index + 1;
                    let entries = self.log.read(from..=upto, MAX_APPLIED_BYTES).map_err(|e| e.to_string())?;
                    if entries.is_empty() {
                        return Err(format!("entry {from} is committed, and not in the log"));
                    }
                    self.machine.apply(entries)?;
                    self.tell_applied();
                    tokio::task::yield_now().await;
                }
                self.snapshot_if_due();
            }
            Work::Install(image, bytes) => {
                let last = image.last();
                // The snapshot first: without it, a log that begins behind it is not the whole story.
                self.machine.keep(last, bytes).await.map_err(|e| e.to_string())?;
                self.log.reset(last).await.map_err(|e| e.to_string())?;
                self.covered = last.index;
                let membership = self.machine.replace(*image);
                let _ = self.inputs.send(Input::Installed(membership));
                self.tell_applied();
            }
            Work::Snapshot(reply) => {
                let machine = self.machine.clone();
                // What is committed meanwhile is applied: writers do not wait for a server that lacks much.
                tokio::spawn(async move {
                    match machine.snapshot().await {
                        Ok(_) => drop(reply.send(())),
                        Err(e) => tracing::error!("a snapshot for another server cannot be written: {e}"),
                    }
                });
            }
        }
        Ok(())
    }

    fn tell_applied(&self) {
        let last: EntryId = self.machine.applied().0;
        let _ = self.inputs.send(Input::Applied(last));
    }

    fn snapshot_if_due(&mut self) {
        let applied = self.machine.applied().0.index;
        let many = applied.saturating_sub(self.covered) >= self.after;
        let large = self.log.bytes() > MAX_LOG_BYTES && applied > self.covered;
        if !(many || large) || self.snapshotting.swap(true, Ordering::SeqCst) {
            return;
        }
        self.covered = applied;
        self.after = some_of(self.every);
        let (machine, inputs, busy) = (self.machine.clone(), self.inputs.clone(), self.snapshotting.clone());
        tokio::spawn(async move {
            match machine.snapshot().await {
                Ok(last) => drop(inputs.send(Input::Snapshotted(last))),
                // The log has everything, and stays until there is a snapshot. If it is the disk, the log says so soon.
                Err(e) => {
                    tracing::error!("a snapshot cannot be written: {e}; the log stays, and it is tried again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            busy.store(false, Ordering::SeqCst);
        });
    }
}
