//! Hosts that Septet did not make: containers with systemd and OpenSSH, made by `docker run`.
//!
//! They take Docker, the node image of an earlier run of the Docker provider as the distribution, and programs for the hosts:
//! `SEPTET_E2E=1 SEPTET_BUNDLE=DIR cargo test --test static_hosts`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "static_hosts/lab.rs"]
mod lab;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use lab::Lab;

#[test]
fn keys_of_hosts() {
    let Some(lab) = Lab::make("keys", 61) else { return };
    let known = fs::read_to_string(lab.path("known")).unwrap();
    fs::write(lab.path("known"), "").unwrap();
    lab.refused(&["plan"], &["unknown host key SHA256:", "hint: compare the fingerprint", "`--accept-new`"]);
    assert_eq!(fs::read_to_string(lab.path("known")).unwrap(), "");
    lab.septet(&["plan", "--accept-new"], 0);
    let key = |text: &str| text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(key(&fs::read_to_string(lab.path("known")).unwrap()), key(&known));
    lab.septet(&["plan"], 0);
    // Another key than the known one is refused, with and without the flag.
    lab.inside("c", "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh || systemctl restart sshd");
    for args in [&["plan"][..], &["plan", "--accept-new"]] {
        lab.refused(
            args,
            &[
                "host key has changed",
                "refusing to connect",
                "hint: if the host was installed anew, remove its old key with `ssh-keygen -R`",
            ],
        );
    }
    let remaining: String = known.lines().filter(|l| !l.starts_with("10.99.61.13 ")).map(|l| format!("{l}\n")).collect();
    fs::write(lab.path("known"), remaining).unwrap();
    lab.refused(&["list"], &["unknown host key SHA256:"]);
    lab.septet(&["list", "--accept-new"], 0);
    lab.septet(&["plan"], 0);
}

#[test]
fn logins_and_sudo() {
    let Some(mut lab) = Lab::make("logins", 62) else { return };
    // sudo asks for a password on one of the hosts.
    let password = format!(", become_password_file: {}", lab.shown("password"));
    lab.edit(&password, "");
    lab.refused(
        &["plan"],
        &["cannot become root on peter-zk01 without a password", "hint: give the password with -K, `become_password_file:`"],
    );
    let (code, _, err) = lab.septet_with(&[("SEPTET_BECOME_PASSWORD", "s3cret")], &["plan"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = lab.septet_with(&[("SEPTET_BECOME_PASSWORD", "wrong")], &["plan"]);
    assert!(code != 0 && err.contains("the password for ann is not accepted") && !err.contains("wrong"), "{err}");
    // As Ansible's -K: asked once, on the terminal, for all hosts, and shown nowhere.
    let (code, shown) = lab.septet_on_a_terminal(&["plan", "-K"], "s3cret\n");
    assert!(code == 0 && shown.matches("password for sudo: ").count() == 1 && !shown.contains("s3cret"), "{code}: {shown}");
    let (code, shown) = lab.septet_on_a_terminal(&["plan", "-K"], "wrong\n");
    assert!(code == 1 && shown.contains("the password for ann is not accepted"), "{code}: {shown}");
    let (code, shown) = lab.septet_on_a_terminal(&["plan", "-K"], "\x03");
    assert!(code == 130 && shown.contains("interrupted; nothing was begun"), "{code}: {shown}");
    let (code, _, err) = lab.septet_without_a_terminal(&["plan", "-K"]);
    assert!(code == 1 && err.contains("cannot ask for the password of sudo"), "{err}");
    assert!(err.contains("hint: without a terminal, set SEPTET_BECOME_PASSWORD"), "{err}");
    lab.edit("address: 10.99.62.12", &format!("address: 10.99.62.12{password}"));
    // Without the key's file, the agent has to have it.
    let hidden = lab.path("hidden");
    fs::rename(lab.path("key"), &hidden).unwrap();
    lab.refused(&["plan"], &["login as `ann`", "is refused", "hint: `ssh` must log in there without a question"]);
    fs::rename(&hidden, lab.path("key")).unwrap();
    let socket = lab.start_agent();
    fs::rename(lab.path("key"), &hidden).unwrap();
    let (code, _, err) = lab.septet_with(&[("SSH_AUTH_SOCK", &socket)], &["plan"]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn hosts_of_another_cluster() {
    let Some(lab) = Lab::make("others", 63) else { return };
    let owner = |cluster: &str, group: &str, index: u16| {
        format!(
            "mkdir -p /var/lib/septet-owner; echo '{{\"cluster\":\"0123e456-e89b-42d3-a456-426614174000\",\"name\":\"{cluster}\",\"group\":\"{group}\",\"index\":{index},\"host\":\"x\",\"engine\":\"bundled-1\"}}' > /var/lib/septet-owner/owner.json"
        )
    };
    lab.inside("c", &owner("theirs", "brokers", 1));
    let before =
        lab.inside("c", "find / -xdev -newer /etc/hosts -type f 2>/dev/null | grep -v -e /proc -e /var/log -e /run | sort; cat /etc/hosts");
    for command in [&["up", "--yes"][..], &["plan"], &["down", "--yes"]] {
        lab.refused(
            command,
            &["deep) belongs to cluster `theirs`", "refusing to use it", "hint: take it out of the inventory, or give it back first"],
        );
    }
    assert_eq!(
        lab.inside("c", "find / -xdev -newer /etc/hosts -type f 2>/dev/null | grep -v -e /proc -e /var/log -e /run | sort; cat /etc/hosts"),
        before
    );
    lab.inside("c", &owner("lab", "brokers", 2));
    lab.refused(&["plan"], &["is number 2 of brokers in this cluster", "hint: a host's number is its place in the list"]);
    // Two first runs at once: either can be taken away by its identity.
    lab.inside("c", &owner("lab", "brokers", 1));
    lab.inside("a", &owner("lab", "control", 1).replace("0123e456", "9923e456"));
    lab.refused(&["plan"], &["there are 2 clusters called `lab`", "hint: `septet -i lab.yml down --uuid UUID`"]);
    lab.septet(&["down", "--yes", "--uuid", "9923e456-e89b-42d3-a456-426614174000"], 0);
    lab.inside("a", "! [ -e /var/lib/septet-owner/owner.json ]");
    lab.inside("c", "[ -e /var/lib/septet-owner/owner.json ]");
    // A service of another origin.
    lab.inside("c", "rm -r /var/lib/septet-owner; touch /etc/systemd/system/kafka-server.service");
    lab.refused(&["up", "--yes"], &["kafka-server.service is there already and is not Septet's", "hint: nothing was changed on any host"]);
    lab.inside("a", "! [ -e /var/lib/septet-owner ]");
    lab.inside("c", "rm /etc/systemd/system/kafka-server.service");
    lab.septet(&["plan"], 0);
}

/// What is installed on a host, or was left by a look at it.
const TRACES: &str = "ls -d /var/lib/septet /var/lib/septet-owner /etc/septet /opt/septet 2>/dev/null || true";

#[test]
fn checked_before_the_first_up() {
    let Some(lab) = Lab::make("checked", 65) else { return };
    let all = lab.septet(&["check", "--all"], 0);
    for (host, check) in [("peter-control01", "disk"), ("peter-zk01", "memory"), ("peter-kafka01", "clock"), ("provider", "hosts")] {
        assert!(all.lines().any(|l| l.contains(host) && l.contains(check)), "{host} {check}: {all}");
    }
    // Somebody's program is where the broker will listen, and a program that Septet uses is missing.
    lab.inside("c", "mkdir -p /run/sshd && /usr/sbin/sshd -p 9092");
    let found = lab.septet(&["check"], 1);
    assert!(found.contains("kafka-server.service does not run, and another program listens on 9092"), "{found}");
    // A host that does not answer is one finding; the others are looked at all the same.
    lab.stop_sshd("b");
    let found = lab.septet(&["check", "--all"], 1);
    assert!(found.lines().any(|l| l.contains("fail") && l.contains("peter-zk01")), "{found}");
    assert!(
        found.contains("another program listens on 9092") && found.lines().any(|l| l.contains("peter-control01") && l.contains("disk")),
        "{found}"
    );
    for host in ["a", "b", "c"] {
        assert_eq!(lab.inside(host, TRACES), "", "a look leaves nothing");
    }
}

#[test]
fn many_hosts_behind_one_jump_host() {
    let Some(lab) = Lab::make("jump", 66) else { return };
    let names: Vec<String> = (1..=20).map(|n| format!("deep{n}")).collect();
    let config = fs::read_to_string(lab.path("ssh_config")).unwrap();
    fs::write(lab.path("ssh_config"), config.replace("Host deep\n", &format!("Host {}\n", names.join(" ")))).unwrap();
    lab.edit("brokers: [deep]", &format!("brokers: [{}]", names.join(", ")));
    let logins = || {
        lab.inside("a", "journalctl --no-pager -o cat -t sshd -t sshd-session | grep -c '^Accepted publickey for ann' || true")
            .parse::<usize>()
            .unwrap()
    };
    let plan = lab.septet(&["plan"], 0);
    assert!(plan.contains("peter-kafka20"), "{plan}");
    // One as the control host, one for all that are behind it: sshd refuses many logins at the same time (`MaxStartups`).
    assert_eq!(logins(), 2);
    // One at a time works too, and a jump host that is away is named once it is tried, not once for each host behind it.
    lab.septet(&["plan", "--forks", "1"], 0);
    assert_eq!(logins(), 4);
    lab.stop_sshd("a");
    let begun = Instant::now();
    lab.refused(&["plan"], &["peter-control01 (bastion)"]);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
fn a_host_that_is_away() {
    let Some(lab) = Lab::make("away", 67) else { return };
    lab.septet(&["up", "--yes"], 0);
    lab.stop_sshd("b");
    // What only looks goes on with the others, and names the one that is away.
    let health = lab.septet(&["health"], 3);
    assert!(health.lines().any(|l| l.contains("peter-zk01") && l.contains("refused")), "{health}");
    let ran = lab.septet(&["exec", "all", "--", "hostname"], 1);
    assert!(ran.contains("peter-kafka01") && ran.contains("peter-control01") && ran.contains("peter-zk01"), "{ran}");
    let logs = lab.septet(&["logs", "all", "-n", "5"], 1);
    assert!(logs.lines().any(|l| l.starts_with("peter-kafka01")) && logs.contains("peter-zk01: "), "{logs}");
    // What changes the cluster does not begin.
    for command in [&["up", "--yes"][..], &["restart", "--yes"], &["rename", "kisu", "--yes"]] {
        lab.refused(command, &["-zk01 (", "Connection refused"]);
    }
    assert_eq!(lab.inside("c", "hostname"), "peter-kafka01");
    assert!(fs::read_to_string(lab.path("lab.yml")).unwrap().contains("prefix: peter"));
    lab.refused(
        &["down", "--yes"],
        &["peter-zk01 (", "hint: start it, or leave it out with `septet -i lab.yml down --ignore-unreachable`"],
    );
    lab.inside("a", "[ -e /var/lib/septet-owner/owner.json ]");
    // The same for a host that shows another key.
    lab.start_sshd("b");
    lab.inside("b", "cp -a /etc/ssh /etc/ssh.before; rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh || systemctl restart sshd");
    let health = lab.septet(&["health"], 3);
    assert!(health.lines().any(|l| l.contains("peter-zk01") && l.contains("host key has changed")), "{health}");
    lab.refused(&["up", "--yes"], &["host key has changed", "hint: if the host was installed anew"]);
    lab.stop_sshd("b");
    // It answers again before the question is: nobody was told what is on it, so that stays.
    let back = || {
        lab.inside("b", "rm -rf /etc/ssh; mv /etc/ssh.before /etc/ssh");
        lab.start_sshd("b");
    };
    let (code, out, err) = lab.septet_asked(&["down", "--ignore-unreachable", "--json"], back, "lab\n");
    assert_eq!(code, 0, "{err}");
    let receipt: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).or_else(|_| serde_json::from_str(&out)).unwrap();
    let away = receipt["unreachable"].as_array().unwrap();
    assert!(away.len() == 1 && away[0].as_str().unwrap().starts_with("peter-zk01 ("), "{receipt}");
    assert!(err.contains("left out; what is installed there stays: peter-zk01"), "{err}");
    assert_eq!(lab.inside("a", TRACES), "");
    // The mark of the data, which stays.
    assert_eq!(lab.inside("c", TRACES), "/var/lib/septet-owner");
    lab.inside("b", "[ -e /var/lib/septet-owner/owner.json ] && [ -e /etc/septet ]");
    // A later run sees it: the rest goes too.
    lab.septet(&["down", "--yes", "--data"], 0);
    for host in ["a", "b", "c"] {
        assert_eq!(lab.inside(host, TRACES), "", "{host}");
    }
}

#[test]
fn from_nothing_to_nothing() {
    let Some(lab) = Lab::make("whole", 64) else { return };
    lab.inside("a", "! getent passwd kafka");
    lab.septet(&["up", "--yes"], 0);
    // Health produces and consumes through each broker.
    assert!(lab.septet(&["health"], 0).contains("healthy"));
    assert!(lab.inside("c", "cat /etc/hosts; hostname").contains("10.99.64.12 peter-zk01.foo.bar peter-zk01"));
    assert!(lab.inside("c", "cat /etc/hosts").contains("10.1.1.1 printer"), "the rest of the file stays");
    assert_eq!(lab.inside("c", "hostname"), "peter-kafka01");
    assert_eq!(lab.septet_with(&[], &["plan", "--exit-code"]).0, 0, "a second run has nothing to do");
    // Another machine, with the inventory alone, finds the cluster.
    fs::remove_dir_all(lab.path("state")).unwrap();
    assert!(lab.septet(&["health"], 0).contains("healthy"));
    lab.septet(&["check"], 0);
    assert!(lab.septet(&["logs", "brokers", "-n", "3"], 0).lines().count() >= 3);
    lab.septet(&["bundle", "report.tar.gz"], 0);
    assert!(fs::metadata(lab.path("report.tar.gz")).unwrap().len() > 1000);
    let started = |host: &str, unit: &str| lab.inside(host, &format!("systemctl show -p ExecMainStartTimestampMonotonic --value {unit}"));
    let (zookeeper, kafka) = (started("b", "zookeeper-server"), started("c", "kafka-server"));
    lab.septet(&["restart", "--yes"], 0);
    assert!(started("b", "zookeeper-server") != zookeeper && started("c", "kafka-server") != kafka);
    // Programs that were built again: the same but for their digests.
    let bundle = lab.bundle_built_again();
    let with = [("SEPTET_BUNDLE", bundle.as_str())];
    let (zookeeper, kafka) = (started("b", "zookeeper-server"), started("c", "kafka-server"));
    let (code, out, err) = lab.septet_with(&with, &["upgrade", "--check"]);
    assert!(code == 0 && (out + &err).contains("2 hosts would be upgraded"), "{err}");
    assert_eq!(lab.septet_with(&with, &["upgrade", "--yes"]).0, 0);
    assert!(started("b", "zookeeper-server") != zookeeper && started("c", "kafka-server") != kafka);
    lab.inside("c", "tail -c 11 /opt/septet/bin/septet-broker | grep -q 'built again'");
    assert_eq!(lab.septet_with(&with, &["plan", "--exit-code"]).0, 0, "what was upgraded stays");
    lab.septet(&["upgrade", "--yes"], 0);
    lab.septet(&["rename", "kisu", "--yes"], 0);
    assert_eq!(lab.inside("c", "hostname"), "kisu-kafka01");
    assert!(!lab.inside("b", "cat /etc/hosts").contains("peter-"));
    assert!(lab.septet(&["health"], 0).contains("healthy"));
    assert!(lab.septet(&["exec", "all", "--", "hostname"], 0).contains("kisu-zk01"));
    let (code, out, err) = lab.septet_with(&[], &["down", "--yes", "--json"]);
    assert_eq!(code, 0, "{err}");
    let receipt: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).or_else(|_| serde_json::from_str(&out)).unwrap();
    assert_eq!(receipt["left"].as_array().map(Vec::len), Some(0), "{receipt}");
    for (host, name) in [("a", "old-a"), ("b", "old-b"), ("c", "old-c")] {
        let left = "ls -d /opt/septet /etc/septet /var/lib/septet /etc/systemd/system/kafka-server.service /etc/systemd/system/zookeeper-server.service 2>/dev/null; getent passwd kafka zookeeper; grep septet /etc/hosts; hostname";
        assert_eq!(lab.inside(host, left), name);
        assert!(lab.inside(host, "cat /etc/hosts").contains("10.1.1.1 printer"));
    }
    assert!(!lab.inside("c", "ls /data/kafka-logs").is_empty(), "data stays");
    // Its data is still the cluster's, and goes when that is asked for.
    assert!(lab.inside("c", "cat /var/lib/septet-owner/kept.json").contains("\"name\":\"lab\""));
    lab.septet(&["down", "--yes", "--data"], 0);
    lab.inside("c", "! [ -e /data/kafka-logs ] && ! [ -e /var/lib/septet-owner ]");
    assert!(fs::metadata(lab.path("password")).unwrap().permissions().mode() & 0o400 != 0);
}
