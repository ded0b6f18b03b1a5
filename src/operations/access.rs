//! The way to a cluster's hosts: its key, its host keys, one run at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Seek, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sha2::{Digest, Sha256};

use super::{Cluster, RollingGate, authorized};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    inventory::{HostId, Inventory, Role},
    playbook::Gate,
    provider::{Holder, HostState, Observed, Provider, now_s},
    ssh::{Fleet, SshError, keys},
};

tokio::task_local! {
    /// The cluster whose lock this operation has.
    static HELD: String;
}

/// Does something that changes a cluster while nobody else does. A second run is told who is at work and since when. Within
/// an operation that has the lock already, as `up` within `rename`, it is not taken again.
pub async fn locked<T>(cluster: &str, provider: &dyn Provider, what: impl Future<Output = Result<T>>) -> Result<T> {
    if HELD.try_with(|held| held == cluster).unwrap_or(false) {
        return what.await;
    }
    let lock = Lock::take(cluster)?;
    provider.hold(&lock.holder).await?;
    let result = HELD.scope(cluster.to_owned(), what).await;
    provider.release().await;
    result
}

/// Held while a cluster is changed, against other runs on this machine.
struct Lock {
    file: fs::File,
    holder: Holder,
}

/// Who we are to others: which machine and state directory, whatever the process. While we have the lock file there, a run of
/// the same name elsewhere is one of ours that has ended.
pub fn identity() -> Result<String> {
    let machine = fs::read_to_string("/etc/machine-id").or_else(|_| fs::read_to_string("/proc/sys/kernel/hostname")).unwrap_or_default();
    let text = format!("{} {}", machine.trim(), keys::state_dir()?.display());
    Ok(Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect())
}

impl Lock {
    /// Takes the lock of a cluster.
    fn take(cluster: &str) -> Result<Self> {
        let dir = keys::state_dir()?.join("locks");
        fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
        let path = dir.join(format!("{cluster}.lock"));
        let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
        let mut file = fs::OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path).map_err(fail)?;
        if file.try_lock().is_err() {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(
                Error::failed(format!("another run is at work on cluster `{cluster}`: {}", holder.trim())).hint("wait until it has ended")
            );
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
        let command: Vec<String> = std::env::args().take(12).collect();
        let text = format!("process {} (`{}`), since {}", std::process::id(), command.join(" "), clock(now_s()));
        writeln!(file, "{text}").map_err(fail)?;
        let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".into());
        let text = format!("{user} on {}, {text}", machine.trim());
        Ok(Self { file, holder: Holder { id: identity()?, text } })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Seconds since 1970 as UTC.
pub fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days (Hinnant's algorithm).
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + i64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest % 3600 / 60, rest % 60)
}

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
        let uuid = observed.uuid.clone().ok_or_else(|| not_there(&cluster.inventory))?;
        let (key, _) = keys::cluster_key(&uuid)?;
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
        let fleet = Fleet::new(endpoints, cluster.provider.login(), key, agents);
        let this = Self { observed, fleet: Arc::new(fleet), planted: BTreeSet::new() };
        this.write_ssh_config(cluster)?;
        Ok(this)
    }

    /// Waits until all running hosts can be logged in to. Names those that refuse our key.
    async fn login(&self, cluster: &Cluster, planted: &BTreeSet<HostId>) -> Result<Vec<HostId>> {
        let begun = Instant::now();
        let limit = cluster.provider.boot_timeout();
        let running: Vec<HostId> = self.observed.hosts.iter().filter(|h| h.state == HostState::Running).map(|h| h.id).collect();
        loop {
            let results = join_all(running.iter().map(|id| async move { (*id, self.fleet.connection(*id).await.map(drop)) })).await;
            let failed: Vec<(HostId, SshError)> = results.into_iter().filter_map(|(id, r)| Some((id, r.err()?))).collect();
            if failed.is_empty() {
                return Ok(Vec::new());
            }
            if let Some((id, e @ SshError::HostKey { .. })) = failed.iter().find(|(_, e)| matches!(e, SshError::HostKey { .. })) {
                let name = self.fleet.endpoint(*id).map(|e| e.name.clone()).unwrap_or_default();
                return Err(Error::failed(format!("{name}: {e}; refusing to connect"))
                    .hint("if nobody replaced the key on purpose, somebody may be in between; else remove the host and run `septet up` to make it again"));
            }
            let mut refused: Vec<HostId> = failed.iter().filter(|(_, e)| matches!(e, SshError::Login(_))).map(|(id, _)| *id).collect();
            refused.sort_by_key(|id| planted.contains(id));
            // A host that boots may refuse a key that it does not have yet; one that refuses for longer does not have it. Once
            // one was found that does not have it, the others need not be given time.
            let sure = !planted.is_empty() && refused.first().is_some_and(|id| !planted.contains(id));
            let patience = if cluster.provider.planting_restarts() && !sure { Duration::from_secs(20) } else { Duration::ZERO };
            let others = failed.iter().all(|(_, e)| matches!(e, SshError::Login(_) | SshError::Jump(_)));
            if !refused.is_empty() && others && begun.elapsed() >= patience {
                return Ok(refused);
            }
            if begun.elapsed() > limit {
                let lines: Vec<String> = failed
                    .iter()
                    .map(|(id, e)| format!("{}: {e}", self.fleet.endpoint(*id).map(|e| e.name.clone()).unwrap_or_default()))
                    .collect();
                return Err(
                    Error::failed(format!("hosts cannot be logged in to:\n  {}", lines.join("\n  "))).hint("`septet health` says more")
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The hosts that exist, logged in to. A key that is refused is the sign of a new or lost state directory: it is added to the
    /// host's keys, once, where that is allowed. Where that restarts hosts, they go one at a time, each under the gate of its role.
    pub async fn connect(self, cluster: &Cluster, may_plant: bool) -> Result<Access> {
        let mut access = self;
        let mut planted = BTreeSet::new();
        loop {
            let refused = access.login(cluster, &planted).await?;
            let Some(id) = refused.first().copied() else {
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
            let uuid = access.observed.uuid.clone().unwrap_or_default();
            let public = authorized::line(&*keys::cluster_key(&uuid)?.0, &uuid)?;
            let restarts = cluster.provider.planting_restarts();
            for id in if restarts { vec![id] } else { refused } {
                let Some(host) = access.observed.host(id).cloned() else { continue };
                if !planted.insert(id) {
                    return Err(Error::failed(format!("{}: the key that was added is not accepted", host.name))
                        .hint("remove the host and run `septet up` to make it again"));
                }
                let gated = restarts && id.role != Role::Control;
                if gated {
                    cluster.reporter.say(&format!("   {}: checking that it is safe to stop", host.name));
                    access.gate(cluster).before(id).await.map_err(|e| e.context(format!("{} is not restarted", host.name)))?;
                }
                cluster.provider.plant_key(&host, &public).await?;
                if restarts {
                    let observed = cluster.provider.settle().await?;
                    access = Access::new(cluster, observed)?;
                }
                if gated {
                    access.gate(cluster).after(id).await.map_err(|e| e.context(format!("after {}", host.name)))?;
                }
            }
        }
    }

    /// The gate over these hosts.
    pub fn gate(&self, cluster: &Cluster) -> RollingGate {
        RollingGate {
            inventory: cluster.inventory.clone(),
            observed: self.observed.clone(),
            fleet: self.fleet.clone(),
            interrupted: cluster.interrupted.clone(),
        }
    }

    /// Path of the OpenSSH configuration for this cluster's hosts.
    pub fn ssh_config(uuid: &str) -> Result<std::path::PathBuf> {
        Ok(keys::cluster_dir(uuid)?.join("ssh_config"))
    }

    /// Writes a configuration for OpenSSH's own client, for `septet ssh` and for the user.
    fn write_ssh_config(&self, cluster: &Cluster) -> Result<()> {
        let uuid = self.observed.uuid.as_deref().unwrap_or_default();
        let dir = keys::cluster_dir(uuid)?;
        let known = dir.join("known_hosts");
        let mut hosts = String::new();
        let mut config = format!("# hosts of cluster {} ({uuid}); written anew by each run of septet\n", cluster.inventory.cluster);
        let mut jump = None;
        for host in &self.observed.hosts {
            let Some(e) = self.fleet.endpoint(host.id) else {
                continue;
            };
            let place = if e.port == 22 { e.host.clone() } else { format!("[{}]:{}", e.host, e.port) };
            hosts += &format!("{place} {}\n", e.host_key);
            config += &format!(
                "\nHost {}\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n",
                host.name,
                e.host,
                e.port,
                cluster.provider.login(),
                dir.join("id_ed25519").display(),
                known.display()
            );
            match &jump {
                None => jump = Some(host.name.clone()),
                Some(j) => config += &format!("  ProxyCommand ssh -F {} -W %h:%p {j}\n", dir.join("ssh_config").display()),
            }
        }
        keys::write_private(&known, &hosts)?;
        keys::write_private(&dir.join("ssh_config"), &config)
    }
}

/// There is no cluster.
pub fn not_there(inventory: &Inventory) -> Error {
    Error::failed(format!("cluster {} does not exist", inventory.cluster)).hint("`septet up` makes it")
}

/// There is no cluster, or only the data of one.
pub fn no_hosts(inventory: &Inventory, observed: &Observed) -> Error {
    match observed.kept.len() {
        0 => not_there(inventory),
        n => Error::failed(format!("cluster {} has no hosts; the data of {n} hosts is kept", inventory.cluster))
            .hint("`septet up` makes the hosts again, with that data"),
    }
}
