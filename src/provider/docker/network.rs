//! The cluster's network: a free subnet, and a row of free ports that are published on this machine.

use std::collections::BTreeMap;

use bollard::{
    errors::Error as EngineError,
    models::{Ipam, IpamConfig, NetworkCreateRequest},
};

use super::{CLUSTER, Docker, PORTS, Subnet, errors::explain, marks, subnet};
use crate::{
    engine::listeners::listeners,
    error::{Error, Result},
    identity::ClusterId,
    inventory::{Group, Inventory},
    observed::{ObservedNetwork, Place},
    provider::{PORTS_PER_CLUSTER, Site, published_ports},
};

/// How often ports are picked anew when clusters that are made at the same moment pick the same.
const MAX_CONTESTS: u16 = 10;

impl Docker {
    pub(super) async fn make_network(&self, site: &Site<'_>) -> Result<ObservedNetwork> {
        if let Some(n) = &site.observed.network {
            return Ok(n.clone());
        }
        for attempt in 0..MAX_CONTESTS {
            let network = self.network_at(site, attempt).await?;
            if self.settings.ports_from.is_some() || !self.is_contested(&network).await? {
                return Ok(network);
            }
            // Another cluster was made at the same moment and picked the same ports: the one that notices yields.
            let _ = self.engine.remove_network(&network.reference).await;
        }
        Err(Error::failed("other clusters keep picking the same ports").hint("set `ports_from` in the inventory"))
    }

    async fn is_contested(&self, mine: &ObservedNetwork) -> Result<bool> {
        let all = self.engine.list_networks(None).await.map_err(|e| explain("cannot list networks", e))?;
        Ok(all
            .iter()
            .filter_map(Self::observed_network)
            .any(|n| n.reference != mine.reference && Self::ports_from(&n).abs_diff(Self::ports_from(mine)) < PORTS_PER_CLUSTER))
    }

    /// The network of this identity, if it is there; a run that was killed may have asked for it.
    async fn own_network(&self, uuid: ClusterId) -> Result<Option<ObservedNetwork>> {
        Ok(self.networks(CLUSTER, &uuid.to_string()).await?.iter().find_map(Self::observed_network))
    }

    async fn network_at(&self, site: &Site<'_>, attempt: u16) -> Result<ObservedNetwork> {
        if let Some(n) = self.own_network(site.uuid).await? {
            return Ok(n);
        }
        let all = self.engine.list_networks(None).await.map_err(|e| explain("cannot list networks", e))?;
        let used: Vec<String> =
            all.iter().flat_map(|n| n.ipam.iter().flat_map(|i| i.config.iter().flatten().filter_map(|c| c.subnet.clone()))).collect();
        let others: Vec<u16> = all.iter().filter_map(|n| marks(n.labels.as_ref()?)?.ports).collect();
        let needed: Vec<u16> = site.inventory.hosts.iter().flat_map(|h| published_ports(h.id, &self.listeners)).map(|(_, o)| o).collect();
        let ports_from = match self.settings.ports_from {
            Some(p) => {
                if let Some(taken) = needed.iter().map(|o| p + o).find(|p| !subnet::is_free(*p)) {
                    return Err(Error::failed(format!("port {taken} on 127.0.0.1 is in use"))
                        .hint("change `ports_from`, or leave it out to have free ports picked"));
                }
                p
            }
            None => subnet::free_ports(&needed, &others, &site.uuid.to_string(), attempt)
                .ok_or_else(|| Error::failed("no free row of ports was found on 127.0.0.1").hint("set `ports_from`"))?,
        };
        let fixed = self.settings.subnet.as_deref().and_then(Subnet::parse);
        let tries = match fixed {
            Some(s) => vec![s],
            None => subnet::candidates(&site.uuid.to_string(), &used),
        };
        let mut labels = self.labels(site.uuid);
        labels.insert(PORTS.to_owned(), ports_from.to_string());
        for subnet in tries.into_iter().take(50) {
            let config = IpamConfig { subnet: Some(subnet.to_string()), gateway: Some(subnet.gateway().to_string()), ..Default::default() };
            let request = NetworkCreateRequest {
                name: format!("septet-{}-{}", self.cluster, site.uuid.short()),
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
                        return Err(Error::failed(format!("subnet {subnet} is in use: {message}"))
                            .hint("change `subnet`, or leave it out to have a free one picked"));
                    }
                }
                Err(e) => return Err(explain("cannot make the network", e)),
            }
        }
        Err(Error::failed("no free subnet was found").hint("set `subnet` in the inventory"))
    }
}

/// What is made with a new cluster beside its hosts. Published ports are on the loopback address: nothing else reaches a host from
/// outside of its network.
pub(super) fn resources(inventory: &Inventory) -> Vec<String> {
    let listeners = listeners(inventory);
    let mut ports: BTreeMap<(Group, u16), usize> = BTreeMap::new();
    for h in &inventory.hosts {
        for (inner, _) in published_ports(h.id, &listeners) {
            *ports.entry((h.id.group, inner)).or_default() += 1;
        }
    }
    let open: Vec<String> = ports.iter().map(|((group, port), n)| format!("port {port} of {n} {group}")).collect();
    vec![
        format!("open to this machine only (127.0.0.1): {}", open.join(", ")),
        format!("{} volumes for /data, one for each host", inventory.hosts.len()),
        "an SSH key in this user's state directory, accepted by all hosts".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_says_what_opens_to_whom() {
        let lines = resources(&Inventory::built_in().unwrap());
        assert_eq!(
            lines[0],
            "open to this machine only (127.0.0.1): port 22 of 1 control, port 2181 of 3 coordinators, port 19092 of 3 brokers"
        );
        assert_eq!(lines[1], "7 volumes for /data, one for each host");
    }
}
