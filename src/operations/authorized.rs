//! The line of `authorized_keys` for this state directory's key.

use russh::keys::PrivateKey;
use sha2::{Digest, Sha256};

use crate::{error::Result, identity::ClusterId, provider::authorized::bare, ssh::keys, state};

/// Which machine, and where on it: the state directory that is made anew at the place of one that was lost takes over from it, so that the
/// lost key opens nothing. A lock asks more, see [`super::lock::identity`].
fn place() -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let machine = Some(read("/etc/machine-id")).filter(|id| !id.is_empty()).unwrap_or_else(|| read("/proc/sys/kernel/hostname"));
    let text = format!("{machine} {}", state::path()?.display());
    Ok(hex::encode(&Sha256::digest(text.as_bytes())[..8]))
}

/// The line for this state directory's key: `ssh-ed25519 AAAA… septet UUID ID USER@MACHINE`.
pub fn line(key: &PrivateKey, uuid: ClusterId) -> Result<String> {
    let public = keys::public_line(key)?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect::<String>();
    Ok(format!("{} septet {uuid} {} {}@{}", bare(&public), place()?, plain(&user), plain(&machine)))
}
