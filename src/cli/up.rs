//! `septet up`

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::json;

use super::{Global, Parameters, Recorded, RunOptions};
use crate::{
    error::Result,
    operations::{self, Cluster, UpOutcome},
    plan::PlanFile,
    report::{hosts_table, phases_table},
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Apply exactly this plan of `plan --out`, or change nothing where something has changed since
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    options: RunOptions,
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        let mut parameters = self.options.parameters();
        parameters.extend(self.plan.as_ref().map(|p| ("plan", p.display().to_string())));
        parameters
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let plan = a.plan.as_deref().map(PlanFile::read).transpose()?;
    if let Some(plan) = &plan {
        plan.is_for(&g.inventory()?.cluster)?;
    }
    let mut cluster = g.cluster(a.options.options()?, g.reporter(a.options.diff), interrupted)?;
    let outcome = operations::up(&mut cluster, plan.as_ref()).await?;
    finish(g, &cluster, &outcome)
}

/// What `up` and `rename` end with.
pub fn finish(g: &Global, cluster: &Cluster, outcome: &UpOutcome) -> Result<()> {
    let endpoints = operations::endpoints(cluster, &outcome.observed);
    let changed = outcome.steps.len() + outcome.recap.changed() + outcome.keys_added;
    if g.json {
        let phases: serde_json::Map<String, serde_json::Value> =
            outcome.phases.list().iter().map(|(n, d)| (n.clone(), d.as_secs_f64().into())).collect();
        return g.print_result(
            "result",
            json!({
                "cluster": cluster.inventory.cluster, "uuid": outcome.observed.uuid, "changed": changed, "steps": outcome.steps,
                "keys_added": outcome.keys_added,
                "tasks": outcome.recap, "hosts": outcome.report.hosts, "phases_s": phases, "endpoints": endpoints,
                "provider": outcome.provider,
            }),
        );
    }
    eprintln!();
    super::print_data(&(hosts_table(&outcome.report.hosts) + "\n"))?;
    eprintln!("\n{}\n", phases_table(outcome.phases.list()));
    if let Some(stats) = outcome.provider {
        eprintln!("{} requests to the provider, {:.1} s of waiting for it\n", stats.requests, stats.waited_s);
    }
    if changed == 0 {
        eprintln!("nothing changed: {} matches {}", cluster.inventory.cluster, cluster.inventory.shown_path());
    } else {
        eprintln!("{} is up and healthy ({changed} changes)", cluster.inventory.cluster);
    }
    eprintln!("bootstrap.servers={}", endpoints["bootstrap.servers"].as_str().unwrap_or_default());
    let next = ["health".to_owned(), format!("ssh {}", cluster.inventory.hosts[0].name), "down".to_owned()].map(|c| g.command(&c));
    eprintln!("next: {}", next.join(" | "));
    Ok(())
}
