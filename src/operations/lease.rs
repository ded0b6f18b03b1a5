//! How long clusters live: which there are, putting an end off, and removing those of this machine that are over.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{Cluster, access::not_there, down, locked, run_playbook};
use crate::{
    clock::{self, now_s},
    error::{Error, Result},
    health::Report,
    identity::{ClusterId, ClusterName},
    inventory::{Host, Inventory, ProviderSettings},
    journal::Recorder,
    observed::{HostState, ObservedHost},
    plan::{Plan, Reason, StageKind, Step},
    provider::{self, Found, Provider},
    report::Reporter,
};

/// The playbook that sets the hosts' timers.
const PLAYBOOK: &str = "expiry.yml";
/// How long before a cluster's end `health` warns, in seconds.
const WARN_S: u64 = 3600;

/// All clusters of the inventory's provider, whatever their names.
pub async fn list(inventory: &Inventory) -> Result<Vec<Found>> {
    provider::open(inventory)?.clusters().await
}

/// What `extend` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extended {
    /// when the cluster would have expired, in seconds since 1970; `None`: never
    #[serde(rename = "before", serialize_with = "clock::serialize_some_s")]
    pub before_s: Option<u64>,
    /// when it expires now
    #[serde(rename = "expires", serialize_with = "clock::serialize_s")]
    pub expires_s: u64,
}

/// Lets the cluster live for so long from now on: first at the provider, then by the timers of its hosts. A later end is not brought
/// forward: hosts that are not reached would go on.
pub async fn extend(cluster: &mut Cluster, ttl: Duration) -> Result<Extended> {
    let (name, provider) = (cluster.inventory.cluster.clone(), cluster.provider.clone());
    locked(&name, &*provider, extend_now(cluster, ttl)).await
}

async fn extend_now(cluster: &mut Cluster, ttl: Duration) -> Result<Extended> {
    cluster.begin();
    let provider = cluster.provider.clone();
    let lease = provider.lease().ok_or_else(|| Error::failed("hosts that Septet did not make have no `ttl`"))?;
    let observed = cluster.provider.observe().await?;
    let uuid = observed.uuid.ok_or_else(|| not_there(&cluster.inventory))?;
    let (before_s, expires_s) = (lease.expires(), now_s() + ttl.as_secs());
    may_put_off(before_s, expires_s)?;
    lease.extend(uuid, expires_s).await?;
    let is_running = |h: &&ObservedHost| h.state == HostState::Running;
    let (count, all) = (observed.hosts.iter().filter(is_running).count(), observed.hosts.len());
    if count < all {
        let reporter = &cluster.reporter;
        reporter.warn(&format!("{} of {all} hosts do not run: `septet up` starts them with the new end", all - count));
    }
    if count > 0 {
        // The inventory's names: a host that is being renamed has another one at its provider.
        let runs = |h: &&Host| observed.host(h.id).as_ref().is_some_and(is_running);
        let names: Vec<String> = cluster.inventory.hosts.iter().filter(runs).map(|h| h.name.clone()).collect();
        cluster.options.limit = Some(names.join(":"));
        run_playbook(cluster, PLAYBOOK).await?;
    }
    if let Some(lease) = provider.lease() {
        lease.timers_are_set().await?;
    }
    Ok(Extended { before_s, expires_s })
}

/// Whether a cluster's end can be put off to this time.
fn may_put_off(before_s: Option<u64>, expires_s: u64) -> Result<()> {
    match before_s {
        None => Err(Error::failed("the cluster never expires")
            .hint("`septet extend` puts an end off; to give the cluster one, set `ttl` in the inventory and run `septet up`")),
        Some(before) if before > expires_s => {
            Err(Error::invalid(format!("the cluster expires at {}, which is later", clock::local_s(before)))
                .hint("`septet extend` puts the end off only; `septet down` ends the cluster now"))
        }
        Some(_) => Ok(()),
    }
}

/// How long a cluster that exists gets from `up`: one without an end gets the `ttl` of the inventory, and one whose end has passed anew.
/// Its hosts would stop again at once, and the next command on another cluster would remove it.
pub(super) fn due(provider: &dyn Provider, uuid: Option<ClusterId>, ttl: Option<Duration>, now_s: u64) -> Result<Option<Duration>> {
    let (Some(lease), Some(_)) = (provider.lease(), uuid) else { return Ok(None) };
    match (lease.expires(), ttl) {
        (Some(at), None) if at <= now_s => Err(Error::failed(format!("the cluster expired at {}", clock::local_s(at)))
            .hint("to keep it, set `ttl` in the inventory and run `septet up`; `septet down` removes it")),
        (Some(at), _) if at > now_s => Ok(None),
        (_, ttl) => Ok(ttl),
    }
}

/// Adds that to a plan.
pub(super) fn plan(plan: &mut Plan, provider: &dyn Provider, uuid: Option<ClusterId>, ttl: Option<Duration>) -> Result<()> {
    if let Some(ttl) = due(provider, uuid, ttl, now_s())? {
        plan.add(StageKind::Lease, Step::SetEnd { ttl_s: ttl.as_secs() }, Reason::NoEnd);
    }
    Ok(())
}

/// Sets the end that is due before `up` changes a cluster that exists. The new end, if there is one.
pub async fn renew(provider: &dyn Provider, uuid: Option<ClusterId>, ttl: Option<Duration>) -> Result<Option<u64>> {
    let now = now_s();
    let (Some(lease), Some(uuid), Some(ttl)) = (provider.lease(), uuid, due(provider, uuid, ttl, now)?) else { return Ok(None) };
    let end = now.saturating_add(ttl.as_secs());
    lease.extend(uuid, end).await?;
    // The provider has seen the end before.
    provider.observe().await?;
    Ok(Some(end))
}

/// Warns in a health report of an end that is near.
pub fn warn_of_end(report: &mut Report, provider: &dyn Provider) {
    let Some(expires_s) = provider.lease().and_then(|l| l.expires()) else { return };
    report.warnings.extend(warning(expires_s, now_s()));
}

fn warning(expires_s: u64, now_s: u64) -> Option<String> {
    let at = clock::local_s(expires_s);
    match expires_s.saturating_sub(now_s) {
        0 => Some(format!("the cluster expired at {at}: `septet extend TTL` keeps it, `septet down` removes it")),
        left if left <= WARN_S => {
            let left = clock::span(Duration::from_secs(left));
            Some(format!("the cluster expires at {at}, in {left}: `septet extend TTL` puts that off"))
        }
        _ => None,
    }
}

/// Removes what is left of expired clusters on this machine's Docker. Two kinds stay: a cluster with a running host, since its hosts stop
/// by their own clocks and this machine's may be wrong; and one of which only data is left, which `down --keep-data` kept for the next
/// `up`. The command's own cluster is not touched, whatever its end: the command is about it. What goes wrong is a warning.
pub async fn sweep(inventory: &Inventory, reporter: &Arc<Reporter>, interrupted: &std::sync::atomic::AtomicBool) {
    if !matches!(inventory.provider, ProviderSettings::Docker(_)) {
        return;
    }
    // Whether Docker can be used, the command itself says.
    let Ok(provider) = provider::open(inventory) else { return };
    sweep_others(&*provider, &down::open_as(inventory), &inventory.cluster, reporter, interrupted).await;
}

pub(super) async fn sweep_others(
    provider: &dyn Provider,
    open: down::Open<'_>,
    own: &ClusterName,
    reporter: &Arc<Reporter>,
    interrupted: &std::sync::atomic::AtomicBool,
) {
    let Ok(expired) = down::expired_now(provider, false).await else { return };
    let Ok(found) = provider.clusters().await else { return };
    let runs = |one: &provider::Expired| found.iter().any(|f| f.uuid == one.uuid && f.running > 0);
    let removal = async {
        for one in expired.into_iter().filter(|e| e.cluster != *own && !runs(e)) {
            let recorder = Recorder::of("down", BTreeMap::from([("expired", one.uuid.to_string())]));
            reporter.say(&format!("cluster {} expired at {}: removing it", one.cluster, clock::local_s(one.expires)));
            let provider = open(&one.cluster)?;
            if let Some(removed) = down::expired_one(&*provider, &one, false, &recorder, reporter, interrupted).await? {
                reporter.say(&format!("   {} resources of cluster {} were removed", removed.receipt.removed.len(), one.cluster));
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(e) = removal.await {
        reporter.warn(&format!("clusters that have expired are still there: {}", e.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_put_off_and_neither_made_nor_brought_forward() {
        assert!(may_put_off(Some(1000), 1000).is_ok() && may_put_off(Some(1), 1000).is_ok());
        assert!(may_put_off(Some(1001), 1000).is_err_and(|e| e.message.ends_with("which is later")));
        assert!(may_put_off(None, 1000).is_err_and(|e| e.message == "the cluster never expires"));
    }

    #[test]
    fn an_end_that_is_near_is_a_warning() {
        assert_eq!(warning(10_000, 10_000 - WARN_S - 1), None);
        assert!(warning(10_000, 10_000 - 1800).is_some_and(|w| w.contains("in 30 min 0 s: `septet extend TTL`")));
        assert!(warning(10_000, 10_001).is_some_and(|w| w.starts_with("the cluster expired at")));
    }
}
