//! One way to roll over hosts, for playbooks, restarts, resizes and keys: in the gate's order, one after the other, each only while
//! the gate is open, and the next only once the one before is back.
//!
//! Invariant: no host is touched after one that failed, after a gate that stayed closed, or once the user wants to stop.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use futures_util::future::BoxFuture;

use crate::{
    error::Result,
    events::{Event, GateState},
    inventory::{HostId, Role},
    stop,
};

/// In which order the hosts of a roll go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// hosts that serve nothing now, or cannot serve beside one another before and after: all at once, first
    pub first: Vec<HostId>,
    /// then one after the other, with the gate between them
    pub then: Vec<HostId>,
    /// what the user should know of this order
    pub note: Option<String>,
}

/// Decides when a host may be restarted and when it is back.
pub trait Gate: Send + Sync {
    /// In which order hosts of a role are restarted; an error where that cannot be found out.
    fn order(&self, role: Role, hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>>;
    /// Whether a host may stop now; waits for that.
    fn before(&self, id: HostId) -> BoxFuture<'_, Result<()>>;
    /// Waits until a host is back.
    fn after(&self, id: HostId) -> BoxFuture<'_, Result<()>>;
}

/// What is done to the hosts of a roll.
pub trait Work: Send {
    /// The gate, as it is now; none in tests and where nothing serves.
    fn gate(&self) -> Option<Arc<dyn Gate>>;
    /// What a host is called.
    fn name(&self, id: HostId) -> String;
    /// Tells what happens.
    fn tell(&self, event: Event);
    /// Works on hosts side by side. `false`: something failed, and the roll ends.
    fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>>;
}

/// Rolls over hosts of one role; whether all of them were worked on.
pub async fn roll(work: &mut dyn Work, role: Role, due: Vec<HostId>, interrupted: &AtomicBool) -> Result<bool> {
    let total = due.len();
    let order = match work.gate() {
        Some(gate) => gate.order(role, due).await.map_err(|e| e.context(format!("the roll of the {} did not begin", role.hosts())))?,
        None => Order { then: due, ..Order::default() },
    };
    if let Some(note) = order.note {
        work.tell(Event::note(note));
    }
    if !order.first.is_empty() && !work.act(&order.first).await? {
        return Ok(false);
    }
    let (begun, mut done) = (Instant::now(), order.first.len());
    for id in order.then {
        stop::check(interrupted)?;
        let host = work.name(id);
        let gate = |state| Event::Gate { host: host.clone(), state, reasons: Vec::new() };
        if let Some(asked) = work.gate() {
            work.tell(gate(GateState::Before));
            asked.before(id).await.map_err(|e| e.context(format!("the roll stopped before {host}")))?;
        }
        if !work.act(&[id]).await? {
            return Ok(false);
        }
        // What was done to the host may have changed the way to it, and the gate with it.
        if let Some(asked) = work.gate() {
            work.tell(gate(GateState::After));
            asked.after(id).await.map_err(|e| e.context(format!("the roll stopped after {host}")))?;
            work.tell(gate(GateState::Open));
        }
        done += 1;
        let left = u64::try_from(total.saturating_sub(done)).unwrap_or(0);
        let one_by_one = u64::try_from(done - order.first.len()).unwrap_or(1).max(1);
        work.tell(Event::Progress { done, total, left_s: begun.elapsed().as_secs() * left / one_by_one });
    }
    Ok(true)
}
