//! Clusters of any name that exist at a provider, by the marks of their things. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::marks::{Expiry, Marks};
use crate::{clock, identity::ClusterId};

/// Something that carries a cluster's identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Thing {
    /// what stands on it
    pub marks: Marks,
    /// its host's name, where it is a host
    pub host: Option<String>,
    /// whether it is a host that runs
    pub running: bool,
    /// when it was made, in seconds since 1970
    pub made_s: Option<u64>,
    /// what it costs now, in USD per hour; `None` where that is not known or nothing is paid
    pub hourly: Option<f64>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// its name; `None` where its things disagree
    pub name: Option<String>,
    /// its identity
    pub uuid: ClusterId,
    /// what its hosts' names begin with; `None` while they are renamed, and without hosts
    pub prefix: Option<String>,
    /// hosts that exist
    pub hosts: usize,
    /// hosts that run
    pub running: usize,
    /// when the oldest of its things was made, in seconds since 1970
    #[serde(rename = "made", serialize_with = "clock::serialize_some_s")]
    pub made_s: Option<u64>,
    /// when it expires; `None`: never by itself
    #[serde(rename = "expires", serialize_with = "clock::serialize_some_s")]
    pub expires_s: Option<u64>,
    /// USD per hour of the hosts that run, their addresses, and volumes
    pub hourly: Option<f64>,
    /// USD that these have cost since hosts were started and volumes made, by list prices
    pub cost: Option<f64>,
}

/// The prefix that all of these names have, as `peter` of `peter-kafka01`.
fn prefix(names: &BTreeSet<String>) -> Option<String> {
    let prefixes: BTreeSet<&str> = names.iter().filter_map(|n| Some(n.rsplit_once('-')?.0)).collect();
    match prefixes.into_iter().collect::<Vec<_>>().as_slice() {
        [one] => Some((*one).to_owned()),
        _ => None,
    }
}

/// Puts things together by their identity; in the order of names.
pub fn clusters(things: impl Iterator<Item = Thing>, now_s: u64) -> Vec<Found> {
    let mut by_uuid: BTreeMap<ClusterId, Vec<Thing>> = BTreeMap::new();
    for thing in things {
        by_uuid.entry(thing.marks.cluster).or_default().push(thing);
    }
    let mut out: Vec<Found> = by_uuid.into_iter().map(|(uuid, things)| one(uuid, &things, now_s)).collect();
    out.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
    out
}

fn one(uuid: ClusterId, things: &[Thing], now_s: u64) -> Found {
    let names: BTreeSet<String> = things.iter().filter_map(|t| t.marks.name.as_ref().map(ToString::to_string)).collect();
    let hosts: BTreeSet<String> = things.iter().filter_map(|t| t.host.clone()).collect();
    let running = || things.iter().filter(|t| t.running);
    let paid: Vec<(f64, u64)> = things.iter().filter_map(|t| Some((t.hourly?, now_s.saturating_sub(t.made_s?)))).collect();
    let expires = things.iter().filter_map(|t| t.marks.expires).max();
    Found {
        name: (names.len() == 1).then(|| names.into_iter().next()).flatten(),
        uuid,
        prefix: prefix(&hosts),
        hosts: things.iter().filter(|t| t.host.is_some()).count(),
        running: running().count(),
        made_s: things.iter().filter_map(|t| t.made_s).min(),
        expires_s: match expires {
            Some(Expiry::At(s)) => Some(s),
            _ => None,
        },
        hourly: (!paid.is_empty()).then(|| paid.iter().map(|(hourly, _)| hourly).sum()),
        cost: (!paid.is_empty()).then(|| paid.iter().map(|(hourly, s)| hourly * *s as f64 / 3600.0).sum()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn thing(uuid: &str, name: &str, host: Option<&str>, expires: Option<&str>, made_s: u64, hourly: Option<f64>) -> Thing {
        let marks = Marks::read(|key| match key {
            "cluster" => Some(uuid),
            "name" => Some(name),
            "expires" => expires,
            _ => None,
        });
        Thing { marks: marks.unwrap(), host: host.map(str::to_owned), running: host.is_some(), made_s: Some(made_s), hourly }
    }

    #[test]
    fn things_are_put_together_by_identity() {
        let (a, b) = ("0123e456-e89b-42d3-a456-426614174000", "1123e456-e89b-42d3-a456-426614174000");
        let things = vec![
            thing(b, "school", Some("ann-kafka01"), None, 100, None),
            thing(a, "local", Some("peter-kafka01"), Some("5000"), 1000, Some(0.1)),
            thing(a, "local", Some("peter-zk01"), Some("5000"), 2800, Some(0.2)),
            // A later end, written on a volume, which is paid for whether or not its host runs.
            thing(a, "local", None, Some("9000"), 1000, Some(0.05)),
        ];
        let found = clusters(things.into_iter(), 4600);
        assert_eq!(found.len(), 2);
        let f = &found[0];
        assert_eq!((f.name.as_deref(), f.prefix.as_deref(), f.hosts, f.running), (Some("local"), Some("peter"), 2, 2));
        assert_eq!((f.made_s, f.expires_s), (Some(1000), Some(9000)));
        assert!((f.hourly.unwrap() - 0.35).abs() < 1e-9 && (f.cost.unwrap() - 0.25).abs() < 1e-9, "{f:?}");
        assert_eq!((found[1].name.as_deref(), found[1].expires_s, found[1].cost), (Some("school"), None, None));
        // In the middle of a rename; an end that cannot be read is none.
        let two = vec![thing(a, "x", Some("old-zk01"), Some("soon"), 1, None), thing(a, "x", Some("new-zk02"), None, 1, None)];
        let found = clusters(two.into_iter(), 5);
        assert_eq!((&found[0].prefix, found[0].expires_s), (&None, None));
    }
}
