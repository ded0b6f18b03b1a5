//! The way to a cluster's hosts: its key, its host keys, one run at a time.

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::Cluster;
use crate::{
    error::{Error, Result},
    inventory::{HostId, Inventory},
    provider::{HostState, Observed},
    ssh::{Fleet, SshError, keys},
};

/// How long hosts may take until they can be logged in to.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Held while a cluster is changed; a second run is told who holds it and since when.
pub struct Lock {
    file: fs::File,
}

impl Lock {
    /// Takes the lock of a cluster.
    pub fn take(inventory: &Inventory) -> Result<Self> {
        let dir = keys::state_dir()?.join("locks");
        fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
        let path = dir.join(format!("{}.lock", inventory.cluster));
        let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
        let mut file = fs::OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path).map_err(fail)?;
        if file.try_lock().is_err() {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(Error::failed(format!("another run is at work on cluster `{}`: {}", inventory.cluster, holder.trim()))
                .hint("wait until it has ended"));
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let command: Vec<String> = std::env::args().take(12).collect();
        writeln!(file, "process {} (`{}`), since {}", std::process::id(), command.join(" "), clock(since)).map_err(fail)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Seconds since 1970 as UTC.
fn clock(seconds: u64) -> String {
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
}

impl Access {
    /// For the hosts that exist. Nothing is connected yet.
    pub fn new(cluster: &Cluster, observed: Observed) -> Result<Self> {
        let uuid = observed.uuid.clone().ok_or_else(|| not_there(&cluster.inventory))?;
        let (key, _) = keys::cluster_key(&uuid)?;
        let mut endpoints = BTreeMap::new();
        for host in &observed.hosts {
            endpoints.insert(host.id, cluster.provider.endpoint(host)?);
        }
        let fleet = Fleet::new(endpoints, cluster.provider.login(), key, cluster.bundle.agent.clone());
        let this = Self { observed, fleet: Arc::new(fleet) };
        this.write_ssh_config(cluster)?;
        Ok(this)
    }

    /// Waits until all running hosts can be logged in to. A key that is refused everywhere is the sign of a lost
    /// state directory: it is planted again, once, where that is allowed.
    pub async fn connect(&self, cluster: &Cluster, may_plant: bool) -> Result<()> {
        let begun = Instant::now();
        let mut planted = false;
        let running: Vec<HostId> = self.observed.hosts.iter().filter(|h| h.state == HostState::Running).map(|h| h.id).collect();
        loop {
            let results = join_all(running.iter().map(|id| async move { (*id, self.fleet.connection(*id).await.map(drop)) })).await;
            let failed: Vec<(HostId, SshError)> = results.into_iter().filter_map(|(id, r)| Some((id, r.err()?))).collect();
            let Some((_, first)) = failed.iter().find(|(_, e)| !matches!(e, SshError::Jump(_))).or(failed.first()) else {
                return Ok(());
            };
            if let Some((id, e @ SshError::HostKey { .. })) = failed.iter().find(|(_, e)| matches!(e, SshError::HostKey { .. })) {
                let name = self.fleet.endpoint(*id).map(|e| e.name.clone()).unwrap_or_default();
                return Err(Error::failed(format!("{name}: {e}; it is not talked to"))
                    .hint("if nobody replaced the key on purpose, somebody may be in between; else remove the host and run `septet up` to make it again"));
            }
            if matches!(first, SshError::Login(_)) && !may_plant {
                return Err(Error::failed("the cluster's key is not accepted (a lost state directory?)")
                    .hint("`septet up` plants a new one; `plan` changes nothing"));
            }
            if matches!(first, SshError::Login(_)) && !planted {
                planted = true;
                cluster.reporter.say("the cluster's key is not accepted (a lost state directory?); planting it again");
                let uuid = self.observed.uuid.as_deref().unwrap_or_default();
                let (key, _) = keys::cluster_key(uuid)?;
                cluster.provider.plant_key(&self.observed, &keys::public_line(&key)?).await?;
                continue;
            }
            if begun.elapsed() > BOOT_TIMEOUT {
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
    Error::failed(format!("there is no cluster `{}`", inventory.cluster)).hint("`septet up` makes it")
}
