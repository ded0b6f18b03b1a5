//! Where services keep their data on a host: the engine's directory, or what the user's `kafka_config` and `zookeeper_config` name.
//!
//! Invariant: configs, units, checks, health and removal all ask here, so none of them looks at another directory than the service.

use serde_json::Value;

use super::Vars;
use crate::inventory::{Host, HostId, Inventory, Metadata, Role};

const KAFKA: &str = "/data/kafka-logs";
const ZOOKEEPER: &str = "/data/zk";

/// Directories that a setting names, as written: one, or several with commas. What is rendered only on a host is not known here.
fn named(vars: &[&Vars], settings: &str, keys: &[&str]) -> Vec<String> {
    let Some(settings) = vars.iter().find_map(|v| v.get(settings)) else { return Vec::new() };
    let value = keys.iter().find_map(|key| settings.get(*key).and_then(Value::as_str));
    let paths = value.unwrap_or_default().split(',').map(|p| p.trim().trim_end_matches('/'));
    paths.filter(|p| p.starts_with('/') && !p.contains("{{")).map(str::to_owned).collect()
}

/// All directories with data of a role, the main one first; empty for one that keeps none. `vars` are the user's, the nearest first.
fn of(inventory: &Inventory, vars: &[&Vars], role: Role) -> Vec<String> {
    let or = |found: Vec<String>, own: &str| if found.is_empty() { vec![own.to_owned()] } else { found };
    match role {
        Role::Control | Role::Plain => Vec::new(),
        Role::Coordinator if inventory.engine.metadata() == Metadata::Zookeeper => {
            let mut all = or(named(vars, "zookeeper_config", &["dataDir"]), ZOOKEEPER);
            all.extend(named(vars, "zookeeper_config", &["dataLogDir"]));
            all
        }
        Role::Coordinator | Role::Broker => {
            let mut all = or(named(vars, "kafka_config", &["log.dirs", "log.dir"]), KAFKA);
            all.extend(named(vars, "kafka_config", &["metadata.log.dir"]));
            all
        }
    }
}

/// Directories with data of a host, the main one first; empty where it keeps none.
pub fn directories(inventory: &Inventory, id: HostId) -> Vec<String> {
    let own = inventory.hosts.iter().find(|h| h.id == id).map(|h| &h.vars);
    let vars: Vec<&Vars> = own.into_iter().chain([&inventory.vars]).collect();
    of(inventory, &vars, id.role())
}

/// The directory in which a host's data can be seen; empty where it keeps none.
pub fn directory(inventory: &Inventory, id: HostId) -> String {
    directories(inventory, id).into_iter().next().unwrap_or_default()
}

/// The engine's names for the directories of brokers and coordinators, as the inventory has them for all hosts.
pub(super) fn common(inventory: &Inventory) -> Vars {
    names(inventory, &[&inventory.vars])
}

/// The same for one host, where its own variables say something else.
pub fn of_host(inventory: &Inventory, host: &Host) -> Vars {
    let is_own = ["kafka_config", "zookeeper_config"].iter().any(|k| host.vars.contains_key(*k));
    if is_own { names(inventory, &[&host.vars, &inventory.vars]) } else { Vars::new() }
}

fn names(inventory: &Inventory, vars: &[&Vars]) -> Vars {
    let main = |role| of(inventory, vars, role).into_iter().next().unwrap_or_default();
    [("broker_data", Role::Broker), ("coordinator_data", Role::Coordinator)]
        .map(|(k, role)| (k.to_owned(), main(role).into()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn inventory(more: &str) -> Inventory {
        Inventory::parse(std::path::Path::new("i.yml"), &format!("cluster: c\nprefix: p\n{more}")).unwrap()
    }

    #[test]
    fn directories_are_those_of_the_services() {
        let id = |inventory: &Inventory, name: &str| inventory.find(name).unwrap().id;
        let plain = inventory("vars: {broker_data: /srv/k, coordinator_data: /srv/z}\n");
        // A user's variables of these names mean nothing to the services.
        assert_eq!(directories(&plain, id(&plain, "p-kafka01")), ["/data/kafka-logs"]);
        assert_eq!(directories(&plain, id(&plain, "p-zk01")), ["/data/zk"]);
        assert!(directories(&plain, id(&plain, "p-control01")).is_empty());
        let own = inventory(
            "vars: {kafka_config: {log.dirs: '/d1/k, /d2/k/'}, zookeeper_config: {dataDir: /d1/z, dataLogDir: /d2/z}}\n\
             groups: {brokers: {count: 3, vars: {kafka_config: {log.dir: /d3/k}}}}\n",
        );
        assert_eq!(directories(&own, id(&own, "p-zk01")), ["/d1/z", "/d2/z"]);
        assert_eq!(directories(&own, id(&own, "p-kafka01")), ["/d3/k"]);
        assert_eq!(common(&own)["broker_data"], "/d1/k");
        let broker = own.find("p-kafka01").unwrap();
        assert_eq!(of_host(&own, broker)["broker_data"], "/d3/k");
        assert_eq!(of_host(&own, broker)["coordinator_data"], "/d1/z");
        assert!(of_host(&own, own.find("p-zk01").unwrap()).is_empty());
        let kraft = inventory("engine: {apache: {version: 4.1.1}}\nvars: {kafka_config: {log.dirs: /d/k, metadata.log.dir: /d/m}}\n");
        assert_eq!(directories(&kraft, id(&kraft, "p-kafka02")), ["/d/k", "/d/m"]);
        // What only a host renders is not known; the engine's own directory is looked at.
        let rendered = inventory("vars: {kafka_config: {log.dirs: '{{ where }}/k'}}\n");
        assert_eq!(directory(&rendered, id(&rendered, "p-kafka01")), "/data/kafka-logs");
    }
}
