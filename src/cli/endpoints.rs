//! `septet endpoints`

use std::sync::{Arc, atomic::AtomicBool};

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Result},
    operations,
    playbook::Options,
};

/// Runs it.
pub async fn run(g: &Global, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let observed = cluster.provider.observe().await?;
    if observed.hosts.is_empty() && !observed.kept.is_empty() {
        return Err(operations::only_data(&cluster.inventory, &observed));
    }
    if observed.hosts.is_empty() {
        return Err(Error::failed(format!("cluster `{}` does not exist", cluster.inventory.cluster)).hint("`septet up` makes it"));
    }
    let endpoints = operations::endpoints(&cluster, &observed);
    if g.json {
        return print_json(&endpoints);
    }
    let lines = endpoints.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}\n", v.as_str().unwrap_or_default()));
    print_data(&lines.collect::<String>())
}
