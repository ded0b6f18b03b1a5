//! EC2: each host is an instance with an address of its own in the cluster's row of addresses, and a volume for its data that
//! outlives it.
//!
//! What is known of a cluster is on its things, as tags that travel in the creating call: `septet:cluster` (the UUID),
//! `septet:name`, `septet:role`, `septet:index`, `septet:hostkey`; on the security group `hosts` also where the row lies.
//!
//! Invariants: nothing without the cluster's UUID is changed or deleted; every launch has a client token that was written down
//! before, so that a run that was killed launches nothing twice; every call and every wait has an end.

mod caller;
mod image;
mod launch;
mod lease;
mod lock;
mod network;
mod observe;
mod policy;
mod preflight;
mod prices;
mod remove;
mod rules;
mod tags;
mod user_data;

use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use septet_ec2::{Client, Group, Image, Instance, TypeInfo};
use tokio::sync::OnceCell;

use super::{
    Adjustment, Check, Estimate, Expired, Found, Holder, Lease, Lost, Machines, Network, Observed, ObservedHost, ObservedNetwork, Pricing,
    Provider, ProviderStats, Resource, Site,
};
use crate::{
    engine::{
        bundle::Architecture,
        listeners::{Listener, listeners},
    },
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{self, Connect, Ec2Settings, Engine, Host, HostId, Inventory, Role, Security},
    plan::Step,
    ssh::Endpoint,
};

/// The user that Septet logs in as; user data makes it.
pub const LOGIN: &str = "septet";

/// The last observation in EC2's terms: what steps need beyond what the planner reads.
#[derive(Debug, Clone, Default)]
struct Seen {
    instances: BTreeMap<HostId, Instance>,
    groups: Vec<Group>,
    /// instances that are about to end, by the host that they were
    leaving: BTreeMap<HostId, Vec<String>>,
}

/// The provider.
pub struct Ec2 {
    settings: Ec2Settings,
    cluster: ClusterName,
    prefix: String,
    engine: Engine,
    /// engine, mode and the number of metadata servers
    shape: String,
    ttl: Option<Duration>,
    /// what its hosts listen on
    listeners: Vec<Listener>,
    external_port: u16,
    hosts: Vec<Host>,
    client: OnceCell<Client>,
    caller: OnceCell<String>,
    types: OnceCell<Vec<TypeInfo>>,
    zones: OnceCell<Vec<String>>,
    images: tokio::sync::Mutex<BTreeMap<Architecture, Image>>,
    seen: Mutex<Seen>,
    /// instances that this process launched or started: they must be seen to run before anything goes on
    made: Mutex<BTreeSet<String>>,
    /// those of them that were launched with a volume for data: it must be seen too
    with_data: Mutex<BTreeSet<String>>,
    /// the end that this process wrote down: tags that were set a moment ago may not be listed yet
    written_end: Mutex<Option<u64>>,
    waits: Mutex<Waits>,
    holding: Mutex<Option<lock::Hold>>,
}

/// Time during which something was waited for.
#[derive(Debug, Default)]
struct Waits {
    under_way: u32,
    since: Option<Instant>,
    total: Duration,
}

impl Waits {
    fn begin(&mut self) {
        self.under_way += 1;
        self.since.get_or_insert_with(Instant::now);
    }
    fn end(&mut self) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.total += self.since.take().map_or(Duration::ZERO, |s| s.elapsed());
        }
    }
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ec2 {
    /// For an inventory. Nothing is asked yet.
    pub fn new(inventory: &Inventory, settings: Ec2Settings) -> Self {
        Self {
            settings,
            cluster: inventory.cluster.clone(),
            prefix: inventory.prefix.clone(),
            engine: inventory.engine.clone(),
            shape: inventory.shape(),
            ttl: inventory.ttl,
            listeners: listeners(inventory),
            external_port: inventory.ports.external,
            hosts: inventory.hosts.clone(),
            client: OnceCell::new(),
            caller: OnceCell::new(),
            types: OnceCell::new(),
            zones: OnceCell::new(),
            images: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            made: Mutex::default(),
            with_data: Mutex::default(),
            written_end: Mutex::default(),
            waits: Mutex::default(),
            holding: Mutex::default(),
        }
    }

    async fn client(&self) -> Result<&Client> {
        let settings = septet_ec2::Settings {
            region: self.settings.region.clone(),
            profile: self.settings.profile.clone(),
            endpoint_url: self.settings.endpoint_url.clone(),
            attempt_timeout: self.settings.call_timeout,
        };
        self.client
            .get_or_try_init(|| async {
                Client::connect(&settings).await.map_err(|e| {
                    if e.code == "MissingRegion" {
                        return Error::invalid("no region is set")
                            .hint("write `region: eu-central-1` below `ec2:`, or set AWS_REGION, or a region for the profile");
                    }
                    policy::explain("cannot use EC2", e)
                })
            })
            .await
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }

    /// Counts time that was spent on waiting for EC2 between calls; waits at the same time count once.
    async fn waiting<T>(&self, what: impl Future<Output = T>) -> T {
        locked(&self.waits).begin();
        let result = what.await;
        locked(&self.waits).end();
        result
    }

    /// Whether brokers take clients from outside.
    fn is_external(&self) -> bool {
        !self.settings.external_from.is_empty()
    }

    /// Whether a host of this role gets a public address.
    fn wants_public(&self, role: Role) -> bool {
        use crate::inventory::PublicAddresses::{All, Needed, None};
        let needed = if crate::engine::needs_internet(&self.engine) { All } else { Needed };
        match self.settings.public_addresses.unwrap_or(needed) {
            All => true,
            None => false,
            Needed => match role {
                Role::Control => self.settings.connect == Connect::Public,
                Role::Coordinator | Role::Plain => false,
                Role::Broker => self.is_external() && self.settings.connect == Connect::Public,
            },
        }
    }

    /// The groups that have hosts.
    fn groups(&self) -> BTreeSet<inventory::Group> {
        self.hosts.iter().map(|h| h.id.group).collect()
    }

    fn name_of(&self, id: HostId) -> String {
        self.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default()
    }
}

impl Provider for Ec2 {
    fn observe(&self) -> BoxFuture<'_, Result<Observed>> {
        Box::pin(self.observe_now())
    }

    fn settle(&self) -> BoxFuture<'_, Result<Observed>> {
        Box::pin(self.waiting(self.settle_now()))
    }

    fn resources(&self, _inventory: &Inventory) -> Vec<String> {
        self.planned_resources()
    }

    fn list(&self, uuid: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>> {
        Box::pin(self.list_now(uuid))
    }

    fn removal_order(&self) -> &'static [&'static str] {
        &remove::ORDER
    }

    fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove_now(resources))
    }

    fn clusters(&self) -> BoxFuture<'_, Result<Vec<Found>>> {
        Box::pin(self.clusters_now())
    }

    fn listed_within(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn hold<'a>(&'a self, holder: &'a Holder) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let client = Arc::new(self.client().await?.clone());
            let hold = lock::take(client, &self.cluster, holder).await?;
            *locked(&self.holding) = Some(hold);
            Ok(())
        })
    }

    fn lost(&self) -> BoxFuture<'_, Lost> {
        Box::pin(async move {
            let lost = locked(&self.holding).as_ref().map(lock::Hold::lost);
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let hold = locked(&self.holding).take();
            if let Some(hold) = hold {
                hold.release().await;
            }
        })
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        let address = match (host.id.role(), self.settings.connect) {
            (Role::Control, Connect::Public) => host
                .public
                .ok_or_else(|| {
                    Error::failed(format!("{} has no public address", host.name)).hint(
                        "put it into a subnet with a route to the internet, or write `connect: private` and run septet inside the VPC",
                    )
                })?
                .into(),
            _ => host.address,
        };
        Ok(Endpoint { name: host.name.clone(), host: address.to_string(), port: 22, host_key: host.host_key.clone(), own: None })
    }

    fn login(&self) -> &'static str {
        LOGIN
    }

    fn boot_timeout(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String> {
        if host.id.role() != Role::Broker || port != self.external_port || !self.is_external() {
            return None;
        }
        let address = match self.settings.connect {
            Connect::Public => host.public?.into(),
            Connect::Private => host.address,
        };
        Some(format!("{address}:{port}"))
    }

    fn removal_takes_data(&self) -> Option<&'static str> {
        self.data_ends().then_some("its data goes with it, unless `volume: {keep: true}` stands below `ec2` and `septet up` has run before")
    }

    fn warnings(&self) -> Vec<String> {
        let open = "security: classroom opens every TCP port of every host to the whole internet; leave `security` out when the lesson is over, and `septet up` closes them";
        let spot = "spot and ttl: an instance that AWS takes back takes its data along; write `volume: {keep: true}` below `ec2` to keep it until `septet down`";
        let loses = self.settings.spot && self.data_ends();
        let open = (self.settings.security == Security::Classroom).then_some(open);
        open.into_iter().chain(loses.then_some(spot)).map(str::to_owned).collect()
    }

    fn stats(&self) -> Option<ProviderStats> {
        let stats = self.client.get()?.stats();
        // Waits between calls have calls in them: the longer of the two sums is the better bound.
        let waited = stats.waited.max(locked(&self.waits).total);
        Some(ProviderStats { requests: stats.requests, waited_s: waited.as_secs_f64() })
    }

    fn machines(&self) -> Option<&dyn Machines> {
        Some(self)
    }

    fn network(&self) -> Option<&dyn Network> {
        Some(self)
    }

    fn pricing(&self) -> Option<&dyn Pricing> {
        Some(self)
    }

    fn lease(&self) -> Option<&dyn Lease> {
        Some(self)
    }
}

impl Machines for Ec2 {
    fn adjustments<'a>(&'a self, observed: &'a Observed) -> BoxFuture<'a, Result<Vec<Adjustment>>> {
        Box::pin(self.adjustments_now(observed))
    }

    fn preflight<'a>(&'a self, observed: &'a Observed, steps: &'a [Step]) -> BoxFuture<'a, Result<Vec<Check>>> {
        Box::pin(self.preflight_now(observed, steps))
    }

    fn prepare<'a>(&'a self, _say: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let mut list = BTreeSet::new();
            for group in self.groups() {
                let architecture = self.architecture(group).await?;
                let image = self.image(architecture).await?;
                list.insert(format!("{} ({}, {architecture})", image.id, image.name));
            }
            Ok(list.into_iter().collect::<Vec<_>>().join(", "))
        })
    }

    fn apply<'a>(
        &'a self,
        step: &'a Step,
        network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        say: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match step {
                Step::CreateNetwork => Ok(()),
                // What is done inside of hosts is not the provider's.
                Step::SetEnd { .. } | Step::PlantKey { .. } | Step::Configure { .. } | Step::Task { .. } | Step::RemoveNames { .. } => {
                    Ok(())
                }
                Step::Create { id, name, .. } | Step::Replace { id, name, .. } => self.create(*id, name, network, site, say).await,
                Step::Start { id, name } | Step::Unpause { id, name } => self.start(*id, name).await,
                Step::Resize { id, name, to, .. } => self.waiting(self.resize(*id, name, to)).await,
                Step::Attach { id, name, volume } => {
                    let instance = self.reference(*id, name)?;
                    self.attach(self.client().await?, &instance, volume, name).await
                }
                Step::Adjust(adjustment) => self.adjust(adjustment).await,
                Step::Rename { id, to, .. } => self.rename(*id, to).await,
            }
        })
    }

    fn plant_key<'a>(&'a self, host: &'a ObservedHost, public_key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.waiting(self.plant(host, public_key)))
    }

    fn note_formatted<'a>(&'a self, hosts: &'a [ObservedHost]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.note_formatted_now(hosts))
    }

    fn planting_restarts(&self) -> bool {
        true
    }
}

impl Network for Ec2 {
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> BoxFuture<'a, Result<ObservedNetwork>> {
        Box::pin(self.make_network(site))
    }
}

impl Pricing for Ec2 {
    fn estimate(&self) -> Option<Estimate> {
        let region = self.client.get().map(|c| c.region().to_owned()).or_else(|| self.settings.region.clone())?;
        Some(prices::estimate(&region, &self.bill()))
    }
}

impl Lease for Ec2 {
    fn expired(&self, now: u64) -> BoxFuture<'_, Result<Vec<Expired>>> {
        Box::pin(self.expired_now(now))
    }

    fn expires(&self) -> Option<u64> {
        self.known_end()
    }

    fn extend(&self, uuid: ClusterId, expires_s: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.extend_now(uuid, expires_s))
    }

    fn timers_are_set(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.end_data_with_hosts())
    }
}
