//! Hosts of another kind of machine: stopped, changed and started, one at a time, each under the gate of its role.

use futures_util::future::join_all;

use super::{Access, Cluster};
use crate::{
    error::{Error, Kind, Result},
    events::GateState,
    inventory::{HostId, Role},
    plan::Step,
    playbook::Gate,
    provider::Site,
};

fn id_of(step: &Step) -> Option<HostId> {
    match step {
        Step::Resize { id, .. } => Some(*id),
        _ => None,
    }
}

/// Does the plan's rolls. Addresses may be others afterwards, so the way to the hosts is made anew after each.
pub async fn roll(cluster: &Cluster, steps: &[Step], mut access: Access) -> Result<Access> {
    for role in Role::ALL {
        let hosts: Vec<HostId> = steps.iter().filter_map(id_of).filter(|id| id.role == role).collect();
        if hosts.is_empty() {
            continue;
        }
        let order = access
            .gate(cluster)
            .order(role, hosts)
            .await
            .map_err(|e| e.context(format!("the roll of the {} did not begin", role.group())))?;
        // What serves nothing need not wait for one another.
        let first = steps.iter().filter(|s| id_of(s).is_some_and(|id| order.first.contains(&id)));
        let done = join_all(first.map(|s| one(cluster, s, &access))).await;
        done.into_iter().collect::<Result<Vec<()>>>()?;
        if !order.first.is_empty() {
            access = again(cluster).await?;
        }
        for id in order.then {
            if cluster.interrupted.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(Error::failed("interrupted").kind(Kind::Interrupted));
            }
            let Some(step) = steps.iter().find(|s| id_of(s) == Some(id)) else { continue };
            let name = access.observed.host(id).map(|h| h.name.clone()).unwrap_or_default();
            cluster.reporter.gate(&name, GateState::Before);
            access.gate(cluster).before(id).await.map_err(|e| e.context(format!("the roll stopped before {name}")))?;
            one(cluster, step, &access).await?;
            access = again(cluster).await?;
            cluster.reporter.gate(&name, GateState::After);
            access.gate(cluster).after(id).await.map_err(|e| e.context(format!("the roll stopped after {name}")))?;
        }
    }
    Ok(access)
}

async fn one(cluster: &Cluster, step: &Step, access: &Access) -> Result<()> {
    let observed = &access.observed;
    let (Some(network), Some(uuid)) = (&observed.network, observed.uuid) else {
        return Err(super::access::not_there(&cluster.inventory));
    };
    let site = Site { uuid, inventory: &cluster.inventory, observed, public_key: "" };
    let say = |text: String| cluster.reporter.say(&text);
    cluster.provider.apply(step, network, &site, &say).await?;
    cluster.reporter.step(step);
    Ok(())
}

async fn again(cluster: &Cluster) -> Result<Access> {
    let observed = cluster.provider.settle().await?;
    Access::new(cluster, observed)?.connect(cluster, true).await
}
