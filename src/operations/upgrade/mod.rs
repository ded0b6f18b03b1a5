//! `upgrade`: hosts run the programs of this septet, or the version of Apache Kafka that the inventory has, one host after the other.
//!
//! Invariant: what a host runs is asked of the host, before and after; the inventory is changed only once the step is known to be allowed
//! and its archive is here.

mod hosts;
mod pending;
mod rules;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{
    Access, Cluster, Phases,
    access::not_there,
    configure::{archives, play, succeeded},
    locked, protocols,
    up::{look_before, observe, other_names, wait_healthy},
};
use crate::{
    engine::{self, bundle::Architecture},
    error::{Error, Kind, Result},
    health::{Checker, Levels, Report, ask_host},
    inventory::{self, Engine, HostId, Inventory, Metadata, Role},
    observed::HostState,
    plan,
    playbook::{model::Play, parse},
    rolling::Gate,
    ssh::Fleet,
};
use hosts::{Done, Hosts, ROLES, Running, Runs, due, short};
pub use pending::Pending;

/// How long a host may take to answer; the agent may have to be brought to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments: unit, installed program or link, `digest` or `version`. What a process runs is read as its own account: in a container root
/// may not look at it. Where it cannot be read, when it was started decides, which anybody may read; of its four times the wall clock is read
/// before the uptime, so that the process looks older than what is installed in doubt.
const SCRIPT: &str = r#"version() { grep -a -o -m 1 'kafka_2\.13-[0-9]*\.[0-9]*\.[0-9]*' | head -n 1 | sed 's/^kafka_2.13-//'; }
ticks() { stat=$(cat "/proc/$1/stat") && set -- ${stat##*) } && echo "${20}"; }
pid=$(systemctl show -p MainPID --value -- "$1")
if [ "${pid:-0}" != 0 ] && account=$(stat -c %U "/proc/$pid"); then
  echo "ticks $(ticks "$pid" 2>/dev/null)"
  case $3 in
    digest) running=$(runuser -u "$account" -- sha256sum "/proc/$pid/exe" 2>/dev/null | cut -d ' ' -f 1) ;;
    version) running=$(tr '\0' '\n' < "/proc/$pid/cmdline" | version) ;;
  esac
  echo "running $running"
fi
echo "changed $(stat -c %.9Z -- "$2" 2>/dev/null)"
echo "now $(date +%s.%N)"
echo "uptime $(cut -d ' ' -f 1 /proc/uptime)"
case $3 in
  digest) echo "installed $(sha256sum -- "$2" 2>/dev/null | cut -d ' ' -f 1)" ;;
  version) echo "installed $(readlink -- "$2" | version)" ;;
esac
echo end"#;

/// Ticks per second in `/proc`, on all Linux systems.
const TICKS_PER_S: f64 = 100.0;

/// What the script prints; `None` if that is not all of it.
fn parse_runs(text: &str) -> Option<Runs> {
    let of = |word: &str| {
        let rest = text.lines().find_map(|l| l.strip_prefix(word))?.trim();
        let valid = rest.len() <= 64 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        (valid && !rest.is_empty()).then(|| rest.to_owned())
    };
    let number = |word: &str| of(word)?.parse::<f64>().ok();
    let since_installed = || {
        let installed_ago_s = number("now ")? - number("changed ")?;
        let started_ago_s = number("uptime ")? - number("ticks ")? / TICKS_PER_S;
        Some(started_ago_s < installed_ago_s)
    };
    let running = match (text.lines().any(|l| l.starts_with("running")), of("running ")) {
        (false, _) => Running::Nothing,
        (true, None) => Running::Unread { since_installed: since_installed().unwrap_or(false) },
        (true, Some(is)) => Running::This(is),
    };
    text.lines().any(|l| l == "end").then(|| Runs { running, installed: of("installed ") })
}

/// A host that would be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name.
    pub host: String,
    /// What it is for.
    pub role: &'static str,
    /// Version, or the beginning of the program's SHA-256.
    pub from: String,
    /// The same of what it is to run.
    pub to: String,
    /// Its turn; hosts that restart together have the same.
    pub turn: usize,
}

/// What `upgrade` did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Upgraded {
    /// Hosts that were upgraded, or would be, in their order.
    pub changes: Vec<Change>,
    /// Hosts that run it already.
    pub already: Vec<String>,
    /// Why hosts restart together.
    pub notes: Vec<String>,
    /// Configuration that is applied with it, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// `metadata.version` before and after the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raised: Option<(i16, i16)>,
    /// The last step that is left: the level in force, and the one that is supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<(i16, i16)>,
    /// How the cluster is now.
    #[serde(skip)]
    pub report: Option<Report>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// A version of Apache Kafka for the inventory.
    pub version: Option<&'a str>,
    /// Look only.
    pub check: bool,
    /// Take the last step too.
    pub finish: bool,
}

/// Upgrades the hosts, or says what would be done.
pub async fn upgrade(cluster: &mut Cluster, wish: Wish<'_>) -> Result<Upgraded> {
    let (name, provider) = (cluster.inventory.cluster.clone(), cluster.provider.clone());
    match wish.check {
        true => run(cluster, wish).await,
        false => locked(&name, &*provider, run(cluster, wish)).await,
    }
}

/// The inventory with another version.
struct Edit {
    path: std::path::PathBuf,
    /// its text before that, and with that
    before: String,
    text: String,
    inventory: Inventory,
}

/// The inventory with another version; `None` where it has that.
fn with_version(cluster: &Cluster, version: &str) -> Result<Option<Edit>> {
    rules::allowed(&cluster.inventory, version)?;
    let Engine::Apache(a) = &cluster.inventory.engine else { return Ok(None) };
    if a.version == version {
        return Ok(None);
    }
    let Some(path) = cluster.inventory.path.clone() else { return Ok(None) };
    let before = text_of(&path)?;
    let text = inventory::edit::with_version(&path, a, version)?;
    let mut inventory = Inventory::parse(&path, &text)?;
    inventory.path = Some(path.clone());
    Ok(Some(Edit { path, before, text, inventory }))
}

fn text_of(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
}

async fn run(cluster: &mut Cluster, wish: Wish<'_>) -> Result<Upgraded> {
    let (reporter, mut phases) = (cluster.reporter.clone(), Phases::default());
    let edit = wish.version.map(|v| with_version(cluster, v)).transpose()?.flatten();
    if let Some(edit) = &edit {
        cluster.inventory = edit.inventory.clone();
    }
    let observed = phases.time(&reporter, "observe", observe(cluster)).await?;
    if observed.uuid.is_none() {
        return Err(not_there(&cluster.inventory));
    }
    let provider = plan::plan(&cluster.inventory, &observed)?;
    if let Some(step) = provider.all().next() {
        return Err(Error::failed(format!("the cluster is not as the inventory has it ({step}): nothing was upgraded"))
            .hint("`septet up` makes it so; then upgrade"));
    }
    cluster.archives = phases.time(&reporter, "archive", archives(cluster, !wish.check)).await?;
    let access = phases.time(&reporter, "connect", Access::new(cluster, observed)?.connect(cluster, !wish.check)).await?;
    let site = Site { cluster, access: &access };
    let seen = site.look().await?;
    if let Engine::Apache(a) = &site.cluster.inventory.engine {
        rules::no_downgrade(&site.cluster.inventory, &a.version, &seen)?;
    }
    let mut playbooks = Vec::new();
    for role in ROLES {
        if !due(&site, &seen, role)?.is_empty() {
            playbooks.push(playbook_of(role));
        }
    }
    if wish.check {
        let pending = pending_beside(cluster, &access, &seen, &playbooks).await?;
        let would = Site { cluster, access: &access }.would(&seen).await?;
        access.fleet.close().await;
        return Ok(Upgraded { pending, ..would });
    }
    if wish.finish
        && let Some(value) = rules::held_back(&cluster.inventory)
    {
        return Err(rules::remove_it(&value));
    }
    look_before(cluster, &access.observed, &access.fleet).await?;
    let pending = pending_beside(cluster, &access, &seen, &playbooks).await?;
    let mut site = Site { cluster, access: &access };
    // An editor may have saved it while archives were fetched and hosts were asked.
    if let Some(edit) = &edit
        && text_of(&edit.path)? != edit.before
    {
        let text = format!("{} was changed meanwhile: nothing was upgraded; the same command reads it again", edit.path.display());
        return Err(Error::failed(text));
    }
    // Only now: what could not begin is nothing that another execution goes on with.
    site.cluster.begin();
    if let Some(Edit { path, text, .. }) = &edit {
        inventory::edit::replace(path, text)?;
        reporter.say(&format!("{}: version: {}", path.display(), wish.version.unwrap_or_default()));
    }
    let mut out = Upgraded { pending, ..site.would(&seen).await? };
    if !out.already.is_empty() && !out.changes.is_empty() {
        reporter.say(&format!("upgraded already: {}", out.already.join(", ")));
    }
    if let Some(pending) = &out.pending {
        reporter.say(&pending.text());
    }
    let Done { raised, left, .. } = phases.time(&reporter, "upgrade", hosts::upgrade(&mut site, wish.finish)).await?;
    (out.raised, out.unfinished) = (raised, left.map(|l| (l.finalized, l.supported)));
    out.report = Some(phases.time(&reporter, "health", wait_healthy(cluster, &access.observed, &access.fleet)).await?);
    access.fleet.close().await;
    Ok(out)
}

/// The playbook that a role's hosts are rolled with.
fn playbook_of(role: Role) -> &'static str {
    if role == Role::Broker { "brokers.yml" } else { "coordinators.yml" }
}

/// What the playbooks of a roll would change beside the upgrade. That it cannot be found out is no reason not to upgrade.
async fn pending_beside(
    cluster: &mut Cluster,
    access: &Access,
    seen: &BTreeMap<HostId, Runs>,
    playbooks: &[&str],
) -> Result<Option<Pending>> {
    if playbooks.is_empty() {
        return Ok(None);
    }
    match pending::find(cluster, access, seen, playbooks).await {
        Err(e) if e.kind != Kind::Interrupted => {
            cluster.reporter.warn(&format!("cannot tell which configuration is pending, and is applied with the upgrade: {}", e.message));
            Ok(None)
        }
        found => found,
    }
}

/// The hosts of a cluster.
struct Site<'a> {
    cluster: &'a Cluster,
    access: &'a Access,
}

impl Site<'_> {
    async fn ask(&self, fleet: &Arc<Fleet>, id: HostId) -> Result<(HostId, Runs)> {
        let (unit, name) = (self.cluster.inventory.engine.unit(id.role()).unwrap_or_default(), self.name(id));
        let (place, kind) = match &self.cluster.inventory.engine {
            Engine::Bundled => {
                let program = if id.role() == Role::Broker { "septet-broker" } else { "septet-coordinator" };
                (format!("{}/{program}", engine::PROGRAM_DIR), "digest")
            }
            Engine::Apache(_) => (engine::apache::HOME.to_owned(), "version"),
        };
        let argv = ["sh", "-c", SCRIPT, "sh", unit, &place, kind];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(fleet, id, Some("root"), &argv)).await;
        let failed = |why: String| {
            Error::failed(format!("{name}: cannot ask what {unit} runs: {why}"))
                .hint("`septet health` shows more; the same command goes on")
        };
        let text = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        parse_runs(&text).map(|r| (id, r)).ok_or_else(|| failed("the answer is incomplete".into()))
    }

    fn checker(&self) -> Checker<'_> {
        Checker { inventory: &self.cluster.inventory, observed: &self.access.observed, fleet: Some(&self.access.fleet) }
    }

    /// What would be done, in which order.
    async fn would(&self, seen: &BTreeMap<HostId, Runs>) -> Result<Upgraded> {
        let (mut out, mut turn) = (Upgraded::default(), 0);
        let differing = protocols::differing(self.cluster, &self.access.observed, &self.access.fleet).await?;
        for role in ROLES {
            let due = due(self, seen, role)?;
            out.already.extend(seen.keys().filter(|id| id.role() == role && !due.contains(id)).map(|id| self.name(*id)));
            if due.is_empty() {
                continue;
            }
            let order = match differing.contains(&role) {
                true => {
                    out.notes.push(protocols::note(role));
                    crate::rolling::Order { first: due, ..Default::default() }
                }
                false => self.access.gate(self.cluster).order(role, due).await?,
            };
            let mut add = |id: HostId, turn: usize| -> Result<()> {
                let from = seen.get(&id).map(Runs::shown).unwrap_or_default();
                out.changes.push(Change { host: self.name(id), role: role.hosts(), from, to: short(&self.wanted(id)?), turn });
                Ok(())
            };
            turn += usize::from(!order.first.is_empty());
            order.first.iter().try_for_each(|id| add(*id, turn))?;
            for id in order.then {
                turn += 1;
                add(id, turn)?;
            }
        }
        // Where a broker is down its upgrade may be what brings it back: what is left to finish is found out after it.
        if let Some(l) = self.levels().await.ok().flatten().filter(|l| l.finalized < l.supported) {
            out.unfinished = Some((l.finalized, l.supported));
        }
        Ok(out)
    }

    async fn plays(&self, names: &[&str]) -> Result<()> {
        let (cluster, access) = (self.cluster, self.access);
        let mut plays: Vec<Play> = Vec::new();
        for name in names {
            plays.extend(parse::playbook(&cluster.project, &Path::new("playbooks").join(name).to_string_lossy())?);
        }
        let names = other_names(cluster, &access.observed, &access.fleet).await?;
        let recap = play(cluster, &access.observed, &names, Some(access.fleet.clone()), &plays, cluster.options.clone()).await?;
        succeeded(recap).map(drop)
    }
}

impl Hosts for Site<'_> {
    fn look(&self) -> BoxFuture<'_, Result<BTreeMap<HostId, Runs>>> {
        Box::pin(async {
            let serving = self.access.observed.hosts.iter().filter(|h| h.id.role().serves() && h.state == HostState::Running);
            self.access.fleet.all(serving.map(|h| self.ask(&self.access.fleet, h.id))).await.into_iter().collect()
        })
    }
    fn wanted(&self, id: HostId) -> Result<String> {
        match &self.cluster.inventory.engine {
            Engine::Apache(a) => Ok(a.version.clone()),
            Engine::Bundled => {
                let architecture = self.access.observed.host(id).and_then(|h| h.architecture).unwrap_or(Architecture::NATIVE);
                let bundle = self.cluster.bundles.of(architecture)?;
                Ok(if id.role() == Role::Broker { &bundle.broker } else { &bundle.coordinator }.digest.clone())
            }
        }
    }
    fn name(&self, id: HostId) -> String {
        self.cluster.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn roll<'a>(&'a mut self, role: Role, _: &'a [HostId]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let own = playbook_of(role);
            match &self.cluster.inventory.engine {
                Engine::Bundled => self.plays(&[own]).await,
                Engine::Apache(_) => self.plays(&["software.yml", own]).await,
            }
        })
    }
    fn levels(&self) -> BoxFuture<'_, Result<Option<Levels>>> {
        Box::pin(async {
            let engine = &self.cluster.inventory.engine;
            match matches!(engine, Engine::Apache(_)) && engine.metadata() == Metadata::Kraft {
                true => self.checker().metadata_levels().await.map(Some),
                false => Ok(None),
            }
        })
    }
    fn raise(&mut self, to: i16) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.checker().raise_metadata(to).await })
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(hosts::LEVEL_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_answers() {
        let this = |v: &str| Running::This(v.to_owned());
        let runs = |running, installed: Option<&str>| Some(Runs { running, installed: installed.map(str::to_owned) });
        assert_eq!(parse_runs("running 3.9.1\ninstalled 4.1.1\nend\n"), runs(this("3.9.1"), Some("4.1.1")));
        let unread = |since_installed| Running::Unread { since_installed };
        assert_eq!(parse_runs("running \ninstalled \nend\n"), runs(unread(false), None));
        assert_eq!(parse_runs("installed 4.1.1\nend\n"), runs(Running::Nothing, Some("4.1.1")));
        assert_eq!(parse_runs("running 3.9.1\ninstalled 4.1.1\n"), None);
        assert_eq!(parse_runs("running $(reboot)\ninstalled \u{1b}[2J\nend\n"), runs(unread(false), None));
        // Started 60 s ago; installed 59 s or 61 s ago.
        let times = |changed: &str| {
            format!("ticks 10000\nrunning \nchanged {changed}\nnow 1800000000.500000000\nuptime 160.00\ninstalled 4.1.1\nend\n")
        };
        assert_eq!(parse_runs(&times("1799999941.500000000")), runs(unread(false), Some("4.1.1")));
        assert_eq!(parse_runs(&times("1799999939.500000000")), runs(unread(true), Some("4.1.1")));
        for missing in ["ticks 10000\n", "now 1800000000.500000000\n", "uptime 160.00\n"] {
            assert_eq!(parse_runs(&times("1799999939.5").replace(missing, "")), runs(unread(false), Some("4.1.1")), "{missing}");
        }
        assert_eq!(parse_runs(&times("")), runs(unread(false), Some("4.1.1")));
    }
}
