//! What exists of a cluster: containers, networks and volumes with its name.

use std::collections::BTreeMap;

use bollard::{
    models::{ContainerInspectResponse, ContainerStateStatusEnum},
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder},
};

use super::{
    Docker, NAME, Subnet,
    errors::{explain, is_status},
    filter, marks,
};
use crate::{
    error::Result,
    identity::ClusterId,
    provider::{
        HostState, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place, identity,
        marks::{Expiry, shown_name},
    },
};

/// What to do about two clusters of one name.
const TWO_HINT: &str = "give one of them another name, or remove its containers: `docker ps -a --filter label=septet.cluster=UUID`";

impl Docker {
    pub(super) async fn containers(&self, label: &str, value: &str) -> Result<Vec<ContainerInspectResponse>> {
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

    /// The host that a container is, if it carries a cluster's identity.
    pub(super) fn observed_host(c: &ContainerInspectResponse) -> Option<(ClusterId, ObservedHost)> {
        let marks = marks(c.config.as_ref()?.labels.as_ref()?)?;
        let id = marks.host?;
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
        let reference = c.id.clone()?;
        let host = ObservedHost {
            id,
            name: shown_name(c.name.as_deref().unwrap_or_default().trim_start_matches('/'), &reference).into(),
            reference,
            state,
            address,
            public: None,
            host_key: marks.host_key.map(String::from).unwrap_or_default(),
            published,
            architecture: None,
            size: None,
            data_volume: None,
            data_is_new: false,
        };
        Some((marks.cluster, host))
    }

    pub(super) async fn networks(&self, label: &str, value: &str) -> Result<Vec<bollard::models::Network>> {
        let options = ListNetworksOptionsBuilder::default().filters(&filter(label, value)).build();
        self.engine.list_networks(Some(options)).await.map_err(|e| explain("cannot list networks", e))
    }

    pub(super) async fn volumes(&self, label: &str, value: &str) -> Result<Vec<bollard::models::Volume>> {
        let options = ListVolumesOptionsBuilder::default().filters(&filter(label, value)).build();
        let list = self.engine.list_volumes(Some(options)).await.map_err(|e| explain("cannot list volumes", e))?;
        Ok(list.volumes.unwrap_or_default())
    }

    pub(super) fn observed_network(n: &bollard::models::Network) -> Option<ObservedNetwork> {
        let ports_from = marks(n.labels.as_ref()?)?.ports?;
        Some(ObservedNetwork {
            reference: n.id.clone()?,
            place: Place::Docker { subnet: Subnet::parse(n.ipam.as_ref()?.config.as_ref()?.first()?.subnet.as_deref()?)?, ports_from },
        })
    }

    pub(super) async fn observe_now(&self) -> Result<Observed> {
        let (containers, networks, volumes) =
            tokio::try_join!(self.containers(NAME, &self.cluster), self.networks(NAME, &self.cluster), self.volumes(NAME, &self.cluster))?;
        // What carries no cluster's UUID is nobody's of ours, whatever else is written on it.
        let of_container = |c: &ContainerInspectResponse| marks(c.config.as_ref()?.labels.as_ref()?);
        let of_network = |n: &bollard::models::Network| marks(n.labels.as_ref()?);
        let all = || {
            // A `down` that was cut off may have left nothing but volumes.
            let all = containers.iter().filter_map(of_container).chain(networks.iter().filter_map(of_network));
            all.chain(volumes.iter().filter_map(|v| marks(&v.labels)))
        };
        let uuid = identity(&self.cluster, all().map(|m| m.cluster), TWO_HINT)?;
        let mut observed = Observed { uuid, engine: all().find_map(|m| m.engine).map(String::from), ..Observed::default() };
        if let Some(Expiry::At(expires)) = networks.iter().filter_map(of_network).find_map(|m| m.expires) {
            let _ = self.expires.set(expires.to_string());
        }
        observed.hosts = containers.iter().filter_map(Self::observed_host).map(|(_, h)| h).collect();
        observed.hosts.sort_by_key(|h| h.id);
        observed.network = networks.iter().find_map(Self::observed_network);
        for v in &volumes {
            let id = marks(&v.labels).and_then(|m| m.host);
            if let Some(id) = id.filter(|id| observed.host(*id).is_none()) {
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
                    // One of ours that a run which was killed had asked for, and that came after the list was made.
                    if let Some((of, host)) = Self::observed_host(&c)
                        && Some(of) == observed.uuid
                    {
                        observed.hosts.push(host);
                        continue;
                    }
                    let image = c.config.and_then(|c| c.image).unwrap_or_default();
                    observed.taken.insert(name.clone(), format!("a container of image {image}"));
                }
            }
        }
        observed.hosts.sort_by_key(|h| h.id);
        Ok(observed)
    }
}
