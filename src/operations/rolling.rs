//! The gate of rolling restarts: who goes when, what must hold before a host stops and after it is back.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    health::{Checker, Problem},
    inventory::{HostId, Inventory, Role},
    playbook::{Gate, Order, runner::Boxed},
    provider::Observed,
    ssh::Fleet,
};

/// How long a host is waited for before it may stop.
const BEFORE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a host may take until it is back.
const AFTER_TIMEOUT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);

/// The gate of one cluster.
pub struct RollingGate {
    /// what is wanted
    pub inventory: Inventory,
    /// what exists
    pub observed: Observed,
    /// the hosts
    pub fleet: Arc<Fleet>,
}

impl RollingGate {
    fn checker(&self) -> Checker<'_> {
        Checker { inventory: &self.inventory, observed: &self.observed, fleet: Some(&self.fleet) }
    }

    async fn wait(&self, id: HostId, limit: Duration, stops: bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut problems = self.checker().role(id.role).await;
            if stops && problems.is_empty() {
                problems = self.checker().hurt_by_stopping(id).await;
            }
            if problems.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let lines: Vec<String> = problems.iter().map(|Problem { host, reason }| format!("{host}: {reason}")).collect();
                return Err(Error::failed(format!("the gate does not open within {} s:\n  {}", limit.as_secs(), lines.join("\n  ")))
                    .hint("the hosts that follow are untouched; mend what is named, then run the same command again"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn sequence(&self, role: Role, hosts: Vec<HostId>) -> Order {
        let checker = self.checker();
        // Who serves, and who of them goes last: the leader of the ensemble, the controller of the brokers.
        let (serving, last): (BTreeSet<HostId>, BTreeSet<HostId>) = match role {
            Role::Control => {
                return Order { first: hosts, then: Vec::new() };
            }
            Role::Coordinator => {
                let views = checker.coordinators().await;
                let last = views.iter().filter(|(_, v)| v.mode == "leader").map(|(id, _)| *id).collect();
                (views.into_keys().collect(), last)
            }
            Role::Broker => {
                let views = checker.brokers().await;
                let mut last: BTreeSet<HostId> = views.iter().filter(|(_, v)| v.controller == v.id).map(|(id, _)| *id).collect();
                if self.inventory.is_combined() {
                    last.extend(checker.coordinators().await.into_iter().filter(|(_, v)| v.mode == "leader").map(|(id, _)| id));
                }
                (views.into_keys().collect(), last)
            }
        };
        let (mut then, first): (Vec<HostId>, Vec<HostId>) = hosts.into_iter().partition(|id| serving.contains(id));
        then.sort_by_key(|id| last.contains(id));
        Order { first, then }
    }
}

impl Gate for RollingGate {
    fn order(&self, role: Role, hosts: Vec<HostId>) -> Boxed<'_, Order> {
        Box::pin(self.sequence(role, hosts))
    }
    fn before(&self, id: HostId) -> Boxed<'_, Result<()>> {
        Box::pin(self.wait(id, BEFORE_TIMEOUT, true))
    }
    fn after(&self, id: HostId) -> Boxed<'_, Result<()>> {
        Box::pin(self.wait(id, AFTER_TIMEOUT, false))
    }
}
