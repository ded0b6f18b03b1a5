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
    ssh::quote,
    stop,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The host; its name, or the name without the prefix [default: the control host]
    host: Option<String>,
    /// A command to run there instead of a shell; several words are passed as they are, one word goes through a shell
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
    let observed = stop::or_stop(interrupted, cluster.provider.observe()).await?;
    let access = Access::new(&cluster, observed)?;
    let missing = || Error::failed(format!("{} does not exist", host.name)).hint("`septet up` makes it");
    let id = access.observed.uuid.ok_or_else(missing)?;
    let there = access.observed.host(host.id).ok_or_else(missing)?;
    let own = access.fleet.endpoint(host.id).and_then(|e| e.own.clone());
    if there.host_key.is_empty() && own.is_none() {
        return Err(Error::failed(format!("{}: its mark `hostkey` holds no host key; refusing to connect", host.name)).hint(match cluster
            .provider
            .removal_takes_data()
        {
            None => "its labels or tags were changed; remove the host, and `septet up` creates it again with its data".to_owned(),
            Some(why) => format!("its labels or tags were changed; remove the host, and `septet up` creates it again: {why}"),
        }));
    }
    access.fleet.is_up(host.id).map_err(|e| Error::failed(format!("{}: {e}", host.name)))?;
    let line = match a.command.as_slice() {
        [one] => one.clone(),
        many => many.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    };
    // Behind `--` nothing is an option, whatever it looks like.
    let mut ssh = Command::new("ssh");
    match own {
        // A host that Septet did not make: as the user would connect to it.
        Some(own) => ssh.args(own.ask.arguments()),
        None => ssh.arg("-F").arg(Access::ssh_config(id)?).arg("--").arg(&host.name),
    };
    if !line.is_empty() {
        ssh.arg(line);
    }
    let error = ssh.exec();
    Err(Error::failed(format!("ssh: {error}")).hint("install OpenSSH's client"))
}
