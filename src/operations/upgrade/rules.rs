//! Which versions of Apache Kafka may follow which.
//!
//! Invariant: pure.

use std::collections::BTreeMap;

use super::hosts::Runs;
use crate::{
    error::{Error, Result},
    inventory::{Engine, HostId, Inventory, Metadata, numbers},
};

/// The last line of Apache Kafka with ZooKeeper.
const LAST_WITH_ZOOKEEPER: (u32, u32) = (3, 9);
/// Kafka's own setting of what was raised before `metadata.version`.
const INTER_BROKER: &str = "inter.broker.protocol.version";

/// Refuses a version that the inventory cannot be changed to.
pub fn allowed(inventory: &Inventory, to: &str) -> Result<()> {
    let Engine::Apache(a) = &inventory.engine else {
        return Err(Error::invalid("--engine-version: the bundled engine has the version of this septet")
            .hint("`septet upgrade` brings its hosts to it"));
    };
    let Some(wanted) = numbers(to) else {
        return Err(Error::invalid(format!("--engine-version: `{to}` is not a version such as {}", crate::releases::NEWEST)));
    };
    if a.metadata == Metadata::Zookeeper && (wanted.0, wanted.1) > LAST_WITH_ZOOKEEPER {
        return Err(Error::failed(format!("Apache Kafka {to} no longer supports ZooKeeper, which this cluster has: nothing was touched"))
            .hint("3.9 is the last line with ZooKeeper; for 4.0 and newer make a second cluster with `metadata: kraft` and copy the topics with a client"));
    }
    Ok(())
}

/// Refuses an older version than any host has.
pub fn no_downgrade(inventory: &Inventory, to: &str, seen: &BTreeMap<HostId, Runs>) -> Result<()> {
    for (id, runs) in seen {
        for is in runs.all() {
            if numbers(is).is_some_and(|is| numbers(to).is_some_and(|to| is > to)) {
                let name = inventory.hosts.iter().find(|h| h.id == *id).map(|h| h.name.as_str()).unwrap_or_default();
                return Err(Error::failed(format!("{name} has Apache Kafka {is}, {to} is older: nothing was touched"))
                    .hint("an older version cannot read what a newer one wrote: name that version or a newer one"));
            }
        }
    }
    Ok(())
}

/// In ZooKeeper mode the last step is that of the configuration: whether the user's holds it back, and at what.
pub fn held_back(inventory: &Inventory) -> Option<String> {
    let Engine::Apache(a) = &inventory.engine else { return None };
    if a.metadata != Metadata::Zookeeper {
        return None;
    }
    let maps = std::iter::once(&inventory.vars).chain(inventory.hosts.iter().map(|h| &h.vars));
    let mut values = maps.filter_map(|v| v.get("kafka_config")?.get(INTER_BROKER).cloned());
    let value = values.find_map(|v| v.as_str().map(str::to_owned).or_else(|| v.as_f64().map(|n| n.to_string())))?;
    let line = numbers(&a.version).map(|(major, minor, _)| format!("{major}.{minor}"))?;
    (!value.starts_with(&line)).then_some(value)
}

/// The error that the user's own setting holds the last step back.
pub fn remove_it(value: &str) -> Error {
    Error::failed(format!("`kafka_config` holds {INTER_BROKER} at {value}: the upgrade is not finished")).hint(format!(
        "remove `{INTER_BROKER}` from `kafka_config`, then `septet up`: brokers take it from their version, one after the other"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::hosts::Running, *};
    use crate::inventory::Group;

    fn inventory(engine: &str) -> Inventory {
        Inventory::parse(std::path::Path::new("i.yml"), &format!("cluster: c\nprefix: p\nengine: {engine}\n")).unwrap()
    }

    #[test]
    fn where_the_road_ends() {
        let said = |engine: &str, to: &str| allowed(&inventory(engine), to).map_err(|e| e.to_string());
        let zookeeper = "{apache: {version: 3.9.0, metadata: zookeeper}}";
        assert_eq!(said(zookeeper, "3.9.2"), Ok(()));
        assert!(said(zookeeper, "4.0.0").unwrap_err().contains("no longer supports ZooKeeper"));
        assert!(said(zookeeper, "4.1.1").unwrap_err().contains("make a second cluster"));
        assert_eq!(said("{apache: {version: 3.9.1}}", "4.1.1"), Ok(()));
        assert!(said("bundled", "4.1.1").unwrap_err().contains("`septet upgrade` brings its hosts to it"));
        assert!(said("apache", "4.1").unwrap_err().contains("is not a version"));
    }

    #[test]
    fn no_host_goes_back() {
        let i = inventory("{apache: {version: 4.1.1}}");
        let seen = |running: &str, installed: &str| {
            let runs = Runs { running: Running::This(running.into()), installed: Some(installed.into()) };
            BTreeMap::from([(HostId { group: Group::BROKERS, index: 2 }, runs)])
        };
        assert_eq!(no_downgrade(&i, "4.1.1", &seen("3.9.1", "4.1.1")), Ok(()));
        for (running, installed) in [("4.2.0", "4.1.1"), ("4.1.1", "4.2.0")] {
            let e = no_downgrade(&i, "4.1.1", &seen(running, installed)).unwrap_err().to_string();
            assert!(e.contains("p-kafka02 has Apache Kafka 4.2.0, 4.1.1 is older") && e.contains("or a newer one"), "{e}");
        }
    }

    #[test]
    fn a_setting_of_the_users_holds_the_last_step_back() {
        let with = |config: &str| {
            let text = format!(
                "cluster: c\nprefix: p\nengine: {{apache: {{version: 3.9.1, metadata: zookeeper}}}}\nvars: {{kafka_config: {{{config}}}}}\n"
            );
            held_back(&Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap())
        };
        assert_eq!(with("log.retention.hours: 1"), None);
        assert_eq!(with("inter.broker.protocol.version: 3.9-IV0"), None);
        assert_eq!(with("inter.broker.protocol.version: 3.6"), Some("3.6".into()));
        assert!(remove_it("3.6").to_string().contains("remove `inter.broker.protocol.version` from `kafka_config`"));
    }
}
