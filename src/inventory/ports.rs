//! Ports of the engine's listeners, as `vars:` may set them for the whole cluster.
//!
//! Invariant: they are valid and above those that only root may listen on; those of one mode's listeners are distinct.

use serde_json::Value;

use super::Metadata;
use crate::template::Vars;

/// Followers of a ZooKeeper ensemble connect to their leader there.
const FOLLOWERS: u16 = 2888;
/// Servers of a ZooKeeper ensemble elect there.
const ELECTION: u16 = 3888;
/// What services without root's rights can listen on.
const UNPRIVILEGED: u64 = 1024;

/// Ports of an engine's listeners, the same on each of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// `kafka_port`: brokers, for clients within the cluster's network and for each other
    pub kafka: u16,
    /// `external_port`: brokers, for clients outside of that network
    pub external: u16,
    /// `controller_port`: KRaft's controllers
    pub controller: u16,
    /// `zookeeper_port`: coordinators, for their clients
    pub zookeeper: u16,
    /// coordinators, for followers
    pub followers: u16,
    /// coordinators, for elections
    pub election: u16,
}

/// A number, also one that is written as a string.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

impl Default for Ports {
    fn default() -> Self {
        Self { kafka: 9092, external: 19092, controller: 9093, zookeeper: 2181, followers: FOLLOWERS, election: ELECTION }
    }
}

impl Ports {
    /// The variables that set ports, and the letters that stand for them in a cluster's shape.
    pub const KEYS: [(&str, char); 4] = [("kafka_port", 'k'), ("external_port", 'x'), ("controller_port", 'c'), ("zookeeper_port", 'z')];

    fn settable(&self) -> [u16; 4] {
        [self.kafka, self.external, self.controller, self.zookeeper]
    }

    /// Ports of the listeners that a mode has.
    fn used(&self, metadata: Metadata) -> Vec<u16> {
        match metadata {
            Metadata::Zookeeper => vec![self.kafka, self.external, self.zookeeper, self.followers, self.election],
            Metadata::Kraft => vec![self.kafka, self.external, self.controller],
        }
    }

    /// Those that the inventory's `vars` set, the usual ones for the others.
    pub(super) fn read(vars: &Vars, metadata: Metadata) -> Result<Self, String> {
        let mut ports = Self::default().settable();
        for ((key, _), port) in Self::KEYS.iter().zip(&mut ports) {
            let Some(value) = vars.get(*key) else { continue };
            let given = number(value).filter(|n| *n >= UNPRIVILEGED).and_then(|n| u16::try_from(n).ok());
            *port = given.ok_or_else(|| format!("`{key}` is not a port from {UNPRIVILEGED} to {}", u16::MAX))?;
        }
        let [kafka, external, controller, zookeeper] = ports;
        let this = Self { kafka, external, controller, zookeeper, ..Self::default() };
        let all = this.used(metadata);
        match all.iter().enumerate().find(|(i, port)| all[..*i].contains(port)) {
            Some((_, port)) => Err(format!("port {port} is given to two listeners")),
            None => Ok(this),
        }
    }

    /// Whether a variable of one host would set another port than its cluster has; the key.
    pub(super) fn contradicted(&self, own: &Vars) -> Option<&'static str> {
        let mut pairs = Self::KEYS.iter().zip(self.settable());
        pairs.find(|((key, _), port)| own.get(*key).is_some_and(|v| number(v) != Some(u64::from(*port)))).map(|((key, _), _)| *key)
    }

    /// Ports that are not the usual ones, as they stand in a cluster's shape: `-k9192-z2182`. Those that the mode does not use are left out.
    pub(super) fn shape(&self, metadata: Metadata) -> String {
        let unused = if metadata == Metadata::Kraft { 'z' } else { 'c' };
        let all = Self::KEYS.iter().zip(self.settable().into_iter().zip(Self::default().settable()));
        all.filter(|((_, letter), (is, usual))| is != usual && *letter != unused)
            .map(|((_, letter), (is, _))| format!("-{letter}{is}"))
            .collect()
    }

    /// Splits the ports off a shape without its number: what is before them, and variables with their values.
    pub fn split(shape: &str) -> (&str, Vec<(&'static str, u16)>) {
        let (mut rest, mut ports) = (shape, Vec::new());
        while let Some((before, last)) = rest.rsplit_once('-') {
            let key = Self::KEYS.iter().find_map(|(key, letter)| Some((*key, last.strip_prefix(*letter)?.parse().ok()?)));
            let Some(port) = key else { break };
            ports.insert(0, port);
            rest = before;
        }
        (rest, ports)
    }

    /// The usual value of a variable that sets a port.
    pub fn usual(key: &str) -> Option<u16> {
        Self::KEYS.iter().zip(Self::default().settable()).find(|((k, _), _)| *k == key).map(|(_, port)| port)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MODES: [Metadata; 2] = [Metadata::Zookeeper, Metadata::Kraft];

    fn read(vars: Value, metadata: Metadata) -> Result<Ports, String> {
        Ports::read(vars.as_object().unwrap(), metadata)
    }

    #[test]
    fn ports_are_numbers_that_services_can_listen_on_once() {
        let numbers = json!({"kafka_port": 9192, "zookeeper_port": "2182"});
        for mode in MODES {
            assert_eq!(read(json!({}), mode), Ok(Ports::default()));
            assert_eq!(read(numbers.clone(), mode).map(|p| (p.kafka, p.zookeeper)), Ok((9192, 2182)));
            for bad in
                [json!(0), json!(1023), json!(65536), json!(-1), json!("ssh"), json!(9092.5), json!(null), json!([9092]), json!("{{ p }}")]
            {
                let said = read(json!({ "kafka_port": bad }), mode);
                assert!(said.is_err_and(|e| e == "`kafka_port` is not a port from 1024 to 65535"), "{bad}");
            }
            for twice in [json!({"kafka_port": 19092}), json!({"kafka_port": 5000, "external_port": 5000})] {
                assert!(read(twice.clone(), mode).is_err_and(|e| e.ends_with("is given to two listeners")), "{twice}");
            }
        }
    }

    #[test]
    fn a_port_is_taken_by_the_listeners_of_its_mode_only() {
        let [zookeeper, kraft] = MODES;
        let cases = [
            (json!({"external_port": 9093}), kraft),
            (json!({"controller_port": 5000, "external_port": 5000}), kraft),
            (json!({"controller_port": 9092}), kraft),
            (json!({"external_port": 2181}), zookeeper),
            (json!({"kafka_port": 2888}), zookeeper),
            (json!({"external_port": 3888}), zookeeper),
            (json!({"zookeeper_port": 2888}), zookeeper),
        ];
        for (vars, mode) in cases {
            for other in MODES {
                assert_eq!(read(vars.clone(), other).is_err(), other == mode, "{vars} with {}", other.name());
            }
        }
    }

    #[test]
    fn a_host_has_no_port_of_its_own() {
        let own = |vars: Value| Ports::default().contradicted(vars.as_object().unwrap());
        assert_eq!(own(json!({"kafka_port": 9092, "zookeeper_port": "2181", "rack": "a"})), None);
        assert_eq!(own(json!({"kafka_port": 9192})), Some("kafka_port"));
        assert_eq!(own(json!({"controller_port": "{{ x }}"})), Some("controller_port"));
    }

    proptest! {
        #[test]
        fn a_shape_tells_the_ports_back(kafka in 1024..60_000u16, zookeeper in 1024..60_000u16, external in 1024..60_000u16) {
            let ports = Ports { kafka, zookeeper, external, ..Ports::default() };
            let shape = format!("apache-zookeeper{}", ports.shape(Metadata::Zookeeper));
            let (rest, told) = Ports::split(&shape);
            prop_assert_eq!(rest, "apache-zookeeper");
            let of = |key: &str| told.iter().find(|(k, _)| *k == key).map_or_else(|| Ports::usual(key).unwrap(), |(_, p)| *p);
            prop_assert_eq!((of("kafka_port"), of("zookeeper_port"), of("external_port")), (kafka, zookeeper, external));
        }
    }
}
