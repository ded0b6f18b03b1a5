//! Providers: where hosts come from. What exists is asked of the provider each time; nothing local is believed.
//!
//! Invariant: only what carries the cluster's UUID is ever changed or removed.

pub mod authorized;
pub mod docker;
#[cfg(feature = "ec2")]
pub mod ec2;
pub mod layout;
pub mod marks;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use marks::{Expiry, Marks};
use serde::Serialize;

use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{HostId, Inventory, Metadata, ProviderSettings},
    plan::Step,
    playbook::runner::Boxed,
    ssh::Endpoint,
};

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    pub address: Ipv4Addr,
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
        subnet: docker::Subnet,
        /// first of the published ports
        ports_from: u16,
    },
    /// rows of addresses in subnets, one subnet per zone
    Zones(layout::Layout),
}

impl ObservedNetwork {
    /// The address that a host has or will have.
    pub fn host(&self, id: HostId) -> Option<Ipv4Addr> {
        match &self.place {
            Place::Docker { subnet, .. } => subnet.host(id),
            Place::Zones(layout) => layout.host(id),
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// what is to be mended in place; filled by [`Provider::adjustments`]
    pub adjustments: Vec<Adjustment>,
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
    /// container, network, volume, instance, …
    pub kind: &'static str,
    /// its name
    pub name: String,
    /// the provider's own id
    pub id: String,
    /// whether it holds a host's data
    pub data: bool,
}

/// What a step needs to know beside itself.
pub struct Site<'a> {
    /// the cluster's identity
    pub uuid: ClusterId,
    /// what is wanted
    pub inventory: &'a Inventory,
    /// what there was when the plan was made
    pub observed: &'a Observed,
    /// line for `authorized_keys`
    pub public_key: &'a str,
}

/// How a check before the first change came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// as it must be
    Pass,
    /// it may go wrong, or could not be found out
    Warn,
    /// it would go wrong: nothing is begun
    Fail,
}

/// A check before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// what was looked at
    pub name: &'static str,
    /// how it came out
    pub verdict: Verdict,
    /// what was found
    pub finding: String,
    /// what to do
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a cluster costs, by a table that ships with Septet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// USD per hour
    pub hourly: f64,
    /// USD per month of 730 hours
    pub monthly: f64,
    /// what the table does not know
    pub unknown: BTreeSet<String>,
    /// day of the table
    pub as_of: String,
    /// the parts: what, how many, USD per hour each
    pub parts: Vec<(String, u32, f64)>,
}

/// An expired cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expired {
    /// its name
    pub cluster: ClusterName,
    /// its identity
    pub uuid: ClusterId,
    /// since when, in seconds since 1970
    pub expires: u64,
}

/// Who changes a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// machine and state directory; a second holder of the same id is a run of ours that has ended
    pub id: String,
    /// holder, host and start, for people
    pub text: String,
}

/// What a provider was asked so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ProviderStats {
    /// requests
    pub requests: u64,
    /// seconds during which at least one was under way, or a change of its was waited for
    pub waited_s: f64,
}

/// A provider.
pub trait Provider: Send + Sync {
    /// What exists of the cluster of this name.
    fn observe(&self) -> Boxed<'_, Result<Observed>>;
    /// The same after this process has made something: waits until all of that is seen and runs.
    fn settle(&self) -> Boxed<'_, Result<Observed>> {
        self.observe()
    }
    /// What of the inventory's settings is otherwise in what exists, and can be mended in place.
    fn adjustments<'a>(&'a self, _observed: &'a Observed) -> Boxed<'a, Result<Vec<Adjustment>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Looks whether the steps of a plan can be done, without doing anything.
    fn preflight<'a>(&'a self, _observed: &'a Observed, _steps: &'a [Step]) -> Boxed<'a, Result<Vec<Check>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Resources of a new cluster beside its hosts, and their openings: lines for a plan.
    fn resources(&self, _inventory: &Inventory) -> Vec<String> {
        Vec::new()
    }
    /// The cluster's cost once it matches the inventory.
    fn estimate(&self) -> Option<Estimate> {
        None
    }
    /// Makes sure that hosts can be made: images and the like. Says what it does through `say`, and
    /// answers with what was chosen.
    fn prepare<'a>(&'a self, say: &'a (dyn Fn(String) + Send + Sync)) -> Boxed<'a, Result<String>>;
    /// Makes the network. Called before any host is made.
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> Boxed<'a, Result<ObservedNetwork>>;
    /// Does one step for one host. Says what is worth knowing through `say`.
    fn apply<'a>(
        &'a self,
        step: &'a Step,
        network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        say: &'a (dyn Fn(String) + Send + Sync),
    ) -> Boxed<'a, Result<()>>;
    /// Puts a login key on one host without logging in. The host may be restarted for that.
    fn plant_key<'a>(&'a self, host: &'a ObservedHost, public_key: &'a str) -> Boxed<'a, Result<()>>;
    /// Writes down that the data volumes of these hosts have file systems, so that they are never formatted again.
    fn note_formatted<'a>(&'a self, _hosts: &'a [ObservedHost]) -> Boxed<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Whether [`Provider::plant_key`] restarts hosts: then they go one at a time.
    fn planting_restarts(&self) -> bool {
        false
    }
    /// All identities under the cluster's name.
    fn identities(&self) -> Boxed<'_, Result<Vec<Identity>>> {
        Box::pin(async {
            let observed = self.observe().await?;
            Ok(observed.uuid.into_iter().map(|uuid| Identity { uuid, hosts: observed.hosts.len() }).collect())
        })
    }
    /// Everything that carries a UUID.
    fn list(&self, uuid: ClusterId) -> Boxed<'_, Result<Vec<Resource>>>;
    /// In which order kinds are removed.
    fn removal_order(&self) -> &'static [&'static str];
    /// How long the provider may take to list what was made.
    fn listed_within(&self) -> Duration {
        Duration::ZERO
    }
    /// Removes resources of one kind, and waits until they are gone; some may be gone already.
    fn remove<'a>(&'a self, resources: &'a [Resource]) -> Boxed<'a, Result<()>>;
    /// Expired clusters of this provider, of any name.
    fn expired(&self, now: u64) -> Boxed<'_, Result<Vec<Expired>>>;
    /// Takes the right to change the cluster of this name, against other machines too where the provider can.
    fn hold<'a>(&'a self, _holder: &'a Holder) -> Boxed<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Gives that right back.
    fn release(&self) -> Boxed<'_, ()> {
        Box::pin(async {})
    }
    /// Where a host's sshd is.
    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint>;
    /// The user to log in as.
    fn login(&self) -> &'static str;
    /// The state of a running host, read through the provider, for hosts that cannot be logged in to. Unchecked text.
    fn console<'a>(&'a self, _host: &'a ObservedHost) -> Boxed<'a, Option<String>> {
        Box::pin(async { None })
    }
    /// How long hosts may take until they can be logged in to.
    fn boot_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }
    /// Where a port of a host can be reached from the user's machine.
    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String>;
    /// Automatic choices, for `-v`.
    fn chosen(&self) -> Option<String> {
        None
    }
    /// What of the settings is better known, whatever is done.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// What was asked so far.
    fn stats(&self) -> Option<ProviderStats> {
        None
    }
}

/// The provider of an inventory.
pub fn open(inventory: &Inventory) -> Result<Arc<dyn Provider>> {
    match &inventory.provider {
        ProviderSettings::Docker(settings) => Ok(Arc::new(docker::Docker::connect(inventory, settings.clone())?)),
        #[cfg(feature = "ec2")]
        ProviderSettings::Ec2(settings) => Ok(Arc::new(ec2::Ec2::new(inventory, (**settings).clone()))),
        #[cfg(not(feature = "ec2"))]
        ProviderSettings::Ec2(_) => {
            Err(Error::failed("this septet was built without EC2").hint("build it with its default features: `cargo build --release`"))
        }
    }
}

/// Ports of a host that are published: inner port, and its place behind the first published one.
pub fn published_ports(id: HostId, metadata: Metadata) -> Vec<(u16, u16)> {
    use crate::inventory::Role;
    match id.role {
        Role::Control => vec![(22, id.index - 1)],
        // Controllers serve brokers only.
        Role::Coordinator if metadata == Metadata::Kraft => Vec::new(),
        Role::Coordinator => vec![(2181, 10 + id.index - 1)],
        Role::Broker => vec![(EXTERNAL_PORT, 20 + id.index - 1)],
    }
}

/// Port of the brokers' second listener, the one for clients outside of the cluster's network.
pub const EXTERNAL_PORT: u16 = 19092;

/// How many ports a cluster may publish.
pub const PORTS_PER_CLUSTER: u16 = 120;

/// Which of several identities under one name is the cluster: the only one that has hosts.
pub fn choose(cluster: &ClusterName, mut all: Vec<Identity>) -> Result<(Option<ClusterId>, Vec<ClusterId>)> {
    all.sort();
    let with_hosts = all.iter().filter(|i| i.hosts > 0).count();
    if all.len() > 1 && with_hosts != 1 {
        let list: Vec<String> = all.iter().map(|i| format!("{} ({} hosts)", i.uuid, i.hosts)).collect();
        return Err(Error::failed(format!("there are {} clusters called `{cluster}`: {}", all.len(), list.join(", "))).hint(
            "`septet down --uuid UUID` destroys one of them, with its data; its containers, networks and volumes carry the label septet.cluster=UUID",
        ));
    }
    let (mut chosen, mut twins) = (None, Vec::new());
    for one in all.iter().rev() {
        match chosen.is_none() && (one.hosts > 0 || all.len() == 1) {
            true => chosen = Some(one.uuid),
            false => twins.push(one.uuid),
        }
    }
    twins.sort();
    Ok((chosen, twins))
}

/// The error that a name is in use by something that is not this cluster's.
pub fn foreign(name: &str, what: &str) -> Error {
    Error::failed(format!("`{name}` exists and does not belong to this cluster ({what}); it is left alone"))
        .hint("rename or remove it, or choose another prefix")
}

/// The clusters that have expired, each once, by the marks of their things. A cluster with a later time on any of its resources, or
/// something unreadable, or that has no name or several, has not.
pub fn expired(marks: impl Iterator<Item = Marks>, now: u64) -> Vec<Expired> {
    let mut clusters: BTreeMap<ClusterId, (BTreeSet<ClusterName>, Expiry)> = BTreeMap::new();
    for m in marks {
        let Some(expires) = m.expires else { continue };
        let entry = clusters.entry(m.cluster).or_insert((BTreeSet::new(), expires));
        entry.0.extend(m.name);
        entry.1 = entry.1.max(expires);
    }
    let one = |(uuid, (names, expires)): (ClusterId, (BTreeSet<ClusterName>, Expiry))| match expires {
        Expiry::At(expires) if expires <= now && names.len() == 1 => Some(Expired { cluster: names.into_iter().next()?, uuid, expires }),
        _ => None,
    };
    clusters.into_iter().filter_map(one).collect()
}

/// The one identity among the marks of the things of a cluster's name. Two are an error: they cannot be told apart.
pub fn identity(cluster: &ClusterName, marks: impl Iterator<Item = ClusterId>, hint: &str) -> Result<Option<ClusterId>> {
    let ids: BTreeSet<ClusterId> = marks.collect();
    if ids.len() > 1 {
        let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
        return Err(Error::failed(format!("there are {} clusters called `{cluster}`: {}", ids.len(), list.join(", "))).hint(hint));
    }
    Ok(ids.into_iter().next())
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
