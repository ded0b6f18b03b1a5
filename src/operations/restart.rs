//! `restart`: the services of hosts, one host after the other under the gate of their role.
//!
//! Invariant: whether a service was restarted is observed on its host: a service that has run for less time than has passed since the
//! first execution of an unfinished `restart` is not restarted again. Ages are compared, not clocks: the host's may be off.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;

use super::{Access, Cluster, Phases, access::not_there, locked, up::wait_healthy};
use crate::{
    clock,
    error::{Error, Result},
    events::{Event, TaskStatus},
    health::{Report, ask_host},
    inventory::{Host, HostId, Role, select},
    observed::HostState,
    rolling::{self, Gate, Work},
    ssh::Fleet,
};

/// How long a service may take to stop and to start.
const RESTART_TIMEOUT: Duration = Duration::from_secs(360);
/// How long a host may take to answer; the agent may have to be copied to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of a service's log that an error shows.
const LOG_LINES: usize = 3;

/// Prints the state of unit `$1`, when it was started, and how long the host has run.
const SCRIPT: &str = r#"systemctl show -p ActiveState,ExecMainStartTimestampMonotonic -- "$1"
echo "Uptime=$(cut -d ' ' -f 1 /proc/uptime)"
echo end"#;

/// A host's service.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Service {
    active: bool,
    /// how long it has run, in seconds
    age_s: f64,
}

impl Service {
    /// From what the script prints; `None` if that is not all of it.
    fn parse(text: &str) -> Option<Self> {
        let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let started_s = of("ExecMainStartTimestampMonotonic")?.parse::<f64>().ok()? / 1e6;
        let uptime_s = of("Uptime")?.parse::<f64>().ok()?;
        text.lines().any(|l| l == "end").then_some(Self { active: of("ActiveState")? == "active", age_s: (uptime_s - started_s).max(0.0) })
    }

    /// Whether it is still to be restarted, where that was first asked for so many seconds ago.
    fn is_due(self, asked_s: f64) -> bool {
        !self.active || self.age_s >= asked_s
    }
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
    let mut work = Restart { cluster, access: &access, restarted: Vec::new() };
    let (due, already) = match (all, cluster.recorder.instance_began_ms()) {
        (false, Some(began_ms)) => work.divide(hosts, began_ms).await?,
        _ => (hosts.iter().map(|h| h.id).collect(), Vec::new()),
    };
    if let (false, Some(began_ms)) = (already.is_empty(), cluster.recorder.instance_began_ms()) {
        let since = clock::local(began_ms);
        reporter.say(&format!("restarted since {since}: {}; `--all` restarts them again", already.join(", ")));
    }
    let roll = async {
        for role in [Role::Coordinator, Role::Broker] {
            let of_role: Vec<HostId> = due.iter().copied().filter(|id| id.role() == role).collect();
            if !of_role.is_empty() {
                rolling::roll(&mut work, role, of_role, &cluster.interrupted).await?;
            }
        }
        Ok(())
    };
    phases.time(reporter, "restart", roll).await?;
    let restarted = work.restarted;
    let report = phases.time(reporter, "health", wait_healthy(cluster, &access.observed, &access.fleet)).await?;
    access.fleet.close().await;
    Ok(Restarted { restarted, already, report: Some(report) })
}

struct Restart<'a> {
    cluster: &'a Cluster,
    access: &'a Access,
    restarted: Vec<String>,
}

impl Restart<'_> {
    /// Which hosts are to be restarted, and the names of those that were since then.
    async fn divide(&self, hosts: &[Host], began_ms: i64) -> Result<(Vec<HostId>, Vec<String>)> {
        let (mut due, mut already) = (Vec::new(), Vec::new());
        let asks = hosts.iter().map(|h| async move { (h, self.service(h).await, seconds_since(began_ms)) });
        for (host, service, asked_s) in join_all(asks).await {
            match service?.is_due(asked_s) {
                true => due.push(host.id),
                false => already.push(host.name.clone()),
            }
        }
        Ok((due, already))
    }

    async fn service(&self, host: &Host) -> Result<Service> {
        let unit = self.unit(host.id);
        let argv = ["sh", "-c", SCRIPT, "sh", unit];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(&self.access.fleet, host.id, None, &argv)).await;
        let failed = |why: String| {
            Error::failed(format!("{}: cannot ask since when {unit} runs: {why}", host.name))
                .hint("nothing was restarted; `septet health` shows more")
        };
        let text = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        Service::parse(&text).ok_or_else(|| failed("the answer is incomplete".into()))
    }

    fn unit(&self, id: HostId) -> &'static str {
        self.cluster.inventory.engine.unit(id.role()).unwrap_or_default()
    }

    async fn one(&self, id: HostId) -> Result<String> {
        let (name, unit) = (self.name(id), self.unit(id));
        restart_unit(&self.access.fleet, id, unit).await.map_err(|why| {
            Error::failed(format!("{name}: {unit} does not restart: {why}"))
                .hint("the hosts that follow are untouched; `septet logs HOST` shows its log; the same command goes on from there")
        })?;
        self.tell(Event::Task {
            host: name.clone(),
            task: format!("Restart {unit}"),
            place: "septet restart".into(),
            item: None,
            status: TaskStatus::Changed,
            msg: String::new(),
            diff: None,
            module: "systemd".into(),
        });
        Ok(name)
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
    let (out, _) = connection.run(&command, true, RESTART_TIMEOUT, std::future::pending()).await.map_err(|e| e.to_string())?;
    match out.code {
        Some(0) => Ok(()),
        code => match String::from_utf8_lossy(&out.stderr).trim() {
            "" => Err(format!("systemctl ended with {}", code.map_or_else(|| "a signal".to_owned(), |c| c.to_string()))),
            words => Err(words.to_owned()),
        },
    }
}

fn seconds_since(ms: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    (now - ms as f64 / 1e3).max(0.0)
}

impl Work for Restart<'_> {
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::new(self.access.gate(self.cluster)))
    }
    fn name(&self, id: HostId) -> String {
        self.cluster.inventory.hosts.iter().find(|h| h.id == id).map(|h| h.name.clone()).unwrap_or_default()
    }
    fn tell(&self, event: Event) {
        self.cluster.reporter.emit(&event);
    }
    fn act<'a>(&'a mut self, hosts: &'a [HostId]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let done = join_all(hosts.iter().map(|id| self.one(*id))).await;
            self.restarted.extend(done.into_iter().collect::<Result<Vec<_>>>()?);
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_host_says_of_its_service() {
        let text = "ActiveState=active\nExecMainStartTimestampMonotonic=100000000\nUptime=160.5\nend\n";
        assert_eq!(Service::parse(text), Some(Service { active: true, age_s: 60.5 }));
        assert_eq!(Service::parse(&text.replace("=active", "=failed")).map(|s| s.active), Some(false));
        for missing in ["end\n", "Uptime=160.5\n", "ActiveState=active\n"] {
            assert_eq!(Service::parse(&text.replace(missing, "")), None, "{missing}");
        }
    }

    #[test]
    fn what_was_restarted_since_it_was_asked_for_is_done() {
        let ran = |age_s| Service { active: true, age_s };
        assert!(ran(61.0).is_due(60.0));
        assert!(!ran(59.0).is_due(60.0));
        // It does not run: whatever was done to it, it is not done.
        assert!(Service { active: false, age_s: 1.0 }.is_due(60.0));
        // A clock of ours that went back makes everything due.
        assert!(ran(0.0).is_due(0.0));
    }

    proptest! {
        /// Killed after any number of hosts, each host is restarted once by the two executions together.
        #[test]
        fn cut_off_anywhere_each_host_is_restarted_once(hosts in 1usize..20, cut in 0usize..20, took_s in 1u32..100) {
            let cut = cut.min(hosts);
            let begun = 10_000.0;
            let mut started: Vec<f64> = vec![0.0; hosts];
            let mut restarts = vec![0; hosts];
            let mut now = begun;
            let due = |started: &[f64], now: f64| -> Vec<usize> {
                (0..hosts).filter(|i| ran(now - started[*i]).is_due(now - begun)).collect()
            };
            fn ran(age_s: f64) -> Service {
                Service { active: true, age_s }
            }
            for (n, host) in due(&started, now).into_iter().enumerate() {
                if n == cut {
                    break;
                }
                now += f64::from(took_s);
                started[host] = now;
                restarts[host] += 1;
            }
            now += 1000.0;
            for host in due(&started, now) {
                restarts[host] += 1;
            }
            prop_assert!(restarts.iter().all(|n| *n == 1), "{restarts:?}");
        }
    }
}
