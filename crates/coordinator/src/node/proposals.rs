//! Commands on their way into the log, and reads that wait for what is in it.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{MutexGuard, mpsc, oneshot};

use super::{Node, Waiter, consensus::Proposed, locked, now_ms};
use crate::{
    peer,
    server::turns::{self, Turn},
    state::{Answer, Ask, Command, Origin},
    storage::encode_commands,
    throttle::Throttle,
    watches::ConnectionId,
};

/// Commands proposed together, at the most.
pub(super) const MAX_BATCH: usize = 1000;
/// Bytes of data proposed together, about.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a message has around its entries, at the most.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// A proposal that is not committed by then is given up; its clients are disconnected.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which there must be a leader, and in which it shows what became of the proposals to the one before.
const LEADER_TIMEOUT: Duration = Duration::from_secs(4);

/// A command that waits to be proposed.
pub(super) struct Queued {
    seq: u64,
    origin: Origin,
    ask: Ask,
}

impl Node {
    /// Queues a command; its answer comes when it is applied here. An error means that the outcome is unknown.
    pub async fn command(&self, ask: Ask) -> oneshot::Receiver<(i64, Answer)> {
        self.command_of(self.origin, ask).await
    }

    /// The same for a connection, which has the session that it makes or moves.
    pub(crate) async fn command_of_connection(&self, id: ConnectionId, ask: Ask) -> oneshot::Receiver<(i64, Answer)> {
        self.command_of(self.origin.of_connection(id), ask).await
    }

    async fn command_of(&self, origin: Origin, ask: Ask) -> oneshot::Receiver<(i64, Answer)> {
        let (answer, wait) = oneshot::channel();
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        // The place first: who stops waiting for one leaves nothing behind.
        if let Ok(place) = self.proposals.reserve().await {
            locked(&self.local).pending.insert(seq, Waiter::Caller(answer));
            place.send(Queued { seq, origin, ask });
        }
        wait
    }

    /// Queues a client's command; its turn, which is made with the command's number, is answered when it is applied here.
    pub(crate) async fn command_in_turn(&self, ask: Ask, id: ConnectionId, turn: impl FnOnce(u64) -> Turn) {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = self.proposals.reserve().await else { return };
        self.with(|state, local| {
            // Nothing of a connection that is given up may happen: what came before it did not.
            if local.connections.is_open(id) {
                local.pending.insert(seq, Waiter::Connection(id));
                turns::enqueue(state, local, id, turn(seq));
                place.send(Queued { seq, origin: self.origin.of_connection(id), ask });
            }
        });
    }

    pub(super) async fn propose(self: Arc<Self>, mut queue: mpsc::Receiver<Queued>) {
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
            while let Some(Queued { seq, origin, ask }) = next.take() {
                // One that was given up since must not happen after all.
                if self.is_waited_for(seq) {
                    bytes += weight(&ask);
                    seqs.push(seq);
                    commands.push(Command { origin, seq, time_ms: 0, ask });
                }
                if commands.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
                    next = queue.try_recv().ok();
                }
            }
            if commands.is_empty() {
                continue;
            }
            if let Err(e) = self.propose_batch(commands).await {
                uncertain.warn(|| format!("{} commands are not known to be committed: {e}", seqs.len()));
                let local = &mut *locked(&self.local);
                for seq in seqs {
                    local.give_up(seq);
                }
            }
        }
    }

    fn is_waited_for(&self, seq: u64) -> bool {
        locked(&self.local).pending.contains_key(&seq)
    }

    /// Waits until nobody waits for any of these commands: all are applied here, whatever became of the leader's answer.
    async fn answered(&self, commands: &[Command]) {
        let mut view = self.consensus.view.clone();
        // The last is applied last.
        while commands.iter().rev().any(|c| self.is_waited_for(c.seq)) {
            if view.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Does what only this leader of this term can do, and gives up when there is another leader or term.
    async fn unless_replaced<T>(&self, leader: u64, term: u64, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let mut view = self.consensus.view.clone();
        tokio::select! {
            done = work => done,
            _ = view.wait_for(|v| v.status.term != term || v.status.leader.is_some_and(|l| l != leader)) => {
                Err("the leader was replaced".into())
            }
        }
    }

    /// The leader and its term, once there is one.
    async fn leader(&self, deadline: Instant) -> Result<(u64, u64), String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.consensus.wait(left, |v| v.status.leader.is_some()).await;
        let status = &self.consensus.view.borrow().status;
        status.leader.map(|leader| (leader, status.term)).ok_or_else(|| "there is no leader".into())
    }

    /// Proposes until the commands are applied. What became of a proposal to a leader that was replaced is known once
    /// an entry of a later term is applied here: a command that was not applied by then never will be, since no
    /// server takes it in another term than the one that it was proposed for. So it is proposed again.
    async fn propose_batch(&self, mut commands: Vec<Command>) -> Result<(), String> {
        let mut deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            let (leader, term) = self.leader(deadline).await?;
            let began = Instant::now();
            let proposed = tokio::select! {
                biased;
                done = self.unless_replaced(leader, term, self.propose_to(leader, term, &commands)) => done,
                () = self.answered(&commands) => return Ok(()),
            };
            let error = match proposed {
                Ok(Proposed::Committed) => return Ok(()),
                Ok(Proposed::NotTaken) => {
                    if began > deadline {
                        return Err("no leader takes them".into());
                    }
                    let other = |v: &super::View| v.status.term != term || v.status.leader != Some(leader);
                    self.consensus.wait(Duration::from_millis(50), other).await;
                    continue;
                }
                Err(e) => e,
            };
            // The time with a leader does not count.
            deadline = deadline.max(Instant::now() + LEADER_TIMEOUT / 2);
            let left = deadline.saturating_duration_since(Instant::now());
            let later = tokio::select! {
                later = self.consensus.wait(left, |v| v.applied.term > term) => later,
                () = self.answered(&commands) => return Ok(()),
            };
            if !later {
                return Err(error);
            }
            let local = locked(&self.local);
            commands.retain(|c| local.pending.contains_key(&c.seq));
            if commands.is_empty() {
                return Ok(());
            }
        }
    }

    async fn propose_to(&self, leader: u64, term: u64, commands: &[Command]) -> Result<Proposed, String> {
        if leader == self.config.id {
            let taken = self.commit(term, commands.to_vec()).await?;
            return Ok(if taken { Proposed::Committed } else { Proposed::NotTaken });
        }
        let Some(peer) = self.peers.get(leader) else { return Err(format!("server.{leader} leads and is not known here")) };
        match peer.call::<bool>(&peer::Ask::Propose { term, commands: commands.to_vec() }, PROPOSAL_TIMEOUT).await {
            Ok(true) => Ok(Proposed::Committed),
            Ok(false) => Ok(Proposed::NotTaken),
            // The question did not leave.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Proposed::NotTaken),
            Err(e) => Err(e.to_string()),
        }
    }

    /// On the leader of this term: stamps the time and replicates; false if this server does not lead it.
    pub(super) async fn commit(&self, term: u64, commands: Vec<Command>) -> Result<bool, String> {
        let order = self.order.lock().await;
        // A client that comes to another server just in time must not be ended before that server's next report.
        self.hear(commands.iter().filter_map(|c| match c.ask {
            Ask::CreateSession { id, .. }
            | Ask::MoveSession { id, .. }
            | Ask::Write { session: id, .. }
            | Ask::OldWrite { session: id, .. } => Some(id),
            Ask::CloseSession { .. } | Ask::Expire { .. } | Ask::Collect { .. } => None,
        }));
        Ok(self.append(order, term, commands).await? == Proposed::Committed)
    }

    /// Appends to the log of this term, never to another leader's, and waits until that is committed. The order of
    /// appends is that in which the lock is taken.
    pub(super) async fn append(&self, order: MutexGuard<'_, ()>, term: u64, mut commands: Vec<Command>) -> Result<Proposed, String> {
        let now = now_ms();
        commands.iter_mut().for_each(|c| c.time_ms = now);
        let data = encode_commands(&commands).map_err(|e| e.to_string())?;
        // What does not fit into a message would be in this log and in no other.
        if data.0.len() + ENVELOPE_BYTES > peer::max_frame_bytes(self.config.max_request_bytes) {
            return Err(format!("commands of {} bytes are too long for other servers", data.0.len()));
        }
        let done = self.consensus.propose(term, data);
        drop(order);
        match tokio::time::timeout(PROPOSAL_TIMEOUT, done).await {
            Ok(Ok(done)) => done,
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
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            let (leader, term) = self.leader(deadline).await?;
            match self.unless_replaced(leader, term, self.read_index_of(leader)).await {
                Ok(index) if self.consensus.wait(Duration::from_secs(5), |v| v.applied.index >= index).await => return Ok(()),
                Ok(_) => return Err("not applied in time".into()),
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn read_index_of(&self, leader: u64) -> Result<u64, String> {
        if leader == self.config.id {
            return self.consensus.read_index().await;
        }
        let Some(peer) = self.peers.get(leader) else { return Err(format!("server.{leader} leads and is not known here")) };
        peer.call::<u64>(&peer::Ask::ReadIndex, Duration::from_secs(5)).await.map_err(|e| e.to_string())
    }
}

fn weight(ask: &Ask) -> usize {
    match ask {
        Ask::Write { write, .. } => 64 + write.bytes(),
        _ => 64,
    }
}
