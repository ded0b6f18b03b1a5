//! The line of `authorized_keys` for this state directory's key.

use russh::keys::PrivateKey;

use super::lock::identity;
use crate::{error::Result, identity::ClusterId, provider::authorized::bare, ssh::keys};

/// The line for this state directory's key: `ssh-ed25519 AAAA… septet UUID ID USER@MACHINE`.
pub fn line(key: &PrivateKey, uuid: ClusterId) -> Result<String> {
    let public = keys::public_line(key)?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect::<String>();
    Ok(format!("{} septet {uuid} {} {}@{}", bare(&public), identity()?, plain(&user), plain(&machine)))
}
