//! Apache Kafka 4.1.1 with its own controllers, the whole way, on one cluster.

use std::{
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    archives,
    clients::{consume_all, metadata, numbers, produce_numbers},
    harness::{Cluster, docker, enabled},
    metadata_quorum::Sampler,
    steps::{
        WITH_CONTROLLERS, addresses, broker_killed, cluster, console_tools, down, formatted, inside, is_named, is_spread, notes,
        other_engines_refused, restart_all, same_hosts_restarted, tell_memory, tool,
    },
    watch::Watch,
    writer::Writer,
};

/// Moments of the kills, in seconds after the start of `septet up`; each run goes on from what it finds.
const MOMENTS_S: [u64; 6] = [2, 5, 3, 4, 8, 11];
const RECORDS: usize = 600;
/// Controllers elect another leader within seconds; this much more for a machine that has no time.
const LONGEST_ELECTION: Duration = Duration::from_secs(20);

#[test]
fn with_controllers_of_its_own() {
    if !enabled("with_controllers_of_its_own") {
        return;
    }
    let Some(archive) = archives::find("4.1.1") else { return };
    let cluster = cluster("a", &WITH_CONTROLLERS, &archive, "");
    up_that_is_killed(&cluster);
    let storage = formatted(&cluster);
    nothing_to_do(&cluster);
    let servers = cluster.bootstrap();
    topics(&cluster, &servers);
    broker_killed(&cluster, "orders");
    other_engines_refused(
        &cluster,
        "apache-kraft-3",
        &[("engine: bundled", "bundled-3"), ("engine: {apache: {version: 3.9.1, metadata: zookeeper}}", "apache-zookeeper-3")],
    );
    renamed_at_work(&cluster, &servers);
    restart_all(&cluster);
    cluster.is_whole();
    assert_eq!(cluster.bootstrap(), servers);
    assert_eq!(consume_all(&servers, "numbers"), numbers(RECORDS));
    assert_eq!(formatted(&cluster), storage, "storage is formatted once");
    tell_memory(&cluster);
    down(&cluster);
}

fn up_that_is_killed(cluster: &Cluster) {
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&[&format!("+ host {}", cluster.host("controller03"))]);
    assert_eq!(cluster.containers(), Vec::<String>::new());
    let mut kills = 0;
    for moment in MOMENTS_S {
        let mut command = cluster.command(&["up"]);
        let said = cluster.path().join("said");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(moment);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let status = child.wait().unwrap();
        if status.success() {
            break;
        }
        // One that ends by itself goes through: a killed one is no obstacle.
        assert_eq!(status.code(), None, "{}", fs::read_to_string(&said).unwrap());
        kills += 1;
    }
    let up = cluster.ok(&["up"]);
    eprintln!("killed {kills} times; the up that follows: {:.1} s", up.took.as_secs_f64());
    assert!(kills > 1);
    for host in WITH_CONTROLLERS {
        let name = cluster.host(host);
        assert!(up.out.contains(&name), "{}", up.show());
        assert_eq!(docker(&["exec", &name, "readlink", "/opt/kafka"]), "/opt/kafka_2.13-4.1.1");
        // What is unfinished has gone.
        assert_eq!(docker(&["exec", &name, "ls", "-A", "/opt"]), "kafka\nkafka_2.13-4.1.1");
    }
    cluster.is_whole();
    let roles = notes(cluster);
    let mut of_controllers: Vec<&str> = ["controller01", "controller02", "controller03"].iter().map(|h| roles[*h].as_str()).collect();
    of_controllers.sort_unstable();
    assert_eq!(of_controllers, ["follower", "follower", "leader"], "{roles:?}");
    let storage = formatted(cluster);
    let id = &storage["kafka01"].0;
    assert_eq!(id.len(), 22, "{storage:?}");
    assert!(storage.values().all(|(cluster_id, _)| cluster_id == id), "{storage:?}");
}

fn nothing_to_do(cluster: &Cluster) {
    let before = cluster.seen();
    let again = cluster.ok(&["up"]).says(&["nothing changed"]);
    eprintln!("an up without changes: {:.2} s", again.took.as_secs_f64());
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);
    assert_eq!(cluster.seen(), before);
    // Services run as users of their own, and may open many files, as far as the container may.
    for host in ["controller01", "kafka01"] {
        let script = "pid=$(systemctl show -p MainPID --value kafka-server); stat -c %U /proc/$pid; grep 'Max open files' /proc/$pid/limits | tr -s ' ' | cut -d' ' -f4; ulimit -Hn";
        let said = docker(&["exec", &cluster.host(host), "sh", "-c", script]);
        let lines: Vec<&str> = said.lines().collect();
        let most = lines[2].parse().unwrap_or(u64::MAX).min(100_000).to_string();
        assert_eq!(lines[..2], ["kafka", &most], "{host}: {said}");
    }
    let logs = cluster.ok(&["logs", "controller02", "-n", "200"]);
    assert!(logs.out.contains("kafka-server-start.sh"), "{}", logs.show());
}

fn topics(cluster: &Cluster, servers: &str) {
    assert_eq!(cluster.ok(&["endpoints"]).out, format!("bootstrap.servers={servers}\n"));
    assert_eq!(servers.split(',').count(), 3);
    let server = inside(cluster);
    // As the page on it prints it.
    for topic in ["orders", "numbers", "during"] {
        let words = ["kafka-topics.sh", "--bootstrap-server", &server, "--create", "--topic", topic, "--partitions", "3"];
        let ran = tool(cluster, &[&words[..], &["--replication-factor", "3"]].concat());
        assert!(ran.out.contains(&format!("Created topic {topic}.")), "{}", ran.show());
        is_spread(servers, topic);
    }
    produce_numbers(servers, "numbers", RECORDS);
    // Each broker on its own leads to all of it.
    for broker in servers.split(',') {
        assert_eq!(metadata(broker, &[])["brokers"].as_array().unwrap().len(), 3);
        assert_eq!(consume_all(broker, "numbers"), numbers(RECORDS));
    }
    console_tools(cluster, "orders");
}

/// The voters' endpoints as Kafka's own tool tells them.
fn voters(cluster: &Cluster) -> String {
    let server = inside(cluster);
    tool(cluster, &["kafka-metadata-quorum.sh", "--bootstrap-server", &server, "describe", "--status"]).out
}

fn renamed_at_work(cluster: &Cluster, servers: &str) {
    let (old, new) = (cluster.prefix(), format!("kisu{}", std::process::id()));
    let before = cluster.seen();
    let told = voters(cluster);
    assert!(told.contains(&format!("{old}-controller01:9093")), "{told}");

    let writer = Writer::start(servers, "during", cluster.path());
    let controllers = addresses(cluster, "coordinator", 9093);
    assert_eq!(controllers.len(), 3);
    let sampler = Sampler::start(controllers.clone());
    let list: Vec<String> = controllers.iter().map(ToString::to_string).collect();
    let watch = Watch::start(servers, &list.join(","));
    let stop = Arc::new(AtomicBool::new(false));
    let looks = {
        let (stop, servers) = (stop.clone(), servers.to_owned());
        thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                let listed = metadata(&servers, &["-t", "during"]);
                assert_eq!(listed["topics"][0]["partitions"].as_array().unwrap().len(), 3, "{listed}");
                count += 1;
                thread::sleep(Duration::from_millis(200));
            }
            count
        })
    };
    let (begun, count) = (Instant::now(), writer.count());
    let renamed = cluster.run(&["rename", &new]);
    let written = writer.count() - count;
    stop.store(true, Ordering::SeqCst);
    let (looks, quorum) = (looks.join().unwrap(), sampler.finish());
    let renamed = renamed.code(0);
    // Two of three controllers at each moment, and somebody who leads them.
    watch.never_two_at_once();
    eprintln!(
        "renamed in {:.1} s, {written} records written meanwhile, {looks} looks at metadata; {quorum:?}",
        begun.elapsed().as_secs_f64()
    );
    assert!(quorum.led > 20, "{quorum:?}");
    assert!(quorum.longest_without < LONGEST_ELECTION, "{quorum:?}");
    assert!(written > 20 && looks > 5, "{}", renamed.show());
    writer.lost_nothing(servers, "during");

    is_named(cluster, &new, &old);
    same_hosts_restarted(&before, &cluster.seen());
    assert_eq!(cluster.bootstrap(), servers);
    let told = voters(cluster);
    assert!(!told.contains(&format!("{old}-")), "{told}");
    for n in ["01", "02", "03"] {
        assert!(told.contains(&format!("{new}-controller{n}:9093")), "{told}");
    }
    assert_eq!(consume_all(servers, "numbers"), numbers(RECORDS));
    cluster.ok(&["up"]).says(&["nothing changed"]);
    assert_eq!(metadata(servers, &[])["brokers"].as_array().map(Vec::len), Some(3));
    let names: Vec<String> =
        cluster.ok(&["health", "--json"]).json()["hosts"].as_array().unwrap().iter().map(|h| h["name"].to_string()).collect();
    assert_eq!(json!(names).to_string().matches(&format!("{new}-controller")).count(), 3);
}
