//! What the rest of the node sees of consensus: a handle to the driver, and a view of where it is.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    raft::{Change, ChangeError, Data, EntryId, Membership, Message, Role, SnapshotVerdict, Status},
    storage::Image,
};

/// Time of one tick of the core.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// What the driver is told.
pub(super) enum Input {
    /// a message of another server
    Message(u64, Message, OwnedSemaphorePermit),
    /// a connection of another server ended
    Lost(u64),
    /// append these commands in this term; answered once their entry is applied here
    Propose { term: u64, data: Data, reply: oneshot::Sender<Result<Proposed, String>> },
    /// answered with the index to be applied before a read
    Read(oneshot::Sender<Option<u64>>),
    /// a write is durable
    Persisted(u64, std::io::Result<()>),
    /// whether the disk can be written to
    Probed(std::io::Result<()>),
    /// entries up to this one are applied
    Applied(EntryId),
    /// a snapshot up to this entry is durable
    Snapshotted(EntryId),
    /// a snapshot was sent up to this index, or not
    SnapshotSent(u64, Option<u64>),
    /// a snapshot has arrived
    Snapshot { from: u64, term: u64, image: Box<Image>, bytes: Vec<u8>, reply: oneshot::Sender<SnapshotVerdict> },
    /// the snapshot is in place
    Installed(Membership),
    /// the ensemble is formed, and that is durable here
    Form(Membership),
    /// this server has a vote
    Voting,
    /// change the membership in this term; answered with the index of the entry
    Change { term: u64, change: Change, reply: oneshot::Sender<Result<u64, ChangeError>> },
    /// leadership goes to this server, or to the one with most of the log; answered with that, once it was asked
    Transfer(Option<u64>, oneshot::Sender<Option<u64>>),
    /// nothing more is done; answered when that is so
    Stop(oneshot::Sender<()>),
    /// something failed without which this server cannot go on
    Failed(String),
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proposed {
    /// it is committed, and applied on the leader
    Committed,
    /// nothing was appended
    NotTaken,
}

/// Where consensus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// the core's view
    pub status: Status,
    /// the newest membership in the log, committed or not; none on a blank server
    pub membership: Option<Arc<Membership>>,
    /// the last entry that is applied here
    pub applied: EntryId,
    /// why consensus has ended
    pub failed: Option<String>,
}

impl View {
    /// Whether this server leads.
    pub fn leads(&self) -> bool {
        self.status.role == Role::Leader
    }

    /// Time since the leader, or on it a majority, was heard; in steps of half a second.
    pub fn silence(&self) -> Duration {
        TICK * u32::try_from(self.status.silent_ticks).unwrap_or(u32::MAX / 1000)
    }
}

/// A handle; clones lead to the same driver.
#[derive(Clone)]
pub(super) struct Consensus {
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) view: watch::Receiver<View>,
}

impl Consensus {
    pub(super) fn tell(&self, input: Input) {
        // Without a driver the process is about to end.
        let _ = self.inputs.send(input);
    }

    /// Appends in this term, if this server leads it.
    pub(super) fn propose(&self, term: u64, data: Data) -> oneshot::Receiver<Result<Proposed, String>> {
        let (reply, wait) = oneshot::channel();
        self.tell(Input::Propose { term, data, reply });
        wait
    }

    /// Changes the membership, if this server leads this term; the index of the entry.
    pub(super) async fn change(&self, term: u64, change: Change) -> Result<u64, ChangeError> {
        let (reply, wait) = oneshot::channel();
        self.tell(Input::Change { term, change, reply });
        wait.await.unwrap_or(Err(ChangeError::Pending))
    }

    /// On the leader: the index that must be applied to read everything that is committed.
    pub(super) async fn read_index(&self) -> Result<u64, String> {
        let (reply, wait) = oneshot::channel();
        self.tell(Input::Read(reply));
        match tokio::time::timeout(Duration::from_secs(5), wait).await {
            Ok(Ok(Some(index))) => Ok(index),
            Ok(_) => Err("this server does not lead".into()),
            Err(_) => Err("no majority in time".into()),
        }
    }

    /// Waits until something is so, for so long at the most.
    pub(super) async fn wait(&self, time: Duration, is: impl FnMut(&View) -> bool) -> bool {
        let mut view = self.view.clone();
        matches!(tokio::time::timeout(time, view.wait_for(is)).await, Ok(Ok(_)))
    }
}
