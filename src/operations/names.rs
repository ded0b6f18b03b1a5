//! Names that hosts still know from renames that were cut off: running processes and rendered files may use any of them.
//!
//! Invariant: a name leaves the hosts only after a full run over all of them has succeeded without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    health::ask_host,
    inventory::{HostId, Inventory},
    observed::{HostState, Observed},
    ssh::Fleet,
};

/// Other names of each host, beside the one that the inventory wants; with their domain where they have one.
pub type OtherNames = BTreeMap<HostId, BTreeSet<String>>;

/// How long a host may take to answer; the agent may have to be copied to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Other names of one host. Each rename that is cut off adds two at most.
const MAX_NAMES: usize = 64;
/// Longest name with its domain, in characters.
const MAX_NAME: usize = 253;

/// Prints the names in use. Hosts of older versions have only the copy of `/etc/hosts`.
const SCRIPT: &str = r#"d=/var/lib/septet/names
if [ -e $d/names-in-use ]; then cat $d/names-in-use; elif [ -e $d/hosts ]; then cat $d/hosts; fi
echo
echo end"#;

/// The container's or instance's name, where it is not the wanted one.
pub fn observed(inventory: &Inventory, observed: &Observed) -> OtherNames {
    let mut out = OtherNames::new();
    for host in &inventory.hosts {
        if let Some(is) = observed.host(host.id).filter(|o| o.name != host.name) {
            let names = out.entry(host.id).or_default();
            names.insert(is.name.clone());
            names.extend(inventory.domain.as_ref().map(|d| format!("{}.{d}", is.name)));
        }
    }
    out
}

/// Reads what running hosts keep: all names that were in use anywhere when they were last written.
pub async fn kept(inventory: &Inventory, observed: &Observed, fleet: &Arc<Fleet>) -> Result<OtherNames> {
    let hosts = observed.hosts.iter().filter(|h| h.state == HostState::Running && fleet.endpoint(h.id).is_some());
    let asks = hosts.map(|host| async move {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(fleet, host.id, None, &["sh", "-c", SCRIPT])).await;
        let failed = |why: String| {
            Error::failed(format!("{}: cannot read the names that it keeps: {why}", host.name))
                .hint("no name was changed; `septet health` shows the state of the hosts")
        };
        let text = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        let names = text.trim_end().strip_suffix("end").ok_or_else(|| failed("the answer is incomplete".into()))?;
        parse(inventory, observed, names).map_err(failed)
    });
    let mut out = OtherNames::new();
    for names in fleet.all(asks).await {
        merge(&mut out, names?);
    }
    Ok(out)
}

/// Adds names to others.
pub fn merge(into: &mut OtherNames, names: OtherNames) {
    for (id, names) in names {
        into.entry(id).or_default().extend(names);
    }
}

/// Lines of an address and names, as in `/etc/hosts`. Addresses that are not a host's are skipped.
fn parse(inventory: &Inventory, observed: &Observed, text: &str) -> Result<OtherNames, String> {
    let mut out = OtherNames::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
        let Some(id) = observed.hosts.iter().find(|h| h.address == address).map(|h| h.id) else { continue };
        let Some(wanted) = inventory.hosts.iter().find(|h| h.id == id) else { continue };
        let fqdn = inventory.domain.as_ref().map(|d| format!("{}.{d}", wanted.name));
        for name in words.filter(|w| *w != wanted.name && Some(*w) != fqdn.as_deref()) {
            let is_name = name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !is_name || name.starts_with(['-', '.']) {
                return Err(format!("`{}` is not a host name", name.escape_debug().take(80).collect::<String>()));
            }
            let names: &mut BTreeSet<String> = out.entry(id).or_default();
            names.insert(name.to_owned());
            if names.len() > MAX_NAMES {
                return Err(format!("more than {MAX_NAMES} names of {address}"));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{inventory::Group, observed::ObservedHost};

    fn case() -> (Inventory, Observed) {
        let text = "cluster: c\nprefix: back\ndomain: foo.bar\n";
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), text).unwrap();
        let hosts = inventory.hosts.iter().enumerate().map(|(i, h)| ObservedHost {
            id: h.id,
            reference: String::new(),
            name: h.name.clone(),
            state: HostState::Running,
            address: IpAddr::from([10, 0, 0, i as u8]),
            public: None,
            host_key: String::new(),
            published: Default::default(),
            architecture: None,
            size: None,
            data_volume: None,
            data_is_new: false,
        });
        let observed = Observed { hosts: hosts.collect(), ..Observed::default() };
        (inventory, observed)
    }

    #[test]
    fn every_name_beside_the_wanted_one_is_kept() {
        let (inventory, observed) = case();
        let text = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.4 back-kafka01.foo.bar back-kafka01 oops-kafka01.foo.bar oops-kafka01\n10.0.0.5 first-kafka02\n10.9.9.9 elsewhere\n# 10.0.0.6 comment\n";
        let names = parse(&inventory, &observed, text).unwrap();
        let of = |index| names[&HostId { group: Group::BROKERS, index }].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(names.len(), 2);
        assert_eq!((of(1), of(2)), (vec!["oops-kafka01", "oops-kafka01.foo.bar"], vec!["first-kafka02"]));
    }

    #[test]
    fn what_is_not_a_name_never_reaches_another_host() {
        let (inventory, observed) = case();
        for bad in ["a;b", "{{ x }}", "-x", "a\u{1b}[2J"] {
            assert!(parse(&inventory, &observed, &format!("10.0.0.1 {bad}\n")).is_err(), "{bad}");
        }
        let many: String = (0..65).map(|i| format!(" n{i}")).collect();
        assert!(parse(&inventory, &observed, &format!("10.0.0.1{many}\n")).is_err());
    }

    #[test]
    fn a_container_with_another_name_is_still_called_that() {
        let (inventory, mut is) = case();
        assert_eq!(super::observed(&inventory, &is), OtherNames::new());
        is.hosts[1].name = "old-zk01".into();
        let names = super::observed(&inventory, &is).into_values().flatten().collect::<Vec<_>>();
        assert_eq!(names, ["old-zk01", "old-zk01.foo.bar"]);
    }
}
