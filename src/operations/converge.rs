//! What `up` does, in its order: what the provider does, and between that what is done on the hosts themselves, whatever they are.
//!
//! Invariant: cut off between any two calls of the provider's, the same goes on; `steps_tests.rs` kills it at each of them.

use std::{sync::atomic::AtomicBool, time::Instant};

use futures_util::future::BoxFuture;

use super::{Phases, access::not_there, lease, steps::Steps};
use crate::{
    clock,
    error::{Error, Result},
    identity::ClusterId,
    inventory::Inventory,
    observed::{Observed, ObservedHost},
    plan::{self, Plan, Reason, StageKind, Step},
    provider::{self, Check, Provider, Verdict},
    report::Reporter,
    stop,
};

/// The hosts of an `up`, and this machine.
pub trait OnHosts: Send {
    /// This exists; nothing was planned yet.
    fn found(&mut self, observed: &Observed);
    /// This would be done; an error refuses it. Nothing was touched yet.
    fn planned(&mut self, plan: &Plan) -> Result<()>;
    /// Makes sure that what is deployed is on this machine.
    fn fetch<'a>(&'a mut self, phases: &'a mut Phases) -> BoxFuture<'a, Result<()>>;
    /// The cluster's identity, and the line for `authorized_keys` of hosts that are made.
    fn identity(&mut self, observed: &Observed) -> Result<(ClusterId, String)>;
    /// Opens the way to the hosts that exist; what exists then.
    fn connect<'a>(&'a mut self, observed: Observed, phases: &'a mut Phases) -> BoxFuture<'a, Result<Observed>>;
    /// Gives hosts another kind of machine, under the gate; what exists then.
    fn resize<'a>(&'a mut self, steps: &'a [Step]) -> BoxFuture<'a, Result<Observed>>;
    /// Brings software and configuration to the hosts; whether they have other names than the wanted ones, which can go now.
    fn configure<'a>(&'a mut self, observed: &'a Observed, phases: &'a mut Phases) -> BoxFuture<'a, Result<bool>>;
    /// Every host has its wanted name only; the others go.
    fn renamed<'a>(&'a mut self, observed: &'a Observed) -> BoxFuture<'a, Result<()>>;
}

/// What an `up` is done with.
pub struct Converge<'a> {
    /// Where hosts come from.
    pub provider: &'a dyn Provider,
    /// What is wanted.
    pub inventory: &'a Inventory,
    /// Told of phases and steps.
    pub reporter: &'a Reporter,
    /// Set when the user wants to stop.
    pub interrupted: &'a AtomicBool,
}

/// What exists, with what of it is to be mended in place.
pub async fn observe(provider: &dyn Provider) -> Result<Observed> {
    let mut observed = provider.observe().await?;
    if let Some(machines) = provider.machines() {
        observed.adjustments = machines.adjustments(&observed).await?;
    }
    Ok(observed)
}

fn makes_hosts(plan: &Plan) -> bool {
    plan.making().any(|s| matches!(s, Step::Create { .. } | Step::Replace { .. }))
}

/// Whether the provider can do what is planned; nothing is asked where little is.
pub async fn preflight(provider: &dyn Provider, plan: &Plan, observed: &Observed) -> Result<Vec<Check>> {
    if !makes_hosts(plan) && plan.of(&StageKind::Resize).next().is_none() {
        return Ok(Vec::new());
    }
    let steps: Vec<Step> = plan.all().cloned().collect();
    provider::machines(provider)?.preflight(observed, &steps).await
}

/// Refuses to begin what would go wrong.
fn passed(checks: &[Check]) -> Result<()> {
    let failed: Vec<&Check> = checks.iter().filter(|c| c.verdict == Verdict::Fail).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let lines: Vec<String> = failed.iter().map(|c| format!("{}: {}", c.name, c.finding)).collect();
    let e = Error::failed(format!("nothing was begun, since it would fail:\n  {}", lines.join("\n  ")));
    Err(match failed.iter().find_map(|c| c.hint.clone()).or(first.hint.clone()) {
        Some(h) => e.hint(h),
        None => e,
    })
}

impl Converge<'_> {
    /// Makes the cluster match the inventory; what was planned, and what exists then.
    pub async fn run(&self, hosts: &mut dyn OnHosts, phases: &mut Phases) -> Result<(Plan, Observed)> {
        let (provider, reporter) = (self.provider, self.reporter);
        let mut observed = phases.time(reporter, "observe", observe(provider)).await?;
        hosts.found(&observed);
        observed.all_reached()?;
        let mut plan = plan::plan(self.inventory, &observed)?;
        hosts.planned(&plan)?;
        stop::check(self.interrupted)?;
        let begun = Instant::now();
        let checks = preflight(provider, &plan, &observed).await?;
        if !checks.is_empty() {
            phases.add(reporter, "preflight", begun.elapsed());
            reporter.checks(&checks, false);
            passed(&checks)?;
        }
        hosts.fetch(phases).await?;
        if let Some(end) = lease::renew(provider, observed.uuid, self.inventory.ttl).await? {
            reporter.say(&format!("cluster {} expires at {}", self.inventory.cluster, clock::local_s(end)));
            let ttl_s = self.inventory.ttl.unwrap_or_default().as_secs();
            plan.add(StageKind::Lease, Step::SetEnd { ttl_s }, Reason::NoEnd);
        }
        if makes_hosts(&plan) {
            let say = |text: String| reporter.say(&text);
            let how = phases.time(reporter, "image", provider::machines(provider)?.prepare(&say)).await?;
            reporter.detail(&format!("   hosts are made with: {how}"));
            stop::check(self.interrupted)?;
        }
        if plan.making().next().is_some() {
            let make = async {
                let (uuid, public_key) = hosts.identity(&observed)?;
                let (say, done) = (|text: String| reporter.say(&text), |step: &Step| reporter.step(step));
                self.steps(&observed, uuid, &public_key, &say, &done).before(&plan).await?;
                provider.settle().await
            };
            observed = phases.time(reporter, "hosts", make).await?;
        }
        observed = hosts.connect(observed, phases).await?;
        stop::check(self.interrupted)?;
        let resizes: Vec<Step> = plan.of(&StageKind::Resize).cloned().collect();
        if !resizes.is_empty() {
            // Hosts that were made without a service would keep the gate closed: they get it first.
            let is_bare = |h: &ObservedHost| h.data_volume.is_some() && h.data_is_new;
            if makes_hosts(&plan) || observed.hosts.iter().any(is_bare) {
                hosts.configure(&observed, phases).await?;
                stop::check(self.interrupted)?;
            }
            observed = phases.time(reporter, "resize", hosts.resize(&resizes)).await?;
        }
        if hosts.configure(&observed, phases).await? {
            observed = phases.time(reporter, "rename", self.rename(hosts, &plan, &observed)).await?;
        }
        Ok((plan, observed))
    }

    /// Every host serves under its wanted name: the provider's names follow, then all others go.
    async fn rename(&self, hosts: &mut dyn OnHosts, plan: &Plan, observed: &Observed) -> Result<Observed> {
        let (Some(uuid), Some(network)) = (observed.uuid, observed.network.clone()) else {
            return Err(not_there(self.inventory));
        };
        let (say, done) = (|text: String| self.reporter.say(&text), |step: &Step| self.reporter.step(step));
        self.steps(observed, uuid, "", &say, &done).renames(plan, &network).await?;
        let observed = self.provider.settle().await?;
        hosts.renamed(&observed).await?;
        Ok(observed)
    }

    fn steps<'a>(
        &'a self,
        observed: &'a Observed,
        uuid: ClusterId,
        public_key: &'a str,
        say: &'a (dyn Fn(String) + Send + Sync),
        done: &'a (dyn Fn(&Step) + Send + Sync),
    ) -> Steps<'a> {
        let (provider, inventory, interrupted) = (self.provider, self.inventory, self.interrupted);
        Steps { provider, inventory, observed, uuid, public_key, interrupted, say, done }
    }
}
