//! Hosts that exist: found by address or by a name in the user's OpenSSH configuration, each marked as the cluster's by a file on it.
//!
//! Invariants: a host is changed only once its owner's file names this cluster, and that file is made at one go, so that of two
//! clusters only one gets a host; what was on a host before is never removed; data stays unless its removal was asked for.

mod owner;
mod removal;
mod scripts;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use owner::{Owner, is_data_path};

use super::{Check, Found, Identity, Machines, Provider, Site, Thing, Verdict, choose, clusters, marks::Marks};
use crate::{
    clock::now_s,
    engine::bundle::Architecture,
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{HostId, Inventory, Role, StaticHost, StaticSettings},
    observed::{Adjustment, HostState, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place, Resource},
    plan::Step,
    ssh::{Ask, Connection, Endpoint, Own, SshError, quote},
    visible::Secret,
};

/// Marks a host as a cluster's.
const OWNER: &str = "/var/lib/septet-owner/owner.json";
/// Marks data that a removed cluster left as that cluster's.
const KEPT: &str = "/var/lib/septet-owner/kept.json";
/// Time for one script on a host.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most hosts that are asked at the same time.
const AT_ONCE: usize = 64;

/// What a host answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Probe {
    machine: String,
    reached: Option<IpAddr>,
    hostname: String,
    os: String,
    systemd: bool,
    units: Vec<String>,
    owner: Option<Owner>,
    kept: Option<Owner>,
}

impl Probe {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.lines().any(|l| l == "end") {
            return Err("the answer is incomplete".into());
        }
        let all = |key: &str| {
            text.lines().filter_map(|l| l.split_once(' ')).filter(|(k, _)| *k == key).map(|(_, v)| v.trim()).collect::<Vec<_>>()
        };
        let one = |key: &str| all(key).first().copied().unwrap_or_default();
        let owner = |key: &str, path: &str| match one(key) {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|e| format!("{path} does not parse: {e}")),
        };
        Ok(Self {
            machine: one("machine").into(),
            // A link-local address has its interface behind it.
            reached: one("reached").split('%').next().and_then(|a| a.parse().ok()),
            hostname: one("name").into(),
            os: one("os").into(),
            systemd: text.lines().any(|l| l == "systemd"),
            units: all("unit").into_iter().map(str::to_owned).collect(),
            owner: owner("owner", OWNER)?,
            kept: owner("kept", KEPT)?,
        })
    }
}

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
    has_ttl: bool,
    seen: Mutex<BTreeMap<HostId, Seen>>,
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
        let vars = crate::engine::vars(inventory, None);
        let data = ["broker_data", "coordinator_data"].into_iter().filter_map(|k| {
            let value = inventory.vars.get(k).or_else(|| vars.get(k))?;
            value.as_str().filter(|d| is_data_path(d)).map(str::to_owned)
        });
        let mut data: Vec<String> = data.collect();
        data.sort();
        data.dedup();
        Self {
            cluster: inventory.cluster.clone(),
            shape: inventory.shape(),
            wanted: inventory.hosts.iter().map(|h| Wanted { id: h.id, name: h.name.clone(), host: host(h.id) }).collect(),
            data,
            accept_new: settings.accept_new,
            has_ttl: inventory.ttl.is_some(),
            seen: Mutex::default(),
        }
    }

    fn seen(&self, id: HostId) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    async fn own(&self, wanted: &Wanted) -> std::result::Result<Own, SshError> {
        let h = &wanted.host;
        let from_file = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path).map_err(|e| SshError::Config(format!("{}: {e}", path.display())))?;
            Ok::<_, SshError>(Secret::new(text.lines().next().unwrap_or_default()))
        };
        let password = match (&h.become_password, &h.become_password_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(from_file(path)?),
            (None, None) => std::env::var("SEPTET_BECOME_PASSWORD").ok().filter(|p| !p.is_empty()).map(Secret::new),
        };
        let ask = Ask { target: h.target.clone(), user: h.user.clone(), port: h.port, key: h.key.clone(), config: h.config.clone() };
        Own::resolve(ask, self.accept_new, password).await
    }

    /// Asks a host, over the connection of the last time where it still stands.
    async fn look(&self, wanted: &Wanted) -> std::result::Result<Seen, SshError> {
        let (own, connection) = match self.seen(wanted.id).filter(|s| !s.connection.is_closed()) {
            Some(s) => (s.own, s.connection),
            None => {
                let own = self.own(wanted).await?;
                let connection = Arc::new(Connection::open_own(&wanted.name, &own).await?);
                (own, connection)
            }
        };
        let out = connection.exec(&script(scripts::PROBE, &[OWNER, KEPT]), b"", SCRIPT_TIMEOUT).await?;
        let probe = Probe::parse(&String::from_utf8_lossy(&out.stdout)).map_err(SshError::Agent)?;
        let seen = Seen { own, connection, probe };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.id, seen.clone());
        Ok(seen)
    }

    async fn look_at_all(&self) -> Vec<(&Wanted, std::result::Result<Seen, SshError>)> {
        let mut out = Vec::new();
        for some in self.wanted.chunks(AT_ONCE) {
            out.extend(join_all(some.iter().map(|w| async move { (w, self.look(w).await) })).await);
        }
        out
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

    /// What is wrong with reaching a host, with what to do about it.
    fn cannot_reach(wanted: &Wanted, e: &SshError) -> Error {
        let place = format!("{} ({})", wanted.name, wanted.host.target);
        match e {
            SshError::UnknownHost { .. } => Error::failed(format!("{place}: {e}"))
                .hint("compare the fingerprint with the host's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there), then run the command with `--accept-new` once"),
            SshError::HostKey { .. } => Error::failed(format!("{place}: {e}; refusing to connect"))
                .hint("if the host was installed anew, remove its old key with `ssh-keygen -R`; otherwise the connection may be intercepted"),
            SshError::Login(_) => Error::failed(format!("{place}: {e}"))
                .hint("`ssh` must log in there without a question: add the key to the host's authorized_keys, name it with `key:`, or add it to an agent"),
            SshError::Sudo(_) => Error::failed(format!("{place}: {e}"))
                .hint("give the password with `become_password_file:` or SEPTET_BECOME_PASSWORD, or allow sudo without one"),
            other => Error::failed(format!("{place}: {other}")),
        }
    }

    async fn observe_now(&self) -> Result<Observed> {
        let (mut seen, mut failed) = (Vec::new(), Vec::new());
        for (wanted, result) in self.look_at_all().await {
            match result {
                Ok(s) => seen.push((wanted, s.probe)),
                Err(e @ (SshError::Unreachable(_) | SshError::Jump { .. } | SshError::Lost(_))) => failed.push((wanted, e)),
                Err(e) => return Err(Self::cannot_reach(wanted, &e)),
            }
        }
        let mut counts: BTreeMap<ClusterId, usize> = BTreeMap::new();
        for (wanted, probe) in &seen {
            for (owner, has_host) in [(&probe.owner, true), (&probe.kept, false)] {
                let Some(owner) = owner else { continue };
                let uuid = self.of_this_cluster(wanted, owner)?;
                *counts.entry(uuid).or_default() += usize::from(has_host);
            }
        }
        let identities: Vec<Identity> = counts.into_iter().map(|(uuid, hosts)| Identity { uuid, hosts }).collect();
        let (uuid, twins) = choose(&self.cluster, identities)?;
        // Without a host that says which cluster this is, nothing is known of those that do not answer.
        if let Some((wanted, e)) = failed.first().filter(|_| uuid.is_none()) {
            return Err(Self::cannot_reach(wanted, e));
        }
        let mut observed = Observed { uuid, twins, ..Observed::default() };
        let mut places = BTreeMap::new();
        for (wanted, probe) in seen {
            let address = wanted.host.address.or(probe.reached).unwrap_or(IpAddr::from([0, 0, 0, 0]));
            places.insert(wanted.id, address);
            let is_own = |o: &&Owner| o.cluster.parse().ok() == uuid;
            if let Some(owner) = probe.owner.as_ref().filter(is_own) {
                observed.engine.get_or_insert_with(|| owner.engine.clone());
                observed.hosts.push(Self::host(wanted, owner.host.clone(), address, &probe));
            } else if let Some(kept) = probe.kept.as_ref().filter(is_own) {
                observed.engine.get_or_insert_with(|| kept.engine.clone());
                observed.kept.insert(wanted.id, KeptVolume { reference: kept.data(&self.data).join(", "), zone: String::new() });
            }
        }
        for (wanted, _) in failed {
            let address = wanted.host.address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            observed.hosts.push(Self::host(wanted, wanted.name.clone(), address, &Probe::default()));
        }
        observed.hosts.sort_by_key(|h| h.id);
        observed.network = Some(ObservedNetwork { reference: "given".into(), place: Place::Given(places) });
        Ok(observed)
    }

    fn host(wanted: &Wanted, name: String, address: IpAddr, probe: &Probe) -> ObservedHost {
        ObservedHost {
            id: wanted.id,
            reference: wanted.host.target.clone(),
            name,
            state: HostState::Running,
            address,
            public: None,
            host_key: String::new(),
            published: BTreeMap::new(),
            architecture: Architecture::parse(&probe.machine),
            size: None,
            data_volume: None,
            data_is_new: false,
        }
    }

    /// The identity that stands on a host, if it is this cluster's and in the place that the inventory gives it.
    fn of_this_cluster(&self, wanted: &Wanted, owner: &Owner) -> Result<ClusterId> {
        let place = format!("{} ({})", wanted.name, wanted.host.target);
        let Some(uuid) = owner.cluster.parse().ok().filter(|_| self.cluster == owner.name) else {
            let text = format!("{place} belongs to cluster `{}` ({}): refusing to use it", owner.name, owner.cluster);
            return Err(Error::failed(text)
                .hint("take it out of the inventory, or give it back first: `septet down --data` with that cluster's inventory"));
        };
        if owner.id() != wanted.id {
            let text = format!(
                "{place} is number {} of {} in this cluster, the inventory has it as number {} of {}",
                owner.index, owner.group, wanted.id.index, wanted.id.group
            );
            return Err(Error::failed(text).hint("a host's number is its place in the list: put it back where it was"));
        }
        Ok(uuid)
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

    fn warnings(&self) -> Vec<String> {
        self.has_ttl.then(|| "`ttl` has no effect on hosts that Septet did not make".to_owned()).into_iter().collect()
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        let name = host.name.clone();
        match self.seen(host.id) {
            Some(s) => {
                Ok(Endpoint { name, host: s.own.host.clone(), port: s.own.port, host_key: String::new(), own: Some(Arc::new(s.own)) })
            }
            // It did not answer; whoever connects is told so.
            None => Ok(Endpoint { name, host: host.reference.clone(), port: 22, host_key: String::new(), own: None }),
        }
    }

    fn login(&self) -> &'static str {
        ""
    }

    fn boot_timeout(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String> {
        let v4 = host.address.is_ipv4() && !host.address.is_unspecified();
        (host.id.role() == Role::Broker && port == super::EXTERNAL_PORT && v4).then(|| format!("{}:{port}", host.address))
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
            let found = join_all(new.map(|id| self.preflight_one(id))).await;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let owner = r#"{"cluster":"0123e456-e89b-42d3-a456-426614174000","name":"lab","group":"brokers","index":2,"host":"p-kafka02","engine":"bundled-3"}"#;
        let text = format!(
            "machine x86_64\nreached fe80::1%eth0\nname old\nos debian 12\nsystemd\nunit kafka-server.service\nowner {owner}\nend\n"
        );
        let probe = Probe::parse(&text).unwrap();
        assert_eq!(probe.reached, "fe80::1".parse().ok());
        assert_eq!((probe.hostname.as_str(), probe.os.as_str(), probe.systemd), ("old", "debian 12", true));
        let read = probe.owner.unwrap();
        assert_eq!((read.id().to_string().as_str(), read.before.len()), ("broker2", 0));
        assert!(Probe::parse(&text.replace("\nend\n", "\n")).is_err());
        assert!(Probe::parse("owner {\nend\n").unwrap_err().contains("does not parse"));
    }
}
