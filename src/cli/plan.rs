//! `septet plan`

use std::sync::{Arc, atomic::AtomicBool};

use serde_json::json;

use super::{Global, RunOptions, print_json};
use crate::{
    error::{Error, Kind, Result},
    operations,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Exit with code 4 if anything would change
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    options: RunOptions,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let reporter = g.data_reporter(true);
    let mut cluster = g.cluster(a.options.options(g)?, reporter, interrupted)?;
    let planned = operations::preview(&mut cluster).await?;
    let (steps, tasks) = (planned.plan.all().count(), planned.recap.changed());
    if g.json {
        print_json(&json!({
            "pending": planned.pending(), "steps": planned.plan, "tasks": planned.recap,
            "unseen": planned.unseen, "left": planned.left, "checks": planned.checks, "cost": planned.estimate,
            "old_names": planned.old_names,
        }))?;
    } else if planned.pending() {
        let left = planned.left.len();
        eprintln!(
            "\n{steps} changes to hosts, {tasks} tasks would change something, {left} hosts are left as they are; `{}` does it",
            g.command("up")
        );
    } else {
        eprintln!("nothing would change: {} matches {}", cluster.inventory.cluster, cluster.inventory.shown_path());
    }
    if a.exit_code && planned.pending() {
        return Err(Error::failed("").kind(Kind::Pending));
    }
    Ok(())
}
