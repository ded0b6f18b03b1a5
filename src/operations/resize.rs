//! Hosts of another kind of machine: stopped, changed and started, one at a time, each under the gate of its role.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};

use super::{Access, Cluster, access::not_there};
use crate::{
    error::Result,
    events::Event,
    inventory::{HostId, Role},
    plan::Step,
    provider::{self, Site},
    rolling::{self, Gate, Work},
};

fn id_of(step: &Step) -> Option<HostId> {
    match step {
        Step::Resize { id, .. } => Some(*id),
        _ => None,
    }
}

/// Does the plan's rolls. Addresses may be others afterwards, so the way to the hosts is made anew after each.
pub async fn roll(cluster: &Cluster, steps: &[Step], access: Access) -> Result<Access> {
    let mut work = Resize { cluster, steps, access };
    for role in Role::ALL {
        let hosts: Vec<HostId> = steps.iter().filter_map(id_of).filter(|id| id.role() == role).collect();
        if !hosts.is_empty() {
            rolling::roll(&mut work, role, hosts, &cluster.interrupted).await?;
        }
    }
    Ok(work.access)
}

struct Resize<'a> {
    cluster: &'a Cluster,
    steps: &'a [Step],
    access: Access,
}

impl Resize<'_> {
    async fn one(&self, step: &Step) -> Result<()> {
        let (cluster, observed) = (self.cluster, &self.access.observed);
        let (Some(network), Some(uuid)) = (&observed.network, observed.uuid) else {
            return Err(not_there(&cluster.inventory));
        };
        let site = Site { uuid, inventory: &cluster.inventory, observed, public_key: "" };
        let say = |text: String| cluster.reporter.say(&text);
        provider::machines(&*cluster.provider)?.apply(step, network, &site, &say).await?;
        cluster.reporter.step(step);
        Ok(())
    }
}

impl Work for Resize<'_> {
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::new(self.access.gate(self.cluster)))
    }
    fn name(&self, id: HostId) -> String {
        self.access.observed.host(id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn tell(&self, event: Event) {
        self.cluster.reporter.emit(&event);
    }
    fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let steps = self.steps.iter().filter(|s| id_of(s).is_some_and(|id| hosts.contains(&id)));
            join_all(steps.map(|s| self.one(s))).await.into_iter().collect::<Result<Vec<()>>>()?;
            let observed = self.cluster.provider.settle().await?;
            self.access = Access::new(self.cluster, observed)?.connect(self.cluster, true).await?;
            Ok(true)
        })
    }
}
