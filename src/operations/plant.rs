//! The login key of this state directory on hosts that refuse it. Where that restarts hosts, they go one at a time, each under the gate
//! of its role.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::BoxFuture;

use super::{Access, Cluster, RollingGate};
use crate::{
    error::{Error, Result},
    events::Event,
    inventory::{HostId, Role},
    provider,
    rolling::{Gate, Order, Work},
};

/// Whether a login key is planted by restarting hosts.
pub fn restarts(cluster: &Cluster) -> bool {
    cluster.provider.machines().is_some_and(|m| m.planting_restarts())
}

/// Plants keys.
pub struct Plant<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The way to its hosts, made anew after each restart.
    pub access: Access,
    /// Line for `authorized_keys`.
    pub public_key: &'a str,
    /// Hosts that were given it.
    pub planted: &'a mut BTreeSet<HostId>,
}

impl Plant<'_> {
    async fn one(&mut self, id: HostId) -> Result<()> {
        let Some(host) = self.access.observed.host(id).cloned() else { return Ok(()) };
        if !self.planted.insert(id) {
            return Err(Error::failed(format!("{}: the key that was added is not accepted", host.name))
                .hint("remove the host and run `septet up` to make it again"));
        }
        provider::machines(&*self.cluster.provider)?.plant_key(&host, self.public_key).await?;
        if restarts(self.cluster) {
            let observed = self.cluster.provider.settle().await?;
            self.access = Access::new(self.cluster, observed)?;
            // The host is back once it lets us in; others may still refuse.
            self.access.login(self.cluster, self.planted).await?;
        }
        Ok(())
    }
}

impl Work for Plant<'_> {
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::new(KeyGate(restarts(self.cluster).then(|| self.access.gate(self.cluster)))))
    }
    fn name(&self, id: HostId) -> String {
        self.access.observed.host(id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn tell(&self, event: Event) {
        self.cluster.reporter.emit(&event);
    }
    fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            for id in hosts {
                self.one(*id).await?;
            }
            Ok(true)
        })
    }
}

/// The gate of hosts that cannot be logged in to: their services are asked over the network only. `None`: nothing is restarted.
struct KeyGate(Option<RollingGate>);

impl Gate for KeyGate {
    fn order(&self, role: Role, hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>> {
        Box::pin(async move {
            let Some(gate) = &self.0 else { return Ok(Order { first: hosts, ..Order::default() }) };
            if !role.serves() {
                return Ok(Order { then: hosts, ..Order::default() });
            }
            let (serving, last) = gate.serving(role).await?;
            // One that does not serve keeps the gate closed for all others, and not for itself.
            let mut then = hosts;
            then.sort_by_key(|id| (serving.contains(id), last.contains(id)));
            Ok(Order { then, ..Order::default() })
        })
    }
    fn before(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.0.as_ref().filter(|_| id.role().serves()) {
                Some(gate) => gate.before(id).await,
                None => Ok(()),
            }
        })
    }
    fn after(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.0.as_ref().filter(|_| id.role().serves()) {
                Some(gate) => gate.after(id).await,
                None => Ok(()),
            }
        })
    }
}
