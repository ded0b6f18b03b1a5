//! Hosts that Septet did not make: containers with systemd and OpenSSH, made by `docker run`.
//!
//! They take Docker, the node image of an earlier run of the Docker provider as the distribution, and programs for the hosts:
//! `SEPTET_E2E=1 SEPTET_BUNDLE=DIR cargo test --test static_hosts`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(400);
const NODE: &str = "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,rw /sys/fs/cgroup 2>/dev/null; fi; exec /sbin/init";

fn run(mut c: Command) -> (i32, String, String) {
    let what = format!("{c:?}");
    let out = assert_cmd::Command::from_std(std::mem::replace(&mut c, Command::new("true"))).timeout(COMMAND_TIMEOUT).output();
    let out = out.unwrap_or_else(|e| panic!("{what}: {e}"));
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[track_caller]
fn docker(args: &[&str]) -> String {
    let mut c = Command::new("docker");
    c.args(args);
    let (code, out, err) = run(c);
    assert_eq!(code, 0, "docker {args:?}: {err}");
    out.trim().to_owned()
}

/// Three machines of somebody's: a bastion, one that is reached over IPv6 and asks for a password in `sudo`, one behind the bastion.
struct Lab {
    name: String,
    dir: tempfile::TempDir,
    agent: Option<Child>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for host in ["a", "b", "c"] {
            let _ = Command::new("docker").args(["rm", "-f", "-v", &self.host(host)]).output();
        }
        let _ = Command::new("docker").args(["network", "rm", &self.name]).output();
    }
}

impl Lab {
    /// `None`, with the reason, where it cannot be made here.
    fn make(test: &str, net: u8) -> Option<Self> {
        if std::env::var("SEPTET_E2E").is_ok_and(|v| v != "1") || std::env::var("SEPTET_E2E").is_err() {
            eprintln!("{test}: skipped, it makes containers: set SEPTET_E2E=1 to run it");
            return None;
        }
        let image = docker(&["images", "-q", "septet-node"]).lines().next().map(str::to_owned);
        let Some(image) = image else {
            eprintln!("{test}: skipped, there is no node image yet: `septet up` with the Docker provider makes it");
            return None;
        };
        let lab = Self {
            name: format!("septet-lab-{test}-{}", std::process::id()).replace('_', "-"),
            dir: tempfile::tempdir().unwrap(),
            agent: None,
        };
        docker(&[
            "network",
            "create",
            "--ipv6",
            "--subnet",
            &format!("10.99.{net}.0/24"),
            "--subnet",
            &format!("fd99:{net}::/64"),
            &lab.name,
        ]);
        for key in ["key", "other", "hostkey"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(lab.path(key)).status().unwrap();
            assert!(made.success());
        }
        for (host, last) in [("a", 11), ("b", 12), ("c", 13)] {
            let address = format!("10.99.{net}.{last}");
            let tmp = ["--tmpfs", "/run:rw,nosuid,nodev,mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:rw,nosuid,nodev,mode=1777"];
            let rights = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"];
            let name = lab.host(host);
            let hostname = format!("old-{host}");
            let mut args = vec!["run", "-d", "--name", &name, "--hostname", &hostname, "--network", &lab.name, "--ip", &address];
            args.extend(tmp);
            args.extend(rights);
            args.extend([
                "--cgroupns",
                "private",
                "-v",
                "/data",
                "-e",
                "container=docker",
                "--stop-signal",
                "SIGRTMIN+3",
                &image,
                "sh",
                "-c",
                NODE,
            ]);
            docker(&args);
            lab.inside(host, "useradd -m -s /bin/bash ann && mkdir -m 700 /home/ann/.ssh");
            docker(&["cp", &lab.shown("key.pub"), &format!("{name}:/home/ann/.ssh/authorized_keys")]);
            docker(&["cp", &lab.shown("hostkey"), &format!("{name}:/etc/ssh/ssh_host_ed25519_key")]);
            lab.inside(host, "chown -R ann: /home/ann/.ssh; chmod 600 /home/ann/.ssh/*; chown root: /etc/ssh/ssh_host_ed25519_key; chmod 600 /etc/ssh/ssh_host_ed25519_key; echo ann:s3cret | chpasswd; echo 10.1.1.1 printer >> /etc/hosts");
            let rule = if host == "b" { "ann ALL=(ALL) ALL" } else { "ann ALL=(ALL) NOPASSWD: ALL" };
            lab.inside(host, &format!("echo '{rule}' > /etc/sudoers.d/ann; chmod 440 /etc/sudoers.d/ann"));
            lab.inside(
                host,
                "for i in $(seq 100); do systemctl restart ssh 2>/dev/null || systemctl restart sshd && break; sleep 0.2; done",
            );
        }
        let six = docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}", &lab.host("b")]);
        let config = format!(
            "Host bastion\n  HostName 10.99.{net}.11\nHost deep\n  HostName 10.99.{net}.13\n  ProxyJump bastion\nHost *\n  User ann\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n",
            lab.shown("key"),
            lab.shown("known")
        );
        fs::write(lab.path("ssh_config"), config).unwrap();
        fs::write(lab.path("password"), "s3cret\n").unwrap();
        lab.inventory("lab", &format!("control: bastion\n      coordinators: {{host: \"{six}\", address: 10.99.{net}.12, become_password_file: {}}}\n      brokers: [deep]", lab.shown("password")));
        lab.know(&[&format!("10.99.{net}.11"), &six, &format!("10.99.{net}.13")]);
        Some(lab)
    }

    fn host(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    #[track_caller]
    fn inside(&self, host: &str, script: &str) -> String {
        docker(&["exec", &self.host(host), "sh", "-c", script])
    }

    fn inventory(&self, cluster: &str, hosts: &str) {
        let text = format!(
            "cluster: {cluster}\nprefix: peter\ndomain: foo.bar\nprovider:\n  static:\n    ssh_config: {}\n    hosts:\n      {hosts}\n",
            self.shown("ssh_config")
        );
        fs::write(self.path("lab.yml"), text).unwrap();
    }

    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("lab.yml")).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.path("lab.yml"), text.replace(from, to)).unwrap();
    }

    fn know(&self, names: &[&str]) {
        let key = fs::read_to_string(self.path("hostkey.pub")).unwrap();
        let lines: String = names.iter().map(|n| format!("{n} {}\n", key.split(' ').take(2).collect::<Vec<_>>().join(" "))).collect();
        fs::write(self.path("known"), lines).unwrap();
    }

    fn septet_with(&self, variables: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_septet"));
        c.current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("SSH_AUTH_SOCK")
            .env_remove("SEPTET_BECOME_PASSWORD");
        c.envs(variables.iter().copied()).args(["-i", "lab.yml"]).args(args);
        run(c)
    }

    #[track_caller]
    fn septet(&self, args: &[&str], code: i32) -> String {
        let (is, out, err) = self.septet_with(&[], args);
        assert_eq!(is, code, "septet {args:?}\n{out}\n{err}");
        out + &err
    }

    #[track_caller]
    fn refused(&self, args: &[&str], words: &[&str]) {
        let (code, out, err) = self.septet_with(&[], args);
        assert_ne!(code, 0, "{out}");
        for w in words {
            assert!(err.contains(w), "no `{w}` in: {err}");
        }
    }

    fn start_agent(&mut self) -> String {
        let socket = self.shown("agent");
        self.agent = Some(Command::new("ssh-agent").args(["-D", "-a", &socket]).stdout(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while !Path::new(&socket).exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let added = Command::new("ssh-add").env("SSH_AUTH_SOCK", &socket).arg(self.path("key")).stderr(Stdio::null()).status().unwrap();
        assert!(added.success());
        socket
    }
}

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
    lab.septet(&["plan", "--accept-new"], 0);
}

#[test]
fn logins_and_sudo() {
    let Some(mut lab) = Lab::make("logins", 62) else { return };
    // sudo asks for a password on one of the hosts.
    let password = format!(", become_password_file: {}", lab.shown("password"));
    lab.edit(&password, "");
    lab.refused(
        &["plan"],
        &["cannot become root on peter-zk01 without a password", "hint: give the password with `become_password_file:`"],
    );
    let (code, _, err) = lab.septet_with(&[("SEPTET_BECOME_PASSWORD", "s3cret")], &["plan"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = lab.septet_with(&[("SEPTET_BECOME_PASSWORD", "wrong")], &["plan"]);
    assert!(code != 0 && err.contains("the password for ann is not accepted") && !err.contains("wrong"), "{err}");
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
    // A service of another origin.
    lab.inside("c", "rm -r /var/lib/septet-owner; touch /etc/systemd/system/kafka-server.service");
    lab.refused(&["up", "--yes"], &["kafka-server.service is there already and is not Septet's", "hint: nothing was changed on any host"]);
    lab.inside("a", "! [ -e /var/lib/septet-owner ]");
    lab.inside("c", "rm /etc/systemd/system/kafka-server.service");
    lab.septet(&["plan"], 0);
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
