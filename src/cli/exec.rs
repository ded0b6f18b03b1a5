//! `septet exec`

use std::{
    io::IsTerminal,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    inventory::select,
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
    let asks = hosts.iter().map(|h| {
        let (access, line) = (&access, line.as_str());
        async move {
            let connected = tokio::select! {
                c = access.fleet.connection(h.id) => c,
                () = stop::raised(interrupted) => Err(SshError::Lost("interrupted before the command began".into())),
            };
            let result = match connected {
                Ok(c) => c.run(line, a.r#become, limit, stop::raised(interrupted)).await,
                Err(e) => Err(e),
            };
            Ran::new(&h.name, result, a.timeout)
        }
    });
    let results = join_all(asks).await;
    access.fleet.close().await;
    show(g, &results)?;
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

fn show(g: &Global, results: &[Ran]) -> Result<()> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if g.json {
        let all: Vec<_> = results
            .iter()
            .map(|r| {
                let (stdout, stderr) = (text(&r.out.stdout), text(&r.out.stderr));
                json!({ "host": r.host, "code": r.out.code, "stdout": stdout, "stderr": stderr, "error": r.error })
            })
            .collect();
        return print_json(&all);
    }
    for Ran { host, out, error, .. } in results {
        // One host's output is left as it is, so that it can be used.
        let prefix = if results.len() > 1 { format!("{host} | ") } else { String::new() };
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
    }
    Ok(())
}
