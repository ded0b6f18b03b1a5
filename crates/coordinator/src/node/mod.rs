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
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

mod apply;
mod consensus;
mod containers;
mod driver;
mod members;
mod outgoing;
mod proposals;
mod serve;
mod sessions;
mod snapshots;
mod standing;

use tokio::sync::{mpsc, oneshot, watch};

use apply::Applier;
pub use consensus::View;
use consensus::{Consensus, Input};
use driver::Driver;
use proposals::MAX_BATCH;
use standing::Mark;
pub use standing::{Standing, Status};

use crate::{
    acl::permits,
    config::Config,
    peer::{
        self, Book,
        bind::Binding,
        handshake::{Identity, Known},
        secret::Secret,
    },
    protocol::{EventType, event, perm},
    raft::{Raft, Role, Stored},
    reconfigure::{self, Target, keeps_majority},
    server::{Connections, turns},
    state::{Answer, Applied, Command, Origin, State},
    storage::{Hooks, LogStore, Machine, StorageFault, at, format},
    throttle::Throttle,
    tree::Event,
    watches::{ConnectionId, Watches},
};

/// Time for another server to take over from one that stops.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("{0}")]
    Storage(#[from] StorageFault),
    /// The ensemble that the data belong to is another one.
    #[error(
        "{path}: asks for {wanted}, but the data in {dir} belong to an ensemble of {stored}: fewer than a majority of its voters would stay\n\
         hint: {hint}"
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
        /// what to do
        hint: String,
    },
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
    pending: HashMap<u64, Waiter>,
}

/// Who waits for a command.
#[derive(Debug)]
enum Waiter {
    /// one that asks for nothing else
    Caller(oneshot::Sender<(i64, Answer)>),
    /// a connection, which is answered in its turn
    Connection(ConnectionId),
}

impl Local {
    /// Nobody knows what becomes of a command: whoever waits for it is told so. A client looks again over another connection.
    fn give_up(&mut self, seq: u64) {
        if let Some(Waiter::Connection(id)) = self.pending.remove(&seq) {
            // With all that it asked for behind that: a client's requests happen in their order, or not at all.
            self.pending.retain(|_, waiter| !matches!(waiter, Waiter::Connection(other) if *other == id));
            self.connections.close(id);
        }
    }
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
        if let Some(session) = applied.moved {
            local.connections.close_others(session, |id| self.origin.of_connection(id) == command.origin);
        }
        if command.origin.is_of_run(&self.origin)
            && let Some(waiter) = local.pending.remove(&command.seq)
        {
            match waiter {
                Waiter::Caller(caller) => drop(caller.send((state.zxid, applied.answer))),
                Waiter::Connection(id) => turns::applied(state, local, id, command.seq, applied.answer),
            }
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
    consensus: Consensus,
    origin: Origin,
    peers: Arc<Book>,
    /// what the `zoo.cfg` of other servers ask for, and when they said so
    targets: Mutex<BTreeMap<u64, (Instant, Target)>>,
    log: LogStore,
    machine: Machine,
    incoming: tokio::sync::Mutex<Option<snapshots::Incoming>>,
    refusals: Throttle,
    /// held from hearing of sessions until their commands are appended
    order: tokio::sync::Mutex<()>,
    seq: AtomicU64,
    proposals: mpsc::Sender<proposals::Queued>,
    /// sessions whose client was heard here since the last report to the leader
    touched: Mutex<HashMap<i64, ()>>,
    /// on the leader: when each session was last heard
    heard: Mutex<sessions::Heard>,
    standing: watch::Sender<Standing>,
    mark: Mark,
    serving: watch::Sender<bool>,
    /// read-only clients are served, since there is no majority
    read_only: AtomicBool,
    /// key to the passwords of sessions that this run gives to read-only clients
    read_only_key: Secret,
    stopping: AtomicBool,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Node {
    /// Opens the data directory and starts Raft, peers and timers.
    pub async fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let dir = config.data_dir.join("version-2");
        let origin = Origin::new_run(config.id);
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
        let machine = Machine::open(&dir, state.clone(), hooks, covered)?;
        let log = LogStore::open(&dir, covers)?;
        let stored = stored(&dir, &log, &machine).await?;
        check_members(&config, &stored)?;
        let identity = Identity { me: config.id, others: Known::default(), secret: config.peer_secret.clone() };
        let max_frame = peer::max_frame_bytes(config.max_request_bytes);
        let peers = Arc::new(Book::new(identity.clone(), max_frame));
        peers.set(&members::known(&config, stored.log.membership(), None));
        let raft = Raft::new(driver::settings(config.id), stored, !marked, rand::random());
        let (inputs, heard) = mpsc::unbounded_channel();
        let (work, works) = mpsc::unbounded_channel();
        let driver = Driver::new(raft, (log.clone(), machine.clone()), dir.clone(), peers.clone(), work, inputs.clone());
        let consensus = Consensus { inputs: inputs.clone(), view: driver.view.subscribe() };
        let applier = Applier::new(machine.clone(), log.clone(), inputs, config.snap_count.min(20_000));
        let (proposals, queue) = mpsc::channel(4 * MAX_BATCH);
        let (serving, _) = watch::channel(false);
        let node = Arc::new(Self {
            config,
            state,
            local,
            consensus,
            origin,
            peers,
            targets: Mutex::default(),
            log,
            machine,
            incoming: tokio::sync::Mutex::default(),
            refusals: Throttle::default(),
            order: tokio::sync::Mutex::default(),
            seq: AtomicU64::new(1),
            proposals,
            touched: Mutex::default(),
            heard: Mutex::default(),
            standing,
            mark,
            serving,
            read_only: AtomicBool::new(false),
            read_only_key: Secret::random(),
            stopping: AtomicBool::new(false),
        });
        if let Some(me) = node.config.members.get(&node.config.id) {
            let listener = peer::Listener::new(identity, max_frame, node.clone());
            Binding::start(node.config.id, me.clone(), node.config.listen_everywhere, listener)
                .await
                .map_err(|(address, e)| StartError::Listen(address, e))?;
        }
        let keep = |what, work| node.clone().keep(what, work);
        keep("consensus", Box::pin(driver.run(heard)));
        keep("the task that applies", Box::pin(applier.run(works)));
        keep("the task that proposes", Box::pin(node.clone().propose(queue)));
        keep("the look for a leader", Box::pin(node.clone().watch_leadership()));
        keep("the task that ends sessions", Box::pin(node.clone().keep_sessions()));
        keep("the task that removes containers", Box::pin(node.clone().collect_containers()));
        keep("the task that finds out whether this server votes", Box::pin(node.clone().settle()));
        keep("the task that changes the ensemble", Box::pin(node.clone().keep_members()));
        Ok(node)
    }

    /// Runs a part of this server. A part that panics would leave a server that looks well and is not: the process ends, and what
    /// watches over it starts it again.
    fn keep(self: Arc<Self>, what: &'static str, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(async move {
            if let Err(e) = tokio::spawn(work).await
                && e.is_panic()
                && !self.stopping.load(Ordering::SeqCst)
            {
                tracing::error!("this server stops: {what} has failed: {e}");
                std::process::exit(1);
            }
        });
    }

    /// Whether this server has a leader with a majority, and serves clients.
    pub fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }

    /// Whether this server is cut off from a majority and serves clients that may be read-only.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::SeqCst)
    }

    /// The password of a session that this run of the server gives to a read-only client; nothing is kept of it.
    pub fn read_only_password(&self, session: i64) -> Vec<u8> {
        self.read_only_key.tag(&[&session.to_be_bytes()])[..16].to_vec()
    }

    /// Waits until this server serves.
    pub async fn wait_serving(&self) {
        let _ = self.serving.subscribe().wait_for(|s| *s).await;
    }

    /// Where consensus is.
    pub fn view(&self) -> View {
        self.consensus.view.borrow().clone()
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        self.consensus.view.borrow().leads()
    }

    /// The server that leads, as far as this one knows.
    pub fn leader_id(&self) -> Option<u64> {
        self.consensus.view.borrow().status.leader
    }

    async fn watch_leadership(self: Arc<Self>) {
        let mut view = self.consensus.view.clone();
        let grace = Duration::from_millis(3000);
        let mut cut_off = Instant::now();
        loop {
            let (serving, readable, fatal) = {
                let v = view.borrow_and_update();
                // Cut off from a majority, its clients' sessions end there: they must look for another server in time.
                // While another leader is elected they stay.
                let heard = v.applied.index > 0 && v.silence() < grace;
                let serving = match v.status.role {
                    Role::Leader if !self.is_serving() => v.status.leads_own_term && v.applied.term == v.status.term,
                    _ => heard,
                };
                // One that has no vote yet is not well: whoever rolls an ensemble must not stop the next.
                // Neither is one that is not yet, or no longer, what its line in zoo.cfg says.
                let member = v.membership.as_ref().is_some_and(|m| m.voters.contains(&self.config.id) || self.observes(m));
                let well = member && self.standing() == Standing::Full;
                (serving && well, well && v.applied.index > 0, v.failed.clone())
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
            if serving {
                cut_off = Instant::now();
            }
            self.set_read_only(!serving && readable && cut_off.elapsed() >= self.read_only_after());
            if self.serving.send_if_modified(|s| std::mem::replace(s, serving) != serving) {
                tracing::info!("{}", if serving { "serving clients" } else { "not serving clients: no leader with a majority" });
                if !serving {
                    locked(&self.local).connections.close_all();
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(500), view.changed()).await {
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

    /// Time without a majority after which read-only clients are served, as in ZooKeeper.
    fn read_only_after(&self) -> Duration {
        Duration::from_millis(self.config.tick_ms.max(2000))
    }

    fn set_read_only(&self, read_only: bool) {
        let read_only = read_only && self.config.read_only_mode;
        if self.read_only.swap(read_only, Ordering::SeqCst) != read_only {
            tracing::info!("{} read-only clients", if read_only { "serving" } else { "no longer serving" });
            if !read_only {
                // They look for a server that writes, which may be this one.
                locked(&self.local).connections.close_all();
            }
        }
    }

    /// A session id that no other server and no other run gives out: server in the upper byte, then the time.
    pub fn new_session_id(&self) -> i64 {
        let n = self.seq.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let low = ((now_ms() as u64) << 16 | n) & 0x00ff_ffff_ffff_ffff;
        (((self.config.id << 56) | low) & 0x7fff_ffff_ffff_ffff) as i64
    }

    /// Whether a session is that of a connection to this run of this server.
    pub fn owns(&self, state: &State, session: i64, id: ConnectionId) -> bool {
        state.sessions.get(&session).is_some_and(|s| s.owner == self.origin.of_connection(id))
    }

    /// Hands leadership over, if this server has it, closes the connections of clients and ends consensus here.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if self.is_leader() && !self.peers.is_empty() {
            let (reply, wait) = oneshot::channel();
            self.consensus.tell(Input::Transfer(None, reply));
            if let Ok(Some(to)) = wait.await {
                let handed = self.consensus.wait(HAND_OVER, |v| v.status.leader.is_some_and(|l| l != self.config.id)).await;
                tracing::info!("leadership {} to server.{to}", if handed { "went" } else { "did not go" });
            }
        }
        locked(&self.local).connections.close_all();
        let (reply, wait) = oneshot::channel();
        self.consensus.tell(Input::Stop(reply));
        let _ = wait.await;
    }

    /// Locks the state, then this server's side of it: always in this order.
    pub fn with<T>(&self, f: impl FnOnce(&State, &mut Local) -> T) -> T {
        let state = locked(&self.state);
        let mut local = locked(&self.local);
        f(&state, &mut local)
    }
}

/// What the core begins with.
async fn stored(dir: &std::path::Path, log: &LogStore, machine: &Machine) -> Result<Stored, StorageFault> {
    let (applied, membership) = machine.applied();
    if !log.agrees(applied) {
        // A snapshot was received, and the process ended before the log began anew behind it.
        log.reset(applied).await.map_err(at(dir))?;
    }
    let membership = membership.or_else(|| log.formation());
    if let Some(m) = &membership {
        machine.form(m.clone());
    } else if log.last().index > 0 {
        let reason = "there are entries, and nothing says which servers the ensemble has".to_owned();
        return Err(StorageFault::Damaged { path: dir.to_owned(), offset: 0, reason });
    }
    Ok(Stored { hard: log.hard_state(), log: log.view(membership), applied: applied.index })
}

/// Refuses servers of which too few were there when the log was written: the change to them could not be a safe one.
fn check_members(config: &Config, stored: &Stored) -> Result<(), StartError> {
    let members = config.membership();
    let target = Target(config.members.clone());
    let log = &stored.log;
    for known in [log.membership_at(stored.applied), log.membership()].into_iter().flatten() {
        let kept = if config.members.is_empty() { known.voters == members.voters } else { keeps_majority(known, &target) };
        if !kept {
            let named = |id: &u64| match (config.members.get(id), reconfigure::address(known, *id)) {
                (Some(m), _) => format!("server.{id} ({}:{})", m.host, m.port),
                (_, Some(address)) => format!("server.{id} ({address})"),
                _ => format!("server.{id}"),
            };
            let list = |all: &BTreeSet<u64>| all.iter().map(named).collect::<Vec<_>>().join(", ");
            let (wanted, stored) = (list(&members.voters), list(&known.voters));
            let hint = if members.voters.len() == 1 && members.voters.is_subset(&known.voters) {
                "to go on with one server, export the data and import them into an empty directory of a server that stands alone".to_owned()
            } else {
                format!(
                    "keep {} of those servers in zoo.cfg and change the ensemble in several steps; if the others made this change \
                     while this server was down, move {} away and it gets everything from them",
                    known.quorum(),
                    config.data_dir.join("version-2").display()
                )
            };
            return Err(StartError::Members { path: config.path.clone(), wanted, dir: config.data_dir.clone(), stored, hint });
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
