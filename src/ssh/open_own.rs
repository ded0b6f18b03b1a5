//! Connecting to hosts that Septet did not make: along their jump hosts, with the user's keys and agent.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use russh::{
    client::{AuthResult, Handle, connect, connect_stream},
    keys::{HashAlg, PrivateKeyWithHashAlg, PublicKey, agent::client::AgentClient},
};
use tokio::time::timeout;

use super::{CONNECT_TIMEOUT, Connection, Own, SshError, client::Client, client::Expected, config};

impl Connection {
    /// Connects to a host that Septet did not make, and finds out how `sudo` works there.
    pub async fn open_own(name: &str, to: &Own) -> Result<Self, SshError> {
        let through = to.shared.last(&to.jumps).await?;
        let mut this = Self::open_hop(to, through).await?;
        this.find_sudo(name, to).await?;
        Ok(this)
    }

    pub(super) async fn open_hop(to: &Own, through: Option<Arc<Connection>>) -> Result<Self, SshError> {
        match timeout(CONNECT_TIMEOUT, Self::open_hop_inner(to, through)).await {
            Ok(r) => r,
            Err(_) => Err(SshError::Unreachable(format!("{} does not answer within {} s", to.place(), CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn open_hop_inner(to: &Own, through: Option<Arc<Connection>>) -> Result<Self, SshError> {
        let (got, refused, open_failure) = (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::default());
        let client = Client {
            signer: None,
            expected: Expected::Known(Box::new(to.clone())),
            got: Arc::clone(&got),
            refused: refused.clone(),
            open_failure: Arc::clone(&open_failure),
        };
        let config = config(to.key_algorithms());
        let connected = match &through {
            None => connect(config, (to.host.as_str(), to.port), client).await,
            Some(jump) => connect_stream(config, jump.tcp(&to.host, to.port).await?, client).await,
        };
        let explain = |e: russh::Error| {
            let got = got.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(got) = got.filter(|_| refused.load(Ordering::SeqCst)) else {
                return SshError::Unreachable(format!("{}: {e}", to.place()));
            };
            let fingerprint = PublicKey::from_openssh(&got).map(|k| k.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default();
            match to.known().first() {
                Some(known) => SshError::HostKey { expected: known.fingerprint(HashAlg::Sha256).to_string(), got: fingerprint },
                None => SshError::UnknownHost { place: to.place(), fingerprint },
            }
        };
        let mut handle = connected.map_err(&explain)?;
        let skipped = login(&mut handle, to).await.map_err(&explain)?;
        match skipped {
            None => Ok(Self { handle, signer: None, open_failure, user: to.user.clone(), password: None, _through: through }),
            Some(skipped) if skipped.is_empty() => Err(SshError::Login(to.user.clone())),
            Some(skipped) => Err(SshError::Login(format!("{} ({})", to.user, skipped.join("; ")))),
        }
    }

    /// Whether `sudo` asks for a password, and whether the one that is known is right.
    async fn find_sudo(&mut self, name: &str, to: &Own) -> Result<(), SshError> {
        if self.user == "root" {
            return Ok(());
        }
        let free = self.exec("sudo -n -- sh -c :", b"", CONNECT_TIMEOUT).await?;
        if free.code == Some(0) {
            return Ok(());
        }
        let Some(password) = &to.become_password else {
            let words = String::from_utf8_lossy(&free.stderr).trim().to_owned();
            return Err(SshError::Sudo(format!("{} cannot become root on {name} without a password: {words}", self.user)));
        };
        let asked = self.exec("sudo -k -S -p '' -- sh -c :", &password.line(), CONNECT_TIMEOUT).await?;
        if asked.code != Some(0) {
            return Err(SshError::Sudo(format!("the password for {} is not accepted on {name}", self.user)));
        }
        self.password = Some(password.clone());
        Ok(())
    }
}

/// Logs in with what OpenSSH's client would offer: the agent's keys, then files. `None`: logged in; else why keys were left out.
async fn login(handle: &mut Handle<Client>, to: &Own) -> Result<Option<Vec<String>>, russh::Error> {
    let rsa = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
    let hash = |key: &PublicKey| if key.algorithm().is_rsa() { rsa.or(Some(HashAlg::Sha256)) } else { None };
    let mut skipped = Vec::new();
    if let Some(path) = to.agent() {
        match AgentClient::connect_uds(path).await {
            Ok(mut agent) => {
                for identity in agent.request_identities().await.unwrap_or_default() {
                    let key = identity.public_key().into_owned();
                    if !to.offers(&key) {
                        continue;
                    }
                    let hash = hash(&key);
                    match handle.authenticate_publickey_with(to.user.clone(), key, hash, &mut agent).await {
                        Ok(AuthResult::Success) => return Ok(None),
                        Ok(AuthResult::Failure { .. }) => {}
                        Err(e) => skipped.push(format!("agent: {e}")),
                    }
                }
            }
            Err(e) => skipped.push(format!("agent {}: {e}", path.display())),
        }
    }
    let (keys, unread) = to.private_keys();
    skipped.extend(unread);
    for key in keys {
        let hash = hash(key.public_key());
        if let AuthResult::Success = handle.authenticate_publickey(to.user.clone(), PrivateKeyWithHashAlg::new(Arc::new(key), hash)).await?
        {
            return Ok(None);
        }
    }
    Ok(Some(skipped))
}
