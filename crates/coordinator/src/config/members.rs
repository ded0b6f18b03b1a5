//! The lines `server.N`, and what `/zookeeper/config` shows of them.

use std::collections::BTreeMap;

use super::Config;
use crate::raft::Membership;

/// Longest value of a line `server.N` that another server may send, in bytes.
pub const MAX_LINE_BYTES: usize = 1024;

/// A server of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// host name or address; resolved anew at each connection
    pub host: String,
    /// port for the servers among themselves
    pub port: u16,
    /// ZooKeeper's port for elections, which is not listened on here
    pub election_port: u16,
    /// has no vote, and never gets one
    pub observer: bool,
    /// `[address:]port` for clients, if the line has it
    pub client: Option<String>,
}

impl Member {
    /// The value of its line, as ZooKeeper writes it.
    pub fn line(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let role = if self.observer { "observer" } else { "participant" };
        let client = self.client.as_ref().map_or_else(String::new, |c| format!(";{c}"));
        format!("{host}:{}:{}:{role}{client}", self.port, self.election_port)
    }

    /// Host and port for the other servers.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl Config {
    /// The servers as a new ensemble has them; this one if it stands alone.
    pub fn membership(&self) -> Membership {
        if self.members.is_empty() {
            return Membership { voters: [self.id].into(), addresses: BTreeMap::from([(self.id, String::new())]), ..Membership::default() };
        }
        let ids = |observer| self.members.iter().filter(move |(_, m)| m.observer == observer).map(|(id, _)| *id).collect();
        let addresses = self.members.iter().map(|(id, m)| (*id, m.line())).collect();
        Membership { voters: ids(false), learners: ids(true), addresses }
    }

    /// The servers as ZooKeeper's `/zookeeper/config` shows them; nothing on a server that stands alone.
    pub fn members_text(&self) -> String {
        text(&self.members)
    }

    /// This server's line says that it has no vote.
    pub fn is_observer(&self) -> bool {
        self.members.get(&self.id).is_some_and(|m| m.observer)
    }
}

/// Servers as ZooKeeper's `/zookeeper/config` shows them; nothing if there are none.
pub fn text(members: &BTreeMap<u64, Member>) -> String {
    if members.is_empty() {
        return String::new();
    }
    members.iter().map(|(id, m)| format!("server.{id}={}\n", m.line())).collect::<String>() + "version=0"
}

/// A server as a membership in the log has it: the value of its line, or `host:port` as earlier versions wrote it.
pub fn parse_stored(text: &str) -> Option<Member> {
    parse(text).ok().or_else(|| {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|p| *p > 0)?;
        Some(Member { host: host.into(), port, election_port: port, observer: false, client: None }).filter(|m| !m.host.is_empty())
    })
}

/// `host:port:electionPort[:participant|:observer][;[address:]clientPort]`
pub fn parse(value: &str) -> Result<Member, String> {
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
    let observer = match parts.next().map(str::to_ascii_lowercase).as_deref() {
        None | Some("participant") => false,
        Some("observer") => true,
        Some(other) => return Err(format!("{other:?} is not a role (participant or observer)")),
    };
    if host.is_empty() {
        return Err(form.into());
    }
    let client = client.map(|c| if c.contains(':') { c.to_owned() } else { format!("0.0.0.0:{c}") });
    Ok(Member { host: host.to_owned(), port: first, election_port, observer, client })
}
