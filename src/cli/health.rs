//! `septet health`

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    health::{Checker, Report},
    observed::Observed,
    operations::{self, Access, Cluster},
    playbook::Options,
    report::health_table,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Repeat the check until interrupted
    #[arg(long)]
    watch: bool,
    /// Wait up to this many seconds for the cluster to become healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

async fn check(cluster: &Cluster, access: &mut Option<Access>) -> Result<(Report, Observed)> {
    let observed = cluster.provider.observe().await?;
    // Connections are kept from one check to the next, for as long as the hosts are the same.
    if access.as_ref().is_none_or(|a| a.observed != observed) && observed.uuid.is_some() {
        *access = Some(Access::new(cluster, observed.clone())?);
    }
    let fleet = access.as_ref().map(|a| &a.fleet).filter(|_| !observed.hosts.is_empty());
    let mut report = Checker { inventory: &cluster.inventory, observed: &observed, fleet }.check().await;
    operations::warn_of_end(&mut report, &*cluster.provider);
    Ok((report, observed))
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let begun = Instant::now();
    let mut access = None;
    loop {
        let (report, observed) = match check(&cluster, &mut access).await {
            Ok(found) => found,
            // The provider may answer again; what was asked for is to wait.
            Err(e) if a.watch || begun.elapsed() < Duration::from_secs(a.wait) => {
                access = None;
                if a.watch {
                    eprintln!("{e}");
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
            Err(e) => return Err(e),
        };
        let waiting = !report.healthy && begun.elapsed() < Duration::from_secs(a.wait);
        if !waiting {
            if g.json {
                print_json(&report)?;
            } else {
                print_data(&(health_table(&report) + "\n"))?;
            }
            let only_data = observed.hosts.is_empty() && !observed.kept.is_empty();
            match (a.watch, report.healthy) {
                (true, _) => {}
                (false, true) => return Ok(()),
                (false, false) if only_data && !g.json => {
                    return Err(operations::only_data(&cluster.inventory, &observed).kind(Kind::Unhealthy));
                }
                (false, false) => return Err(Error::failed("").kind(Kind::Unhealthy)),
            }
        }
        tokio::time::sleep(Duration::from_millis(if a.watch { 2000 } else { 300 })).await;
    }
}
