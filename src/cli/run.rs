//! `septet run`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, RunOptions, print_json};
use crate::{error::Result, operations};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The playbook: a file, or the name of a shipped one
    pub playbook: String,
    /// Dry run: report what would change
    #[arg(short = 'C', long)]
    check: bool,
    /// Only hosts of this pattern
    #[arg(short, long, value_name = "PATTERN")]
    limit: Option<String>,
    #[command(flatten)]
    options: RunOptions,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let mut options = a.options.options(g)?;
    options.check = a.check;
    options.limit = a.limit.clone();
    let mut cluster = g.cluster(options, g.reporter(a.options.diff), interrupted)?;
    let recap = operations::run_playbook(&mut cluster, &a.playbook).await?;
    if g.json { print_json(&recap) } else { Ok(()) }
}
