//! `restart`: the services of hosts, one host after the other under the gate of their role.
//!
//! Invariant: whether a service was restarted is observed on its host: a service that has run for less time than has passed since the
//! first execution of an unfinished `restart` is not restarted again. Ages are compared, not clocks: the host's may be off.

mod hosts;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{Access, Cluster, Phases, access::not_there, locked, up::wait_healthy};
use crate::{
    clock,
    error::{Error, Result},
    events::{Event, TaskStatus},
    health::{Report, ask_host},
    inventory::{Host, HostId, select},
    journal::Process,
    observed::HostState,
    rolling::Gate,
    ssh::{End, Fleet, at_once},
};
use hosts::{Asked, Done, Hosts, Service};

/// How long a service may take to stop and to start.
const RESTART_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a host may take to answer; the agent may have to be copied to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a service that is being stopped or started.
const PAUSE: Duration = Duration::from_millis(500);
/// Lines of a service's log that an error shows.
const LOG_LINES: usize = 3;

/// Prints the state of unit `$1`, the job that systemd has for it, when its process was started, and how long the host has run. The kernel's
/// time of the start counts while a machine sleeps, as the uptime does; systemd's does not, and is for a process that is gone.
const SCRIPT: &str = r#"systemctl show -p ActiveState,Job,ExecMainStartTimestampMonotonic -- "$1"
pid=$(systemctl show -p MainPID --value -- "$1")
if stat=$(cat "/proc/$pid/stat" 2>/dev/null); then
  set -- ${stat##*) }
  echo "StartTicks=${20}"
fi
echo "Uptime=$(cut -d ' ' -f 1 /proc/uptime)"
echo end"#;
/// Ticks per second in `/proc`, on all Linux systems.
const TICKS_PER_S: f64 = 100.0;

/// What the script prints; `None` if that is not all of it.
fn parse_service(text: &str) -> Option<Service> {
    let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    let by_kernel = of("StartTicks").and_then(|t| t.parse::<f64>().ok()).map(|ticks| ticks / TICKS_PER_S);
    let by_systemd = of("ExecMainStartTimestampMonotonic")?.parse::<f64>().ok()? / 1e6;
    let uptime_s = of("Uptime")?.parse::<f64>().ok()?;
    let changing = of("Job").is_some_and(|job| !matches!(job, "" | "0"));
    let age_s = (uptime_s - by_kernel.unwrap_or(by_systemd)).max(0.0);
    text.lines().any(|l| l == "end").then_some(Service { active: of("ActiveState")? == "active", changing, age_s })
}

/// What `restart` did.
#[derive(Debug, Clone, Serialize)]
pub struct Restarted {
    /// hosts whose service was restarted
    pub restarted: Vec<String>,
    /// hosts whose service had been restarted by an execution before this one
    pub already: Vec<String>,
    /// how the cluster is now
    #[serde(skip)]
    pub report: Option<Report>,
}

/// Restarts the services of the hosts of a pattern; with `all` also those that an unfinished `restart` has restarted already.
pub async fn restart(cluster: &Cluster, pattern: &str, all: bool) -> Result<Restarted> {
    let hosts: Vec<Host> = select(&cluster.inventory, pattern)?.into_iter().filter(|h| h.id.role().serves()).cloned().collect();
    if hosts.is_empty() {
        return Err(Error::invalid(format!("no host of `{pattern}` runs a service of the engine"))
            .hint("`coordinators`, `brokers` and their hosts do"));
    }
    locked(&cluster.inventory.cluster, &*cluster.provider, restart_now(cluster, &hosts, all)).await
}

async fn restart_now(cluster: &Cluster, hosts: &[Host], all: bool) -> Result<Restarted> {
    let (reporter, mut phases) = (&cluster.reporter, Phases::default());
    let observed = phases.time(reporter, "observe", cluster.provider.observe()).await?;
    if observed.uuid.is_none() {
        return Err(not_there(&cluster.inventory));
    }
    if let Some(h) = hosts.iter().find(|h| observed.host(h.id).is_none_or(|o| o.state != HostState::Running)) {
        return Err(Error::failed(format!("{} does not run: nothing was restarted", h.name)).hint("`septet up` starts it"));
    }
    // Only now: an execution that could not begin must not count as the one that asked for the restart.
    cluster.begin();
    let access = phases.time(reporter, "connect", Access::new(cluster, observed)?.connect(cluster, true)).await?;
    let site = Site { cluster, access: &access, hosts };
    let Done { restarted, already } = phases.time(reporter, "restart", hosts::restart(&site, all)).await?;
    // One that is asked for later is another restart, also where the cluster does not become healthy now.
    cluster.recorder.done();
    let report = phases.time(reporter, "health", wait_healthy(cluster, &access.observed, &access.fleet)).await?;
    access.fleet.close().await;
    let names = |ids: Vec<HostId>| ids.into_iter().map(|id| site.name(id)).collect();
    Ok(Restarted { restarted: names(restarted), already: names(already), report: Some(report) })
}

/// The hosts of a cluster.
struct Site<'a> {
    cluster: &'a Cluster,
    access: &'a Access,
    /// those of the pattern
    hosts: &'a [Host],
}

impl Site<'_> {
    fn unit(&self, id: HostId) -> &'static str {
        self.cluster.inventory.engine.unit(id.role()).unwrap_or_default()
    }

    async fn ask(&self, id: HostId) -> Result<Service> {
        let (name, unit) = (self.name(id), self.unit(id));
        let argv = ["sh", "-c", SCRIPT, "sh", unit];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(&self.access.fleet, id, None, &argv)).await;
        let failed = |why: String| {
            Error::failed(format!("{name}: cannot ask since when {unit} runs: {why}"))
                .hint("nothing was restarted; `septet health` shows more")
        };
        let text = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        parse_service(&text).ok_or_else(|| failed("the answer is incomplete".into()))
    }

    async fn one(&self, id: HostId) -> Result<()> {
        let (name, unit) = (self.name(id), self.unit(id));
        restart_unit(&self.access.fleet, id, unit).await.map_err(|why| {
            Error::failed(format!("{name}: {unit} does not restart: {why}"))
                .hint("the hosts that follow are untouched; `septet logs HOST` shows its log; the same command goes on from there")
        })?;
        self.tell(Event::Task {
            host: name,
            task: format!("Restart {unit}"),
            place: "septet restart".into(),
            item: None,
            status: TaskStatus::Changed,
            msg: String::new(),
            diff: None,
            module: "systemd".into(),
        });
        Ok(())
    }
}

impl Hosts for Site<'_> {
    fn ids(&self) -> Vec<HostId> {
        self.hosts.iter().map(|h| h.id).collect()
    }
    fn at_once(&self) -> usize {
        at_once(self.cluster.options.forks)
    }
    fn asked(&self) -> Option<Asked> {
        let recorder = &self.cluster.recorder;
        let began_ms = recorder.instance_began_ms()?;
        Some(Asked { began_ms, now_ms: clock::now_ms(), process_age_s: recorder.instance_process().and_then(Process::age_s) })
    }
    fn service(&self, id: HostId) -> BoxFuture<'_, Result<Service>> {
        Box::pin(self.ask(id))
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(PAUSE))
    }
    fn restart(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.one(id))
    }
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::new(self.access.gate(self.cluster)))
    }
    fn name(&self, id: HostId) -> String {
        self.cluster.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn tell(&self, event: Event) {
        self.cluster.reporter.emit(&event);
    }
    fn interrupted(&self) -> &AtomicBool {
        &self.cluster.interrupted
    }
}

/// Restarts a unit, also one that systemd has given up. Where it does not start, what its own program wrote last: systemd's lines on it,
/// which follow, tell no cause. A program that could not be begun wrote nothing; then they are all that there is.
async fn restart_unit(fleet: &Arc<Fleet>, id: HostId, unit: &str) -> std::result::Result<(), String> {
    let command = format!(
        "began=$(date +%s); systemctl reset-failed {unit} 2>/dev/null; systemctl restart {unit} 2>/dev/null || {{ own=$(journalctl _SYSTEMD_UNIT={unit} --since=@$began -n {LOG_LINES} -o cat --no-pager -q); \
         if [ -n \"$own\" ]; then echo \"$own\" >&2; else journalctl -u {unit} -n {LOG_LINES} -o cat --no-pager >&2; fi; exit 1; }}"
    );
    let connection = fleet.connection(id).await.map_err(|e| e.to_string())?;
    let (out, end) = connection.run(&command, true, RESTART_TIMEOUT, std::future::pending()).await.map_err(|e| e.to_string())?;
    if matches!(end, End::TimeUp { .. }) {
        return Err(format!("{unit} did not restart within {} s", RESTART_TIMEOUT.as_secs()));
    }
    match out.code {
        Some(0) => Ok(()),
        code => match String::from_utf8_lossy(&out.stderr).trim() {
            "" => Err(format!("systemctl ended with {}", code.map_or_else(|| "a signal".to_owned(), |c| c.to_string()))),
            words => Err(words.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_of_its_service() {
        let text = "ActiveState=active\nExecMainStartTimestampMonotonic=100000000\nUptime=160.5\nend\n";
        let service = Service { active: true, changing: false, age_s: 60.5 };
        assert_eq!(parse_service(text), Some(service));
        assert_eq!(parse_service(&text.replace("=active", "=failed")).map(|s| s.active), Some(false));
        for missing in ["end\n", "Uptime=160.5\n", "ActiveState=active\n"] {
            assert_eq!(parse_service(&text.replace(missing, "")), None, "{missing}");
        }
        // The machine slept for 40 s before the process was started, and systemd's clock with it.
        assert_eq!(parse_service(&format!("StartTicks=14000\n{text}")), Some(Service { age_s: 20.5, ..service }));
        assert_eq!(parse_service(&format!("Job=4711\n{text}")), Some(Service { changing: true, ..service }));
        assert_eq!(parse_service(&format!("Job=\n{text}")), Some(service));
    }
}
