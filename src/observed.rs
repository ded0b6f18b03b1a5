//! What exists of a cluster, as a provider finds it. Values only: the planner, health and the operations read them.

pub mod layout;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use layout::Layout;

use serde::{Deserialize, Serialize};

use crate::{
    address::Subnet,
    engine::bundle::Architecture,
    error::Error,
    identity::ClusterId,
    inventory::{HostId, Inventory, Role},
};

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// it runs, or it is about to
    Running,
    /// it is stopped, or it is about to be
    Stopped,
    /// it is frozen
    Paused,
    /// it was made and never started: what it needs may not be in it
    Unfinished,
}

/// A host that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedHost {
    /// identity
    pub id: HostId,
    /// the provider's own id
    pub reference: String,
    /// its name now
    pub name: String,
    /// what it is doing
    pub state: HostState,
    /// its address inside of the cluster's network
    pub address: IpAddr,
    /// its address as others see it, where it has one
    pub public: Option<Ipv4Addr>,
    /// its SSH host key as planted
    pub host_key: String,
    /// ports that are published on this machine: inner to outer
    pub published: BTreeMap<u16, u16>,
    /// what it runs on; `None` where it is the machine that Septet runs on
    pub architecture: Option<Architecture>,
    /// the kind of machine, as `t3.small`, where the provider has kinds
    pub size: Option<String>,
    /// the provider's id of a volume that is to be mounted for data
    pub data_volume: Option<String>,
    /// whether there is no record of a file system on that volume
    pub data_is_new: bool,
}

/// The cluster's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNetwork {
    /// the provider's own id
    pub reference: String,
    /// where its hosts are
    pub place: Place,
}

/// Where hosts are within a network: the same for a host whenever it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// a subnet of Docker's, and the first of the published ports
    Docker {
        /// its subnet
        subnet: Subnet,
        /// first of the published ports
        ports_from: u16,
    },
    /// rows of addresses in subnets, one subnet per zone
    Zones(Layout),
    /// hosts that exist, each with an address of its own
    Given(BTreeMap<HostId, IpAddr>),
}

impl ObservedNetwork {
    /// The address that a host has or will have.
    pub fn host(&self, id: HostId) -> Option<IpAddr> {
        match &self.place {
            Place::Docker { subnet, .. } => container_address(*subnet, id).map(IpAddr::from),
            Place::Zones(layout) => layout.host(id).map(IpAddr::from),
            Place::Given(addresses) => addresses.get(&id).copied(),
        }
    }
}

/// A container's address: the same whenever it is made. `None` for hosts beside the engine's: see [`free_address`].
fn container_address(subnet: Subnet, id: HostId) -> Option<Ipv4Addr> {
    let first: u16 = match id.role() {
        Role::Control => 10,
        Role::Coordinator => 20,
        Role::Broker => 30,
        Role::Plain => return None,
    };
    u8::try_from(first + id.index).ok().filter(|l| *l < FREE_FROM).map(|l| subnet.address(l))
}

/// First place in a container network for hosts beside the engine's, behind those of any broker.
const FREE_FROM: u8 = 140;

/// Addresses of the containers beside the engine's: those that exist keep theirs, the others get what is free, in the inventory's
/// order. `None` where the network is full.
pub fn free_address(subnet: Subnet, id: HostId, inventory: &Inventory, observed: &Observed) -> Option<IpAddr> {
    if let Some(host) = observed.host(id).filter(|h| !h.address.is_unspecified()) {
        return Some(host.address);
    }
    let taken: BTreeSet<IpAddr> = observed.hosts.iter().map(|h| h.address).collect();
    let free = (FREE_FROM..255).map(|l| IpAddr::from(subnet.address(l))).filter(|a| !taken.contains(a));
    let new = inventory.hosts.iter().map(|h| h.id).filter(|id| id.role() == Role::Plain && observed.host(*id).is_none());
    new.zip(free).find(|(i, _)| *i == id).map(|(_, a)| a)
}

/// A volume with a host's data that is attached to no host: what a removed host left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVolume {
    /// the provider's own id
    pub reference: String,
    /// where it is, and its host must be
    pub zone: String,
}

/// Who may reach a port: addresses, or the members of a group of the provider's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// `tcp`, or what the provider calls another one
    pub protocol: String,
    /// first port
    pub from_port: i32,
    /// last port
    pub to_port: i32,
    /// `10.0.0.0/8`, a role's group or `hosts`, or the id of a group that is not the cluster's
    pub source: String,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol.as_str() {
            "tcp" => {}
            "-1" => return write!(f, "everything from {}", self.source),
            other => write!(f, "{other} ")?,
        }
        match self.from_port == self.to_port {
            true => write!(f, "{} from {}", self.from_port, self.source),
            false => write!(f, "{}-{} from {}", self.from_port, self.to_port, self.source),
        }
    }
}

/// A difference between the inventory and what exists that is mended in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "adjust")]
pub enum Adjustment {
    /// ports that are to be open, and those that are not
    Openings {
        /// the group's id; empty if it does not exist yet
        group: String,
        /// the group's name
        name: String,
        /// opened
        add: Vec<Opening>,
        /// closed
        remove: Vec<Opening>,
    },
    /// hosts that are to be in other groups
    Membership {
        /// the hosts' names
        name: String,
        /// the provider's ids of the hosts
        ids: Vec<String>,
        /// groups that they join, by role
        join: Vec<String>,
        /// groups that they leave
        leave: Vec<String>,
    },
    /// tags with other values
    Tags {
        /// of what
        name: String,
        /// the provider's ids
        ids: Vec<String>,
        /// what they are to be
        tags: BTreeMap<String, String>,
    },
    /// volumes of data that are to end with their hosts, or are not to
    DataEnds {
        /// the hosts' names
        name: String,
        /// the provider's ids of the hosts
        ids: Vec<String>,
        /// whether they are to
        ends: bool,
    },
    /// directories that a host's file is to name as places of the cluster's data
    Data {
        /// the host
        id: HostId,
        /// its name
        name: String,
        /// the directories
        paths: Vec<String>,
    },
    /// a second thing in the place of a host: what an unlucky run left
    Surplus {
        /// its name
        name: String,
        /// the provider's own id
        reference: String,
    },
}

/// What exists under a cluster's name with one identity. There is one, unless two first runs did not know of each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Identity {
    /// the identity
    pub uuid: ClusterId,
    /// how many hosts it has
    pub hosts: usize,
}

/// What exists of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// the cluster's identity; `None` if nothing of it exists
    pub uuid: Option<ClusterId>,
    /// its network
    pub network: Option<ObservedNetwork>,
    /// its hosts
    pub hosts: Vec<ObservedHost>,
    /// data volumes without a host
    pub kept: BTreeMap<HostId, KeptVolume>,
    /// engine, mode and the number of metadata servers as written on what exists; `None` where nothing is written
    pub engine: Option<String>,
    /// other identities under the same name that have no host: what a first run left that did not know of another
    pub twins: Vec<ClusterId>,
    /// names that others have, with what has them
    pub taken: BTreeMap<String, String>,
    /// hosts that work again only once they are made again, with the data that they have, and why
    pub rebuild: BTreeMap<HostId, String>,
    /// hosts of which nothing is known, since they could not be asked, and why; they are listed as running
    pub unreached: BTreeMap<HostId, Error>,
    /// What is to be mended in place; asked of the provider after the rest.
    pub adjustments: Vec<Adjustment>,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostState::Running => "running",
            HostState::Stopped => "stopped",
            HostState::Paused => "paused",
            HostState::Unfinished => "not started yet",
        })
    }
}

impl Observed {
    /// A host.
    pub fn host(&self, id: HostId) -> Option<&ObservedHost> {
        self.hosts.iter().find(|h| h.id == id)
    }

    /// An error if hosts could not be asked whose they are: nothing is done on one that may have come back since.
    pub fn all_reached(&self) -> Result<(), Error> {
        let messages: Vec<&str> = self.unreached.values().map(|e| e.message.as_str()).collect();
        match self.unreached.values().next() {
            Some(first) => Err(Error { message: messages.join("\n"), ..first.clone() }),
            None => Ok(()),
        }
    }
}

/// Something that carries the cluster's UUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// container, network, volume, instance, …
    pub kind: &'static str,
    /// its name
    pub name: String,
    /// the provider's own id
    pub id: String,
    /// whether it holds a host's data
    pub data: bool,
}

/// The error that a name is in use by something that is not this cluster's.
pub fn foreign(name: &str, what: &str) -> Error {
    Error::failed(format!("`{name}` exists and does not belong to this cluster ({what}); it is left alone"))
        .hint("rename or remove it, or choose another prefix")
}
