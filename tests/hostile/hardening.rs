//! What a service that was taken over can still do on its host, and what the host's container may do.

use super::harness::{Cluster, docker, docker_try, enabled};

/// Linux's numbers of capabilities (`linux/capability.h`).
const NET_RAW: u32 = 13;
const SYS_ADMIN: u32 = 21;
const MKNOD: u32 = 27;
const SETFCAP: u32 = 31;

fn status(host: &str, pid: &str, field: &str) -> String {
    let text = docker(&["exec", host, "cat", &format!("/proc/{pid}/status")]);
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

#[test]
fn services_and_containers_may_do_little() {
    if !enabled("services_and_containers_may_do_little") {
        return;
    }
    let cluster = Cluster::new("u");
    cluster.ok(&["up"]);
    for (short, unit, data) in [("zk01", "zookeeper-server", "/data/zk"), ("kafka01", "kafka-server", "/data/kafka-logs")] {
        let host = cluster.host(short);
        // systemd's own judgement, from 0 (nothing is left open) to 10.
        let said = docker(&["exec", &host, "systemd-analyze", "security", "--no-pager", unit]);
        let score = said.lines().find_map(|l| l.split_once("Overall exposure level for ")?.1.split_once(": ")?.1.split(' ').next());
        let score: f64 = score.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        assert!(score < 3.0, "{said}");
        // And what the kernel enforces on the running process.
        let pid = docker(&["exec", &host, "systemctl", "show", "-p", "MainPID", "--value", unit]);
        assert_eq!((status(&host, &pid, "NoNewPrivs"), status(&host, &pid, "Seccomp")), ("1".into(), "2".into()));
        assert_eq!(u64::from_str_radix(&status(&host, &pid, "CapBnd"), 16), Ok(0));
        let mounts = docker(&["exec", &host, "cat", &format!("/proc/{pid}/mountinfo")]);
        let options = |path: &str| {
            mounts.lines().rev().find_map(|l| {
                let f: Vec<&str> = l.split(' ').collect();
                (f[4] == path).then(|| f[5].split(',').next().unwrap().to_owned())
            })
        };
        assert_eq!((options("/"), options(data)), (Some("ro".into()), Some("rw".into())), "{mounts}");

        let bounds = u64::from_str_radix(&status(&host, "1", "CapBnd"), 16).unwrap();
        let may = |capability: u32| bounds >> capability & 1 == 1;
        assert!(may(SYS_ADMIN), "what systemd needs");
        assert!(!may(MKNOD) && !may(NET_RAW) && !may(SETFCAP), "{bounds:x}");
        assert_ne!(docker_try(&["exec", &host, "mknod", "/root/null", "c", "1", "3"]).code, Some(0));
    }
}

#[test]
fn the_ensemble_proves_a_secret() {
    if !enabled("the_ensemble_proves_a_secret") {
        return;
    }
    let cluster = Cluster::new("s");
    cluster.ok(&["up"]);
    let secret = |short: &str| docker(&["exec", &cluster.host(short), "cat", "/etc/septet/ensemble.secret"]);
    let one = secret("zk01");
    assert_eq!((one.len(), secret("zk02"), secret("zk03")), (64, one.clone(), one.clone()));
    let mode = docker(&["exec", &cluster.host("zk02"), "stat", "-c", "%a %U %G", "/etc/septet/ensemble.secret"]);
    assert_eq!(mode, "640 root zookeeper");
    assert_ne!(docker_try(&["exec", &cluster.host("kafka01"), "test", "-e", "/etc/septet/ensemble.secret"]).code, Some(0));
    docker(&["exec", &cluster.host("zk03"), "rm", "/etc/septet/ensemble.secret"]);
    let shown = cluster.ok(&["plan", "-v"]);
    assert!(!shown.out.contains(&one) && !shown.err.contains(&one));
    // Another machine's run, which never saw it, keeps it.
    std::fs::remove_dir_all(cluster.state()).unwrap();
    let shown = cluster.ok(&["up", "-v"]);
    assert!(!shown.out.contains(&one) && !shown.err.contains(&one));
    assert_eq!((secret("zk01"), secret("zk03")), (one.clone(), one.clone()));
    for short in ["zk01", "zk02", "zk03"] {
        let port = docker(&["exec", &cluster.host(short), "cat", "/etc/septet/zoo.cfg"]);
        assert!(port.contains("peerSecretFile=/etc/septet/ensemble.secret"), "{port}");
    }
}
