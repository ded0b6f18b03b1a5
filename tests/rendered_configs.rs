//! What our templates render is what our programs read: their own parsers accept it, and know every key.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/archives.rs"]
mod archives;
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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
    // What `up` plants for the servers of an ensemble.
    let secret = dir.path().join("ensemble.secret");
    std::fs::write(&secret, "5".repeat(64)).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let text = text.replace(septet::engine::ENSEMBLE_SECRET, &secret.display().to_string());
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

/// How long programs may take until they answer: JVMs, on a machine that does other things too.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A program that serves; ended when dropped.
struct Server {
    what: &'static str,
    child: Child,
    log: std::path::PathBuf,
}

impl Server {
    fn start(what: &'static str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{what}.log"));
        let out = fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self { what, child: command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")), log }
    }

    /// Waits until a question is answered as it should be.
    #[track_caller]
    fn answers(&mut self, mut ask: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !ask() {
            let said = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended ({status}): {}", self.what, said());
            }
            assert!(begun.elapsed() < START_TIMEOUT, "{} does not answer: {}", self.what, said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server on this machine answers until it closes, or for some time.
fn answer(port: u16, question: &[u8], enough: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return out };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(question);
    let mut buffer = [0; 4096];
    while out.len() < enough {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => out.extend(&buffer[..n]),
            _ => break,
        }
    }
    out
}

/// Whether a broker takes ApiVersions, version 0: the answer carries the number of the question and no error.
fn speaks_kafka(port: u16) -> bool {
    let answer = answer(port, &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 42, 0xff, 0xff], 10);
    answer.get(4..10) == Some(&[0, 0, 0, 42, 0, 0])
}

/// Whether a broker's metadata (version 1, no topics) has one broker, of this id: it has found the coordinator.
fn knows_broker(port: u16, id: u8) -> bool {
    let question = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 43, 0xff, 0xff, 0, 0, 0, 0];
    let answer = answer(port, &question, 16);
    // Length, number, count of brokers, the first one's id.
    answer.get(4..16) == Some(&[0, 0, 0, 43, 0, 0, 0, 1, 0, 0, 0, id])
}

/// Ports that are free now, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|l| l.local_addr().unwrap().port())
}

/// One coordinator and one broker as they are rendered for Apache Kafka 3.9.1 with ZooKeeper, on ports of this machine: zoo.cfg and
/// server.properties.
fn rendered_pair(coordinator_port: u16, broker_port: u16) -> (String, String) {
    let text = "cluster: one\nprefix: peter\nengine: {apache: {version: 3.9.1, metadata: zookeeper}}\ngroups: {coordinators: {count: 1}, brokers: {count: 1}}\n";
    let case = Case::new().inventory(text).own("kafka_archive", "").own("kafka_archive_sha256", "0".repeat(64));
    let mut case = case.own("zookeeper_port", coordinator_port).own("kafka_port", broker_port);
    case.inventory.vars.extend(vars(json!({
        "kafka_config": {"log.flush.interval.messages": 1000},
        "zookeeper_config": {"snapCount": 5000},
    })));
    for h in &case.inventory.hosts {
        case.addresses.insert(h.id, vars(json!({"address": "127.0.0.1"})));
    }
    let ran = case.try_run("apache.yml").unwrap();
    let file = |host: &str, path: &str| ran.files(host).remove(path).unwrap();
    (file("peter-zk01", "/etc/septet/zoo.cfg"), file("peter-kafka01", "/etc/septet/server.properties"))
}

/// Writes the rendered files for this machine, which has no such hosts and no `/data`.
fn write_here(dir: &Path, (zoo, server): (String, String)) {
    let here = |text: &str| {
        let text = text.replace("/data/", &format!("{}/data/", dir.display()));
        text.replace("peter-zk01", "127.0.0.1").replace("peter-kafka01", "127.0.0.1")
    };
    fs::write(dir.join("zoo.cfg"), here(&zoo)).unwrap();
    fs::write(dir.join("server.properties"), here(&server)).unwrap();
}

/// Empty directories for data, as the playbook leaves them.
fn no_data(dir: &Path) {
    let _ = fs::remove_dir_all(dir.join("data"));
    fs::create_dir_all(dir.join("data/zk")).unwrap();
    fs::write(dir.join("data/zk/myid"), "1\n").unwrap();
}

/// Both programs serve from the files, and the broker finds the coordinator.
fn both_serve(dir: &Path, coordinator: &mut Command, broker: &mut Command, ports: (u16, u16)) {
    let mut keeper = Server::start("coordinator", dir, coordinator);
    keeper.answers(|| answer(ports.0, b"ruok", 4) == b"imok");
    // What it says of itself is what the file says.
    keeper.answers(|| {
        let conf = String::from_utf8(answer(ports.0, b"conf", 64 * 1024)).unwrap();
        ["tickTime=2000", "maxClientCnxns=200"].iter().all(|w| conf.contains(w)) && conf.contains(&format!("clientPort={}", ports.0))
    });
    let mut server = Server::start("broker", dir, broker);
    server.answers(|| speaks_kafka(ports.1) && knows_broker(ports.1, 1));
}

#[test]
fn the_same_files_start_our_programs_and_apaches() {
    let [coordinator_port, broker_port] = free_ports();
    let ports = (coordinator_port, broker_port);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_here(dir, rendered_pair(coordinator_port, broker_port));
    let (zoo, server) = (dir.join("zoo.cfg"), dir.join("server.properties"));
    if let (Some(coordinator), Some(broker)) = (bundled("septet-coordinator"), bundled("septet-broker")) {
        no_data(dir);
        both_serve(dir, Command::new(coordinator).arg(&zoo), Command::new(broker).arg(&server), ports);
    }
    let Some(archive) = archives::find("3.9.1") else { return };
    if !Command::new("java").arg("-version").stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: this machine has no java");
        return;
    }
    no_data(dir);
    let packed = flate2::read::GzDecoder::new(fs::File::open(&archive.path).unwrap());
    tar::Archive::new(packed).unpack(dir).unwrap();
    let script = |name: &str, file: &Path| {
        let mut c = Command::new(dir.join("kafka_2.13-3.9.1/bin").join(name));
        c.arg(file).env("LOG_DIR", dir.join("logs")).env("KAFKA_HEAP_OPTS", "-Xmx256m").env("KAFKA_JMX_OPTS", " ");
        c
    };
    both_serve(dir, &mut script("zookeeper-server-start.sh", &zoo), &mut script("kafka-server-start.sh", &server), ports);
}
