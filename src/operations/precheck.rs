//! What is refused before any service is touched, as far as Apache Kafka with its own controllers goes: an older version over a newer
//! one, and a quorum most of whose controllers have lost their storage.
//!
//! Invariant: it only reads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::Cluster;
use crate::{
    engine,
    error::{Error, Result},
    health::ask_host,
    inventory::{Engine, HostId, Inventory, Metadata, Role, numbers},
    provider::{HostState, Observed},
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
    /// whether its storage was formatted
    formatted: bool,
    /// whether a process wrote to its storage
    begun: bool,
}

impl Seen {
    /// From what the script prints; `None` if that is not all of it.
    fn parse(text: &str) -> Option<Self> {
        let has = |word: &str| text.lines().any(|l| l == word);
        let link = text.lines().find_map(|l| l.strip_prefix("link "));
        let version = link.and_then(|l| l.rsplit('/').next()?.strip_prefix("kafka_2.13-")).map(str::to_owned);
        has("end").then(|| Self { version, unknown: has("unknown"), formatted: has("formatted"), begun: has("begun") })
    }
}

/// Refuses what cannot go well. Of hosts that were not asked nothing is known.
fn judge(inventory: &Inventory, wanted: &str, seen: &BTreeMap<HostId, Seen>) -> Result<()> {
    let name = |id: &HostId| inventory.hosts.iter().find(|h| h.id == *id).map(|h| h.name.clone()).unwrap_or_default();
    for (id, s) in seen {
        let Some(is) = s.version.as_deref().filter(|is| numbers(is).is_some_and(|is| numbers(wanted).is_some_and(|w| is > w))) else {
            continue;
        };
        return Err(Error::failed(format!("{} has Apache Kafka {is}, the inventory wants {wanted}: no service was touched", name(id)))
            .hint(format!("put the version back: `version: {is}`; a lower one cannot read what a newer one wrote")));
    }
    // Of a cluster that never ran nothing can be lost, wherever a run was cut off.
    if !seen.values().any(|s| s.begun) {
        return Ok(());
    }
    let voters = inventory.voters();
    let is_blank = |id: &HostId| seen.get(id).is_some_and(|s| !s.unknown && !s.formatted);
    let blank: Vec<&str> = voters.iter().filter(|h| is_blank(&h.id)).map(|h| h.name.as_str()).collect();
    if voters.len() - blank.len() > voters.len() / 2 {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{} of {} controllers have no storage: {}; no service was touched",
        blank.len(),
        voters.len(),
        blank.join(", ")
    ))
    .hint("a majority of blank controllers would begin an empty cluster under the old id: bring their data back, or take the cluster down with `septet down`"))
}

/// Looks at all hosts that run, before services are touched.
pub async fn check(cluster: &Cluster, observed: &Observed, fleet: &Arc<Fleet>) -> Result<()> {
    let inventory = &cluster.inventory;
    let Engine::Apache(settings) = &inventory.engine else { return Ok(()) };
    if settings.metadata != Metadata::Kraft {
        return Ok(());
    }
    let vars = engine::vars(inventory, observed.uuid.map(|u| u.to_string()).as_deref());
    let text = |id: HostId, key: &str| {
        let own = inventory.hosts.iter().find(|h| h.id == id).and_then(|h| h.vars.get(key));
        let found = own.or_else(|| inventory.vars.get(key)).or_else(|| vars.get(key));
        found.and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    let hosts = observed.hosts.iter().filter(|h| h.state == HostState::Running && h.id.role != Role::Control);
    let asks = hosts.map(|host| async move {
        let data = text(host.id, if host.id.role == Role::Broker { "broker_data" } else { "coordinator_data" });
        let (home, serial) = (text(host.id, "kafka_home"), host.data_volume.clone().unwrap_or_default().replace('-', ""));
        let argv = ["sh", "-c", SCRIPT, "sh", &home, &data, &serial];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask_host(fleet, host.id, Some("root"), &argv)).await;
        let failed = |why: String| {
            Error::failed(format!("{}: cannot ask for its version and storage: {why}", host.name))
                .hint("no service was touched; `septet health` says more")
        };
        let said = answer.map_err(|_| failed("no answer in time".into()))?.map_err(|e| failed(e.to_string()))?;
        Seen::parse(&said).map(|s| (host.id, s)).ok_or_else(|| failed("it does not say".into()))
    });
    let seen = join_all(asks).await.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
    judge(inventory, &settings.version, &seen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn judged(groups: &str, hosts: &[(Role, u16, &str)]) -> Result<(), String> {
        let text = format!("cluster: c\nprefix: p\nengine: {{apache: {{version: 4.1.1}}}}\ngroups: {{{groups}}}\n");
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap();
        let seen = hosts.iter().map(|(role, index, said)| {
            (HostId { role: *role, index: *index }, Seen::parse(&format!("{}\nend\n", said.replace(' ', "\n").replace(':', " "))).unwrap())
        });
        judge(&inventory, "4.1.1", &seen.collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_host_says() {
        let whole = Seen::parse("link /opt/kafka_2.13-4.1.1\nformatted\nbegun\nend\n").unwrap();
        assert_eq!(whole, Seen { version: Some("4.1.1".into()), unknown: false, formatted: true, begun: true });
        assert_eq!(Seen::parse("end\n"), Some(Seen::default()));
        assert_eq!(Seen::parse("formatted\n"), None);
        assert_eq!(Seen::parse("link /elsewhere\nunknown\nend\n"), Some(Seen { unknown: true, ..Seen::default() }));
    }

    #[test]
    fn an_older_version_is_refused() {
        use Role::{Broker, Coordinator};
        let same = "link:/opt/kafka_2.13-4.1.1 formatted begun";
        let older = "link:/opt/kafka_2.13-3.9.1 formatted begun";
        let newer = "link:/opt/kafka_2.13-4.2.0 formatted begun";
        assert_eq!(judged("", &[(Coordinator, 1, same), (Broker, 1, older), (Broker, 2, "")]), Ok(()));
        let e = judged("", &[(Coordinator, 1, same), (Broker, 2, newer)]).unwrap_err();
        assert!(e.contains("p-kafka02 has Apache Kafka 4.2.0, the inventory wants 4.1.1") && e.contains("`version: 4.2.0`"), "{e}");
    }

    #[test]
    fn a_majority_of_blank_controllers_is_refused() {
        use Role::{Broker, Coordinator};
        let (whole, new) = ("formatted begun", "formatted");
        let with = |c: [&'static str; 3], broker| {
            judged("", &[(Coordinator, 1, c[0]), (Coordinator, 2, c[1]), (Coordinator, 3, c[2]), (Broker, 1, broker)])
        };
        assert_eq!(with([whole, whole, whole], whole), Ok(()));
        assert_eq!(with([whole, whole, ""], whole), Ok(()));
        let e = with([whole, "", ""], whole).unwrap_err();
        assert!(e.contains("2 of 3 controllers have no storage: p-controller02, p-controller03;"), "{e}");
        assert!(with(["", "", ""], whole).is_err());
        // A first run that was cut off between two hosts, and between two starts.
        assert_eq!(with(["", "", ""], ""), Ok(()));
        assert_eq!(with([new, "", ""], ""), Ok(()));
        assert_eq!(with([whole, new, new], ""), Ok(()));
        // What is not mounted yet, or was not asked, may be whole.
        assert_eq!(with([whole, "unknown", ""], whole), Ok(()));
        assert_eq!(judged("", &[(Coordinator, 1, ""), (Broker, 1, whole)]), Ok(()));
        let combined = [(Broker, 1, ""), (Broker, 2, ""), (Broker, 3, whole)];
        assert!(judged("coordinators: {count: 0}", &combined).unwrap_err().contains("p-kafka01, p-kafka02;"));
    }
}
