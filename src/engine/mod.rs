//! What is deployed, and what it needs on its hosts.

pub mod bundle;

use serde_json::json;

use crate::{
    error::{Error, Result},
    inventory::{Engine, Role},
    template::Vars,
};

/// Variables that an engine brings: programs, accounts, limits. One place for what differs between engines.
pub fn vars(engine: Engine) -> Vars {
    let Engine::Bundled = engine;
    let mut v = Vars::new();
    let mut put = |k: &str, x: serde_json::Value| v.insert(k.to_owned(), x);
    // Where things are on the hosts; playbooks and templates name no path twice.
    put("program_dir", json!("/opt/septet/bin"));
    put("config_dir", json!("/etc/septet"));
    put("coordinator_user", json!("zookeeper"));
    put("coordinator_data", json!("/data/zk"));
    put("coordinator_unit", json!("zookeeper-server.service"));
    put("broker_user", json!("kafka"));
    put("broker_data", json!("/data/kafka-logs"));
    put("broker_unit", json!("kafka-server.service"));
    put("zookeeper_port", json!(2181));
    put("kafka_port", json!(9092));
    // What a user may set under `vars:`.
    put("zookeeper_tick_time", json!(2000));
    put("zookeeper_config", json!({}));
    put("num_partitions", json!(3));
    put("log_retention_hours", json!(168));
    put("kafka_config", json!({}));
    // Until replication is there, the bundled broker refuses more.
    put("default_replication_factor", json!(1));
    v
}

/// Variables that name the programs for a host's architecture.
pub fn programs(bundle: &bundle::Bundle) -> Vars {
    let mut v = Vars::new();
    v.insert("coordinator_program".into(), json!(bundle.coordinator.path));
    v.insert("broker_program".into(), json!(bundle.broker.path));
    v
}

/// Whether an engine's programs fit into a host's memory, in MiB.
pub fn fits(engine: Engine, role: Role, memory_mib: i64) -> Result<()> {
    let Engine::Bundled = engine;
    // Ours take some tens of megabytes; the rest is the system's, and page cache.
    let needed = if role == Role::Control { 256 } else { 400 };
    if memory_mib >= needed {
        return Ok(());
    }
    Err(Error::failed(format!("{memory_mib} MiB of memory are too little for a {role}, which needs {needed}"))
        .hint("choose a larger `instance_type`"))
}
