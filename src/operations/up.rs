//! `up`: observe, plan, apply, configure, rename, check; or exactly what a plan file says, if that is what it would do now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    Access, Cluster, Phases,
    access::not_there,
    authorized,
    configure::{archives, play, succeeded},
    converge::{self, Converge, OnHosts},
    locked,
    names::{self, OtherNames},
    precheck,
    preview::{ChangeLog, hold_to},
    resize,
};
use crate::{
    engine,
    error::{Error, Kind, Result},
    health::{Checker, Report},
    identity::ClusterId,
    inventory::{Engine, Metadata, Role},
    observed::{Observed, ObservedHost},
    plan::{Plan, PlanFile, Step},
    playbook::{Recap, model::Play, parse},
    provider::{self, ProviderStats},
    ssh::{Fleet, keys},
    state, stop,
};

/// How long the cluster may take until it is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(180);

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

/// What exists, with what of it is to be mended in place.
pub(super) async fn observe(cluster: &Cluster) -> Result<Observed> {
    converge::observe(&*cluster.provider).await
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
    let project_digest = expected.map(|_| cluster.project.digest()).transpose()?;
    let plays = parse::playbook(&cluster.project, engine::playbook(&cluster.inventory.engine))?;
    let mut phases = Phases::default();
    let (reporter, interrupted) = (cluster.reporter.clone(), cluster.interrupted.clone());
    let (provider, inventory) = (cluster.provider.clone(), cluster.inventory.clone());
    let converge = Converge { provider: &*provider, inventory: &inventory, reporter: &reporter, interrupted: &interrupted };
    let mut hosts =
        Hosts { cluster, expected, project_digest, plays, access: None, keys_added: 0, recap: Recap::default(), keeps_names: false };
    let (plan, observed) = converge.run(&mut hosts, &mut phases).await?;
    let Hosts { cluster, access, keys_added, recap, keeps_names, .. } = hosts;
    let mut steps: Vec<Step> = plan.all().cloned().collect();
    if keeps_names {
        steps.retain(|s| !matches!(s, Step::Rename { .. }));
    }
    let fleet = access.ok_or_else(|| not_there(&inventory))?.fleet;
    let report = phases.time(&reporter, "health", wait_healthy(cluster, &observed, &fleet)).await?;
    // Names may have changed since the files for OpenSSH were written.
    Access::new(cluster, observed.clone())?;
    fleet.close().await;
    Ok(UpOutcome { steps, recap, keys_added, report, observed, phases, provider: cluster.provider.stats() })
}

/// The hosts of a cluster.
struct Hosts<'a> {
    cluster: &'a mut Cluster,
    /// what a plan file has
    expected: Option<&'a Plan>,
    /// what the project was when it was compared with that
    project_digest: Option<String>,
    plays: Vec<Play>,
    /// once they are connected
    access: Option<Access>,
    keys_added: usize,
    recap: Recap,
    /// whether a run of some tasks only leaves a rename unfinished
    keeps_names: bool,
}

impl Hosts<'_> {
    fn access(&self) -> Result<&Access> {
        self.access.as_ref().ok_or_else(|| not_there(&self.cluster.inventory))
    }

    async fn configured(&mut self, observed: &Observed, phases: &mut Phases) -> Result<bool> {
        let (cluster, access) = (&*self.cluster, self.access()?);
        let reporter = &cluster.reporter;
        if let Some(digest) = &self.project_digest
            && cluster.project.digest()? != *digest
        {
            return Err(Error::failed(
                "the project's playbooks, templates, files or variables changed after they were compared with the plan",
            )
            .hint("no service was configured; `septet plan --out FILE` makes a new plan"));
        }
        look_before(cluster, observed, &access.fleet).await?;
        let names = other_names(cluster, observed, &access.fleet).await?;
        let log = self.expected.map(|_| ChangeLog::listen(reporter));
        let configure =
            async { succeeded(play(cluster, observed, &names, Some(access.fleet.clone()), &self.plays, cluster.options.clone()).await?) };
        let recap = phases.time(reporter, "configure", configure).await?;
        if let (Some(log), Some(expected)) = (log, self.expected) {
            log.warn_beyond(cluster, expected);
        }
        note_formatted(cluster, access).await?;
        // Tasks that were left out may be those that render and restart.
        let partial = !(cluster.options.tags.is_empty() && cluster.options.skip_tags.is_empty());
        if let Some(lease) = cluster.provider.lease().filter(|_| !partial) {
            lease.timers_are_set().await?;
        }
        let keeps_names = partial && !names.is_empty();
        if keeps_names {
            reporter.say("hosts keep their earlier names until a run without --tags and --skip-tags has finished the rename");
        }
        (self.recap, self.keeps_names) = (recap, keeps_names);
        Ok(!partial && !names.is_empty())
    }
}

impl OnHosts for Hosts<'_> {
    fn found(&mut self, observed: &Observed) {
        warn_of_twins(self.cluster, observed);
    }
    fn planned(&mut self, plan: &Plan) -> Result<()> {
        if self.expected.is_some_and(|e| e.of_provider() != *plan) {
            return Err(Error::failed("what exists changed after it was compared with the plan: nothing was touched")
                .hint("`septet plan --out FILE` makes a new plan"));
        }
        Ok(())
    }
    fn fetch<'a>(&'a mut self, phases: &'a mut Phases) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if matches!(self.cluster.inventory.engine, Engine::Apache(_)) {
                self.cluster.archives = phases.time(&self.cluster.reporter, "archive", archives(self.cluster, true)).await?;
            }
            Ok(())
        })
    }
    fn identity(&mut self, observed: &Observed) -> Result<(ClusterId, String)> {
        let uuid = match observed.uuid {
            Some(u) => u,
            None => state::intended(&self.cluster.inventory.cluster)?,
        };
        // The key is on disk before the first host trusts it.
        let (key, _) = keys::cluster_key(uuid)?;
        Ok((uuid, authorized::line(&key, uuid)?))
    }
    fn connect<'a>(&'a mut self, observed: Observed, phases: &'a mut Phases) -> BoxFuture<'a, Result<Observed>> {
        Box::pin(async move {
            let access = Access::new(self.cluster, observed)?;
            let access = phases.time(&self.cluster.reporter, "connect", access.connect(self.cluster, true)).await?;
            self.keys_added = access.planted.len();
            Ok(self.access.insert(access).observed.clone())
        })
    }
    fn resize<'a>(&'a mut self, steps: &'a [Step]) -> BoxFuture<'a, Result<Observed>> {
        Box::pin(async move {
            let access = self.access.take().ok_or_else(|| not_there(&self.cluster.inventory))?;
            let access = resize::roll(self.cluster, steps, access).await?;
            Ok(self.access.insert(access).observed.clone())
        })
    }
    fn configure<'a>(&'a mut self, observed: &'a Observed, phases: &'a mut Phases) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.configured(observed, phases))
    }
    fn renamed<'a>(&'a mut self, observed: &'a Observed) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let fleet = Some(self.access()?.fleet.clone());
            let options = self.cluster.options.clone();
            let recap = play(self.cluster, observed, &OtherNames::new(), fleet, &self.plays, options).await?;
            self.recap.add(succeeded(recap)?);
            Ok(())
        })
    }
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
    let mounted = access.fleet.all(new.map(|h| async move {
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

pub(super) async fn wait_healthy(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<Report> {
    let begun = Instant::now();
    let checker = Checker { inventory: &cluster.inventory, observed, fleet: Some(fleet) };
    loop {
        let report = checker.check().await;
        if report.healthy {
            return Ok(report);
        }
        stop::check(&cluster.interrupted)?;
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
    let ports = &cluster.inventory.ports;
    let mut out = json!({ "bootstrap.servers": of(Role::Broker, ports.external, ports.kafka) });
    if cluster.inventory.engine.metadata() == Metadata::Zookeeper {
        out["zookeeper.connect"] = of(Role::Coordinator, ports.zookeeper, ports.zookeeper).into();
    }
    out
}
