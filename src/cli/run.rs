//! `septet run`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, Parameters, Recorded, RunOptions};
use crate::{
    error::{Error, Result},
    operations,
};

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

impl Arguments {
    /// Whether nothing is changed.
    pub(super) fn only_compares(&self) -> bool {
        self.check
    }
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        let mut parameters = self.options.parameters();
        parameters.insert("playbook", self.playbook.clone());
        parameters.extend(self.limit.clone().map(|l| ("limit", l)));
        parameters
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let mut options = a.options.options()?;
    options.check = a.check;
    options.limit = a.limit.clone();
    let mut cluster = g.cluster(options, g.reporter(a.options.diff), interrupted)?;
    let recap = operations::run_playbook(&mut cluster, &a.playbook).await?;
    if !g.json {
        return Ok(());
    }
    g.print_result("result", serde_json::to_value(&recap).map_err(|e| Error::failed(e.to_string()))?)
}
