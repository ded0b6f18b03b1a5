//! What is deployed, and what it needs on its hosts. What differs between engines is here and in [`apache`]; playbooks and
//! templates read it as variables.

pub mod apache;
pub mod archive;
pub mod bundle;
pub mod data;
pub mod listeners;

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    inventory::{Engine, Inventory, Metadata, ProviderSettings, Role, numbers},
    releases as known,
    template::Vars,
};

/// The key that newer clusters keep as a setting of their own.
const LEAST_IN_SYNC: &str = "min.insync.replicas";

/// Where the secret of a bundled ensemble lies on its servers.
pub const ENSEMBLE_SECRET: &str = "/etc/septet/ensemble.secret";

/// Where the bundled programs lie on their hosts.
pub const PROGRAM_DIR: &str = "/opt/septet/bin";

/// The playbook that `up` runs for an engine: the project's, or the shipped one.
pub fn playbook(engine: &Engine) -> &'static str {
    match engine {
        Engine::Bundled => "playbooks/site.yml",
        Engine::Apache(_) => "playbooks/apache.yml",
    }
}

/// Variables that an engine brings: programs, accounts, paths, defaults. The cluster's identity is known once it exists.
pub fn vars(inventory: &Inventory, uuid: Option<&str>) -> Vars {
    let mut v = Vars::new();
    let mut put = |k: &str, x: Value| v.insert(k.to_owned(), x);
    let engine = &inventory.engine;
    let kraft = engine.metadata() == Metadata::Kraft;
    let unit = |role| engine.unit(role).unwrap_or_default();
    // Where things are on the hosts; playbooks and templates name no path twice.
    put("config_dir", json!("/etc/septet"));
    put("broker_user", json!("kafka"));
    // Directories that the services may write to, as a unit names them: also those that the user's own settings name.
    put("broker_writes", json!(writes("broker_data", "kafka_config", &["log.dirs", "log.dir", "metadata.log.dir"])));
    put(
        "coordinator_writes",
        json!(if kraft {
            writes("coordinator_data", "kafka_config", &["log.dirs", "log.dir", "metadata.log.dir"])
        } else {
            writes("coordinator_data", "zookeeper_config", &["dataDir", "dataLogDir"])
        }),
    );
    put("broker_unit", json!(unit(Role::Broker)));
    put("coordinator_user", json!(if kraft { "kafka" } else { "zookeeper" }));
    put("coordinator_unit", json!(unit(Role::Coordinator)));
    let ports = &inventory.ports;
    put("zookeeper_port", json!(ports.zookeeper));
    put("followers_port", json!(ports.followers));
    put("election_port", json!(ports.election));
    put("kafka_port", json!(ports.kafka));
    put("external_port", json!(ports.external));
    put("controller_port", json!(ports.controller));
    put("combined", json!(inventory.is_combined()));
    let voters = inventory.voters().into_iter().map(|h| json!({ "name": h.name, "node_id": Inventory::node_id(h.id) }));
    put("voters", voters.collect());
    // What a user may set under `vars:`.
    put("zookeeper_tick_time", json!(2000));
    put("zookeeper_config", json!({}));
    put("num_partitions", json!(3));
    put("log_retention_hours", json!(168));
    put("kafka_config", json!({}));
    // With two replicas, 2 in sync would mean that no broker may ever stop.
    let replicas = inventory.of(Role::Broker).count().min(3);
    put("default_replication_factor", json!(replicas));
    put("min_insync_replicas", json!(if replicas > 2 { 2 } else { 1 }));
    data::common(inventory).into_iter().for_each(|(k, v)| drop(put(&k, v)));
    match engine {
        Engine::Bundled => {
            put("program_dir", json!(PROGRAM_DIR));
            put("service_type", json!("notify"));
            put("service_environment", json!([]));
            put("ensemble_secret_file", json!(ENSEMBLE_SECRET));
            put("coordinator_command", json!("{{ septet.program_dir }}/septet-coordinator {{ septet.config_dir }}/zoo.cfg"));
            put("broker_command", json!("{{ septet.program_dir }}/septet-broker {{ septet.config_dir }}/server.properties"));
            put(
                "coordinator_files",
                json!(["{{ septet.program_dir }}/septet-coordinator", "{{ septet.config_dir }}/zoo.cfg", ENSEMBLE_SECRET]),
            );
            put("broker_files", json!(["{{ septet.program_dir }}/septet-broker", "{{ septet.config_dir }}/server.properties"]));
        }
        Engine::Apache(settings) => v.extend(apache::vars(settings, inventory, uuid)),
    }
    v
}

/// A template of directories that a service may write to: its own, and those of settings that a user may have put beside ours.
fn writes(own: &str, settings: &str, keys: &[&str]) -> String {
    let more = keys.iter().map(|key| {
        let value = format!("{settings}[\"{key}\"]");
        format!("{{% if {value} is defined %}} {{{{ {value} | replace(\",\", \" \") }}}}{{% endif %}}")
    });
    format!("{{{{ septet.{own} }}}}{}", more.collect::<String>())
}

/// Variables that name the programs for a host's architecture.
pub fn programs(bundle: &bundle::Bundle) -> Vars {
    let mut v = Vars::new();
    v.insert("coordinator_program".into(), json!(bundle.coordinator.path));
    v.insert("broker_program".into(), json!(bundle.broker.path));
    v
}

/// Whether hosts must reach the internet for what the engine needs.
pub fn needs_internet(engine: &Engine) -> bool {
    matches!(engine, Engine::Apache(a) if a.java.is_none())
}

/// Whether an engine's programs fit into a host's memory, in MiB.
pub fn fits(engine: &Engine, role: Role, memory_mib: i64) -> Result<()> {
    let needed = match (engine, role) {
        (_, Role::Control | Role::Plain) => 256,
        // Ours take some tens of megabytes; the rest is the system's, and page cache.
        (Engine::Bundled, _) => 400,
        (Engine::Apache(a), _) => apache::needed_memory_mib(a, role),
    };
    if memory_mib >= needed {
        return Ok(());
    }
    Err(Error::failed(format!("{memory_mib} MiB of memory are too little for a {role}, which needs {needed}"))
        .hint("choose a larger `instance_type`, or a smaller `heap`"))
}

/// Whether hosts are small containers on one machine, which share its memory.
fn is_local(inventory: &Inventory) -> bool {
    matches!(inventory.provider, ProviderSettings::Docker(_))
}

/// Keys of `kafka_config` that Kafka does not know, with the nearest that it knows; and one that it does not obey there.
pub fn doubtful_keys(inventory: &Inventory) -> Vec<String> {
    let Engine::Apache(settings) = &inventory.engine else { return Vec::new() };
    let maps = std::iter::once(&inventory.vars).chain(inventory.hosts.iter().map(|h| &h.vars));
    let mut keys: Vec<&String> = maps.filter_map(|v| v.get("kafka_config")?.as_object()).flat_map(|m| m.keys()).collect();
    keys.sort();
    keys.dedup();
    // Controllers that can elect from replicas that are eligible write it down as the whole cluster's (KIP-966).
    let of_cluster = settings.metadata == Metadata::Kraft && numbers(&settings.version).is_some_and(|v| v >= (4, 1, 0));
    let doubt = |k: &String| {
        if k == LEAST_IN_SYNC && of_cluster {
            return Some(format!(
                "kafka_config: a cluster made with 4.1 or newer keeps `{k}` as a setting of the whole cluster, which wins over the file: `kafka-configs.sh --bootstrap-server … --alter --entity-type brokers --entity-default --add-config {k}=2` sets it"
            ));
        }
        if known::is_kafka_key(k) {
            return None;
        }
        let near = known::nearest_key(k).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        Some(format!("kafka_config: unknown Kafka setting `{k}`, it has no effect{near}"))
    };
    keys.into_iter().filter_map(doubt).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_of_kafka_config_has_no_effect() {
        let doubts = |engine: &str, config: &str| {
            let text = format!("cluster: c\nprefix: p\nengine: {engine}\nvars: {{kafka_config: {{{config}}}}}\n");
            doubtful_keys(&Inventory::parse(std::path::Path::new("i.yml"), &text).unwrap())
        };
        let old = "{apache: {version: 4.0.0}}";
        let least = "min.insync.replicas: 2";
        assert_eq!(doubts("bundled", least), [""; 0]);
        assert_eq!(doubts(old, least), [""; 0]);
        assert_eq!(doubts("{apache: {version: 3.9.1, metadata: zookeeper}}", least), [""; 0]);
        let warnings = doubts("{apache: {version: 4.1.1}}", least);
        assert!(warnings.len() == 1 && warnings[0].contains("--entity-default --add-config min.insync.replicas=2"), "{warnings:?}");
        let warnings = doubts(old, "log.retention.huors: 5");
        assert!(warnings.len() == 1 && warnings[0].contains("did you mean `log.retention.hours`"), "{warnings:?}");
    }
}
