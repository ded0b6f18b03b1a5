//! Hosts that exist: found by address or by a name in the user's OpenSSH configuration, each marked as the cluster's by a file on it.
//!
//! Invariants: a host is changed only once its owner's file names this cluster, and that file is made at one go, so that of two
//! clusters only one gets a host; what was on a host before is never removed; data stays unless its removal was asked for.

mod left_out;
mod observe;
mod owner;
mod probe;
mod removal;
mod scripts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use left_out::LeftOut;
use owner::{Owner, is_data_path};
use probe::Probe;

use super::{Check, Found, Identity, Machines, Provider, Site, Thing, Verdict, clusters, marks::Marks};
use crate::{
    clock::now_s,
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{HostId, Inventory, Role, StaticHost, StaticSettings},
    observed::{Adjustment, Observed, ObservedHost, ObservedNetwork, Resource},
    plan::Step,
    ssh::{Connection, Endpoint, Jumps, Own, all, at_once, quote},
    visible::Secret,
};

/// Marks a host as a cluster's.
const OWNER: &str = "/var/lib/septet-owner/owner.json";
/// Marks data that a removed cluster left as that cluster's.
const KEPT: &str = "/var/lib/septet-owner/kept.json";
/// Time for one script on a host.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// What is known of a host that answered.
#[derive(Clone)]
struct Seen {
    own: Own,
    connection: Arc<Connection>,
    probe: Probe,
}

/// A host as the inventory has it.
#[derive(Debug, Clone)]
struct Wanted {
    id: HostId,
    name: String,
    host: StaticHost,
}

/// The provider.
pub struct StaticHosts {
    cluster: ClusterName,
    shape: String,
    wanted: Vec<Wanted>,
    /// Where the engine keeps data.
    data: Vec<String>,
    accept_new: bool,
    /// For `sudo` on hosts that have none of their own.
    become_password: Option<Secret>,
    /// Whether a removal leaves out hosts that cannot be reached.
    ignore_unreachable: bool,
    /// Hosts that are asked at the same time.
    at_once: usize,
    external_port: u16,
    has_ttl: bool,
    jumps: Arc<Jumps>,
    seen: Mutex<BTreeMap<HostId, Seen>>,
    /// Hosts that are left out of the removal that this is used for.
    left_out: Mutex<LeftOut>,
    /// How to connect to each host, whether or not it answered.
    routes: Mutex<BTreeMap<HostId, Own>>,
}

/// A command that runs a script with arguments.
fn script(text: &str, arguments: &[&str]) -> String {
    let words: Vec<String> = arguments.iter().map(|a| quote(a)).collect();
    format!("sh -c {} sh {}", quote(text), words.join(" "))
}

impl StaticHosts {
    /// For the inventory's hosts. Nothing is asked yet.
    pub fn new(inventory: &Inventory, settings: &StaticSettings) -> Self {
        let host = |id: HostId| settings.hosts.get(&id).cloned().unwrap_or_default();
        let data = inventory.hosts.iter().flat_map(|h| crate::engine::data::directories(inventory, h.id)).filter(|d| is_data_path(d));
        let mut data: Vec<String> = data.collect();
        data.sort();
        data.dedup();
        Self {
            cluster: inventory.cluster.clone(),
            shape: inventory.shape(),
            wanted: inventory.hosts.iter().map(|h| Wanted { id: h.id, name: h.name.clone(), host: host(h.id) }).collect(),
            data,
            accept_new: settings.accept_new,
            become_password: settings.become_password.clone(),
            ignore_unreachable: settings.ignore_unreachable,
            at_once: at_once(settings.forks),
            jumps: Arc::default(),
            left_out: Mutex::default(),
            external_port: inventory.ports.external,
            has_ttl: inventory.ttl.is_some(),
            seen: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    fn seen(&self, id: HostId) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Runs a script as root on a host; its standard output.
    async fn run(&self, id: HostId, text: &str, arguments: &[&str]) -> Result<String> {
        let name = self.name(id);
        let seen = self.seen(id).ok_or_else(|| Error::failed(format!("{name} was not reached")))?;
        let out = seen.connection.exec_as_root(&script(text, arguments), SCRIPT_TIMEOUT).await;
        let out = out.map_err(|e| Error::failed(format!("{name}: {e}")))?;
        if out.code != Some(0) {
            return Err(Error::failed(format!("{name}: {}", String::from_utf8_lossy(&out.stderr).trim())));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn name(&self, id: HostId) -> String {
        self.wanted.iter().find(|w| w.id == id).map(|w| w.name.clone()).unwrap_or_default()
    }

    fn owner(&self, id: HostId, name: &str, uuid: ClusterId) -> Owner {
        Owner {
            cluster: uuid.to_string(),
            name: self.cluster.to_string(),
            group: id.group,
            index: id.index,
            host: name.to_owned(),
            engine: self.shape.clone(),
            hostname_before: String::new(),
            before: Vec::new(),
            logs: true,
            data: None,
        }
    }

    /// Makes a host the cluster's, unless another cluster was faster.
    async fn claim(&self, id: HostId, name: &str, uuid: ClusterId) -> Result<()> {
        let seen = self.seen(id).ok_or_else(|| Error::failed(format!("{name} was not reached")))?;
        let mut owner = self.owner(id, name, uuid);
        // What a removed cluster left is its data; all else that is there now came before this one, or after that one.
        let kept = seen.probe.kept.as_ref();
        let paths = kept.map_or_else(|| self.data.clone(), |k| k.with_data(&self.data));
        let listed = self.run(id, scripts::LIST, &["", &paths.join(" ")]).await?;
        owner.hostname_before = seen.probe.hostname.clone();
        owner.before = owner::before(&listed, kept, &self.data).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        owner.data = Some(paths);
        let text = serde_json::to_string(&owner).map_err(|e| Error::failed(e.to_string()))?;
        let answer = self.run(id, scripts::CLAIM, &[OWNER, &text]).await?;
        let is: Owner = serde_json::from_str(answer.trim()).map_err(|e| Error::failed(format!("{name}: {OWNER} does not parse: {e}")))?;
        let wanted = self.wanted.iter().find(|w| w.id == id).ok_or_else(|| Error::failed(format!("{name} is not in the inventory")))?;
        match self.of_this_cluster(wanted, &is)? == uuid {
            true => Ok(()),
            false => Err(Error::failed(format!("{name}: another run has made it part of {}", is.cluster)).hint("run `septet up` again")),
        }
    }

    /// Writes another name into the owner's file.
    async fn rename(&self, id: HostId, to: &str) -> Result<()> {
        let seen = self.seen(id).and_then(|s| s.probe.owner);
        let Some(owner) = seen else {
            return Err(Error::failed(format!("{to}: the host has no owner's file")).hint("run `septet up` again"));
        };
        let text = serde_json::to_string(&Owner { host: to.to_owned(), ..owner }).map_err(|e| Error::failed(e.to_string()))?;
        self.run(id, scripts::REWRITE, &[OWNER, &text]).await.map(drop)
    }

    /// Writes down that the cluster keeps data in directories that the host's file does not have yet. What is in them now stays when
    /// the data is removed.
    async fn adopt(&self, id: HostId) -> Result<()> {
        let name = self.name(id);
        let Some(owner) = self.seen(id).and_then(|s| s.probe.owner) else {
            return Err(Error::failed(format!("{name}: the host has no owner's file")).hint("run `septet up` again"));
        };
        let new = owner.unknown(&self.data);
        let listed = self.run(id, scripts::LIST, &["", &new.join(" ")]).await?;
        let owner = owner.adopting(&self.data, &listed).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        let text = serde_json::to_string(&owner).map_err(|e| Error::failed(e.to_string()))?;
        self.run(id, scripts::REWRITE, &[OWNER, &text]).await.map(drop)
    }

    /// Whether a host can be used, before anything is changed on it.
    async fn preflight_one(&self, id: HostId) -> (bool, String) {
        let name = self.name(id);
        let Some(seen) = self.seen(id) else { return (false, format!("{name}: not reached")) };
        let probe = &seen.probe;
        if !probe.systemd {
            return (false, format!("{name}: systemd does not run there ({})", probe.os));
        }
        if Architecture::parse(&probe.machine).is_none() {
            return (false, format!("{name}: {} is not supported", probe.machine));
        }
        // A removal takes the cluster's units before its mark: one that is there without that mark is somebody's, also beside kept data.
        if probe.owner.is_none() && !probe.units.is_empty() {
            return (false, format!("{name}: {} is there already and is not Septet's", probe.units.join(", ")));
        }
        match self.run(id, "true", &[]).await {
            Ok(_) => (true, format!("{name}: {} {}", probe.os, probe.machine)),
            Err(e) => (false, e.message),
        }
    }
}

impl Provider for StaticHosts {
    fn observe(&self) -> BoxFuture<'_, Result<Observed>> {
        Box::pin(self.observe_now())
    }

    fn resources(&self, _inventory: &Inventory) -> Vec<String> {
        vec![
            format!("{OWNER} on every host: it names the cluster that the host belongs to"),
            "the hosts' names, in /etc/hostname and a block of /etc/hosts; `septet down` puts the earlier ones back".to_owned(),
        ]
    }

    fn list(&self, uuid: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>> {
        Box::pin(self.list_now(uuid))
    }

    fn removal_order(&self) -> &'static [&'static str] {
        &removal::ORDER
    }

    fn keeps_data(&self) -> bool {
        true
    }

    fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove_now(resources))
    }

    fn clusters(&self) -> BoxFuture<'_, Result<Vec<Found>>> {
        Box::pin(async {
            // Only the hosts of the inventory are known.
            let observed = self.observe_now().await?;
            let marks = |uuid, host: &ObservedHost| Marks {
                cluster: uuid,
                name: Some(self.cluster.clone()),
                host: Some(host.id),
                host_key: None,
                engine: None,
                expires: None,
                ports: None,
            };
            let thing = |uuid, h: &ObservedHost| Thing {
                marks: marks(uuid, h),
                host: Some(h.name.clone()),
                running: true,
                made_s: None,
                hourly: None,
            };
            Ok(clusters(
                observed.uuid.into_iter().flat_map(|uuid| observed.hosts.iter().map(move |h| thing(uuid, h)).collect::<Vec<_>>()),
                now_s(),
            ))
        })
    }

    /// By what stands on the hosts, of which two may disagree: `observe` refuses that.
    fn identities(&self) -> BoxFuture<'_, Result<Vec<Identity>>> {
        Box::pin(async {
            let mut counts: BTreeMap<ClusterId, usize> = BTreeMap::new();
            for (wanted, probe) in self.look_for_removal().await? {
                for (owner, has_host) in [(probe.owner, true), (probe.kept, false)] {
                    let Some(owner) = owner else { continue };
                    *counts.entry(self.of_this_cluster(wanted, &owner)?).or_default() += usize::from(has_host);
                }
            }
            Ok(counts.into_iter().map(|(uuid, hosts)| Identity { uuid, hosts }).collect())
        })
    }

    fn given(&self) -> Vec<ObservedHost> {
        let seen = |w: &Wanted| {
            let probe = self.seen(w.id)?.probe;
            Some(Self::host(w, w.name.clone(), w.host.address.or(probe.reached)?, &probe))
        };
        self.wanted.iter().filter_map(seen).collect()
    }

    fn left_out(&self) -> Vec<String> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).reasons()
    }

    fn warnings(&self) -> Vec<String> {
        self.has_ttl.then(|| "`ttl` has no effect on hosts that Septet did not make".to_owned()).into_iter().collect()
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        let route = || self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(&host.id).cloned();
        let name = host.name.clone();
        Ok(match self.seen(host.id).map(|s| s.own).or_else(route) {
            // One that did not answer is tried again by whoever connects, who learns why.
            Some(own) => Endpoint { name, host: own.host.clone(), port: own.port, host_key: String::new(), own: Some(Arc::new(own)) },
            None => Endpoint { name, host: host.reference.clone(), port: 22, host_key: String::new(), own: None },
        })
    }

    fn login(&self) -> &'static str {
        ""
    }

    fn boot_timeout(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String> {
        let v4 = host.address.is_ipv4() && !host.address.is_unspecified();
        (host.id.role() == Role::Broker && port == self.external_port && v4).then(|| format!("{}:{port}", host.address))
    }

    fn machines(&self) -> Option<&dyn Machines> {
        Some(self)
    }
}

impl Machines for StaticHosts {
    fn adjustments<'a>(&'a self, observed: &'a Observed) -> BoxFuture<'a, Result<Vec<Adjustment>>> {
        Box::pin(async move {
            let of = |host: &ObservedHost| {
                let owner = self.seen(host.id)?.probe.owner.filter(|o| o.cluster.parse().ok() == observed.uuid)?;
                let paths = owner.unknown(&self.data);
                (owner.data.is_none() || !paths.is_empty()).then(|| Adjustment::Data { id: host.id, name: host.name.clone(), paths })
            };
            Ok(observed.hosts.iter().filter_map(of).collect())
        })
    }

    fn preflight<'a>(&'a self, _observed: &'a Observed, steps: &'a [Step]) -> BoxFuture<'a, Result<Vec<Check>>> {
        Box::pin(async move {
            let new = steps.iter().filter_map(|s| match s {
                Step::Create { id, .. } => Some(*id),
                _ => None,
            });
            let found = all(self.at_once, new.map(|id| self.preflight_one(id))).await;
            let failed: Vec<String> = found.iter().filter(|(ok, _)| !ok).map(|(_, t)| t.clone()).collect();
            let (verdict, finding) = match failed.is_empty() {
                true => (Verdict::Pass, found.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(", ")),
                false => (Verdict::Fail, failed.join("; ")),
            };
            let hint = (verdict == Verdict::Fail)
                .then(|| "nothing was changed on any host: repair what is named, or take the host out of the inventory".to_owned());
            Ok(vec![Check { name: "hosts", verdict, finding, hint }])
        })
    }

    fn prepare<'a>(&'a self, _say: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<String>> {
        Box::pin(async { Ok("hosts that exist".to_owned()) })
    }

    fn apply<'a>(
        &'a self,
        step: &'a Step,
        _network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        _say: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match step {
                Step::Create { id, name, .. } => self.claim(*id, name, site.uuid).await,
                Step::Rename { id, to, .. } => self.rename(*id, to).await,
                Step::Adjust(Adjustment::Data { id, .. }) => self.adopt(*id).await,
                // Nothing else of a host is Septet's to change.
                _ => Ok(()),
            }
        })
    }

    fn plant_key<'a>(&'a self, host: &'a ObservedHost, _public_key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            Err(Error::failed(format!("{}: no key of the user's is accepted", host.name))
                .hint("add your key to the host's authorized_keys: Septet changes no keys on hosts that it did not make"))
        })
    }
}
