//! What is deployed, and what it needs on its hosts. What differs between engines is here and in [`apache`]; playbooks and
//! templates read it as variables.

pub mod apache;
pub mod archive;
pub mod bundle;
pub mod known;

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    inventory::{Engine, Inventory, Metadata, ProviderSettings, Role},
    template::Vars,
};

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
    put("broker_data", json!("/data/kafka-logs"));
    put("broker_unit", json!(unit(Role::Broker)));
    put("coordinator_user", json!(if kraft { "kafka" } else { "zookeeper" }));
    put("coordinator_data", json!(if kraft { "/data/kafka-logs" } else { "/data/zk" }));
    put("coordinator_unit", json!(unit(Role::Coordinator)));
    put("zookeeper_port", json!(2181));
    put("kafka_port", json!(9092));
    put("controller_port", json!(9093));
    put("combined", json!(inventory.is_combined()));
    let voters = inventory.voters().into_iter().map(|h| json!({ "name": h.name, "node_id": Inventory::node_id(h.id) }));
    put("voters", voters.collect());
    // What a user may set under `vars:`.
    put("zookeeper_tick_time", json!(2000));
    put("zookeeper_config", json!({}));
    put("num_partitions", json!(3));
    put("log_retention_hours", json!(168));
    put("kafka_config", json!({}));
    match engine {
        Engine::Bundled => {
            put("program_dir", json!("/opt/septet/bin"));
            put("service_type", json!("notify"));
            put("service_environment", json!([]));
            put("coordinator_command", json!("{{ program_dir }}/septet-coordinator {{ config_dir }}/zoo.cfg"));
            put("broker_command", json!("{{ program_dir }}/septet-broker {{ config_dir }}/server.properties"));
            put("coordinator_files", json!(["{{ program_dir }}/septet-coordinator", "{{ config_dir }}/zoo.cfg"]));
            put("broker_files", json!(["{{ program_dir }}/septet-broker", "{{ config_dir }}/server.properties"]));
            // Until replication is there, the bundled broker refuses more.
            put("default_replication_factor", json!(1));
            put("min_insync_replicas", json!(1));
        }
        Engine::Apache(settings) => v.extend(apache::vars(settings, inventory, uuid)),
    }
    v
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
        (Engine::Bundled, Role::Control) => 256,
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

/// Keys of `kafka_config` that Kafka does not know, with the nearest that it knows.
pub fn doubtful_keys(inventory: &Inventory) -> Vec<String> {
    let Engine::Apache(_) = &inventory.engine else { return Vec::new() };
    let maps = std::iter::once(&inventory.vars).chain(inventory.hosts.iter().map(|h| &h.vars));
    let mut keys: Vec<&String> = maps.filter_map(|v| v.get("kafka_config")?.as_object()).flat_map(|m| m.keys()).collect();
    keys.sort();
    keys.dedup();
    let unknown = keys.into_iter().filter(|k| !known::is_kafka_key(k));
    unknown
        .map(|k| {
            let near = known::nearest_key(k).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            format!("kafka_config: `{k}` is no key of Kafka's, it has no effect{near}")
        })
        .collect()
}
