//! Local containers: each host is a container with systemd and OpenSSH, with a fixed address in the cluster's own
//! network and a volume for its data.
//!
//! What is known of a cluster is on its objects: labels `septet.cluster` (the UUID), `septet.name`, `septet.role`,
//! `septet.index`, `septet.hostkey`; on the network also `septet.ports`.

mod image;
mod privilege;
mod subnet;

use std::collections::{BTreeMap, HashMap};

use bollard::{
    Docker as Engine, body_full,
    errors::Error as EngineError,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, EndpointIpamConfig, EndpointSettings, HostConfig, Ipam,
        IpamConfig, Mount, MountType, NetworkCreateRequest, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
        VolumeCreateRequest,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptions, RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use tokio::sync::OnceCell;

pub use subnet::Subnet;

use super::{
    Expired, HostState, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place, Provider, Resource, Site, foreign, now_s,
    published_ports,
};
use crate::{
    error::{Error, Result},
    inventory::{DockerSettings, HostId, Inventory, Metadata, Role},
    plan::Step,
    playbook::runner::Boxed,
    ssh::{Endpoint, keys},
};

const CLUSTER: &str = "septet.cluster";
const NAME: &str = "septet.name";
const ROLE: &str = "septet.role";
const INDEX: &str = "septet.index";
const HOST_KEY: &str = "septet.hostkey";
const PORTS: &str = "septet.ports";
/// When the cluster's time is over, in seconds since 1970.
const EXPIRES: &str = "septet.expires";

/// Engine and mode.
const ENGINE: &str = "septet.engine";

/// How often ports are picked anew when clusters that are made at the same moment pick the same.
const MAX_CONTESTS: u16 = 10;

/// The user that Septet logs in as; the image has it, with sudo.
pub const LOGIN: &str = "septet";

/// The provider.
pub struct Docker {
    engine: Engine,
    settings: DockerSettings,
    cluster: String,
    /// how long the cluster is wanted
    ttl: Option<std::time::Duration>,
    /// when the cluster's time is over, as its things say
    expires: std::sync::OnceLock<String>,
    /// engine and mode
    kind: &'static str,
    metadata: Metadata,
    /// whether hosts are made with Java
    java: bool,
    /// names that the inventory wants, to look whether others have them
    wanted: Vec<String>,
    ready: OnceCell<(String, privilege::Privilege)>,
}

/// Whether the daemon answered with this status.
fn is_status(e: &EngineError, status: u16) -> bool {
    matches!(e, EngineError::DockerResponseServerError { status_code, .. } if *status_code == status)
}

fn io_kind(e: &EngineError) -> Option<std::io::ErrorKind> {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(x) = current {
        if let Some(io) = x.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        current = x.source();
    }
    None
}

/// An engine error for a person.
fn explain(doing: &str, e: EngineError) -> Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match (&e, io_kind(&e)) {
        (EngineError::SocketNotFoundError(_), _) | (_, Some(ConnectionRefused | NotFound)) => {
            Error::failed(format!("{doing}: Docker is not running"))
                .hint("start Docker (`sudo systemctl start docker`, or Docker Desktop), or set DOCKER_HOST")
        }
        (_, Some(PermissionDenied)) => Error::failed(format!("{doing}: no permission on Docker's socket"))
            .hint("add yourself to the group `docker` and log in again, or run as a user who may use Docker"),
        (EngineError::DockerResponseServerError { message, .. }, _)
            if message.contains("port is already allocated") || message.contains("address already in use") =>
        {
            Error::failed(format!("{doing}: {message}"))
                .hint("another program took the port; stop it, or `septet down` and `up` to pick other ports")
        }
        (EngineError::DockerResponseServerError { message, .. }, _) if message.contains("no space left") => {
            Error::failed(format!("{doing}: {message}")).hint("free some disk space: `docker system df` shows what Docker uses")
        }
        (EngineError::DockerResponseServerError { message, .. }, _) => Error::failed(format!("{doing}: {message}")),
        _ => Error::failed(format!("{doing}: {e}")),
    }
}

fn filter(label: &str, value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])])
}

/// Name of a host's volume: by who it is, since the host's name can change.
fn volume_name(uuid: &str, id: HostId) -> String {
    format!("septet-{}-{}{}", &uuid[..8.min(uuid.len())], id.role, id.index)
}

impl Docker {
    /// Connects to the daemon of `DOCKER_HOST`, or the local one. Nothing is asked of it yet.
    pub fn connect(inventory: &Inventory, settings: DockerSettings) -> Result<Self> {
        let engine = Engine::connect_with_defaults().map_err(|e| explain("cannot use Docker", e))?;
        Ok(Self {
            engine,
            settings,
            cluster: inventory.cluster.clone(),
            ttl: inventory.ttl,
            expires: std::sync::OnceLock::new(),
            kind: inventory.engine.kind(),
            metadata: inventory.engine.metadata(),
            java: matches!(&inventory.engine, crate::inventory::Engine::Apache(a) if a.java.is_none()),
            wanted: inventory.hosts.iter().map(|h| h.name.clone()).collect(),
            ready: OnceCell::new(),
        })
    }

    async fn containers(&self, label: &str, value: &str) -> Result<Vec<ContainerInspectResponse>> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter(label, value)).build();
        let list = self.engine.list_containers(Some(options)).await.map_err(|e| explain("cannot list containers", e))?;
        let ids: Vec<String> = list.into_iter().filter_map(|c| c.id).collect();
        let found = futures_util::future::join_all(ids.iter().map(|id| self.engine.inspect_container(id, None))).await;
        let mut out = Vec::new();
        for one in found {
            match one {
                Ok(c) => out.push(c),
                Err(e) if is_status(&e, 404) => {}
                Err(e) => return Err(explain("cannot inspect a container", e)),
            }
        }
        Ok(out)
    }

    fn observed_host(c: &ContainerInspectResponse) -> Option<ObservedHost> {
        let labels = c.config.as_ref()?.labels.as_ref()?;
        let id = HostId { role: Role::parse(labels.get(ROLE)?)?, index: labels.get(INDEX)?.parse().ok()? };
        let state = match c.state.as_ref().and_then(|s| s.status) {
            Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => HostState::Running,
            Some(ContainerStateStatusEnum::PAUSED) => HostState::Paused,
            Some(ContainerStateStatusEnum::CREATED) => HostState::Unfinished,
            _ => HostState::Stopped,
        };
        let networks = c.network_settings.as_ref()?.networks.as_ref()?;
        let endpoint = networks.values().next()?;
        let fixed = endpoint.ipam_config.as_ref().and_then(|i| i.ipv4_address.clone());
        let address = fixed.or(endpoint.ip_address.clone())?.parse().ok()?;
        let mut published = BTreeMap::new();
        for (inner, outer) in c.host_config.as_ref()?.port_bindings.iter().flatten() {
            let inner = inner.trim_end_matches("/tcp").parse::<u16>().ok();
            let outer = outer.iter().flatten().find_map(|b| b.host_port.as_ref()?.parse::<u16>().ok());
            if let (Some(i), Some(o)) = (inner, outer) {
                published.insert(i, o);
            }
        }
        Some(ObservedHost {
            id,
            reference: c.id.clone()?,
            name: c.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
            state,
            address,
            public: None,
            host_key: labels.get(HOST_KEY).cloned().unwrap_or_default(),
            published,
            architecture: None,
            size: None,
            data_volume: None,
        })
    }

    async fn networks(&self, label: &str, value: &str) -> Result<Vec<bollard::models::Network>> {
        let options = ListNetworksOptionsBuilder::default().filters(&filter(label, value)).build();
        self.engine.list_networks(Some(options)).await.map_err(|e| explain("cannot list networks", e))
    }

    async fn volumes(&self, label: &str, value: &str) -> Result<Vec<bollard::models::Volume>> {
        let options = ListVolumesOptionsBuilder::default().filters(&filter(label, value)).build();
        let list = self.engine.list_volumes(Some(options)).await.map_err(|e| explain("cannot list volumes", e))?;
        Ok(list.volumes.unwrap_or_default())
    }

    fn observed_network(n: &bollard::models::Network) -> Option<ObservedNetwork> {
        Some(ObservedNetwork {
            reference: n.id.clone()?,
            place: Place::Docker {
                subnet: Subnet::parse(n.ipam.as_ref()?.config.as_ref()?.first()?.subnet.as_deref()?)?,
                ports_from: n.labels.as_ref()?.get(PORTS)?.parse().ok()?,
            },
        })
    }

    /// First of a network's published ports; nothing else has any.
    fn ports_from(network: &ObservedNetwork) -> u16 {
        match &network.place {
            Place::Docker { ports_from, .. } => *ports_from,
            Place::Zones(_) => 0,
        }
    }

    /// Labels that everything of a cluster has.
    fn labels(&self, uuid: &str) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (CLUSTER.to_owned(), uuid.to_owned()),
            (NAME.to_owned(), self.cluster.clone()),
            (ENGINE.to_owned(), self.kind.to_owned()),
        ]);
        // Counted from when the cluster is made, also for what is made later.
        if let Some(ttl) = self.ttl {
            let first = self.expires.get_or_init(|| (now_s() + ttl.as_secs()).to_string());
            labels.insert(EXPIRES.to_owned(), first.clone());
        }
        labels
    }

    async fn observe_now(&self) -> Result<Observed> {
        let (containers, networks, volumes) =
            tokio::try_join!(self.containers(NAME, &self.cluster), self.networks(NAME, &self.cluster), self.volumes(NAME, &self.cluster))?;
        let label = |labels: Option<&HashMap<String, String>>, key: &str| labels.and_then(|l| l.get(key)).cloned();
        let mut uuids: Vec<String> = containers.iter().filter_map(|c| label(c.config.as_ref()?.labels.as_ref(), CLUSTER)).collect();
        uuids.extend(networks.iter().filter_map(|n| label(n.labels.as_ref(), CLUSTER)));
        // A `down` that was cut off may have left nothing else.
        uuids.extend(volumes.iter().filter_map(|v| label(Some(&v.labels), CLUSTER)));
        uuids.sort();
        uuids.dedup();
        if uuids.len() > 1 {
            return Err(Error::failed(format!("there are {} clusters called `{}`: {}", uuids.len(), self.cluster, uuids.join(", ")))
                .hint("give one of them another name, or remove its containers: `docker ps -a --filter label=septet.cluster=UUID`"));
        }
        let mut observed = Observed { uuid: uuids.pop(), ..Observed::default() };
        let kinds = containers.iter().filter_map(|c| label(c.config.as_ref()?.labels.as_ref(), ENGINE));
        let kinds = kinds.chain(networks.iter().filter_map(|n| label(n.labels.as_ref(), ENGINE)));
        observed.engine = kinds.chain(volumes.iter().filter_map(|v| label(Some(&v.labels), ENGINE))).next();
        if let Some(expires) = networks.iter().find_map(|n| label(n.labels.as_ref(), EXPIRES)) {
            let _ = self.expires.set(expires);
        }
        observed.hosts = containers.iter().filter_map(Self::observed_host).collect();
        observed.hosts.sort_by_key(|h| h.id);
        observed.network = networks.iter().find_map(Self::observed_network);
        for v in &volumes {
            let id = || Some(HostId { role: Role::parse(v.labels.get(ROLE)?)?, index: v.labels.get(INDEX)?.parse().ok()? });
            if let Some(id) = id().filter(|id| observed.host(*id).is_none()) {
                observed.kept.insert(id, KeptVolume { reference: v.name.clone(), zone: String::new() });
            }
        }
        let looks = self
            .wanted
            .iter()
            .filter(|w| !observed.hosts.iter().any(|h| h.name == **w))
            .map(|w| async move { (w, self.engine.inspect_container(w, None).await) });
        for (name, found) in futures_util::future::join_all(looks).await {
            if let Ok(c) = found {
                // A name is also found by the beginning of an id; only the name itself counts.
                if c.name.as_deref() == Some(&format!("/{name}")) {
                    let image = c.config.and_then(|c| c.image).unwrap_or_default();
                    observed.taken.insert(name.clone(), format!("a container of image {image}"));
                }
            }
        }
        Ok(observed)
    }

    async fn make_network(&self, site: &Site<'_>) -> Result<ObservedNetwork> {
        if let Some(n) = &site.observed.network {
            return Ok(n.clone());
        }
        for attempt in 0..MAX_CONTESTS {
            let network = self.network_at(site, attempt).await?;
            if self.settings.ports_from.is_some() || !self.is_contested(&network).await? {
                return Ok(network);
            }
            // Another cluster was made at the same moment and picked the same ports: whoever sees that yields.
            let _ = self.engine.remove_network(&network.reference).await;
        }
        Err(Error::failed("other clusters keep picking the same ports").hint("set `ports_from` in the inventory"))
    }

    async fn is_contested(&self, mine: &ObservedNetwork) -> Result<bool> {
        let all = self.engine.list_networks(None).await.map_err(|e| explain("cannot list networks", e))?;
        Ok(all
            .iter()
            .filter_map(Self::observed_network)
            .any(|n| n.reference != mine.reference && Self::ports_from(&n).abs_diff(Self::ports_from(mine)) < super::PORTS_PER_CLUSTER))
    }

    /// The network of this identity, if it is there; a run that was killed may have asked for it.
    async fn own_network(&self, uuid: &str) -> Result<Option<ObservedNetwork>> {
        Ok(self.networks(CLUSTER, uuid).await?.iter().find_map(Self::observed_network))
    }

    async fn network_at(&self, site: &Site<'_>, attempt: u16) -> Result<ObservedNetwork> {
        if let Some(n) = self.own_network(site.uuid).await? {
            return Ok(n);
        }
        let all = self.engine.list_networks(None).await.map_err(|e| explain("cannot list networks", e))?;
        let used: Vec<String> =
            all.iter().flat_map(|n| n.ipam.iter().flat_map(|i| i.config.iter().flatten().filter_map(|c| c.subnet.clone()))).collect();
        let others: Vec<u16> = all.iter().filter_map(|n| n.labels.as_ref()?.get(PORTS)?.parse().ok()).collect();
        let needed: Vec<u16> = site.inventory.hosts.iter().flat_map(|h| published_ports(h.id, self.metadata)).map(|(_, o)| o).collect();
        let ports_from = match self.settings.ports_from {
            Some(p) => {
                if let Some(taken) = needed.iter().map(|o| p + o).find(|p| !subnet::is_free(*p)) {
                    return Err(Error::failed(format!("port {taken} of 127.0.0.1 is taken"))
                        .hint("change `ports_from`, or leave it out to have free ports picked"));
                }
                p
            }
            None => subnet::free_ports(&needed, &others, site.uuid, attempt)
                .ok_or_else(|| Error::failed("no free row of ports was found on 127.0.0.1").hint("set `ports_from`"))?,
        };
        let fixed = self.settings.subnet.as_deref().and_then(Subnet::parse);
        let tries = match fixed {
            Some(s) => vec![s],
            None => subnet::candidates(site.uuid, &used),
        };
        let mut labels = self.labels(site.uuid);
        labels.insert(PORTS.to_owned(), ports_from.to_string());
        for subnet in tries.into_iter().take(50) {
            let config = IpamConfig { subnet: Some(subnet.to_string()), gateway: Some(subnet.gateway().to_string()), ..Default::default() };
            let request = NetworkCreateRequest {
                name: format!("septet-{}-{}", self.cluster, &site.uuid[..8]),
                driver: Some("bridge".into()),
                ipam: Some(Ipam { config: Some(vec![config]), ..Default::default() }),
                labels: Some(labels.clone()),
                ..Default::default()
            };
            match self.engine.create_network(request).await {
                Ok(made) => {
                    return Ok(ObservedNetwork { reference: made.id, place: Place::Docker { subnet, ports_from } });
                }
                Err(EngineError::DockerResponseServerError { message, .. }) if message.contains("overlap") => {
                    if let Some(n) = self.own_network(site.uuid).await? {
                        return Ok(n);
                    }
                    if fixed.is_some() {
                        return Err(Error::failed(format!("subnet {subnet} is taken: {message}"))
                            .hint("change `subnet`, or leave it out to have a free one picked"));
                    }
                }
                Err(e) => return Err(explain("cannot make the network", e)),
            }
        }
        Err(Error::failed("no free subnet was found").hint("set `subnet` in the inventory"))
    }

    async fn create(&self, id: HostId, name: &str, network: &ObservedNetwork, site: &Site<'_>) -> Result<()> {
        let (image, privilege) = self.ready.get().ok_or_else(|| Error::failed("the node image is not ready"))?;
        let doing = format!("cannot make {name}");
        let address = network.host(id).ok_or_else(|| Error::failed(format!("{doing}: the subnet has no address for it")))?;
        let labels = |extra: &[(&str, String)]| {
            let mut l = self.labels(site.uuid);
            l.insert(ROLE.to_owned(), id.role.name().to_owned());
            l.insert(INDEX.to_owned(), id.index.to_string());
            l.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            l
        };
        let volume = volume_name(site.uuid, id);
        let request = VolumeCreateRequest { name: Some(volume.clone()), labels: Some(labels(&[])), ..Default::default() };
        self.engine.create_volume(request).await.map_err(|e| explain(&doing, e))?;

        let host_key = keys::new_host_key(&format!("{}{} of {}", id.role, id.index, site.uuid))?;
        let mut bindings = HashMap::new();
        let mut exposed = Vec::new();
        for (inner, offset) in published_ports(id, self.metadata) {
            let binding =
                PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some((Self::ports_from(network) + offset).to_string()) };
            bindings.insert(format!("{inner}/tcp"), Some(vec![binding]));
            exposed.push(format!("{inner}/tcp"));
        }
        let mut host_config = HostConfig {
            port_bindings: Some(bindings),
            mounts: Some(vec![Mount {
                target: Some("/data".into()),
                source: Some(volume),
                typ: Some(MountType::VOLUME),
                ..Default::default()
            }]),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None }),
            network_mode: Some(network.reference.clone()),
            ..Default::default()
        };
        privilege.apply(&mut host_config);
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() }),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.clone()),
            hostname: Some(name.to_owned()),
            labels: Some(labels(&[(HOST_KEY, host_key.public.clone())])),
            stop_signal: Some("SIGRTMIN+3".into()),
            exposed_ports: Some(exposed),
            host_config: Some(host_config),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(network.reference.clone(), endpoint)])) }),
            ..privilege::command()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let mut made = self.engine.create_container(Some(options.clone()), body.clone()).await;
        if made.as_ref().is_err_and(|e| is_status(e, 409)) && self.is_ours(name, site.uuid).await {
            // A run that was killed had asked for it, and nothing of ours is in it yet.
            self.remove_container(name).await?;
            made = self.engine.create_container(Some(options), body).await;
        }
        let made = match made {
            Ok(m) => m,
            Err(e) if is_status(&e, 409) => return Err(foreign(name, "a container")),
            Err(e) => return Err(explain(&doing, e)),
        };
        let tar = planted(&host_key, site.public_key).map_err(|e| e.context(&doing))?;
        self.upload(&made.id, tar).await.map_err(|e| explain(&doing, e))?;
        self.engine.start_container(&made.id, None).await.map_err(|e| explain(&format!("cannot start {name}"), e))
    }

    async fn is_ours(&self, name: &str, uuid: &str) -> bool {
        let found = self.engine.inspect_container(name, None).await.ok();
        found.and_then(|c| c.config?.labels?.remove(CLUSTER)).is_some_and(|l| l == uuid)
    }

    async fn upload(&self, container: &str, tar: Vec<u8>) -> std::result::Result<(), EngineError> {
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        self.engine.upload_to_container(container, Some(options), body_full(tar.into())).await
    }

    async fn remove_container(&self, reference: &str) -> Result<()> {
        // Asked to stop first: what is written is flushed. Then whatever is left is removed.
        let _ = self.engine.stop_container(reference, Some(StopContainerOptionsBuilder::default().t(3).build())).await;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.remove_container(reference, Some(options)).await {
            Ok(()) => Ok(()),
            Err(e) if is_status(&e, 404) => Ok(()),
            // It is being removed already.
            Err(e) if is_status(&e, 409) => Ok(()),
            Err(e) => Err(explain("cannot remove a container", e)),
        }
    }
}

/// Files that a host gets before its first start, as a tar archive.
fn planted(host_key: &keys::HostKey, public_key: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "etc/ssh/ssh_host_ed25519_key", host_key.private.as_bytes(), 0o600, 0)?;
    add(&mut tar, "etc/ssh/ssh_host_ed25519_key.pub", format!("{}\n", host_key.public).as_bytes(), 0o644, 0)?;
    authorize(&mut tar, public_key)?;
    Ok(tar.into_inner()?)
}

fn authorize(tar: &mut tar::Builder<Vec<u8>>, public_key: &str) -> Result<()> {
    let line = format!("{public_key}\n");
    add(tar, &format!("home/{LOGIN}/.ssh/authorized_keys"), line.as_bytes(), 0o600, image::LOGIN_UID)
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32, owner: u64) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_cksum();
    Ok(tar.append_data(&mut header, path, bytes)?)
}

impl Provider for Docker {
    fn observe(&self) -> Boxed<'_, Result<Observed>> {
        Box::pin(self.observe_now())
    }

    fn prepare<'a>(&'a self, say: &'a (dyn Fn(String) + Send + Sync)) -> Boxed<'a, Result<String>> {
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

    fn create_network<'a>(&'a self, site: &'a Site<'a>) -> Boxed<'a, Result<ObservedNetwork>> {
        Box::pin(self.make_network(site))
    }

    fn apply<'a>(
        &'a self,
        step: &'a Step,
        network: &'a ObservedNetwork,
        site: &'a Site<'a>,
        _say: &'a (dyn Fn(String) + Send + Sync),
    ) -> Boxed<'a, Result<()>> {
        Box::pin(async move {
            let reference = |id: HostId| site.observed.host(id).map(|h| h.reference.clone()).unwrap_or_default();
            match step {
                // Containers have no kinds, and nothing in Docker is mended in place.
                Step::CreateNetwork | Step::Resize { .. } | Step::Adjust(_) => Ok(()),
                Step::Create { id, name, .. } => self.create(*id, name, network, site).await,
                Step::Replace { id, name } => {
                    self.remove_container(&reference(*id)).await?;
                    self.create(*id, name, network, site).await
                }
                Step::Start { id, name } => {
                    self.engine.start_container(&reference(*id), None).await.map_err(|e| explain(&format!("cannot start {name}"), e))
                }
                Step::Unpause { id, name } => {
                    self.engine.unpause_container(&reference(*id)).await.map_err(|e| explain(&format!("cannot go on with {name}"), e))
                }
                Step::Rename { id, from, to } => {
                    let options = RenameContainerOptionsBuilder::default().name(to).build();
                    match self.engine.rename_container(&reference(*id), options).await {
                        Ok(()) => Ok(()),
                        Err(e) if is_status(&e, 409) => Err(foreign(to, "a container")),
                        Err(e) => Err(explain(&format!("cannot rename {from}"), e)),
                    }
                }
            }
        })
    }

    fn plant_key<'a>(&'a self, host: &'a ObservedHost, public_key: &'a str) -> Boxed<'a, Result<()>> {
        Box::pin(async move {
            let mut tar = tar::Builder::new(Vec::new());
            authorize(&mut tar, public_key)?;
            let tar = tar.into_inner()?;
            self.upload(&host.reference, tar).await.map_err(|e| explain(&format!("cannot put a key on {}", host.name), e))
        })
    }

    fn list<'a>(&'a self, uuid: &'a str) -> Boxed<'a, Result<Vec<Resource>>> {
        Box::pin(async move {
            // An empty identity would select everything that has the label at all.
            if uuid.is_empty() {
                return Ok(Vec::new());
            }
            let mut out = Vec::new();
            for c in self.containers(CLUSTER, uuid).await? {
                let name = c.name.unwrap_or_default().trim_start_matches('/').to_owned();
                out.push(Resource { kind: "container", name, id: c.id.unwrap_or_default(), data: false });
            }
            for n in self.networks(CLUSTER, uuid).await? {
                out.push(Resource { kind: "network", name: n.name.unwrap_or_default(), id: n.id.unwrap_or_default(), data: false });
            }
            for v in self.volumes(CLUSTER, uuid).await? {
                out.push(Resource { kind: "volume", name: v.name.clone(), id: v.name, data: true });
            }
            out.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
            Ok(out)
        })
    }

    fn removal_order(&self) -> &'static [&'static str] {
        &["container", "network", "volume"]
    }

    fn remove<'a>(&'a self, resources: &'a [Resource]) -> Boxed<'a, Result<()>> {
        Box::pin(async move {
            let one = |resource: &'a Resource| async move {
                let gone = |r: std::result::Result<(), EngineError>| match r {
                    Err(e) if !is_status(&e, 404) => Err(explain(&format!("cannot remove {} {}", resource.kind, resource.name), e)),
                    _ => Ok(()),
                };
                match resource.kind {
                    "container" => self.remove_container(&resource.id).await,
                    "network" => gone(self.engine.remove_network(&resource.id).await),
                    _ => gone(self.engine.remove_volume(&resource.id, None::<RemoveVolumeOptions>).await),
                }
            };
            futures_util::future::join_all(resources.iter().map(one)).await.into_iter().collect()
        })
    }

    fn expired(&self, now: u64) -> Boxed<'_, Result<Vec<Expired>>> {
        Box::pin(async move {
            let labelled = HashMap::from([("label".to_owned(), vec![EXPIRES.to_owned()])]);
            let containers = ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
            let networks = ListNetworksOptionsBuilder::default().filters(&labelled).build();
            let volumes = ListVolumesOptionsBuilder::default().filters(&labelled).build();
            let doing = "cannot look for clusters whose time is over";
            let (containers, networks, volumes) = tokio::try_join!(
                self.engine.list_containers(Some(containers)),
                self.engine.list_networks(Some(networks)),
                self.engine.list_volumes(Some(volumes)),
            )
            .map_err(|e| explain(doing, e))?;
            let labels = containers.into_iter().filter_map(|c| c.labels);
            let labels = labels.chain(networks.into_iter().filter_map(|n| n.labels));
            let labels = labels.chain(volumes.volumes.into_iter().flatten().map(|v| v.labels));
            Ok(super::over(labels.filter_map(|mut l| Some((l.remove(CLUSTER)?, l.remove(NAME)?, l.remove(EXPIRES)?))), now))
        })
    }

    fn endpoint(&self, host: &ObservedHost) -> Result<Endpoint> {
        let (address, port) = match (host.id.role, host.published.get(&22)) {
            (Role::Control, Some(p)) => ("127.0.0.1".to_owned(), *p),
            (Role::Control, None) => {
                return Err(
                    Error::failed(format!("{} publishes no port for SSH", host.name)).hint("remove the container, and run `septet up`")
                );
            }
            _ => (host.address.to_string(), 22),
        };
        Ok(Endpoint { name: host.name.clone(), host: address, port, host_key: host.host_key.clone() })
    }

    fn login(&self) -> &'static str {
        LOGIN
    }

    fn outside(&self, host: &ObservedHost, port: u16) -> Option<String> {
        host.published.get(&port).map(|p| format!("127.0.0.1:{p}"))
    }
}
