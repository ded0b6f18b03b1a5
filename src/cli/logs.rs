//! `septet logs`

use std::{
    io::Write,
    sync::{Arc, atomic::AtomicBool},
};

use super::Global;
use crate::{
    error::{Error, Result},
    operations::Access,
    playbook::Options,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The host; its name, or the name without the prefix
    host: String,
    /// Go on as more comes
    #[arg(short, long)]
    follow: bool,
    /// Lines from the end
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    lines: u32,
    /// All of the host's log, not only its service's
    #[arg(long)]
    all: bool,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let host = cluster.inventory.find(&a.host).ok_or_else(|| Error::invalid(format!("there is no host `{}` in the inventory", a.host)))?;
    let observed = cluster.provider.observe().await?;
    let access = Access::new(&cluster, observed)?;
    let connection = access.fleet.connection(host.id).await.map_err(|e| Error::failed(format!("{}: {e}", host.name)))?;
    let unit = cluster.inventory.engine.unit(host.id.role).filter(|_| !a.all).map(|u| format!("-u {u}")).unwrap_or_default();
    let follow = if a.follow { "-f" } else { "" };
    let command = format!("sudo -n journalctl --no-pager -n {} {unit} {follow}", a.lines);
    let code = connection
        .stream(&command, |data, is_error| {
            let _ = if is_error {
                std::io::stderr().write_all(data)
            } else {
                std::io::stdout().write_all(data).and_then(|()| std::io::stdout().flush())
            };
        })
        .await
        .map_err(|e| Error::failed(format!("{}: {e}", host.name)))?;
    access.fleet.close().await;
    match code {
        Some(0) => Ok(()),
        _ => Err(Error::failed(format!("{}: journalctl failed", host.name))),
    }
}
