//! The way to a cluster's hosts: its key, its host keys, connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use russh::keys::PrivateKey;

use super::{
    Cluster, RollingGate, authorized,
    plant::{self, Plant},
    unreachable,
};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::{ClusterId, HostName},
    inventory::{HostId, Inventory, Role},
    observed::{HostState, Observed},
    plan::{Order, Plan, Reason, StageKind, Step},
    rolling,
    ssh::{Fleet, SshError, keys, openssh},
    state::{SSH_CONFIG, State},
};

/// A cluster with its hosts at hand.
pub struct Access {
    /// what exists
    pub observed: Observed,
    /// the hosts
    pub fleet: Arc<Fleet>,
    /// hosts that were given this state directory's key
    pub planted: BTreeSet<HostId>,
}

impl Access {
    /// For the hosts that exist. Nothing is connected yet.
    pub fn new(cluster: &Cluster, observed: Observed) -> Result<Self> {
        let id = observed.uuid.ok_or_else(|| not_there(&cluster.inventory))?;
        let (key, _) = keys::cluster_key(id)?;
        let this = Self::with_key(cluster, observed, key)?;
        this.write_ssh_config(cluster, id)?;
        Ok(this)
    }

    /// For hosts that exist and are no cluster's yet. Nothing is connected yet.
    pub fn before_first_up(cluster: &Cluster, mut observed: Observed) -> Result<Self> {
        observed.hosts = cluster.provider.given();
        Self::with_key(cluster, observed, keys::unknown_key()?)
    }

    fn with_key(cluster: &Cluster, observed: Observed, key: Arc<PrivateKey>) -> Result<Self> {
        let (mut endpoints, mut agents) = (BTreeMap::new(), BTreeMap::new());
        for host in &observed.hosts {
            match cluster.provider.endpoint(host) {
                Ok(e) => drop(endpoints.insert(host.id, e)),
                // A stopped host may have no address.
                Err(e) if host.state == HostState::Running => return Err(e),
                Err(_) => {}
            }
            // A missing bundle matters once an agent is started.
            if let Ok(bundle) = cluster.bundles.of(host.architecture.unwrap_or(Architecture::NATIVE)) {
                agents.insert(host.id, bundle.agent.clone());
            }
        }
        let down = observed.hosts.iter().filter_map(|h| Some((h.id, not_running(h.state)?))).collect();
        let fleet = Fleet::new(endpoints, cluster.provider.login(), key, agents).with_down(down).with_forks(cluster.options.forks);
        Ok(Self { observed, fleet: Arc::new(fleet), planted: BTreeSet::new() })
    }

    /// Waits until all running hosts can be logged in to. Names those that refuse our key.
    pub(super) async fn login(&self, cluster: &Cluster, planted: &BTreeSet<HostId>) -> Result<Vec<HostId>> {
        self.observed.all_reached()?;
        let begun = Instant::now();
        let (limit, restarts) = (cluster.provider.boot_timeout(), plant::restarts(cluster));
        let running: Vec<HostId> = self.observed.hosts.iter().filter(|h| h.state == HostState::Running).map(|h| h.id).collect();
        loop {
            let results = self.fleet.all(running.iter().map(|id| async move { (*id, self.fleet.connection(*id).await.map(drop)) })).await;
            let failed: Vec<(HostId, SshError)> = results.into_iter().filter_map(|(id, r)| Some((id, r.err()?))).collect();
            if failed.is_empty() {
                return Ok(Vec::new());
            }
            if let Some((id, e @ SshError::HostKey { .. })) = failed.iter().find(|(_, e)| matches!(e, SshError::HostKey { .. })) {
                let name = self.fleet.endpoint(*id).map(|e| e.name.clone()).unwrap_or_default();
                return Err(Error::failed(format!("{name}: {e}; refusing to connect"))
                    .hint("if the key was not replaced on purpose, the connection may be intercepted; otherwise remove the host and run `septet up` to create it again"));
            }
            let mut refused: Vec<HostId> = failed.iter().filter(|(_, e)| matches!(e, SshError::Login(_))).map(|(id, _)| *id).collect();
            refused.sort_by_key(|id| planted.contains(id));
            // A host that boots may refuse a key that it does not have yet; one that refuses for longer does not have it. Once
            // one was found that does not have it, the others need not be given time.
            let sure = !planted.is_empty() && refused.first().is_some_and(|id| !planted.contains(id));
            let patience = if restarts && !sure { Duration::from_secs(20) } else { Duration::ZERO };
            let others = failed.iter().all(|(_, e)| matches!(e, SshError::Login(_) | SshError::Jump { .. }));
            if !refused.is_empty() && others && begun.elapsed() >= patience {
                return Ok(refused);
            }
            if begun.elapsed() > limit {
                let failed: Vec<_> = failed.into_iter().filter_map(|(id, e)| Some((self.observed.host(id)?.clone(), e))).collect();
                return Err(unreachable::explain(&*cluster.provider, &failed).await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// For a plan: the hosts that exist, logged in to, and the keys that `up` would add. Behind a control host that refuses the key no
    /// host can be asked, so all of them are counted.
    pub async fn look(self, cluster: &Cluster) -> Result<(Access, Plan)> {
        let refused = self.login(cluster, &BTreeSet::new()).await?;
        let mut plan = Plan::default();
        let hidden = refused.iter().any(|id| id.role() == Role::Control);
        let order = if plant::restarts(cluster) { Order::Rolling } else { Order::Parallel };
        for host in self.observed.hosts.iter().filter(|h| h.state == HostState::Running && (hidden || refused.contains(&h.id))) {
            plan.add_in(StageKind::Keys, order, Step::PlantKey { id: host.id, name: host.name.clone() }, Reason::KeyRefused);
        }
        Ok((self, plan))
    }

    /// The hosts that exist, logged in to. A key that is refused is the sign of a new or lost state directory: it is added to the
    /// host's keys, once, where that is allowed.
    pub async fn connect(self, cluster: &Cluster, may_plant: bool) -> Result<Access> {
        let mut access = self;
        let mut planted = BTreeSet::new();
        loop {
            let refused = access.login(cluster, &planted).await?;
            let Some(first) = refused.first().copied() else {
                access.planted = planted;
                return Ok(access);
            };
            if !may_plant {
                return Err(Error::failed("the hosts do not accept the key of this state directory")
                    .hint("`septet up` adds it to the hosts; keys of other users stay"));
            }
            if planted.is_empty() {
                cluster.reporter.say("the hosts do not accept the key of this state directory: adding it; keys of other users stay");
            }
            let uuid = access.observed.uuid.ok_or_else(|| not_there(&cluster.inventory))?;
            let public_key = authorized::line(&keys::cluster_key(uuid)?.0, uuid)?;
            let one_role = plant::restarts(cluster);
            let due = refused.into_iter().filter(|id| !one_role || id.role() == first.role()).collect();
            let mut work = Plant { cluster, access, public_key: &public_key, planted: &mut planted };
            rolling::roll(&mut work, first.role(), due, &cluster.interrupted).await?;
            access = work.access;
        }
    }

    /// The gate over these hosts.
    pub fn gate(&self, cluster: &Cluster) -> RollingGate {
        RollingGate {
            inventory: cluster.inventory.clone(),
            observed: self.observed.clone(),
            fleet: self.fleet.clone(),
            reporter: cluster.reporter.clone(),
            interrupted: cluster.interrupted.clone(),
        }
    }

    /// Path of the OpenSSH configuration for this cluster's hosts.
    pub fn ssh_config(id: ClusterId) -> Result<PathBuf> {
        Ok(State::cluster(id)?.path_of(SSH_CONFIG))
    }

    /// Writes a configuration for OpenSSH's own client, for `septet ssh` and for the user. Hosts go by the inventory's names, and by
    /// what the provider calls them where that is no other host's name.
    fn write_ssh_config(&self, cluster: &Cluster, id: ClusterId) -> Result<()> {
        let wanted = |host: HostId| cluster.inventory.hosts.iter().find(|h| h.id == host).map(|h| h.name.as_str());
        let is_wanted = |name: &str| cluster.inventory.hosts.iter().any(|h| h.name == name);
        let mut hosts = Vec::new();
        for host in &self.observed.hosts {
            let Some(e) = self.fleet.endpoint(host.id) else { continue };
            let shown = Some(host.name.as_str()).filter(|n| !is_wanted(n));
            let names: Vec<HostName> = wanted(host.id).into_iter().chain(shown).filter_map(|n| n.parse().ok()).collect();
            // A host whose address or key is not one gets no entry: OpenSSH would ask, or trust what it finds.
            if let (false, Ok(address), Ok(key)) = (names.is_empty(), e.host.parse(), e.host_key.parse()) {
                hosts.push(openssh::Entry { names, address, port: e.port, key });
            }
        }
        openssh::write(&State::cluster(id)?, cluster.provider.login(), &hosts)
    }
}

/// What a host is that does not run.
fn not_running(state: HostState) -> Option<&'static str> {
    match state {
        HostState::Running => None,
        HostState::Stopped => Some("stopped"),
        HostState::Paused => Some("paused"),
        HostState::Unfinished => Some("not started yet"),
    }
}

/// The cluster's hosts are gone and their data is there.
pub fn only_data(inventory: &Inventory, observed: &Observed) -> Error {
    Error::failed(format!("cluster `{}` has no hosts; the data of {} of them is kept", inventory.cluster, observed.kept.len()))
        .hint("`septet up` makes the hosts again with their data")
}

/// There is no cluster.
pub fn not_there(inventory: &Inventory) -> Error {
    Error::failed(format!("cluster {} does not exist", inventory.cluster)).hint("`septet up` makes it")
}
