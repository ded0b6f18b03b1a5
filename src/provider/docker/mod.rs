//! Local containers: each host is a container with systemd and OpenSSH, with a fixed address in the cluster's own
//! network and a volume for its data.
//!
//! What is known of a cluster is on its objects: labels `septet.cluster` (the UUID), `septet.name`, `septet.role`,
//! `septet.index`, `septet.hostkey`; on the network also `septet.ports`.

mod create;
mod daemon;
mod errors;
mod image;
mod lease;
mod lock;
mod network;
mod observe;
mod preflight;
mod privilege;
mod subnet;

use futures_util::future::BoxFuture;
use std::collections::HashMap;

use bollard::{
    Docker as Engine,
    query_parameters::{
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
        RenameContainerOptionsBuilder,
    },
};
use create::authorize;
use errors::{explain, is_status};
use tokio::sync::{Mutex, OnceCell};

use super::{
    Check, Expired, Found, Holder, Identity, Lease, Lost, Machines, Network, Observed, ObservedHost, ObservedNetwork, Place, Provider,
    Resource, Site, foreign, marks::Marks,
};
use crate::{
    address::Subnet,
    clock::now_s,
    engine::listeners::{Listener, listeners},
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::{DockerSettings, HostId, Inventory, Role},
    plan::Step,
    ssh::Endpoint,
};

const CLUSTER: &str = "septet.cluster";
const NAME: &str = "septet.name";
const ROLE: &str = "septet.role";
const INDEX: &str = "septet.index";
const HOST_KEY: &str = "septet.hostkey";
const PORTS: &str = "septet.ports";
/// When the cluster expires, in seconds since 1970.
const EXPIRES: &str = "septet.expires";

/// Engine and mode.
const ENGINE: &str = "septet.engine";

/// The user that Septet logs in as; the image has it, with sudo.
pub const LOGIN: &str = "septet";

/// The provider.
pub struct Docker {
    engine: Engine,
    /// which daemon, where it is not the usual one
    daemon: Option<daemon::Found>,
    settings: DockerSettings,
    cluster: ClusterName,
    /// how long the cluster is wanted
    ttl: Option<std::time::Duration>,
    /// when the cluster expires, as written on its resources
    expires: std::sync::Mutex<Option<u64>>,
    /// engine, mode and the number of metadata servers
    shape: String,
    /// what its hosts listen on
    listeners: Vec<Listener>,
    /// whether hosts are made with Java
    java: bool,
    /// names that the inventory wants, to look whether others have them
    wanted: Vec<String>,
    ready: OnceCell<(String, privilege::Privilege)>,
    hold: Mutex<Option<lock::Hold>>,
    /// set once this process was found not to run in a container of the daemon's
    outside: OnceCell<()>,
}

/// The marks in a thing's labels.
fn marks(labels: &HashMap<String, String>) -> Option<Marks> {
    Marks::read(|name| labels.get(&format!("septet.{name}")).map(String::as_str))
}

fn filter(label: &str, value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])])
}

/// Name of a host's volume: by its identity, since the host's name can change.
fn volume_name(uuid: ClusterId, id: HostId) -> String {
    format!("septet-{}-{id}", uuid.short())
}

impl Docker {
    /// Connects to the daemon of `DOCKER_HOST`, or the local one, or what `docker` itself would use. Nothing is asked of it yet.
    pub fn connect(inventory: &Inventory, settings: DockerSettings) -> Result<Self> {
        let daemon = daemon::find();
        if let Some(found) = &daemon {
            found.must_be_here()?;
        }
        let engine = match &daemon {
            Some(found) => Engine::connect_with_host(&found.host),
            None => Engine::connect_with_defaults(),
        };
        let engine = engine.map_err(|e| {
            let why = daemon.as_ref().map(|d| format!(" at {} ({})", d.host, d.why)).unwrap_or_default();
            explain(&format!("cannot use Docker{why}"), e)
        })?;
        Ok(Self {
            engine,
            daemon,
            settings,
            cluster: inventory.cluster.clone(),
            ttl: inventory.ttl,
            expires: std::sync::Mutex::default(),
            shape: inventory.shape(),
            listeners: listeners(inventory),
            java: matches!(&inventory.engine, crate::inventory::Engine::Apache(a) if a.java.is_none()),
            wanted: inventory.hosts.iter().map(|h| h.name.clone()).collect(),
            ready: OnceCell::new(),
            hold: Mutex::default(),
            outside: OnceCell::new(),
        })
    }

    /// Refuses to run inside of a container of the daemon's with a network of its own: it would wait for ports that are elsewhere.
    async fn must_be_outside(&self) -> Result<()> {
        let check = || async {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let Some(id) = daemon::own_container(&mounts) else { return Ok(()) };
            // One that this daemon does not know is another daemon's: a machine in a container is a machine.
            let Ok(found) = self.engine.inspect_container(&id, None).await else { return Ok(()) };
            match found.host_config.and_then(|c| c.network_mode) {
                Some(mode) if mode == "host" => Ok(()),
                _ => Err(daemon::inside(found.name.as_deref().unwrap_or(&id).trim_start_matches('/'))),
            }
        };
        self.outside.get_or_try_init(check).await.copied()
    }

    /// First of a network's published ports; nothing else has any.
    fn ports_from(network: &ObservedNetwork) -> u16 {
        match &network.place {
            Place::Docker { ports_from, .. } => *ports_from,
            Place::Zones(_) | Place::Given(_) => 0,
        }
    }

    /// Labels that everything of a cluster has.
    fn labels(&self, uuid: ClusterId) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (CLUSTER.to_owned(), uuid.to_string()),
            (NAME.to_owned(), self.cluster.to_string()),
            (ENGINE.to_owned(), self.shape.clone()),
        ]);
        // Counted from when the cluster is made, also for what is made later.
        if let Some(ttl) = self.ttl {
            let first = *self.known_end().get_or_insert_with(|| now_s() + ttl.as_secs());
            labels.insert(EXPIRES.to_owned(), first.to_string());
        }
        labels
    }

    /// When the cluster expires.
    fn known_end(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.expires.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Provider for Docker {
    fn observe(&self) -> BoxFuture<'_, Result<Observed>> {
        Box::pin(async {
            self.must_be_outside().await?;
            self.observe_now().await
        })
    }

    fn identities(&self) -> BoxFuture<'_, Result<Vec<Identity>>> {
        Box::pin(self.identities_now())
    }

    fn list(&self, uuid: ClusterId) -> BoxFuture<'_, Result<Vec<Resource>>> {
        Box::pin(async move {
            let uuid = &uuid.to_string();
            let mut out = Vec::new();
            for c in self.containers(CLUSTER, uuid).await? {
                let name = c.name.unwrap_or_default().trim_start_matches('/').to_owned();
                out.push(Resource { kind: "container", name, id: c.id.unwrap_or_default(), data: false });
            }
            for n in self.networks(CLUSTER, uuid).await? {
                out.push(Resource { kind: "network", name: n.name.unwrap_or_default(), id: n.id.unwrap_or_default(), data: false });
            }
            let volumes = self.volumes(CLUSTER, uuid).await?.into_iter().map(|v| v.name).collect();
            out.extend(lease::volume_resources(volumes, uuid));
            out.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
            Ok(out)
        })
    }

    fn removal_order(&self) -> &'static [&'static str] {
        &["container", "network", "volume"]
    }

    fn remove<'a>(&'a self, resources: &'a [Resource]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let one = |resource: &'a Resource| async move {
                let removed = match resource.kind {
                    "container" => return self.remove_container(&resource.id).await,
                    "network" => self.engine.remove_network(&resource.id).await,
                    _ => self.engine.remove_volume(&resource.id, None::<RemoveVolumeOptions>).await,
                };
                match removed {
                    Err(e) if !is_status(&e, 404) => Err(self.in_use(resource, e).await),
                    _ => Ok(()),
                }
            };
            futures_util::future::join_all(resources.iter().map(one)).await.into_iter().collect()
        })
    }

    fn clusters(&self) -> BoxFuture<'_, Result<Vec<Found>>> {
        Box::pin(self.clusters_now())
    }

    fn hold<'a>(&'a self, holder: &'a Holder) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let hold = lock::take(&self.engine, &self.cluster, holder).await?;
            *self.hold.lock().await = Some(hold);
            Ok(())
        })
    }

    fn lost(&self) -> BoxFuture<'_, Lost> {
        Box::pin(async move {
            let lost = self.hold.lock().await.as_ref().map(lock::Hold::lost);
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(hold) = self.hold.lock().await.take() {
                hold.release().await;
            }
        })
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        let (address, port) = match (host.id.role(), host.published.get(&22)) {
            (Role::Control, Some(p)) => ("127.0.0.1".to_owned(), *p),
            (Role::Control, None) => {
                return Err(
                    Error::failed(format!("{} publishes no port for SSH", host.name)).hint("remove the container, and run `septet up`")
                );
            }
            _ => (host.address.to_string(), 22),
        };
        Ok(Endpoint { name: host.name.clone(), host: address, port, host_key: host.host_key.clone(), own: None })
    }

    fn console<'a>(&'a self, host: &'a ObservedHost) -> BoxFuture<'a, Option<String>> {
        // Units that do not run although they should, and the end of their log.
        const SCRIPT: &str = "systemctl is-system-running; systemctl --failed --plain --no-legend --no-pager; \
            systemctl is-active ssh >/dev/null || { echo \"ssh.service is $(systemctl is-active ssh)\"; journalctl -b -u ssh -n 3 -o cat --no-pager; }";
        Box::pin(async move { privilege::exec(&self.engine, &host.reference, SCRIPT).await.map_or_else(Some, Some) })
    }

    fn resources(&self, inventory: &Inventory) -> Vec<String> {
        network::resources(inventory)
    }

    fn login(&self) -> &'static str {
        LOGIN
    }

    fn chosen(&self) -> Option<String> {
        self.daemon.as_ref().filter(|d| !d.is_usual()).map(|d| format!("Docker at {}: {}", d.host, d.why))
    }

    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String> {
        host.published.get(&port).map(|p| format!("127.0.0.1:{p}"))
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

impl Machines for Docker {
    fn prepare<'a>(&'a self, say: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let (image, privilege) = self
                .ready
                .get_or_try_init(|| async {
                    let image = image::ensure(&self.engine, self.settings.image.as_deref(), self.java, say).await?;
                    let privilege = privilege::find(&self.engine, &image, say).await?;
                    Ok::<_, Error>((image, privilege))
                })
                .await?;
            Ok(format!("image {image}, {}", privilege.describe()))
        })
    }

    fn apply<'a>(
        &'a self,
        step: &'a Step,
        network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        _say: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let reference = |id: HostId| site.observed.host(id).map(|h| h.reference.clone()).unwrap_or_default();
            match step {
                // Containers have no kinds, and nothing in Docker is mended in place.
                Step::CreateNetwork | Step::Resize { .. } | Step::Attach { .. } | Step::Adjust(_) => Ok(()),
                // What is done inside of hosts is not the provider's.
                Step::SetEnd { .. } | Step::PlantKey { .. } | Step::Configure { .. } | Step::Task { .. } | Step::RemoveNames { .. } => {
                    Ok(())
                }
                Step::Create { id, name, .. } => {
                    let keys = self.keys_of_others(*id, site).await;
                    self.create(*id, name, network, site, &keys).await
                }
                Step::Replace { id, name, .. } => {
                    let keys = self.keys_of_others(*id, site).await;
                    self.remove_container(&reference(*id)).await?;
                    self.create(*id, name, network, site, &keys).await
                }
                Step::Start { id, name } => {
                    self.bring_end(&reference(*id)).await.map_err(|e| e.context(format!("cannot start {name}")))?;
                    self.engine.start_container(&reference(*id), None).await.map_err(|e| explain(&format!("cannot start {name}"), e))
                }
                Step::Unpause { id, name } => {
                    let (host, doing) = (reference(*id), format!("cannot go on with {name}"));
                    if self.known_end().is_none() {
                        return self.engine.unpause_container(&host).await.map_err(|e| explain(&doing, e));
                    }
                    // Its timer may be of an end that was put off while it was paused: systemd learns of the new one at its next start.
                    self.bring_end(&host).await.map_err(|e| e.context(doing.clone()))?;
                    self.engine.unpause_container(&host).await.map_err(|e| explain(&doing, e))?;
                    self.engine.restart_container(&host, None).await.map_err(|e| explain(&doing, e))
                }
                Step::Rename { id, from, to } => {
                    let options = RenameContainerOptionsBuilder::default().name(to).build();
                    match self.engine.rename_container(&reference(*id), options).await {
                        Ok(()) => Ok(()),
                        // Another host of the cluster has that name: it gets its own in a step of its own.
                        Err(e) if is_status(&e, 409) && self.is_ours(to, site.uuid).await => {
                            let aside =
                                RenameContainerOptionsBuilder::default().name(&format!("{to}-renamed-{}", std::process::id())).build();
                            let doing = format!("cannot rename {from}");
                            self.engine.rename_container(to, aside).await.map_err(|e| explain(&doing, e))?;
                            let options = RenameContainerOptionsBuilder::default().name(to).build();
                            self.engine.rename_container(&reference(*id), options).await.map_err(|e| explain(&doing, e))
                        }
                        Err(e) if is_status(&e, 409) => Err(foreign(to, "a container")),
                        Err(e) => Err(explain(&format!("cannot rename {from}"), e)),
                    }
                }
            }
        })
    }

    fn plant_key<'a>(&'a self, host: &'a ObservedHost, public_key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let doing = format!("cannot add a key on {}", host.name);
            let there = self.download(&host.reference, &format!("/{}", create::AUTHORIZED)).await.map_err(|e| explain(&doing, e))?;
            let there = String::from_utf8_lossy(&there.unwrap_or_default()).into_owned();
            let Some(text) = super::authorized::with_line(&there, public_key).map_err(|e| e.context(&doing))? else { return Ok(()) };
            let mut tar = tar::Builder::new(Vec::new());
            authorize(&mut tar, &text)?;
            let tar = tar.into_inner()?;
            self.upload(&host.reference, tar).await.map_err(|e| explain(&doing, e))
        })
    }

    fn preflight<'a>(&'a self, _observed: &'a Observed, steps: &'a [Step]) -> BoxFuture<'a, Result<Vec<Check>>> {
        Box::pin(async move {
            let hosts = steps.iter().filter(|s| matches!(s, Step::Create { .. } | Step::Replace { .. } | Step::Start { .. })).count();
            Ok(preflight::inotify(&self.engine, hosts).await.into_iter().collect())
        })
    }
}

impl Network for Docker {
    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> BoxFuture<'a, Result<ObservedNetwork>> {
        Box::pin(self.make_network(site))
    }
}

impl Lease for Docker {
    fn expired(&self, now: u64) -> BoxFuture<'_, Result<Vec<Expired>>> {
        Box::pin(async move {
            let labelled = HashMap::from([("label".to_owned(), vec![EXPIRES.to_owned()])]);
            let containers = ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
            let networks = ListNetworksOptionsBuilder::default().filters(&labelled).build();
            let volumes = ListVolumesOptionsBuilder::default().filters(&labelled).build();
            let doing = "cannot list expired clusters";
            let (containers, networks, volumes) = tokio::try_join!(
                self.engine.list_containers(Some(containers)),
                self.engine.list_networks(Some(networks)),
                self.engine.list_volumes(Some(volumes)),
            )
            .map_err(|e| explain(doing, e))?;
            let labels = containers.into_iter().filter_map(|c| c.labels);
            let labels = labels.chain(networks.into_iter().filter_map(|n| n.labels));
            let labels = labels.chain(volumes.volumes.into_iter().flatten().map(|v| v.labels));
            Ok(super::expired(labels.filter_map(|l| marks(&l)), now))
        })
    }

    fn expires(&self) -> Option<u64> {
        *self.known_end()
    }

    fn extend(&self, uuid: ClusterId, expires_s: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.extend_now(uuid, expires_s))
    }
}
