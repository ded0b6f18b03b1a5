//! Playbooks run on a cluster: the variables that come from what exists, the archives that are deployed, and `run`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Access, Cluster, RollingGate, lease, locked,
    names::OtherNames,
    secret,
    up::{look_before, other_names},
};
use crate::{
    clock::now_s,
    engine::{self, bundle::Architecture},
    error::{Error, Result},
    inventory::{Engine, HostId, Role},
    observed::{HostState, Observed, ObservedHost},
    playbook::{Gate, Options, Recap, Runner, model::Play, parse, runner::Shared},
    ssh::Fleet,
    template::Vars,
};

/// Shipped playbooks that start services.
const SERVICES: [&str; 4] = ["site.yml", "apache.yml", "coordinators.yml", "brokers.yml"];

/// What stands in a plan for a value that only `up` finds.
const NOT_KNOWN: &str = "(not known yet)";

/// Variables of each host that come from what exists.
pub(super) fn host_vars(cluster: &Cluster, observed: &Observed, names: &OtherNames) -> Result<BTreeMap<HostId, Vars>> {
    let mut out = BTreeMap::new();
    for host in &cluster.inventory.hosts {
        let is = observed.host(host.id);
        let bundle = cluster.bundles.of(is.and_then(|i| i.architecture).unwrap_or(Architecture::NATIVE))?;
        let mut v = engine::programs(bundle);
        v.extend(engine::data::of_host(&cluster.inventory, host));
        if let Some(volume) = is.and_then(|i| i.data_volume.clone()) {
            v.insert("data_volume".into(), volume.into());
            if is.is_some_and(|i| i.data_is_new) {
                v.insert("data_volume_new".into(), true.into());
            }
        }
        let address = is.map(|i| i.address).or(observed.network.as_ref().and_then(|n| n.host(host.id)));
        v.insert("address".into(), address.map_or_else(|| NOT_KNOWN.into(), |a| a.to_string()).into());
        if let Some(outside) =
            is.filter(|_| host.id.role() == Role::Broker).and_then(|i| cluster.provider.outside(i, cluster.inventory.ports.external))
        {
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

/// Variables that all hosts share. With `check`, an end that `up` would set first counts as set, to a time that is not known yet.
pub(super) fn common(cluster: &Cluster, observed: &Observed, check: bool) -> Vars {
    let mut v = engine::vars(&cluster.inventory, observed.uuid.map(|u| u.to_string()).as_deref());
    let due = check && lease::due(&*cluster.provider, observed.uuid, cluster.inventory.ttl, now_s()).is_ok_and(|due| due.is_some());
    let expires = match due {
        true => Some(NOT_KNOWN.into()),
        false => cluster.provider.lease().and_then(|l| l.expires()).map(Value::from),
    };
    v.extend(expires.map(|at| ("expires".to_owned(), at)));
    v.extend(cluster.archives.clone());
    v
}

/// Finds the archives that are deployed beside the bundle, or gets them; each was checked. Without `download`, Kafka's is left out where it
/// is not here; a Java's is needed to render units, so it is always fetched.
pub(super) async fn archives(cluster: &Cluster, download: bool) -> Result<Vars> {
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
pub(super) fn unseen(observed: &Observed, reachable: bool) -> impl Iterator<Item = &ObservedHost> {
    observed.hosts.iter().filter(move |h| h.state != HostState::Unfinished && (h.state != HostState::Running || !reachable))
}

/// Runs plays with the reporter listening.
pub(super) async fn play(
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
    let mut common = common(cluster, observed, shared.options.check);
    common.extend(secret::of_ensemble(&cluster.inventory, observed, shared.fleet.as_ref()).await);
    let runner = Runner::new(shared, &common, &host_vars(cluster, observed, names)?, gate);
    let listening = tokio::spawn(cluster.reporter.clone().listen(told));
    let result = runner.run(plays).await;
    drop(runner);
    let _ = listening.await;
    result
}

/// A run's counts, or which hosts it failed on.
pub(super) fn succeeded(recap: Recap) -> Result<Recap> {
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
