//! What an engine's hosts listen on, and for whom: the one table that configs, checks, health, firewall rules, published ports and
//! endpoints are made from.

use crate::inventory::{Engine, Inventory, Metadata, Role};

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// clients of brokers within the cluster's network, and brokers among themselves
    Kafka,
    /// clients of brokers outside of the cluster's network
    External,
    /// KRaft's controllers
    Controller,
    /// clients of coordinators
    Zookeeper,
    /// followers of the coordinators' leader
    Followers,
    /// elections of coordinators
    Election,
}

/// A port that the hosts of a role listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What it is for.
    pub purpose: Purpose,
    /// The hosts that listen.
    pub role: Role,
    /// TCP port.
    pub port: u16,
    /// Roles whose hosts connect to it. Clients outside of the cluster are not among them.
    pub from: Vec<Role>,
    /// Whether each of the hosts listens whenever its service runs; else only some do, as a leader.
    pub always: bool,
}

impl Listener {
    /// Whether a service of this inventory may listen there. The bundled coordinator elects over the followers' port.
    pub fn is_used(&self, inventory: &Inventory) -> bool {
        self.purpose != Purpose::Election || !matches!(inventory.engine, Engine::Bundled)
    }
}

/// The listeners of an inventory's engine.
pub fn listeners(inventory: &Inventory) -> Vec<Listener> {
    use Role::{Broker, Control, Coordinator, Plain};
    let ports = &inventory.ports;
    let keeper = if inventory.is_combined() { Broker } else { Coordinator };
    let is_bundled = matches!(inventory.engine, Engine::Bundled);
    let mut out = Vec::new();
    let mut add = |purpose, role, port, from: &[Role], always| {
        let has = |r: &Role| inventory.of(*r).next().is_some();
        out.push(Listener { purpose, role, port, from: from.iter().copied().filter(has).collect(), always });
    };
    add(Purpose::Kafka, Broker, ports.kafka, &[Broker, Control, Plain], true);
    add(Purpose::External, Broker, ports.external, &[], false);
    match inventory.engine.metadata() {
        Metadata::Kraft => add(Purpose::Controller, keeper, ports.controller, &[Coordinator, Broker, Control], true),
        Metadata::Zookeeper => {
            add(Purpose::Zookeeper, Coordinator, ports.zookeeper, &[Coordinator, Broker, Control], true);
            // Ours have one port among themselves. Of ZooKeeper's the followers' is open on the leader only.
            add(Purpose::Followers, Coordinator, ports.followers, &[Coordinator], is_bundled);
            add(Purpose::Election, Coordinator, ports.election, &[Coordinator], !is_bundled);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(more: &str) -> Vec<String> {
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), &format!("cluster: c\nprefix: p\n{more}")).unwrap();
        let one = |l: Listener| {
            let from: Vec<String> = l.from.iter().map(ToString::to_string).collect();
            format!("{}:{} from {}{}", l.role, l.port, from.join("+"), if l.always { "" } else { " (some)" })
        };
        listeners(&inventory).into_iter().map(one).collect()
    }

    #[test]
    fn each_engine_listens_for_those_who_need_it() {
        assert_eq!(
            shown(""),
            [
                "broker:9092 from broker+control",
                "broker:19092 from  (some)",
                "coordinator:2181 from coordinator+broker+control",
                "coordinator:2888 from coordinator",
                "coordinator:3888 from coordinator (some)"
            ]
        );
        assert_eq!(
            shown("engine: {apache: {version: 3.9.1, metadata: zookeeper}}\ngroups: {clients: {count: 1}}\n")[0],
            "broker:9092 from broker+control+host"
        );
        let ports = "vars: {kafka_port: 9192, controller_port: 9193, external_port: 29092}\n";
        let kraft = format!("engine: {{apache: {{version: 4.1.1}}}}\n{ports}");
        assert_eq!(
            shown(&kraft),
            ["broker:9192 from broker+control", "broker:29092 from  (some)", "coordinator:9193 from coordinator+broker+control"]
        );
        let combined = shown(&format!("{kraft}groups: {{coordinators: {{count: 0}}}}\n"));
        assert_eq!(combined[2], "broker:9193 from broker+control");
    }
}
