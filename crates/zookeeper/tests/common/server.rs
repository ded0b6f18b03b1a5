//! One server that stands alone: ours, or Apache ZooKeeper 3.8 from a Kafka distribution.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use septet_testing::free_port;
use tempfile::TempDir;

use super::DEADLINE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Apache,
}

pub const BOTH: [Kind; 2] = [Kind::Ours, Kind::Apache];

/// The coordinator's program, beside this test's; it is built if it is not there.
fn coordinator() -> PathBuf {
    static BUILD: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().unwrap().parent().unwrap();
    let program = profile_dir.join("septet-coordinator");
    BUILD.call_once(|| {
        if !program.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args([
                "build",
                "--quiet",
                "-p",
                "septet-coordinator",
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ]);
            cargo.arg("--target-dir").arg(profile_dir.parent().unwrap());
            if profile_dir.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "the coordinator does not build");
        }
    });
    program
}

/// The Kafka distribution: SEPTET_TEST_KAFKA, or what `scripts/setup test` has unpacked.
fn class_path() -> String {
    let kafka = std::env::var_os("SEPTET_TEST_KAFKA").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
        cache.join("septet/kafka_2.13-3.9.1")
    });
    let wanted = |name: &str| {
        let libraries = ["zookeeper", "netty-", "slf4j-", "reload4j-", "metrics-core-4", "snappy", "commons-", "jackson-", "audience"];
        libraries.iter().any(|p| name.starts_with(p))
    };
    let libs = kafka.join("libs");
    let list = fs::read_dir(&libs).unwrap_or_else(|e| panic!("{}: {e}: set SEPTET_TEST_KAFKA to Apache Kafka 3.9", libs.display()));
    let mut jars: Vec<String> = list.map(|e| e.unwrap().path().display().to_string()).collect();
    jars.retain(|j| Path::new(j).file_name().is_some_and(|n| wanted(&n.to_string_lossy())));
    jars.join(":")
}

pub struct Server {
    pub kind: Kind,
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(kind: Kind) -> Self {
        let mut this = Self::configure(kind, None, free_port(), "");
        this.restart();
        this
    }

    /// Starts three that are one ensemble, and waits until they serve.
    pub fn start_three(kind: Kind) -> Vec<Self> {
        let ports: Vec<[u16; 3]> = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let list = ports.iter().enumerate().map(|(i, [_, peer, election])| format!("server.{}=127.0.0.1:{peer}:{election}\n", i + 1));
        let list = format!("initLimit=20\nsyncLimit=10\n{}", list.collect::<String>());
        let mut all: Vec<Self> = (0..3).map(|i| Self::configure(kind, Some(i + 1), ports[i][0], &list)).collect();
        all.iter_mut().for_each(Self::spawn);
        all.iter_mut().for_each(Self::wait);
        all
    }

    fn configure(kind: Kind, id: Option<usize>, port: u16, extra: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let data = dir.path().join("data");
        let mut text = format!(
            "tickTime=500\nmaxSessionTimeout=60000\nclientPort={port}\nclientPortAddress=127.0.0.1\ndataDir={}\n4lw.commands.whitelist=*\n\
             maxClientCnxns=0\nextendedTypesEnabled=true\n{extra}",
            data.display()
        );
        if kind == Kind::Apache {
            text += "admin.enableServer=false\n";
        }
        if let Some(id) = id {
            fs::create_dir_all(&data).unwrap();
            fs::write(data.join("myid"), format!("{id}\n")).unwrap();
        }
        fs::write(dir.path().join("zoo.cfg"), text).unwrap();
        fs::write(dir.path().join("log4j.properties"), "log4j.rootLogger=OFF\n").unwrap();
        Self { kind, port, dir, child: None }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again, after [`Server::kill`].
    pub fn restart(&mut self) {
        self.spawn();
        self.wait();
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none());
        let config = self.dir.path().join("zoo.cfg");
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Ours => Command::new(coordinator()),
            Kind::Apache => {
                let mut java = Command::new("java");
                java.args(["-cp", &class_path(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dzookeeper.preAllocSize=64"]);
                java.arg("-Dzookeeper.extendedTypesEnabled=true");
                java.arg(format!("-Dlog4j.configuration=file:{}", self.dir.path().join("log4j.properties").display()));
                java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
                java
            }
        };
        command.arg(config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.ask("srvr").is_some_and(|a| a.contains("Mode:")) {
            assert!(Instant::now() < deadline, "it does not serve");
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it leads its ensemble.
    pub fn leads(&self) -> bool {
        self.ask("srvr").is_some_and(|a| a.contains("Mode: leader"))
    }

    /// kill -9
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Answer to a four-letter word.
    pub fn ask(&self, word: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut out = String::new();
        stream.read_to_string(&mut out).ok()?;
        Some(out)
    }

    /// Watches that the server has.
    pub fn watch_count(&self) -> Option<u64> {
        let all = self.ask("mntr")?;
        all.lines().find_map(|l| l.strip_prefix("zk_watch_count\t"))?.trim().parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- {:?}\n{}", self.kind, log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}
