//! `check`: whether this machine, the provider and the hosts are as they must be. It changes nothing.
//!
//! Invariants: every finding says what was found and, unless it passes, what to do; judging is pure; what cannot be asked is a warning
//! and never passes.

mod host;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;

use super::{Access, Cluster};
use crate::{
    engine::{
        self,
        listeners::{Listener, listeners},
    },
    error::{Error, Result},
    health::clocks,
    inventory::{HostId, Role},
    observed::{HostState, Observed},
    plan::{self, Step},
    provider::Verdict,
};

use host::{Facts, Question, now_s};

/// How long a host may take for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// a host's name, `provider` or `this machine`
    pub place: String,
    /// what was looked at
    pub check: String,
    /// how it came out
    pub verdict: Verdict,
    /// what was found
    pub finding: String,
    /// what to do
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    fn new(place: &str, check: &str, verdict: Verdict, finding: impl Into<String>) -> Self {
        Self { place: place.to_owned(), check: check.to_owned(), verdict, finding: finding.into(), hint: None }
    }
    fn pass(place: &str, check: &str, finding: impl Into<String>) -> Self {
        Self::new(place, check, Verdict::Pass, finding)
    }
    fn advice(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }
}

/// Looks at everything.
pub async fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut out = vec![ssh_client()];
    let observed = match cluster.provider.observe().await {
        Ok(observed) => {
            out.extend(provider(cluster, &observed).await);
            observed
        }
        // One of the hosts that exist already stands in the way; the others are looked at all the same.
        Err(e) if !cluster.provider.given().is_empty() => {
            out.push(failure("hosts", e));
            Observed::default()
        }
        Err(e) => return Err(e),
    };
    if observed.hosts.is_empty() {
        let access = Access::before_first_up(cluster, observed)?;
        if !access.observed.hosts.is_empty() {
            out.extend(hosts(cluster, &access).await);
            access.fleet.close().await;
            return Ok(out);
        }
        out.push(Finding::pass("provider", "hosts", "no host exists yet; what is on hosts is checked once `septet up` has made them"));
        return Ok(out);
    }
    let access = Access::new(cluster, observed)?;
    out.extend(hosts(cluster, &access).await);
    access.fleet.close().await;
    Ok(out)
}

/// OpenSSH's client is needed by `septet ssh` alone.
fn ssh_client() -> Finding {
    let found = std::process::Command::new("ssh").arg("-V").output().is_ok_and(|o| o.status.success());
    match found {
        true => Finding::pass("this machine", "packages", "OpenSSH's client is there"),
        false => Finding::new("this machine", "packages", Verdict::Warn, "OpenSSH's client is missing")
            .advice("`septet ssh` needs it: install the package `openssh-client` (Debian) or `openssh-clients` (rpm)"),
    }
}

/// An error as a finding about the provider.
fn failure(check: &str, e: Error) -> Finding {
    let finding = Finding::new("provider", check, Verdict::Fail, e.message);
    match e.hint {
        Some(hint) => finding.advice(hint),
        None => finding,
    }
}

/// What the provider says of the steps to the wanted hosts: limits, quotas, permissions.
async fn provider(cluster: &Cluster, observed: &Observed) -> Vec<Finding> {
    let failed = |e| vec![failure("plan", e)];
    let steps: Vec<Step> = match plan::plan(&cluster.inventory, observed) {
        Ok(plan) => plan.all().cloned().collect(),
        Err(e) => return failed(e),
    };
    let Some(machines) = cluster.provider.machines() else { return Vec::new() };
    match machines.preflight(observed, &steps).await {
        Err(e) => failed(e),
        Ok(checks) if checks.is_empty() => {
            vec![Finding::pass("provider", "limits", format!("nothing stands in the way of {} steps", steps.len()))]
        }
        Ok(checks) => {
            let one = |c: crate::provider::Check| Finding {
                place: "provider".into(),
                check: c.name.to_owned(),
                verdict: c.verdict,
                finding: c.finding,
                hint: c.hint,
            };
            checks.into_iter().map(one).collect()
        }
    }
}

/// Asks every host that runs, all at once, and judges what they say.
async fn hosts(cluster: &Cluster, access: &Access) -> Vec<Finding> {
    let (inventory, observed) = (&cluster.inventory, &access.observed);
    let listeners = listeners(inventory);
    let running: Vec<HostId> = observed.hosts.iter().filter(|h| h.state == HostState::Running).map(|h| h.id).collect();
    let address = |id: HostId| observed.host(id).map(|h| h.address.to_string()).unwrap_or_default();
    // The names of hosts are written by the first `up`.
    let is_named = observed.uuid.is_some();
    let names: Vec<(String, String)> =
        inventory.hosts.iter().filter(|h| is_named && running.contains(&h.id)).map(|h| (h.name.clone(), address(h.id))).collect();
    let asks = inventory.hosts.iter().map(|h| {
        let to = |l: &Listener| {
            let targets = inventory.of(l.role).filter(|t| t.id != h.id && running.contains(&t.id));
            targets.map(|t| (t.name.clone(), address(t.id), l.port)).collect::<Vec<_>>()
        };
        let question = Question {
            unit: inventory.engine.unit(h.id.role()).unwrap_or_default(),
            data: engine::data::directory(inventory, h.id),
            names: names.clone(),
            ports: listeners.iter().filter(|l| l.always && l.from.contains(&h.id.role())).flat_map(to).collect(),
            own_ports: listeners.iter().filter(|l| l.role == h.id.role() && l.is_used(inventory)).map(|l| l.port).collect(),
            relays: h.id.role() == Role::Control,
        };
        let is_running = running.contains(&h.id);
        async move {
            if !is_running {
                return (h, question, Err("it does not exist or does not run: `septet up` makes and starts it".to_owned()));
            }
            // By the shell: a host that is no cluster's yet gets no agent. It is connected to first: only the question itself is timed.
            let ask = async {
                let connection = access.fleet.connection(h.id).await?;
                let before = now_s();
                let out = connection.exec_as_root(&question.command(), ANSWER_TIMEOUT).await?;
                Ok::<_, crate::ssh::SshError>((String::from_utf8_lossy(&out.stdout).into_owned(), before, now_s()))
            };
            let answer = match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
                Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
                Ok(Err(e)) => Err(e.to_string()),
                Ok(Ok((text, before, after))) => Facts::parse(&text, before, after).ok_or_else(|| "the answer is incomplete".to_owned()),
            };
            (h, question, answer)
        }
    });
    let answers = access.fleet.all(asks).await;
    let active: BTreeSet<&str> =
        answers.iter().filter(|(_, _, a)| a.as_ref().is_ok_and(|f| f.active)).map(|(h, ..)| h.name.as_str()).collect();
    let (mut out, mut offsets) = (Vec::new(), BTreeMap::new());
    for (host, question, answer) in &answers {
        match answer {
            Ok(facts) => {
                out.extend(host::judge(&host.name, question, facts, &active));
                offsets.extend(facts.clock.map(|c| (host.id, c)));
            }
            Err(why) => out.push(
                Finding::new(&host.name, "connection", Verdict::Fail, why.clone()).advice("`septet health` shows what is wrong with it"),
            ),
        }
    }
    let off: BTreeMap<HostId, String> = clocks(&offsets).into_iter().collect();
    for (host, ..) in answers.iter().filter(|(h, ..)| offsets.contains_key(&h.id)) {
        out.push(match off.get(&host.id) {
            None => Finding::pass(&host.name, "clock", "agrees with the other hosts"),
            Some(how) => Finding::new(&host.name, "clock", Verdict::Fail, how.clone())
                .advice("synchronise the hosts' clocks: `timedatectl set-ntp true`, or chrony"),
        });
    }
    out
}

/// The worst verdict.
pub fn worst(findings: &[Finding]) -> Verdict {
    let has = |v| findings.iter().any(|f| f.verdict == v);
    match () {
        () if has(Verdict::Fail) => Verdict::Fail,
        () if has(Verdict::Warn) => Verdict::Warn,
        () => Verdict::Pass,
    }
}
