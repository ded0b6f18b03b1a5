//! Identity of hosts: a group and a number within it. Groups are free names, as in Ansible; the engine needs three of them.
//!
//! Invariant: a group's name can stand in a label, a tag, a path and a host name: lower-case letters, digits, `_` and `-`, beginning
//! with a letter. What labels and tags of earlier versions say names the same hosts as before.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Where one logs in; the way to the others.
    Control,
    /// Keeps the cluster's metadata.
    Coordinator,
    /// Keeps the records.
    Broker,
    /// Runs nothing of Septet's: for the user's own playbooks.
    Plain,
}

impl Role {
    /// All, in the order of their start.
    pub const ALL: [Role; 4] = [Role::Control, Role::Coordinator, Role::Broker, Role::Plain];

    /// For messages about all hosts of a role.
    pub fn hosts(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Coordinator => "coordinators",
            Role::Broker => "brokers",
            Role::Plain => "other hosts",
        }
    }

    /// Whether hosts of this role run a service of the engine's, and have its data.
    pub fn serves(self) -> bool {
        matches!(self, Role::Coordinator | Role::Broker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Control => "control",
            Role::Coordinator => "coordinator",
            Role::Broker => "broker",
            Role::Plain => "host",
        })
    }
}

/// Longest name of a group, in bytes.
const MAX_GROUP: usize = 32;

/// Text that is not a group's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a group's name has lower-case letters, digits, `_` and `-`, begins with a letter, and has at most 32 characters")]
pub struct NotAGroup;

/// A group's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    text: [u8; MAX_GROUP],
    length: u8,
}

impl Group {
    /// Where one logs in.
    pub const CONTROL: Self = Self::literal("control");
    /// Hosts that keep the cluster's metadata.
    pub const COORDINATORS: Self = Self::literal("coordinators");
    /// Hosts that keep the records.
    pub const BROKERS: Self = Self::literal("brokers");

    const fn literal(name: &str) -> Self {
        let (bytes, mut text, mut i) = (name.as_bytes(), [0; MAX_GROUP], 0);
        while i < bytes.len() {
            text[i] = bytes[i];
            i += 1;
        }
        Self { text, length: bytes.len() as u8 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }

    /// What its hosts are for.
    pub fn role(self) -> Role {
        match self {
            Self::CONTROL => Role::Control,
            Self::COORDINATORS => Role::Coordinator,
            Self::BROKERS => Role::Broker,
            _ => Role::Plain,
        }
    }

    /// As on labels and tags, where the engine's groups have always stood in the singular.
    pub fn label(&self) -> &str {
        match *self {
            Self::COORDINATORS => "coordinator",
            Self::BROKERS => "broker",
            _ => self.name(),
        }
    }

    /// From a label or tag.
    pub fn from_label(text: &str) -> Option<Self> {
        match text {
            "coordinator" => Some(Self::COORDINATORS),
            "broker" => Some(Self::BROKERS),
            "coordinators" | "brokers" => None,
            other => other.parse().ok(),
        }
    }
}

impl FromStr for Group {
    type Err = NotAGroup;

    fn from_str(text: &str) -> Result<Self, NotAGroup> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let valid = text.len() <= MAX_GROUP && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(inner);
        if valid && !text.ends_with(['-', '_']) { Ok(Self::literal(text)) } else { Err(NotAGroup) }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Ord for Group {
    /// The engine's groups in the order of their start, then the others by name.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.role(), self.name()).cmp(&(other.role(), other.name()))
    }
}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Group {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Identity of a host, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId {
    /// Its home group.
    pub group: Group,
    /// Its number within the group, from 1.
    pub index: u16,
}

impl HostId {
    /// The host that all others are reached through.
    pub const CONTROL: Self = Self { group: Group::CONTROL, index: 1 };

    /// What it is for.
    pub fn role(self) -> Role {
        self.group.role()
    }
}

impl fmt::Display for HostId {
    /// As in names of a provider's resources: `broker1` as ever, `clients-1` for a group of the user's. No two hosts share one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dash = if self.role() == Role::Plain { "-" } else { "" };
        write!(f, "{}{dash}{}", self.group.label(), self.index)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_of_earlier_versions_name_the_same_hosts() {
        for (label, group, shown) in [
            ("control", Group::CONTROL, "control1"),
            ("coordinator", Group::COORDINATORS, "coordinator1"),
            ("broker", Group::BROKERS, "broker1"),
            ("clients", "clients".parse().unwrap(), "clients-1"),
        ] {
            assert_eq!(Group::from_label(label), Some(group));
            assert_eq!(group.label(), label);
            assert_eq!(HostId { group, index: 1 }.to_string(), shown);
        }
        // A label has one spelling.
        assert_eq!(Group::from_label("brokers"), None);
        let longest = "g".repeat(MAX_GROUP);
        assert_eq!(longest.parse::<Group>().unwrap().name(), longest);
        for bad in ["", "Clients", "1st", "-a", "a-", "a b", "../x", "*", "ü", &"g".repeat(MAX_GROUP + 1)] {
            assert!(bad.parse::<Group>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_engines_hosts_come_first() {
        let group = |name: &str| name.parse::<Group>().unwrap();
        let mut all = [group("apps"), Group::BROKERS, group("zoo"), Group::CONTROL, Group::COORDINATORS];
        all.sort();
        assert_eq!(all.map(|g| g.to_string()), ["control", "coordinators", "brokers", "apps", "zoo"]);
    }
}
