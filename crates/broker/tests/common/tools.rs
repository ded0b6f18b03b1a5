//! Clients that others wrote: kcat from PATH, Python with its packages, Apache's distribution. `scripts/setup test` installs them;
//! one that is missing fails the test that needs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::processes::{Cluster, Process};

/// The distribution whose protocol is served: a variable that names its directory, its name in the cache.
const APACHE: (&str, &str) = ("SEPTET_TEST_KAFKA", "kafka_2.13-3.9.1");
const LIMIT: Duration = Duration::from_secs(150);

fn place(variable: &str, in_cache: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("septet").join(in_cache);
    std::env::var_os(variable).map_or_else(cache, PathBuf::from)
}

fn found(variable: &str, in_cache: &str) -> PathBuf {
    let path = place(variable, in_cache);
    assert!(path.exists(), "{} is missing: run scripts/setup test, or set {variable}", path.display());
    path
}

/// The Python that has the clients.
pub fn python() -> PathBuf {
    found("SEPTET_TEST_PYTHON", "test-venv/bin/python")
}

/// Directory of a distribution of Apache Kafka, which the tests can do without: `None` after it was said.
pub fn distribution(variable: &str, in_cache: &str) -> Option<PathBuf> {
    let path = place(variable, in_cache);
    let there = path.join("bin").exists();
    if !there {
        septet_testing::skip(in_cache, &format!("it is not in {} ({variable})", path.display()));
    }
    there.then_some(path)
}

/// Whether Apache's distribution is there; that it is not, is said.
pub fn has_apache() -> bool {
    distribution(APACHE.0, APACHE.1).is_some()
}

/// A program of Apache Kafka.
pub fn kafka(program: &str) -> PathBuf {
    found(APACHE.0, APACHE.1).join("bin").join(program)
}

/// kcat.
pub fn kcat() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join("kcat")).find(|p| p.is_file());
    found.expect("kcat is missing: run scripts/setup test")
}

/// Addresses of the brokers.
pub fn bootstrap(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect::<Vec<_>>().join(",")
}

/// Runs a program to its end. Returns what it wrote.
pub fn run(dir: &Path, program: &Path, arguments: &[&str]) -> String {
    let (out, success) = try_run(dir, program, arguments);
    assert!(success, "{} {arguments:?}: {out}", program.display());
    out
}

/// The same, of one that may fail.
pub fn try_run(dir: &Path, program: &Path, arguments: &[&str]) -> (String, bool) {
    run_with_input(dir, program, arguments, Stdio::null())
}

/// The same, of one that reads.
pub fn run_with_input(dir: &Path, program: &Path, arguments: &[&str], input: Stdio) -> (String, bool) {
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    let (to, log) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
    let _ = fs::remove_file(&log);
    let mut command = Command::new(program);
    command.args(arguments).stdin(input).stdout(fs::File::create(&to).unwrap());
    command.env("KAFKA_HEAP_OPTS", "-Xmx256m").env("LOG_DIR", dir);
    let mut process = Process::spawn(command, log);
    let status = process.exit(LIMIT);
    (format!("{}\n{}", fs::read_to_string(&to).unwrap(), process.said()), status.success())
}

/// Runs a script of `tests/clients`, which says `done` at its end.
pub fn script(cluster: &Cluster, script: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let out = run(cluster.dir.path(), &python(), &["-B", file.to_str().unwrap(), &bootstrap(cluster)]);
    assert!(out.lines().any(|l| l == "done"), "{out}");
}
