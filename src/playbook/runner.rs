//! The dispatcher: plays in order, hosts of a play side by side or in batches, rolling plays under a gate.
//!
//! Within a play hosts do not wait for one another; between plays they do. A play (or batch) in which a host
//! failed is the last one: what comes later may rely on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
};

use serde::Serialize;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{
    Event,
    model::{Play, Task},
    project::Project,
    worker::{self, HostState},
};
use crate::{
    error::{Error, Result},
    inventory::{Host, HostId, Inventory, Role, magic_vars, select},
    ssh::Fleet,
    stop,
    template::{Renderer, Vars},
};

/// A future that can be kept in a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// In which order the hosts of a rolling play go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// hosts that serve nothing now: all at once, first
    pub first: Vec<HostId>,
    /// then one after the other, with the gate between them
    pub then: Vec<HostId>,
}

/// Decides when a host may be restarted and when it is back.
pub trait Gate: Send + Sync {
    /// In which order hosts of a role are restarted; an error where that cannot be found out.
    fn order(&self, role: Role, hosts: Vec<HostId>) -> Boxed<'_, Result<Order>>;
    /// Whether a host may stop now; waits for that.
    fn before(&self, id: HostId) -> Boxed<'_, Result<()>>;
    /// Waits until a host is back.
    fn after(&self, id: HostId) -> Boxed<'_, Result<()>>;
}

/// How a run is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// compare, do not act
    pub check: bool,
    /// only tasks with one of these tags
    pub tags: Vec<String>,
    /// no tasks with one of these tags
    pub skip_tags: Vec<String>,
    /// variables that win over all others
    pub extra_vars: Vars,
    /// only hosts of this pattern
    pub limit: Option<String>,
    /// hosts at a time, 0 for all
    pub forks: usize,
}

/// What became of the tasks of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub ok: usize,
    pub changed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub ignored: usize,
    pub unreachable: usize,
}

/// What became of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recap {
    /// by host name
    pub hosts: BTreeMap<String, Counts>,
    /// notified handlers that did not run because their host failed or the run was interrupted: (host, handler)
    pub pending_handlers: Vec<(String, String)>,
}

impl Recap {
    /// Whether a host failed or could not be reached.
    pub fn failed(&self) -> bool {
        self.hosts.values().any(|c| c.failed + c.unreachable > 0)
    }
    /// Changes on all hosts.
    pub fn changed(&self) -> usize {
        self.hosts.values().map(|c| c.changed).sum()
    }
    /// Adds another run's.
    pub fn add(&mut self, other: Recap) {
        for (host, c) in other.hosts {
            let mine = self.hosts.entry(host).or_default();
            mine.ok += c.ok;
            mine.changed += c.changed;
            mine.failed += c.failed;
            mine.skipped += c.skipped;
            mine.ignored += c.ignored;
            mine.unreachable += c.unreachable;
        }
        self.pending_handlers.extend(other.pending_handlers);
    }
}

/// Everything that workers share.
pub struct Shared {
    /// the inventory
    pub inventory: Inventory,
    /// where files come from
    pub project: Project,
    /// the hosts; `None` where there are none yet
    pub fleet: Option<Arc<Fleet>>,
    /// hosts that do not exist yet (in check mode): they are taken to be empty
    pub absent: HashSet<HostId>,
    /// hosts that exist and cannot be looked at (in check mode): they are left out
    pub unseen: HashSet<HostId>,
    /// how the run is to be
    pub options: Options,
    /// variables of each host, in order of precedence up to its own
    pub host_vars: BTreeMap<HostId, Vars>,
    /// who is told
    pub events: mpsc::UnboundedSender<Event>,
    /// set when the user wants to stop after the task in hand
    pub interrupted: Arc<AtomicBool>,
}

/// Runs playbooks.
pub struct Runner {
    shared: Arc<Shared>,
    gate: Option<Arc<dyn Gate>>,
    states: BTreeMap<HostId, Arc<Mutex<HostState>>>,
}

/// What a host did in a play.
struct Ended {
    id: HostId,
    counts: Counts,
    pending: Vec<String>,
}

impl Runner {
    /// A runner. `common` are variables below those of the inventory, `addresses` each host's address.
    pub fn new(mut shared: Shared, common: &Vars, addresses: &BTreeMap<HostId, Vars>, gate: Option<Arc<dyn Gate>>) -> Self {
        let mut hostvars = Vars::new();
        for host in &shared.inventory.hosts {
            let address = addresses.get(&host.id).cloned().unwrap_or_default();
            // Who a host is, no variable of the user's changes, as in Ansible.
            let mut magic = magic_vars(&shared.inventory, host);
            let mut v = common.clone();
            v.extend(address.clone());
            v.extend(shared.inventory.vars.clone());
            v.extend(host.vars.clone());
            v.extend(magic.clone());
            // What others see of a host: its own variables, and who it is.
            magic.remove("groups");
            let mut given = shared.inventory.vars.clone();
            given.extend(host.vars.clone());
            let mut seen = address;
            seen.extend(rendered(given, &v, &shared.options));
            seen.extend(magic);
            hostvars.insert(host.name.clone(), seen.into());
            shared.host_vars.insert(host.id, v);
        }
        for v in shared.host_vars.values_mut() {
            v.insert("hostvars".into(), hostvars.clone().into());
            v.insert("ansible_check_mode".into(), shared.options.check.into());
        }
        let states = shared.inventory.hosts.iter().map(|h| (h.id, Arc::default())).collect();
        Self { shared: Arc::new(shared), gate, states }
    }

    fn stopped(&self) -> bool {
        stop::asked(&self.shared.interrupted)
    }

    /// Runs plays in order.
    pub async fn run(&self, plays: &[Play]) -> Result<Recap> {
        let mut recap = Recap::default();
        for play in plays {
            let hosts = self.hosts_of(play)?;
            let _ = self.shared.events.send(Event::Play { name: play.name.clone(), hosts: hosts.len() });
            if hosts.is_empty() {
                continue;
            }
            self.play(play, &hosts, &mut recap).await?;
            if recap.failed() {
                break;
            }
            if self.stopped() {
                return Err(self.interrupted(&recap));
            }
        }
        Ok(recap)
    }

    fn hosts_of(&self, play: &Play) -> Result<Vec<Host>> {
        let at_play = |e: Error| {
            if e.place.is_none() { e.at(play.node.place()) } else { e }
        };
        let mut hosts: Vec<Host> = select(&self.shared.inventory, &play.hosts).map_err(at_play)?.into_iter().cloned().collect();
        if let Some(limit) = &self.shared.options.limit {
            let allowed: BTreeSet<HostId> = select(&self.shared.inventory, limit)?.into_iter().map(|h| h.id).collect();
            hosts.retain(|h| allowed.contains(&h.id));
        }
        hosts.retain(|h| !self.shared.unseen.contains(&h.id));
        Ok(hosts)
    }

    async fn play(&self, play: &Play, hosts: &[Host], recap: &mut Recap) -> Result<()> {
        if play.rolling && !self.shared.options.check {
            return self.rolling(play, hosts, recap).await;
        }
        let mut rest = hosts;
        let mut round = 0;
        while !rest.is_empty() {
            let size = match (play.serial.get(round), play.serial.last()) {
                (Some(s), _) | (None, Some(s)) => s.of(hosts.len()),
                (None, None) => rest.len(),
            };
            let (batch, later) = rest.split_at(size.min(rest.len()));
            self.batch(play, batch, false, recap).await;
            if recap.failed() || self.stopped() {
                break;
            }
            rest = later;
            round += 1;
        }
        Ok(())
    }

    /// First looks on all hosts what would change; then only those hosts go, in the gate's order.
    async fn rolling(&self, play: &Play, hosts: &[Host], recap: &mut Recap) -> Result<()> {
        let mut look = Recap::default();
        self.batch(play, hosts, true, &mut look).await;
        // Not all was looked at: what is due is not known.
        if self.stopped() {
            return Err(self.interrupted(recap));
        }
        let due: Vec<Host> =
            hosts.iter().filter(|h| look.hosts.get(&h.name).is_none_or(|c| c.changed + c.failed + c.unreachable > 0)).cloned().collect();
        for host in hosts.iter().filter(|h| !due.iter().any(|d| d.id == h.id)) {
            recap.hosts.entry(host.name.clone()).or_default().ok += look.hosts.get(&host.name).map_or(0, |c| c.ok);
        }
        let Some(role) = due.first().map(|h| h.id.role) else {
            return Ok(());
        };
        let ids: Vec<HostId> = due.iter().map(|h| h.id).collect();
        let order = match &self.gate {
            Some(gate) => gate.order(role, ids).await.map_err(|e| e.context(format!("the roll of the {} did not begin", role.group())))?,
            None => Order { first: Vec::new(), then: ids },
        };
        let first: Vec<Host> = due.iter().filter(|h| order.first.contains(&h.id)).cloned().collect();
        if !first.is_empty() {
            self.batch(play, &first, false, recap).await;
            if recap.failed() || order.then.is_empty() {
                return Ok(());
            }
        }
        let ids = order.then;
        for id in ids {
            let Some(host) = due.iter().find(|h| h.id == id) else {
                continue;
            };
            if self.stopped() {
                return Err(self.interrupted(recap));
            }
            if let Some(gate) = &self.gate {
                self.note(format!("{}: may it stop?", host.name));
                gate.before(id).await.map_err(|e| e.context(format!("the roll stopped before {}", host.name)))?;
            }
            self.batch(play, std::slice::from_ref(host), false, recap).await;
            if recap.failed() {
                return Ok(());
            }
            if let Some(gate) = &self.gate {
                self.note(format!("{}: waiting until it is back", host.name));
                gate.after(id).await.map_err(|e| e.context(format!("the roll stopped after {}", host.name)))?;
            }
        }
        Ok(())
    }

    /// That the user stopped the run; handlers that were notified and did not run are named.
    fn interrupted(&self, recap: &Recap) -> Error {
        for (host, handler) in &recap.pending_handlers {
            self.note(format!("handler `{handler}` was notified on {host} and did not run"));
        }
        stop::error()
    }

    fn note(&self, text: String) {
        let _ = self.shared.events.send(Event::Note { text });
    }

    /// Hosts side by side. `look` only compares, silently.
    async fn batch(&self, play: &Play, hosts: &[Host], look: bool, recap: &mut Recap) {
        let limit = Arc::new(Semaphore::new(if self.shared.options.forks == 0 { hosts.len().max(1) } else { self.shared.options.forks }));
        let mut running = tokio::task::JoinSet::new();
        let play = Arc::new(play.clone());
        for host in hosts {
            let (shared, play, host, limit) = (self.shared.clone(), play.clone(), host.clone(), limit.clone());
            let Some(state) = self.states.get(&host.id).cloned() else {
                continue;
            };
            running.spawn(async move {
                let _permit = limit.acquire_owned().await;
                let mut state = state.lock().await;
                if look {
                    // What is only looked at leaves nothing behind.
                    let mut copy = state.clone();
                    let (counts, pending) = worker::play(&shared, &play, &host, &mut copy, true).await;
                    return Ended { id: host.id, counts, pending };
                }
                let _ = shared.events.send(Event::Host { host: host.name.clone(), play: play.name.clone() });
                let (counts, pending) = worker::play(&shared, &play, &host, &mut state, false).await;
                Ended { id: host.id, counts, pending }
            });
        }
        while let Some(ended) = running.join_next().await {
            let ended = match ended {
                Ok(e) => e,
                Err(e) => {
                    self.note(format!("a worker ended unexpectedly: {e}"));
                    continue;
                }
            };
            let name = hosts.iter().find(|h| h.id == ended.id).map(|h| h.name.clone()).unwrap_or_default();
            let pending_handlers = ended.pending.into_iter().map(|p| (name.clone(), p)).collect();
            recap.add(Recap { hosts: BTreeMap::from([(name, ended.counts)]), pending_handlers });
        }
        // A worker that panicked left no counts: its host counts as failed.
        for host in hosts {
            recap.hosts.entry(host.name.clone()).or_insert(Counts { failed: 1, ..Counts::default() });
        }
    }
}

/// What others see of what was given for a host, rendered with the host's own variables. What needs more is left out.
fn rendered(given: Vars, own: &Vars, options: &Options) -> Vars {
    let mut vars = own.clone();
    vars.insert("ansible_check_mode".into(), options.check.into());
    vars.extend(options.extra_vars.clone());
    let Ok(renderer) = Renderer::new(&vars) else {
        return Vars::new();
    };
    let value = |k: &String, v| renderer.value(options.extra_vars.get(k).unwrap_or(&v)).ok();
    given.into_iter().filter_map(|(k, v)| value(&k, v).map(|v| (k, v))).collect()
}

/// Whether a task is wanted by its tags.
pub fn wanted(task: &Task, play: &Play, options: &Options) -> bool {
    let has = |t: &str| task.tags.iter().chain(&play.tags).any(|x| x == t);
    let skipped = options.skip_tags.iter().any(|t| has(t) || (t == "all" && !has("always")));
    let picked = if options.tags.is_empty() {
        !has("never")
    } else {
        has("always") || options.tags.iter().any(|t| has(t) || (t == "all" && !has("never")))
    };
    picked && !skipped
}
