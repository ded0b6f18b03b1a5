//! What exists of a cluster: containers, networks and volumes with its name.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use bollard::{
    errors::Error as EngineError,
    models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, EndpointSettings, Network, Volume},
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder},
};

use super::{
    Docker, NAME, Subnet,
    errors::{explain, is_status},
    filter, marks, subnet,
};
use crate::{
    error::{Error, Result},
    identity::ClusterId,
    observed::{HostState, Identity, KeptVolume, Observed, ObservedHost, ObservedNetwork, Place, Resource},
    provider::{
        choose,
        marks::{Expiry, Marks, shown_name},
    },
};

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

    /// The host that a container is, if it carries a cluster's identity, as the cluster whose network this is has it. What other
    /// networks a container was connected to does not matter.
    pub(super) fn observed_host(c: &ContainerInspectResponse, network: Option<&ObservedNetwork>) -> Option<(ClusterId, ObservedHost)> {
        let marks = marks(c.config.as_ref()?.labels.as_ref()?)?;
        let id = marks.host?;
        let state = match c.state.as_ref().and_then(|s| s.status) {
            Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => HostState::Running,
            Some(ContainerStateStatusEnum::PAUSED) => HostState::Paused,
            Some(ContainerStateStatusEnum::CREATED) => HostState::Unfinished,
            _ => HostState::Stopped,
        };
        let own = Self::own_endpoint(c, network);
        let fixed = own.and_then(|e| e.ipam_config.as_ref()?.ipv4_address.as_ref()?.parse::<Ipv4Addr>().ok()).map(IpAddr::from);
        let given = || own.and_then(|e| e.ip_address.as_ref()?.parse::<Ipv4Addr>().ok()).map(IpAddr::from);
        let planned = || network.and_then(|n| n.host(id));
        let address = fixed.or_else(given).or_else(planned).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
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

    /// The container's endpoint in the cluster's own network; `None` where it is not connected to it.
    fn own_endpoint<'a>(c: &'a ContainerInspectResponse, network: Option<&ObservedNetwork>) -> Option<&'a EndpointSettings> {
        // A host is created in its cluster's network; an older one may be recorded by name.
        let made_in = c.host_config.as_ref().and_then(|h| h.network_mode.as_deref());
        let mut endpoints = c.network_settings.as_ref()?.networks.as_ref()?.iter();
        let is_own = |name: &str, e: &EndpointSettings| match network {
            Some(n) => e.network_id.as_ref() == Some(&n.reference) || name == n.reference,
            None => made_in.is_some_and(|m| name == m || e.network_id.as_deref() == Some(m)),
        };
        endpoints.find(|(name, e)| is_own(name, e)).map(|(_, e)| e)
    }

    pub(super) async fn networks(&self, label: &str, value: &str) -> Result<Vec<Network>> {
        let options = ListNetworksOptionsBuilder::default().filters(&filter(label, value)).build();
        self.engine.list_networks(Some(options)).await.map_err(|e| explain("cannot list networks", e))
    }

    pub(super) async fn volumes(&self, label: &str, value: &str) -> Result<Vec<Volume>> {
        let options = ListVolumesOptionsBuilder::default().filters(&filter(label, value)).build();
        let list = self.engine.list_volumes(Some(options)).await.map_err(|e| explain("cannot list volumes", e))?;
        Ok(list.volumes.unwrap_or_default())
    }

    pub(super) fn observed_network(n: &Network) -> Option<ObservedNetwork> {
        let ports_from = marks(n.labels.as_ref()?)?.ports?;
        Some(ObservedNetwork {
            reference: n.id.clone()?,
            place: Place::Docker { subnet: Subnet::parse(n.ipam.as_ref()?.config.as_ref()?.first()?.subnet.as_deref()?)?, ports_from },
        })
    }

    async fn all_of_name(&self) -> Result<(Vec<ContainerInspectResponse>, Vec<Network>, Vec<Volume>)> {
        tokio::try_join!(self.containers(NAME, &self.cluster), self.networks(NAME, &self.cluster), self.volumes(NAME, &self.cluster))
    }

    fn of_container(c: &ContainerInspectResponse) -> Option<Marks> {
        marks(c.config.as_ref()?.labels.as_ref()?)
    }

    fn of_network(n: &Network) -> Option<Marks> {
        marks(n.labels.as_ref()?)
    }

    /// All identities, those included of which nothing but volumes is left. What carries no UUID belongs to none.
    fn identities_of(containers: &[ContainerInspectResponse], networks: &[Network], volumes: &[Volume]) -> Vec<Identity> {
        let mut hosts: BTreeMap<ClusterId, usize> = BTreeMap::new();
        for m in containers.iter().filter_map(Self::of_container) {
            *hosts.entry(m.cluster).or_default() += 1;
        }
        for m in networks.iter().filter_map(Self::of_network).chain(volumes.iter().filter_map(|v| marks(&v.labels))) {
            hosts.entry(m.cluster).or_default();
        }
        hosts.into_iter().map(|(uuid, hosts)| Identity { uuid, hosts }).collect()
    }

    /// Why a container works only once it is made again: its network is gone, it was disconnected from it, or a port was taken while
    /// it was stopped.
    fn needs_rebuild(&self, c: &ContainerInspectResponse, host: &ObservedHost, network: Option<&ObservedNetwork>) -> Option<String> {
        if network.is_none() {
            return Some("its network is gone".into());
        }
        if Self::own_endpoint(c, network).is_none() {
            return Some("it is not connected to the cluster's network".into());
        }
        // Where the inventory says which ports, another one is not chosen: starting the host fails, and says why.
        if host.state != HostState::Stopped || self.settings.ports_from.is_some() {
            return None;
        }
        let port = host.published.values().find(|p| !subnet::is_free(**p))?;
        Some(format!("port {port} on 127.0.0.1 is in use by another program, another one is chosen"))
    }

    /// Why a network or volume cannot be removed: the containers that use it, where it is in use.
    pub(super) async fn in_use(&self, resource: &Resource, e: EngineError) -> Error {
        let doing = format!("cannot remove {} {}", resource.kind, resource.name);
        let by = |names: Vec<String>| names.into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>();
        let (users, hint) = match resource.kind {
            "network" => {
                let found = self.engine.inspect_network(&resource.id, None).await.ok().and_then(|n| n.containers);
                let names = by(found.into_iter().flatten().filter_map(|(_, c)| c.name).collect());
                let commands: Vec<String> =
                    names.iter().map(|n| format!("`docker network disconnect --force {} {n}`", resource.name)).collect();
                (names, commands.join(", "))
            }
            _ => {
                let filters = HashMap::from([("volume".to_owned(), vec![resource.id.clone()])]);
                let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
                let found = self.engine.list_containers(Some(options)).await.unwrap_or_default();
                let name = |c: ContainerSummary| c.names.and_then(|n| Some(n.first()?.trim_start_matches('/').to_owned()));
                let names = by(found.into_iter().filter_map(name).collect());
                let commands: Vec<String> = names.iter().map(|n| format!("`docker rm --force {n}`")).collect();
                (names, commands.join(", "))
            }
        };
        match users.is_empty() {
            true => explain(&doing, e),
            false => Error::failed(format!("{doing}: in use by {}", users.join(", "))).hint(format!("{hint}, then `septet down` again")),
        }
    }

    pub(super) async fn identities_now(&self) -> Result<Vec<Identity>> {
        let (containers, networks, volumes) = self.all_of_name().await?;
        Ok(Self::identities_of(&containers, &networks, &volumes))
    }

    pub(super) async fn observe_now(&self) -> Result<Observed> {
        let (mut containers, mut networks, mut volumes) = self.all_of_name().await?;
        let (uuid, twins) = choose(&self.cluster, Self::identities_of(&containers, &networks, &volumes))?;
        // What is left of another first run is not this cluster's, nor is what carries no UUID.
        let is_own = |m: Option<Marks>| m.is_some_and(|m| Some(m.cluster) == uuid);
        containers.retain(|c| is_own(Self::of_container(c)));
        networks.retain(|n| is_own(Self::of_network(n)));
        volumes.retain(|v| is_own(marks(&v.labels)));
        let mut all = containers.iter().filter_map(Self::of_container).chain(networks.iter().filter_map(Self::of_network));
        let engine = all.find_map(|m| m.engine).or_else(|| volumes.iter().filter_map(|v| marks(&v.labels)).find_map(|m| m.engine));
        let mut observed = Observed { uuid, twins, engine: engine.map(String::from), ..Observed::default() };
        let ends = containers.iter().filter_map(Self::of_container).chain(networks.iter().filter_map(Self::of_network));
        let ends = ends.chain(volumes.iter().filter_map(|v| marks(&v.labels)));
        if let Some(Expiry::At(expires)) = ends.filter_map(|m| m.expires).max() {
            *self.known_end() = Some(expires);
        }
        observed.network = networks.iter().find_map(Self::observed_network);
        observed.hosts = containers.iter().filter_map(|c| Some(Self::observed_host(c, observed.network.as_ref())?.1)).collect();
        observed.hosts.sort_by_key(|h| h.id);
        for c in &containers {
            let Some((_, host)) = Self::observed_host(c, observed.network.as_ref()) else { continue };
            if let Some(why) = self.needs_rebuild(c, &host, observed.network.as_ref()) {
                observed.rebuild.insert(host.id, why);
                // Nothing of it can be used as it is, whether it runs or not.
                for h in observed.hosts.iter_mut().filter(|h| h.id == host.id) {
                    h.state = HostState::Unfinished;
                }
            }
        }
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
                    if let Some((of, host)) = Self::observed_host(&c, observed.network.as_ref())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn network() -> ObservedNetwork {
        ObservedNetwork { reference: "own".into(), place: Place::Docker { subnet: Subnet::new(10, 1, 2), ports_from: 19000 } }
    }

    fn host(networks: serde_json::Value, network: Option<&ObservedNetwork>) -> ObservedHost {
        let text = json!({
            "Id": "c", "Name": "/p-kafka01", "State": {"Status": "running"}, "NetworkSettings": {"Networks": networks},
            "Config": {"Labels": {"septet.cluster": "0b5c4f2e-8f0f-4f4e-9a53-6c0f5f2b8a11", "septet.name": "c", "septet.role": "broker", "septet.index": "1"}}, "HostConfig": {"NetworkMode": "own"},
        });
        Docker::observed_host(&serde_json::from_value(text).unwrap(), network).unwrap().1
    }

    #[test]
    fn the_address_is_that_in_the_clusters_own_network() {
        let own = json!({"NetworkID": "own", "IPAddress": "10.1.2.31", "IPAMConfig": {"IPv4Address": "10.1.2.31"}});
        let others: serde_json::Map<_, _> =
            (0..20).map(|i| (format!("app{i}"), json!({"NetworkID": format!("n{i}"), "IPAddress": format!("172.18.0.{i}")}))).collect();
        let mut all = others.clone();
        all.insert("septet-c".into(), own);
        for network in [Some(&network()), None] {
            // The order of a hash map differs from one to the next.
            for _ in 0..20 {
                assert_eq!(host(json!(all), network).address, IpAddr::from([10, 1, 2, 31]));
            }
        }
        // Disconnected from its own network it is still a host, with the address that it has there.
        assert_eq!(host(json!(others), Some(&network())).address, IpAddr::from([10, 1, 2, 31]));
        assert_eq!(host(json!({}), None).address, Ipv4Addr::UNSPECIFIED);
    }
}
