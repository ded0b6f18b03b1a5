//! `septet rename`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, Parameters, Recorded, up};
use crate::{
    error::{Error, Result},
    inventory::check_prefix,
    operations,
    playbook::Options,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The new prefix
    pub prefix: String,
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        Parameters::from([("prefix", self.prefix.clone())])
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    check_prefix(&a.prefix).map_err(Error::invalid)?;
    let options = Options::default();
    let mut cluster = g.cluster(options, g.reporter(false), interrupted)?;
    let outcome = operations::rename(&mut cluster, &a.prefix).await?;
    up::finish(g, &cluster, &outcome)
}
