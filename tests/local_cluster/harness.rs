//! A cluster of one test's own, and the means to run septet and docker against it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// The seven hosts, without their prefix, in the order of the tables.
pub const SEVEN: [&str; 7] = ["control01", "zk01", "zk02", "zk03", "kafka01", "kafka02", "kafka03"];
/// Longest time that any one command may take, on a machine that has hardly any time for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether the tests that need Docker are to run; says why not.
pub fn enabled(test: &str) -> bool {
    let on = std::env::var("SEPTET_E2E").is_ok_and(|v| v == "1");
    if !on {
        septet_testing::skip(test, "it makes containers: set SEPTET_E2E=1 to run it");
    }
    on
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub what: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    /// Runs a command to its end, with some input.
    pub fn of(command: Command, input: &str, limit: Duration) -> Self {
        let what = format!("{command:?}");
        let begun = Instant::now();
        let out = assert_cmd::Command::from_std(command)
            .write_stdin(input.as_bytes())
            .timeout(limit)
            .output()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        Self {
            what,
            code: out.status.code(),
            out: String::from_utf8_lossy(&out.stdout).into_owned(),
            err: String::from_utf8_lossy(&out.stderr).into_owned(),
            took: begun.elapsed(),
        }
    }

    /// Everything, for a message.
    pub fn show(&self) -> String {
        format!(
            "{}\nexit code {:?} after {:.1} s\n--- stdout\n{}\n--- stderr\n{}",
            self.what,
            self.code,
            self.took.as_secs_f64(),
            self.out,
            self.err
        )
    }

    /// Insists on an exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.show());
        self
    }

    /// Insists on words on standard error.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for w in words {
            assert!(self.err.contains(w), "no `{w}` in: {}", self.show());
        }
        self
    }

    /// Insists on words on standard output.
    #[track_caller]
    pub fn shows(self, words: &[&str]) -> Self {
        for w in words {
            assert!(self.out.contains(w), "no `{w}` on standard output of: {}", self.show());
        }
        self
    }

    /// Standard output as JSON, and nothing beside it; of events as lines, the last one, which is the result.
    #[track_caller]
    pub fn json(&self) -> Value {
        let lines: Result<Vec<Value>, _> = self.out.lines().map(serde_json::from_str).collect();
        match lines {
            Ok(mut events) if events.len() > 1 => events.pop().unwrap(),
            _ => serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.show())),
        }
    }
}

/// Runs docker, which must succeed.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    let ran = docker_try(args);
    assert_eq!(ran.code, Some(0), "{}", ran.show());
    ran.out.trim().to_owned()
}

/// Runs docker.
pub fn docker_try(args: &[&str]) -> Ran {
    let mut c = Command::new("docker");
    c.args(args);
    Ran::of(c, "", Duration::from_secs(90))
}

/// Names a file that has the name of the node image, once a test of this run has asked for it.
const NODE_IMAGE: &str = "SEPTET_TEST_NODE_IMAGE";

/// The image that hosts of the bundled engine are made of by this build, as a host of one has it: an older build's may be there too.
/// What has to find it out makes a local cluster for that, which removes clusters of others that are over.
pub fn node_image() -> String {
    static IMAGE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let file = std::env::var_os(NODE_IMAGE);
    let known = || fs::read_to_string(file.as_ref()?).ok().filter(|name| !name.is_empty());
    let make = || {
        let cluster = Cluster::new("n");
        cluster.ok(&["up"]);
        let name = docker(&["inspect", "--format", "{{.Config.Image}}", &cluster.containers()[0]]);
        if let Some(file) = &file {
            fs::write(file, &name).unwrap();
        }
        name
    };
    IMAGE.get_or_init(|| known().unwrap_or_else(make)).clone()
}

/// Asks again until the answer is yes.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ask() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends a signal to a process that we started.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// A host as docker and its systemd see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub id: String,
    pub address: String,
    pub container_started: String,
    pub unit_started: String,
}

/// A cluster of one test; everything of it goes when this is dropped.
pub struct Cluster {
    pub name: String,
    /// its hosts, without their prefix
    pub hosts: Vec<&'static str>,
    dir: TempDir,
    bundle: PathBuf,
}

impl Cluster {
    /// A directory with an inventory; no container yet. The letter tells the tests of one process apart.
    pub fn new(letter: &str) -> Self {
        Self::of(letter, &SEVEN)
    }

    /// The same of other hosts than the usual seven, which the inventory has yet to name.
    pub fn of(letter: &str, hosts: &[&'static str]) -> Self {
        let dir = tempfile::Builder::new().prefix("septet-e2e-").tempdir().unwrap();
        let name = format!("e2e{}{letter}", std::process::id());
        // A copy, so that a build that goes on beside the test does not change what is deployed.
        let bundle = dir.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let from = std::env::var_os("SEPTET_BUNDLE")
            .map_or_else(|| Path::new(env!("CARGO_BIN_EXE_septet")).parent().unwrap().to_owned(), PathBuf::from);
        for program in ["septet-agent", "septet-coordinator", "septet-broker"] {
            fs::copy(from.join(program), bundle.join(program))
                .unwrap_or_else(|e| panic!("{}: {e}; build the workspace, or set SEPTET_BUNDLE", from.join(program).display()));
        }
        let this = Self { name, hosts: hosts.to_vec(), dir, bundle };
        this.write_inventory("");
        this
    }

    /// Writes the inventory, with settings of the provider as in `subnet: 10.1.2.0/24`.
    pub fn write_inventory(&self, docker_settings: &str) {
        let name = &self.name;
        let text = format!(
            "# The cluster of a test.\ncluster: {name}   # what is typed to tear it down\nprefix:   {name}      # kept as it stands\ndomain: foo.bar\nprovider:\n  docker: {{{docker_settings}}}\n\n# below: variables\nvars:\n  log_retention_hours: 72   # three days\n"
        );
        fs::write(self.inventory(), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn inventory(&self) -> PathBuf {
        self.path().join("inventory.yml")
    }
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The prefix as the inventory has it.
    pub fn prefix(&self) -> String {
        let text = fs::read_to_string(self.inventory()).unwrap();
        let value = text.lines().find_map(|l| l.strip_prefix("prefix:"));
        value.unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// Replaces words in the inventory.
    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.inventory()).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.inventory(), text.replace(from, to)).unwrap();
    }

    /// A host's full name.
    pub fn host(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix())
    }

    /// septet with arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_septet"));
        c.current_dir(self.path())
            .env("XDG_STATE_HOME", self.state())
            .env("SEPTET_BUNDLE", &self.bundle)
            .args(["-i", "inventory.yml"])
            .args(args);
        c
    }

    /// Runs septet.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }
    /// Runs septet with some input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        Ran::of(self.command(args), input, COMMAND_TIMEOUT)
    }
    /// Runs septet, which must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        if ran.code == Some(3) {
            self.tell_troubles();
        }
        ran.code(0)
    }
    /// Tells what the services of hosts say that health complains of, to find out why.
    fn tell_troubles(&self) {
        for host in self.problems().keys().filter(|host| self.hosts.contains(&host.as_str())) {
            eprintln!("{}", self.run(&["logs", host, "-n", "40"]).show());
            let state = "systemctl --no-pager --full status kafka-server zookeeper-server; cat /proc/loadavg; free -m";
            eprintln!("{host}: {}", docker_try(&["exec", &self.host(host), "sh", "-c", state]).show());
        }
    }
    /// Starts septet; nobody reads what it says.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut c = self.command(args);
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        c.spawn().unwrap()
    }

    /// What health finds wrong: host (without the prefix) to reasons. The exit code must agree.
    #[track_caller]
    pub fn problems(&self) -> BTreeMap<String, Vec<String>> {
        let ran = self.run(&["health", "--json"]);
        let report = ran.json();
        let healthy = report["healthy"].as_bool().unwrap();
        assert_eq!(ran.code, Some(if healthy { 0 } else { 3 }), "{}", ran.show());
        assert_eq!(report["hosts"].as_array().unwrap().len(), self.hosts.len());
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let prefix = format!("{}-", self.prefix());
        for p in report["problems"].as_array().unwrap() {
            let host = p["host"].as_str().unwrap();
            out.entry(host.strip_prefix(&prefix).unwrap_or(host).to_owned()).or_default().push(p["reason"].as_str().unwrap().to_owned());
        }
        assert_eq!(out.is_empty(), healthy, "{}", ran.show());
        out
    }

    /// Ids of what carries the cluster's name.
    pub fn containers(&self) -> Vec<String> {
        self.list(&["ps", "-aq", "--no-trunc"])
    }
    pub fn networks(&self) -> Vec<String> {
        self.list(&["network", "ls", "-q"])
    }
    pub fn volumes(&self) -> Vec<String> {
        self.list(&["volume", "ls", "-q"])
    }
    fn list(&self, command: &[&str]) -> Vec<String> {
        let filter = format!("label=septet.name={}", self.name);
        let out = docker(&[command, &["--filter", &filter]].concat());
        out.lines().map(str::to_owned).collect()
    }

    /// All hosts that exist, by role and number.
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        let ids = self.containers();
        let format = "{{index .Config.Labels \"septet.role\"}}{{index .Config.Labels \"septet.index\"}} {{.Name}} {{.Id}} {{.State.StartedAt}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let mut args = vec!["inspect", "--format", format];
        args.extend(ids.iter().map(String::as_str));
        let mut out = BTreeMap::new();
        for line in docker(&args).lines() {
            let f: Vec<&str> = line.split(' ').collect();
            let unit = match f[0] {
                r if r.starts_with("coord") && f[1].contains("-controller") => "kafka-server",
                r if r.starts_with("coord") => "zookeeper-server",
                r if r.starts_with("broker") => "kafka-server",
                _ => "ssh",
            };
            let show = ["exec", f[2], "systemctl", "show", "-p", "ExecMainStartTimestampMonotonic", unit];
            let seen = Seen {
                name: f[1].trim_start_matches('/').to_owned(),
                id: f[2].to_owned(),
                container_started: f[3].to_owned(),
                address: f.get(4).copied().unwrap_or_default().to_owned(),
                unit_started: docker(&show),
            };
            out.insert(f[0].to_owned(), seen);
        }
        out
    }

    /// Insists on one whole cluster, and nothing that a killed run left behind.
    #[track_caller]
    pub fn is_whole(&self) {
        let mut names: Vec<String> = self.seen().into_values().map(|s| s.name).collect();
        let mut wanted: Vec<String> = self.hosts.iter().map(|h| self.host(h)).collect();
        names.sort();
        wanted.sort();
        assert_eq!(names, wanted);
        assert_eq!((self.networks().len(), self.volumes().len()), (1, self.hosts.len()));
        assert_eq!(self.problems(), BTreeMap::new());
    }

    /// Insists that nothing is there.
    #[track_caller]
    pub fn is_gone(&self) {
        assert_eq!(self.containers(), Vec::<String>::new());
        assert_eq!(self.networks(), Vec::<String>::new());
        assert_eq!(self.volumes(), Vec::<String>::new());
    }

    /// A value of `septet endpoints`.
    fn endpoint(&self, key: &str) -> String {
        self.ok(&["endpoints", "--json"]).json()[key].as_str().unwrap().to_owned()
    }
    pub fn bootstrap(&self) -> String {
        self.endpoint("bootstrap.servers")
    }
    pub fn zookeeper(&self) -> String {
        self.endpoint("zookeeper.connect")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ran = self.run(&["health"]);
            eprintln!("the cluster of the failed test, {}", ran.show());
        }
        let ran = self.run(&["down", "--yes"]);
        if ran.code == Some(0) && self.containers().is_empty() && self.networks().is_empty() {
            return;
        }
        eprintln!("down did not do it, docker does: {}", ran.show());
        for id in self.containers() {
            docker_try(&["rm", "-fv", &id]);
        }
        for id in self.networks() {
            docker_try(&["network", "rm", &id]);
        }
        for id in self.volumes() {
            docker_try(&["volume", "rm", "-f", &id]);
        }
    }
}

/// A container that is not septet's; removed when dropped.
pub struct Foreign(pub String);

impl Foreign {
    /// A container of this name, from the node image of some cluster.
    pub fn new(name: &str, like: &Cluster) -> Self {
        let image = docker(&["inspect", "--format", "{{.Config.Image}}", &like.containers()[0]]);
        Self(docker(&["create", "--name", name, &image, "sleep", "1"]))
    }

    /// Insists that it is there, under its name.
    #[track_caller]
    pub fn is_untouched(&self, name: &str) {
        assert_eq!(docker(&["inspect", "--format", "{{.Name}}", &self.0]), format!("/{name}"));
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker_try(&["rm", "-fv", &self.0]);
    }
}
