//! `septet restart`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, Parameters, Recorded, print_data};
use crate::{
    error::{Error, Result},
    operations,
    playbook::Options,
    report::hosts_table,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Group, host or pattern
    #[arg(default_value = "all")]
    pub pattern: String,
    /// Also restart hosts that an unfinished restart has restarted already
    #[arg(long)]
    all: bool,
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        Parameters::from([("pattern", self.pattern.clone())])
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let options = Options::default();
    let cluster = g.cluster(options, g.reporter(false), interrupted)?;
    let done = operations::restart(&cluster, &a.pattern, a.all).await?;
    if g.json {
        return g.print_result("result", serde_json::to_value(&done).map_err(|e| Error::failed(e.to_string()))?);
    }
    if let Some(report) = &done.report {
        print_data(&(hosts_table(&report.hosts) + "\n"))?;
    }
    eprintln!("\n{} restarted, {} had been already; the cluster is healthy", done.restarted.len(), done.already.len());
    Ok(())
}
