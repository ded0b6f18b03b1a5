//! Health: not whether ports are open, but whether the cluster does its work. Every problem has a reason and names
//! its host.

mod broker;
mod coordinator;
mod features;
mod host;
mod kafka;
mod probe;
mod quorum;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use septet_agent_protocol::Action;
use serde::Serialize;

pub use broker::BrokerView;
pub use coordinator::CoordinatorView;
pub use features::Levels;
pub use host::clocks;

use crate::{
    engine,
    error::{Error, Result},
    inventory::{HostId, Inventory, Metadata, Role},
    observed::{HostState, Observed},
    ssh::{Connection, Fleet, SshError},
};

/// Stands for the metadata servers as a whole, where it is not one of them that has a problem.
const QUORUM: &str = "coordinators";
/// How long one question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(8);

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// where; a host's name, or the role for the whole
    pub host: String,
    /// what and why
    pub reason: String,
    /// whose doing it is where that is not `host`: the only hosts without which it would not be; for a gate
    #[serde(skip)]
    pub from: BTreeSet<HostId>,
    /// whether it goes by itself, since replicas that are there are only behind; for a gate
    #[serde(skip)]
    pub catching_up: bool,
}

impl Problem {
    fn new(host: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { host: host.into(), reason: reason.into(), from: BTreeSet::new(), catching_up: false }
    }
}

/// A host's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostHealth {
    /// its name
    pub name: String,
    /// What it is for: `control`, `coordinator`, `broker`, or its group.
    pub role: String,
    /// its address
    pub address: String,
    /// `healthy`, or the short form of what is wrong
    pub state: String,
    /// what it does: leader, follower, controller
    pub note: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// whether there is no problem
    pub healthy: bool,
    /// the cluster's name
    pub cluster: String,
    /// all hosts
    pub hosts: Vec<HostHealth>,
    /// all problems
    pub problems: Vec<Problem>,
    /// what is no problem yet
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Asks one cluster.
pub struct Checker<'a> {
    /// what is wanted
    pub inventory: &'a Inventory,
    /// what exists
    pub observed: &'a Observed,
    /// the hosts; `None` if there are none
    pub fleet: Option<&'a Arc<Fleet>>,
}

struct Notes {
    problems: Vec<Problem>,
    notes: BTreeMap<HostId, String>,
}

impl Notes {
    fn add(&mut self, host: &str, reason: impl Into<String>) {
        self.problems.push(Problem::new(host, reason));
    }
}

impl Checker<'_> {
    fn name(&self, id: HostId) -> String {
        let wanted = self.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone());
        self.observed.host(id).map(|h| h.name.clone()).or(wanted).unwrap_or_default()
    }

    fn address(&self, id: HostId) -> Option<String> {
        self.observed.host(id).map(|h| h.address.to_string())
    }

    /// Hosts that run according to the provider; the others become problems.
    fn existing(&self, notes: &mut Notes) -> Vec<HostId> {
        let mut out = Vec::new();
        for host in &self.inventory.hosts {
            match self.observed.host(host.id).map(|o| o.state) {
                Some(HostState::Running) => out.push(host.id),
                Some(HostState::Stopped) => notes.add(&self.name(host.id), "the host is stopped"),
                Some(HostState::Paused) => notes.add(&self.name(host.id), "the host is paused"),
                Some(_) if self.observed.rebuild.contains_key(&host.id) => {
                    let why = self.observed.rebuild.get(&host.id).cloned().unwrap_or_default();
                    notes.add(&self.name(host.id), format!("{why}: `up` makes the host again, with its data"));
                }
                Some(HostState::Unfinished) => notes.add(&self.name(host.id), "the host was made and never started"),
                None if self.observed.kept.contains_key(&host.id) => {
                    notes.add(&host.name, "the host does not exist; its data is kept, and `up` uses it");
                }
                None => notes.add(&host.name, "the host does not exist"),
            }
        }
        out
    }

    /// Checks everything.
    pub async fn check(&self) -> Report {
        let mut notes = Notes { problems: Vec::new(), notes: BTreeMap::new() };
        let running = self.existing(&mut notes);
        if let Some(fleet) = self.fleet {
            let reachable = self.reach(fleet, &running, &mut notes).await;
            match fleet.control().await {
                Ok(control) => {
                    let (metadata, kafka) = (self.keepers(&reachable), self.of(Role::Broker, &reachable));
                    let (coordinators, brokers) = tokio::join!(self.metadata(&control, &metadata), broker::check(self, &control, &kafka));
                    for (problems, of_role) in [coordinators, brokers] {
                        notes.problems.extend(problems);
                        notes.notes.extend(of_role);
                    }
                }
                // What nobody was asked is not healthy. Why it cannot be reached may stand there already.
                Err(e) if reachable.contains(&HostId::CONTROL) => notes.add(&self.name(HostId::CONTROL), format!("SSH: {e}")),
                Err(_) => {}
            }
        }
        self.report(notes)
    }

    /// Which of these hosts keep the metadata.
    fn keepers(&self, ids: &[HostId]) -> Vec<HostId> {
        self.of(if self.inventory.is_combined() { Role::Broker } else { Role::Coordinator }, ids)
    }

    /// Checks the metadata servers.
    async fn metadata(&self, control: &Connection, ids: &[HostId]) -> (Vec<Problem>, BTreeMap<HostId, String>) {
        match self.inventory.engine.metadata() {
            Metadata::Zookeeper => coordinator::check(self, control, ids).await,
            Metadata::Kraft => quorum::check(self, control, ids).await,
        }
    }

    fn of(&self, role: Role, ids: &[HostId]) -> Vec<HostId> {
        ids.iter().copied().filter(|i| i.role() == role).collect()
    }

    /// Logs in everywhere and looks at units, disks, limits and clocks.
    async fn reach(&self, fleet: &Arc<Fleet>, running: &[HostId], notes: &mut Notes) -> Vec<HostId> {
        let one = |id: HostId| {
            let unit = self.inventory.engine.unit(id.role()).unwrap_or_default();
            let dir = engine::data::directory(self.inventory, id);
            async move { host::ask(fleet, id, unit, &dir).await.map(|seen| (host::problems(unit, &seen), seen.clock)) }
        };
        let results =
            fleet.all(running.iter().map(|id| async move { (*id, tokio::time::timeout(QUESTION_TIMEOUT * 2, one(*id)).await) })).await;
        let (mut reachable, mut offsets) = (Vec::new(), BTreeMap::new());
        for (id, result) in results {
            let name = self.name(id);
            match result {
                Ok(Ok((wrong, clock))) => {
                    wrong.into_iter().for_each(|w| notes.add(&name, w));
                    offsets.extend(clock.map(|c| (id, c)));
                    reachable.push(id);
                }
                Ok(Err(SshError::Jump { name: jump, .. })) => notes.add(&name, format!("not examined: it is reached through {jump}")),
                Ok(Err(e)) => notes.add(&name, format!("SSH: {e}")),
                Err(_) => notes.add(&name, "SSH: no answer in time"),
            }
        }
        for (id, difference) in host::clocks(&offsets) {
            notes.add(&self.name(id), difference);
        }
        reachable
    }

    fn report(&self, notes: Notes) -> Report {
        let mut problems = notes.problems;
        // That others do not see a host follows from its own problem, which is reported already.
        let down: Vec<String> = problems.iter().filter(|p| !p.reason.starts_with(broker::UNSEEN)).map(|p| p.host.clone()).collect();
        problems.retain(|p| match p.reason.strip_prefix(broker::UNSEEN) {
            Some(names) => !names.split(", ").all(|n| down.iter().any(|d| d == n)),
            None => true,
        });
        problems.sort();
        problems.dedup();
        let hosts = self
            .inventory
            .hosts
            .iter()
            .map(|h| {
                let name = self.name(h.id);
                let own: Vec<&Problem> = problems.iter().filter(|p| p.host == name).collect();
                let state = match own.as_slice() {
                    [] => "healthy".to_owned(),
                    [one] => shortened(&one.reason),
                    [one, more @ ..] => format!("{} (and {} more)", shortened(&one.reason), more.len()),
                };
                HostHealth {
                    state,
                    role: h.id.group.label().to_owned(),
                    address: self.address(h.id).unwrap_or_default(),
                    note: notes.notes.get(&h.id).cloned().unwrap_or_default(),
                    name,
                }
            })
            .collect();
        Report { healthy: problems.is_empty(), cluster: self.inventory.cluster.to_string(), hosts, problems, warnings: Vec::new() }
    }

    /// Hosts that run according to the provider.
    fn running(&self) -> Vec<HostId> {
        self.observed.hosts.iter().filter(|h| h.state == HostState::Running).map(|h| h.id).collect()
    }

    /// The fleet and the connection to the control host. Without them nothing is known, not even that no host serves.
    async fn route(&self) -> Result<(&Arc<Fleet>, Arc<Connection>)> {
        let control_name = self.name(HostId::CONTROL);
        let hint = "nothing can be asked without it: repair the connection to it, then run the same command again";
        let no_route = |e: String| Error::failed(format!("{control_name}: {e}")).hint(hint);
        let fleet = self.fleet.ok_or_else(|| no_route("not connected".into()))?;
        let control = fleet.control().await.map_err(|e| no_route(format!("SSH: {e}")))?;
        Ok((fleet, control))
    }

    /// Which of these hosts run, and their unit too.
    pub async fn active(&self, ids: &[HostId]) -> Result<BTreeSet<HostId>> {
        let (fleet, _) = self.route().await?;
        let running = self.running();
        let units = ids.iter().filter(|id| running.contains(id)).filter_map(|id| Some((*id, self.inventory.engine.unit(id.role())?)));
        let asks = units.map(|(id, unit)| async move {
            let state = tokio::time::timeout(QUESTION_TIMEOUT * 2, unit_state(fleet, id, unit)).await;
            let failed = |why: String| {
                Error::failed(format!("{}: cannot ask whether {unit} runs: {why}", self.name(id)))
                    .hint("nothing is restarted until that is known; `septet health` shows more")
            };
            let state = state.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
            match state.get("ActiveState").map(String::as_str) {
                None => Err(failed("systemd does not say".into())),
                Some(is) => Ok((matches!(is, "active" | "reloading" | "refreshing")).then_some(id)),
            }
        });
        Ok(fleet.all(asks).await.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The metadata servers' own views, without judging; those that do not answer are left out.
    pub async fn coordinators(&self) -> Result<BTreeMap<HostId, CoordinatorView>> {
        let (_, control) = self.route().await?;
        let keepers = self.keepers(&self.running());
        Ok(match self.inventory.engine.metadata() {
            Metadata::Zookeeper => coordinator::views(self, &control, &keepers).await,
            Metadata::Kraft => quorum::views(self, &control, &keepers).await,
        })
    }

    /// Servers of a role that answer that they serve nothing: coordinators without a leader.
    pub async fn idle(&self, role: Role) -> Result<BTreeSet<HostId>> {
        match (role, self.inventory.engine.metadata()) {
            (Role::Coordinator, Metadata::Zookeeper) => {
                let (_, control) = self.route().await?;
                Ok(coordinator::leaderless(self, &control, &self.keepers(&self.running())).await)
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    /// The brokers' views of the cluster, without judging; those that do not answer are left out.
    pub async fn brokers(&self) -> Result<BTreeMap<HostId, BrokerView>> {
        let (_, control) = self.route().await?;
        Ok(broker::views(self, &control, &self.of(Role::Broker, &self.running())).await)
    }

    /// What stopping a host would do to others that are well.
    pub async fn hurt_by_stopping(&self, id: HostId) -> Vec<Problem> {
        if id.role() != Role::Broker {
            return Vec::new();
        }
        match self.route().await {
            Ok((_, control)) => broker::hurt_by_stopping(self, &control, &self.of(Role::Broker, &self.running()), id).await,
            Err(e) => vec![Problem::new("brokers", format!("{}: {}", broker::NOBODY, e.message))],
        }
    }

    /// Whether a problem is a host's own doing: then only its restart may mend it.
    pub fn is_own(&self, problem: &Problem, id: HostId) -> bool {
        problem.host == self.name(id) || problem.from.iter().eq([&id])
    }

    /// Problems of one role only: what a rolling restart waits for.
    pub async fn role(&self, role: Role) -> Vec<Problem> {
        let mut notes = Notes { problems: Vec::new(), notes: BTreeMap::new() };
        let all = self.existing(&mut notes);
        let running = self.of(role, &all);
        let control_name = self.name(HostId::CONTROL);
        notes.problems.retain(|p| p.host == control_name || self.inventory.of(role).any(|h| self.name(h.id) == p.host));
        match self.fleet {
            None => notes.add(&control_name, "not connected"),
            Some(fleet) => match fleet.control().await {
                Err(e) => notes.add(&control_name, format!("SSH: {e}")),
                Ok(control) => {
                    let (problems, _) = match role {
                        Role::Control | Role::Plain => return notes.problems,
                        Role::Coordinator => self.metadata(&control, &running).await,
                        Role::Broker if self.inventory.is_combined() => {
                            let (mut problems, _) = self.metadata(&control, &running).await;
                            problems.extend(broker::check(self, &control, &running).await.0);
                            (problems, BTreeMap::new())
                        }
                        Role::Broker => {
                            let keepers = self.keepers(&all);
                            let (metadata, mut brokers) =
                                tokio::join!(self.metadata(&control, &keepers), broker::check(self, &control, &running));
                            // Without a majority of them no partition gets another leader, and brokers tell what was: all seems well.
                            brokers.0.extend(metadata.0.into_iter().filter(|p| p.host == QUORUM));
                            brokers
                        }
                    };
                    notes.problems.extend(problems);
                }
            },
        }
        notes.problems
    }
}

/// systemd's properties of a host's unit.
async fn unit_state(fleet: &Arc<Fleet>, id: HostId, unit: &str) -> Result<BTreeMap<String, String>, SshError> {
    let show = ["systemctl", "show", "-p", "ActiveState,SubState,UnitFileState,NRestarts,Result", "--", unit];
    let text = ask_host(fleet, id, None, &show).await?;
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// What a command that only reads prints on a host; nothing if it cannot be run there.
pub async fn ask_host(fleet: &Arc<Fleet>, id: HostId, user: Option<&str>, argv: &[&str]) -> Result<String, SshError> {
    let action = Action::Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        chdir: None,
        creates: None,
        removes: None,
        stdin: None,
        environment: BTreeMap::new(),
        timeout_s: 10,
        check_safe: true,
        expand: false,
    };
    let out = fleet.agent(id, user).await?.perform(action, false).await?;
    Ok(out.values.get("stdout").and_then(|v| v.as_str()).unwrap_or_default().to_owned())
}

/// A reason that fits a table; the whole of it stands below.
fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(70) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
