//! `septet ssh`

use std::{
    os::unix::process::CommandExt,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
};

use super::Global;
use crate::{
    error::{Error, Result, nearest},
    operations::Access,
    playbook::Options,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The host; its name, or the name without the prefix [default: the control host]
    host: Option<String>,
    /// A command to run there instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs it: OpenSSH's client takes over, with the cluster's key and known host keys.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let wanted = a.host.clone().unwrap_or_else(|| cluster.inventory.hosts[0].name.clone());
    let host = cluster.inventory.find(&wanted).ok_or_else(|| {
        let e = Error::invalid(format!("there is no host `{wanted}` in the inventory"));
        match nearest(&wanted, cluster.inventory.hosts.iter().map(|h| h.name.as_str())) {
            Some(n) => e.hint(format!("did you mean `{n}`?")),
            None => e,
        }
    })?;
    let observed = cluster.provider.observe().await?;
    let access = Access::new(&cluster, observed)?;
    let uuid = access.observed.uuid.clone().unwrap_or_default();
    let name = access
        .observed
        .host(host.id)
        .map(|h| h.name.clone())
        .ok_or_else(|| Error::failed(format!("{} does not exist", host.name)).hint("`septet up` makes it"))?;
    let error = Command::new("ssh").arg("-F").arg(Access::ssh_config(&uuid)?).arg(name).args(&a.command).exec();
    Err(Error::failed(format!("ssh: {error}")).hint("install OpenSSH's client"))
}
