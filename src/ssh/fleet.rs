//! All hosts of a cluster: connections that are opened when they are needed and opened again when they were lost.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::future::join_all;
use russh::keys::PrivateKey;
use septet_agent_protocol::{Action, STATE_DIR, STORE_DIR};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::{
    AgentSession, Connection, Own, SshError,
    agent::{Start, agent_path, install},
    landing::Lands,
    relay::{self, Cargo},
};
use crate::{engine::bundle::Program, inventory::HostId, ssh::Blob};

/// Where a host's sshd is, and the key that it must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// the host's name, for messages
    pub name: String,
    /// address; of the control host as seen from here, of the others as seen from the control host
    pub host: String,
    /// port
    pub port: u16,
    /// `ssh-ed25519 AAAA…`; empty where `known_hosts` decides
    pub host_key: String,
    /// the way to a host that Septet did not make; `None` for one that is reached through the control host with the cluster's key
    pub own: Option<Arc<Own>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    agents: BTreeMap<Option<String>, Arc<AgentSession>>,
    /// connections for agents that the first one had no session left for (`MaxSessions`)
    further: Vec<Arc<Connection>>,
}

/// The hosts.
pub struct Fleet {
    endpoints: BTreeMap<HostId, Endpoint>,
    user: String,
    key: Arc<PrivateKey>,
    agents: BTreeMap<HostId, Program>,
    slots: BTreeMap<HostId, Mutex<Slot>>,
    down: BTreeMap<HostId, &'static str>,
    /// hosts that are asked at the same time, at the most
    at_once: usize,
    /// blobs that the control host has, by digest
    at_control: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
}

/// Hosts that are asked at the same time where `--forks` is 0.
const AT_ONCE: usize = 64;

/// Hosts that are asked at the same time, at the most, with this `--forks`.
pub fn at_once(forks: usize) -> usize {
    if forks == 0 { AT_ONCE } else { forks }
}

/// Runs futures, so many at a time; their results in order.
pub async fn all<F: Future>(at_once: usize, asks: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let limit = Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS));
    let one = async |ask: F| {
        // Never closed.
        let _turn = limit.acquire().await;
        ask.await
    };
    join_all(asks.into_iter().map(one)).await
}

/// An agent that was installed and cannot be started.
fn not_startable(words: &str) -> SshError {
    let noexec = if words.contains("ermission denied") {
        format!("; the file system of {STATE_DIR} may be mounted `noexec`: mount it with `exec`")
    } else {
        String::new()
    };
    SshError::Agent(format!("it does not start after installation: {words}{noexec}"))
}

/// The host through which the others are reached.
const JUMP: HostId = HostId::CONTROL;

impl Fleet {
    /// A fleet; nothing is connected yet. Each host has the agent for its architecture.
    pub fn new(endpoints: BTreeMap<HostId, Endpoint>, user: &str, key: Arc<PrivateKey>, agents: BTreeMap<HostId, Program>) -> Self {
        let slots = endpoints.keys().map(|id| (*id, Mutex::default())).collect();
        Self {
            endpoints,
            user: user.to_owned(),
            key,
            agents,
            slots,
            down: BTreeMap::new(),
            at_once: at_once(0),
            at_control: Mutex::default(),
        }
    }

    /// Where a host is.
    pub fn endpoint(&self, id: HostId) -> Option<&Endpoint> {
        self.endpoints.get(&id)
    }

    /// Hosts that do not run according to the provider, with their state: nothing is sent to them.
    pub fn with_down(mut self, down: BTreeMap<HostId, &'static str>) -> Self {
        self.down = down;
        self
    }

    /// `--forks`; 0 for the usual number.
    pub fn with_forks(mut self, forks: usize) -> Self {
        self.at_once = at_once(forks);
        self
    }

    /// What hosts are asked, not of more of them at the same time than is allowed; answers in the order of the questions.
    pub async fn all<F: Future>(&self, asks: impl IntoIterator<Item = F>) -> Vec<F::Output> {
        all(self.at_once, asks).await
    }

    fn through_jump(&self, why: &SshError) -> SshError {
        let name = self.endpoints.get(&JUMP).map_or("the control host", |e| e.name.as_str()).to_owned();
        SshError::Jump { name, why: why.to_string() }
    }

    /// Whether a host, and the one through which it is reached, run, as far as the provider knows.
    pub fn is_up(&self, id: HostId) -> Result<(), SshError> {
        if self.is_behind(id) && self.slots.contains_key(&JUMP) {
            self.is_up(JUMP).map_err(|e| self.through_jump(&e))?;
        }
        self.down.get(&id).map_or(Ok(()), |state| Err(SshError::Down(state)))
    }

    /// Whether a host is reached through the control host.
    fn is_behind(&self, id: HostId) -> bool {
        id != JUMP && self.endpoints.get(&id).is_none_or(|e| e.own.is_none())
    }

    async fn open(&self, id: HostId, to: &Endpoint) -> Result<Arc<Connection>, SshError> {
        if let Some(own) = &to.own {
            return Ok(Arc::new(Connection::open_own(&to.name, own).await?));
        }
        let jump = if self.is_behind(id) { Some(Box::pin(self.connection(JUMP)).await.map_err(|e| self.through_jump(&e))?) } else { None };
        Ok(Arc::new(Connection::open(to, &self.user, &self.key, jump.as_deref()).await?))
    }

    fn slot(&self, id: HostId) -> Result<(&Endpoint, &Mutex<Slot>), SshError> {
        match (self.endpoints.get(&id), self.slots.get(&id)) {
            (Some(e), Some(s)) => Ok((e, s)),
            _ => Err(SshError::Unreachable("the host does not exist: `septet up` makes it".into())),
        }
    }

    /// The connection to a host.
    pub async fn connection(&self, id: HostId) -> Result<Arc<Connection>, SshError> {
        // A host behind the control host is reported as that where the control host does not answer.
        if self.is_behind(id) {
            Box::pin(self.connection(JUMP)).await.map_err(|e| self.through_jump(&e))?;
        }
        self.is_up(id)?;
        let (endpoint, slot) = self.slot(id)?;
        let mut slot = slot.lock().await;
        if let Some(c) = slot.connection.as_ref().filter(|c| !c.is_closed()) {
            return Ok(c.clone());
        }
        slot.agents.clear();
        slot.further.clear();
        let connection = self.open(id, endpoint).await?;
        slot.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The agent on a host, running as a user.
    pub async fn agent(&self, id: HostId, become_user: Option<&str>) -> Result<Arc<AgentSession>, SshError> {
        let connection = self.connection(id).await?;
        let (endpoint, slot) = self.slot(id)?;
        let mut slot = slot.lock().await;
        let key = become_user.map(str::to_owned);
        if let Some(a) = slot.agents.get(&key).filter(|a| !a.is_closed()) {
            return Ok(a.clone());
        }
        let program = self.agents.get(&id).ok_or_else(|| SshError::Agent("there is none for this host's architecture".into()))?;
        let mut started = self.begin(id, &connection, program, become_user).await;
        if matches!(started, Err(Start::Failed(SshError::Sessions))) {
            let another = self.open(id, endpoint).await?;
            slot.further.push(another.clone());
            started = self.begin(id, &another, program, become_user).await;
        }
        let agent = Arc::new(started.map_err(|e| match e {
            Start::Missing(words) => not_startable(&words),
            Start::Failed(e) => e,
        })?);
        slot.agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Starts an agent on a connection, installed first where it is missing.
    async fn begin(&self, id: HostId, on: &Connection, program: &Program, become_user: Option<&str>) -> Result<AgentSession, Start> {
        match AgentSession::start(on, program, become_user).await {
            Err(Start::Missing(_)) => {
                self.install(id, on, program).await.map_err(Start::Failed)?;
                AgentSession::start(on, program, become_user).await
            }
            other => other,
        }
    }

    /// Puts the agent on a host: from the control host, which has the same one, else from here.
    async fn install(&self, id: HostId, connection: &Connection, program: &Program) -> Result<(), SshError> {
        if id != JUMP && self.agents.get(&JUMP) == Some(program) && !self.connection(JUMP).await?.cannot_relay() {
            // The control host has the agent once it has run it.
            Box::pin(self.agent(JUMP, None)).await?;
            let path = agent_path(program);
            let cargo = Cargo { path: &path, digest: &program.digest, lands: Lands::Program };
            if self.relay(id, cargo).await.is_ok() {
                return Ok(());
            }
        }
        install(connection, program).await
    }

    /// Sends a file that the control host has from there to another host.
    pub async fn relay(&self, id: HostId, cargo: Cargo<'_>) -> Result<(), SshError> {
        let (endpoint, _) = self.slot(id)?;
        let control = self.connection(JUMP).await?;
        relay::send(&control, endpoint, cargo).await
    }

    /// Puts a blob where the host's agent can use it: into the host's store, by way of the control host, which gets it once; or
    /// from here if the control host cannot relay (it lacks OpenSSH's client, or that is older than 8.9). A private blob, and one
    /// for an agent that cannot read the store, always goes from here to the agent itself and lies on no disk.
    pub async fn put(&self, id: HostId, agent: &AgentSession, blob: &Blob) -> Result<(), SshError> {
        if !self.slots.contains_key(&JUMP)
            || blob.private
            || !agent.is_root()
            || (id != JUMP && self.connection(JUMP).await?.cannot_relay())
        {
            return agent.put(blob).await;
        }
        let cell = self.at_control.lock().await.entry(blob.digest.clone()).or_default().clone();
        let there = cell.get_or_try_init(|| async {
            let control = self.agent(JUMP, Some("root")).await?;
            let answer = control.perform(Action::Missing { digests: vec![blob.digest.clone()] }, false).await?;
            let missing = answer.values.get("missing").and_then(|m| m.as_array()).is_none_or(|m| !m.is_empty());
            if missing { control.put(blob).await } else { Ok(()) }
        });
        there.await?;
        // The control host may need it itself; it was not to be sent there twice at the same time.
        if id == JUMP {
            return Ok(());
        }
        let path = format!("{STORE_DIR}/{}", blob.digest);
        let cargo = Cargo { path: &path, digest: &blob.digest, lands: Lands::Blob };
        match self.relay(id, cargo).await {
            Ok(()) => Ok(()),
            Err(_) => agent.put(blob).await,
        }
    }

    /// The connection to the control host, from which every host's ports can be reached.
    pub async fn control(&self) -> Result<Arc<Connection>, SshError> {
        self.connection(JUMP).await
    }

    /// Ends all connections.
    pub async fn close(&self) {
        for slot in self.slots.values() {
            let mut slot = slot.lock().await;
            slot.agents.clear();
            for c in slot.further.drain(..) {
                c.close().await;
            }
            if let Some(c) = slot.connection.take() {
                c.close().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_hosts_are_asked_at_a_time_than_allowed_and_answers_keep_their_order() {
        for limit in [1, 3, 100] {
            let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let asks = (0..20usize).map(|n| {
                let (running, most) = (&running, &most);
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // The first end last.
                    for _ in n..20 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    n
                }
            });
            assert!(all(limit, asks).await.into_iter().eq(0..20));
            assert_eq!(most.into_inner(), limit.min(20));
        }
        assert_eq!((at_once(0), at_once(7)), (AT_ONCE, 7));
    }
}
