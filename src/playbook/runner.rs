//! The dispatcher: plays in order, hosts of a play side by side or in batches, rolling plays under a gate.
//!
//! Within a play hosts do not wait for one another; between plays they do. A host that failed takes no part in what comes later;
//! without `keep_going` nothing comes later.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, atomic::AtomicBool},
};

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{
    lockstep::{Lockstep, Member},
    model::{Play, Task},
    worker::{self, HostState},
};
use crate::{
    error::{Error, Kind, Result},
    events::{Event, Level},
    inventory::{Host, HostId, Inventory, Role, common_magic_vars, magic_vars, own_vars, select},
    project::Project,
    rolling::{self, Gate},
    ssh::Fleet,
    stop,
    template::{Hosts, HostsForTera, Layer, Renderer, Vars},
};

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
    /// when a host fails, go on with the others, as Ansible does; otherwise the play is the last one, since later ones may rely
    /// on it
    pub keep_going: bool,
}

/// Variables of a host before facts are gathered.
#[derive(Debug, Clone, Default)]
pub struct HostVars {
    /// those that others win over: defaults, and the inventory's up to the host's own
    pub written: Vec<Layer>,
    /// those that nothing wins over: the host's identity, and what all hosts have in common
    pub special: Vec<Layer>,
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
    pub rescued: usize,
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
    /// Whether one host failed or could not be reached.
    pub fn failed_on(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|c| c.failed + c.unreachable > 0)
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
            mine.rescued += c.rescued;
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
    /// variables of each host, as the runner makes them
    pub host_vars: BTreeMap<HostId, HostVars>,
    /// variables of all hosts, as `hostvars` shows them
    pub hosts: Arc<Hosts>,
    /// what only Tera's templates see
    pub for_tera: Arc<HostsForTera>,
    /// receiver of events
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
    /// A runner. `common` are Septet's own variables for all hosts, `of_host` those of each, its address among them. They are below
    /// `septet.`, which nothing wins over, and under their bare names, which everything wins over.
    pub fn new(mut shared: Shared, common: &Vars, of_host: &BTreeMap<HostId, Vars>, gate: Option<Arc<dyn Gate>>) -> Self {
        let given = Layer::written(shared.inventory.vars.clone());
        let extra = Layer::written(shared.options.extra_vars.clone());
        let mut in_common = common_magic_vars(&shared.inventory);
        in_common.insert("ansible_check_mode".into(), shared.options.check.into());
        let (common_layer, in_common) = (Layer::written(common.clone()), Layer::shared(in_common));
        for host in &shared.inventory.hosts {
            let mut own = of_host.get(&host.id).cloned().unwrap_or_default();
            own.extend(own_vars(&shared.inventory, host));
            let mut septet = common.clone();
            septet.extend(own.clone());
            let mut identity = magic_vars(&shared.inventory, host);
            identity.insert("septet".into(), septet.into());
            let written = vec![common_layer.clone(), Layer::written(own), given.clone(), Layer::written(host.vars.clone())];
            let special = vec![in_common.clone(), Layer::written(identity)];
            shared.hosts.set(&host.name, [written.as_slice(), std::slice::from_ref(&extra), &special].concat());
            shared.host_vars.insert(host.id, HostVars { written, special });
        }
        shared.for_tera = Arc::new(for_tera(&shared, given, extra));
        let states = shared.inventory.hosts.iter().map(|h| (h.id, Arc::default())).collect();
        Self { shared: Arc::new(shared), gate, states }
    }

    fn stopped(&self) -> bool {
        stop::asked(&self.shared.interrupted)
    }

    /// Runs plays in order. A host that fails takes no part in later ones; the run goes on with the others, as in Ansible, unless
    /// the play or the run says that a failure ends it.
    pub async fn run(&self, plays: &[Play]) -> Result<Recap> {
        // A pattern that names nothing is an error before the first host is touched.
        let selected = plays.iter().map(|p| self.hosts_of(p)).collect::<Result<Vec<_>>>()?;
        let mut recap = Recap::default();
        for (play, mut hosts) in plays.iter().zip(selected) {
            hosts.retain(|h| !recap.failed_on(&h.name));
            let _ = self.shared.events.send(Event::Play { name: play.name.clone(), hosts: hosts.len() });
            if hosts.is_empty() {
                continue;
            }
            let whole = self.play(play, &hosts, &mut recap).await?;
            let fatal = !whole || play.any_errors_fatal || !self.shared.options.keep_going || play.rolling;
            if recap.failed() && (fatal || hosts.iter().all(|h| recap.failed_on(&h.name))) {
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

    /// Whether all batches of the play ran. As in Ansible: when all hosts of one have failed, the run ends.
    async fn play(&self, play: &Play, hosts: &[Host], recap: &mut Recap) -> Result<bool> {
        if play.rolling && !self.shared.options.check {
            self.rolling(play, hosts, recap).await?;
            return Ok(true);
        }
        let mut rest = hosts;
        let mut round = 0;
        while !rest.is_empty() {
            let size = match (play.serial.get(round), play.serial.last()) {
                (Some(s), _) | (None, Some(s)) => s.of(hosts.len()),
                (None, None) => rest.len(),
            };
            let (batch, later) = rest.split_at(size.min(rest.len()));
            self.batch(play, (hosts, batch), false, recap).await;
            let fatal = play.any_errors_fatal || !self.shared.options.keep_going;
            let all = batch.iter().all(|h| recap.failed_on(&h.name));
            if all || (fatal && batch.iter().any(|h| recap.failed_on(&h.name))) || self.stopped() {
                return Ok(false);
            }
            rest = later;
            round += 1;
        }
        Ok(true)
    }

    /// First looks on all hosts what would change; then only those hosts go, in the gate's order.
    async fn rolling(&self, play: &Play, hosts: &[Host], recap: &mut Recap) -> Result<()> {
        let mut preview = Recap::default();
        self.batch(play, (hosts, hosts), true, &mut preview).await;
        // Not all was looked at: what is due is not known.
        if self.stopped() {
            return Err(self.interrupted(recap));
        }
        let due: Vec<Host> =
            hosts.iter().filter(|h| preview.hosts.get(&h.name).is_none_or(|c| c.changed + c.failed + c.unreachable > 0)).cloned().collect();
        for host in hosts.iter().filter(|h| !due.iter().any(|d| d.id == h.id)) {
            recap.hosts.entry(host.name.clone()).or_default().ok += preview.hosts.get(&host.name).map_or(0, |c| c.ok);
        }
        // Each role has its own gate: the brokers' gate does not protect the coordinators.
        for role in Role::ALL {
            let of_role: Vec<Host> = due.iter().filter(|h| h.id.role() == role).cloned().collect();
            if !of_role.is_empty() && !self.roll(play, role, &of_role, recap).await? {
                break;
            }
        }
        Ok(())
    }

    /// Rolls over the hosts of one role; whether all went well.
    async fn roll(&self, play: &Play, role: Role, due: &[Host], recap: &mut Recap) -> Result<bool> {
        let ids = due.iter().map(|h| h.id).collect();
        let mut work = RollingPlay { runner: self, play, due, recap };
        match rolling::roll(&mut work, role, ids, &self.shared.interrupted).await {
            Err(e) if e.kind == Kind::Interrupted => Err(self.interrupted(recap)),
            other => other,
        }
    }

    /// That the user stopped the run; handlers that were notified and did not run are named.
    fn interrupted(&self, recap: &Recap) -> Error {
        for (host, handler) in &recap.pending_handlers {
            self.tell(Event::PendingHandler { host: host.clone(), handler: handler.clone() });
        }
        stop::error()
    }

    fn tell(&self, event: Event) {
        let _ = self.shared.events.send(event);
    }

    /// Some of a play's hosts side by side. `dry_run`: compare only, without events.
    async fn batch(&self, play: &Play, (all, hosts): (&[Host], &[Host]), dry_run: bool, recap: &mut Recap) {
        let names = |hosts: &[Host]| hosts.iter().map(|h| h.name.clone()).collect::<Vec<_>>();
        let part = Arc::new(worker::Part::new(play, &names(all), &names(hosts), &self.shared.options.extra_vars, dry_run));
        let limit = Arc::new(Semaphore::new(if self.shared.options.forks == 0 { hosts.len().max(1) } else { self.shared.options.forks }));
        let mut running = tokio::task::JoinSet::new();
        let play = Arc::new(play.clone());
        let together = play.any_errors_fatal && hosts.len() > 1;
        let lockstep = together.then(|| Arc::new(Lockstep::new(hosts.iter().map(|h| h.id), limit.clone())));
        for host in hosts {
            let (shared, play, host, limit) = (self.shared.clone(), play.clone(), host.clone(), limit.clone());
            let (part, member) = (part.clone(), lockstep.clone().map(|l| Member::new(l, host.id)));
            let Some(state) = self.states.get(&host.id).cloned() else {
                continue;
            };
            running.spawn(async move {
                // In lockstep a host holds a permit for each task.
                let _permit = if member.is_some() { None } else { limit.acquire_owned().await.ok() };
                let mut state = state.lock().await;
                if dry_run {
                    // What is only looked at leaves nothing behind.
                    let mut copy = state.clone();
                    let (counts, pending) = worker::play(&shared, &play, &part, &host, &mut copy, member).await;
                    return Ended { id: host.id, counts, pending };
                }
                let _ = shared.events.send(Event::Host { host: host.name.clone(), play: play.name.clone() });
                let (counts, pending) = worker::play(&shared, &play, &part, &host, &mut state, member).await;
                if let Some(given) = shared.host_vars.get(&host.id) {
                    let learnt = [state.facts(), state.registered(), part.extra()];
                    shared.hosts.set(&host.name, [&given.written, learnt.as_slice(), &given.special].concat());
                }
                Ended { id: host.id, counts, pending }
            });
        }
        while let Some(ended) = running.join_next().await {
            let ended = match ended {
                Ok(e) => e,
                Err(e) => {
                    self.tell(Event::Note { level: Level::Warning, text: format!("a worker ended unexpectedly: {e}") });
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

/// A rolling play on the hosts where it would change something.
struct RollingPlay<'a> {
    runner: &'a Runner,
    play: &'a Play,
    due: &'a [Host],
    recap: &'a mut Recap,
}

impl rolling::Work for RollingPlay<'_> {
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        self.runner.gate.clone()
    }
    fn name(&self, id: HostId) -> String {
        self.due.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn tell(&self, event: Event) {
        self.runner.tell(event);
    }
    fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let hosts: Vec<Host> = self.due.iter().filter(|h| hosts.contains(&h.id)).cloned().collect();
            self.runner.batch(self.play, (self.due, &hosts), false, self.recap).await;
            Ok(!self.recap.failed())
        })
    }
}

/// What Tera's templates see of other hosts, since they cannot ask: what was given for a host, and its identity, rendered with the
/// host's own variables. What needs more is left out.
fn for_tera(shared: &Shared, given: Layer, extra: Layer) -> HostsForTera {
    let with_vars = |h: &Host| shared.host_vars.get(&h.id).map(|vars| (h.name.clone(), vars.clone()));
    let hosts: Vec<(String, HostVars)> = shared.inventory.hosts.iter().filter_map(with_vars).collect();
    HostsForTera::new(move || {
        let of_host = |(name, vars): &(String, HostVars)| {
            let renderer = Renderer::over([vars.written.as_slice(), std::slice::from_ref(&extra), &vars.special].concat());
            let own = vars.written.last().into_iter().flat_map(|l| l.vars());
            let identity = vars.special.last().into_iter().flat_map(|l| l.vars());
            let identity = identity.filter(|(k, _)| matches!(k.as_str(), "septet" | "inventory_hostname"));
            let mut all = Vars::new();
            for (k, v) in given.vars().iter().chain(own).chain(identity) {
                let rendered = match v {
                    // Of Septet's own, what cannot be rendered here is left out one by one.
                    Value::Object(o) if k == "septet" => {
                        Some(Value::Object(o.iter().filter_map(|(k, v)| renderer.value(v).ok().map(|v| (k.clone(), v))).collect()))
                    }
                    v => renderer.value(extra.vars().get(k).unwrap_or(v)).ok(),
                };
                match rendered {
                    Some(value) => all.insert(k.clone(), value),
                    None => all.remove(k),
                };
            }
            (name.clone(), Value::Object(all))
        };
        Value::Object(hosts.iter().map(of_host).collect())
    })
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
