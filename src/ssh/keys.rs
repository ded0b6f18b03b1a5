//! Keys: the cluster's own, kept in the user's state directory, and the hosts'.

use std::sync::Arc;

use russh::keys::{Algorithm, PrivateKey, key::safe_rng, ssh_key::LineEnding};

use crate::{
    error::{Error, Result},
    identity::ClusterId,
    state::{KEY_FILE, State},
};

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

/// The cluster's key, made if there is none. Says whether it is new.
pub fn cluster_key(id: ClusterId) -> Result<(Arc<PrivateKey>, bool)> {
    let state = State::cluster(id)?;
    if let Some(text) = state.read(KEY_FILE)? {
        let key = PrivateKey::from_openssh(&text).map_err(|e| {
            Error::failed(format!("{}: {e}", state.path_of(KEY_FILE).display())).hint("remove the file: `septet up` plants a new key")
        })?;
        return Ok((Arc::new(key), false));
    }
    let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(broken)?;
    key.set_comment(format!("septet {id}"));
    state.write(KEY_FILE, &key.to_openssh(LineEnding::LF).map_err(broken)?)?;
    Ok((Arc::new(key), true))
}

/// A key that no host knows, for hosts that are reached with the user's own keys.
pub fn unknown_key() -> Result<Arc<PrivateKey>> {
    PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map(Arc::new).map_err(broken)
}

/// A key's public half, as for `authorized_keys`.
pub fn public_line(key: &PrivateKey) -> Result<String> {
    key.public_key().to_openssh().map_err(broken)
}
