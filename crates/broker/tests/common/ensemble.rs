//! Three coordinators and three brokers as processes, each broker reached by clients and by the other brokers through a gate, and each
//! coordinator by each broker through another: see `network.rs`.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use kafka_protocol::messages::MetadataRequest;
use tempfile::TempDir;

use super::{
    client::{Client, eventually, new_topic},
    network::{Gate, Network},
    processes::{Node, Process, SOON, coordinator_program, free_port},
};

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

pub struct Ensemble {
    pub nodes: Vec<Node>,
    pub network: Arc<Network>,
    gates: Vec<Gate>,
    _coordinator_gates: Vec<Gate>,
    pub coordinators: Vec<Option<Process>>,
    pub dir: TempDir,
}

/// Leader and ISR by partition, as one broker tells it.
pub type States = Vec<(i32, Vec<i32>)>;

impl Ensemble {
    pub fn start(settings: &str) -> Self {
        let dir = super::tempdir();
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let list: String = (0..3).map(|i| format!("server.{}=127.0.0.1:{}:1\n", i + 1, ports[i].1)).collect();
        for (i, (port, _)) in ports.iter().enumerate() {
            let at = dir.path().join(format!("zk{i}"));
            fs::create_dir_all(at.join("data")).unwrap();
            fs::write(at.join("data/myid"), format!("{}\n", i + 1)).unwrap();
            let text = format!(
                "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=200\nminSessionTimeout=200\nmaxSessionTimeout=60000\n{list}",
                at.join("data").display()
            );
            fs::write(at.join("zoo.cfg"), text).unwrap();
        }
        let network = Arc::<Network>::default();
        let (mut nodes, mut gates, mut coordinator_gates) = (Vec::new(), Vec::new(), Vec::new());
        for id in 1..=3 {
            let mut to_coordinators: Vec<Gate> = (0..3).map(|i| Gate::new(&network, Some(id), 4 + i, ports[i].0)).collect();
            let addresses: Vec<String> = to_coordinators.iter().map(|g| format!("127.0.0.1:{}", g.port)).collect();
            coordinator_gates.append(&mut to_coordinators);
            let node = Node::new(dir.path(), &format!("broker-{id}"), id as i32, &addresses.join(","), settings);
            let gate = Gate::new(&network, None, id, node.port);
            let file = node.dir.join("server.properties");
            let text = fs::read_to_string(&file).unwrap();
            let text = text.replace("offsets.topic.replication.factor=1", "offsets.topic.replication.factor=3");
            fs::write(&file, format!("{text}advertised.listeners=PLAINTEXT://127.0.0.1:{}\n", gate.port)).unwrap();
            nodes.push(node);
            gates.push(gate);
        }
        let mut this = Self { nodes, network, gates, _coordinator_gates: coordinator_gates, coordinators: vec![None, None, None], dir };
        (0..3).for_each(|i| this.start_coordinator(i));
        this.nodes.iter_mut().for_each(Node::start);
        this.nodes.iter_mut().for_each(|n| n.wait(3));
        this
    }

    pub fn start_coordinator(&mut self, i: usize) {
        let at = self.dir.path().join(format!("zk{i}"));
        self.coordinators[i] = Some(Process::start(&coordinator_program(), &[&at.join("zoo.cfg")], at.join("stderr")));
    }

    pub fn kill_coordinator(&mut self, i: usize) {
        self.coordinators[i].take().expect("it runs").kill_9();
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Kills a broker; nothing listens at its address from then on.
    pub fn kill(&mut self, id: i32) {
        self.gates[id as usize - 1].set_open(false);
        self.node(id).kill_9();
    }

    pub fn restart(&mut self, id: i32) {
        self.node(id).start();
        self.gates[id as usize - 1].set_open(true);
    }

    /// Stops a broker by SIGTERM.
    pub fn stop(&mut self, id: i32) {
        let (status, said) = self.node(id).stop();
        self.gates[id as usize - 1].set_open(false);
        // A signal that comes before the program has asked for it ends it at once.
        let early = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        assert!(status.success() || early, "broker {id}: {status}\n{said}");
    }

    /// Cuts or mends the ways between two sets of places, in one direction.
    pub fn cut(&self, from: &[usize], to: &[usize], cut: bool) {
        from.iter().for_each(|a| to.iter().filter(|b| *b != a).for_each(|b| self.network.set(*a, *b, cut)));
    }

    /// Addresses for clients.
    pub fn bootstrap(&self) -> String {
        self.gates.iter().map(|g| format!("127.0.0.1:{}", g.port)).collect::<Vec<_>>().join(",")
    }

    fn metadata(&self, ask: i32, topics: &[&str]) -> Option<kafka_protocol::messages::MetadataResponse> {
        let mut client = Client::try_connect(self.nodes[ask as usize - 1].port).ok()?;
        client.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let wanted = topics
            .iter()
            .map(|t| {
                kafka_protocol::messages::metadata_request::MetadataRequestTopic::default().with_name(Some(super::client::topic_name(t)))
            })
            .collect();
        client.try_call(9, &MetadataRequest::default().with_topics(Some(wanted))).ok()
    }

    /// The controller, as a broker knows it.
    pub fn controller(&self, ask: i32) -> Option<i32> {
        self.metadata(ask, &[]).map(|m| m.controller_id.0).filter(|c| *c > 0)
    }

    /// Leaders and ISRs as one broker knows them.
    pub fn states(&self, ask: i32, topic: &str) -> Option<States> {
        let answer = self.metadata(ask, &[topic])?;
        let topic = answer.topics.first()?;
        let mut partitions: Vec<_> = topic.partitions.iter().collect();
        partitions.sort_by_key(|p| p.partition_index);
        let isr = |list: &[kafka_protocol::messages::BrokerId]| {
            let mut isr: Vec<i32> = list.iter().map(|b| b.0).collect();
            isr.sort_unstable();
            isr
        };
        Some(partitions.into_iter().map(|p| (p.leader_id.0, isr(&p.isr_nodes))).collect())
    }

    pub fn create(&self, topic: &str, partitions: i32) {
        eventually("the controller makes a topic", SOON, || {
            let controller = self.controller(1)?;
            let made = self.nodes[controller as usize - 1].client().create_topics(vec![new_topic(topic, partitions, 3)], false);
            (made[0].error_code == 0).then_some(())
        });
        self.wait_in_sync(topic, partitions as usize, SOON);
    }

    /// Waits until every broker knows all replicas to be in sync.
    pub fn wait_in_sync(&self, topic: &str, partitions: usize, limit: Duration) {
        let begun = Instant::now();
        loop {
            let last: Vec<Option<States>> = (1..=3).map(|id| self.states(id, topic)).collect();
            let full =
                |s: &Option<States>| s.as_ref().is_some_and(|s| s.len() == partitions && s.iter().all(|(l, isr)| *l > 0 && isr.len() == 3));
            if last.iter().all(full) && last.iter().all(|s| *s == last[0]) {
                return;
            }
            assert!(begun.elapsed() < limit, "{topic} is not in sync after {limit:?}: {last:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All segments of a partition at a broker, one after the other.
    pub fn log(&self, id: i32, topic: &str, partition: usize) -> Vec<u8> {
        let dir = self.nodes[id as usize - 1].logs().join(format!("{topic}-{partition}"));
        super::logs::files(Path::new(&dir), "log").into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}
