//! Providers: where hosts come from. What exists is asked of the provider each time; nothing local is believed.
//!
//! Invariant: only what carries the cluster's UUID is ever changed or removed.

pub mod docker;

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    inventory::{HostId, Inventory, ProviderSettings},
    plan::Step,
    playbook::runner::Boxed,
    ssh::Endpoint,
};

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// it runs
    Running,
    /// it is stopped
    Stopped,
    /// it is frozen
    Paused,
    /// it was made and never started: what it needs may not be in it
    Unfinished,
}

/// A host that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedHost {
    /// who it is
    pub id: HostId,
    /// the provider's own id
    pub reference: String,
    /// its name now
    pub name: String,
    /// what it is doing
    pub state: HostState,
    /// its address inside of the cluster's network
    pub address: Ipv4Addr,
    /// its SSH host key as planted
    pub host_key: String,
    /// ports that are published on this machine: inner to outer
    pub published: BTreeMap<u16, u16>,
}

/// The cluster's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNetwork {
    /// the provider's own id
    pub reference: String,
    /// its subnet
    pub subnet: docker::Subnet,
    /// first of the published ports
    pub ports_from: u16,
}

/// What exists of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// the cluster's identity; `None` if nothing of it exists
    pub uuid: Option<String>,
    /// its network
    pub network: Option<ObservedNetwork>,
    /// its hosts
    pub hosts: Vec<ObservedHost>,
    /// names that others have, with what has them
    pub taken: BTreeMap<String, String>,
}

impl Observed {
    /// A host.
    pub fn host(&self, id: HostId) -> Option<&ObservedHost> {
        self.hosts.iter().find(|h| h.id == id)
    }
}

/// Something that carries the cluster's UUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// container, network, volume
    pub kind: &'static str,
    /// its name
    pub name: String,
    /// the provider's own id
    pub id: String,
}

/// What a step needs to know beside itself.
pub struct Site<'a> {
    /// the cluster's identity
    pub uuid: &'a str,
    /// what is wanted
    pub inventory: &'a Inventory,
    /// what there was when the plan was made
    pub observed: &'a Observed,
    /// line for `authorized_keys`
    pub public_key: &'a str,
}

/// A provider.
pub trait Provider: Send + Sync {
    /// What exists of the cluster of this name.
    fn observe(&self) -> Boxed<'_, Result<Observed>>;
    /// Makes sure that hosts can be made: images and the like. Says what it does through `say`, and
    /// answers with what was chosen.
    fn prepare<'a>(&'a self, say: &'a (dyn Fn(String) + Send + Sync)) -> Boxed<'a, Result<String>>;
    /// Makes the network. Called before any host is made.
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> Boxed<'a, Result<ObservedNetwork>>;
    /// Does one step for one host.
    fn apply<'a>(&'a self, step: &'a Step, network: &'a ObservedNetwork, site: &'a Site<'a>) -> Boxed<'a, Result<()>>;
    /// Puts a login key on all hosts without logging in.
    fn plant_key<'a>(&'a self, observed: &'a Observed, public_key: &'a str) -> Boxed<'a, Result<()>>;
    /// Everything that carries a UUID.
    fn list<'a>(&'a self, uuid: &'a str) -> Boxed<'a, Result<Vec<Resource>>>;
    /// Removes a resource; it may be gone already.
    fn remove<'a>(&'a self, resource: &'a Resource) -> Boxed<'a, Result<()>>;
    /// Where a host's sshd is.
    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint>;
    /// The user to log in as.
    fn login(&self) -> &'static str;
    /// Where a port of a host can be reached from the user's machine.
    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String>;
}

/// The provider of an inventory.
pub fn open(inventory: &Inventory) -> Result<Box<dyn Provider>> {
    match &inventory.provider {
        ProviderSettings::Docker(settings) => Ok(Box::new(docker::Docker::connect(inventory, settings.clone())?)),
    }
}

/// Ports of a host that are published: inner port, and its place behind the first published one.
pub fn published_ports(id: HostId) -> Vec<(u16, u16)> {
    use crate::inventory::Role;
    match id.role {
        Role::Control => vec![(22, id.index - 1)],
        Role::Coordinator => vec![(2181, 10 + id.index - 1)],
        Role::Broker => vec![(EXTERNAL_PORT, 20 + id.index - 1)],
    }
}

/// Port of the brokers' second listener, the one for clients outside of the cluster's network.
pub const EXTERNAL_PORT: u16 = 19092;

/// How many ports a cluster may publish.
pub const PORTS_PER_CLUSTER: u16 = 120;

/// Says that a name is somebody else's.
pub fn foreign(name: &str, what: &str) -> Error {
    Error::failed(format!("`{name}` exists and does not belong to this cluster ({what}); it is left alone"))
        .hint("rename or remove it, or choose another prefix")
}
