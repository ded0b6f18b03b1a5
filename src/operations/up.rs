//! `up`: observe, plan, apply, configure, rename, check; or exactly what a plan file says, if that is what it would do now.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Access, Cluster, Phases,
    access::not_there,
    authorized,
    configure::{archives, play, succeeded},
    lease, locked,
    names::{self, OtherNames},
    precheck,
    preview::{ChangeLog, hold_to},
    resize,
    steps::Steps,
};
use crate::{
    clock, engine,
    error::{Error, Kind, Result},
    health::{Checker, Report},
    identity::ClusterId,
    inventory::{Engine, Metadata, Role},
    observed::{Observed, ObservedHost},
    plan::{self, Plan, PlanFile, StageKind, Step},
    playbook::{Recap, model::Play, parse},
    provider::{self, Check, EXTERNAL_PORT, ProviderStats, Verdict},
    ssh::{Fleet, keys},
    state,
};

/// How long the cluster may take until it is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(90);

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

fn interrupted(cluster: &Cluster) -> Result<()> {
    if cluster.interrupted.load(Ordering::SeqCst) {
        return Err(Error::failed("interrupted").kind(Kind::Interrupted));
    }
    Ok(())
}

/// What exists, with what of it is to be mended in place.
pub(super) async fn observe(cluster: &Cluster) -> Result<Observed> {
    let mut observed = cluster.provider.observe().await?;
    if let Some(machines) = cluster.provider.machines() {
        observed.adjustments = machines.adjustments(&observed).await?;
    }
    Ok(observed)
}

fn makes_hosts(plan: &Plan) -> bool {
    plan.making().any(|s| matches!(s, Step::Create { .. } | Step::Replace { .. }))
}

/// Whether the provider can do what is planned; nothing is asked where little is.
pub(super) async fn preflight(cluster: &Cluster, plan: &Plan, observed: &Observed) -> Result<Vec<Check>> {
    if !makes_hosts(plan) && plan.of(&StageKind::Resize).next().is_none() {
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

/// Makes the cluster match the inventory; with a plan, only if that is what would be done now, and nothing otherwise.
pub async fn up(cluster: &mut Cluster, file: Option<&PlanFile>) -> Result<UpOutcome> {
    let (name, provider) = (cluster.inventory.cluster.clone(), cluster.provider.clone());
    cluster.reporter.phase("lock");
    let run = async {
        if let Some(file) = file {
            hold_to(cluster, file).await?;
        }
        up_now(cluster, file.map(PlanFile::plan)).await
    };
    locked(&name, &*provider, run).await
}

/// Says what of the inventory has no effect, or more than one may think.
pub(super) fn warn(cluster: &Cluster) {
    for line in engine::doubtful_keys(&cluster.inventory).into_iter().chain(cluster.provider.warnings()) {
        cluster.reporter.warn(&line);
    }
}

/// Names what another first run left under the cluster's name.
pub(super) fn warn_of_twins(cluster: &Cluster, observed: &Observed) {
    for uuid in &observed.twins {
        let text = format!("another run left networks or volumes under this cluster's name: `down --uuid {uuid}` removes them");
        cluster.reporter.warn(&text);
    }
}

async fn up_now(cluster: &mut Cluster, expected: Option<&Plan>) -> Result<UpOutcome> {
    cluster.begin();
    warn(cluster);
    let plays = parse::playbook(&cluster.project, engine::playbook(&cluster.inventory.engine))?;
    let mut phases = Phases::default();
    let reporter = &cluster.reporter.clone();
    let mut observed = phases.time(reporter, "observe", observe(cluster)).await?;
    warn_of_twins(cluster, &observed);
    let plan = plan::plan(&cluster.inventory, &observed)?;
    if expected.is_some_and(|e| e.of_provider() != plan) {
        return Err(Error::failed("what exists changed after it was compared with the plan: nothing was touched")
            .hint("`septet plan --out FILE` makes a new plan"));
    }
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
    if let Some(end) = lease::renew(&*cluster.provider, observed.uuid, cluster.inventory.ttl).await? {
        reporter.say(&format!("cluster {} expires at {}", cluster.inventory.cluster, clock::local_s(end)));
    }
    if makes_hosts(&plan) {
        let say = |text: String| reporter.say(&text);
        let how = phases.time(reporter, "image", provider::machines(&*cluster.provider)?.prepare(&say)).await?;
        reporter.detail(&format!("   hosts are made with: {how}"));
        interrupted(cluster)?;
    }
    if plan.making().next().is_some() {
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
    let resizes: Vec<Step> = plan.of(&StageKind::Resize).cloned().collect();
    if !resizes.is_empty() {
        access = phases.time(reporter, "resize", resize::roll(cluster, &resizes, access)).await?;
    }
    let mut observed = access.observed.clone();
    look_before(cluster, &observed, &access.fleet).await?;
    let names = other_names(cluster, &observed, &access.fleet).await?;
    let log = expected.map(|_| ChangeLog::listen(reporter));
    let configure =
        async { succeeded(play(cluster, &observed, &names, Some(access.fleet.clone()), &plays, cluster.options.clone()).await?) };
    let mut recap = phases.time(reporter, "configure", configure).await?;
    if let (Some(log), Some(expected)) = (log, expected) {
        log.warn_beyond(cluster, expected);
    }
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
pub(super) async fn look_before(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<()> {
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
pub(super) async fn other_names(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<OtherNames> {
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
