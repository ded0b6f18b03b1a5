//! Nothing acknowledged is lost: clients that others wrote produce and consume while brokers and coordinators are killed, paused, cut
//! off and restarted.
//!
//! A run follows a seed: `SEPTET_FAULTS_SEED` gives another than the fixed one, `SEPTET_FAULTS_SECONDS` another length.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{
    batches::{Batch, keys_and_values},
    client::{eventually, produce_request},
    ensemble::{Ensemble, signal},
    logs::{batches, files},
    processes::{Process, SOON},
    tools,
};

const SESSION: Duration = Duration::from_secs(3);
const SETTINGS: &str = "replica.lag.time.max.ms=1500\nzookeeper.session.timeout.ms=3000\nmin.insync.replicas=2\n\
                        group.initial.rebalance.delay.ms=300\nauto.create.topics.enable=false\nauto.leader.rebalance.enable=true\n\
                        leader.imbalance.check.interval.seconds=5\nlog.cleaner.enable=false\n";
const TOPIC: &str = "events";
const PARTITIONS: usize = 6;
/// How long everything may take to be well again after the last fault.
const HEAL: Duration = Duration::from_secs(40);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// What happened when; printed if the test fails.
struct Timeline {
    seed: u64,
    begun: Instant,
    events: Vec<String>,
}

impl Timeline {
    fn note(&mut self, event: &str) {
        println!("{:7.2} s  {event}", self.begun.elapsed().as_secs_f64());
        let wall =
            Command::new("date").args(["-u", "+%H:%M:%S.%3N"]).output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        self.events.push(format!("{:7.2} s  {}  {event}", self.begun.elapsed().as_secs_f64(), wall.unwrap_or_default()));
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:\n{}", self.seed, self.events.join("\n"));
            if let Some(to) = std::env::var_os("SEPTET_FAULTS_KEEP") {
                let _ = fs::write(Path::new(&to).join("timeline"), self.events.join("\n"));
            }
        }
    }
}

/// What undoes a fault.
enum Undo {
    RestartBroker(i32),
    RestartCoordinator(usize),
    Continue(u32, String),
    /// with `true`, what waits is lost
    Mend(bool),
}

fn undo(cluster: &mut Ensemble, timeline: &mut Timeline, undo: Undo) {
    match undo {
        Undo::RestartBroker(id) => {
            timeline.note(&format!("start broker {id}"));
            cluster.restart(id);
        }
        Undo::RestartCoordinator(i) => {
            timeline.note(&format!("start coordinator {i}"));
            cluster.start_coordinator(i);
        }
        Undo::Continue(pid, what) => {
            timeline.note(&format!("continue {what}"));
            signal(pid, "-CONT");
        }
        Undo::Mend(lose) => {
            timeline.note(&format!("mend all cuts{}", if lose { ", connections are lost" } else { "" }));
            cluster.network.heal(lose);
        }
    }
}

/// Causes one fault. Returns what undoes it.
fn fault(cluster: &mut Ensemble, rng: &mut Random, timeline: &mut Timeline, down: &[i32], zk_down: &[usize]) -> Option<Undo> {
    let up: Vec<i32> = (1..=3).filter(|id| !down.contains(id)).collect();
    let any = up[rng.below(up.len() as u64) as usize];
    let target = match rng.below(3) {
        0 => cluster.controller(any).filter(|c| up.contains(c)).unwrap_or(any),
        1 => cluster.states(any, TOPIC).and_then(|s| Some(s.first()?.0)).filter(|l| up.contains(l)).unwrap_or(any),
        _ => any,
    };
    let place = target as usize;
    let others: Vec<usize> = (1..=3).filter(|i| *i != place).collect();
    let zk = rng.below(3) as usize;
    match rng.below(13) {
        0 | 1 if down.is_empty() => {
            timeline.note(&format!("kill -9 broker {target}"));
            cluster.kill(target);
            Some(Undo::RestartBroker(target))
        }
        2 if down.is_empty() => {
            timeline.note(&format!("kill -9 broker {target}, and start it again at once"));
            cluster.kill(target);
            cluster.restart(target);
            None
        }
        3 if down.is_empty() => {
            let controller = cluster.controller(any).unwrap_or(any);
            timeline.note(&format!("kill -9 broker {target} and the controller {controller}, start both again at once"));
            cluster.kill(target);
            if controller != target {
                cluster.kill(controller);
                cluster.restart(controller);
            }
            cluster.restart(target);
            None
        }
        4 | 5 if down.is_empty() => {
            let long = rng.below(2) == 0;
            timeline.note(&format!("pause broker {target} {}", if long { "for longer than its session" } else { "" }));
            let pid = cluster.node(target).running().id();
            signal(pid, "-STOP");
            if long {
                std::thread::sleep(SESSION);
            }
            Some(Undo::Continue(pid, format!("broker {target}")))
        }
        6 if zk_down.is_empty() => {
            timeline.note(&format!("kill -9 coordinator {zk}"));
            cluster.kill_coordinator(zk);
            if down.is_empty() && rng.below(2) == 0 {
                timeline.note(&format!("kill -9 broker {target}, and start it again at once"));
                cluster.kill(target);
                cluster.restart(target);
            }
            Some(Undo::RestartCoordinator(zk))
        }
        7 if zk_down.is_empty() => {
            timeline.note(&format!("pause coordinator {zk}"));
            let pid = cluster.coordinators[zk].as_ref().unwrap().id();
            signal(pid, "-STOP");
            Some(Undo::Continue(pid, format!("coordinator {zk}")))
        }
        8 => {
            let other = others[rng.below(2) as usize];
            let both = rng.below(2) == 0;
            timeline.note(&format!("cut broker {place} -> broker {other}{}", if both { ", both ways" } else { "" }));
            cluster.cut(&[place], &[other], true);
            if both {
                cluster.cut(&[other], &[place], true);
            }
            Some(Undo::Mend(rng.below(2) == 0))
        }
        9 => {
            let (to, from) = [(true, true), (true, false), (false, true)][rng.below(3) as usize];
            timeline.note(&format!("cut broker {place} from coordinators: to {to}, from {from}"));
            if to {
                cluster.cut(&[place], &[4, 5, 6], true);
            }
            if from {
                cluster.cut(&[4, 5, 6], &[place], true);
            }
            if rng.below(2) == 0 {
                std::thread::sleep(SESSION);
            }
            Some(Undo::Mend(rng.below(2) == 0))
        }
        10 => {
            timeline.note(&format!("cut broker {place} from all"));
            let all = [0, others[0], others[1], 4, 5, 6];
            cluster.cut(&[place], &all, true);
            cluster.cut(&all, &[place], true);
            if rng.below(2) == 0 {
                std::thread::sleep(SESSION);
            }
            Some(Undo::Mend(rng.below(2) == 0))
        }
        11 if down.is_empty() => {
            timeline.note(&format!("stop broker {target}"));
            cluster.stop(target);
            Some(Undo::RestartBroker(target))
        }
        12 if down.is_empty() => {
            // A follower leaves and joins while the controller's answers to its leader are lost.
            let controller = cluster.controller(any)?;
            let leader = cluster.states(any, TOPIC)?.iter().map(|(l, _)| *l).find(|l| *l > 0 && *l != controller)?;
            let follower = 6 - controller - leader;
            timeline.note(&format!("restart broker {follower}; cut the controller {controller} -> leader {leader}"));
            cluster.kill(follower);
            std::thread::sleep(rng.millis(100, 900));
            cluster.cut(&[controller as usize], &[leader as usize], true);
            cluster.restart(follower);
            Some(Undo::Mend(true))
        }
        _ => None,
    }
}

/// Goes through faults for so long; often one, sometimes two of different kinds at a time.
fn faults(cluster: &mut Ensemble, rng: &mut Random, timeline: &mut Timeline, length: Duration) {
    let until = Instant::now() + length;
    while Instant::now() < until {
        let mut undos = Vec::new();
        let (mut down, mut zk_down) = (Vec::new(), Vec::new());
        for _ in 0..1 + rng.below(3) {
            let Some(next) = fault(cluster, rng, timeline, &down, &zk_down) else { continue };
            match &next {
                Undo::RestartBroker(id) => down.push(*id),
                Undo::RestartCoordinator(i) => zk_down.push(*i),
                Undo::Continue(_, what) => match what.rsplit_once(' ') {
                    Some(("broker", id)) => down.push(id.parse().unwrap()),
                    Some((_, i)) => zk_down.push(i.parse().unwrap()),
                    None => {}
                },
                Undo::Mend(_) => {}
            }
            undos.push(next);
            std::thread::sleep(rng.millis(0, 300));
        }
        let long = if rng.below(3) == 0 { 5000 } else { 1500 };
        std::thread::sleep(rng.millis(100, long));
        for u in undos {
            undo(cluster, timeline, u);
        }
        std::thread::sleep(rng.millis(0, 1500));
    }
}

/// The records of a partition: offset, producer, sequence.
fn records(log: &[u8]) -> Vec<(i64, usize, usize)> {
    let mut out = Vec::new();
    for (head, bytes) in batches(log) {
        let values = keys_and_values(&bytes);
        assert_eq!(values.len(), head.last_offset_delta as usize + 1);
        for (i, (_, value)) in values.into_iter().enumerate() {
            let value = String::from_utf8(value.unwrap()).unwrap();
            let (producer, sequence) = value.split_once(':').unwrap();
            out.push((head.base_offset + i as i64, producer.parse().unwrap(), sequence.parse().unwrap()));
        }
    }
    out
}

/// Compares what the clients were told with what is in the log of each partition.
fn judge(said: &str, logs: &[Vec<u8>]) {
    let mut acknowledged: HashMap<(usize, usize, usize), i64> = HashMap::new();
    let mut problems: Vec<String> = said.lines().filter(|l| l.starts_with("X ") || l.starts_with("F ")).map(str::to_owned).collect();
    let mut sent: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["A", producer, partition, sequence, offset] => {
                let key = (producer.parse().unwrap(), partition.parse().unwrap(), sequence.parse().unwrap());
                if acknowledged.insert(key, offset.parse().unwrap()).is_some() {
                    problems.push(format!("acknowledged twice: {line}"));
                }
            }
            ["P", producer, ref sequences @ ..] => {
                sent.insert(producer.parse().unwrap(), sequences.iter().map(|s| s.parse().unwrap()).collect());
            }
            _ => {}
        }
    }
    for (partition, log) in logs.iter().enumerate() {
        let found = records(log);
        for pair in found.windows(2) {
            if pair[1].0 != pair[0].0 + 1 {
                problems.push(format!("partition {partition}: offset {} follows {}", pair[1].0, pair[0].0));
            }
        }
        for producer in 0..2 {
            let of: Vec<_> = found.iter().filter(|r| r.1 == producer).collect();
            for (wanted, (offset, _, sequence)) in of.iter().enumerate() {
                if *sequence != wanted {
                    problems.push(format!(
                        "partition {partition}: offset {offset} is record {sequence} of producer {producer}, expected {wanted}"
                    ));
                    break;
                }
            }
            let sent = sent.get(&producer).map_or(0, |s| s[partition]);
            if of.len() != sent {
                problems.push(format!("partition {partition}: {} records of producer {producer}, {sent} were sent", of.len()));
            }
        }
        let place: HashMap<(usize, usize), i64> =
            found.iter().map(|(offset, producer, sequence)| ((*producer, *sequence), *offset)).collect();
        let wrong = acknowledged.iter().filter(|((_, p, _), _)| *p == partition);
        // An acknowledgement of a batch that was sent again may not know its offset.
        let wrong: Vec<_> =
            wrong.filter(|((k, _, s), offset)| place.get(&(*k, *s)).is_none_or(|at| at != *offset && **offset >= 0)).collect();
        if let Some(((producer, _, sequence), offset)) = wrong.iter().min() {
            problems.push(format!(
                "partition {partition}: {} acknowledged records are lost or elsewhere; the first is {producer}:{sequence} at {offset}, found at {:?}",
                wrong.len(),
                place.get(&(*producer, *sequence))
            ));
        }
    }
    println!("longest pauses: {}", pauses(said));
    println!("{} records acknowledged, {} commits", acknowledged.len(), said.lines().filter(|l| l.starts_with("C ")).count());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(acknowledged.len() > 200, "{} records are too few", acknowledged.len());
    assert!(said.lines().any(|l| l == "done"), "the clients have not ended well");
}

/// The longest times without an acknowledgement, a record read and a commit.
fn pauses(said: &str) -> String {
    let mut longest = [(0.0, 0.0); 3];
    let mut last = [(0.0, 0u64); 3];
    for line in said.lines().filter_map(|l| l.strip_prefix("T ")) {
        let numbers: Vec<f64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        for (i, (longest, last)) in longest.iter_mut().zip(&mut last).enumerate() {
            let count = numbers[i + 1] as u64;
            if count > last.1 {
                *last = (numbers[0], count);
            } else if numbers[0] - last.0 > longest.0 {
                *longest = (numbers[0] - last.0, last.0);
            }
        }
    }
    let text = |(what, (length, at)): (&str, (f64, f64))| format!("{what} {length:.1} s at {at:.1} s");
    ["acknowledged", "read", "committed"].into_iter().zip(longest).map(text).collect::<Vec<_>>().join(", ")
}

fn keep(cluster: &Ensemble) {
    // For a look at what went wrong.
    if let Some(to) = std::env::var_os("SEPTET_FAULTS_KEEP") {
        let _ = Command::new("cp").arg("-r").arg(cluster.dir.path()).arg(to).status();
    }
}

#[test]
fn nothing_acknowledged_is_lost_while_servers_fail() {
    let seed = variable("SEPTET_FAULTS_SEED", 11);
    let length = Duration::from_secs(variable("SEPTET_FAULTS_SECONDS", 25));
    let mut rng = Random(seed);
    let mut cluster = Ensemble::start(SETTINGS);
    cluster.create(TOPIC, PARTITIONS as i32);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/faults.py");
    let out = cluster.dir.path().join("clients.out");
    let mut command = Command::new(tools::python());
    command.arg("-B").arg(&script).args([&cluster.bootstrap(), TOPIC, &PARTITIONS.to_string()]).arg(cluster.dir.path());
    command.stdout(fs::File::create(&out).unwrap());
    let mut clients = Process::spawn(command, cluster.dir.path().join("clients.err"));
    let said = || fs::read_to_string(&out).unwrap();
    eventually("all of the group's members read", SOON, || (said().lines().filter(|l| l.starts_with("C ")).count() > 20).then_some(()));
    let mut timeline = Timeline { seed, begun: Instant::now(), events: Vec::new() };
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        faults(&mut cluster, &mut rng, &mut timeline, length);
        timeline.note("no more faults");
        cluster.wait_in_sync(TOPIC, PARTITIONS, HEAL);
        cluster.wait_in_sync("__consumer_offsets", 5, HEAL);
        timeline.note("all in sync");
        fs::write(cluster.dir.path().join("stop"), "").unwrap();
        eventually("the clients end", Duration::from_secs(200), || clients.has_ended().then_some(()));
        timeline.note("the clients have ended");
        let ends = |cluster: &Ensemble| -> Vec<Vec<u8>> { (0..PARTITIONS).map(|p| cluster.log(1, TOPIC, p)).collect() };
        judge(&said(), &ends(&cluster));
        eventually("the logs of all replicas are the same", SOON, || {
            let same = |p| (2..=3).all(|id| cluster.log(id, TOPIC, p) == cluster.log(1, TOPIC, p));
            (0..PARTITIONS).all(same).then_some(())
        });
        // The followers learn the last high watermark with their next fetch.
        std::thread::sleep(Duration::from_millis(700));
        let wanted: BTreeMap<String, i64> = ends(&cluster)
            .iter()
            .enumerate()
            .map(|(p, log)| (format!("{TOPIC} {p}"), batches(log).last().map_or(0, |(h, _)| h.last_offset() + 1)))
            .collect();
        for id in 1..=3 {
            cluster.stop(id);
            let file = cluster.node(id).logs().join("replication-offset-checkpoint");
            let text = fs::read_to_string(file).unwrap();
            for (name, end) in &wanted {
                assert!(text.lines().any(|l| l == format!("{name} {end}")), "broker {id}: high watermark of {name} is not {end}:\n{text}");
            }
            let said = fs::read_to_string(cluster.node(id).dir.join("stderr")).unwrap();
            let bad: Vec<&str> = said.lines().filter(|l| l.contains("panicked") || l.contains("below the high watermark")).collect();
            assert!(bad.is_empty(), "broker {id}: {bad:?}");
        }
    }));
    if let Err(panic) = run {
        keep(&cluster);
        std::panic::resume_unwind(panic);
    }
}

/// A leader is known for every partition that is not `dead`, at every broker that lives; how long that took.
fn leaders_without(cluster: &Ensemble, dead: i32) -> Duration {
    let begun = Instant::now();
    eventually("other leaders", SOON, || {
        let well = |id: i32| cluster.states(id, TOPIC).is_some_and(|s| s.iter().all(|(l, _)| *l > 0 && *l != dead));
        (1..=3).filter(|id| *id != dead).all(well).then_some(())
    });
    begun.elapsed()
}

fn write_to_all(cluster: &Ensemble, ask: i32, i: i64) {
    for p in 0..PARTITIONS {
        eventually("a record is acknowledged", SOON, || {
            let (leader, _) = cluster.states(ask, TOPIC)?[p];
            let mut client = cluster.nodes.get((leader - 1) as usize)?.client();
            let batch = Batch::new(1_700_000_000_000 + i).values(&["a record"]).build();
            let answer = client.try_call(9, &produce_request(TOPIC, p as i32, &batch, -1)).ok()?;
            (answer.responses[0].partition_responses[0].error_code == 0).then_some(())
        });
    }
}

#[test]
fn leaders_are_back_within_a_second_of_a_kill_and_within_the_session_of_a_cut() {
    let mut cluster = Ensemble::start(SETTINGS);
    cluster.create(TOPIC, PARTITIONS as i32);
    write_to_all(&cluster, 1, 0);
    for round in 0..4 {
        let controller = eventually("a controller", SOON, || cluster.controller(1));
        // A broker that leads something, after preferred elections have spread leaderships again.
        let dead = eventually("each broker leads", SOON, || {
            let leads = |id: i32| cluster.states(1, TOPIC).is_some_and(|s| s.iter().any(|(l, _)| *l == id));
            if round % 2 == 0 { Some(controller).filter(|c| leads(*c)) } else { (1..=3).find(|id| *id != controller && leads(*id)) }
        });
        cluster.kill(dead);
        let took = leaders_without(&cluster, dead);
        println!(
            "broker {dead} killed, {}: leaders after {took:?}",
            if dead == controller { "the controller" } else { "not the controller" }
        );
        assert!(took < Duration::from_secs(1), "leaders after {took:?}");
        let begun = Instant::now();
        write_to_all(&cluster, dead % 3 + 1, round);
        println!("written to all {:?} later", begun.elapsed());
        cluster.restart(dead);
        cluster.wait_in_sync(TOPIC, PARTITIONS, SOON);
    }
    for round in 0..2 {
        let controller = eventually("a controller", SOON, || cluster.controller(1));
        let away = if round % 2 == 0 { controller } else { controller % 3 + 1 };
        let all: Vec<usize> = (0..7).filter(|p| *p != away as usize).collect();
        cluster.cut(&[away as usize], &all, true);
        cluster.cut(&all, &[away as usize], true);
        let took = leaders_without(&cluster, away);
        println!("broker {away} cut off: leaders after {took:?}");
        // A session is heard of every third of its time; the rest is for the election.
        assert!(took < SESSION + Duration::from_secs(1), "leaders after {took:?}");
        cluster.network.heal(round == 1);
        cluster.wait_in_sync(TOPIC, PARTITIONS, SOON);
    }
}

/// What a checkpoint says of a partition.
fn checkpoint(dir: &Path, name: &str, partition: usize) -> i64 {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{TOPIC} {partition} ")));
    line.map_or(0, |o| o.parse().unwrap())
}

/// Power fails everywhere: what was not synced is gone, from another place on at each replica.
#[test]
fn a_power_cut_of_all_brokers_loses_nothing_below_the_recovery_points() {
    let mut rng = Random(variable("SEPTET_FAULTS_SEED", 5));
    let mut cluster = Ensemble::start(SETTINGS);
    cluster.create(TOPIC, PARTITIONS as i32);
    for round in 0..3 {
        for i in 0..20 {
            write_to_all(&cluster, 1, i);
        }
        if round == 1 {
            // Recovery points: the followers' and leaders' logs reach the disk with a controlled restart.
            for id in 1..=3 {
                cluster.stop(id);
                cluster.restart(id);
                cluster.wait_in_sync(TOPIC, PARTITIONS, SOON);
            }
            for i in 20..30 {
                write_to_all(&cluster, 1, i);
            }
        }
        (1..=3).for_each(|id| cluster.kill(id));
        let mut floors = Vec::new();
        for p in 0..PARTITIONS {
            let mut floor: Option<(i64, Vec<u8>)> = None;
            for id in 1..=3 {
                let logs = cluster.node(id).logs();
                let point = checkpoint(&logs, "recovery-point-offset-checkpoint", p);
                let dir = logs.join(format!("{TOPIC}-{p}"));
                let (base, bytes) = files(&dir, "log").pop().unwrap();
                let mut cuts = vec![];
                let mut at = 0;
                for (head, b) in batches(&bytes) {
                    if head.base_offset >= point {
                        cuts.push(at + rng.below(b.len() as u64) as usize);
                        cuts.push(at);
                    }
                    at += b.len();
                }
                cuts.push(at);
                let cut = cuts[rng.below(cuts.len() as u64) as usize];
                let name = format!("{base:020}.log");
                fs::File::options().write(true).open(dir.join(name)).unwrap().set_len(cut as u64).unwrap();
                let whole = cluster.log(id, TOPIC, p);
                let mut promised = Vec::new();
                let mut rest = &whole[..];
                while let Some(head) = septet_broker::batch::Head::parse(rest).filter(|h| h.size <= rest.len() && h.last_offset() < point) {
                    promised.extend_from_slice(&rest[..head.size]);
                    rest = &rest[head.size..];
                }
                // Of the promises of replicas that were all in sync, the least is that of all.
                if floor.as_ref().is_none_or(|(f, _)| point < *f) {
                    floor = Some((point, promised));
                }
            }
            floors.push(floor.unwrap());
        }
        // In any order, with pauses or without.
        let first = rng.below(3) as i32;
        for i in 0..3 {
            cluster.restart((first + i) % 3 + 1);
            std::thread::sleep(rng.millis(0, 600));
        }
        cluster.wait_in_sync(TOPIC, PARTITIONS, SOON);
        write_to_all(&cluster, 1, 1000 + round);
        eventually("the logs of all replicas are the same", SOON, || {
            let same = |p| (2..=3).all(|id| cluster.log(id, TOPIC, p) == cluster.log(1, TOPIC, p));
            (0..PARTITIONS).all(same).then_some(())
        });
        for (p, (point, promised)) in floors.iter().enumerate() {
            let log = cluster.log(1, TOPIC, p);
            assert!(log.starts_with(promised), "round {round}, partition {p}: records below the recovery point {point} are lost");
        }
    }
}
