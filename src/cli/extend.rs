//! `septet extend`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, Parameters, Recorded};
use crate::{
    clock,
    error::{Error, Result},
    inventory::parse_duration,
    operations,
    playbook::Options,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long the cluster is wanted from now on, as 90m, 8h or 2d
    pub ttl: String,
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        Parameters::from([("ttl", self.ttl.clone())])
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let ttl = parse_duration(&a.ttl).map_err(Error::invalid)?;
    let options = Options::default();
    let mut cluster = g.cluster(options, g.reporter(false), interrupted)?;
    let extended = operations::extend(&mut cluster, ttl).await?;
    if g.json {
        return g.print_result("result", serde_json::to_value(extended).map_err(|e| Error::failed(e.to_string()))?);
    }
    eprintln!("{} expires at {}", cluster.inventory.cluster, clock::local_s(extended.expires_s));
    Ok(())
}
