//! Real processes: a coordinator and brokers on free ports of the loopback device, in a directory that goes away.
//! Whatever is started is killed when its owner is dropped, also when a test fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Once,
    time::Duration,
};

use kafka_protocol::{ResponseError, messages::MetadataRequest};
pub use septet_testing::free_port;
use tempfile::TempDir;

use super::client::{Client, eventually};

pub const BROKER: &str = env!("CARGO_BIN_EXE_septet-broker");
/// Time for what should take a second, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(40);

/// The coordinator's program, beside the broker's; it is built if it is not there.
pub fn coordinator_program() -> PathBuf {
    static BUILD: Once = Once::new();
    let broker = Path::new(BROKER);
    let program = broker.with_file_name("septet-coordinator");
    BUILD.call_once(|| {
        if !program.exists() {
            let profile_dir = broker.parent().unwrap();
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

/// A child process with its output in a file.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program of ours.
    pub fn start(program: &Path, arguments: &[&Path], log: PathBuf) -> Self {
        Self::start_limited(program, arguments, log, None)
    }

    /// The same, with a limit of open files.
    pub fn start_limited(program: &Path, arguments: &[&Path], log: PathBuf, files: Option<u32>) -> Self {
        let mut command = match files {
            None => Command::new(program),
            Some(n) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {n}; exec \"$0\" \"$@\"")).arg(program);
                shell
            }
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).env("SEPTET_LOG", "info");
        Self::spawn(command, log)
    }

    /// Starts anything; its standard error is kept.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        command.stderr(fs::File::options().create(true).append(true).open(&log).unwrap());
        Self { child: command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it, and the one before it with the same log, have said.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn exit(&mut self, limit: Duration) -> ExitStatus {
        eventually("the process ends", limit, || self.child.try_wait().unwrap())
    }

    pub fn terminate(&mut self) -> ExitStatus {
        assert!(Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap().success());
        self.exit(SOON)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(15).collect();
            eprintln!("--- {}:\n{}", self.log.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A broker: its files, and its process while it runs.
pub struct Node {
    pub id: i32,
    pub port: u16,
    pub dir: PathBuf,
    pub process: Option<Process>,
    /// limit of open files from the next start on
    pub files: Option<u32>,
    /// what runs the program from the next start on: the program and its arguments follow
    pub wrapper: Vec<String>,
}

impl Node {
    pub fn new(root: &Path, name: &str, id: i32, zookeeper: &str, settings: &str) -> Self {
        let (port, dir) = (free_port(), root.join(name));
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "broker.id={id}\nlisteners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\nzookeeper.connect={zookeeper}\noffsets.topic.num.partitions=5\n\
             offsets.topic.replication.factor=1\nnum.partitions=3\nlog.segment.bytes=20000\nlog.index.interval.bytes=500\n{settings}\n",
            dir.join("logs").display()
        );
        fs::write(dir.join("server.properties"), text).unwrap();
        Self { id, port, dir, process: None, files: None, wrapper: Vec::new() }
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none());
        let config = self.dir.join("server.properties");
        if let Some((program, arguments)) = self.wrapper.split_first() {
            let arguments: Vec<&Path> = arguments.iter().map(Path::new).chain([Path::new(BROKER), &config]).collect();
            self.process = Some(Process::start(Path::new(program), &arguments, self.dir.join("stderr")));
            return;
        }
        self.process = Some(Process::start_limited(Path::new(BROKER), &[&config], self.dir.join("stderr"), self.files));
    }

    pub fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    pub fn kill_9(&mut self) {
        self.process.take().expect("it runs").kill_9();
    }

    /// Stops it by SIGTERM. Returns how it ended, and its log.
    pub fn stop(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("it runs");
        let status = process.terminate();
        (status, process.said())
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Waits until it answers and sees so many brokers and a controller.
    pub fn wait(&mut self, brokers: usize) {
        let port = self.port;
        let process = self.running();
        eventually("the broker answers and sees the others", SOON, || {
            assert!(!process.has_ended(), "the broker ended: {}", process.said());
            // Until it serves, it takes connections but does not answer.
            let mut client = Client::try_connect(port).ok()?;
            client.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let seen = client.try_call(9, &MetadataRequest::default().with_topics(Some(vec![]))).ok()?;
            (seen.brokers.len() == brokers && seen.controller_id.0 >= 0).then_some(())
        });
    }
}

/// One coordinator and some brokers, numbered from 1.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub zookeeper: String,
    coordinator: Process,
    pub dir: TempDir,
}

impl Cluster {
    pub fn start(brokers: i32, settings: &str) -> Self {
        Self::start_limited(brokers, settings, None)
    }

    /// The same, where each broker may have so many files open.
    pub fn start_limited(brokers: i32, settings: &str, files: Option<u32>) -> Self {
        Self::start_each(brokers, |_| settings.to_owned(), files)
    }

    /// The same, with settings by broker.
    pub fn start_each(brokers: i32, settings: impl Fn(i32) -> String, files: Option<u32>) -> Self {
        let dir = super::tempdir();
        let port = free_port();
        let zookeeper = format!("127.0.0.1:{port}");
        let config = dir.path().join("zoo.cfg");
        let data = dir.path().join("zk");
        fs::create_dir_all(&data).unwrap();
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=200\nminSessionTimeout=200\nmaxSessionTimeout=60000\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let coordinator = Process::start(&coordinator_program(), &[&config], dir.path().join("coordinator.stderr"));
        let node = |id| Node { files, ..Node::new(dir.path(), &format!("broker-{id}"), id, &zookeeper, &settings(id)) };
        let nodes = (1..=brokers).map(node).collect();
        let mut this = Self { nodes, zookeeper, coordinator, dir };
        eventually("the coordinator listens", SOON, || {
            assert!(!this.coordinator.has_ended(), "the coordinator ended: {}", this.coordinator.said());
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        this.nodes.iter_mut().for_each(Node::start);
        this.wait();
        this
    }

    pub fn wait(&mut self) {
        let running = self.nodes.iter().filter(|n| n.process.is_some()).count();
        self.nodes.iter_mut().filter(|n| n.process.is_some()).for_each(|n| n.wait(running));
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).expect("a broker of that number")
    }

    pub fn client(&self, id: i32) -> Client {
        self.nodes.iter().find(|n| n.id == id).expect("a broker of that number").client()
    }

    pub fn controller(&self) -> i32 {
        let node = self.nodes.iter().find(|n| n.process.is_some()).expect("one runs");
        node.client().metadata(Some(&[]), false).controller_id.0
    }

    /// Makes a topic, and waits until every broker that runs knows the leaders. Returns them by partition.
    pub fn create(&self, topic: &str, partitions: i32) -> Vec<i32> {
        eventually("the controller makes a topic", SOON, || {
            let made = self.client(self.controller()).create_topics(vec![super::client::new_topic(topic, partitions, 1)], false);
            let between_controllers = made[0].error_code == ResponseError::NotController.code();
            assert!(between_controllers || made[0].error_code == 0, "{:?}", made[0].error_message);
            (!between_controllers).then_some(())
        });
        self.leaders(topic)
    }

    /// The leader of each partition, once all brokers that run say the same.
    pub fn leaders(&self, topic: &str) -> Vec<i32> {
        let ask = |n: &Node| {
            let t = n.client().metadata(Some(&[topic]), false).topics.remove(0);
            let mut leaders: Vec<(i32, i32)> = t.partitions.iter().map(|p| (p.partition_index, p.leader_id.0)).collect();
            leaders.sort_unstable();
            leaders.into_iter().map(|(_, l)| l).collect::<Vec<_>>()
        };
        eventually("all agree on the leaders", SOON, || {
            let said: Vec<_> = self.nodes.iter().filter(|n| n.process.is_some()).map(ask).collect();
            said.iter().all(|l| *l == said[0] && !l.is_empty() && l.iter().all(|id| *id >= 0)).then(|| said[0].clone())
        })
    }

    pub fn znodes(&self) -> super::znodes::Znodes {
        super::znodes::Znodes::connect(&self.zookeeper)
    }
}
