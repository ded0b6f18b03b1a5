//! Bytes that move once: what several hosts need goes to the control host, and from there to the others.
//!
//! The control host logs in to the others with the cluster's key, which it does not have: it asks for signatures over an agent
//! channel, and [`signing`](super::signing) makes one for each transfer.
//!
//! Invariants: the key never leaves this process; on the receiving host a file gets its name only after its digest was checked.

use std::time::Duration;

use super::{
    Connection, Endpoint, SshError, host_key,
    landing::{self, Lands},
    quote,
};

/// Time for one file from the control host to another.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A file that is to lie at the same path on another host.
#[derive(Debug, Clone, Copy)]
pub struct Cargo<'a> {
    /// its path, on both hosts
    pub path: &'a str,
    /// SHA-256, hex
    pub digest: &'a str,
    /// what it is on the other host
    pub lands: Lands,
}

/// Sends a file of the control host to another host.
pub async fn send(control: &Connection, to: &Endpoint, cargo: Cargo<'_>) -> Result<(), SshError> {
    let Cargo { path, digest, lands } = cargo;
    let receive = landing::script(path, digest, lands);
    let remote = format!("sudo -n sh -c {}", quote(&receive));
    let place = if to.port == 22 { to.host.clone() } else { format!("[{}]:{}", to.host, to.port) };
    let host_key = host_key(&to.host_key)?;
    let known = host_key.to_openssh().map_err(|e| SshError::Agent(format!("the host key of {} cannot be written: {e}", to.name)))?;
    // OpenSSH reads known keys from a file only; it holds this host's key and lives as long as the transfer.
    let script = format!(
        "set -e; k=$(mktemp); trap 'rm -f \"$k\"' EXIT; printf '%s\\n' {known} > \"$k\"; sudo -n cat {path} | \
         ssh -F /dev/null -a -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=\"$k\" -o GlobalKnownHostsFile=/dev/null \
         -o HostKeyAlgorithms=ssh-ed25519 -o ConnectTimeout=10 -o ServerAliveInterval=10 -o LogLevel=ERROR -p {port} {user}@{host} {remote}",
        known = quote(&format!("{place} {known}")),
        port = to.port,
        user = control.user,
        host = to.host,
        remote = quote(&remote),
    );
    let out = control.exec_with_agent(&format!("sh -c {}", quote(&script)), &host_key, TIMEOUT).await?;
    if out.code == Some(0) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(SshError::Agent(format!("{path} does not get from the control host to {}: {words}", to.name)))
}
