//! What stands on a cluster's things, as labels in Docker and as tags on EC2: one set of names, one parser.
//!
//! Invariant: what does not carry a cluster's UUID makes no claim and is not read further; of what carries one, a value that does
//! not parse counts as missing. No value reaches the rest of the program as text that was not checked.

use crate::{
    identity::{ClusterId, ClusterName, HostName, HostPublicKey, Shape},
    inventory::{Group, HostId},
    provider::PORTS_PER_CLUSTER,
};

/// Greatest number of a host within its group that is read.
const MAX_INDEX: u16 = 10_000;

/// The names of marks, without what a provider puts before them.
pub mod name {
    /// The cluster's UUID.
    pub const CLUSTER: &str = "cluster";
    /// The cluster's name.
    pub const NAME: &str = "name";
    /// A host's group; the engine's in the singular.
    pub const ROLE: &str = "role";
    /// A host's number within its group, from 1.
    pub const INDEX: &str = "index";
    /// A host's public key.
    pub const HOST_KEY: &str = "hostkey";
    /// Engine, mode and the number of hosts that keep the metadata.
    pub const ENGINE: &str = "engine";
    /// When the cluster expires, in seconds since 1970.
    pub const EXPIRES: &str = "expires";
    /// First of the published ports, on Docker's network.
    pub const PORTS: &str = "ports";
}

/// When a cluster expires, as recorded on one of its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// In seconds since 1970.
    At(u64),
    /// Something is written there that is not a time: it never expires by itself.
    Unreadable,
}

/// The marks of one thing of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Whose it is.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub name: Option<ClusterName>,
    /// Which host it belongs to.
    pub host: Option<HostId>,
    /// The host's public key.
    pub host_key: Option<HostPublicKey>,
    /// What is deployed.
    pub engine: Option<Shape>,
    /// When the cluster expires; `None` where nothing is written.
    pub expires: Option<Expiry>,
    /// First of the published ports.
    pub ports: Option<u16>,
}

impl Marks {
    /// Reads marks. `get` looks one up by its name without the provider's prefix. `None`: this is no cluster's.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let cluster = get(name::CLUSTER)?.parse().ok()?;
        Some(Self {
            cluster,
            name: get(name::NAME).and_then(|t| t.parse().ok()),
            host: host_id(&get),
            host_key: get(name::HOST_KEY).and_then(read_host_key),
            engine: get(name::ENGINE).and_then(|t| t.parse().ok()),
            expires: get(name::EXPIRES).map(|t| number(t).map_or(Expiry::Unreadable, Expiry::At)),
            ports: get(name::PORTS).and_then(read_ports),
        })
    }
}

/// A decimal number as Septet writes it: digits only.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn host_id<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<HostId> {
    let index = number::<u16>(get(name::INDEX)?).filter(|i| (1..=MAX_INDEX).contains(i))?;
    Some(HostId { group: Group::from_label(get(name::ROLE)?)?, index })
}

/// A host's public key; a comment behind it, as older versions wrote, is left out.
fn read_host_key(text: &str) -> Option<HostPublicKey> {
    let mut words = text.split(' ');
    format!("{} {}", words.next()?, words.next()?).parse().ok()
}

fn read_ports(text: &str) -> Option<u16> {
    number::<u16>(text).filter(|p| *p >= 1024 && *p <= u16::MAX - PORTS_PER_CLUSTER)
}

/// A name that a provider shows; `fallback`, the provider's own id, where it is none that could stand in a configuration.
pub fn shown_name(text: &str, fallback: &str) -> HostName {
    let safe: String = fallback.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(63).collect();
    let safe = safe.trim_start_matches('-');
    text.parse().or_else(|_| safe.parse()).unwrap_or_else(|_| HostName::unnamed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123e456-e89b-42d3-a456-426614174000";

    fn read(marks: &BTreeMap<String, String>) -> Option<Marks> {
        Marks::read(|k| marks.get(k).map(String::as_str))
    }

    fn with(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_carries_no_uuid_makes_no_claim() {
        assert_eq!(read(&with(&[("name", "local"), ("role", "broker"), ("index", "1")])), None);
        assert_eq!(read(&with(&[("cluster", "../../../.."), ("name", "local")])), None);
        assert_eq!(read(&with(&[("cluster", "*")])), None);
    }

    #[test]
    fn what_does_not_parse_is_missing() {
        let m = read(&with(&[
            ("cluster", ID),
            ("name", "../../x"),
            ("role", "broker"),
            ("index", "+1"),
            ("hostkey", "ssh-ed25519 AAAA\n* ssh-ed25519 AAAA"),
            ("engine", "a b"),
            ("expires", "soon"),
            ("ports", "65535"),
        ]))
        .unwrap();
        assert_eq!((m.name, m.host, m.host_key, m.engine, m.ports), (None, None, None, None, None));
        assert_eq!(m.expires, Some(Expiry::Unreadable));
    }

    #[test]
    fn a_shown_name_is_always_one_that_can_stand_anywhere() {
        assert_eq!(&*shown_name("-oProxyCommand=touch x", "i-0123"), "i-0123");
        assert_eq!(&*shown_name("a\nHost *", "--x y"), "xy");
        assert_eq!(&*shown_name("", "\n"), "unnamed");
    }

    fn anything() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            Just(ID.to_owned()),
            "[a-z0-9-]{0,50}",
            "[0-9]{0,25}",
            "ssh-ed25519 [A-Za-z0-9+/=]{0,100}( .*)?",
            Just("broker".to_owned()),
            Just("../../../../.ssh".to_owned()),
            Just("-oProxyCommand=x".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn no_mark_is_a_path_an_option_or_a_second_line(
            values in proptest::collection::btree_map(
                prop_oneof![
                    Just("cluster".to_owned()), Just("name".to_owned()), Just("role".to_owned()), Just("index".to_owned()),
                    Just("hostkey".to_owned()), Just("engine".to_owned()), Just("expires".to_owned()), Just("ports".to_owned()),
                ],
                anything(),
                0..8,
            ),
            shown in anything(),
        ) {
            let plain = |s: &str| !s.is_empty() && !s.starts_with(['-', '.']) && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if let Some(m) = read(&values) {
                prop_assert_eq!(&m.cluster.to_string(), &values["cluster"]);
                prop_assert!(m.name.is_none_or(|n| plain(&n)));
                prop_assert!(m.engine.is_none_or(|n| plain(&n)));
                prop_assert!(m.host_key.is_none_or(|k| k.lines().count() == 1 && k.split(' ').count() == 2));
                prop_assert!(m.host.is_none_or(|h| h.index > 0 && h.index <= MAX_INDEX));
                prop_assert!(m.ports.is_none_or(|p| p.checked_add(PORTS_PER_CLUSTER).is_some()));
            }
            prop_assert!(plain(&shown_name(&shown, "i-0123456789abcdef0")));
        }
    }
}
