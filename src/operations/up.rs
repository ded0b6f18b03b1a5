//! `up`: observe, plan, apply, configure, rename, check. Also `plan`, which stops before the first change, and
//! `run`, which runs any playbook against what exists.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Access, Cluster, Phases, RollingGate,
    access::not_there,
    authorized, locked,
    names::{self, OtherNames},
    precheck, protocols, resize, secret,
    steps::Steps,
};
use crate::{
    engine::{self, bundle::Architecture},
    error::{Error, Kind, Result},
    health::{Checker, Report},
    identity::ClusterId,
    inventory::{Engine, Host, HostId, Metadata, Role},
    observed::{HostState, Observed, ObservedHost},
    plan::{self, Plan, Step},
    playbook::{Gate, Options, Recap, Runner, model::Play, parse, runner::Shared},
    provider::{self, Check, EXTERNAL_PORT, Estimate, ProviderStats, Verdict},
    ssh::{Fleet, keys},
    state,
    template::Vars,
};

/// How long the cluster may take until it is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(90);

/// Shipped playbooks that start services.
const SERVICES: [&str; 4] = ["site.yml", "apache.yml", "coordinators.yml", "brokers.yml"];

/// What `up` did.
pub struct UpOutcome {
    /// the provider's changes
    pub steps: Vec<Step>,
    /// the hosts' changes
    pub recap: Recap,
    /// hosts that were given this state directory's key
    pub keys_added: usize,
    /// how the cluster is now
    pub report: Report,
    /// what exists now
    pub observed: Observed,
    /// how long it took
    pub phases: Phases,
    /// what the provider was asked
    pub provider: Option<ProviderStats>,
}

/// What `up` would do.
pub struct Planned {
    /// whether the provider could do it
    pub checks: Vec<Check>,
    /// what the cluster would cost
    pub estimate: Option<Estimate>,
    /// the provider's changes
    pub plan: Plan,
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
        !self.plan.is_empty() || self.recap.changed() > 0 || !self.old_names.is_empty()
    }
}

/// Variables of each host that come from what exists.
fn host_vars(cluster: &Cluster, observed: &Observed, names: &OtherNames) -> Result<BTreeMap<HostId, Vars>> {
    let mut out = BTreeMap::new();
    for host in &cluster.inventory.hosts {
        let is = observed.host(host.id);
        let bundle = cluster.bundles.of(is.and_then(|i| i.architecture).unwrap_or(Architecture::NATIVE))?;
        let mut v = engine::programs(bundle);
        if let Some(volume) = is.and_then(|i| i.data_volume.clone()) {
            v.insert("data_volume".into(), volume.into());
            if is.is_some_and(|i| i.data_is_new) {
                v.insert("data_volume_new".into(), true.into());
            }
        }
        let address = is.map(|i| i.address).or(observed.network.as_ref().and_then(|n| n.host(host.id)));
        v.insert("address".into(), address.map_or_else(|| "(not known yet)".into(), |a| a.to_string()).into());
        if let Some(outside) = is.filter(|_| host.id.role() == Role::Broker).and_then(|i| cluster.provider.outside(i, EXTERNAL_PORT)) {
            v.insert("external_listener".into(), outside.into());
        }
        // While a rename is under way, or was cut off, all names lead to the host.
        if let Some(old) = is.map(|i| i.name.clone()).filter(|n| *n != host.name) {
            v.insert("previous_name".into(), old.into());
        }
        if let Some(names) = names.get(&host.id) {
            v.insert("other_names".into(), json!(names));
        }
        out.insert(host.id, v);
    }
    Ok(out)
}

fn common(cluster: &Cluster, observed: &Observed) -> Vars {
    let mut v = engine::vars(&cluster.inventory, observed.uuid.map(|u| u.to_string()).as_deref());
    v.insert("external_port".into(), json!(EXTERNAL_PORT));
    v.extend(cluster.provider.lease().and_then(|l| l.expires()).map(|at| ("expires".to_owned(), at.into())));
    v.extend(cluster.archives.clone());
    v
}

/// Finds the archives that are deployed beside the bundle, or gets them; each was checked. Without `download`, Kafka's is left out where it
/// is not here; a Java's is needed to render units, so it is always fetched.
async fn archives(cluster: &Cluster, download: bool) -> Result<Vars> {
    let Engine::Apache(settings) = &cluster.inventory.engine else { return Ok(Vars::new()) };
    let (settings, reporter) = (settings.clone(), cluster.reporter.clone());
    let found = tokio::task::spawn_blocking(move || {
        let say = |text: String| reporter.say(&text);
        let kafka = engine::archive::kafka(&settings, download, &say)?;
        let java = settings.java.as_ref().map(|j| engine::archive::java(j, &settings.version, &say)).transpose()?;
        Ok::<_, Error>((kafka, java))
    });
    let (kafka, java) = found.await.map_err(|e| Error::failed(e.to_string()))??;
    let mut v = Vars::new();
    // What is not here yet has no digest: `plan` needs none.
    let unknown = "0".repeat(64);
    let (path, sha256) = kafka.map_or((String::new(), unknown), |a| (a.path.display().to_string(), a.sha256));
    v.insert("kafka_archive".into(), path.into());
    v.insert("kafka_archive_sha256".into(), sha256.into());
    if let Some(java) = java {
        v.insert("java_home".into(), format!("/opt/{}", java.top).into());
        v.insert("java_archive".into(), java.path.display().to_string().into());
        v.insert("java_archive_sha256".into(), java.sha256.into());
    }
    Ok(v)
}

/// Hosts that exist and cannot be looked at: they do not run, or nothing leads to them.
fn unseen(observed: &Observed, reachable: bool) -> impl Iterator<Item = &ObservedHost> {
    observed.hosts.iter().filter(move |h| h.state != HostState::Unfinished && (h.state != HostState::Running || !reachable))
}

/// Runs plays with the reporter listening.
async fn play(
    cluster: &Cluster,
    observed: &Observed,
    names: &OtherNames,
    fleet: Option<Arc<Fleet>>,
    plays: &[Play],
    options: Options,
) -> Result<Recap> {
    let (events, told) = mpsc::unbounded_channel();
    let gate = fleet.clone().map(|fleet| {
        let (inventory, observed) = (cluster.inventory.clone(), observed.clone());
        let (reporter, interrupted) = (cluster.reporter.clone(), cluster.interrupted.clone());
        Arc::new(RollingGate { inventory, observed, fleet, reporter, interrupted }) as Arc<dyn Gate>
    });
    let all = || cluster.inventory.hosts.iter().map(|h| h.id).filter(|_| options.check);
    let is_new = |id: &HostId| observed.host(*id).is_none_or(|h| h.state == HostState::Unfinished);
    let absent: HashSet<HostId> = all().filter(is_new).collect();
    let unseen = match options.check {
        true => unseen(observed, fleet.is_some()).map(|h| h.id).collect(),
        false => HashSet::new(),
    };
    let named = |ids: &HashSet<HostId>| cluster.inventory.hosts.iter().filter(|h| ids.contains(&h.id)).map(|h| h.name.clone()).collect();
    cluster.reporter.of_cluster(&cluster.inventory.prefix, named(&absent));
    let shared = Shared {
        inventory: cluster.inventory.clone(),
        project: cluster.project.clone(),
        fleet,
        absent,
        unseen,
        options,
        host_vars: BTreeMap::new(),
        hosts: Arc::default(),
        for_tera: Arc::default(),
        events,
        interrupted: cluster.interrupted.clone(),
    };
    let mut common = common(cluster, observed);
    common.extend(secret::of_ensemble(&cluster.inventory, observed, shared.fleet.as_ref()).await);
    let runner = Runner::new(shared, &common, &host_vars(cluster, observed, names)?, gate);
    let listening = tokio::spawn(cluster.reporter.clone().listen(told));
    let result = runner.run(plays).await;
    drop(runner);
    let _ = listening.await;
    result
}

/// A run's counts, or which hosts it failed on.
fn succeeded(recap: Recap) -> Result<Recap> {
    if !recap.failed() {
        return Ok(recap);
    }
    let hosts: Vec<&str> = recap.hosts.iter().filter(|(_, c)| c.failed + c.unreachable > 0).map(|(h, _)| h.as_str()).collect();
    let mut e = Error::failed(format!("failed on {}", hosts.join(", ")));
    if !recap.pending_handlers.is_empty() {
        let names: Vec<String> = recap.pending_handlers.iter().map(|(h, n)| format!("{n} on {h}")).collect();
        e = e.hint(format!(
            "handlers that were notified did not run: {}; run them by hand, or make the task change again",
            names.join(", ")
        ));
    }
    Err(e)
}

fn interrupted(cluster: &Cluster) -> Result<()> {
    if cluster.interrupted.load(Ordering::SeqCst) {
        return Err(Error::failed("interrupted").kind(Kind::Interrupted));
    }
    Ok(())
}

/// What exists, with what of it is to be mended in place.
async fn observe(cluster: &Cluster) -> Result<Observed> {
    let mut observed = cluster.provider.observe().await?;
    if let Some(machines) = cluster.provider.machines() {
        observed.adjustments = machines.adjustments(&observed).await?;
    }
    Ok(observed)
}

fn makes_hosts(plan: &Plan) -> bool {
    plan.steps.iter().any(|s| matches!(s, Step::Create { .. } | Step::Replace { .. }))
}

/// Whether the provider can do what is planned; nothing is asked where little is.
async fn preflight(cluster: &Cluster, plan: &Plan, observed: &Observed) -> Result<Vec<Check>> {
    if !makes_hosts(plan) && plan.rolls.is_empty() {
        return Ok(Vec::new());
    }
    let steps: Vec<Step> = plan.all().cloned().collect();
    provider::machines(&*cluster.provider)?.preflight(observed, &steps).await
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

/// Does the provider's steps before hosts are configured.
async fn apply(cluster: &Cluster, plan: &Plan, observed: &Observed) -> Result<()> {
    let uuid = match observed.uuid {
        Some(u) => u,
        None => state::intended(&cluster.inventory.cluster)?,
    };
    // The key is on disk before the first host trusts it.
    let (key, _) = keys::cluster_key(uuid)?;
    let public_key = authorized::line(&key, uuid)?;
    steps(cluster, observed, uuid, &public_key, &|text| cluster.reporter.say(&text), &|step| cluster.reporter.step(step)).before(plan).await
}

fn steps<'a>(
    cluster: &'a Cluster,
    observed: &'a Observed,
    uuid: ClusterId,
    public_key: &'a str,
    say: &'a (dyn Fn(String) + Send + Sync),
    done: &'a (dyn Fn(&Step) + Send + Sync),
) -> Steps<'a> {
    let (provider, inventory, interrupted) = (&*cluster.provider, &cluster.inventory, &*cluster.interrupted);
    Steps { provider, inventory, observed, uuid, public_key, interrupted, say, done }
}

/// Makes the cluster match the inventory.
pub async fn up(cluster: &mut Cluster) -> Result<UpOutcome> {
    let (name, provider) = (cluster.inventory.cluster.clone(), cluster.provider.clone());
    cluster.reporter.phase("lock");
    locked(&name, &*provider, up_now(cluster)).await
}

/// Says what of the inventory has no effect, or more than one may think.
fn warn(cluster: &Cluster) {
    for line in engine::doubtful_keys(&cluster.inventory).into_iter().chain(cluster.provider.warnings()) {
        cluster.reporter.warn(&line);
    }
}

/// Names what another first run left under the cluster's name.
fn warn_of_twins(cluster: &Cluster, observed: &Observed) {
    for uuid in &observed.twins {
        let text = format!("another run left networks or volumes under this cluster's name: `down --uuid {uuid}` removes them");
        cluster.reporter.warn(&text);
    }
}

async fn up_now(cluster: &mut Cluster) -> Result<UpOutcome> {
    cluster.begin();
    warn(cluster);
    let plays = parse::playbook(&cluster.project, engine::playbook(&cluster.inventory.engine))?;
    let mut phases = Phases::default();
    let reporter = &cluster.reporter.clone();
    let mut observed = phases.time(reporter, "observe", observe(cluster)).await?;
    warn_of_twins(cluster, &observed);
    let plan = plan::plan(&cluster.inventory, &observed)?;
    interrupted(cluster)?;
    let begun = Instant::now();
    let checks = preflight(cluster, &plan, &observed).await?;
    if !checks.is_empty() {
        phases.add(reporter, "preflight", begun.elapsed());
        reporter.checks(&checks, false);
        passed(&checks)?;
    }
    if matches!(cluster.inventory.engine, Engine::Apache(_)) {
        cluster.archives = phases.time(reporter, "archive", archives(cluster, true)).await?;
    }
    let cluster = &*cluster;
    if makes_hosts(&plan) {
        let say = |text: String| reporter.say(&text);
        let how = phases.time(reporter, "image", provider::machines(&*cluster.provider)?.prepare(&say)).await?;
        reporter.detail(&format!("   hosts are made with: {how}"));
        interrupted(cluster)?;
    }
    if !plan.steps.is_empty() {
        let hosts = async {
            apply(cluster, &plan, &observed).await?;
            cluster.provider.settle().await
        };
        observed = phases.time(reporter, "hosts", hosts).await?;
    }
    let access = Access::new(cluster, observed)?;
    let mut access = phases.time(reporter, "connect", access.connect(cluster, true)).await?;
    let keys_added = access.planted.len();
    interrupted(cluster)?;
    if !plan.rolls.is_empty() {
        access = phases.time(reporter, "resize", resize::roll(cluster, &plan.rolls, access)).await?;
    }
    let mut observed = access.observed.clone();
    look_before(cluster, &observed, &access.fleet).await?;
    let names = other_names(cluster, &observed, &access.fleet).await?;
    let configure =
        async { succeeded(play(cluster, &observed, &names, Some(access.fleet.clone()), &plays, cluster.options.clone()).await?) };
    let mut recap = phases.time(reporter, "configure", configure).await?;
    note_formatted(cluster, &access).await?;
    let partial = !(cluster.options.tags.is_empty() && cluster.options.skip_tags.is_empty());
    let mut steps: Vec<Step> = plan.all().cloned().collect();
    if partial && !names.is_empty() {
        // Tasks that were left out may be those that render and restart.
        steps.retain(|s| !matches!(s, Step::Rename { .. }));
        reporter.say("hosts keep their earlier names until a run without --tags and --skip-tags has finished the rename");
    } else if !names.is_empty() {
        let (observed_now, more) = phases.time(reporter, "rename", rename_hosts(cluster, &plan, &plays, &observed, &access)).await?;
        observed = observed_now;
        recap.add(more);
    }
    let fleet = access.fleet.clone();
    let report = phases.time(reporter, "health", wait_healthy(cluster, &observed, &fleet)).await?;
    // Names may have changed since the files for OpenSSH were written.
    Access::new(cluster, observed.clone())?;
    fleet.close().await;
    Ok(UpOutcome { steps, recap, keys_added, report, observed, phases, provider: cluster.provider.stats() })
}

/// Refuses what would lose data, and warns of what is lost, before a service is touched.
async fn look_before(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<()> {
    for warning in precheck::check(cluster, observed, fleet).await? {
        cluster.reporter.warn(&warning);
    }
    Ok(())
}

/// Data volumes that are mounted now, and of which that was not known, are never formatted again.
async fn note_formatted(cluster: &Cluster, access: &Access) -> Result<()> {
    let new = access.observed.hosts.iter().filter(|h| h.data_volume.is_some() && h.data_is_new);
    let mounted = join_all(new.map(|h| async move {
        let ask = async { access.fleet.connection(h.id).await?.exec("mountpoint -q /data", &[], Duration::from_secs(30)).await };
        ask.await.is_ok_and(|out| out.code == Some(0)).then(|| h.clone())
    }));
    let mounted: Vec<ObservedHost> = mounted.await.into_iter().flatten().collect();
    provider::machines(&*cluster.provider)?.note_formatted(&mounted).await
}

/// All names of hosts beside the wanted ones: the provider's, and those that hosts keep from runs that were cut off.
async fn other_names(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<OtherNames> {
    let mut names = names::observed(&cluster.inventory, observed);
    names::merge(&mut names, names::kept(&cluster.inventory, observed, fleet).await?);
    Ok(names)
}

/// Every host serves under its wanted name: the provider's names follow, then all others go.
async fn rename_hosts(cluster: &Cluster, plan: &Plan, plays: &[Play], observed: &Observed, access: &Access) -> Result<(Observed, Recap)> {
    let (Some(uuid), Some(network)) = (observed.uuid, observed.network.clone()) else {
        return Err(not_there(&cluster.inventory));
    };
    let (say, done) = (|text: String| cluster.reporter.say(&text), |step: &Step| cluster.reporter.step(step));
    steps(cluster, observed, uuid, "", &say, &done).renames(plan, &network).await?;
    let observed = cluster.provider.settle().await?;
    let names = OtherNames::new();
    let recap = play(cluster, &observed, &names, Some(access.fleet.clone()), plays, cluster.options.clone()).await?;
    Ok((observed, succeeded(recap)?))
}

pub(super) async fn wait_healthy(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<Report> {
    let begun = Instant::now();
    let checker = Checker { inventory: &cluster.inventory, observed, fleet: Some(fleet) };
    loop {
        let report = checker.check().await;
        if report.healthy {
            return Ok(report);
        }
        interrupted(cluster)?;
        if begun.elapsed() > HEALTH_TIMEOUT {
            let lines: Vec<String> = report.problems.iter().map(|p| format!("{}: {}", p.host, p.reason)).collect();
            return Err(Error::failed(format!(
                "the cluster is not healthy after {} s:\n  {}",
                HEALTH_TIMEOUT.as_secs(),
                lines.join("\n  ")
            ))
            .kind(Kind::Unhealthy)
            .hint("`septet logs HOST` shows a host's log; `septet health` checks again"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What `up` would do, without doing it.
pub async fn preview(cluster: &mut Cluster) -> Result<Planned> {
    warn(cluster);
    let plays = parse::playbook(&cluster.project, engine::playbook(&cluster.inventory.engine))?;
    let observed = observe(cluster).await?;
    warn_of_twins(cluster, &observed);
    let plan = plan::plan(&cluster.inventory, &observed)?;
    cluster.archives = archives(cluster, false).await?;
    let cluster = &*cluster;
    let checks = preflight(cluster, &plan, &observed).await?;
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
    let reachable = observed.hosts.iter().any(|h| h.id.role() == Role::Control && h.state == HostState::Running);
    let unseen: Vec<String> = unseen(&observed, reachable).map(|h| h.name.clone()).collect();
    cluster.reporter.unseen(&unseen);
    let access = match reachable {
        true => Some(Access::new(cluster, observed.clone())?.connect(cluster, false).await?),
        false => None,
    };
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
    let recap = play(cluster, &observed, &names, fleet.clone(), &plays, options).await?;
    if let Some(fleet) = fleet {
        fleet.close().await;
    }
    let recap = succeeded(recap)?;
    let stays = |h: &&Host| {
        let changes = recap.hosts.get(&h.name).is_some_and(|c| c.changed > 0) || plan.all().any(|s| s.host() == Some(h.id));
        observed.host(h.id).is_some_and(|o| !unseen.contains(&o.name)) && !changes
    };
    let left = cluster.inventory.hosts.iter().filter(stays).map(|h| h.name.clone()).collect();
    Ok(Planned { checks, estimate, plan, unseen, recap, left, old_names })
}

/// Runs a playbook against the hosts that exist.
pub async fn run_playbook(cluster: &mut Cluster, name: &str) -> Result<Recap> {
    let plays = parse::playbook(&cluster.project, name)?;
    cluster.archives = archives(cluster, !cluster.options.check).await?;
    let cluster = &*cluster;
    let run = async {
        if !cluster.options.check {
            cluster.begin();
        }
        let observed = cluster.provider.observe().await?;
        let access = Access::new(cluster, observed)?.connect(cluster, !cluster.options.check).await?;
        if SERVICES.contains(&name) {
            look_before(cluster, &access.observed, &access.fleet).await?;
        }
        let names = other_names(cluster, &access.observed, &access.fleet).await?;
        let options = Options { keep_going: true, ..cluster.options.clone() };
        let recap = play(cluster, &access.observed, &names, Some(access.fleet.clone()), &plays, options).await;
        access.fleet.close().await;
        let recap = recap?;
        cluster.reporter.recap(&recap);
        succeeded(recap)
    };
    if cluster.options.check { run.await } else { locked(&cluster.inventory.cluster, &*cluster.provider, run).await }
}

/// Where clients find the cluster: from the user's machine where the provider lets them in there, else inside of its network.
pub fn endpoints(cluster: &Cluster, observed: &Observed) -> Value {
    let of = |role: Role, outer: u16, inner: u16| {
        let hosts = observed.hosts.iter().filter(|h| h.id.role() == role);
        let list: Vec<String> =
            hosts.map(|h| cluster.provider.outside(h, outer).unwrap_or_else(|| format!("{}:{inner}", h.address))).collect();
        list.join(",")
    };
    let mut out = json!({ "bootstrap.servers": of(Role::Broker, EXTERNAL_PORT, 9092) });
    if cluster.inventory.engine.metadata() == Metadata::Zookeeper {
        out["zookeeper.connect"] = of(Role::Coordinator, 2181, 2181).into();
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::playbook::runner::Counts;

    #[test]
    fn handlers_that_did_not_run_are_named_with_their_hosts() {
        let failed = Counts { failed: 1, ..Counts::default() };
        let hosts = [("a".to_owned(), failed), ("b".to_owned(), Counts::default())].into_iter().collect();
        let e = succeeded(Recap { hosts, pending_handlers: vec![("a".into(), "restart web".into())] }).unwrap_err();
        assert_eq!(e.message, "failed on a");
        assert!(e.hint.as_ref().is_some_and(|h| h.contains("restart web on a; run them by hand")), "{e}");
    }
}
