//! What is refused before any service is touched: a majority of coordinators or controllers without data in a cluster whose brokers
//! have data, and an older version of Apache Kafka over a newer one.
//!
//! Invariant: it only reads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Cluster;
use crate::{
    engine,
    error::{Error, Result},
    health::ask_host,
    inventory::{Engine, Group, HostId, Inventory, Metadata, Role, numbers},
    observed::{HostState, Observed},
    ssh::Fleet,
};

/// How long a host may take to answer; the agent may have to be brought to it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// Asks a host: link of the version in use, directory of the data, serial number of the data's volume where there is one. A volume that
/// is not mounted yet may hold anything, unless nothing at all is on it. Storage that served once holds directories of partitions.
const SCRIPT: &str = r#"link=$(readlink "$1") && echo "link $link"
if [ -n "$3" ] && ! mountpoint -q /data; then
  device=
  for d in "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$3" /dev/sdf /dev/xvdf; do
    if [ -b "$d" ]; then device=$d; break; fi
  done
  found=0
  if [ -n "$device" ]; then blkid -p "$device" >/dev/null 2>&1 || found=$?; fi
  [ "$found" = 2 ] || echo unknown
else
  if [ -e "$2/meta.properties" ]; then echo formatted; fi
  if [ -n "$(find "$2" -type f ! -name myid -print 2>/dev/null | head -n 1)" ]; then echo written; fi
  for d in "$2"/*-[0-9]*/; do
    if [ -d "$d" ]; then echo begun; break; fi
  done
fi
echo end"#;

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// the version in use
    version: Option<String>,
    /// whether its storage cannot be looked at yet
    unknown: bool,
    /// whether its storage was formatted, where Kafka keeps its own metadata
    formatted: bool,
    /// whether its directory has a file beside its number in the ensemble
    written: bool,
    /// whether a process wrote to its storage
    begun: bool,
}

impl Seen {
    /// From what the script prints; `None` if that is not all of it.
    fn parse(text: &str) -> Option<Self> {
        let has = |word: &str| text.lines().any(|l| l == word);
        let link = text.lines().find_map(|l| l.strip_prefix("link "));
        let version = link.and_then(|l| l.rsplit('/').next()?.strip_prefix("kafka_2.13-")).map(str::to_owned);
        has("end").then(|| Self {
            version,
            unknown: has("unknown"),
            formatted: has("formatted"),
            written: has("written"),
            begun: has("begun"),
        })
    }
}

/// Refuses an older version over a newer one. Nothing is known of hosts that were not asked.
fn judge_versions(inventory: &Inventory, wanted: &str, seen: &BTreeMap<HostId, Seen>) -> Result<()> {
    let name = |id: &HostId| inventory.hosts.iter().find(|h| h.id == *id).map(|h| h.name.clone()).unwrap_or_default();
    for (id, s) in seen {
        let Some(is) = s.version.as_deref().filter(|is| numbers(is).is_some_and(|is| numbers(wanted).is_some_and(|w| is > w))) else {
            continue;
        };
        return Err(Error::failed(format!("{} has Apache Kafka {is}, the inventory wants {wanted}: no service was touched", name(id)))
            .hint(format!("put the version back: `version: {is}`; a lower one cannot read what a newer one wrote")));
    }
    Ok(())
}

/// Refuses to begin an empty cluster over brokers that have data. A first run that was cut off has none.
fn judge_data(inventory: &Inventory, data: &str, seen: &BTreeMap<HostId, Seen>) -> Result<()> {
    let is_kraft = inventory.engine.metadata() == Metadata::Kraft;
    if !seen.iter().any(|(id, s)| s.begun && (is_kraft || id.role() == Role::Broker)) {
        return Ok(());
    }
    let keepers: Vec<_> = if is_kraft { inventory.voters() } else { inventory.of(Role::Coordinator).collect() };
    let has_data = |s: &Seen| if is_kraft { s.formatted } else { s.written };
    let is_blank = |id: &HostId| seen.get(id).is_some_and(|s| !s.unknown && !has_data(s));
    let blank: Vec<&str> = keepers.iter().filter(|h| is_blank(&h.id)).map(|h| h.name.as_str()).collect();
    if keepers.len() - blank.len() > keepers.len() / 2 {
        return Ok(());
    }
    let what = if is_kraft { "controllers have no storage" } else { "coordinators have no data" };
    let (count, all, needed) = (blank.len(), keepers.len(), keepers.len() / 2 + 1);
    Err(Error::failed(format!(
        "{count} of {all} {what}, but brokers have: {}; no service was touched",
        blank.join(", ")
    ))
    .hint(format!(
        "started like this, the cluster would be empty: topics, offsets and their records would no longer be found. Restore {data} on {needed} of them and run `septet up` again. Without a copy: save what you need from the brokers' data, then `septet down` and `septet up` make an empty cluster"
    )))
}

/// Hosts without data in a cluster that has run: what becomes of what they had.
fn losses(inventory: &Inventory, seen: &BTreeMap<HostId, Seen>) -> Vec<String> {
    let ensemble = inventory.engine.metadata() == Metadata::Zookeeper;
    let served = |id: &HostId, s: &Seen| s.begun || (ensemble && id.role() == Role::Coordinator && s.written);
    let has_run = |role: Role| seen.iter().any(|(id, s)| id.role() == role && served(id, s));
    let is_blank = |s: &Seen| !s.unknown && !s.begun && !s.written && !s.formatted;
    let hosts = inventory.hosts.iter().filter(|h| has_run(h.id.role()) && seen.get(&h.id).is_some_and(is_blank));
    hosts
        .map(|h| match h.id.role() {
            Role::Broker => format!(
                "{} has no data: it copies its replicas from the other brokers; records of partitions whose only replica was there are lost",
                h.name
            ),
            _ => format!("{} has no data: it copies them from the others of its role", h.name),
        })
        .collect()
}

/// Looks at all hosts that run, before services are touched. Returns warnings.
pub async fn check(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<Vec<String>> {
    let inventory = &cluster.inventory;
    let vars = engine::vars(inventory, observed.uuid.map(|u| u.to_string()).as_deref());
    let text = |id: HostId, key: &str| {
        let own = inventory.hosts.iter().find(|h| h.id == id).and_then(|h| h.vars.get(key));
        let found = own.or_else(|| inventory.vars.get(key)).or_else(|| vars.get(key));
        found.and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    let hosts = observed.hosts.iter().filter(|h| h.state == HostState::Running && h.id.role().serves());
    let asks = hosts.map(|host| async move {
        let data = engine::data::directory(inventory, host.id);
        let (home, serial) = (text(host.id, "kafka_home"), host.data_volume.clone().unwrap_or_default().replace('-', ""));
        let argv = ["sh", "-c", SCRIPT, "sh", &home, &data, &serial];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(fleet, host.id, Some("root"), &argv)).await;
        let failed = |why: String| {
            Error::failed(format!("{}: cannot ask for its version and storage: {why}", host.name))
                .hint("no service was touched; `septet health` shows more")
        };
        let text = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        Seen::parse(&text).map(|s| (host.id, s)).ok_or_else(|| failed("it does not say".into()))
    });
    let seen = fleet.all(asks).await.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
    if let Engine::Apache(settings) = &inventory.engine
        && settings.metadata == Metadata::Kraft
    {
        judge_versions(inventory, &settings.version, &seen)?;
    }
    let keeper = if inventory.is_combined() { Group::BROKERS } else { Group::COORDINATORS };
    let data = engine::data::directory(inventory, HostId { group: keeper, index: 1 });
    judge_data(inventory, &data, &seen)?;
    Ok(losses(inventory, &seen))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn judged(groups: &str, hosts: &[(Group, u16, &str)]) -> Result<(), String> {
        let text = format!("cluster: c\nprefix: p\nengine: {{apache: {{version: 4.1.1}}}}\ngroups: {{{groups}}}\n");
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap();
        let seen = hosts.iter().map(|(group, index, text)| {
            (
                HostId { group: *group, index: *index },
                Seen::parse(&format!("{}\nend\n", text.replace(' ', "\n").replace(':', " "))).unwrap(),
            )
        });
        let seen = seen.collect();
        judge_versions(&inventory, "4.1.1", &seen).and_then(|()| judge_data(&inventory, "/data/kafka", &seen)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_majority_of_blank_coordinators_is_refused_while_brokers_have_data() {
        for engine in ["bundled", "{apache: {version: 3.9.1, metadata: zookeeper}}"] {
            let inventory = Inventory::parse(std::path::Path::new("i.yml"), &format!("cluster: c\nprefix: p\nengine: {engine}\n")).unwrap();
            let judged = |coordinators: [&str; 3], broker: &str| {
                let seen = |s: &str| Seen::parse(&format!("{}\nend\n", s.replace(' ', "\n"))).unwrap();
                let host = |group, index| HostId { group, index };
                let mut all: BTreeMap<HostId, Seen> = (1..4).map(|i| host(Group::COORDINATORS, i)).zip(coordinators.map(seen)).collect();
                all.insert(host(Group::BROKERS, 1), seen(broker));
                judge_data(&inventory, "/data/zk", &all).map_err(|e| e.to_string())
            };
            let (kept, broker) = ("written", "written begun");
            assert_eq!(judged([kept, kept, kept], broker), Ok(()));
            // One of three is copied back from the others.
            assert_eq!(judged([kept, kept, ""], broker), Ok(()));
            let e = judged([kept, "", ""], broker).unwrap_err();
            assert!(e.contains("2 of 3 coordinators have no data, but brokers have: p-zk02, p-zk03; no service was touched"), "{e}");
            assert!(e.contains("Restore /data/zk on 2 of them and run `septet up` again"), "{e}");
            assert!(judged(["", "", ""], broker).is_err());
            let lost = |coordinators: [&str; 3], broker: &str, second: &str| {
                let seen = |s: &str| Seen::parse(&format!("{}\nend\n", s.replace(' ', "\n"))).unwrap();
                let host = |group, index| HostId { group, index };
                let mut all: BTreeMap<HostId, Seen> = (1..4).map(|i| host(Group::COORDINATORS, i)).zip(coordinators.map(seen)).collect();
                all.extend([(host(Group::BROKERS, 1), seen(broker)), (host(Group::BROKERS, 2), seen(second))]);
                losses(&inventory, &all)
            };
            let named = lost([kept, kept, ""], broker, "");
            assert_eq!(named.len(), 2, "{named:?}");
            assert!(named[0].starts_with("p-zk03 has no data: it copies them") && named[1].starts_with("p-kafka02 has no data"));
            assert_eq!(lost(["", "", ""], "", ""), [""; 0]);
            assert_eq!(lost([kept, kept, "unknown"], broker, broker), [""; 0]);
            // A first run, whole or cut off; and data that cannot be looked at yet.
            assert_eq!(judged(["", "", ""], ""), Ok(()));
            assert_eq!(judged([kept, kept, kept], ""), Ok(()));
            assert_eq!(judged([kept, "unknown", ""], broker), Ok(()));
        }
    }

    #[test]
    fn what_a_host_says() {
        let whole = Seen::parse("link /opt/kafka_2.13-4.1.1\nformatted\nbegun\nend\n").unwrap();
        assert_eq!(whole, Seen { version: Some("4.1.1".into()), unknown: false, formatted: true, written: false, begun: true });
        assert_eq!(Seen::parse("end\n"), Some(Seen::default()));
        assert_eq!(Seen::parse("formatted\n"), None);
        assert_eq!(Seen::parse("link /elsewhere\nunknown\nend\n"), Some(Seen { unknown: true, ..Seen::default() }));
    }

    #[test]
    fn an_older_version_is_refused() {
        let same = "link:/opt/kafka_2.13-4.1.1 formatted begun";
        let older = "link:/opt/kafka_2.13-3.9.1 formatted begun";
        let newer = "link:/opt/kafka_2.13-4.2.0 formatted begun";
        assert_eq!(judged("", &[(Group::COORDINATORS, 1, same), (Group::BROKERS, 1, older), (Group::BROKERS, 2, "")]), Ok(()));
        let e = judged("", &[(Group::COORDINATORS, 1, same), (Group::BROKERS, 2, newer)]).unwrap_err();
        assert!(e.contains("p-kafka02 has Apache Kafka 4.2.0, the inventory wants 4.1.1") && e.contains("`version: 4.2.0`"), "{e}");
    }

    #[test]
    fn a_majority_of_blank_controllers_is_refused() {
        let (whole, new) = ("formatted begun", "formatted");
        let with = |c: [&'static str; 3], broker| {
            judged(
                "",
                &[
                    (Group::COORDINATORS, 1, c[0]),
                    (Group::COORDINATORS, 2, c[1]),
                    (Group::COORDINATORS, 3, c[2]),
                    (Group::BROKERS, 1, broker),
                ],
            )
        };
        assert_eq!(with([whole, whole, whole], whole), Ok(()));
        assert_eq!(with([whole, whole, ""], whole), Ok(()));
        let e = with([whole, "", ""], whole).unwrap_err();
        assert!(e.contains("2 of 3 controllers have no storage, but brokers have: p-controller02, p-controller03;"), "{e}");
        assert!(with(["", "", ""], whole).is_err());
        // A first run that was cut off between two hosts, and between two starts.
        assert_eq!(with(["", "", ""], ""), Ok(()));
        assert_eq!(with([new, "", ""], ""), Ok(()));
        assert_eq!(with([whole, new, new], ""), Ok(()));
        // What is not mounted yet, or was not asked, may be whole.
        assert_eq!(with([whole, "unknown", ""], whole), Ok(()));
        assert_eq!(judged("", &[(Group::COORDINATORS, 1, ""), (Group::BROKERS, 1, whole)]), Ok(()));
        let combined = [(Group::BROKERS, 1, ""), (Group::BROKERS, 2, ""), (Group::BROKERS, 3, whole)];
        assert!(judged("coordinators: {count: 0}", &combined).unwrap_err().contains("p-kafka01, p-kafka02;"));
    }
}
