//! Keys: the cluster's own, kept in the user's state directory, and the hosts'.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use russh::keys::{Algorithm, PrivateKey, key::safe_rng, ssh_key::LineEnding};

use crate::error::{Error, Result};

/// A host's key pair as it is planted.
#[derive(Debug, Clone)]
pub struct HostKey {
    /// OpenSSH private key
    pub private: String,
    /// `ssh-ed25519 AAAA…`
    pub public: String,
}

fn broken(e: impl std::fmt::Display) -> Error {
    Error::failed(format!("ssh key: {e}"))
}

/// Makes a key for a host.
pub fn new_host_key(comment: &str) -> Result<HostKey> {
    let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(broken)?;
    key.set_comment(comment);
    Ok(HostKey {
        private: key.to_openssh(LineEnding::LF).map_err(broken)?.to_string(),
        public: key.public_key().to_openssh().map_err(broken)?,
    })
}

/// Where Septet keeps what it may lose: `$XDG_STATE_HOME/septet`, or `~/.local/state/septet`.
pub fn state_dir() -> Result<PathBuf> {
    let dir =
        dirs::state_dir().ok_or_else(|| Error::failed("there is no home directory to keep keys in").hint("set HOME or XDG_STATE_HOME"))?;
    Ok(dir.join("septet"))
}

/// Directory of one cluster, made with mode 0700.
pub fn cluster_dir(uuid: &str) -> Result<PathBuf> {
    let dir = state_dir()?.join("clusters").join(uuid);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
    Ok(dir)
}

/// The cluster's key, made if there is none. Says whether it is new.
pub fn cluster_key(uuid: &str) -> Result<(Arc<PrivateKey>, bool)> {
    let path = cluster_dir(uuid)?.join("id_ed25519");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let key = PrivateKey::from_openssh(&text)
                .map_err(|e| Error::failed(format!("{}: {e}", path.display())).hint("remove the file: `septet up` plants a new key"))?;
            Ok((Arc::new(key), false))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(broken)?;
            key.set_comment(format!("septet {uuid}"));
            write_private(&path, &key.to_openssh(LineEnding::LF).map_err(broken)?)?;
            Ok((Arc::new(key), true))
        }
        Err(e) => Err(Error::failed(format!("{}: {e}", path.display()))),
    }
}

/// Writes a file that only its owner reads, as a whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut f = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary).map_err(fail)?;
    f.write_all(text.as_bytes()).and_then(|()| f.sync_all()).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

/// A key's public half, as for `authorized_keys`.
pub fn public_line(key: &PrivateKey) -> Result<String> {
    key.public_key().to_openssh().map_err(broken)
}

fn intent(cluster: &str) -> Result<PathBuf> {
    Ok(state_dir()?.join("intents").join(format!("{cluster}.uuid")))
}

/// Identity of a cluster of which nothing exists yet. It is written down before anything is made: what a killed run
/// asked for may appear only after the next one has looked, and must be of the same cluster then.
pub fn intended_uuid(cluster: &str) -> Result<String> {
    let path = intent(cluster)?;
    if let Some(uuid) = fs::read_to_string(&path).ok().and_then(|t| uuid::Uuid::parse_str(t.trim()).ok()) {
        return Ok(uuid.to_string());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
    }
    let uuid = uuid::Uuid::new_v4().to_string();
    write_private(&path, &uuid)?;
    Ok(uuid)
}

/// The identity of a cluster that a run here has begun to make: its key was made.
pub fn begun(cluster: &str) -> Result<Option<String>> {
    let uuid = fs::read_to_string(intent(cluster)?).ok().and_then(|t| uuid::Uuid::parse_str(t.trim()).ok()).map(|u| u.to_string());
    let dir = state_dir()?.join("clusters");
    Ok(uuid.filter(|u| dir.join(u).join("id_ed25519").is_file()))
}

/// Forgets what was intended, once the cluster is gone.
pub fn forget_intent(cluster: &str) -> Result<()> {
    let path = intent(cluster)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::failed(format!("{}: {e}", path.display()))),
        _ => Ok(()),
    }
}

/// Forgets a cluster's directory.
pub fn forget(uuid: &str) -> Result<()> {
    let dir = state_dir()?.join("clusters").join(uuid);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::failed(format!("{}: {e}", dir.display()))),
        _ => Ok(()),
    }
}
