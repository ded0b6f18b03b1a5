//! Brokers of Apache on an ensemble of Septet's coordinators, which are killed one after the other under load: nothing that was
//! acknowledged is lost, nothing comes twice, and no broker loses its session.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    apache,
    client::{eventually, new_topic},
    processes::{Cluster, Node, Process, coordinator_program, free_port},
    tools,
};

const LIMIT: Duration = Duration::from_secs(90);
const BROKERS: [i32; 2] = [1, 2];

/// What a coordinator answers to `srvr`: its mode, if it serves.
fn mode(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"srvr").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Mode: ")).map(str::to_owned)
}

/// Starts a coordinator whose configuration is there.
fn start(dir: &Path, i: usize) -> Process {
    let at = dir.join(format!("zk{i}"));
    Process::start(&coordinator_program(), &[&at.join("zoo.cfg")], at.join("stderr"))
}

#[test]
fn a_rolling_kill_of_the_ensemble_loses_nothing() {
    if !tools::has_apache() {
        return;
    }
    // What starts brokers of Apache wants a cluster; its own coordinator has nothing to do here.
    let mut cluster = Cluster::start(0, "");
    let dir = cluster.dir.path().to_owned();
    let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
    let list: String = ports.iter().enumerate().map(|(i, (_, peers))| format!("server.{}=127.0.0.1:{peers}:1\n", i + 1)).collect();
    for (i, (port, _)) in ports.iter().enumerate() {
        let data = dir.join(format!("zk{i}/data"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("myid"), format!("{}\n", i + 1)).unwrap();
        let text = format!("dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=2000\n{list}", data.display());
        fs::write(dir.join(format!("zk{i}/zoo.cfg")), text).unwrap();
    }
    let mut coordinators: Vec<Process> = (0..3).map(|i| start(&dir, i)).collect();
    eventually("the ensemble serves", LIMIT, || ports.iter().all(|(port, _)| mode(*port).is_some()).then_some(()));
    cluster.zookeeper = ports.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let settings = "zookeeper.session.timeout.ms=18000\noffsets.topic.replication.factor=2\noffsets.topic.num.partitions=3";
    for id in BROKERS {
        let node = Node::new(&dir, &format!("broker-{id}"), id, &cluster.zookeeper, settings);
        cluster.nodes.push(node);
        apache::start_node(&mut cluster, id);
    }
    BROKERS.into_iter().for_each(|id| apache::wait(&mut cluster, id, BROKERS.len()));
    eventually("the controller makes a topic", LIMIT, || {
        let made = cluster.client(cluster.controller()).create_topics(vec![new_topic("steady", 1, 2)], false);
        (made[0].error_code == 0).then_some(())
    });
    cluster.leaders("steady");
    let owners = |cluster: &Cluster| BROKERS.map(|id| cluster.znodes().owner(&format!("/brokers/ids/{id}")).unwrap());
    let before = owners(&cluster);

    let (stop, out) = (dir.join("steady.stop"), dir.join("steady.out"));
    let mut command = Command::new(tools::python());
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/steady.py"));
    command.arg(tools::bootstrap(&cluster)).arg("steady").arg(&stop).stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
    let mut steady = Process::spawn(command, dir.join("steady.stderr"));
    for round in 0..2 {
        for (i, coordinator) in coordinators.iter_mut().enumerate() {
            coordinator.kill_9();
            eventually("the others serve", LIMIT, || {
                (0..3).filter(|o| *o != i).any(|o| mode(ports[o].0).as_deref() == Some("leader")).then_some(())
            });
            std::thread::sleep(Duration::from_secs(1));
            *coordinator = start(&dir, i);
            eventually("all serve again", LIMIT, || ports.iter().all(|(port, _)| mode(*port).is_some()).then_some(()));
            // Which broker's client is where does not matter, but each is to have found another.
            eventually("the controller makes a topic meanwhile", LIMIT, || {
                let name = format!("made-{round}-{i}");
                let made = cluster.client(cluster.controller()).create_topics(vec![new_topic(&name, 3, 2)], false);
                [0, kafka_protocol::ResponseError::TopicAlreadyExists.code()].contains(&made[0].error_code).then_some(())
            });
        }
    }
    fs::write(&stop, "").unwrap();
    let status = steady.exit(2 * LIMIT);
    let said = fs::read_to_string(&out).unwrap();
    assert!(status.success() && said.lines().any(|l| l == "done"), "{status} {said}\n{}", steady.said());
    assert_eq!(owners(&cluster), before, "a broker has lost its session");
    for round in 0..2 {
        for i in 0..3 {
            assert_eq!(cluster.leaders(&format!("made-{round}-{i}")).len(), 3);
        }
    }
}
