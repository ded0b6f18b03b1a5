//! The driver: the one loop that does IO around the Raft core.
//!
//! Invariant: the core's commands are carried out in their order, and what is reported to it has happened.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use super::{
    apply::Work,
    consensus::{Input, Proposed, TICK, View},
    outgoing::Outgoing,
    snapshots,
};
use crate::{
    peer::{Ask, Book},
    raft::{Body, Command, EntryId, Membership, Message, ProposeError, Raft, Role, Settings, SnapshotVerdict},
    storage::{Image, LogStore, LogWrite, MAX_TERM, Machine, probe},
};

/// Inputs that are taken together before commands are carried out.
const MAX_INPUTS: usize = 256;
/// Ticks that are made up for at once.
const MAX_TICKS: u128 = 10;
/// Log that is on disk before a snapshot replaces it, in bytes, and what is kept of it for followers that are behind.
pub(super) const MAX_LOG_BYTES: usize = 128 * 1024 * 1024;
const KEPT_LOG_BYTES: usize = 32 * 1024 * 1024;
/// Entries that are kept behind a snapshot.
const KEPT_ENTRIES: u64 = 2000;

/// Settings of the core for a server.
pub(super) fn settings(me: u64) -> Settings {
    Settings {
        me,
        election_ticks: 60,
        lease_ticks: 40,
        heartbeat_ticks: 5,
        max_term: MAX_TERM - 1,
        max_message_bytes: 1024 * 1024,
        max_inflight_bytes: 8 * 1024 * 1024,
        max_uncommitted_bytes: 64 * 1024 * 1024,
    }
}

type Waiter = (EntryId, oneshot::Sender<Result<Proposed, String>>);

pub(super) struct Driver {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) machine: Machine,
    pub(super) dir: PathBuf,
    pub(super) peers: Arc<Book>,
    outgoing: Outgoing,
    pub(super) work: mpsc::UnboundedSender<Work>,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) view: watch::Sender<View>,
    /// who waits for an entry, by index
    waiters: BTreeMap<u64, Waiter>,
    readers: HashMap<u64, oneshot::Sender<Option<u64>>>,
    next_read: u64,
    applied: EntryId,
    membership: Option<Arc<Membership>>,
    incoming: Option<(Box<Image>, Vec<u8>)>,
    failed: Option<String>,
    stopped: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        raft: Raft,
        (log, machine): (LogStore, Machine),
        dir: PathBuf,
        peers: Arc<Book>,
        work: mpsc::UnboundedSender<Work>,
        inputs: mpsc::UnboundedSender<Input>,
    ) -> Self {
        let applied = machine.applied().0;
        let membership = raft.membership().cloned().map(Arc::new);
        let (view, _) = watch::channel(View { status: raft.status(), membership: membership.clone(), applied, failed: None });
        Self {
            raft,
            machine,
            dir,
            outgoing: Outgoing::new(log.clone(), peers.clone(), inputs.clone()),
            log,
            peers,
            work,
            inputs,
            view,
            waiters: BTreeMap::new(),
            readers: HashMap::new(),
            next_read: 0,
            applied,
            membership,
            incoming: None,
            failed: None,
            stopped: None,
        }
    }

    /// Runs until something fails, or nobody has a handle any more.
    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Input>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticked = Instant::now();
        while self.failed.is_none() && self.stopped.is_none() {
            tokio::select! {
                input = queue.recv() => match input {
                    Some(input) => self.input(input),
                    None => return,
                },
                _ = ticks.tick() => {
                    // On a busy machine ticks come late. A process that was stopped has heard nobody meanwhile: its
                    // time stood still.
                    let due = ticked.elapsed().as_millis() / TICK.as_millis();
                    ticked += TICK * u32::try_from(due).unwrap_or(u32::MAX);
                    (0..due.min(MAX_TICKS)).for_each(|_| self.raft.tick());
                }
            }
            for _ in 0..MAX_INPUTS {
                let Ok(input) = queue.try_recv() else { break };
                self.input(input);
            }
            self.carry_out();
            self.publish();
        }
        // What is written is on its way to the disk before this.
        let stopped = self.stopped.take();
        drop(self);
        stopped.map(|reply| reply.send(()));
    }

    fn publish(&mut self) {
        let mut status = self.raft.status();
        // Not a change in each tick.
        status.silent_ticks -= status.silent_ticks % 25;
        let (before, role) = {
            let view = self.view.borrow();
            (view.status.leader, view.status.role)
        };
        if status.role != role {
            tracing::debug!("{role:?} becomes {:?} in term {}", status.role, status.term);
        }
        if let Some(leader) = status.leader.filter(|l| before != Some(*l)) {
            tracing::info!("server.{leader} leads term {}", status.term);
        }
        if self.membership.as_deref() != self.raft.membership() {
            self.membership = self.raft.membership().cloned().map(Arc::new);
        }
        let next = View { status, membership: self.membership.clone(), applied: self.applied, failed: self.failed.clone() };
        self.view.send_if_modified(|view| std::mem::replace(view, next) != *view);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Message(from, message, _held) => self.raft.receive(from, message),
            Input::Lost(server) => {
                tracing::debug!("the connection of server.{server} ended; leader: {:?}", self.raft.status().leader);
                self.raft.lost(server);
            }
            Input::Propose { term, data, reply } => {
                let status = self.raft.status();
                if status.role != Role::Leader || status.term != term {
                    return drop(reply.send(Ok(Proposed::NotTaken)));
                }
                match self.raft.propose(data) {
                    Ok(id) => drop(self.waiters.insert(id.index, (id, reply))),
                    Err(_) => drop(reply.send(Ok(Proposed::NotTaken))),
                }
            }
            Input::Read(reply) => {
                self.next_read += 1;
                self.readers.insert(self.next_read, reply);
                self.raft.read(self.next_read);
            }
            Input::Persisted(number, Ok(())) => self.raft.persisted(number),
            Input::Persisted(_, Err(e)) => self.failed = Some(format!("{}: {e}", self.dir.display())),
            Input::Probed(result) => {
                if let Err(e) = &result {
                    tracing::error!("this server does not stand for election: {e}");
                }
                self.raft.probed(result.is_ok());
            }
            Input::Applied(id) => self.applied(id),
            Input::Snapshotted(id) => self.purge(id.index),
            Input::SnapshotSent(to, index) => self.raft.snapshot_sent(to, index),
            Input::Snapshot { from, term, image, bytes, reply } => {
                let verdict = self.raft.offer_snapshot(from, term, image.last());
                if verdict == SnapshotVerdict::Install {
                    self.incoming = Some((image, bytes));
                }
                let _ = reply.send(verdict);
            }
            Input::Installed(membership) => self.raft.installed(membership),
            Input::Form(membership) => self.raft.form(membership),
            Input::Voting => self.raft.set_voting(true),
            Input::Change { term, change, reply } => {
                let mine = self.raft.status().term == term;
                let done = if mine { self.raft.change(&change) } else { Err(ProposeError::NotLeader.into()) };
                let _ = reply.send(done.map(|id| id.index));
            }
            Input::Transfer(to, reply) => drop(reply.send(self.raft.transfer(to).ok())),
            Input::Stop(reply) => self.stopped = Some(reply),
            Input::Failed(e) => self.failed = Some(e),
        }
    }

    fn applied(&mut self, id: EntryId) {
        self.applied = self.applied.max(id);
        while let Some(first) = self.waiters.first_entry().filter(|w| *w.key() <= id.index) {
            let (index, (wanted, reply)) = first.remove_entry();
            let result = match self.raft.log().id(index) {
                Some(there) if there == wanted => Ok(Proposed::Committed),
                _ => Err("the leader was replaced".to_owned()),
            };
            let _ = reply.send(result);
        }
    }

    fn carry_out(&mut self) {
        for command in self.raft.take() {
            match command {
                Command::Write { number, hard, truncate, entries } => {
                    let inputs = self.inputs.clone();
                    self.log.write(LogWrite { truncate, entries, hard }, move |result| {
                        let _ = inputs.send(Input::Persisted(number, result));
                    });
                }
                Command::Send { to, message } => self.send(to, message),
                Command::SendEntries { to, term, prev, last, commit, round } => {
                    let message = move |entries| Message { term, body: Body::Append { prev, commit, round, entries } };
                    if last.index <= prev.index {
                        // While entries before it are still read, it would be refused, and they be sent again: it is a sign of life only.
                        let prev = if self.outgoing.is_reading(to) { EntryId::default() } else { prev };
                        self.send(to, Message { term, body: Body::Append { prev, commit, round, entries: Vec::new() } });
                    } else {
                        self.outgoing.send(to, prev.index + 1, last, message);
                    }
                }
                Command::SendSnapshot { to, term } => {
                    let Some(peer) = self.peers.get(to) else { continue };
                    let (machine, work, inputs) = (self.machine.clone(), self.work.clone(), self.inputs.clone());
                    let from = self.raft.log().base().index;
                    tokio::spawn(async move {
                        let sent = snapshots::send(&machine, &work, &peer, term, from).await;
                        if let Err(e) = &sent {
                            tracing::info!("a snapshot for server.{to} did not arrive: {e}");
                        }
                        let _ = inputs.send(Input::SnapshotSent(to, sent.ok()));
                    });
                }
                Command::Install { .. } => {
                    if let Some((image, bytes)) = self.incoming.take() {
                        let _ = self.work.send(Work::Install(image, bytes));
                    }
                }
                Command::Apply { upto } => {
                    self.log.set_committed(upto);
                    let _ = self.work.send(Work::Apply(upto));
                }
                Command::Read { token, index } => {
                    if let Some(reader) = self.readers.remove(&token) {
                        let _ = reader.send(index);
                    }
                }
                Command::Probe => {
                    let (dir, inputs) = (self.dir.clone(), self.inputs.clone());
                    tokio::task::spawn_blocking(move || inputs.send(Input::Probed(probe(&dir))));
                }
            }
        }
    }

    fn send(&self, to: u64, message: Message) {
        if let Some(peer) = self.peers.get(to) {
            peer.send(&Ask::Raft(message));
        }
    }

    /// Purges what a snapshot up to this index covers, but for what followers may need.
    fn purge(&mut self, covered: u64) {
        let by_count = covered.saturating_sub(KEPT_ENTRIES);
        let by_bytes = if self.log.bytes() > MAX_LOG_BYTES { self.log.index_before_last(KEPT_LOG_BYTES).unwrap_or(0) } else { 0 };
        let upto = by_count.max(by_bytes).min(covered);
        let Some(id) = self.raft.log().id(upto).filter(|id| id.index > self.raft.log().base().index) else { return };
        self.raft.compact(upto);
        let (log, inputs) = (self.log.clone(), self.inputs.clone());
        tokio::spawn(async move {
            if let Err(e) = log.purge(id).await {
                let _ = inputs.send(Input::Failed(e.to_string()));
            }
        });
    }
}
