//! `septet exec`

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    inventory::{HostId, select},
    observed::Observed,
    operations::Access,
    playbook::Options,
    ssh::{End, Output, SshError, quote},
    stop,
    visible::visible,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Group, host or pattern
    pattern: String,
    /// Run as root
    #[arg(short, long)]
    r#become: bool,
    /// Time limit in seconds; the command is then ended on the hosts, as at Ctrl-C
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// The command; several words are passed as they are, one word goes through a shell. It gets no standard input;
    /// `septet ssh HOST -- COMMAND` passes it on
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What became of the command on one host.
struct Ran {
    host: String,
    out: Output,
    /// why there is no exit code
    error: Option<String>,
    /// the user wanted to stop, and it had begun
    stopped: Option<bool>,
}

impl Ran {
    fn new(host: &str, result: std::result::Result<(Output, End), SshError>, timeout_s: u64) -> Self {
        let (out, error, stopped) = match result {
            Err(e) => (Output::default(), Some(e.to_string()), None),
            Ok((out, End::Itself)) if out.code.is_none() => (out, Some("killed".into()), None),
            Ok((out, End::Itself)) => (out, None, None),
            Ok((out, End::TimeUp { confirmed })) => (out, Some(format!("not done after {timeout_s} s; {}", fate(confirmed))), None),
            Ok((out, End::Stopped { confirmed })) => (out, Some(format!("interrupted; {}", fate(confirmed))), Some(confirmed)),
        };
        Self { host: host.to_owned(), out, error, stopped }
    }

    /// For the list of hosts where it failed.
    fn failure(&self) -> Option<String> {
        match (&self.error, self.out.code) {
            (None, Some(0)) => None,
            (Some(why), _) => Some(format!("{} ({why})", self.host)),
            (None, code) => Some(format!("{} ({})", self.host, code.unwrap_or_default())),
        }
    }
}

/// Why a host is not connected to: it did not answer when it was asked whose it is, and may do so by now.
fn unreached(observed: &Observed, id: HostId) -> Option<SshError> {
    let message = &observed.unreached.get(&id)?.message;
    // The host is named wherever this is shown.
    let place = observed.host(id).map(|h| format!("{} ({}): ", h.name, h.reference)).unwrap_or_default();
    Some(SshError::Unreachable(message.strip_prefix(&place).unwrap_or(message).to_owned()))
}

fn fate(confirmed: bool) -> &'static str {
    if confirmed { "ended" } else { "the host did not confirm that it ended" }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let hosts = select(&cluster.inventory, &a.pattern)?;
    let observed = stop::or_stop(interrupted, cluster.provider.observe()).await?;
    let access = Access::new(&cluster, observed)?;
    let line = match a.command.as_slice() {
        [one] => one.clone(),
        many => many.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    };
    let limit = Duration::from_secs(a.timeout);
    let progress = Progress::new(hosts.len());
    let asks = hosts.iter().enumerate().map(|(at, h)| {
        let (access, line) = (&access, line.as_str());
        async move {
            let connected = match unreached(&access.observed, h.id) {
                Some(why) => Err(why),
                None => tokio::select! {
                    c = access.fleet.connection(h.id) => c,
                    () = stop::raised(interrupted) => Err(SshError::Lost("interrupted before the command began".into())),
                },
            };
            let result = match connected {
                Ok(c) => c.run(line, a.r#become, limit, stop::raised(interrupted)).await,
                Err(e) => Err(e),
            };
            (at, Ran::new(&h.name, result, a.timeout))
        }
    });
    let at_a_time = if g.forks == 0 { hosts.len().max(1) } else { g.forks };
    let mut running = stream::iter(asks).buffer_unordered(at_a_time);
    let (mut waiting, mut results) = (BTreeMap::new(), Vec::new());
    while let Some((at, ran)) = running.next().await {
        progress.done(&ran);
        waiting.insert(at, ran);
        // In the order of the hosts, as far as all before have ended.
        while let Some(ran) = waiting.remove(&results.len()) {
            if !g.json {
                progress.suspend(|| show(&ran, hosts.len() > 1))?;
            }
            results.push(ran);
        }
    }
    drop(running);
    progress.end();
    access.fleet.close().await;
    match g.json {
        true => show_json(&results)?,
        false if hosts.len() > 1 => eprintln!("{}", summary(&results)),
        false => {}
    }
    let failures: Vec<String> = results.iter().filter_map(Ran::failure).collect();
    let error = match results.iter().filter(|r| r.stopped == Some(true)).count() {
        _ if failures.is_empty() && !stop::asked(interrupted) => return Ok(()),
        0 if stop::asked(interrupted) => stop::error(),
        n if stop::asked(interrupted) => {
            let hosts = if n == 1 { "host" } else { "hosts" };
            Error::failed(format!("interrupted; ended on {n} {hosts}")).kind(Kind::Interrupted)
        }
        _ => Error::failed(format!("failed on {}", failures.join(", "))),
    };
    if g.json {
        // The array is the one document on standard output.
        eprintln!("error: {}", visible(&error.message));
        return Err(Error::failed("").kind(error.kind));
    }
    Err(error)
}

fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

fn show_json(results: &[Ran]) -> Result<()> {
    let all: Vec<_> = results
        .iter()
        .map(|r| {
            let (stdout, stderr) = (text(&r.out.stdout), text(&r.out.stderr));
            json!({ "host": r.host, "code": r.out.code, "stdout": stdout, "stderr": stderr, "error": r.error })
        })
        .collect();
    print_json(&all)
}

fn show(ran: &Ran, named: bool) -> Result<()> {
    let Ran { host, out, error, .. } = ran;
    // One host's output is left as it is, so that it can be used.
    let prefix = if named { format!("{host} | ") } else { String::new() };
    for l in text(&out.stdout).lines() {
        let l = if std::io::stdout().is_terminal() { visible(l) } else { l.into() };
        print_data(&format!("{prefix}{l}\n"))?;
    }
    for l in text(&out.stderr).lines() {
        eprintln!("{prefix}{}", visible(l));
    }
    if let Some(error) = error {
        eprintln!("{host}: {}", visible(error));
    }
    Ok(())
}

/// How the command ended on all hosts: `3 hosts: 2 ok, 1 failed`.
fn summary(results: &[Ran]) -> String {
    let failed = results.iter().filter(|r| r.failure().is_some()).count();
    let failures = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    format!("{} hosts: {} ok{failures}", results.len(), results.len() - failed)
}

/// How many hosts have ended, on a terminal and for more than one.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(hosts: usize) -> Self {
        if hosts < 2 || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(hosts as u64);
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {pos} of {len} hosts, {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }
    fn done(&self, ran: &Ran) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
            bar.set_message(ran.host.clone());
        }
    }
    fn suspend<T>(&self, what: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(what),
            None => what(),
        }
    }
    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        inventory::Group,
        observed::{HostState, ObservedHost},
    };

    #[test]
    fn a_host_of_which_nobody_knows_whose_it_is_fails_with_the_reason() {
        let (id, other) = (HostId { group: Group::BROKERS, index: 1 }, HostId { group: Group::BROKERS, index: 2 });
        let host = ObservedHost {
            id,
            reference: "10.0.0.1".into(),
            name: "p-kafka01".into(),
            state: HostState::Running,
            address: IpAddr::from(Ipv4Addr::UNSPECIFIED),
            public: None,
            host_key: String::new(),
            published: BTreeMap::new(),
            architecture: None,
            size: None,
            data_volume: None,
            data_is_new: false,
        };
        let observed = |message: &str| Observed {
            hosts: vec![host.clone()],
            unreached: BTreeMap::from([(id, Error::failed(message))]),
            ..Observed::default()
        };
        let shown = |message: &str| Ran::new("p-kafka01", Err(unreached(&observed(message), id).unwrap()), 60).failure();
        assert_eq!(shown("p-kafka01 (10.0.0.1): refused").as_deref(), Some("p-kafka01 (refused)"));
        assert_eq!(shown("refused").as_deref(), Some("p-kafka01 (refused)"));
        assert!(unreached(&observed("refused"), other).is_none());
    }

    #[test]
    fn the_summary_counts_hosts() {
        let ran = |host: &str, code| Ran { host: host.into(), out: Output { code, ..Output::default() }, error: None, stopped: None };
        assert_eq!(summary(&[ran("a", Some(0)), ran("b", Some(0))]), "2 hosts: 2 ok");
        assert_eq!(summary(&[ran("a", Some(0)), ran("b", Some(3))]), "2 hosts: 1 ok, 1 failed");
        assert_eq!(ran("b", Some(3)).failure().as_deref(), Some("b (3)"));
    }
}
