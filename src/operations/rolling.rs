//! The gate of rolling restarts: the order of hosts, what must hold before a host stops and after it is back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::protocols;
use crate::{
    error::{Error, Kind, Result},
    events::{Event, GateState},
    health::{Checker, Problem},
    inventory::{HostId, Inventory, Role},
    observed::Observed,
    report::Reporter,
    rolling::{Gate, Order},
    ssh::Fleet,
};

/// How long a host is waited for before it may stop.
const BEFORE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a host may take until it is back, if its service does not run.
const AFTER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a service that runs may take to serve: what was ended by force first reads its logs.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// How long its replicas may take until they have all that they missed.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long a service that runs may take to answer before its restart counts as one of a host that may serve.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a gate may stay closed before that is told.
const QUIET: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(250);

/// The gate of one cluster.
pub struct RollingGate {
    /// what is wanted
    pub inventory: Inventory,
    /// what exists
    pub observed: Observed,
    /// the hosts
    pub fleet: Arc<Fleet>,
    /// is told what keeps the gate closed
    pub reporter: Arc<Reporter>,
    /// set when the user wants to stop
    pub interrupted: Arc<AtomicBool>,
}

/// What keeps a gate closed, told when it changes and not at once: most of it is over by the next look.
struct Blocked<'a> {
    reporter: &'a Reporter,
    host: String,
    told: Vec<String>,
    begun: Instant,
}

impl Blocked<'_> {
    fn tell(&mut self, problems: &[Problem]) {
        let reasons: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.host, p.reason)).collect();
        if self.begun.elapsed() > QUIET && reasons != self.told {
            self.reporter.emit(&Event::Gate { host: self.host.clone(), state: GateState::Blocked, reasons: reasons.clone() });
            self.told = reasons;
        }
    }
}

/// What is known of a role's hosts before a roll.
#[derive(Debug, Default)]
struct Known {
    /// hosts that answer
    serving: BTreeSet<HostId>,
    /// hosts whose unit is active and that cannot be asked: they may serve clients
    silent: BTreeSet<HostId>,
    /// the one that goes last: the leader of the ensemble, the controller of the brokers
    last: BTreeSet<HostId>,
    /// hosts with a problem of their own
    ill: BTreeSet<HostId>,
}

/// Hosts that serve nothing go first; of the others those that a restart may fix, and last the leader. One that runs and cannot be
/// asked may serve whatever cannot be seen from here: it goes under the gate, which stays closed while another one is like that.
fn order(hosts: Vec<HostId>, known: &Known) -> Order {
    let may_serve = |id: &HostId| known.serving.contains(id) || known.silent.contains(id);
    let (mut then, first): (Vec<HostId>, Vec<HostId>) = hosts.into_iter().partition(may_serve);
    then.sort_by_key(|id| (!known.silent.contains(id), !known.ill.contains(id), known.last.contains(id)));
    Order { first, then, note: None }
}

/// Whether nothing is left but replicas that are there and behind.
fn only_behind(problems: &[Problem]) -> bool {
    !problems.is_empty() && problems.iter().all(|p| p.catching_up)
}

/// Whether a host is waited for no longer: how long for something else than replicas that catch up, and for all; whether its service
/// runs.
fn is_given_up(waited: Duration, in_all: Duration, runs: bool) -> bool {
    waited > if runs { START_TIMEOUT } else { AFTER_TIMEOUT } || in_all > CATCH_UP_TIMEOUT
}

impl RollingGate {
    fn checker(&self) -> Checker<'_> {
        Checker { inventory: &self.inventory, observed: &self.observed, fleet: Some(&self.fleet) }
    }

    /// The pause between two looks, unless the user wants to stop.
    async fn pause(&self) -> Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Error::failed("interrupted").kind(Kind::Interrupted));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    fn blocked(&self, id: HostId) -> Blocked<'_> {
        let host = self.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default();
        Blocked { reporter: &self.reporter, host, told: Vec::new(), begun: Instant::now() }
    }

    /// Waits until no other host has a problem and it is safe to stop this one.
    async fn wait_before(&self, id: HostId) -> Result<()> {
        let (begun, checker, mut blocked) = (Instant::now(), self.checker(), self.blocked(id));
        loop {
            let mut problems = checker.role(id.role()).await;
            // What is wrong with the host itself only its restart may mend.
            problems.retain(|p| !checker.is_own(p, id));
            if problems.is_empty() {
                problems = checker.hurt_by_stopping(id).await;
            }
            if problems.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > BEFORE_TIMEOUT {
                return Err(closed(&problems, begun.elapsed()));
            }
            blocked.tell(&problems);
            self.pause().await?;
        }
    }

    /// Whether the host's service runs at this moment, as far as it can be asked.
    async fn runs(&self, id: HostId) -> bool {
        self.checker().active(&[id]).await.is_ok_and(|active| active.contains(&id))
    }

    /// Waits until all are well again. A service that runs is given more time than one that does not, and replicas that catch up are
    /// given the most.
    async fn wait_after(&self, id: HostId) -> Result<()> {
        let begun = Instant::now();
        let (mut patient, mut blocked) = (begun, self.blocked(id));
        loop {
            let problems = self.checker().role(id.role()).await;
            if problems.is_empty() {
                return Ok(());
            }
            if only_behind(&problems) {
                patient = Instant::now();
            }
            let waited = patient.elapsed();
            let runs = waited > AFTER_TIMEOUT && self.runs(id).await;
            if is_given_up(waited, begun.elapsed(), runs) {
                return Err(closed(&problems, begun.elapsed()));
            }
            blocked.tell(&problems);
            self.pause().await?;
        }
    }

    /// Hosts that answer now, and the one that goes last.
    pub(super) async fn serving(&self, role: Role) -> Result<(BTreeSet<HostId>, BTreeSet<HostId>)> {
        let checker = self.checker();
        let leaders = async {
            let views = checker.coordinators().await?;
            let leaders: BTreeSet<HostId> = views.iter().filter(|(_, v)| v.mode == "leader").map(|(id, _)| *id).collect();
            Ok::<_, Error>((views.into_keys().collect(), leaders))
        };
        match role {
            Role::Control | Role::Plain => Ok(Default::default()),
            Role::Coordinator => leaders.await,
            Role::Broker => {
                let views = checker.brokers().await?;
                let mut last: BTreeSet<HostId> = views.iter().filter(|(_, v)| v.controller == v.id).map(|(id, _)| *id).collect();
                if self.inventory.is_combined() {
                    last.extend(leaders.await?.1);
                }
                Ok((views.into_keys().collect(), last))
            }
        }
    }

    async fn sequence(&self, role: Role, hosts: Vec<HostId>) -> Result<Order> {
        if !role.serves() {
            return Ok(Order { first: hosts, ..Order::default() });
        }
        let (begun, mut known) = (Instant::now(), Known::default());
        let active = self.checker().active(&hosts).await?;
        if active.is_empty() {
            return Ok(order(hosts, &known));
        }
        let due: Vec<HostId> = hosts.iter().copied().filter(|id| active.contains(id)).collect();
        if protocols::differ(&self.inventory, &self.fleet, role, &due).await? {
            return Ok(Order { first: hosts, then: Vec::new(), note: Some(protocols::note(role)) });
        }
        let checker = self.checker();
        // A service that runs and does not answer at once may be busy, or just have started.
        loop {
            let (serving, last) = self.serving(role).await?;
            known.serving.extend(serving.intersection(&active));
            known.last = last;
            if known.serving == active {
                break;
            }
            if begun.elapsed() > ANSWER_TIMEOUT {
                let idle = checker.idle(role).await?;
                known.silent = active.iter().copied().filter(|id| !known.serving.contains(id) && !idle.contains(id)).collect();
                break;
            }
            self.pause().await?;
        }
        if self.inventory.of(role).count() == 1 {
            // No other is there that a gate could protect.
            known.silent.clear();
        }
        let problems = checker.role(role).await;
        known.ill = hosts.iter().copied().filter(|id| problems.iter().any(|p| checker.is_own(p, *id))).collect();
        Ok(order(hosts, &known))
    }
}

/// The error that the gate stays closed.
fn closed(problems: &[Problem], waited: Duration) -> Error {
    let lines: Vec<String> = problems.iter().map(|Problem { host, reason, .. }| format!("{host}: {reason}")).collect();
    let hint = if only_behind(problems) {
        "the hosts that follow are untouched; replicas are still catching up: wait until `septet health` reports none, then run the same command again"
    } else {
        "the hosts that follow are untouched; fix what is named, then run the same command again; a service that runs and cannot be asked \
         may be serving clients: if it is not, stop its unit with `septet exec`, and it is restarted first"
    };
    Error::failed(format!("the gate does not open within {} s:\n  {}", waited.as_secs(), lines.join("\n  "))).hint(hint)
}

impl Gate for RollingGate {
    fn order(&self, role: Role, hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>> {
        Box::pin(self.sequence(role, hosts))
    }
    fn before(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.wait_before(id))
    }
    fn after(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.wait_after(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Group;

    fn broker(index: u16) -> HostId {
        HostId { group: Group::BROKERS, index }
    }

    fn set(indexes: &[u16]) -> BTreeSet<HostId> {
        indexes.iter().map(|i| broker(*i)).collect()
    }

    #[test]
    fn who_serves_nothing_goes_first_and_the_leader_last() {
        let hosts = || (1..=4).map(broker).collect::<Vec<_>>();
        let ordered = |known: &Known| {
            let o = order(hosts(), known);
            let numbers = |ids: Vec<HostId>| ids.into_iter().map(|i| i.index).collect::<Vec<_>>();
            (numbers(o.first), numbers(o.then))
        };
        assert_eq!(ordered(&Known::default()), (vec![1, 2, 3, 4], vec![]));
        let mut known = Known { serving: set(&[1, 2, 4]), last: set(&[1]), ..Known::default() };
        assert_eq!(ordered(&known), (vec![3], vec![2, 4, 1]));
        known.ill = set(&[3, 4]);
        assert_eq!(ordered(&known), (vec![3], vec![4, 2, 1]));
    }

    #[test]
    fn who_runs_is_waited_for_longer() {
        let given_up = |waited, in_all, runs| is_given_up(Duration::from_secs(waited), Duration::from_secs(in_all), runs);
        assert!(!given_up(100, 100, false) && given_up(130, 130, false));
        assert!(!given_up(590, 590, true) && given_up(610, 610, true));
        // Replicas that catch up start the first of them anew, not the second.
        assert!(!given_up(0, 1700, true) && given_up(0, 1810, true));
    }

    #[test]
    fn one_that_runs_and_cannot_be_asked_goes_under_the_gate() {
        let hosts = || (1..=4).map(broker).collect::<Vec<_>>();
        let numbers = |ids: Vec<HostId>| ids.into_iter().map(|i| i.index).collect::<Vec<_>>();
        // From the control host no client port can be reached: none of them is stopped together with another.
        let o = order(hosts(), &Known { silent: set(&[1, 2, 3, 4]), ill: set(&[1, 2, 3, 4]), ..Known::default() });
        assert_eq!((numbers(o.first), numbers(o.then)), (vec![], vec![1, 2, 3, 4]));
        // Host 2 does not run.
        let o = order(hosts(), &Known { serving: set(&[1, 4]), silent: set(&[3]), last: set(&[1]), ill: set(&[3]) });
        assert_eq!((numbers(o.first), numbers(o.then)), (vec![2], vec![3, 4, 1]));
    }

    #[test]
    fn waiting_is_enough_only_where_nothing_else_is_wrong() {
        let problem = |catching_up| Problem { host: "brokers".into(), reason: "r".into(), from: BTreeSet::new(), catching_up };
        assert!(!only_behind(&[]));
        assert!(only_behind(&[problem(true), problem(true)]));
        assert!(!only_behind(&[problem(true), problem(false)]));
        let text = |problems: &[Problem]| closed(problems, Duration::from_secs(1800)).to_string();
        assert!(text(&[problem(true)]).contains("wait until `septet health`"));
        assert!(text(&[problem(false)]).contains("fix what is named"));
        assert!(text(&[problem(false), problem(true)]).contains("stop its unit with `septet exec`"));
    }
}
