//! Files for OpenSSH's own client: the one writer of `ssh_config` and `known_hosts`.
//!
//! Invariant: what is written cannot be read as more than intended. Names, addresses and keys come as types; a path that
//! cannot stand in these files is an error.

use std::{net::IpAddr, path::Path};

use super::quote;
use crate::{
    error::{Error, Result},
    identity::{HostName, HostPublicKey},
    state::{KEY_FILE, KNOWN_HOSTS, SSH_CONFIG as CONFIG, State},
};

/// A host as OpenSSH is to know it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Names that it goes by; not empty.
    pub names: Vec<HostName>,
    /// Where its sshd is.
    pub address: IpAddr,
    /// The port of its sshd.
    pub port: u16,
    /// The only key that it may show.
    pub key: HostPublicKey,
}

/// Writes both files into a cluster's directory. The first host is the way to the others.
pub fn write(state: &State, login: &str, hosts: &[Entry]) -> Result<()> {
    let config = config(login, hosts, &state.path_of(CONFIG), &state.path_of(KEY_FILE), &state.path_of(KNOWN_HOSTS))?;
    state.write(KNOWN_HOSTS, &known_hosts(hosts))?;
    state.write(CONFIG, &config)
}

fn known_hosts(hosts: &[Entry]) -> String {
    let place = |e: &Entry| if e.port == 22 { e.address.to_string() } else { format!("[{}]:{}", e.address, e.port) };
    hosts.iter().map(|e| format!("{} {}\n", place(e), e.key)).collect()
}

/// A path as text that may stand in a line of `ssh_config`: no character ends the line or a quoted word, or is replaced.
fn plain(path: &Path) -> Result<&str> {
    path.to_str().filter(|t| !t.chars().any(|c| c.is_control() || "\"'\\".contains(c)) && !t.contains("${")).ok_or_else(|| {
        Error::failed(format!("{}: OpenSSH cannot be given a path with quotes, backslashes or control characters", path.display()))
            .hint("set XDG_STATE_HOME to a directory with a plainer name")
    })
}

/// A path as a value: spaces are kept by quotes, and `%` would begin a token.
fn value(path: &Path) -> Result<String> {
    Ok(format!("\"{}\"", plain(path)?.replace('%', "%%")))
}

fn config(login: &str, hosts: &[Entry], config: &Path, key: &Path, known_hosts: &Path) -> Result<String> {
    let mut out = "# Rewritten by each run of septet.\n".to_owned();
    let (own, key, known_hosts) = (quote(plain(config)?).replace('%', "%%"), value(key)?, value(known_hosts)?);
    let mut jump: Option<&HostName> = None;
    for host in hosts {
        let Some(first) = host.names.first() else { continue };
        let names: Vec<&str> = host.names.iter().map(|n| &**n).collect();
        out += &format!(
            "\nHost {}\n  HostName {}\n  Port {}\n  User {login}\n  IdentityFile {key}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {known_hosts}\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  ForwardAgent no\n  \
             ConnectTimeout 10\n  ServerAliveInterval 15\n  LogLevel ERROR\n",
            names.join(" "),
            host.address,
            host.port
        );
        match jump {
            None => jump = Some(first),
            Some(j) => out += &format!("  ProxyCommand ssh -F {own} -W %h:%p -- {j}\n"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    fn entry(name: &str, port: u16) -> Entry {
        let key = super::super::keys::new_host_key("").unwrap().public;
        let key = key.trim().parse().unwrap();
        Entry { names: vec![name.parse().unwrap()], address: "10.1.2.3".parse().unwrap(), port, key }
    }

    /// What OpenSSH itself makes of the configuration.
    fn effective(dir: &str, host: &str) -> String {
        let dir = tempfile::Builder::new().prefix(dir).tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let hosts = [entry("a-control01", 2222), entry("a-kafka01", 22)];
        let text = config("septet", &hosts, &path(CONFIG), &path(KEY_FILE), &path(KNOWN_HOSTS)).unwrap();
        std::fs::write(path(CONFIG), text).unwrap();
        let out = Command::new("ssh").arg("-G").arg("-F").arg(path(CONFIG)).arg("--").arg(host).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // It shows values before it replaces tokens.
        String::from_utf8(out.stdout).unwrap().replace(&dir.path().display().to_string().replace('%', "%%"), "DIR")
    }

    #[test]
    fn openssh_reads_what_is_meant_whatever_the_state_directory_is_called() {
        for dir in ["plain", "My State", "100%h of it", "a # b"] {
            let jump = effective(dir, "a-control01");
            assert!(jump.contains("identityfile DIR/id_ed25519\n"), "{dir}: {jump}");
            assert!(jump.contains("port 2222\n") && !jump.contains("proxycommand"), "{dir}: {jump}");
            let behind = effective(dir, "a-kafka01");
            assert!(behind.contains("stricthostkeychecking true\n") && behind.contains("proxycommand ssh -F "), "{dir}: {behind}");
        }
    }

    #[test]
    fn a_path_that_would_end_its_line_is_refused() {
        for bad in ["/a\nHost *\n  ProxyCommand touch x", "/a\"b", "/a\\b", "/a'b", "/${HOME}/x"] {
            let e = config("septet", &[entry("a", 22)], Path::new("/c"), Path::new(bad), Path::new("/k")).unwrap_err();
            assert!(e.hint.unwrap().contains("XDG_STATE_HOME"));
        }
    }

    #[test]
    fn a_known_host_is_one_line() {
        let lines = known_hosts(&[entry("a", 22), entry("b", 2222)]);
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.starts_with("10.1.2.3 ssh-ed25519 ") && lines.contains("\n[10.1.2.3]:2222 ssh-ed25519 "));
    }
}
