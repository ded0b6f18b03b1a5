//! All hosts of a cluster: connections that are opened when they are needed and opened again when they were lost.

use std::{collections::BTreeMap, sync::Arc};

use russh::keys::PrivateKey;
use tokio::sync::Mutex;

use super::{AgentSession, Connection, SshError};
use crate::{
    engine::bundle::Program,
    inventory::{HostId, Role},
};

/// Where a host's sshd is, and the key that it must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// the host's name, for messages
    pub name: String,
    /// address; of the control host as seen from here, of the others as seen from the control host
    pub host: String,
    /// port
    pub port: u16,
    /// `ssh-ed25519 AAAA…`
    pub host_key: String,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    agents: BTreeMap<Option<String>, Arc<AgentSession>>,
}

/// The hosts.
pub struct Fleet {
    endpoints: BTreeMap<HostId, Endpoint>,
    user: String,
    key: Arc<PrivateKey>,
    agent: Program,
    slots: BTreeMap<HostId, Mutex<Slot>>,
}

/// The host through which the others are reached.
const JUMP: HostId = HostId { role: Role::Control, index: 1 };

impl Fleet {
    /// A fleet; nothing is connected yet.
    pub fn new(endpoints: BTreeMap<HostId, Endpoint>, user: &str, key: Arc<PrivateKey>, agent: Program) -> Self {
        let slots = endpoints.keys().map(|id| (*id, Mutex::default())).collect();
        Self { endpoints, user: user.to_owned(), key, agent, slots }
    }

    /// Where a host is.
    pub fn endpoint(&self, id: HostId) -> Option<&Endpoint> {
        self.endpoints.get(&id)
    }

    fn slot(&self, id: HostId) -> Result<(&Endpoint, &Mutex<Slot>), SshError> {
        match (self.endpoints.get(&id), self.slots.get(&id)) {
            (Some(e), Some(s)) => Ok((e, s)),
            _ => Err(SshError::Unreachable("there is no such host".into())),
        }
    }

    /// The connection to a host.
    pub async fn connection(&self, id: HostId) -> Result<Arc<Connection>, SshError> {
        let jump = if id == JUMP {
            None
        } else {
            let name = self.endpoints.get(&JUMP).map(|e| e.name.clone()).unwrap_or_default();
            Some(Box::pin(self.connection(JUMP)).await.map_err(|_| SshError::Jump(name))?)
        };
        let (endpoint, slot) = self.slot(id)?;
        let mut slot = slot.lock().await;
        if let Some(c) = slot.connection.as_ref().filter(|c| !c.is_closed()) {
            return Ok(c.clone());
        }
        slot.agents.clear();
        let connection = Arc::new(Connection::open(endpoint, &self.user, &self.key, jump.as_deref()).await?);
        slot.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The agent on a host, running as a user.
    pub async fn agent(&self, id: HostId, become_user: Option<&str>) -> Result<Arc<AgentSession>, SshError> {
        let connection = self.connection(id).await?;
        let (_, slot) = self.slot(id)?;
        let mut slot = slot.lock().await;
        let key = become_user.map(str::to_owned);
        if let Some(a) = slot.agents.get(&key).filter(|a| !a.is_closed()) {
            return Ok(a.clone());
        }
        let agent = Arc::new(AgentSession::start(&connection, &self.agent, become_user).await?);
        slot.agents.insert(key, agent.clone());
        Ok(agent)
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
            if let Some(c) = slot.connection.take() {
                c.close().await;
            }
        }
    }
}
