//! Commands and playbooks over a real sshd on the loopback interface, with the real agent: what they leave behind when they are
//! stopped, when their time is up, and when the connection is gone.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use russh::keys::{Algorithm, PrivateKey, key::safe_rng, ssh_key::LineEnding};
use septet::{
    engine::{self, bundle::Program},
    error::Kind,
    inventory::HostId,
    modules::unarchive::sha256_of_file,
    playbook::{Runner, runner::Shared},
    ssh::{Connection, End, Endpoint, Fleet},
};
use septet_agent_protocol::{Action, Status};
use support::{Case, bundled};

const SSHD: &str = "/usr/sbin/sshd";
const LONG: Duration = Duration::from_secs(60);

/// A server of our own, which ends with this.
struct Sshd {
    child: Child,
    dir: tempfile::TempDir,
    endpoint: Endpoint,
    key: Arc<PrivateKey>,
    user: String,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whoami() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

/// None where there is no OpenSSH server, or it does not start for this user.
fn sshd() -> Option<Sshd> {
    sshd_in(&[], "")
}

/// The same with an empty `/var/lib` of its own, so that the agent is not put on this machine. It takes root.
fn sshd_apart() -> Option<Sshd> {
    sshd_with("", "")
}

/// The same with an option for the mount, and lines for its configuration.
fn sshd_with(option: &str, config: &str) -> Option<Sshd> {
    let script = format!("mount -t tmpfs{option} none /var/lib && exec \"$@\"");
    sshd_in(&["unshare", "-m", "sh", "-c", &script, "sh"], config)
}

fn sshd_in(apart: &[&str], lines: &str) -> Option<Sshd> {
    if !apart.is_empty() && whoami() != "root" {
        eprintln!("SKIPPED: not root");
        return None;
    }
    if !Path::new(SSHD).exists() {
        eprintln!("SKIPPED: no {SSHD}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let new_key = || PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
    let (host_key, key) = (new_key(), new_key());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let host = file("host", &host_key.to_openssh(LineEnding::LF).unwrap());
    let allowed = file("allowed", &key.public_key().to_openssh().unwrap());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = file(
        "config",
        &format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\n{lines}",
            host.display(),
            allowed.display()
        ),
    );
    // Where sshd separates its privileges; the distribution's unit makes it.
    let _ = fs::create_dir_all("/run/sshd");
    let mut words = apart.iter().copied().chain([SSHD, "-D", "-e", "-f"]);
    let mut command = Command::new(words.next().unwrap());
    let child = command.args(words).arg(&config).stderr(Stdio::null()).spawn().unwrap();
    let endpoint =
        Endpoint { name: "here".into(), host: "127.0.0.1".into(), port, host_key: host_key.public_key().to_openssh().unwrap(), own: None };
    let server = Sshd { child, dir, endpoint, key: Arc::new(key), user: whoami() };
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if begun.elapsed() > Duration::from_secs(10) {
            eprintln!("SKIPPED: sshd does not start here");
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(server)
}

impl Sshd {
    async fn connect(&self) -> Connection {
        Connection::open(&self.endpoint, &self.user, &self.key, None).await.unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn pids_in(path: &Path, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A command that starts another, both of which write their numbers to a file, and runs on.
fn two(path: &Path) -> String {
    let shown = path.display();
    format!("echo begun; echo $$ >> {shown}; sh -c 'echo $$ >> {shown}; sleep 300' & wait")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_time_is_up_has_ended_on_the_host() {
    let Some(sshd) = sshd() else { return };
    let connection = sshd.connect().await;
    let file = sshd.file("pids");
    let begun = Instant::now();
    let (out, end) = connection.run(&two(&file), false, Duration::from_secs(5), std::future::pending()).await.unwrap();
    assert_eq!((end, out.code), (End::TimeUp { confirmed: true }, None));
    assert_eq!(out.stdout, b"begun\n", "what it said stays");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let pids = pids_in(&file, 2).await;
    assert!(!pids.iter().any(|p| runs(p)));
    // The connection is as good as before.
    let (out, end) = connection.run("echo next; exit 7", false, LONG, std::future::pending()).await.unwrap();
    assert_eq!((out.stdout.as_slice(), out.code, end), (&b"next\n"[..], Some(7), End::Itself));
    // One that may log in elsewhere, as a transfer from the control host does.
    let file = sshd.file("relay");
    let elsewhere = sshd.key.public_key().clone();
    let error = connection.exec_with_agent(&two(&file), &elsewhere, Duration::from_secs(5)).await.unwrap_err().to_string();
    assert!(error.starts_with("`echo begun") && error.ends_with("does not end within 5 s"), "{error}");
    let begun = Instant::now();
    while pids_in(&file, 2).await.iter().any(|p| runs(p)) {
        assert!(begun.elapsed() < Duration::from_secs(40), "still there");
    }
    connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_stopped_has_ended_on_the_host() {
    let Some(sshd) = sshd() else { return };
    let connection = sshd.connect().await;
    let file = sshd.file("pids");
    let command = two(&file);
    let stop = async {
        pids_in(&file, 2).await;
    };
    let (out, end) = connection.run(&command, false, LONG, stop).await.unwrap();
    assert_eq!((end, out.code, out.stdout.as_slice()), (End::Stopped { confirmed: true }, None, &b"begun\n"[..]));
    assert!(!pids_in(&file, 2).await.iter().any(|p| runs(p)));
    connection.close().await;
}

/// As at the second Ctrl-C, or when the program is killed: nobody is there to ask for anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_connection() {
    let Some(sshd) = sshd() else { return };
    for streamed in [false, true] {
        let file = sshd.file(&format!("pids-{streamed}"));
        // `stream` runs as root.
        if streamed && sshd.user != "root" {
            continue;
        }
        let connection = sshd.connect().await;
        let command = two(&file);
        let running = async {
            if streamed {
                connection.stream(&command, None, |_, _| ()).await.map(drop)
            } else {
                connection.run(&command, false, LONG, std::future::pending()).await.map(drop)
            }
        };
        let pids = tokio::select! {
            r = running => panic!("it ended: {r:?}"),
            pids = pids_in(&file, 2) => pids,
        };
        connection.close().await;
        drop(connection);
        let begun = Instant::now();
        while pids.iter().any(|p| runs(p)) {
            assert!(begun.elapsed() < Duration::from_secs(40), "still there, streamed: {streamed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_no_standard_input_and_its_output_is_whole() {
    let Some(sshd) = sshd() else { return };
    let connection = sshd.connect().await;
    let (out, end) = connection
        .run("cat; wc -c < /dev/stdin; head -c 3000000 /dev/zero; echo err >&2", false, LONG, std::future::pending())
        .await
        .unwrap();
    assert_eq!((end, out.code, out.stderr.as_slice()), (End::Itself, Some(0), &b"err\n"[..]));
    assert_eq!((out.stdout.len(), &out.stdout[..2]), (3_000_002, &b"0\n"[..]));
    connection.close().await;
}

const CONTROL: HostId = HostId::CONTROL;

/// Runs tasks on the server with the real agent, and presses Ctrl-C once a file is there; whether it ended as interrupted.
async fn play(sshd: &Sshd, agent: &Path, tasks: &str, stop_at: Option<&Path>) -> bool {
    let indented: String = tasks.lines().map(|l| format!("    {l}\n")).collect();
    let case = Case::playbook(&format!("- hosts: control\n  gather_facts: false\n  tasks:\n{indented}"));
    let case = case.file("files/big", vec![7; 600 * 1024]);
    let program = Program { path: agent.to_owned(), digest: sha256_of_file(agent).unwrap(), peer_protocol: None };
    let endpoints = BTreeMap::from([(CONTROL, sshd.endpoint.clone())]);
    let fleet = Arc::new(Fleet::new(endpoints, &sshd.user, sshd.key.clone(), BTreeMap::from([(CONTROL, program)])));
    let interrupted = Arc::new(AtomicBool::new(false));
    let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut options = case.options.clone();
    options.check = false;
    let shared = Shared {
        inventory: case.inventory.clone(),
        project: case.project(),
        fleet: Some(fleet.clone()),
        absent: HashSet::new(),
        unseen: HashSet::new(),
        options,
        host_vars: BTreeMap::new(),
        hosts: Arc::default(),
        for_tera: Arc::default(),
        events,
        interrupted: interrupted.clone(),
    };
    let common = engine::vars(&case.inventory, Some("00000000-0000-0000-0000-000000000000"));
    let runner = Runner::new(shared, &common, &BTreeMap::new(), None);
    let plays = case.parse("p.yml").unwrap();
    let stop = async {
        match stop_at {
            None => std::future::pending().await,
            Some(path) => {
                while !path.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // What is behind it is with the agent by now.
                tokio::time::sleep(Duration::from_millis(300)).await;
                interrupted.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        }
    };
    let result = tokio::select! {
        r = tokio::time::timeout(LONG, runner.run(&plays)) => r.expect("the run does not end"),
        () = stop => unreachable!(),
    };
    drop(runner);
    fleet.close().await;
    let mut list = Vec::new();
    while let Some(event) = told.recv().await {
        list.push(event);
    }
    match result {
        Ok(recap) => {
            assert!(!recap.failed(), "{list:?}");
            false
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Interrupted, "{e:?}");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_interrupted_ends_with_the_task_in_hand() {
    let (Some(sshd), Some(agent)) = (sshd_apart(), bundled("septet-agent")) else { return };
    let dir = sshd.file("done");
    fs::create_dir(&dir).unwrap();
    let tasks = format!(
        "- shell: touch {0}/begun; sleep 1; touch {0}/first\n- copy: {{content: x, dest: {0}/second}}\n- shell: sleep 3; touch {0}/third\n\
         - file: {{path: {0}/fourth, state: touch}}\n- copy: {{src: big, dest: {0}/fifth}}\n",
        dir.display()
    );
    let begun = Instant::now();
    assert!(play(&sshd, &agent, &tasks, Some(&dir.join("begun"))).await);
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    let mut names: Vec<String> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["begun", "first"]);
    // And the next run does what was left.
    assert!(!play(&sshd, &agent, &tasks, None).await);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_leave_nothing_in_the_store_that_others_can_read_and_secrets_nothing_at_all() {
    let (Some(sshd), Some(agent)) = (sshd_apart(), bundled("septet-agent")) else { return };
    let dir = sshd.dir.path().display().to_string();
    let connection = sshd.connect().await;
    let look = async || {
        let script = "stat -c '%a %u' /var/lib/septet /var/lib/septet/agent /var/lib/septet/store; stat -c '%a %u' /var/lib/septet/agent/*; ls -A /var/lib/septet/store | wc -l; \
                      find /var/lib/septet/store -type f ! -perm 600";
        let out = connection.exec(script, &[], LONG).await.unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let secrets = format!("- copy: {{src: big, dest: {dir}/a, mode: '0600'}}\n- copy: {{src: big, dest: {dir}/b}}\n  no_log: true\n");
    assert!(!play(&sshd, &agent, &secrets, None).await);
    let modes = "755 0\n755 0\n700 0\n755 0\n";
    assert_eq!(look().await, format!("{modes}0\n"));
    assert!(!play(&sshd, &agent, &format!("- copy: {{src: big, dest: {dir}/c, mode: '0644'}}\n"), None).await);
    assert_eq!(look().await, format!("{modes}1\n"));
    for name in ["a", "b", "c"] {
        assert!(fs::read(sshd.file(name)).unwrap() == vec![7; 600 * 1024], "{name}");
    }
    connection.close().await;
}

/// A fleet of one host, the one behind this server.
fn fleet(sshd: &Sshd, agent: &Path) -> Fleet {
    let program = Program { path: agent.to_owned(), digest: sha256_of_file(agent).unwrap(), peer_protocol: None };
    let endpoints = BTreeMap::from([(CONTROL, sshd.endpoint.clone())]);
    Fleet::new(endpoints, &sshd.user, sshd.key.clone(), BTreeMap::from([(CONTROL, program)]))
}

/// Agents of two users need two sessions; where a connection has room for one, each gets a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn one_session_per_connection_is_enough() {
    let (Some(sshd), Some(agent)) = (sshd_with("", "MaxSessions 1\n"), bundled("septet-agent")) else { return };
    let fleet = fleet(&sshd, &agent);
    let begun = Instant::now();
    let mut agents = Vec::new();
    for user in [None, Some("root"), Some("root")] {
        let agent = fleet.agent(CONTROL, user).await.unwrap();
        assert_eq!(agent.perform(Action::Facts, false).await.unwrap().status, Status::Ok);
        agents.push(agent);
    }
    assert!(Arc::ptr_eq(&agents[1], &agents[2]), "an agent that runs is used again");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // What runs a command beside them is told why it cannot, and at once.
    let connection = fleet.connection(CONTROL).await.unwrap();
    let error = connection.run("true", false, LONG, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("`MaxSessions`"), "{error}");
    drop(agents);
    fleet.close().await;
}

/// The end of a session and the beginning of the next often reach sshd together, and it takes the second for one too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_follow_another_at_once() {
    let Some(sshd) = sshd_with("", "MaxSessions 1\n") else { return };
    let connection = sshd.connect().await;
    // About every second one is refused at first.
    for n in 0..30 {
        connection.exec("true", &[], LONG).await.unwrap_or_else(|e| panic!("session {n}: {e}"));
    }
    connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_be_executed_is_an_error_that_names_the_mount() {
    let (Some(sshd), Some(agent)) = (sshd_with(" -o noexec", ""), bundled("septet-agent")) else { return };
    let fleet = fleet(&sshd, &agent);
    let Err(error) = fleet.agent(CONTROL, None).await else { panic!("it runs all the same") };
    let error = error.to_string();
    assert!(error.contains("Permission denied") && error.contains("/var/lib/septet may be mounted `noexec`"), "{error}");
    fleet.close().await;
}
