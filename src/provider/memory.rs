//! A provider in memory, for tests: names are unique as in Docker, kinds of machines change as on EC2, and a run can be killed before and
//! after the effect of each call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::future::BoxFuture;

use super::{Expired, Found, Holder, Identity, Lease, Machines, Network, Provider, Site, choose};
use crate::{
    address::Subnet,
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{HostId, Inventory},
    observed::{HostState, Observed, ObservedHost, ObservedNetwork, Place, Resource, foreign},
    plan::Step,
    ssh::Endpoint,
};

/// A host of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Identity of its cluster.
    pub uuid: ClusterId,
    /// Name of its cluster.
    pub cluster: ClusterName,
    /// Which host it is.
    pub id: HostId,
    /// Its name, unique in the world.
    pub name: String,
    /// Its kind.
    pub size: Option<String>,
    /// Power state.
    pub running: bool,
}

/// All that exists, of all clusters.
#[derive(Debug, Default)]
pub struct World {
    /// Of all clusters.
    pub machines: Vec<Machine>,
    /// One for each identity, with the cluster's name.
    pub networks: BTreeMap<ClusterId, ClusterName>,
    /// Data that hosts leave behind.
    pub volumes: BTreeSet<(ClusterId, String)>,
    /// When clusters expire, in seconds since 1970, with their names.
    pub ends: BTreeMap<ClusterId, (ClusterName, u64)>,
    /// Whose things were changed or removed.
    pub touched: BTreeSet<ClusterId>,
    /// Runs that have the lock of a cluster's name, and whether they still run.
    locks: BTreeMap<ClusterName, (String, bool)>,
}

/// One run's view of the world.
pub struct Memory {
    world: Arc<Mutex<World>>,
    inventory: Inventory,
    run: String,
    /// Points at which it may be killed that are left.
    left: AtomicI64,
}

impl Memory {
    /// A run that is killed at the point of this number; `None`: it lives.
    pub fn new(world: &Arc<Mutex<World>>, inventory: &Inventory, run: &str, killed_at: Option<u32>) -> Self {
        let left = killed_at.map_or(i64::MAX, i64::from);
        Self { world: world.clone(), inventory: inventory.clone(), run: run.to_owned(), left: AtomicI64::new(left) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A point at which the run may be killed, and at which others go on. A dead run does nothing more.
    async fn point(&self) -> Result<()> {
        tokio::task::yield_now().await;
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        for (run, alive) in self.world().locks.values_mut() {
            *alive &= *run != self.run;
        }
        Err(Error::failed("killed"))
    }

    fn create(&self, id: HostId, name: &str, uuid: ClusterId) -> Result<()> {
        let mut world = self.world();
        if let Some(there) = world.machines.iter().find(|m| m.name == name) {
            return if there.uuid == uuid && there.id == id { Ok(()) } else { Err(foreign(name, "a machine")) };
        }
        if world.machines.iter().any(|m| m.uuid == uuid && m.id == id) {
            return Ok(());
        }
        let size = self.inventory.provider.sizes(id.group).first().cloned();
        world.touched.insert(uuid);
        world.machines.push(Machine { uuid, cluster: self.inventory.cluster.clone(), id, name: name.to_owned(), size, running: true });
        Ok(())
    }

    /// Changes a machine of the cluster's own.
    fn change(&self, id: HostId, uuid: ClusterId, what: impl FnOnce(&mut Machine)) -> Result<()> {
        let mut world = self.world();
        let machine = world.machines.iter_mut().find(|m| m.uuid == uuid && m.id == id);
        what(machine.ok_or_else(|| Error::failed("no such machine"))?);
        world.touched.insert(uuid);
        Ok(())
    }

    fn rename(&self, id: HostId, uuid: ClusterId, to: &str) -> Result<()> {
        let held = self.world().machines.iter().find(|m| m.name == to).map(|m| (m.uuid, m.id));
        match held {
            Some((other, _)) if other != uuid => return Err(foreign(to, "a machine")),
            Some((_, other)) if other != id => self.change(other, uuid, |m| m.name = format!("{to}-renamed"))?,
            _ => {}
        }
        self.change(id, uuid, |m| m.name = to.to_owned())
    }
}

impl Provider for Memory {
    fn observe(&self) -> BoxFuture<'_, Result<Observed>> {
        Box::pin(async {
            self.point().await?;
            let world = self.world();
            let name = &self.inventory.cluster;
            let ours = || world.machines.iter().filter(|m| m.cluster == *name);
            let uuids: BTreeSet<ClusterId> =
                ours().map(|m| m.uuid).chain(world.networks.iter().filter(|(_, n)| *n == name).map(|(u, _)| *u)).collect();
            let identities = uuids.into_iter().map(|uuid| Identity { uuid, hosts: ours().filter(|m| m.uuid == uuid).count() }).collect();
            let (uuid, twins) = choose(name, identities)?;
            let subnet = Subnet::new(10, 1, 2);
            let network = uuid.filter(|u| world.networks.contains_key(u));
            let network = network.map(|_| ObservedNetwork { reference: "n".into(), place: Place::Docker { subnet, ports_from: 19_000 } });
            let mut observed = Observed { uuid, twins, network, engine: uuid.map(|_| self.inventory.shape()), ..Observed::default() };
            observed.hosts = ours()
                .filter(|m| Some(m.uuid) == uuid)
                .map(|m| ObservedHost {
                    id: m.id,
                    reference: m.name.clone(),
                    name: m.name.clone(),
                    state: if m.running { HostState::Running } else { HostState::Stopped },
                    address: IpAddr::from([10, 1, 2, 3]),
                    public: None,
                    host_key: String::new(),
                    published: BTreeMap::new(),
                    architecture: None,
                    size: m.size.clone(),
                    data_volume: None,
                    data_is_new: false,
                })
                .collect();
            observed.hosts.sort_by_key(|h| h.id);
            for wanted in &self.inventory.hosts {
                if world.machines.iter().any(|m| m.name == wanted.name && Some(m.uuid) != uuid) {
                    observed.taken.insert(wanted.name.clone(), "a machine of somebody".into());
                }
            }
            Ok(observed)
        })
    }

    fn list(&self, uuid: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>> {
        Box::pin(async move {
            self.point().await?;
            let world = self.world();
            let machines = world.machines.iter().filter(|m| m.uuid == uuid);
            let resource = |kind, name: &str| Resource { kind, name: name.to_owned(), id: format!("{uuid}/{name}"), data: false };
            let mut out: Vec<Resource> = machines.map(|m| resource("machine", &m.name)).collect();
            out.extend(world.networks.get(&uuid).map(|_| resource("network", "n")));
            let volumes = world.volumes.iter().filter(|(of, _)| *of == uuid);
            out.extend(volumes.map(|(_, name)| Resource { data: true, ..resource("volume", name) }));
            Ok(out)
        })
    }

    fn removal_order(&self) -> &'static [&'static str] {
        &["machine", "network", "volume"]
    }

    fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for r in resources {
                self.point().await?;
                let mut world = self.world();
                let uuid = r.id.split('/').next().and_then(|u| u.parse::<ClusterId>().ok()).ok_or_else(|| Error::failed("no id"))?;
                match r.kind {
                    "machine" => world.machines.retain(|m| !(m.uuid == uuid && m.name == r.name)),
                    "volume" => drop(world.volumes.remove(&(uuid, r.name.clone()))),
                    _ => drop(world.networks.remove(&uuid)),
                }
                world.touched.insert(uuid);
            }
            self.point().await
        })
    }

    fn clusters(&self) -> BoxFuture<'_, Result<Vec<Found>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn hold<'a>(&'a self, _: &'a Holder) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.point().await?;
            let mut world = self.world();
            match world.locks.get(&self.inventory.cluster) {
                Some((run, true)) if *run != self.run => Err(Error::failed(format!("{run} has the lock"))),
                _ => {
                    world.locks.insert(self.inventory.cluster.clone(), (self.run.clone(), true));
                    Ok(())
                }
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.world().locks.retain(|_, (run, alive)| *run != self.run || !*alive);
        })
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        Ok(Endpoint { name: host.name.clone(), host: "127.0.0.1".into(), port: 22, host_key: String::new(), own: None })
    }

    fn login(&self) -> &'static str {
        "nobody"
    }

    fn outside(&self, _: &ObservedHost, _: u16) -> Option<String> {
        None
    }

    fn machines(&self) -> Option<&dyn Machines> {
        Some(self)
    }

    fn network(&self) -> Option<&dyn Network> {
        Some(self)
    }

    fn lease(&self) -> Option<&dyn Lease> {
        Some(self)
    }
}

impl Machines for Memory {
    fn prepare<'a>(&'a self, _: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<String>> {
        Box::pin(async { Ok(String::new()) })
    }

    fn apply<'a>(
        &'a self,
        step: &'a Step,
        _: &'a ObservedNetwork,
        site: &'a Site<'a>,
        _: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.point().await?;
            match step {
                Step::Create { id, name, .. } | Step::Replace { id, name, .. } => self.create(*id, name, site.uuid)?,
                Step::Start { id, .. } | Step::Unpause { id, .. } => self.change(*id, site.uuid, |m| m.running = true)?,
                Step::Resize { id, to, .. } => {
                    // Stopped, changed, started: it can end between any two.
                    self.change(*id, site.uuid, |m| m.running = false)?;
                    self.point().await?;
                    self.change(*id, site.uuid, |m| m.size = Some(to.clone()))?;
                    self.point().await?;
                    self.change(*id, site.uuid, |m| m.running = true)?;
                }
                Step::Rename { id, to, .. } => self.rename(*id, site.uuid, to)?,
                Step::CreateNetwork | Step::Attach { .. } | Step::Adjust(_) => {}
                Step::SetEnd { .. } | Step::PlantKey { .. } | Step::Configure { .. } | Step::Task { .. } | Step::RemoveNames { .. } => {}
            }
            self.point().await
        })
    }

    fn plant_key<'a>(&'a self, _: &'a ObservedHost, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl Network for Memory {
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> BoxFuture<'a, Result<ObservedNetwork>> {
        Box::pin(async move {
            self.point().await?;
            self.world().networks.insert(site.uuid, self.inventory.cluster.clone());
            self.point().await?;
            Ok(ObservedNetwork { reference: "n".into(), place: Place::Docker { subnet: Subnet::new(10, 1, 2), ports_from: 19_000 } })
        })
    }
}

impl Lease for Memory {
    fn expired(&self, now: u64) -> BoxFuture<'_, Result<Vec<Expired>>> {
        Box::pin(async move {
            self.point().await?;
            let world = self.world();
            let due = world.ends.iter().filter(|(_, (_, at))| *at <= now);
            Ok(due.map(|(uuid, (cluster, expires))| Expired { cluster: cluster.clone(), uuid: *uuid, expires: *expires }).collect())
        })
    }

    fn expires(&self) -> Option<u64> {
        self.world().ends.values().find(|(name, _)| *name == self.inventory.cluster).map(|(_, at)| *at)
    }

    fn extend(&self, uuid: ClusterId, expires_s: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.point().await?;
            self.world().ends.insert(uuid, (self.inventory.cluster.clone(), expires_s));
            Ok(())
        })
    }
}
