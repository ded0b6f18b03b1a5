//! Hosts that Septet did not make: reached, logged in to and recognised as OpenSSH's client would, by what `ssh -G` answers.
//!
//! Invariants: a host whose key is not in `known_hosts` is refused unless that was asked for, one whose key differs from what is
//! there always; no prompt; no password and no private key is ever shown or written.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use russh::keys::{Algorithm, PrivateKey, PublicKey, known_hosts};
use tokio::process::Command;

use super::{Jumps, SshError};
use crate::visible::Secret;

/// Time for OpenSSH's client to answer what its configuration says.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);
/// Most hosts between this machine and another one.
const MAX_JUMPS: usize = 4;
/// Largest `known_hosts` or key that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What is asked of OpenSSH's configuration: an address or an alias, and what wins over it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// An address, a name, or a `Host` of the configuration.
    pub target: String,
    /// Login name.
    pub user: Option<String>,
    /// Port of sshd.
    pub port: Option<u16>,
    /// A private key; then no other is tried.
    pub key: Option<PathBuf>,
    /// Another configuration than the user's own.
    pub config: Option<PathBuf>,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// As given: for messages, and for OpenSSH's own client.
    pub ask: Ask,
    /// Login name.
    pub user: String,
    /// Address or name of its sshd.
    pub host: String,
    /// Port of its sshd.
    pub port: u16,
    /// The name under which its key is known.
    known_as: String,
    /// Files of known keys; a new one goes to the first.
    known_files: Vec<PathBuf>,
    /// Private keys, in the order in which they are tried.
    keys: Vec<PathBuf>,
    /// Whether the agent's other keys are left out.
    only_keys: bool,
    /// The agent's socket.
    agent: Option<PathBuf>,
    /// The hosts before it, in the order in which they are passed.
    pub jumps: Vec<Own>,
    /// Connections to jump hosts, shared by all hosts behind them.
    pub shared: Arc<Jumps>,
    /// Whether an unknown key is accepted and written down.
    pub accept_new: bool,
    /// For `sudo`, where it asks for a password.
    pub become_password: Option<Secret>,
}

impl Own {
    /// Asks OpenSSH's client what its configuration says of a host.
    pub async fn resolve(ask: Ask, accept_new: bool, become_password: Option<Secret>) -> Result<Self, SshError> {
        Self::resolve_at(ask, accept_new, become_password, 0).await
    }

    async fn resolve_at(ask: Ask, accept_new: bool, become_password: Option<Secret>, depth: usize) -> Result<Self, SshError> {
        let broken = |why: String| SshError::Config(format!("{}: {why}", ask.target));
        if ask.target.is_empty() || ask.target.starts_with('-') || ask.target.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(broken("not the name of a host".into()));
        }
        let mut command = Command::new("ssh");
        command.arg("-G").args(ask.arguments()).stdin(Stdio::null()).kill_on_drop(true);
        let out = tokio::time::timeout(CONFIG_TIMEOUT, command.output()).await;
        let out = out.map_err(|_| broken("`ssh -G` does not answer".into()))?;
        let out = out.map_err(|e| broken(format!("`ssh -G`: {e}; OpenSSH's client reads the configuration")))?;
        if !out.status.success() {
            return Err(broken(format!("`ssh -G`: {}", String::from_utf8_lossy(&out.stderr).trim())));
        }
        let mut this = parse(&String::from_utf8_lossy(&out.stdout), ask.clone()).map_err(broken)?;
        this.0.accept_new = accept_new;
        this.0.become_password = become_password;
        if this.1.len() + depth > MAX_JUMPS {
            return Err(broken(format!("more than {MAX_JUMPS} jump hosts")));
        }
        for hop in this.1 {
            let hop = Ask { config: ask.config.clone(), ..jump(&hop).ok_or_else(|| broken(format!("ProxyJump {hop}")))? };
            let hop = Box::pin(Self::resolve_at(hop, accept_new, None, depth + 1)).await?;
            this.0.jumps.extend(hop.jumps.clone());
            this.0.jumps.push(Own { jumps: Vec::new(), ..hop });
        }
        Ok(this.0)
    }

    /// `host:port`, for messages.
    pub fn place(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    /// Keys that the user's files know for this host.
    pub(super) fn known(&self) -> Vec<PublicKey> {
        let of = |f: &PathBuf| known_hosts::known_host_keys_path(&self.known_as, self.port, f).unwrap_or_default();
        self.known_files.iter().filter(|f| is_small(f)).flat_map(of).map(|(_, key)| key).collect()
    }

    /// Whether a key is marked as revoked in one of the files.
    pub(super) fn is_revoked(&self, key: &PublicKey) -> bool {
        let Ok(text) = key.to_openssh() else { return true };
        let Some(blob) = text.split(' ').nth(1) else { return true };
        let lines = |f: &PathBuf| std::fs::read_to_string(f).unwrap_or_default();
        self.known_files.iter().filter(|f| is_small(f)).any(|f| lines(f).lines().any(|l| l.starts_with("@revoked") && l.contains(blob)))
    }

    /// Writes a key down that was accepted on request.
    pub(super) fn learn(&self, key: &PublicKey) -> Result<(), SshError> {
        let file = self.known_files.first().ok_or_else(|| SshError::Config("no UserKnownHostsFile to write the key to".into()))?;
        let bare = PublicKey::from(key.key_data().clone());
        known_hosts::learn_known_hosts_path(&self.known_as, self.port, &bare, file)
            .map_err(|e| SshError::Config(format!("{}: {e}", file.display())))
    }

    /// Kinds of keys that the host may show: those that are known of it, else all that can be checked.
    pub(super) fn key_algorithms(&self) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = self.known().iter().map(PublicKey::algorithm).collect();
        let mut all = russh::Preferred::DEFAULT.key.to_vec();
        if !known.is_empty() {
            let same = |a: &Algorithm, k: &Algorithm| a == k || (matches!(a, Algorithm::Rsa { .. }) && matches!(k, Algorithm::Rsa { .. }));
            all.retain(|a| known.iter().any(|k| same(a, k)));
        }
        all
    }

    /// The agent's socket, if there is one.
    pub(super) fn agent(&self) -> Option<&Path> {
        self.agent.as_deref()
    }

    /// Private keys that can be read without a passphrase, and why others cannot.
    pub(super) fn private_keys(&self) -> (Vec<PrivateKey>, Vec<String>) {
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for path in self.keys.iter().filter(|p| p.exists() && is_small(p)) {
            match std::fs::read_to_string(path).map_err(|e| e.to_string()).and_then(|t| read_key(&t)) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("{}: {why}", path.display())),
            }
        }
        (keys, skipped)
    }

    /// Which of the agent's keys are offered.
    pub(super) fn offers(&self, key: &PublicKey) -> bool {
        let public = |p: &PathBuf| {
            let mut name = p.clone().into_os_string();
            name.push(".pub");
            PublicKey::from_openssh(std::fs::read_to_string(name).ok()?.trim()).ok()
        };
        !self.only_keys || self.keys.iter().filter_map(public).any(|k| k.key_data() == key.key_data())
    }
}

impl Ask {
    /// For OpenSSH's programs.
    pub fn arguments(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut put = |flag: &str, value: String| out.extend([flag.to_owned(), value]);
        if let Some(c) = &self.config {
            put("-F", c.display().to_string());
        }
        if let Some(u) = &self.user {
            put("-l", u.clone());
        }
        if let Some(p) = self.port {
            put("-p", p.to_string());
        }
        if let Some(k) = &self.key {
            put("-i", k.display().to_string());
            put("-o", "IdentitiesOnly=yes".into());
        }
        out.extend(["--".to_owned(), self.target.clone()]);
        out
    }
}

fn is_small(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE_BYTES)
}

fn read_key(text: &str) -> Result<PrivateKey, String> {
    let key = russh::keys::decode_secret_key(text, None).map_err(|e| match e {
        russh::keys::Error::KeyIsEncrypted => "it has a passphrase: add it to an agent with `ssh-add`".to_owned(),
        other => other.to_string(),
    })?;
    if key.is_encrypted() { Err("it has a passphrase: add it to an agent with `ssh-add`".into()) } else { Ok(key) }
}

/// `user@host:port` of a ProxyJump; IPv6 addresses stand in brackets.
fn jump(text: &str) -> Option<Ask> {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, rest) = text.rsplit_once('@').map_or((None, text), |(u, r)| (Some(u.to_owned()), r));
    let (target, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']')?;
            (host, after.strip_prefix(':').map(str::parse).transpose().ok()?)
        }
        None => match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port.parse().ok()?)),
            _ => (rest, None),
        },
    };
    Some(Ask { target: target.to_owned(), user, port, ..Ask::default() })
}

/// What `ssh -G` prints, and the jump hosts.
fn parse(text: &str, ask: Ask) -> Result<(Own, Vec<String>), String> {
    let all =
        |key: &str| text.lines().filter_map(|l| l.split_once(' ')).filter(|(k, _)| *k == key).map(|(_, v)| v.trim()).collect::<Vec<_>>();
    let one = |key: &str| all(key).first().copied().filter(|v| !v.is_empty() && *v != "none");
    if let Some(command) = one("proxycommand") {
        return Err(format!("its configuration has `ProxyCommand {command}`; use ProxyJump"));
    }
    let host = one("hostname").ok_or("no HostName")?.to_owned();
    let port = one("port").and_then(|p| p.parse().ok()).ok_or("no Port")?;
    let files = |key: &str| one(key).unwrap_or_default().split_whitespace().map(expand).collect::<Vec<_>>();
    let socket = || std::env::var_os("SSH_AUTH_SOCK").filter(|v| !v.is_empty()).map(PathBuf::from);
    let agent = match all("identityagent").first().copied() {
        None | Some("SSH_AUTH_SOCK") => socket(),
        Some("none") => None,
        Some(variable) if variable.starts_with('$') => std::env::var_os(variable.trim_start_matches('$')).map(PathBuf::from),
        Some(path) => Some(expand(path)),
    };
    let own = Own {
        user: one("user").ok_or("no User")?.to_owned(),
        known_as: one("hostkeyalias").unwrap_or(&host).to_owned(),
        known_files: files("userknownhostsfile").into_iter().chain(files("globalknownhostsfile")).collect(),
        keys: all("identityfile").into_iter().filter(|f| *f != "none").map(expand).collect(),
        only_keys: one("identitiesonly") == Some("yes"),
        agent,
        jumps: Vec::new(),
        shared: Arc::default(),
        accept_new: false,
        become_password: None,
        host,
        port,
        ask,
    };
    let jumps = one("proxyjump").map(|j| j.split(',').map(|h| h.trim().to_owned()).collect()).unwrap_or_default();
    Ok((own, jumps))
}

fn expand(path: &str) -> PathBuf {
    match path.strip_prefix("~/").zip(dirs::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn jump_hosts_are_read_as_openssh_writes_them() {
        let read = |t: &str| jump(t).map(|a| (a.user, a.target, a.port));
        let some = |u: Option<&str>, t: &str, p| Some((u.map(str::to_owned), t.to_owned(), p));
        assert_eq!(read("bastion"), some(None, "bastion", None));
        assert_eq!(read("ann@bastion:2222"), some(Some("ann"), "bastion", Some(2222)));
        assert_eq!(read("ann@[fd00::1]:2222"), some(Some("ann"), "fd00::1", Some(2222)));
        assert_eq!(read("[fd00::1]"), some(None, "fd00::1", None));
        assert_eq!(read("fd00::1"), some(None, "fd00::1", None));
        assert_eq!(read("bastion:x"), None);
    }

    #[test]
    fn the_configuration_is_what_openssh_makes_of_it() {
        let text = "user ann\nhostname 10.0.0.5\nport 2222\nidentitiesonly yes\nidentityfile /k/one\nidentityfile /k/two\nproxyjump b@jump,last\nuserknownhostsfile /k/known /k/known2\nidentityagent none\n";
        let (own, jumps) = parse(text, Ask::default()).unwrap();
        assert_eq!((own.user.as_str(), own.place().as_str(), own.only_keys), ("ann", "10.0.0.5:2222", true));
        assert_eq!(own.keys, [PathBuf::from("/k/one"), PathBuf::from("/k/two")]);
        assert_eq!(own.known_files, [PathBuf::from("/k/known"), PathBuf::from("/k/known2")]);
        assert_eq!(own.agent(), None);
        assert_eq!(jumps, ["b@jump", "last"]);
        assert!(parse("user a\nhostname h\nport 22\nproxycommand nc %h %p\n", Ask::default()).unwrap_err().contains("ProxyJump"));
    }

    #[test]
    fn a_revoked_key_and_another_one_are_told_apart_from_a_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known");
        let key = |_| super::super::keys::new_host_key("").unwrap().public.trim().to_owned();
        let [a, b] = [0, 1].map(key);
        std::fs::write(&file, format!("[h]:2222 {a}\n@revoked * {b}\n")).unwrap();
        let text = format!("user u\nhostname h\nport 2222\nuserknownhostsfile {}\n", file.display());
        let (own, _) = parse(&text, Ask::default()).unwrap();
        let read = |k: &str| PublicKey::from_openssh(k).unwrap();
        assert_eq!(own.known().len(), 1);
        assert!(own.is_revoked(&read(&b)) && !own.is_revoked(&read(&a)));
        assert_eq!(own.key_algorithms(), [Algorithm::Ed25519]);
        own.learn(&read(&b)).unwrap();
        assert_eq!(own.known().len(), 2);
    }

    #[test]
    fn a_target_is_never_an_option() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for bad in ["", "-oProxyCommand=touch x", "a b", "a\nb"] {
            let ask = Ask { target: bad.into(), ..Ask::default() };
            assert!(matches!(runtime.block_on(Own::resolve(ask, false, None)), Err(SshError::Config(_))), "{bad:?}");
        }
    }
}
