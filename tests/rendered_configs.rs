//! What our templates render is what our programs read: their own parsers accept it, and know every key.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::process::Command;

use serde_json::json;
use support::{Case, bundled, vars};

/// What a program says of a configuration, without the path; and whether it accepts it.
fn check(program: &str, text: &str) -> Option<(bool, String)> {
    let program = bundled(program)?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    // As on a host: data is where the file says; for the parser's sake below our directory.
    let data = dir.path().join("data");
    std::fs::create_dir_all(data.join("zk")).unwrap();
    std::fs::write(data.join("zk/myid"), "2\n").unwrap();
    let text = text.replace("/data/", &format!("{}/", data.display()));
    std::fs::write(&path, text).unwrap();
    let out = Command::new(program).arg("--check").arg(&path).env_remove("SEPTET_LOG").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).replace(&dir.path().display().to_string(), "DIR");
    Some((out.status.success(), said))
}

fn rendered(host: &str, path: &str, settings: serde_json::Value) -> String {
    let mut case = Case::new();
    case.inventory.vars.extend(vars(settings));
    for h in &case.inventory.hosts {
        case.addresses.insert(h.id, vars(json!({"address": "10.1.2.3", "external_listener": "localhost:19021"})));
    }
    let mut files = case.try_run("site.yml").unwrap().files(host);
    files.remove(path).unwrap()
}

const BROKER: (&str, &str, &str) = ("septet-broker", "peter-kafka02", "/etc/septet/server.properties");
const COORDINATOR: (&str, &str, &str) = ("septet-coordinator", "peter-zk02", "/etc/septet/zoo.cfg");

fn said((program, host, path): (&str, &str, &str), settings: serde_json::Value) -> Option<String> {
    let (accepted, said) = check(program, &rendered(host, path, settings))?;
    assert!(accepted, "{said}");
    Some(said)
}

#[test]
fn the_broker_knows_every_key_of_ours() {
    let Some(said) = said(BROKER, json!({})) else { return };
    insta::assert_snapshot!("broker_warnings", said);
}

#[test]
fn the_coordinator_knows_every_key_of_ours() {
    let Some(said) = said(COORDINATOR, json!({})) else { return };
    insta::assert_snapshot!("coordinator_warnings", said);
}

#[test]
fn an_unknown_key_of_the_users_is_a_warning_with_its_line() {
    if let Some(said) = said(BROKER, json!({"kafka_config": {"num.partitoins": 3}})) {
        insta::assert_snapshot!("broker_unknown_key", said);
    }
    if let Some(said) = said(COORDINATOR, json!({"zookeeper_config": {"snapCont": 3}})) {
        insta::assert_snapshot!("coordinator_unknown_key", said);
    }
}

#[test]
fn a_bad_value_of_the_users_is_an_error_with_its_line() {
    let refused = |(program, host, path), settings| {
        let (accepted, said) = check(program, &rendered(host, path, settings))?;
        assert!(!accepted, "{said}");
        Some(said)
    };
    if let Some(said) = refused(BROKER, json!({"num_partitions": "many"})) {
        insta::assert_snapshot!("broker_bad_value", said);
    }
    if let Some(said) = refused(COORDINATOR, json!({"zookeeper_tick_time": "slow"})) {
        insta::assert_snapshot!("coordinator_bad_value", said);
    }
}
