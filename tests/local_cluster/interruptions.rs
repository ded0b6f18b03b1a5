//! `up` cut off: by kill -9 at any moment, by Ctrl-C.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use super::{
    clients::{CREATE_TOPIC, consume_all, numbers, produce_numbers, python},
    harness::{Cluster, docker, enabled, eventually, signal},
};

/// Moments of the kills, in milliseconds after the start of `septet up`; each run goes on from what it finds.
const MOMENTS_MS: [u64; 16] = [50, 150, 400, 900, 1600, 250, 2500, 600, 3200, 1200, 3900, 2000, 4600, 800, 5300, 6000];

/// A run that was started by this test.
struct Begun {
    pid: u32,
    finished: bool,
}

/// Starts a command and kills it after some time.
fn killed_after(cluster: &Cluster, args: &[&str], moment: Duration) -> Begun {
    let mut child = cluster.spawn(args);
    let until = Instant::now() + moment;
    let mut finished = false;
    while Instant::now() < until && !finished {
        thread::sleep(Duration::from_millis(5));
        finished = child.try_wait().unwrap().is_some();
    }
    let _ = child.kill();
    child.wait().unwrap();
    Begun { pid: child.id(), finished }
}

/// Insists that the probes of these runs are gone.
fn no_probes(of: &[u32]) {
    for pid in of {
        let filter = format!("label=septet.probe={pid}");
        assert_eq!(docker(&["ps", "-aq", "--filter", &filter]), "", "of {pid}");
    }
}

#[test]
fn killed_at_any_moment() {
    if !enabled("killed_at_any_moment") {
        return;
    }
    let cluster = Cluster::new("c");
    let mut pids = Vec::new();
    for moment in MOMENTS_MS {
        let begun = killed_after(&cluster, &["up"], Duration::from_millis(moment));
        pids.push(begun.pid);
        // Whatever is there belongs to one cluster: health can look at it, and plan says what is missing.
        if begun.finished {
            break;
        }
    }
    cluster.ok(&["up"]);
    cluster.is_whole();
    no_probes(&pids);

    // A rename cut off half way goes on with the same command, and nothing is lost.
    let servers = cluster.bootstrap();
    assert!(python(CREATE_TOPIC, &[&servers, "kept", "3", "3"]).is_null());
    produce_numbers(&servers, "kept", 300);
    let ids = cluster.containers();
    let (old, new) = (cluster.prefix(), format!("cut{}", std::process::id()));
    for moment in [700, 1500, 2300, 3100] {
        killed_after(&cluster, &["rename", &new], Duration::from_millis(moment));
    }
    cluster.ok(&["rename", &new]);
    assert_eq!(cluster.prefix(), new);
    cluster.is_whole();
    let same = |mut a: Vec<String>| {
        a.sort();
        a
    };
    assert_eq!(same(cluster.containers()), same(ids));
    for id in cluster.containers() {
        let hosts = docker(&["exec", &id, "cat", "/etc/hosts"]);
        assert!(!hosts.contains(&format!("{old}-")), "{hosts}");
    }
    assert_eq!(consume_all(&servers, "kept"), numbers(300));
    // So does a `down` that was cut off.
    killed_after(&cluster, &["down", "--yes"], Duration::from_millis(500));
    cluster.ok(&["down", "--yes"]);
    cluster.is_gone();
}

#[test]
fn interrupted_by_the_user() {
    if !enabled("interrupted_by_the_user") {
        return;
    }
    let cluster = Cluster::new("i");
    let interrupt = |ready: &dyn Fn() -> bool| {
        let mut c = cluster.command(&["up"]);
        c.stdin(Stdio::null()).stdout(Stdio::null());
        let child = c.stderr(Stdio::piped()).spawn().unwrap();
        eventually("the run is under way", Duration::from_secs(60), ready);
        signal(&child, "INT");
        let begun = Instant::now();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(130), "{said}");
        assert!(said.contains("stopping after the task in hand"), "{said}");
        assert!(said.contains("`septet -i inventory.yml up` resumes from here"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
    };
    // While containers are made, and while they are configured.
    interrupt(&|| !cluster.containers().is_empty());
    let host = cluster.host("zk01");
    interrupt(&|| {
        let names = ["exec", &host, "test", "-e", "/var/lib/septet/names/hostname"];
        super::harness::docker_try(&names).code == Some(0)
    });
    cluster.ok(&["up"]);
    cluster.is_whole();
}
