//! `septet plan`

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::json;

use super::{Global, RunOptions, global::shown, print_json};
use crate::{
    error::{Error, Kind, Result},
    operations,
    report::counted,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Exit with code 4 if anything would change
    #[arg(long)]
    exit_code: bool,
    /// Write the plan to a file, for `up --plan`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: RunOptions,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let reporter = g.data_reporter(true);
    let mut cluster = g.cluster(a.options.options()?, reporter, interrupted)?;
    let planned = operations::preview(&mut cluster).await?;
    let (steps, tasks) = (planned.of_provider(), planned.recap.changed());
    if let Some(path) = &a.out {
        planned.file.write(path)?;
    }
    if g.json {
        print_json(&json!({
            "pending": planned.pending(), "stages": planned.file.plan(), "tasks": planned.recap,
            "unseen": planned.unseen, "left": planned.left, "checks": planned.checks, "cost": planned.estimate,
            "old_names": planned.old_names,
        }))?;
    } else if planned.pending() {
        let left = planned.left.len();
        let command = match &a.out {
            Some(path) => g.command(&format!("up --plan {}", shown(path))),
            None => g.command("up"),
        };
        eprintln!(
            "\n{} at the provider, {} on hosts, {} unchanged; `{command}` does it",
            counted(steps, "step"),
            counted(tasks, "change"),
            counted(left, "host")
        );
    } else {
        eprintln!("nothing would change: {} matches {}", cluster.inventory.cluster, cluster.inventory.shown_path());
    }
    if a.exit_code && planned.pending() {
        return Err(Error::failed("").kind(Kind::Pending));
    }
    Ok(())
}
