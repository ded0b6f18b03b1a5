//! Apache ZooKeeper 3.8 from the Kafka distribution in SEPTET_TEST_KAFKA, as a process that ends with the test.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{eventually, free_port};

/// The class path of ZooKeeper's jars and what they need, if the distribution is there.
pub fn class_path() -> Option<String> {
    let libs = PathBuf::from(std::env::var_os("SEPTET_TEST_KAFKA")?).join("libs");
    let wanted = |name: &str| {
        let starts = |all: &[&str]| all.iter().any(|p| name.starts_with(p));
        let libraries =
            ["zookeeper", "netty-", "slf4j-", "reload4j-", "metrics-core-4", "snappy", "commons-", "jline", "jetty-", "javax.servlet"];
        starts(&libraries) || starts(&["jackson-core-", "jackson-databind-", "jackson-annotations-", "audience"])
    };
    let mut jars: Vec<String> = fs::read_dir(libs).ok()?.flatten().map(|e| e.path().display().to_string()).collect();
    jars.retain(|j| Path::new(j).file_name().is_some_and(|n| wanted(&n.to_string_lossy())));
    Some(jars.join(":"))
}

/// Says that a test was left out.
pub fn skip(what: &str) {
    septet_testing::skip(what, "SEPTET_TEST_KAFKA is not set, a directory with Apache Kafka 3.9 and its ZooKeeper");
}

pub struct ZooKeeper {
    pub port: u16,
    pub admin_port: u16,
    dir: Option<TempDir>,
    child: Child,
}

impl ZooKeeper {
    /// One that stands alone, with lines for its zoo.cfg and system properties; `None` without the distribution.
    pub fn start(extra: &str, properties: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self::start_in(dir, extra, properties)
    }

    /// As [`ZooKeeper::start`], with a directory in which `data` may be there already.
    pub fn start_in(dir: TempDir, extra: &str, properties: &[&str]) -> Option<Self> {
        let class_path = class_path()?;
        let (port, admin_port) = (free_port(), free_port());
        let at = |name: &str| dir.path().join(name);
        let text = format!(
            "tickTime=500\nmaxSessionTimeout=60000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             4lw.commands.whitelist=*\nadmin.serverPort={admin_port}\n{extra}\n",
            at("data").display()
        );
        fs::write(at("zoo.cfg"), text).unwrap();
        fs::write(at("log4j.properties"), "log4j.rootLogger=WARN, C\nlog4j.appender.C=org.apache.log4j.ConsoleAppender\nlog4j.appender.C.layout=org.apache.log4j.PatternLayout\nlog4j.appender.C.layout.ConversionPattern=%p %c %m%n\n").unwrap();
        let log = File::create(at("log")).unwrap();
        let child = Command::new("java")
            .args(["-cp", &class_path, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dzookeeper.preAllocSize=64"])
            .arg(format!("-Dlog4j.configuration=file:{}", at("log4j.properties").display()))
            .args(properties)
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(at("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self { port, admin_port, dir: Some(dir), child };
        eventually("ZooKeeper serves", || {
            assert!(this.child.try_wait().unwrap().is_none(), "it ended:\n{}", this.log());
            this.ask("srvr").filter(|a| a.contains("Mode:"))
        });
        Some(this)
    }

    pub fn log(&self) -> String {
        self.dir.as_ref().map_or_else(String::new, |d| fs::read_to_string(d.path().join("log")).unwrap_or_default())
    }

    /// Kills it, and hands out its directory.
    pub fn stop(mut self) -> TempDir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.dir.take().unwrap()
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
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- ZooKeeper\n{}", self.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}
