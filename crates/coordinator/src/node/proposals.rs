//! Commands on their way into the log, and reads that wait for what is in it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use openraft::LogIdOptionExt;
use tokio::sync::{mpsc, oneshot};

use super::{Node, locked, now_ms};
use crate::{
    peer,
    state::{Answer, Ask, Command},
    storage::Batch,
    throttle::Throttle,
};

/// Commands proposed together, at the most.
pub(super) const MAX_BATCH: usize = 1000;
/// Bytes of data proposed together, about.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A proposal that is not committed by then is given up; its clients are disconnected.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Queues a command; its answer comes when it is applied here. An error means that the outcome is unknown.
    pub async fn command(&self, ask: Ask) -> oneshot::Receiver<(i64, Answer)> {
        let (answer, wait) = oneshot::channel();
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        locked(&self.local).pending.insert(seq, answer);
        if self.proposals.send((seq, ask)).await.is_err() {
            locked(&self.local).pending.remove(&seq);
        }
        wait
    }

    pub(super) async fn propose(self: Arc<Self>, mut queue: mpsc::Receiver<(u64, Ask)>) {
        let mut held = None;
        let uncertain = Throttle::default();
        loop {
            let first = match held.take() {
                Some(f) => f,
                None => match queue.recv().await {
                    Some(f) => f,
                    None => return,
                },
            };
            let (mut seqs, mut commands, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(first);
            while let Some((seq, ask)) = next.take() {
                bytes += weight(&ask);
                seqs.push(seq);
                commands.push(Command { origin: self.origin, seq, time_ms: 0, ask });
                if commands.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
                    next = queue.try_recv().ok();
                }
            }
            if let Err(e) = self.propose_batch(commands).await {
                uncertain.warn(|| format!("{} commands are not known to be committed: {e}", seqs.len()));
                let local = &mut *locked(&self.local);
                for seq in seqs {
                    local.pending.remove(&seq);
                }
            }
        }
    }

    /// Does what only this leader of this term can do, and gives up when there is another leader or term.
    async fn unless_replaced<T>(&self, leader: Option<u64>, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let mut metrics = self.raft.metrics();
        let term = metrics.borrow().current_term;
        tokio::select! {
            done = work => done,
            _ = metrics.wait_for(|m| m.current_term != term || m.current_leader != leader) => Err("the leader was replaced".into()),
        }
    }

    async fn propose_batch(&self, commands: Vec<Command>) -> Result<(), String> {
        let leader = self.raft.metrics().borrow().current_leader;
        self.unless_replaced(leader, self.propose_to(leader, commands)).await
    }

    async fn propose_to(&self, leader: Option<u64>, commands: Vec<Command>) -> Result<(), String> {
        match leader {
            Some(id) if id == self.config.id => self.commit(commands).await,
            Some(id) => match self.peers.get(&id) {
                Some(peer) => peer.call::<()>(&peer::Ask::Propose(commands), PROPOSAL_TIMEOUT).await.map_err(|e| e.to_string()),
                None => Err(format!("leader {id} is not in zoo.cfg")),
            },
            None => Err("there is no leader".into()),
        }
    }

    /// On the leader: stamps the time and replicates.
    pub(super) async fn commit(&self, commands: Vec<Command>) -> Result<(), String> {
        let order = self.order.lock().await;
        // A client that comes to another server just in time must not be ended before that server's next report.
        self.hear(commands.iter().filter_map(|c| match c.ask {
            Ask::CreateSession { id, .. }
            | Ask::MoveSession { id, .. }
            | Ask::Write { session: id, .. }
            | Ask::OldWrite { session: id, .. } => Some(id),
            Ask::CloseSession { .. } | Ask::Expire { .. } | Ask::Collect { .. } => None,
        }));
        self.append(order, commands).await
    }

    /// Appends to the log, never to another leader's, and waits until that is committed. The order of appends is that
    /// in which the lock is taken.
    pub(super) async fn append(&self, order: tokio::sync::MutexGuard<'_, ()>, mut commands: Vec<Command>) -> Result<(), String> {
        let now = now_ms();
        commands.iter_mut().for_each(|c| c.time_ms = now);
        let done = self.raft.client_write_ff(Batch(commands)).await.map_err(|e| e.to_string())?;
        drop(order);
        match tokio::time::timeout(PROPOSAL_TIMEOUT, done).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(e))) => Err(e.to_string()),
            Ok(Err(_)) => Err("consensus has ended".into()),
            Err(_) => Err("no majority in time".into()),
        }
    }

    /// A command of this server's own, for which nobody waits.
    pub(super) fn own_command(&self, ask: Ask) -> Command {
        Command { origin: self.origin, seq: self.seq.fetch_add(1, Ordering::Relaxed), time_ms: 0, ask }
    }

    /// Waits until this server has applied all that was committed when this was called.
    pub async fn catch_up(&self) -> Result<(), String> {
        let leader = self.raft.metrics().borrow().current_leader;
        self.unless_replaced(leader, self.catch_up_with(leader)).await
    }

    async fn catch_up_with(&self, leader: Option<u64>) -> Result<(), String> {
        let index = match leader {
            Some(id) if id == self.config.id => self.read_index().await?,
            Some(id) => match self.peers.get(&id) {
                Some(p) => p.call::<Option<u64>>(&peer::Ask::ReadIndex, Duration::from_secs(5)).await.map_err(|e| e.to_string())?,
                None => return Err(format!("leader {id} is not in zoo.cfg")),
            },
            None => return Err("there is no leader".into()),
        };
        if let Some(index) = index {
            self.raft.wait(Some(Duration::from_secs(5))).applied_index_at_least(Some(index), "sync").await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    pub(super) async fn read_index(&self) -> Result<Option<u64>, String> {
        let read = tokio::time::timeout(Duration::from_secs(5), self.raft.ensure_linearizable()).await;
        Ok(read.map_err(|_| "no majority in time")?.map_err(|e| e.to_string())?.index())
    }
}

fn weight(ask: &Ask) -> usize {
    match ask {
        Ask::Write { write, .. } => 64 + write.bytes(),
        _ => 64,
    }
}
