//! `plan`: what `up` would do, as a value: the provider's steps, then what the playbook would change on each host, found in check mode.
//! `up --plan` makes it again, and goes on only if it is the same.
//!
//! Invariant: nothing is changed on a provider or a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Access, Cluster,
    configure::{archives, play, succeeded, unseen},
    converge::preflight,
    lease, names, protocols,
    up::{look_before, observe, other_names, warn, warn_of_twins},
};
use crate::{
    clock, engine,
    engine::bundle::Architecture,
    error::{Error, Result},
    events::{Event, Sink, TaskStatus},
    inventory::{Engine, Host, HostId, Role},
    observed::{HostState, Observed},
    plan::{self, Basis, Digest, Order, Plan, PlanFile, Reason, StageKind, Step},
    playbook::{Recap, model::Play, parse},
    provider::{Check, Estimate},
    releases,
    report::{Human, Reporter},
};

/// What `up` would do.
pub struct Planned {
    /// whether the provider could do it
    pub checks: Vec<Check>,
    /// what the cluster would cost
    pub estimate: Option<Estimate>,
    /// all that would be changed, with what it rests on
    pub file: PlanFile,
    /// hosts that exist and could not be looked at
    pub unseen: Vec<String>,
    /// the hosts' changes
    pub recap: Recap,
    /// hosts that were looked at and stay as they are
    pub left: Vec<String>,
    /// names of hosts from before a rename, or from one that was cut off; removed once nothing uses them
    pub old_names: BTreeSet<String>,
}

impl Planned {
    /// Whether anything would change.
    pub fn pending(&self) -> bool {
        !self.file.plan().is_empty() || self.recap.changed() > 0 || !self.old_names.is_empty()
    }

    /// Steps of the provider, and keys that would be added.
    pub fn of_provider(&self) -> usize {
        let plan = self.file.plan();
        plan.of_provider().all().count() + plan.of(&StageKind::Keys).chain(plan.of(&StageKind::Lease)).count()
    }
}

/// A task that changed something, or would.
#[derive(Debug, Clone)]
struct Change {
    play: String,
    host: String,
    task: String,
    place: String,
    item: Option<String>,
    diff: Option<Digest>,
}

/// Remembers what tasks change.
#[derive(Default)]
pub struct ChangeLog(Mutex<(String, Vec<Change>)>);

impl Sink for ChangeLog {
    fn event(&self, event: &Event) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Play { name, .. } => log.0.clone_from(name),
            Event::Task { host, task, place, item, status: TaskStatus::Changed, diff, .. } => {
                let play = log.0.clone();
                log.1.push(Change {
                    play,
                    host: host.clone(),
                    task: task.clone(),
                    place: place.clone(),
                    item: item.clone(),
                    diff: diff.as_ref().map(Digest::of),
                });
            }
            _ => {}
        }
    }
}

impl ChangeLog {
    /// Listens to a run's events from now on.
    pub fn listen(reporter: &Reporter) -> Arc<Self> {
        let log = Arc::new(Self::default());
        reporter.add(log.clone());
        log
    }

    fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Names changes that a plan did not foresee, as a task can make that depends on what another one found.
    pub fn warn_beyond(&self, cluster: &Cluster, plan: &Plan) {
        for c in self.changes() {
            let id = cluster.inventory.hosts.iter().find(|h| h.name == c.host).map(|h| h.id);
            if id.is_some_and(|id| !plan.foresees(id, &c.place, c.item.as_deref())) {
                cluster.reporter.warn(&format!("not in the plan, and changed: {} on {} ({})", c.task, c.host, c.place));
            }
        }
    }
}

/// Adds to a plan what is done on hosts: whole configurations of hosts that are new or cannot be seen, and tasks on the others.
fn add_hosts(plan: &mut Plan, hosts: &[Host], whole: &BTreeMap<HostId, Reason>, plays: &[Play], changes: &[Change]) {
    for host in hosts {
        if let Some(reason) = whole.get(&host.id) {
            plan.add(StageKind::Configure, Step::Configure { id: host.id, name: host.name.clone() }, *reason);
        }
    }
    for play in plays {
        let (kind, order) = (StageKind::Play { name: play.name.clone() }, if play.rolling { Order::Rolling } else { Order::Parallel });
        // Hosts work side by side, so their changes come in any order; those of one host in the order of its tasks.
        for host in hosts.iter().filter(|h| !whole.contains_key(&h.id)) {
            for c in changes.iter().filter(|c| c.play == play.name && c.host == host.name) {
                let step = Step::Task {
                    id: host.id,
                    name: host.name.clone(),
                    task: c.task.clone(),
                    place: c.place.clone(),
                    item: c.item.clone(),
                    diff: c.diff.clone().map(String::from),
                };
                plan.add_in(kind.clone(), order, step, Reason::Differs);
            }
        }
    }
}

/// What is deployed, by name, with its digest.
fn programs(cluster: &Cluster, observed: &Observed) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    let architectures: BTreeSet<Architecture> =
        cluster.inventory.hosts.iter().filter_map(|h| observed.host(h.id)?.architecture).chain([Architecture::NATIVE]).collect();
    for architecture in architectures {
        // Hosts of another architecture than this machine's may be all that there are.
        let Ok(bundle) = cluster.bundles.of(architecture) else { continue };
        let bundled = matches!(cluster.inventory.engine, Engine::Bundled);
        for (name, program) in [("agent", &bundle.agent), ("coordinator", &bundle.coordinator), ("broker", &bundle.broker)] {
            if bundled || name == "agent" {
                out.insert(format!("septet-{name} ({architecture})"), program.digest.clone());
            }
        }
    }
    if let Engine::Apache(a) = &cluster.inventory.engine {
        let archive = || cluster.archives.get("kafka_archive_sha256").and_then(|v| v.as_str()).map(str::to_owned);
        let digest = a.sha512.clone().or_else(|| releases::sha512(&a.version).map(str::to_owned)).or_else(archive);
        out.insert(format!("Apache Kafka {}", a.version), digest.unwrap_or_default());
        if let Some(java) = cluster.archives.get("java_archive_sha256").and_then(|v| v.as_str()) {
            out.insert("Java".into(), java.to_owned());
        }
    }
    Ok(out)
}

fn basis(cluster: &Cluster, observed: &Observed) -> Result<Basis> {
    let digest = |text: String| Digest::try_from(text).map_err(Error::failed);
    let options = &cluster.options;
    let options =
        serde_json::to_vec(&(&options.tags, &options.skip_tags, &options.extra_vars)).map_err(|e| Error::failed(e.to_string()))?;
    let (network, shape, hosts) = Basis::seen(observed);
    Ok(Basis {
        septet: env!("CARGO_PKG_VERSION").to_owned(),
        inventory: digest(cluster.inventory.digest.clone())?,
        playbooks: digest(cluster.project.digest()?)?,
        options: Digest::of(options),
        programs: programs(cluster, observed)?,
        network,
        shape,
        hosts,
    })
}

/// Goes on only if a plan that is made now is the one in the file.
pub(super) async fn hold_to(cluster: &mut Cluster, file: &PlanFile) -> Result<()> {
    // What it finds is shown once it is done.
    let reporter = cluster.reporter.clone();
    reporter.phase("compare with the plan");
    cluster.reporter = Arc::new(Reporter::of(Human::kept(false, false)));
    let now = preview(cluster).await;
    cluster.reporter = reporter;
    file.is_still(&now?.file)
}

/// What `up` would do, without doing it.
pub async fn preview(cluster: &mut Cluster) -> Result<Planned> {
    warn(cluster);
    let plays = parse::playbook(&cluster.project, engine::playbook(&cluster.inventory.engine))?;
    let observed = observe(cluster).await?;
    warn_of_twins(cluster, &observed);
    let mut plan = plan::plan(&cluster.inventory, &observed)?;
    cluster.archives = archives(cluster, false).await?;
    let cluster = &*cluster;
    let checks = preflight(&*cluster.provider, &plan, &observed).await?;
    lease::plan(&mut plan, &*cluster.provider, observed.uuid, cluster.inventory.ttl)?;
    cluster.reporter.checks(&checks, true);
    cluster.reporter.plan(&plan);
    if observed.uuid.is_none() {
        cluster.reporter.resources(&cluster.provider.resources(&cluster.inventory));
    }
    let estimate = cluster.provider.pricing().and_then(|p| p.estimate());
    if let Some(e) = &estimate {
        cluster.reporter.estimate(e);
    }
    let mut options = cluster.options.clone();
    options.check = true;
    // The way to every host is by the control host.
    let mut reachable = observed.hosts.iter().any(|h| h.id.role() == Role::Control && h.state == HostState::Running);
    let mut access = None;
    if reachable {
        let (opened, keys) = Access::new(cluster, observed.clone())?.look(cluster).await?;
        reachable = keys.is_empty();
        cluster.reporter.plan(&keys);
        plan.stages.extend(keys.stages);
        access = Some(opened).filter(|_| reachable);
    }
    let unseen: Vec<HostId> = unseen(&observed, reachable).map(|h| h.id).collect();
    let shown = |ids: &[HostId]| ids.iter().filter_map(|id| observed.host(*id)).map(|h| h.name.clone()).collect::<Vec<String>>();
    cluster.reporter.unseen(&shown(&unseen));
    let fleet = access.map(|a| a.fleet);
    if let Some(fleet) = &fleet {
        look_before(cluster, &observed, fleet).await?;
        for role in protocols::differing(cluster, &observed, fleet).await? {
            cluster.reporter.say(&format!("   {}", protocols::note(role)));
        }
    }
    let names = match &fleet {
        Some(fleet) => other_names(cluster, &observed, fleet).await?,
        None => names::observed(&cluster.inventory, &observed),
    };
    let old_names: BTreeSet<String> = names.values().flatten().cloned().collect();
    if !old_names.is_empty() {
        cluster.reporter.old_names(&old_names);
    }
    let log = ChangeLog::listen(&cluster.reporter);
    let recap = play(cluster, &observed, &names, fleet.clone(), &plays, options).await?;
    if let Some(fleet) = fleet {
        fleet.close().await;
    }
    let recap = succeeded(recap)?;
    let made: BTreeSet<HostId> =
        plan.making().filter(|s| matches!(s, Step::Create { .. } | Step::Replace { .. })).filter_map(Step::host).collect();
    let whole = cluster.inventory.hosts.iter().filter_map(|h| match (made.contains(&h.id), unseen.contains(&h.id)) {
        (true, _) => Some((h.id, Reason::NewHost)),
        (_, true) => Some((h.id, Reason::Unseen)),
        _ => None,
    });
    add_hosts(&mut plan, &cluster.inventory.hosts, &whole.collect(), &plays, &log.changes());
    let unseen = shown(&unseen);
    let stays = |h: &&Host| {
        let changes = recap.hosts.get(&h.name).is_some_and(|c| c.changed > 0) || plan.all().any(|s| s.host() == Some(h.id));
        observed.host(h.id).is_some_and(|o| !unseen.contains(&o.name)) && !changes
    };
    let left = cluster.inventory.hosts.iter().filter(stays).map(|h| h.name.clone()).collect();
    if !old_names.is_empty() {
        plan.add(StageKind::Names, Step::RemoveNames { names: old_names.clone() }, Reason::Renamed);
    }
    let made = clock::rfc3339(clock::now_ms());
    let file = PlanFile::new(&cluster.inventory.cluster, observed.uuid, basis(cluster, &observed)?, plan, made);
    Ok(Planned { checks, estimate, file, unseen, recap, left, old_names })
}
