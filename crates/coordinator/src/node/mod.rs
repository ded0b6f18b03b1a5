//! The node: Raft, the replicated state, this server's connections, and who waits for which answer.
//!
//! Invariant: a client's answer is made when its command is applied on the server that it is connected to, so
//! a client never sees its own write later than its answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

mod containers;
mod election;
mod network;
mod proposals;
mod serve;
mod sessions;
mod standing;

use openraft::{Config as RaftConfig, LogIdOptionExt, Raft, ServerState, SnapshotPolicy, StorageHelper};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use election::Candidacy;
use network::Network;
use proposals::MAX_BATCH;
use standing::Mark;
pub use standing::{Standing, Status};

use crate::{
    acl::permits,
    config::{Config, Member},
    peer::{self, Peer, bind::Binding, handshake::Identity},
    protocol::{EventType, event, perm},
    server::Connections,
    state::{Answer, Applied, Ask, Command, Origin, State},
    storage::{Hooks, LogStore, Machine, StorageFault, TypeConfig, format},
    throttle::Throttle,
    tree::Event,
    watches::Watches,
};

/// Log that is on disk before a snapshot replaces it, in bytes, and what is kept of it for followers that are behind.
const MAX_LOG_BYTES: usize = 128 * 1024 * 1024;
const KEPT_LOG_BYTES: usize = 32 * 1024 * 1024;
/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("{0}")]
    Storage(#[from] StorageFault),
    /// The ensemble that the data belong to is another one.
    #[error(
        "{path}: the ensemble has {wanted}, but the data in {dir} belong to one of {stored}\n\
         hint: an ensemble keeps the servers that it was formed with; restore the lines, or start with an empty directory on each server"
    )]
    Members {
        /// the configuration
        path: PathBuf,
        /// the servers in it
        wanted: String,
        /// the data
        dir: PathBuf,
        /// the servers in them
        stored: String,
    },
    /// Raft.
    #[error("consensus does not start: {0}")]
    Raft(String),
    /// A socket.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
}

/// What changes together with the state, under its own lock.
#[derive(Debug, Default)]
pub struct Local {
    /// watches of this server's clients
    pub watches: Watches,
    /// this server's clients
    pub connections: Connections,
    /// data of `/zookeeper/config`; empty on a server that stands alone
    pub configuration: String,
    /// for watches that find no room
    pub(crate) full: Throttle,
    /// who waits for a command, by its number
    pending: HashMap<u64, oneshot::Sender<(i64, Answer)>>,
}

/// Told of what is applied; see [`Hooks`].
struct Listener {
    origin: Origin,
    local: Arc<Mutex<Local>>,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hooks for Listener {
    fn applied(&self, state: &State, command: &Command, applied: Applied) {
        let local = &mut *locked(&self.local);
        for Event { kind, path, acl } in &applied.events {
            for connection in local.watches.fire(*kind, path) {
                // Whoever may not read the node hears nothing, and has lost its watch nevertheless.
                if permits(acl, perm::READ, &local.connections.rights(connection)).is_ok() {
                    local.connections.send(connection, event(*kind, path));
                }
            }
        }
        for session in applied.closed {
            local.connections.close_session(session);
        }
        if let Some(session) = applied.moved.filter(|_| command.origin != self.origin) {
            local.connections.close_session(session);
        }
        if command.origin == self.origin
            && let Some(waiter) = local.pending.remove(&command.seq)
        {
            let _ = waiter.send((state.zxid, applied.answer));
        }
    }

    fn replaced(&self, _state: &State) {
        // Events in between are lost, so clients must look again: they come back with setWatches.
        let local = &mut *locked(&self.local);
        local.connections.close_all();
        local.pending.clear();
    }
}

/// A running node.
pub struct Node {
    /// its configuration
    pub config: Config,
    /// the replicated state
    pub state: Arc<Mutex<State>>,
    /// this server's side of it
    pub local: Arc<Mutex<Local>>,
    /// Raft
    pub raft: Raft<TypeConfig>,
    origin: Origin,
    peers: BTreeMap<u64, Peer>,
    log: LogStore,
    incoming: tokio::sync::Mutex<Option<serve::Incoming>>,
    refusals: Throttle,
    /// held from hearing of sessions until their commands are appended
    order: tokio::sync::Mutex<()>,
    seq: AtomicU64,
    proposals: mpsc::Sender<(u64, Ask)>,
    /// sessions whose client was heard here since the last report to the leader
    touched: Mutex<HashMap<i64, ()>>,
    /// on the leader: when each session was last heard
    heard: Mutex<sessions::Heard>,
    standing: watch::Sender<Standing>,
    mark: Mark,
    seen: Mutex<election::Seen>,
    hint: Notify,
    serving: watch::Sender<bool>,
    stopping: AtomicBool,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Node {
    /// Opens the data directory and starts Raft, peers and timers.
    pub async fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let dir = config.data_dir.join("version-2");
        let origin = Origin { server: config.id, boot: rand::random() };
        let state = Arc::new(Mutex::new(State::default()));
        let mut local = Local { configuration: config.members_text(), ..Local::default() };
        local.connections.skip_acl = config.skip_acl;
        let local = Arc::new(Mutex::new(local));
        let (covered, covers) = watch::channel(0);
        let hooks = Arc::new(Listener { origin, local: local.clone() });
        format::check(&dir)?;
        let (mark, marked) = Mark::set(&dir)?;
        // One that stands alone has nobody to ask.
        let (standing, _) = watch::channel(if marked { Standing::Undecided } else { Standing::Full });
        let mut machine = Machine::open(&dir, state.clone(), hooks, covered)?;
        let mut log = LogStore::open(&dir, covers)?;
        check_members(&config, &mut log, &mut machine).await?;
        log.begin_as_follower(config.id);
        let others = config.members.keys().copied().filter(|id| *id != config.id).collect();
        let identity = Identity { me: config.id, others, secret: config.peer_secret.clone() };
        let max_frame = peer::max_frame_bytes(config.max_request_bytes);
        let call = |(id, m): (&u64, &Member)| (*id, Peer::new(identity.clone(), *id, m.clone(), max_frame));
        let peers: BTreeMap<u64, Peer> = config.members.iter().filter(|(id, _)| **id != config.id).map(call).collect();
        let raft_config = RaftConfig {
            cluster_name: "septet".into(),
            heartbeat_interval: 200,
            // Time for an answer to a request for a vote, and the lease; the timer itself is this server's own.
            election_timeout_min: 650,
            election_timeout_max: election::LEASE.as_millis() as u64,
            enable_elect: false,
            install_snapshot_timeout: 60_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snap_count.min(20_000)),
            max_in_snapshot_log_to_keep: 2000,
            ..RaftConfig::default()
        };
        let raft_config = raft_config.validate().map_err(|e| StartError::Raft(e.to_string()))?;
        let raft = Raft::new(config.id, Arc::new(raft_config), Network(peers.clone()), log.clone(), machine)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let (proposals, queue) = mpsc::channel(4 * MAX_BATCH);
        let (serving, _) = watch::channel(false);
        let node = Arc::new(Self {
            config,
            state,
            local,
            raft,
            origin,
            peers,
            log,
            incoming: tokio::sync::Mutex::default(),
            refusals: Throttle::default(),
            order: tokio::sync::Mutex::default(),
            seq: AtomicU64::new(1),
            proposals,
            touched: Mutex::default(),
            heard: Mutex::default(),
            standing,
            mark,
            seen: Mutex::default(),
            hint: Notify::new(),
            serving,
            stopping: AtomicBool::new(false),
        });
        if let Some(me) = node.config.members.get(&node.config.id) {
            let listener = peer::Listener::new(identity, max_frame, node.clone());
            Binding::start(node.config.id, me.clone(), node.config.listen_everywhere, listener)
                .await
                .map_err(|(address, e)| StartError::Listen(address, e))?;
        }
        tokio::spawn(node.clone().propose(queue));
        tokio::spawn(node.clone().watch_leadership());
        tokio::spawn(node.clone().keep_sessions());
        tokio::spawn(node.clone().bound_log());
        tokio::spawn(node.clone().collect_containers());
        tokio::spawn(node.clone().stand_for_election());
        tokio::spawn(node.clone().settle());
        Ok(node)
    }

    /// Where log and snapshots are.
    fn directory(&self) -> PathBuf {
        self.config.data_dir.join("version-2")
    }

    /// Whether this server has a leader with a majority, and serves clients.
    pub fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }

    /// Waits until this server serves.
    pub async fn wait_serving(&self) {
        let _ = self.serving.subscribe().wait_for(|s| *s).await;
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// The server that leads, as far as this one knows.
    pub fn leader_id(&self) -> Option<u64> {
        self.raft.metrics().borrow().current_leader
    }

    /// Followers and servers that are caught up to within one heartbeat, as the leader knows them.
    pub fn followers(&self) -> (usize, usize) {
        let metrics = self.raft.metrics().borrow().clone();
        let last = metrics.last_applied.index();
        let synced = metrics
            .replication
            .map_or(0, |r| r.iter().filter(|(id, at)| **id != self.config.id && at.index().unwrap_or(0) + 50 >= last.unwrap_or(0)).count());
        (self.peers.len(), synced)
    }

    async fn watch_leadership(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        let grace = Duration::from_millis(3000);
        loop {
            let (serving, fatal) = {
                let m = metrics.borrow_and_update();
                let serving = match m.state {
                    // A leader without a majority does not step down by itself.
                    ServerState::Leader => {
                        m.last_applied.is_some_and(|l| l.leader_id == m.vote.leader_id)
                            && (self.peers.is_empty() || m.millis_since_quorum_ack.is_some_and(|t| t < grace.as_millis() as u64))
                    }
                    // Cut off from the leader, its clients' sessions end there: they must look for another server in time.
                    ServerState::Follower => m.current_leader.is_some() && m.last_applied.is_some() && self.leader_silent_for() < grace,
                    _ => false,
                };
                // One that has no vote yet is not well: whoever rolls an ensemble must not stop the next.
                (serving && self.standing() == Standing::Full, m.running_state.clone().err())
            };
            if let Some(e) = fatal {
                if !self.stopping.load(Ordering::SeqCst) {
                    // Storage failed: what is on disk cannot be trusted to grow, so this server must not go on.
                    tracing::error!("this server stops: {e}");
                    std::process::exit(1);
                }
                return;
            }
            if serving && !self.is_serving() {
                self.forget_silence();
            }
            if self.serving.send_if_modified(|s| std::mem::replace(s, serving) != serving) {
                tracing::info!("{}", if serving { "serving clients" } else { "not serving clients: no leader with a majority" });
                if !serving {
                    locked(&self.local).connections.close_all();
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(500), metrics.changed()).await {
                // Unless the whole runtime ends, and this task with it.
                tokio::time::sleep(Duration::from_millis(100)).await;
                if !self.stopping.load(Ordering::SeqCst) {
                    tracing::error!("this server stops: consensus has ended");
                    std::process::exit(1);
                }
                return;
            }
        }
    }

    /// Replaces log by snapshots when it has grown to a size in bytes: Raft itself counts entries only.
    async fn bound_log(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.log.bytes() <= MAX_LOG_BYTES {
                continue;
            }
            let (applied, covered) = {
                let m = self.raft.metrics();
                let m = m.borrow();
                (m.last_applied.index(), m.snapshot.index())
            };
            let Some(upto) = self.log.index_before_last(KEPT_LOG_BYTES) else { continue };
            let done = if covered >= Some(upto) {
                self.raft.trigger().purge_log(upto).await
            } else if applied > covered {
                self.raft.trigger().snapshot().await
            } else {
                continue;
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// A session id that no other server and no other run gives out: server in the upper byte, then the time.
    pub fn new_session_id(&self) -> i64 {
        let n = self.seq.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let low = ((now_ms() as u64) << 16 | n) & 0x00ff_ffff_ffff_ffff;
        (((self.config.id << 56) | low) & 0x7fff_ffff_ffff_ffff) as i64
    }

    /// Whether a session is this server's, in this run of it.
    pub fn owns(&self, state: &State, session: i64) -> bool {
        state.sessions.get(&session).is_some_and(|s| s.owner == self.origin)
    }

    /// Stops Raft; the log is closed.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        locked(&self.local).connections.close_all();
        let _ = self.raft.shutdown().await;
    }

    /// Locks the state, then this server's side of it: always in this order.
    pub fn with<T>(&self, f: impl FnOnce(&State, &mut Local) -> T) -> T {
        let state = locked(&self.state);
        let mut local = locked(&self.local);
        f(&state, &mut local)
    }
}

/// Refuses a set of servers that is not the one that the log was written by. Names and ports may change, numbers not.
async fn check_members(config: &Config, log: &mut LogStore, machine: &mut Machine) -> Result<(), StartError> {
    let stored = StorageHelper::new(log, machine).get_membership().await.map_err(|e| StartError::Raft(e.to_string()))?;
    let mut wanted: BTreeSet<u64> = config.members.keys().copied().collect();
    if wanted.is_empty() {
        wanted.insert(config.id);
    }
    let effective = stored.effective();
    for known in [stored.committed(), effective] {
        let ids: BTreeSet<u64> = known.voter_ids().collect();
        if !ids.is_empty() && ids != wanted {
            let named = |id: &u64| match (config.members.get(id), known.membership().get_node(id)) {
                (Some(m), _) => format!("server.{id} ({}:{})", m.host, m.port),
                (_, Some(n)) if !n.addr.is_empty() => format!("server.{id} ({})", n.addr),
                _ => format!("server.{id}"),
            };
            let list = |all: &BTreeSet<u64>| all.iter().map(named).collect::<Vec<_>>().join(", ");
            let (wanted, stored) = (list(&wanted), list(&ids));
            return Err(StartError::Members { path: config.path.clone(), wanted, dir: config.data_dir.clone(), stored });
        }
    }
    Ok(())
}

/// Events of `setWatches`: what changed since the client last looked.
pub fn missed(state: &State, since: i64, path: &str, kind: Missed) -> Option<EventType> {
    let stat = state.tree.get(if path.is_empty() { "/" } else { path }).map(|n| n.stat());
    match (kind, stat) {
        (Missed::Data, None) => Some(EventType::Deleted),
        (Missed::Data, Some(s)) => (s.mzxid > since).then_some(EventType::DataChanged),
        (Missed::Exist, Some(_)) => Some(EventType::Created),
        (Missed::Exist, None) => None,
        (Missed::Child, None) => Some(EventType::Deleted),
        (Missed::Child, Some(s)) => (s.pzxid > since).then_some(EventType::ChildrenChanged),
    }
}

/// Kinds of watches in `setWatches`.
#[derive(Debug, Clone, Copy)]
pub enum Missed {
    /// on data
    Data,
    /// on a node that did not exist
    Exist,
    /// on children
    Child,
}
