//! Three machines of somebody's, as containers, and `septet` run against them.

use std::{
    fs,
    io::{Read, Write},
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
pub struct Lab {
    name: String,
    pub dir: tempfile::TempDir,
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
    pub fn make(test: &str, net: u8) -> Option<Self> {
        if std::env::var("SEPTET_E2E").is_ok_and(|v| v != "1") || std::env::var("SEPTET_E2E").is_err() {
            septet_testing::skip(test, "it makes containers: set SEPTET_E2E=1 to run it");
            return None;
        }
        let image = docker(&["images", "-q", "septet-node"]).lines().next().map(str::to_owned);
        let Some(image) = image else {
            septet_testing::skip(test, "there is no node image yet: `septet up` with the Docker provider makes it");
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

    pub fn host(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    #[track_caller]
    pub fn inside(&self, host: &str, script: &str) -> String {
        docker(&["exec", &self.host(host), "sh", "-c", script])
    }

    pub fn inventory(&self, cluster: &str, hosts: &str) {
        let text = format!(
            "cluster: {cluster}\nprefix: peter\ndomain: foo.bar\nprovider:\n  static:\n    ssh_config: {}\n    hosts:\n      {hosts}\n",
            self.shown("ssh_config")
        );
        fs::write(self.path("lab.yml"), text).unwrap();
    }

    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("lab.yml")).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.path("lab.yml"), text.replace(from, to)).unwrap();
    }

    pub fn know(&self, names: &[&str]) {
        let key = fs::read_to_string(self.path("hostkey.pub")).unwrap();
        let lines: String = names.iter().map(|n| format!("{n} {}\n", key.split(' ').take(2).collect::<Vec<_>>().join(" "))).collect();
        fs::write(self.path("known"), lines).unwrap();
    }

    pub fn septet_with(&self, variables: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_septet"));
        c.current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("SSH_AUTH_SOCK")
            .env_remove("SEPTET_BECOME_PASSWORD");
        c.envs(variables.iter().copied()).args(["-i", "lab.yml"]).args(args);
        run(c)
    }

    /// septet with a terminal, on which something is typed as soon as it asks: its exit code, and what the terminal shows.
    pub fn septet_on_a_terminal(&self, args: &[&str], typed: &str) -> (i32, String) {
        const TERMINAL: &str = r#"
import os, pty, sys, termios, time
typed, program = sys.argv[1].encode(), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0: os.execv(program[0], program)
shown = b""
while True:
    try: part = os.read(terminal, 4096)
    except OSError: break
    if not part: break
    shown += part
    if typed and shown.endswith(b": "):
        # Nobody types before the terminal has stopped to echo, an instant later.
        deadline = time.monotonic() + 10
        while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline: time.sleep(0.01)
        os.write(terminal, typed); typed = b""
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
        let mut c = Command::new("python3");
        c.current_dir(self.dir.path()).env("XDG_STATE_HOME", self.path("state")).env_remove("SSH_AUTH_SOCK");
        c.env_remove("SEPTET_BECOME_PASSWORD").args(["-c", TERMINAL, typed, env!("CARGO_BIN_EXE_septet"), "-i", "lab.yml"]).args(args);
        let (code, out, err) = run(c);
        assert_eq!(err, "");
        (code, out)
    }

    /// septet that asks for the cluster's name on a pipe: what happens between the question and the answer, and the answer. Its exit
    /// code, standard output and standard error.
    pub fn septet_asked(&self, args: &[&str], meanwhile: impl FnOnce(), answer: &str) -> (i32, String, String) {
        let shown = self.path("asked");
        let mut c = Command::new("timeout");
        c.arg(COMMAND_TIMEOUT.as_secs().to_string()).arg(env!("CARGO_BIN_EXE_septet")).args(["-i", "lab.yml"]).args(args);
        c.current_dir(self.dir.path()).env("XDG_STATE_HOME", self.path("state")).env_remove("SSH_AUTH_SOCK");
        c.env_remove("SEPTET_BECOME_PASSWORD").stdin(Stdio::piped()).stdout(fs::File::create(&shown).unwrap()).stderr(Stdio::piped());
        let mut child = c.spawn().unwrap();
        let (mut input, mut errors) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
        let (mut err, mut part) = (Vec::new(), [0; 4096]);
        while !err.ends_with(b"to go on: ") {
            let length = errors.read(&mut part).unwrap();
            assert_ne!(length, 0, "it does not ask: {}", String::from_utf8_lossy(&err));
            err.extend_from_slice(&part[..length]);
        }
        meanwhile();
        input.write_all(answer.as_bytes()).unwrap();
        drop(input);
        errors.read_to_end(&mut err).unwrap();
        let code = child.wait().unwrap().code().unwrap_or(-1);
        (code, fs::read_to_string(shown).unwrap(), String::from_utf8_lossy(&err).into_owned())
    }

    /// septet without any terminal, not even the one that the tests were started from.
    pub fn septet_without_a_terminal(&self, args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new("setsid");
        c.current_dir(self.dir.path()).env("XDG_STATE_HOME", self.path("state")).env_remove("SEPTET_BECOME_PASSWORD");
        c.args(["--wait", env!("CARGO_BIN_EXE_septet"), "-i", "lab.yml"]).args(args);
        run(c)
    }

    #[track_caller]
    pub fn septet(&self, args: &[&str], code: i32) -> String {
        let (is, out, err) = self.septet_with(&[], args);
        assert_eq!(is, code, "septet {args:?}\n{out}\n{err}");
        out + &err
    }

    #[track_caller]
    pub fn refused(&self, args: &[&str], words: &[&str]) {
        let (code, out, err) = self.septet_with(&[], args);
        assert_ne!(code, 0, "{out}");
        for w in words {
            assert!(err.contains(w), "no `{w}` in: {err}");
        }
    }

    /// From now on nothing answers on the host's port 22.
    pub fn stop_sshd(&self, host: &str) {
        self.inside(host, "systemctl stop ssh.socket ssh sshd 2>/dev/null; pkill -x sshd; ! pgrep -x sshd || sleep 1");
    }

    pub fn start_sshd(&self, host: &str) {
        self.inside(host, "systemctl start ssh 2>/dev/null || systemctl start sshd");
    }

    /// A bundle with other digests, whose programs do the same.
    pub fn bundle_built_again(&self) -> String {
        let to = self.path("bundle");
        fs::create_dir(&to).unwrap();
        for program in ["septet-agent", "septet-broker", "septet-coordinator"] {
            let path = to.join(program);
            fs::copy(Path::new(&std::env::var("SEPTET_BUNDLE").unwrap()).join(program), &path).unwrap();
            if program != "septet-agent" {
                fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"built again").unwrap();
            }
        }
        to.display().to_string()
    }

    pub fn start_agent(&mut self) -> String {
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
