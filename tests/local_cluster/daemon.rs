//! The Docker daemon itself is restarted and killed. It is a daemon of the test's own, in namespaces of its own, so that nothing
//! else on this machine notices.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::harness::{Cluster, Ran, docker, enabled, eventually, node_image};

const RECORDS: usize = 300;

/// A Docker daemon in namespaces of its own for network, processes and mounts: when this is dropped, all of it ends with them.
struct Daemon {
    dir: TempDir,
    /// the first process of the namespaces, and what started it
    first: String,
    holder: Child,
    child: Option<Child>,
}

/// Reaps like an init: a daemon that is killed leaves a containerd.
const FIRST: &str = "ip link set lo up && : > \"$0\" && while :; do sleep 1; done";

impl Daemon {
    /// None where a second daemon cannot be run; says why.
    fn new(test: &str) -> Option<Self> {
        let skip = |why: &str| {
            septet_testing::skip(test, why);
            None
        };
        for program in ["dockerd", "ip", "unshare", "nsenter", "pgrep"] {
            let there = |d: &str| PathBuf::from(d).join(program).exists();
            if !["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].into_iter().any(there) {
                return skip(&format!("there is no {program} for a daemon of its own"));
            }
        }
        let dir = tempfile::Builder::new().prefix("septet-dockerd-").tempdir().unwrap();
        let ready = dir.path().join("ready");
        let mut c = Command::new("unshare");
        c.args(["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", FIRST]).arg(&ready);
        let mut holder = c.stdin(Stdio::null()).spawn().unwrap();
        while !ready.exists() {
            if holder.try_wait().unwrap().is_some() {
                return skip("no namespaces can be made (it takes root)");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut c = Command::new("pgrep");
        c.args(["-P", &holder.id().to_string()]);
        let first = Ran::of(c, "", Duration::from_secs(10)).code(0).out.trim().to_owned();
        fs::write(dir.path().join("conf"), "{}").unwrap();
        let mut this = Self { dir, first, holder, child: None };
        this.start();
        Some(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program in the namespaces, which knows this daemon.
    fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["--target", &self.first, "--net", "--pid", "--mount", "--"]).arg(program);
        c.env("DOCKER_HOST", format!("unix://{}", self.path("sock").display()));
        c
    }

    /// A command of somebody else, in there.
    fn entered(&self, command: &Command) -> Command {
        let mut c = self.inside("env");
        c.arg("-C").arg(command.get_current_dir().unwrap()).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            c.env(key, value.unwrap());
        }
        c
    }

    fn docker(&self, args: &[&str]) -> Ran {
        let mut c = self.inside("docker");
        c.args(args);
        Ran::of(c, "", Duration::from_secs(90))
    }

    fn start(&mut self) {
        let driver = docker(&["info", "--format", "{{.Driver}}"]);
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut c = self.inside("dockerd");
        c.args(["--storage-driver", &driver]);
        for (option, name) in [("--config-file", "conf"), ("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")] {
            c.arg(option).arg(self.path(name));
        }
        c.arg("--host").arg(format!("unix://{}", self.path("sock").display()));
        self.child = Some(c.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let begun = Instant::now();
        while self.docker(&["version"]).code != Some(0) {
            let said = || fs::read_to_string(self.path("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(90), "the daemon does not answer:\n{}", said());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the daemon by a signal, and starts it again.
    fn restart(&mut self, how: &str) {
        let pid = fs::read_to_string(self.path("pid")).unwrap();
        let mut c = self.inside("kill");
        c.args([&format!("-{how}"), pid.trim()]);
        Ran::of(c, "", Duration::from_secs(10)).code(0);
        self.child.take().unwrap().wait().unwrap();
        assert_ne!(self.docker(&["version"]).code, Some(0));
        self.start();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's containers: {}", self.docker(&["ps", "-a"]).show());
        }
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

/// septet and kcat against that daemon.
struct Inside<'a> {
    daemon: &'a Daemon,
    cluster: &'a Cluster,
}

impl Inside<'_> {
    fn septet(&self, args: &[&str]) -> Ran {
        Ran::of(self.daemon.entered(&self.cluster.command(args)), "", Duration::from_secs(240))
    }
    fn kcat(&self, servers: &str, args: &[&str], input: &str) -> Ran {
        let mut c = self.daemon.inside("kcat");
        c.args(["-q", "-b", servers]).args(args);
        Ran::of(c, input, Duration::from_secs(60)).code(0)
    }
    /// Insists that all is as it was, with nobody's help.
    #[track_caller]
    fn is_back(&self, servers: &str) {
        self.septet(&["health", "--wait", "180"]).code(0);
        let now = self.septet(&["endpoints", "--json"]).code(0).json();
        assert_eq!(now["bootstrap.servers"], servers);
        let mut read: Vec<usize> =
            self.kcat(servers, &["-C", "-t", "kept", "-e", "-o", "beginning"], "").out.lines().map(|l| l.parse().unwrap()).collect();
        read.sort_unstable();
        assert_eq!(read, (1..=RECORDS).collect::<Vec<_>>());
        for host in ["control01", "zk02", "kafka03"] {
            let name = self.cluster.host(host);
            let script = format!("hostname; grep -c {name} /etc/hosts; getent hosts {name}");
            let said = self.daemon.docker(&["exec", &name, "sh", "-c", &script]).code(0).out;
            assert!(said.starts_with(&format!("{name}\n1\n")), "{said}");
        }
        self.septet(&["plan", "--exit-code"]).code(0);
    }
}

#[test]
fn the_daemon_is_restarted_and_killed() {
    let test = "the_daemon_is_restarted_and_killed";
    if !enabled(test) {
        return;
    }
    let Some(mut daemon) = Daemon::new(test) else { return };
    let image = node_image();
    let file = daemon.path("image.tar");
    docker(&["save", &image, "-o", file.to_str().unwrap()]);
    daemon.docker(&["load", "-i", file.to_str().unwrap()]).code(0);
    fs::remove_file(file).unwrap();

    let cluster = Cluster::new("m");
    let run = |daemon: &Daemon, args: &[&str]| Inside { daemon, cluster: &cluster }.septet(args).code(0);
    run(&daemon, &["up"]);
    let servers = run(&daemon, &["endpoints", "--json"]).json()["bootstrap.servers"].as_str().unwrap().to_owned();
    let input: String = (1..=RECORDS).map(|n| format!("{n}\n")).collect();
    Inside { daemon: &daemon, cluster: &cluster }.kcat(&servers, &["-P", "-t", "kept", "-X", "topic.request.required.acks=-1"], &input);

    daemon.restart("TERM");
    Inside { daemon: &daemon, cluster: &cluster }.is_back(&servers);
    run(&daemon, &["rename", &format!("kisu{}", std::process::id())]);
    for how in ["TERM", "KILL"] {
        daemon.restart(how);
        Inside { daemon: &daemon, cluster: &cluster }.is_back(&servers);
    }
    run(&daemon, &["down", "--yes"]);
    eventually("nothing is left", Duration::from_secs(10), || daemon.docker(&["ps", "-aq"]).out.is_empty());
}
