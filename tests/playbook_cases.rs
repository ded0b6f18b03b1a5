//! The everyday playbooks of `tests/playbook_cases/`, run with the real agent: the same files and the same result as ansible-core
//! 2.19 leaves. Each host is a namespace of its own, in which `/tmp` and `/etc` are private directories.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, key::safe_rng},
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use septet::{
    engine::{self, bundle::Program},
    error::Result,
    inventory::{Host, HostId, Inventory},
    playbook::{Event, Options, Recap, Runner, parse, runner::Shared},
    project::Project,
    ssh::{Endpoint, Fleet},
    template::Vars,
};
use sha2::{Digest, Sha256};
use support::bundled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const INVENTORY: &str = "cluster: ans\nprefix: ans\ngroups:\n  coordinators: {count: 1}\n";

/// What each host sees as its own: `/tmp` and `/etc`.
struct Hosts {
    dir: tempfile::TempDir,
    agent: PathBuf,
    digest: String,
}

/// What of `/etc` accounts and facts need.
const ETC: &str = "passwd group shadow gshadow login.defs os-release debian_version nsswitch.conf pam.d security default skel ld.so.cache ld.so.conf ld.so.conf.d";

impl Hosts {
    /// `None` where namespaces or the agent are not to be had, which is said.
    fn new() -> Option<Self> {
        let agent = bundled("septet-agent")?;
        let able = Command::new("unshare").args(["-m", "-u", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        if !able {
            eprintln!("SKIPPED: mount namespaces cannot be made here; root can");
            return None;
        }
        static DIGEST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let digest = || Sha256::digest(std::fs::read(&agent).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        let digest = DIGEST.get_or_init(digest).clone();
        Some(Self { dir: tempfile::tempdir().unwrap(), agent, digest })
    }

    fn root(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    fn case_dir(&self, host: &str) -> PathBuf {
        self.root(host).join("tmp/case")
    }

    fn make(&self, host: &str) {
        let root = self.root(host);
        std::fs::create_dir_all(root.join("tmp/case")).unwrap();
        std::fs::create_dir_all(root.join("home")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        let there = ETC.split(' ').map(|n| Path::new("/etc").join(n)).filter(|p| p.exists());
        let copied = Command::new("cp").arg("-aL").args(there).arg(root.join("etc")).status().unwrap();
        assert!(copied.success());
        std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    }

    /// The agent of a host.
    fn agent(&self, host: &str) -> tokio::process::Command {
        let root = self.root(host);
        let script =
            "set -e; mount --make-rprivate /; hostname \"$2\"; mount --bind \"$1/etc\" /etc; mount --bind \"$1/tmp\" /tmp; exec \"$3\"";
        let mut c = tokio::process::Command::new("unshare");
        c.args(["-m", "-u", "sh", "-c", script, "sh"]).arg(root).arg(host).arg(&self.agent);
        c.env("HOME", "/home/septet").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        c
    }

    /// The files that a host has, as the cases have them.
    fn files(&self, host: &str) -> BTreeMap<String, String> {
        let dir = self.case_dir(host);
        let mut out = BTreeMap::new();
        let mut left = vec![dir.clone()];
        while let Some(d) = left.pop() {
            for entry in std::fs::read_dir(d).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                let shown = Command::new("sed").args(["-n", "l"]).arg(&path).output().unwrap();
                let name = format!("./{}", path.strip_prefix(&dir).unwrap().display());
                out.insert(name, String::from_utf8(shown.stdout).unwrap());
            }
        }
        out
    }
}

struct Server {
    host: String,
    hosts: Arc<Hosts>,
    channels: BTreeMap<ChannelId, Channel<Msg>>,
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> std::result::Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        let mut there = tokio::net::TcpStream::connect((host, port as u16)).await?;
        reply.accept().await;
        tokio::spawn(async move {
            let mut here = channel.into_stream();
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        });
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut Session) -> std::result::Result<(), Self::Error> {
        session.channel_success(id)?;
        let channel = self.channels.remove(&id).unwrap();
        let mut child = self.hosts.agent(&self.host).spawn().unwrap();
        tokio::spawn(async move {
            let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let (mut read, mut write) = tokio::io::split(channel.into_stream());
            let to = async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = read.read(&mut buffer).await {
                    if stdin.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = to => {}
                _ = tokio::io::copy(&mut stdout, &mut write) => {}
            }
            let _ = child.kill().await;
        });
        Ok(())
    }
}

/// A cluster of namespaces, and the runner that works on it.
struct Cluster {
    hosts: Arc<Hosts>,
    inventory: Inventory,
}

impl Cluster {
    fn new(inventory: &str) -> Option<Self> {
        let inventory = Inventory::parse(Path::new("i.yml"), inventory).unwrap();
        let hosts = Arc::new(Hosts::new()?);
        inventory.hosts.iter().for_each(|h| hosts.make(&h.name));
        Some(Self { hosts, inventory })
    }

    /// Runs a playbook as `septet run` does: what was told of failures, and the recap.
    fn run(&self, root: &Path, options: Options) -> Result<(Vec<String>, Recap)> {
        let project = Project { root: root.to_owned() };
        let plays = parse::playbook(&project, "playbook.yml")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let mut endpoints = BTreeMap::new();
            let mut programs = BTreeMap::new();
            for host in &self.inventory.hosts {
                endpoints.insert(host.id, self.serve(host).await);
                programs
                    .insert(host.id, Program { path: self.hosts.agent.clone(), digest: self.hosts.digest.clone(), peer_protocol: None });
            }
            let login = Arc::new(PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap());
            let fleet = Arc::new(Fleet::new(endpoints, "septet", login, programs));
            let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
            let shared = Shared {
                inventory: self.inventory.clone(),
                project: project.clone(),
                fleet: Some(fleet.clone()),
                absent: HashSet::new(),
                unseen: HashSet::new(),
                options: Options { keep_going: true, ..options.clone() },
                host_vars: BTreeMap::new(),
                hosts: Arc::default(),
                for_tera: Arc::default(),
                events,
                interrupted: Arc::default(),
            };
            let common = engine::vars(&self.inventory, Some("00000000-0000-0000-0000-000000000000"));
            let of_host: BTreeMap<HostId, Vars> =
                self.inventory.hosts.iter().map(|h| (h.id, [("address".to_owned(), "10.0.0.1".into())].into_iter().collect())).collect();
            let runner = Runner::new(shared, &common, &of_host, None);
            let recap = runner.run(&plays).await;
            fleet.close().await;
            drop(runner);
            let mut list = Vec::new();
            while let Some(e) = told.recv().await {
                match e {
                    Event::Task { task, host, status, msg, .. } => list.push(format!("{host}: {task}: {status:?} {msg}")),
                    Event::Unreachable { host, reason } => list.push(format!("{host}: {reason}")),
                    _ => {}
                }
            }
            recap.map(|r| (list, r))
        });
        runtime.shutdown_background();
        ended
    }

    async fn serve(&self, host: &Host) -> Endpoint {
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let host_key = key.public_key().to_openssh().unwrap();
        let config = Arc::new(server::Config { keys: vec![key], ..Default::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (hosts, name) = (self.hosts.clone(), host.name.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Server { host: name.clone(), hosts: hosts.clone(), channels: BTreeMap::new() };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, server).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Endpoint { name: host.name.clone(), host: "127.0.0.1".into(), port, host_key, own: None }
    }
}

/// What is compared. Records below 50 were abridged: no lines with blanks at their beginning, no empty lines and no first parts of
/// long ones.
fn compared(case: &str, text: &str) -> String {
    if case >= "50" {
        return text.to_owned();
    }
    // `find . | sort > tree` sees `tree` or does not, as it happens.
    let kept = |l: &&str| !l.starts_with(' ') && *l != "$" && *l != "./tree$" && !l.ends_with('\\');
    text.lines().filter(kept).map(|l| format!("{l}\n")).collect()
}

/// Flags of `ansible-playbook` that the cases use. Files of `-e @FILE` lie beside the playbook.
fn options(case: &Path, flags: &str) -> Options {
    let (mut options, mut extra) = (Options::default(), Vec::new());
    let mut words = septet::playbook::words(flags).into_iter();
    let list = |w: Option<String>| w.unwrap().split(',').map(str::to_owned).collect::<Vec<_>>();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--check" => options.check = true,
            "--diff" => {}
            "--tags" => options.tags = list(words.next()),
            "--skip-tags" => options.skip_tags = list(words.next()),
            "--limit" => options.limit = words.next(),
            "-e" => {
                let given = words.next().unwrap();
                let file = given.strip_prefix('@').map(|f| format!("@{}", case.join(f).display()));
                extra.push(file.unwrap_or(given));
            }
            other => panic!("{}: {other}", case.display()),
        }
    }
    options.extra_vars = septet::cli::extra_vars(&extra).unwrap();
    options
}

/// Cases, by name; only those whose name contains `SEPTET_CASE`, if that is set.
fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/playbook_cases");
    let root = std::env::var_os("SEPTET_CASES").map_or(root, PathBuf::from);
    let only = std::env::var("SEPTET_CASE").unwrap_or_default();
    let wanted = |p: &PathBuf| p.join("steps").is_file() && p.display().to_string().contains(&only);
    let mut all: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(wanted).collect();
    all.sort();
    all
}

#[test]
fn everyday_playbooks_leave_what_ansible_leaves() {
    let mut wrong = String::new();
    let mut run = 0;
    for case in cases() {
        let Some(cluster) = Cluster::new(INVENTORY) else { return };
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        let (mut got, mut told) = (String::new(), Vec::new());
        let steps = std::fs::read_to_string(case.join("steps")).unwrap();
        for (i, flags) in steps.lines().enumerate() {
            // Ansible's codes: 2 for a host that failed, 4 for a playbook that cannot be run.
            let code = match cluster.run(&case, options(&case, flags)) {
                Ok((list, recap)) => {
                    told.extend(list);
                    if recap.failed() { 2 } else { 0 }
                }
                Err(e) => {
                    told.push(e.to_string());
                    4
                }
            };
            let _ = write!(got, "### step {}: {flags}\nrc={code}\n", i + 1);
            for host in &cluster.inventory.hosts {
                for (file, text) in cluster.hosts.files(&host.name) {
                    let _ = write!(got, "--- {} {file}\n{text}", host.name);
                }
            }
        }
        let expected = std::fs::read_to_string(case.join("expected")).unwrap_or_default();
        if compared(&name, &got).trim() != compared(&name, &expected).trim() {
            let _ = writeln!(wrong, "######## {name}\n{}\n-------- expected\n{expected}-------- told\n{}", got.trim(), told.join("\n"));
        }
        run += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(run >= 16 || std::env::var_os("SEPTET_CASE").is_some(), "{run}");
}

/// The user's variables win over Septet's bare names, and what ships does not mind.
#[test]
fn variables_of_the_inventory_win_over_septets_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/playbook_cases/42-variables-of-the-inventory");
    let Some(cluster) = Cluster::new(&std::fs::read_to_string(root.join("inventory.yml")).unwrap()) else { return };
    let (told, recap) = cluster.run(&root, Options::default()).unwrap();
    assert!(!recap.failed(), "{told:?}");
    assert_eq!(cluster.hosts.files("ans-control01")["./out"], "site.dev web 7 mine 42 p e a f x$\n");
}

#[test]
fn an_ini_inventory_is_refused_with_what_to_do() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/playbook_cases/42-variables-of-the-inventory");
    let e = Inventory::read(&root.join("inventory.ini")).unwrap_err();
    assert!(e.message.contains("INI") && e.hint.as_ref().is_some_and(|h| h.contains("groups:")), "{e}");
}
