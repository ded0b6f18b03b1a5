//! Providers: where hosts come from. What exists is asked of the provider each time; nothing local is believed.
//!
//! Invariant: only what carries the cluster's UUID is ever changed or removed.

pub mod authorized;
pub mod docker;
#[cfg(feature = "ec2")]
pub mod ec2;
mod expiry;
mod found;
pub mod heartbeat;
pub mod marks;
pub mod static_hosts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;

pub use found::{Found, Thing, clusters};
pub use heartbeat::Lost;
use marks::{Expiry, Marks};
use serde::Serialize;

use crate::{
    clock,
    engine::listeners::{Listener, Purpose},
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{HostId, Inventory, ProviderSettings, Role},
    observed::{Adjustment, Identity, Observed, ObservedHost, ObservedNetwork, Place, Resource, foreign},
    plan::Step,
    ssh::Endpoint,
};

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
    #[serde(serialize_with = "clock::serialize_s")]
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

/// A provider: what exists, where it is, the right to change it, and that it can be removed. What only some can do stands in
/// capabilities.
pub trait Provider: Send + Sync {
    /// What exists of the cluster of this name.
    fn observe(&self) -> BoxFuture<'_, Result<Observed>>;
    /// The same after this process has made something: waits until all of that is seen and runs.
    fn settle(&self) -> BoxFuture<'_, Result<Observed>> {
        self.observe()
    }
    /// Resources of a new cluster beside its hosts, and their openings: lines for a plan.
    fn resources(&self, _inventory: &Inventory) -> Vec<String> {
        Vec::new()
    }
    /// All identities under the cluster's name.
    fn identities(&self) -> BoxFuture<'_, Result<Vec<Identity>>> {
        Box::pin(async {
            let observed = self.observe().await?;
            Ok(observed.uuid.into_iter().map(|uuid| Identity { uuid, hosts: observed.hosts.len() }).collect())
        })
    }
    /// Everything that carries a UUID.
    fn list(&self, uuid: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>>;
    /// In which order kinds are removed.
    fn removal_order(&self) -> &'static [&'static str];
    /// Whether data stays where its removal is not asked for: on hosts that Septet did not make.
    fn keeps_data(&self) -> bool {
        false
    }
    /// How long the provider may take to list what was made.
    fn listed_within(&self) -> Duration {
        Duration::ZERO
    }
    /// Removes resources of one kind, and waits until they are gone; some may be gone already.
    fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>>;
    /// All clusters of this provider, of any name.
    fn clusters(&self) -> BoxFuture<'_, Result<Vec<Found>>>;
    /// Takes the right to change the cluster of this name, against other machines too where the provider can.
    fn hold<'a>(&'a self, _holder: &'a Holder) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Waits until that right is lost, if it ever is.
    fn lost(&self) -> BoxFuture<'_, Lost> {
        Box::pin(std::future::pending())
    }
    /// Gives that right back.
    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    /// Where a host's sshd is.
    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint>;
    /// The user to log in as.
    fn login(&self) -> &'static str;
    /// The state of a running host, read through the provider, for hosts that cannot be logged in to. Unchecked text.
    fn console<'a>(&'a self, _host: &'a ObservedHost) -> BoxFuture<'a, Option<String>> {
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
    /// Hosts that exist before the cluster does, as they were last observed; none where the provider makes them.
    fn given(&self) -> Vec<ObservedHost> {
        Vec::new()
    }
    /// Hosts that are left out of a removal, each with the reason, where that was asked for: the first listing could not reach them, and
    /// later ones do not try.
    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }
    /// What becomes of a host's data when somebody else than Septet removes the host, if that is not that it stays; with what to do
    /// before.
    fn removal_takes_data(&self) -> Option<&'static str> {
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
    /// Changes hosts, in steps.
    fn machines(&self) -> Option<&dyn Machines> {
        None
    }
    /// Makes networks.
    fn network(&self) -> Option<&dyn Network> {
        None
    }
    /// Knows prices.
    fn pricing(&self) -> Option<&dyn Pricing> {
        None
    }
    /// Gives clusters an end.
    fn lease(&self) -> Option<&dyn Lease> {
        None
    }
}

/// Hosts that are made, changed and renamed.
pub trait Machines: Send + Sync {
    /// What of the inventory's settings is otherwise in what exists, and can be mended in place.
    fn adjustments<'a>(&'a self, _observed: &'a Observed) -> BoxFuture<'a, Result<Vec<Adjustment>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Looks whether the steps of a plan can be done, without doing anything.
    fn preflight<'a>(&'a self, _observed: &'a Observed, _steps: &'a [Step]) -> BoxFuture<'a, Result<Vec<Check>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Makes sure that hosts can be made: images and the like. Says what it does through `say`, and
    /// answers with what was chosen.
    fn prepare<'a>(&'a self, say: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<String>>;
    /// Does one step for one host. Says what is worth knowing through `say`.
    fn apply<'a>(
        &'a self,
        step: &'a Step,
        network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        say: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>>;
    /// Puts a login key on one host without logging in. The host may be restarted for that.
    fn plant_key<'a>(&'a self, host: &'a ObservedHost, public_key: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Writes down that the data volumes of these hosts have file systems, so that they are never formatted again.
    fn note_formatted<'a>(&'a self, _hosts: &'a [ObservedHost]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Whether [`Machines::plant_key`] restarts hosts: then they go one at a time.
    fn planting_restarts(&self) -> bool {
        false
    }
}

/// Networks that hosts are made in.
pub trait Network: Send + Sync {
    /// Makes the network. Called before any host is made.
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> BoxFuture<'a, Result<ObservedNetwork>>;
}

/// What a cluster costs.
pub trait Pricing: Send + Sync {
    /// The cluster's cost once it matches the inventory.
    fn estimate(&self) -> Option<Estimate>;
}

/// Clusters that expire.
pub trait Lease: Send + Sync {
    /// Expired clusters of this provider, of any name.
    fn expired(&self, now: u64) -> BoxFuture<'_, Result<Vec<Expired>>>;
    /// When the cluster expires, in seconds since 1970, as far as that was seen or has been decided.
    fn expires(&self) -> Option<u64>;
    /// Writes down that the cluster of this identity expires then, and not earlier.
    fn extend(&self, uuid: ClusterId, expires_s: u64) -> BoxFuture<'_, Result<()>>;
    /// The timers of all hosts that run stand at the cluster's end: what is to go with the hosts may be made to. Before that a host may
    /// still end at an earlier time, and nothing of the cluster's may be lost by it.
    fn timers_are_set(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// The capability to change hosts, which an operation needs.
pub fn machines(provider: &dyn Provider) -> Result<&dyn Machines> {
    provider.machines().ok_or_else(|| Error::failed("this provider changes no hosts"))
}

/// The provider of an inventory.
pub fn open(inventory: &Inventory) -> Result<Arc<dyn Provider>> {
    match &inventory.provider {
        ProviderSettings::Docker(settings) => Ok(Arc::new(docker::Docker::connect(inventory, settings.clone())?)),
        ProviderSettings::Static(settings) => Ok(Arc::new(static_hosts::StaticHosts::new(inventory, settings))),
        #[cfg(feature = "ec2")]
        ProviderSettings::Ec2(settings) => Ok(Arc::new(ec2::Ec2::new(inventory, (**settings).clone()))),
        #[cfg(not(feature = "ec2"))]
        ProviderSettings::Ec2(_) => {
            Err(Error::failed("this septet was built without EC2").hint("build it with its default features: `cargo build --release`"))
        }
    }
}

/// Ports of a host that are published: inner port, and its place behind the first published one.
pub fn published_ports(id: HostId, listeners: &[Listener]) -> Vec<(u16, u16)> {
    let role = id.role();
    let place = |l: &Listener| match l.purpose {
        Purpose::Zookeeper => Some(10),
        Purpose::External => Some(20),
        // These serve the cluster's own hosts only.
        Purpose::Kafka | Purpose::Controller | Purpose::Followers | Purpose::Election => None,
    };
    let ssh = (role == Role::Control).then_some((SSH_PORT, id.index - 1));
    let served = listeners.iter().filter(|l| l.role == role).filter_map(|l| Some((l.port, place(l)? + id.index - 1)));
    ssh.into_iter().chain(served).collect()
}

/// Where hosts of the providers' own listen for SSH.
pub const SSH_PORT: u16 = 22;

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

#[cfg(test)]
pub mod memory;
