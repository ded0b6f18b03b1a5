//! What a restart does to hosts, whatever they are: finds which are due, then rolls over the coordinators, then over the brokers.
//!
//! Invariants: a service that was started since the restart was first asked for is not restarted again; one that does not run is always
//! restarted. Spans are compared, never a host's clock with ours. Killed anywhere, the same goes on from what hosts run.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};

use crate::{
    clock,
    error::Result,
    events::Event,
    inventory::{HostId, Role},
    rolling::{self, Gate, Work},
    ssh, stop,
};

/// For so long a restart that was cut off is gone on with. Later, asking for one means all hosts.
pub const STILL_MEANT: Duration = Duration::from_secs(24 * 3600);
/// How often a service that is just being stopped or started is asked again, with a pause between, before it is judged as it is. With the
/// pauses of `mod.rs` that is ten minutes, as long as a restart may take.
pub const MAX_LOOKS: usize = 1200;

/// A host's service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    /// Whether systemd calls it active.
    pub active: bool,
    /// Whether systemd is at work on it, as after a restart whose `septet` was killed.
    pub changing: bool,
    /// How long its process has run, in seconds.
    pub age_s: f64,
}

impl Service {
    /// Whether it is still to be restarted, where that was first asked for so many seconds ago.
    pub fn is_due(self, asked_s: f64) -> bool {
        !self.active || self.age_s >= asked_s
    }
}

/// When a restart was first asked for, which an execution after that goes on with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// When its first execution began, in milliseconds since 1970 by the clock of that time.
    pub began_ms: i64,
    /// What that clock shows now, in milliseconds since 1970.
    pub now_ms: i64,
    /// How long ago the process of that execution was started, in seconds, by a clock that nobody sets; `None` after a reboot of this
    /// machine.
    pub process_age_s: Option<f64>,
}

impl Asked {
    /// How long ago, in seconds, and never more than that by a clock that was set forward: hosts would count as restarted that were not.
    /// By one that was set back it is less, and hosts are restarted again.
    pub fn ago_s(&self) -> f64 {
        let by_clock_s = self.now_ms.saturating_sub(self.began_ms) as f64 / 1e3;
        self.process_age_s.map_or(by_clock_s, |age_s| age_s.min(by_clock_s)).max(0.0)
    }
}

/// The hosts of a restart.
pub trait Hosts: Send + Sync {
    /// Those that are to be restarted.
    fn ids(&self) -> Vec<HostId>;
    /// When that was first asked for; `None` where nothing is recorded.
    fn asked(&self) -> Option<Asked>;
    /// How many hosts are asked at the same time, at the most.
    fn at_once(&self) -> usize;
    /// A host's service as it is now.
    fn service(&self, id: HostId) -> BoxFuture<'_, Result<Service>>;
    /// Between two looks at a service that changes.
    fn pause(&self) -> BoxFuture<'_, ()>;
    /// Restarts a host's service, and returns once it runs.
    fn restart(&self, id: HostId) -> BoxFuture<'_, Result<()>>;
    /// The gate of a roll.
    fn gate(&self) -> Option<Arc<dyn Gate>>;
    /// What a host is called.
    fn name(&self, id: HostId) -> String;
    /// Tells what happens.
    fn tell(&self, event: Event);
    /// Set when the user wants to stop.
    fn interrupted(&self) -> &AtomicBool;
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Hosts whose service was restarted, in that order.
    pub restarted: Vec<HostId>,
    /// Hosts whose service had been restarted by an execution before this one.
    pub already: Vec<HostId>,
}

/// Restarts the services of hosts; with `all` also those that an unfinished restart has restarted already.
pub async fn restart(hosts: &dyn Hosts, all: bool) -> Result<Done> {
    let already = match hosts.asked() {
        Some(asked) if !all && asked.ago_s() < STILL_MEANT.as_secs_f64() => {
            let already = restarted_since(hosts).await?;
            if !already.is_empty() {
                let names: Vec<String> = already.iter().map(|id| hosts.name(*id)).collect();
                let since = clock::local(asked.began_ms);
                hosts.tell(Event::note(format!("restarted since {since}: {}; `--all` restarts them again", names.join(", "))));
            }
            already
        }
        _ => BTreeSet::new(),
    };
    let due: Vec<HostId> = hosts.ids().into_iter().filter(|id| !already.contains(id)).collect();
    let mut roll = Roll { hosts, restarted: Vec::new() };
    for role in [Role::Coordinator, Role::Broker] {
        let of_role: Vec<HostId> = due.iter().copied().filter(|id| id.role() == role).collect();
        if !of_role.is_empty() {
            rolling::roll(&mut roll, role, of_role, hosts.interrupted()).await?;
        }
    }
    Ok(Done { restarted: roll.restarted, already: already.into_iter().collect() })
}

/// Hosts whose service was started since the restart was first asked for.
async fn restarted_since(hosts: &dyn Hosts) -> Result<BTreeSet<HostId>> {
    let looks = hosts.ids().into_iter().map(|id| async move { Ok((id, is_due(hosts, id).await?)) });
    let looked = ssh::all(hosts.at_once(), looks).await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(looked.into_iter().filter(|(_, due)| !due).map(|(id, _)| id).collect())
}

/// Whether a host is still to be restarted. What systemd does to its service is waited for: a restart that a killed execution asked for
/// goes on without it, and is that host's restart.
async fn is_due(hosts: &dyn Hosts, id: HostId) -> Result<bool> {
    let mut due = true;
    for _ in 0..MAX_LOOKS {
        // Before the host is asked: what the answer takes must not make a service look younger.
        let asked_s = hosts.asked().map_or(0.0, |asked| asked.ago_s());
        let service = hosts.service(id).await?;
        due = service.is_due(asked_s);
        if !service.changing {
            break;
        }
        stop::check(hosts.interrupted())?;
        hosts.pause().await;
    }
    Ok(due)
}

/// The roll over the hosts of a role.
struct Roll<'a> {
    hosts: &'a dyn Hosts,
    restarted: Vec<HostId>,
}

impl Work for Roll<'_> {
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        self.hosts.gate()
    }
    fn name(&self, id: HostId) -> String {
        self.hosts.name(id)
    }
    fn tell(&self, event: Event) {
        self.hosts.tell(event);
    }
    fn act<'a>(&'a mut self, ids: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let hosts = self.hosts;
            let done = join_all(ids.iter().map(|id| async move { hosts.restart(*id).await.map(|()| *id) })).await;
            self.restarted.extend(done.into_iter().collect::<Result<Vec<_>>>()?);
            Ok(true)
        })
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
