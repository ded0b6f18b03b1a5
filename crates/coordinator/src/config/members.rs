//! The lines `server.N`, and what `/zookeeper/config` shows of them.

use std::collections::BTreeMap;

use super::Config;
use crate::raft::Membership;

/// A server of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// host name or address; resolved anew at each connection
    pub host: String,
    /// port for the servers among themselves
    pub port: u16,
    /// ZooKeeper's port for elections, which is not listened on here
    pub election_port: u16,
    /// `[address:]port` for clients, if the line has it
    pub client: Option<String>,
}

impl Config {
    /// The servers as a new ensemble has them; this one if it stands alone.
    pub fn membership(&self) -> Membership {
        let mut addresses: BTreeMap<u64, String> = self.members.iter().map(|(id, m)| (*id, format!("{}:{}", m.host, m.port))).collect();
        if addresses.is_empty() {
            addresses.insert(self.id, String::new());
        }
        Membership { voters: addresses.keys().copied().collect(), addresses, ..Membership::default() }
    }

    /// The servers as ZooKeeper's `/zookeeper/config` shows them; nothing on a server that stands alone.
    pub fn members_text(&self) -> String {
        if self.members.is_empty() {
            return String::new();
        }
        let line = |(id, m): (&u64, &Member)| {
            let host = if m.host.contains(':') { format!("[{}]", m.host) } else { m.host.clone() };
            let client = m.client.as_ref().map_or_else(String::new, |c| format!(";{c}"));
            format!("server.{id}={host}:{}:{}:participant{client}\n", m.port, m.election_port)
        };
        self.members.iter().map(line).collect::<String>() + "version=0"
    }
}

/// `host:port:electionPort[:participant][;[address:]clientPort]`
pub(super) fn parse(value: &str) -> Result<Member, String> {
    let form = "must be host:port:electionPort";
    let (address, client) = value.split_once(';').map_or((value, None), |(a, c)| (a, Some(c)));
    let (host, rest) = match address.strip_prefix('[') {
        Some(v6) => v6.split_once("]:").ok_or(form)?,
        None => address.split_once(':').ok_or(form)?,
    };
    let mut parts = rest.split(':');
    let port = |p: Option<&str>| p.and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0).ok_or(form);
    let first = port(parts.next())?;
    let election_port = port(parts.next())?;
    match parts.next() {
        None | Some("participant") => {}
        Some("observer") => return Err("observers are not supported".into()),
        Some(other) => return Err(format!("{other:?} is not a role")),
    }
    if host.is_empty() {
        return Err(form.into());
    }
    let client = client.map(|c| if c.contains(':') { c.to_owned() } else { format!("0.0.0.0:{c}") });
    Ok(Member { host: host.to_owned(), port: first, election_port, client })
}
