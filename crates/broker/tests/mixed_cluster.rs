//! A broker of Apache beside ours in one cluster: it replicates in both directions, either program may be the controller, and what is
//! acknowledged by all in-sync replicas outlives a failover from one to the other.
//!
//! Brokers 1 and 2 are ours, broker 3 is Apache's. Records are compared with what was sent, and the files of all three replicas byte
//! for byte: a log that one program wrote and another replicated has to be the same log.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "mixed/transactions.rs"]
mod transactions;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    apache,
    batches::Batch,
    client::{Client, eventually, new_topic, produce_request, text},
    logs::batches,
    processes::{Cluster, Node, Process},
    tools,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteTopicsRequest, FindCoordinatorRequest, InitProducerIdRequest, TopicName,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
        delete_topics_request::DeleteTopicState,
    },
};

const SETTINGS: &str = "replica.lag.time.max.ms=30000\nzookeeper.session.timeout.ms=15000\nmin.insync.replicas=2\n\
     offsets.topic.replication.factor=3\nlog.segment.delete.delay.ms=500";
const APACHE: i32 = 3;
const ALL: [i32; 3] = [1, 2, APACHE];
/// On a machine that is busy.
const LIMIT: Duration = Duration::from_secs(90);

/// One coordinator, with no broker yet.
fn empty() -> Cluster {
    let mut cluster = Cluster::start(0, "");
    for id in ALL {
        let node = Node::new(cluster.dir.path(), &format!("broker-{id}"), id, &cluster.zookeeper, SETTINGS);
        cluster.nodes.push(node);
    }
    cluster
}

fn wait_all(cluster: &mut Cluster) {
    let count = cluster.nodes.iter().filter(|n| n.process.is_some()).count();
    for id in ALL {
        if cluster.node(id).process.is_some() {
            apache::wait(cluster, id, count);
        }
    }
}

fn assigned(name: &str, partitions: &[[i32; 3]]) -> CreatableTopic {
    let assignments = partitions.iter().enumerate().map(|(i, r)| {
        let ids = r.iter().map(|id| (*id).into()).collect();
        CreatableReplicaAssignment::default().with_partition_index(i as i32).with_broker_ids(ids)
    });
    new_topic(name, -1, -1).with_assignments(assignments.collect())
}

/// Leader and ISR of a partition, by one broker.
fn state(cluster: &Cluster, ask: i32, topic: &str, partition: i32) -> Option<(i32, Vec<i32>)> {
    let mut client = Client::try_connect(cluster.nodes.iter().find(|n| n.id == ask)?.port).ok()?;
    let answer = client.metadata(Some(&[topic]), false);
    let p = answer.topics.first()?.partitions.iter().find(|p| p.partition_index == partition)?;
    let mut isr: Vec<i32> = p.isr_nodes.iter().map(|b| b.0).collect();
    isr.sort_unstable();
    Some((p.leader_id.0, isr))
}

/// Waits until every broker that runs has the same leader and as many in-sync replicas for a partition. Returns the leader.
fn settled(cluster: &Cluster, topic: &str, partition: i32, in_sync: usize) -> i32 {
    let running: Vec<i32> = cluster.nodes.iter().filter(|n| n.process.is_some()).map(|n| n.id).collect();
    let mut seen = Vec::new();
    let until = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < until {
        seen = running.iter().map(|id| state(cluster, *id, topic, partition)).collect();
        if let Some(Some((leader, isr))) = seen.first().cloned()
            && isr.len() == in_sync
            && running.contains(&leader)
            && seen.iter().all(|s| *s == Some((leader, isr.clone())))
        {
            return leader;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{topic}-{partition}: {in_sync} replicas in sync within {LIMIT:?}; the brokers {running:?} say {seen:?}");
}

fn create(cluster: &Cluster, topic: &CreatableTopic) {
    eventually("the controller makes a topic", LIMIT, || {
        let made = cluster.client(cluster.controller()).create_topics(vec![topic.clone()], false);
        let code = made[0].error_code;
        assert!([0, ResponseError::NotController.code()].contains(&code), "{made:?}");
        (code == 0).then_some(())
    });
}

/// An idempotent producer, that sends one record at a time.
struct Producer {
    id: i64,
    topic: &'static str,
    next: i32,
    /// time of the first record: now, or retention would take records away, Apache's 30 s after its start
    since: i64,
}

impl Producer {
    fn new(cluster: &Cluster, ask: i32, topic: &'static str) -> Self {
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1000);
        let id = eventually("a producer id", LIMIT, || {
            let answer = cluster.client(ask).call(4, &request);
            let retried = [ResponseError::CoordinatorLoadInProgress.code(), ResponseError::CoordinatorNotAvailable.code()];
            assert!(answer.error_code == 0 || retried.contains(&answer.error_code), "{answer:?}");
            (answer.error_code == 0).then_some(answer.producer_id.0)
        });
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        Self { id, topic, next: 0, since }
    }

    fn batch(&self, i: i32) -> Vec<u8> {
        Batch::new(self.since + i64::from(i)).values(&[&format!("{} {i}", self.topic)]).producer(self.id, 0, i).build()
    }

    fn wanted(&self) -> Vec<Vec<u8>> {
        (0..self.next).map(|i| self.batch(i)[16..].to_vec()).collect()
    }

    /// Sends the last record again, and then so many new ones, with acks=all, to the leader.
    fn go_on(&mut self, cluster: &Cluster, leader: i32, count: i32) {
        let mut client = cluster.client(leader);
        for i in (self.next - 1).max(0)..self.next + count {
            let request = produce_request(self.topic, 0, &self.batch(i), -1);
            // Right after a failover a leader may lack in-sync replicas for a moment; a client tries again then.
            eventually("a record is acknowledged", LIMIT, || {
                let p = client.call(9, &request).responses.remove(0).partition_responses.remove(0);
                let again = [
                    ResponseError::NotLeaderOrFollower,
                    ResponseError::NotEnoughReplicas,
                    ResponseError::RequestTimedOut,
                    ResponseError::NotEnoughReplicasAfterAppend,
                ];
                assert!(p.error_code == 0 || again.iter().any(|e| e.code() == p.error_code), "{i} at {leader}: {p:?}");
                (p.error_code == 0).then(|| assert_eq!(p.base_offset, i64::from(i), "at {leader}"))
            });
        }
        self.next += count;
        self.check(cluster, leader);
    }

    /// Whether a leader shows all that was acknowledged, each once and in order.
    fn check(&self, cluster: &Cluster, leader: i32) {
        let wanted = self.wanted();
        let mut client = cluster.client(leader);
        eventually("all records are shown", LIMIT, || {
            let found: Vec<Vec<u8>> = batches(&client.fetch(self.topic, 0, 0)).into_iter().map(|(_, b)| b[16..].to_vec()).collect();
            assert!(found.len() <= wanted.len(), "{leader} shows {} records", found.len());
            (found == wanted).then_some(())
        });
    }
}

/// The files of all replicas are the same, byte for byte.
fn same_files(cluster: &mut Cluster, topic: &str) {
    let name = format!("{topic}-0");
    let mut read = |id: i32| -> Vec<u8> {
        let dir = cluster.node(id).logs().join(&name);
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "log"));
        files.sort();
        files.iter().flat_map(|p| fs::read(p).unwrap()).collect()
    };
    eventually("the files are the same", LIMIT, || {
        let all = ALL.map(&mut read);
        (!all[0].is_empty() && all.iter().all(|f| *f == all[0])).then_some(())
    });
}

/// A group whose coordinator is one broker.
fn group_at(cluster: &Cluster, broker: i32) -> String {
    eventually("a group's coordinator", LIMIT, || {
        (0..40).map(|i| format!("group-{i}")).find(|g| coordinator(cluster, broker, g) == Some(broker))
    })
}

fn coordinator(cluster: &Cluster, ask: i32, group: &str) -> Option<i32> {
    let request = FindCoordinatorRequest::default().with_key(text(group));
    let answer = cluster.client(ask).call(3, &request);
    (answer.error_code == 0).then_some(answer.node_id.0)
}

fn commit(cluster: &Cluster, broker: i32, group: &str, offset: i64) {
    let mut client = cluster.client(broker);
    eventually("an offset is committed", LIMIT, || (client.commit(7, group, "ours", &[(0, offset, "")]) == [0]).then_some(()));
}

/// Waits until the group's coordinator, wherever it is, has this offset.
fn committed(cluster: &Cluster, ask: i32, group: &str, offset: i64) -> i32 {
    eventually("the committed offset is found", LIMIT, || {
        let at = coordinator(cluster, ask, group).filter(|id| *id != -1)?;
        let mut client = Client::try_connect(cluster.nodes.iter().find(|n| n.id == at)?.port).ok()?;
        let (code, found, _) = client.committed(5, group, "ours", 0);
        (code == 0 && found == offset).then_some(at)
    })
}

/// A topic is deleted, its files with it, and made anew under the same name.
fn delete_and_create(cluster: &mut Cluster, topic: &'static str) {
    let state = DeleteTopicState::default().with_name(Some(TopicName(text(topic))));
    let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(30_000);
    let answer = cluster.client(cluster.controller()).call(6, &request);
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    eventually("its files are gone", LIMIT, || {
        ALL.iter().all(|id| !cluster.nodes.iter().any(|n| n.id == *id && n.logs().join(format!("{topic}-0")).exists())).then_some(())
    });
    eventually("nobody knows it", LIMIT, || {
        let unknown = |id: &i32| cluster.client(*id).metadata(Some(&[topic]), false).topics[0].error_code == 3;
        ALL.iter().all(unknown).then_some(())
    });
    let znodes = cluster.znodes();
    eventually("its znode is gone", LIMIT, || (!znodes.children("/brokers/topics").contains(&topic.to_owned())).then_some(()));
    drop(znodes);
    create(cluster, &assigned(topic, &[[2, APACHE, 1]]));
    assert_eq!(settled(cluster, topic, 0, 3), 2);
    let mut producer = Producer::new(cluster, 1, topic);
    producer.go_on(cluster, 2, 5);
    same_files(cluster, topic);
}

/// The tools of Apache, at any of the brokers.
fn console(cluster: &Cluster) {
    let servers = tools::bootstrap(cluster);
    let out = tools::run(
        cluster.dir.path(),
        &tools::kafka("kafka-console-consumer.sh"),
        &[
            "--bootstrap-server",
            &servers,
            "--topic",
            "ours",
            "--from-beginning",
            "--group",
            "console",
            "--max-messages",
            "20",
            "--timeout-ms",
            "60000",
        ],
    );
    assert_eq!(out.lines().filter(|l| l.starts_with("ours ")).count(), 20, "{out}");
}

/// An idempotent producer and a consumer of a group, of librdkafka, that live through all failovers.
struct Steady {
    process: Process,
    stop: PathBuf,
    out: PathBuf,
}

impl Steady {
    fn start(cluster: &Cluster) -> Self {
        create(cluster, &assigned("steady", &[[1, APACHE, 2]]));
        let (stop, out) = (cluster.dir.path().join("steady.stop"), cluster.dir.path().join("steady.out"));
        let mut command = Command::new(tools::python());
        command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/steady.py"));
        command.arg(tools::bootstrap(cluster)).arg("steady").arg(&stop).stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
        Self { process: Process::spawn(command, cluster.dir.path().join("steady.stderr")), stop, out }
    }

    /// Every record was acknowledged, and consumed once and in order.
    fn finish(mut self) {
        fs::write(&self.stop, "").unwrap();
        let status = self.process.exit(2 * LIMIT);
        let said = fs::read_to_string(&self.out).unwrap();
        assert!(status.success() && said.lines().any(|l| l == "done"), "{status} {said}\n{}", self.process.said());
        println!("{said}");
    }
}

fn leave_isr(cluster: &Cluster, topic: &str, gone: i32) -> i32 {
    let leader = settled(cluster, topic, 0, 2);
    assert_ne!(leader, gone);
    leader
}

#[test]
fn ours_is_the_controller() {
    if !tools::has_apache() {
        return;
    }
    let mut cluster = empty();
    [1, 2].into_iter().for_each(|id| cluster.node(id).start());
    wait_all(&mut cluster);
    let controller = cluster.controller();
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    assert_eq!(cluster.controller(), controller, "the one of ours that was it");
    create(&cluster, &assigned("ours", &[[1, APACHE, 2]]));
    create(&cluster, &assigned("theirs", &[[APACHE, 1, 2]]));
    create(&cluster, &assigned("fleeting", &[[1, 2, APACHE]]));
    assert_eq!([settled(&cluster, "ours", 0, 3), settled(&cluster, "theirs", 0, 3)], [1, APACHE]);
    let steady = Steady::start(&cluster);
    // Apache's broker gets its ids from our controller.
    let mut ours = Producer::new(&cluster, APACHE, "ours");
    let mut theirs = Producer::new(&cluster, 2, "theirs");
    ours.go_on(&cluster, 1, 30);
    theirs.go_on(&cluster, APACHE, 30);
    console(&cluster);
    let (of_ours, of_theirs) = (group_at(&cluster, 1), group_at(&cluster, APACHE));
    commit(&cluster, 1, &of_ours, 11);
    commit(&cluster, APACHE, &of_theirs, 12);

    // Apache's broker is killed: one of ours leads.
    cluster.node(APACHE).kill_9();
    let leader = leave_isr(&cluster, "theirs", APACHE);
    theirs.go_on(&cluster, leader, 20);
    ours.go_on(&cluster, 1, 20);
    committed(&cluster, 1, &of_theirs, 12);
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    settled(&cluster, "theirs", 0, 3);
    settled(&cluster, "ours", 0, 3);

    // One of ours is stopped, and Apache's leads what it led.
    let (status, said) = cluster.node(1).stop();
    assert!(status.success() && said.contains("leaderships are handed over"), "{status} {said}");
    assert_eq!(leave_isr(&cluster, "ours", 1), APACHE);
    ours.go_on(&cluster, APACHE, 20);
    let at = committed(&cluster, APACHE, &of_ours, 11);
    commit(&cluster, at, &of_ours, 21);
    cluster.node(1).start();
    wait_all(&mut cluster);
    assert_eq!(settled(&cluster, "ours", 0, 3), APACHE);
    settled(&cluster, "theirs", 0, 3);

    // Apache's is stopped with our controller's help, and ours lead again.
    apache::stop_node(&mut cluster, APACHE);
    let leader = leave_isr(&cluster, "ours", APACHE);
    ours.go_on(&cluster, leader, 20);
    let leader = leave_isr(&cluster, "theirs", APACHE);
    theirs.go_on(&cluster, leader, 10);
    committed(&cluster, 1, &of_ours, 21);
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    for topic in ["ours", "theirs"] {
        settled(&cluster, topic, 0, 3);
        same_files(&mut cluster, topic);
    }
    settled(&cluster, "fleeting", 0, 3);
    delete_and_create(&mut cluster, "fleeting");
    settled(&cluster, "steady", 0, 3);
    steady.finish();
    same_files(&mut cluster, "steady");
}

#[test]
fn apaches_is_the_controller() {
    if !tools::has_apache() {
        return;
    }
    let mut cluster = empty();
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    [1, 2].into_iter().for_each(|id| cluster.node(id).start());
    wait_all(&mut cluster);
    assert_eq!(cluster.controller(), APACHE);
    create(&cluster, &assigned("ours", &[[1, APACHE, 2]]));
    create(&cluster, &assigned("theirs", &[[APACHE, 1, 2]]));
    create(&cluster, &assigned("fleeting", &[[1, 2, APACHE]]));
    assert_eq!([settled(&cluster, "ours", 0, 3), settled(&cluster, "theirs", 0, 3)], [1, APACHE]);
    let steady = Steady::start(&cluster);
    let mut ours = Producer::new(&cluster, APACHE, "ours");
    let mut theirs = Producer::new(&cluster, 2, "theirs");
    ours.go_on(&cluster, 1, 30);
    theirs.go_on(&cluster, APACHE, 30);

    // One of ours is killed: Apache's leads.
    cluster.node(1).kill_9();
    assert_eq!(leave_isr(&cluster, "ours", 1), APACHE);
    ours.go_on(&cluster, APACHE, 20);
    cluster.node(1).start();
    wait_all(&mut cluster);
    assert_eq!(settled(&cluster, "ours", 0, 3), APACHE);
    settled(&cluster, "theirs", 0, 3);
    settled(&cluster, "fleeting", 0, 3);
    delete_and_create(&mut cluster, "fleeting");

    // One of ours is stopped with the help of Apache's controller.
    assert_eq!(settled(&cluster, "fleeting", 0, 3), 2);
    let (status, said) = cluster.node(2).stop();
    assert!(status.success() && said.contains("leaderships are handed over"), "{status} {said}");
    assert_eq!(leave_isr(&cluster, "fleeting", 2), APACHE);
    cluster.node(2).start();
    wait_all(&mut cluster);
    assert_eq!(settled(&cluster, "ours", 0, 3), APACHE);

    // The controller is killed: one of ours takes over, and leads.
    cluster.node(APACHE).kill_9();
    let leader = leave_isr(&cluster, "ours", APACHE);
    ours.go_on(&cluster, leader, 20);
    let leader = leave_isr(&cluster, "theirs", APACHE);
    theirs.go_on(&cluster, leader, 20);
    eventually("one of ours is the controller", LIMIT, || (cluster.controller() != APACHE).then_some(()));
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    settled(&cluster, "ours", 0, 3);
    settled(&cluster, "theirs", 0, 3);

    // Both of ours go, the controller first: Apache's takes over again, alone.
    for id in [1, 2] {
        let (status, said) = cluster.node(id).stop();
        assert!(status.success(), "{status} {said}");
    }
    assert_eq!([settled(&cluster, "ours", 0, 1), settled(&cluster, "theirs", 0, 1)], [APACHE, APACHE]);
    eventually("Apache's broker is the controller", LIMIT, || (cluster.controller() == APACHE).then_some(()));
    [1, 2].into_iter().for_each(|id| cluster.node(id).start());
    wait_all(&mut cluster);
    for (topic, producer) in [("ours", &mut ours), ("theirs", &mut theirs)] {
        settled(&cluster, topic, 0, 3);
        producer.go_on(&cluster, APACHE, 10);
        same_files(&mut cluster, topic);
    }
    settled(&cluster, "steady", 0, 3);
    steady.finish();
    same_files(&mut cluster, "steady");
}
