//! Playbooks against an agent that is not one: an SSH server in this process, whose "agent" says what the test wants. It
//! keeps to the protocol's batches, so that what travels together ends together.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, key::safe_rng},
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use septet::{
    engine::{self, bundle::Program},
    inventory::HostId,
    playbook::{Event, Recap, Runner, runner::Shared},
    ssh::{Endpoint, Fleet},
};
use septet_agent_protocol::{Action, Content, HEAD_BYTES, Head, Hello, Outcome, PROTOCOL_VERSION, Request, Response, Status, encode};
use support::Case;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

const DIGEST: &str = "d";
/// What a run may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What `slow` takes.
const SLOW: Duration = Duration::from_secs(1);
const CONTROL: HostId = HostId::CONTROL;

/// What was performed, each with the user who did it.
type Log = Arc<Mutex<Vec<String>>>;

struct Server {
    log: Log,
    channels: BTreeMap<ChannelId, Channel<Msg>>,
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(id)?;
        let command = String::from_utf8_lossy(command).into_owned();
        let user = command.strip_prefix("sudo -n -u ").and_then(|c| c.split(' ').next()).unwrap_or("login").to_owned();
        let channel = self.channels.remove(&id).unwrap();
        tokio::spawn(agent(channel, user, self.log.clone()));
        Ok(())
    }
}

/// What waits for its turn: a request, and whether it was cancelled.
#[derive(Default)]
struct Waiting {
    queue: Mutex<VecDeque<(Request, bool)>>,
    more: Notify,
}

/// Reads requests and answers them, as the agent does: it reads ahead, so that a cancel is seen while something is in hand.
async fn agent(channel: Channel<Msg>, user: String, log: Log) {
    let (mut read, mut write) = tokio::io::split(channel.into_stream());
    let uid = if user == "kafka" { 12345 } else { 0 };
    let hello = Hello { protocol: PROTOCOL_VERSION, version: "0".into(), digest: DIGEST.into(), uid };
    write.write_all(&encode(&hello, &[]).unwrap()).await.unwrap();
    let waiting = Arc::new(Waiting::default());
    let filled = waiting.clone();
    tokio::spawn(async move {
        loop {
            let mut head = [0; HEAD_BYTES];
            if read.read_exact(&mut head).await.is_err() {
                return;
            }
            let head = Head::parse(&head).unwrap();
            let mut body = vec![0; head.body_len()];
            read.read_exact(&mut body).await.unwrap();
            let (request, _): (Request, _) = head.decode(&body).unwrap();
            let mut queue = filled.queue.lock().unwrap();
            if request.action == Action::Cancel {
                queue.iter_mut().for_each(|(_, cancelled)| *cancelled = true);
            }
            queue.push_back((request, false));
            filled.more.notify_one();
        }
    });
    let mut failed = None;
    loop {
        let next = waiting.queue.lock().unwrap().pop_front();
        let Some((request, cancelled)) = next else {
            waiting.more.notified().await;
            continue;
        };
        let not_run = cancelled || failed == Some(request.batch);
        let outcome = if not_run { Outcome::new(Status::NotRun) } else { perform(&request.action, &user, &log) };
        if matches!(&request.action, Action::Command { argv, .. } if argv[0] == "slow") && !not_run {
            tokio::time::sleep(SLOW).await;
        }
        if outcome.status == Status::Failed && !request.ignore_errors {
            failed = Some(request.batch);
        }
        if write.write_all(&encode(&Response { id: request.id, outcome }, &[]).unwrap()).await.is_err() {
            return;
        }
    }
}

/// `say X` says X, `slow X` too and takes a second, `fail X` fails, `count X` says X and how often it was asked; a file whose path ends with `bad` cannot be written.
fn perform(action: &Action, user: &str, log: &Log) -> Outcome {
    let mut log = log.lock().unwrap();
    match action {
        Action::Cancel => Outcome::ok(),
        Action::Command { argv, .. } => {
            let line = argv.join(" ");
            log.push(format!("{user}: {line}"));
            let times = log.iter().filter(|l| l.ends_with(&format!(": {line}"))).count();
            match argv[0].as_str() {
                "fail" => Outcome::failed("it fails"),
                "count" => Outcome::changed_if(true).with("stdout", format!("{}-{times}", argv[1])),
                _ => Outcome::changed_if(true).with("stdout", argv[1].clone()),
            }
        }
        Action::Copy { path, content: Content::Stored(digest), .. }
            if path.starts_with("/stored") && !log.iter().any(|l| l.ends_with(&digest[..8])) =>
        {
            Outcome::failed("it is not in the store").with("missing_blob", digest.as_str())
        }
        Action::Missing { digests } => {
            log.push(format!("{user}: missing?"));
            Outcome::ok().with("missing", digests.clone())
        }
        Action::PutBlob { digest, offset, private, .. } => {
            log.push(format!("{user}: private {private}, from {offset}: {}", &digest[..8]));
            Outcome::changed_if(true)
        }
        Action::Copy { path, .. } => {
            log.push(format!("{user}: {path}"));
            if path.ends_with("bad") { Outcome::failed("no room") } else { Outcome::changed_if(true) }
        }
        other => panic!("{other:?}"),
    }
}

struct Did {
    told: Vec<String>,
    performed: Vec<String>,
    recap: Recap,
}

/// Runs tasks on the control host.
fn run(case: Case) -> Did {
    let (did, result) = run_until(case, None);
    Did { recap: result.unwrap(), ..did }
}

/// The same; once this is performed, the user presses Ctrl-C. What was told, what was performed, and how it ended.
fn run_until(case: Case, last: Option<&'static str>) -> (Did, septet::error::Result<Recap>) {
    let plays = case.parse("p.yml").unwrap();
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (result, told) = runtime.block_on(async {
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let host_key = key.public_key().to_openssh().unwrap();
        let config = Arc::new(server::Config { keys: vec![key], ..Default::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let there = log.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Server { log: there.clone(), channels: BTreeMap::new() };
                server::run_stream(config.clone(), stream, server).await.unwrap().await.unwrap();
            }
        });
        let endpoint = Endpoint { name: "control".into(), host: "127.0.0.1".into(), port, host_key, own: None };
        let login = Arc::new(PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap());
        let program = Program { path: "/bin/true".into(), digest: DIGEST.into(), peer_protocol: None };
        let fleet = Arc::new(Fleet::new([(CONTROL, endpoint)].into(), "login", login, [(CONTROL, program)].into()));
        let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
        let interrupted = Arc::new(AtomicBool::new(false));
        if let Some(last) = last {
            let (log, interrupted) = (log.clone(), interrupted.clone());
            tokio::spawn(async move {
                while !log.lock().unwrap().iter().any(|l| l == last) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // What is behind it is with the agent by now.
                tokio::time::sleep(Duration::from_millis(200)).await;
                interrupted.store(true, std::sync::atomic::Ordering::SeqCst);
            });
        }
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
        let result = tokio::time::timeout(PATIENCE, runner.run(&plays)).await.expect("the run does not end");
        fleet.close().await;
        drop(runner);
        let mut list = Vec::new();
        while let Some(e) = told.recv().await {
            match e {
                Event::Task { task, item, status, msg, .. } => {
                    list.push(format!("{task}{}: {status:?} {msg}", item.map(|i| format!(" ({i})")).unwrap_or_default()));
                }
                Event::Unreachable { reason, .. } => list.push(reason),
                Event::Note { text, .. } => list.push(text),
                Event::PendingHandler { host, handler } => list.push(format!("handler `{handler}` was notified on {host} and did not run")),
                _ => {}
            }
        }
        (result, list)
    });
    runtime.shutdown_background();
    let performed = log.lock().unwrap().clone();
    (Did { told, performed, recap: Recap::default() }, result)
}

fn tasks(text: &str) -> Case {
    let indented: String = text.lines().map(|l| format!("    {l}\n")).collect();
    Case::playbook(&format!("- hosts: control\n  gather_facts: false\n  tasks:\n{indented}"))
}

#[test]
fn a_result_that_another_users_agent_waited_for_is_not_lost() {
    let did = run(tasks(
        r#"- command: say a
  register: r
- command: say b
  become: true
  become_user: "{{ 'kaf' ~ 'ka' }}"
- debug: {msg: "{{ r.stdout }}"}
"#,
    ));
    assert_eq!(did.performed, ["login: say a", "kafka: say b"]);
    assert_eq!(did.told.last().unwrap(), "debug: Ok a", "{:?}", did.told);
}

#[test]
fn the_rest_of_the_items_and_nothing_behind_them() {
    let did = run(tasks(
        "- command: \"{{ item }} x\"\n  loop: [say, fail, say, fail, count]\n  register: r\n- name: After\n  command: say after\n",
    ));
    assert_eq!(did.performed, ["login: say x", "login: fail x", "login: say x", "login: fail x", "login: count x"]);
    assert!(!did.told.iter().any(|t| t.starts_with("After")), "{:?}", did.told);
    assert_eq!((did.recap.hosts["peter-control01"].failed, did.told.len()), (1, 5));

    let did = run(tasks(
        "- command: \"{{ item }} x\"\n  loop: [fail, say]\n  ignore_errors: true\n  register: r\n- debug: {msg: \"{{ r.failed }} {{ r.results[1].stdout }}\"}\n",
    ));
    assert_eq!(did.told.last().unwrap(), "debug: Ok True x", "{:?}", did.told);
}

#[test]
fn a_large_file_that_cannot_be_written_does_not_keep_the_others_back() {
    let case = tasks("- copy: {src: big, dest: \"/{{ item }}\"}\n  loop: [a, bad, c]\n").file("files/big", vec![7; 600 * 1024]);
    let did = run(case);
    assert_eq!(did.performed, ["login: /a", "login: /bad", "login: /c"]);
    assert_eq!(did.told, ["copy (a): Changed ", "copy (bad): Failed no room", "copy (c): Changed "]);
}

/// What is behind it waits for the file: it runs once, when the file is there or has failed for good.
#[test]
fn what_is_behind_a_large_file_runs_once_also_where_its_failure_does_not_count() {
    let behind = "- copy: {src: big, dest: DEST, mode: '0600'}\n  ignore_errors: true\n- command: count after\n";
    let did = run(tasks(&behind.replace("DEST", "/stored/f")).file("files/big", vec![7; 600 * 1024]));
    assert_eq!(did.performed.iter().filter(|l| l.ends_with("count after")).count(), 1, "{:?}", did.performed);
    assert!(did.performed.last().unwrap().ends_with("count after"), "{:?}", did.performed);
    assert_eq!(did.told.len(), 2, "{:?}", did.told);
    let did = run(tasks(&behind.replace("DEST", "/bad")).file("files/big", vec![7; 600 * 1024]));
    assert_eq!(did.performed, ["login: /bad", "login: count after"]);
    assert_eq!(did.told, ["copy: Ignored no room", "command: Changed "]);
}

/// A condition that cannot be evaluated ends the host before anything behind the task is begun.
#[test]
fn nothing_is_performed_behind_a_change_that_cannot_be_judged() {
    let did = run(tasks("- command: say a\n  register: r\n  changed_when: \"'x' in r.stdot\"\n- command: say b\n"));
    assert_eq!(did.performed, ["login: say a"], "{:?}", did.told);
    let did = run(tasks("- command: say a\n  changed_when: false\n- command: say b\n"));
    assert_eq!(did.performed, ["login: say a", "login: say b"]);
}

#[test]
fn handlers_that_are_left_when_one_is_interrupted_are_named() {
    let book = "- hosts: control\n  gather_facts: false\n  tasks:\n  - command: say a\n    notify: [One, Two]\n  handlers:\n  - name: One\n    command: slow one\n  - name: Two\n    command: say two\n";
    let (did, result) = run_until(Case::playbook(book), Some("login: slow one"));
    assert_eq!(result.unwrap_err().kind, septet::error::Kind::Interrupted);
    assert_eq!(did.performed, ["login: say a", "login: slow one"]);
    assert_eq!(did.told.last().unwrap(), "handler `Two` was notified on peter-control01 and did not run", "{:?}", did.told);
}

/// Bytes that others may not read go straight to the agent that needs them; those for another account's agent too, since it
/// cannot read the host's store. The rest goes through the control host's store.
#[test]
fn a_large_secret_goes_to_its_agent_and_to_no_store() {
    // (arguments of the task, who is sent the blob and whether it is private)
    let cases = [
        ("mode: \"0644\"", "", vec!["root: missing?", "root: private false"]),
        ("mode: \"0604\"", "", vec!["root: missing?", "root: private false"]),
        ("mode: \"0600\"", "", vec!["login: private true"]),
        ("mode: \"0640\"", "", vec!["login: private true"]),
        ("force: true", "", vec!["root: missing?", "root: private false"]),
        ("force: true", "  no_log: true\n", vec!["login: private true"]),
        ("force: true", "  become: true\n  become_user: kafka\n", vec!["kafka: private false"]),
    ];
    for (arguments, more, expected) in cases {
        let case = tasks(&format!("- copy: {{src: big, dest: /stored/f, {arguments}}}\n{more}"));
        let did = run(case.file("files/big", vec![7; 600 * 1024]));
        let sent: Vec<&str> = did.performed.iter().filter(|l| !l.ends_with("/stored/f")).map(|l| l.split(',').next().unwrap()).collect();
        assert_eq!(sent, expected, "{arguments} {more}: {:?}", did.told);
        assert_eq!(did.performed.iter().filter(|l| l.ends_with("/stored/f")).count(), 1, "{:?}", did.performed);
        assert!(did.told[0].contains("Changed"), "{:?}", did.told);
    }
}

/// The task in hand ends and is told; what the agent has and did not begin is not performed, nor told, nor sent again.
#[test]
fn an_interruption_ends_with_the_task_in_hand() {
    let handler = "  handlers:\n  - name: Restart\n    command: say handler\n";
    // (tasks, the last one performed, what was performed, what was told)
    let cases = [
        (
            "- command: slow a\n- command: say b\n- copy: {content: x, dest: /c}\n- debug: {msg: d}\n- command: say e\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
        (
            "- command: say a\n- command: slow b\n  register: r\n- command: say c\n- debug: {msg: '{{ r.stdout }}'}\n",
            "login: slow b",
            vec!["login: say a", "login: slow b"],
            vec!["command: Changed ", "command: Changed "],
        ),
        (
            "- command: '{{ item }} x'\n  loop: [say, slow, count]\n- command: say after\n",
            "login: slow x",
            vec!["login: say x", "login: slow x"],
            vec!["command (say): Changed ", "command (slow): Changed "],
        ),
        (
            "- command: '{{ item }} x'\n  loop: [fail, slow, count]\n  ignore_errors: true\n- command: say after\n",
            "login: slow x",
            vec!["login: fail x", "login: slow x"],
            vec!["command (fail): Ignored it fails", "command (slow): Changed "],
        ),
        (
            "- command: slow a\n  notify: Restart\n- command: say b\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed ", "handler `Restart` was notified on peter-control01 and did not run"],
        ),
        (
            "- command: count c\n  register: r\n  until: r.stdout == 'never'\n  retries: 100\n  delay: 60\n- command: say after\n",
            "login: count c",
            vec!["login: count c"],
            vec!["command: Changed "],
        ),
        (
            // Another user's agent is waited for, and then not asked.
            "- command: slow a\n- command: say b\n  become: true\n  become_user: kafka\n- command: say c\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
        (
            "- command: slow a\n- include_tasks: more.yml\n- command: say c\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
        ("- include_tasks: more.yml\n- command: say c\n", "login: slow in", vec!["login: slow in"], vec!["command: Changed "]),
        (
            "- command: slow a\n  register: r\n- command: '{{ r.none }}'\n- command: say c\n  when: r.none\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
        (
            "- command: slow a\n- command: say b\n  failed_when: false\n- command: say c\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
        (
            "- command: slow a\n- copy: {src: big, dest: /stored/f, mode: '0600'}\n- command: say b\n",
            "login: slow a",
            vec!["login: slow a"],
            vec!["command: Changed "],
        ),
    ];
    for (text, last, performed, told) in cases {
        let indented: String = text.lines().map(|l| format!("  {l}\n")).collect();
        let book = format!(
            "- hosts: control\n  gather_facts: false\n  tasks:\n{indented}{handler}- hosts: control\n  gather_facts: false\n  tasks:\n  - command: say next play\n"
        );
        let case = Case::playbook(&book).file("files/big", vec![7; 600 * 1024]);
        let case = case.file("playbooks/more.yml", "- command: slow in\n- command: say in\n");
        let begun = Instant::now();
        let (did, result) = run_until(case, Some(last));
        let error = result.unwrap_err();
        assert_eq!(error.kind, septet::error::Kind::Interrupted, "{text}: {error:?}");
        assert_eq!(did.performed, performed, "{text}");
        assert_eq!(did.told, told, "{text}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{text}: {:?}", begun.elapsed());
    }
}

/// Items are sent ahead like tasks, and many of them at once.
#[test]
fn an_interruption_in_a_long_loop_does_not_wait_for_its_items() {
    let case = tasks("- command: 'slow {{ item }}'\n  loop: '{{ range(3000) }}'\n- command: say after\n");
    let begun = Instant::now();
    let (did, result) = run_until(case, Some("login: slow 1"));
    assert_eq!(result.unwrap_err().kind, septet::error::Kind::Interrupted);
    assert!(did.performed.len() <= 4, "{:?}", did.performed);
    assert_eq!(did.told.len(), did.performed.len(), "{:?}", did.told);
    assert!(begun.elapsed() < SLOW * 20, "{:?}", begun.elapsed());
}

#[test]
fn until_with_an_item_tries_again_as_often_as_it_says() {
    let did = run(tasks(
        r#"- command: count {{ item }}
  loop: [a, b]
  register: r
  until: r.stdout == item ~ '-3'
  retries: 2
  delay: 0
- debug: {msg: "{{ r.results[0].stdout }} {{ r.results[1].stdout }}"}
- command: count c
  register: c
  until: c.stdout == 'c-3'
  retries: 1
  delay: 0
"#,
    ));
    assert!(did.told.contains(&"debug: Ok a-3 b-3".to_owned()), "{:?}", did.told);
    assert_eq!(did.told.last().unwrap(), "command: Failed `until` does not hold after 2 tries");
}
