//! `septet rename`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, up};
use crate::{error::Result, operations, playbook::Options};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The new prefix
    pub prefix: String,
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let options = Options { forks: g.forks, ..Options::default() };
    let mut cluster = g.cluster(options, g.reporter(false), interrupted)?;
    let outcome = operations::rename(&mut cluster, &a.prefix).await?;
    up::finish(g, &cluster, &outcome)
}
