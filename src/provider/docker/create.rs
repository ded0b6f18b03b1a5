//! A host's container: made, given its keys, started; and removed.

use std::collections::HashMap;

use bollard::{
    body_full,
    errors::Error as EngineError,
    models::{
        ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, Mount, MountType, NetworkingConfig, PortBinding,
        VolumeCreateRequest,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};

use futures_util::StreamExt;

use super::{
    Docker, HOST_KEY, INDEX, ROLE,
    errors::{explain, is_status},
    image,
    lease::{plant_end, restart_policy},
    marks, privilege, subnet, volume_name,
};
use crate::{
    error::{Error, Result},
    identity::ClusterId,
    inventory::HostId,
    observed::{ObservedNetwork, Place, foreign, free_address},
    provider::{Site, authorized, expiry::End, published_ports},
    ssh::keys,
};

/// The login user's keys, below the container's root.
pub const AUTHORIZED: &str = "home/septet/.ssh/authorized_keys";
/// Largest file that is read from a container, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

impl Docker {
    /// Keys that are accepted on the cluster's hosts, so that a host which another user makes again lets everybody in. The host's
    /// own come first. Empty where no host has any.
    pub(super) async fn keys_of_others(&self, id: HostId, site: &Site<'_>) -> String {
        let own = site.observed.host(id).into_iter();
        for host in own.chain(site.observed.hosts.iter().filter(|h| h.id != id)) {
            if let Ok(Some(bytes)) = self.download(&host.reference, &format!("/{AUTHORIZED}")).await {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        String::new()
    }

    /// Makes and starts a host that accepts this state directory's key beside `keys`.
    pub(super) async fn create(&self, id: HostId, name: &str, network: &ObservedNetwork, site: &Site<'_>, keys: &str) -> Result<()> {
        let (image, privilege) = self.ready.get().ok_or_else(|| Error::failed("the node image is not ready"))?;
        let doing = format!("cannot make {name}");
        let free = || match &network.place {
            Place::Docker { subnet, .. } => free_address(*subnet, id, site.inventory, site.observed),
            Place::Zones(_) | Place::Given(_) => None,
        };
        let address = network.host(id).or_else(free).ok_or_else(|| Error::failed(format!("{doing}: the subnet has no address for it")))?;
        let labels = |extra: &[(&str, String)]| {
            let mut l = self.labels(site.uuid);
            l.insert(ROLE.to_owned(), id.group.label().to_owned());
            l.insert(INDEX.to_owned(), id.index.to_string());
            l.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            l
        };
        let volume = volume_name(site.uuid, id);
        let request = VolumeCreateRequest { name: Some(volume.clone()), labels: Some(labels(&[])), ..Default::default() };
        self.engine.create_volume(request).await.map_err(|e| explain(&doing, e))?;

        let host_key = keys::new_host_key(&format!("{id} of {}", site.uuid))?;
        let mut bindings = HashMap::new();
        let mut exposed = Vec::new();
        for (inner, offset) in published_ports(id, &self.listeners) {
            let port = self.free_port(network, offset, site).map_err(|e| e.context(&doing))?;
            let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(port.to_string()) };
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
            // As a machine boots when its power comes back, unless the cluster ends by itself.
            restart_policy: Some(restart_policy(self.ttl.is_some() || self.known_end().is_some())),
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
        let keys = authorized::with_line(keys, site.public_key)?.unwrap_or_else(|| keys.to_owned());
        // With its timer: a run that is killed before it has logged in leaves hosts that end by themselves all the same.
        let end = (*self.known_end()).map(|at_s| End { at_s, cluster: &self.cluster });
        let tar = planted(&host_key, &keys, end).map_err(|e| e.context(&doing))?;
        self.upload(&made.id, tar).await.map_err(|e| explain(&doing, e))?;
        self.engine.start_container(&made.id, None).await.map_err(|e| explain(&format!("cannot start {name}"), e))
    }

    /// A port of the cluster's row: the one at its own place, or where another program has that, one at a place of no other host.
    fn free_port(&self, network: &ObservedNetwork, offset: u16, site: &Site<'_>) -> Result<u16> {
        let own = Self::ports_from(network) + offset;
        if subnet::is_free(own) {
            return Ok(own);
        }
        if self.settings.ports_from.is_some() {
            return Err(Error::failed(format!("port {own} on 127.0.0.1 is in use by another program")).hint(
                "stop that program, or choose another `ports_from` in the inventory, then `septet down --keep-data` and `septet up`",
            ));
        }
        let needed: Vec<u16> = site.inventory.hosts.iter().flat_map(|h| published_ports(h.id, &self.listeners)).map(|(_, o)| o).collect();
        subnet::substitutes(offset, &needed).map(|o| Self::ports_from(network) + o).find(|p| subnet::is_free(*p)).ok_or_else(|| {
            Error::failed(format!("port {own} on 127.0.0.1 and all others of the cluster's row are in use by other programs"))
        })
    }

    pub(super) async fn is_ours(&self, name: &str, uuid: ClusterId) -> bool {
        let found = self.engine.inspect_container(name, None).await.ok();
        found.and_then(|c| marks(c.config?.labels.as_ref()?)).is_some_and(|m| m.cluster == uuid)
    }

    pub(super) async fn upload(&self, container: &str, tar: Vec<u8>) -> std::result::Result<(), EngineError> {
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        self.engine.upload_to_container(container, Some(options), body_full(tar.into())).await
    }

    /// A regular file in a container, running or not; `None` if there is none.
    pub(super) async fn download(&self, container: &str, path: &str) -> std::result::Result<Option<Vec<u8>>, EngineError> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut parts = self.engine.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(part) = parts.next().await {
            match part {
                Ok(bytes) => archive.extend_from_slice(&bytes),
                Err(e) if is_status(&e, 404) => return Ok(None),
                Err(e) => return Err(e),
            }
            if archive.len() > MAX_FILE_BYTES {
                return Err(std::io::Error::other(format!("{path} has more than {MAX_FILE_BYTES} bytes")).into());
            }
        }
        let mut tar = tar::Archive::new(archive.as_slice());
        let Some(mut entry) = tar.entries()?.flatten().find(|e| e.header().entry_type().is_file()) else { return Ok(None) };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        Ok(Some(bytes))
    }

    pub(super) async fn remove_container(&self, reference: &str) -> Result<()> {
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
fn planted(host_key: &keys::HostKey, authorized_keys: &str, end: Option<End<'_>>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "etc/ssh/ssh_host_ed25519_key", host_key.private.as_bytes(), 0o600, 0)?;
    add(&mut tar, "etc/ssh/ssh_host_ed25519_key.pub", format!("{}\n", host_key.public).as_bytes(), 0o644, 0)?;
    authorize(&mut tar, authorized_keys)?;
    if let Some(end) = end {
        plant_end(&mut tar, end)?;
    }
    Ok(tar.into_inner()?)
}

/// Writes the whole of the login user's `authorized_keys`.
pub fn authorize(tar: &mut tar::Builder<Vec<u8>>, text: &str) -> Result<()> {
    add(tar, AUTHORIZED, text.as_bytes(), 0o600, image::LOGIN_UID)
}

pub fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32, owner: u64) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_cksum();
    Ok(tar.append_data(&mut header, path, bytes)?)
}
