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
    error::{Error, Result},
    inventory::select,
    operations::Access,
    playbook::Options,
    ssh::{Output, quote},
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
    /// Seconds that it may take
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// The command; several words are passed as they are, one word goes through a shell
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let hosts = select(&cluster.inventory, &a.pattern)?;
    let observed = cluster.provider.observe().await?;
    let access = Access::new(&cluster, observed)?;
    let line = match a.command.as_slice() {
        [one] => one.clone(),
        many => many.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    };
    let line = if a.r#become { format!("sudo -n -- sh -c {}", quote(&line)) } else { line };
    let limit = Duration::from_secs(a.timeout);
    let asks = hosts.iter().map(|h| {
        let (access, line) = (&access, line.as_str());
        async move {
            let result = match access.fleet.connection(h.id).await {
                Ok(c) => c.exec(line, &[], limit).await,
                Err(e) => Err(e),
            };
            (h.name.clone(), result)
        }
    });
    let results = join_all(asks).await;
    access.fleet.close().await;
    let mut bad = Vec::new();
    let mut all = Vec::new();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    for (name, result) in results {
        let out = result.unwrap_or_else(|e| Output { code: None, stdout: Vec::new(), stderr: e.to_string().into_bytes() });
        if out.code != Some(0) {
            bad.push(format!("{name} ({})", out.code.map_or_else(|| "no exit code".into(), |c| c.to_string())));
        }
        if g.json {
            all.push(json!({ "host": name, "code": out.code, "stdout": text(&out.stdout), "stderr": text(&out.stderr) }));
            continue;
        }
        // One host's output is left as it is, so that it can be used.
        let prefix = if hosts.len() > 1 { format!("{name} | ") } else { String::new() };
        for l in text(&out.stdout).lines() {
            let l = if std::io::stdout().is_terminal() { visible(l) } else { l.into() };
            print_data(&format!("{prefix}{l}\n"))?;
        }
        for l in text(&out.stderr).lines() {
            eprintln!("{prefix}{}", visible(l));
        }
    }
    if g.json {
        print_json(&all)?;
        if !bad.is_empty() {
            // The array is the one document on standard output.
            eprintln!("error: failed on {}", bad.join(", "));
            return Err(Error::failed(""));
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(Error::failed(format!("failed on {}", bad.join(", ")))) }
}
