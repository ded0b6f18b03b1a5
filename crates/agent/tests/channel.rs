//! The channel: who is there, batches, and how it ends.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use common::{AGENT, Agent, Copy, Dir, changed, copy, failed, pid_in, runs, shell, text, until};
use septet_agent_protocol::{Action, PROTOCOL_VERSION, Request, Status, WaitState, encode};
use sha2::{Digest, Sha256};

#[test]
fn an_agent_says_who_it_is() {
    let agent = Agent::start();
    let digest = hex::encode(Sha256::digest(fs::read(AGENT).unwrap()));
    assert_eq!(agent.hello.digest, digest);
    assert_eq!(agent.hello.protocol, PROTOCOL_VERSION);
    assert_eq!(agent.hello.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(agent.hello.uid, nix::unistd::geteuid().as_raw());
    let (status, said, _) = agent.close();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
}

#[test]
fn it_takes_no_arguments_but_tells_its_version() {
    let run = |argument: &str| Command::new(AGENT).arg(argument).stdin(Stdio::null()).output().unwrap();
    let version = run("--version");
    let words = format!("septet-agent {} protocol {PROTOCOL_VERSION}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((version.status.code(), String::from_utf8(version.stdout).unwrap()), (Some(0), words));
    let other = run("--listen");
    assert_eq!((other.status.code(), other.stdout.len()), (Some(2), 0));
}

#[test]
fn facts_tell_what_the_host_is() {
    let outcome = Agent::start().check(Action::Facts);
    assert_eq!(outcome.status, Status::Ok);
    let facts = &outcome.values["facts"];
    let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(facts["nodename"], node.trim());
    assert_eq!(facts["hostname"], node.trim().split('.').next().unwrap());
    assert_eq!(facts["architecture"], std::env::consts::ARCH);
    assert_eq!(facts["kernel"], fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    assert!(facts["processor_vcpus"].as_u64().unwrap() > 0);
    let (total, free) = (facts["memtotal_mb"].as_u64().unwrap(), facts["memfree_mb"].as_u64().unwrap());
    assert!(total > free && free > 0, "{facts}");
    for key in ["distribution", "os_family", "service_mgr"] {
        assert!(!facts[key].as_str().unwrap().is_empty(), "{key}");
    }
    assert!(facts["all_ipv4_addresses"].as_array().unwrap().iter().all(|a| !a.as_str().unwrap().starts_with("127.")));
}

#[test]
fn a_failure_ends_its_batch_and_no_other() {
    use Status::{Changed, Failed, NotRun};
    let (mut agent, dir) = (Agent::start(), Dir::new());
    // (batch, script, ignore_errors, answer)
    let cases = [
        (1, "true", false, Changed),
        (1, "false", false, Failed),
        (1, "touch a", false, NotRun),
        (1, "touch b", true, NotRun),
        (2, "touch c", false, Changed),
        (2, "false", true, Failed),
        (2, "touch d", false, Changed),
        (3, "false", false, Failed),
        (3, "touch e", false, NotRun),
        (4, "touch f", false, Changed),
    ];
    let requests: Vec<Request> = cases
        .iter()
        .zip(100..)
        .map(|(&(batch, script, ignore_errors, _), id)| {
            let script = format!("cd {} && {script}", text(dir.path("")));
            Request { id, batch, ignore_errors, ..agent.request(shell(&script, 30)) }
        })
        .collect();
    // All at once, as they travel.
    let wire: Vec<u8> = requests.iter().flat_map(|r| encode(r, &[]).unwrap()).collect();
    agent.stdin.as_mut().unwrap().write_all(&wire).unwrap();
    for (request, (.., expected)) in requests.iter().zip(cases) {
        let answer = agent.answer();
        assert_eq!((answer.id, answer.outcome.status), (request.id, expected), "{answer:?}");
    }
    assert_eq!(dir.names(), ["c", "d", "f"]);
}

#[test]
fn what_is_not_a_frame_ends_the_agent_without_a_panic() {
    let dir = Dir::new();
    let request = Request { id: 1, batch: 1, check: false, ignore_errors: false, no_log: false, action: copy(dir.path("f")) };
    let good = encode(&request, b"content").unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let torn = &good[..good.len() - 1];
    let mut long = good.clone();
    long[0] = 0xff;
    // (bytes, words on standard error)
    let cases: [(&[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "over the limit"),
        (b"hi", "ended inside a frame"),
        (&[0; 64], "checksum"),
        (&[0xff; 4096], "over the limit"),
        (&flipped, "checksum"),
        (torn, "ended inside a frame"),
        (&long, "over the limit"),
    ];
    for (bytes, words) in cases {
        let mut agent = Agent::start();
        agent.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        let (status, said, _) = agent.close();
        assert_eq!(status.code(), Some(1), "{bytes:?}: {said}");
        assert!(said.starts_with("septet-agent: ") && said.contains(words) && !said.contains("panicked"), "{said}");
        assert!(dir.names().is_empty(), "nothing of {bytes:?} may be performed");
    }
    // What came whole before the noise is done and answered.
    let mut agent = Agent::start();
    agent.stdin.as_mut().unwrap().write_all(&[&good[..], &flipped].concat()).unwrap();
    assert!(changed(&agent.answer().outcome));
    assert_eq!(agent.close().0.code(), Some(1));
    assert_eq!(dir.read("f"), "content");
}

/// The orchestrator is gone: nothing that it started may go on.
#[test]
fn the_agent_ends_with_its_channel_and_so_does_what_it_runs() {
    let dir = Dir::new();
    let pid_file = dir.path("pid");
    let sleep = format!("echo $$ > {}; sleep 60", text(&pid_file));
    let validate = Copy { validate: Some(format!("{sleep}; true %s")), ..Copy::default() }.to(dir.path("f"));
    let wait = |delay_s| Action::WaitFor {
        host: None,
        port: None,
        path: Some(text(dir.path("never"))),
        state: WaitState::Started,
        timeout_s: 60,
        delay_s,
    };
    type Start = fn() -> Agent;
    let (pipe, socket): (Start, Start) = (Agent::start, Agent::start_on_socket);
    // (name, channel, action, whether it runs a process, requests that wait behind it)
    let cases = [
        ("command", pipe, shell(&sleep, 0), true, 0),
        ("command, socket", socket, shell(&sleep, 0), true, 0),
        ("command with a queue", pipe, shell(&sleep, 0), true, 10),
        ("command with a full queue", pipe, shell(&sleep, 0), true, 200),
        ("command with a full queue, socket", socket, shell(&sleep, 0), true, 200),
        ("validation", pipe, validate, true, 0),
        ("wait", pipe, wait(0), false, 0),
        ("delayed wait", pipe, wait(60), false, 0),
    ];
    for (name, start, action, process, waiting) in cases {
        let _ = fs::remove_file(&pid_file);
        let mut agent = start();
        let first = agent.request(action);
        agent.send(&first, &[]);
        for _ in 0..waiting {
            let next = Request { batch: first.batch, ..agent.request(shell("sleep 60", 0)) };
            agent.send(&next, &[]);
        }
        let pid = process.then(|| pid_in(&pid_file));
        std::thread::sleep(Duration::from_millis(50));
        let (_, said, took) = agent.close();
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        assert!(!said.contains("panicked"), "{name}: {said}");
        if let Some(pid) = pid {
            until("the command is gone", || !runs(pid));
        }
        assert!(!dir.path("f").exists(), "{name}");
    }
}

/// Nothing that comes behind noise can be trusted: the command is ended, though the channel is open still.
#[test]
fn noise_ends_the_agent_and_what_it_runs() {
    let dir = Dir::new();
    let mut agent = Agent::start();
    let request = agent.request(shell(&format!("echo $$ > {}; sleep 60", text(dir.path("pid"))), 0));
    agent.send(&request, &[]);
    let pid = pid_in(&dir.path("pid"));
    agent.stdin.as_mut().unwrap().write_all(&[0xff; 64]).unwrap();
    failed(&agent.answer().outcome, "killed");
    until("the agent ends", || agent.child.try_wait().unwrap().is_some());
    until("the command is gone", || !runs(pid));
    assert_eq!(agent.child.wait().unwrap().code(), Some(1));
    assert!(!agent.take_stderr().contains("panicked"));
}

/// A command that waited in the queue when the channel ended has nobody who would hear of it.
#[test]
fn no_command_begins_after_the_channel_has_ended() {
    let dir = Dir::new();
    let mut agent = Agent::start();
    let first = agent.request(shell(&format!("echo $$ > {}; sleep 60", text(dir.path("pid"))), 0));
    agent.send(&first, &[]);
    for n in 0..40 {
        let next = agent.request(shell(&format!("echo > {}/{n}", text(dir.path(""))), 0));
        agent.send(&next, &[]);
    }
    pid_in(&dir.path("pid"));
    let (_, _, took) = agent.close();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(dir.names(), ["pid"]);
}

/// As at Ctrl-C: what runs goes on to its end, what waits does not begin, and what comes later is performed as ever.
#[test]
fn a_cancel_ends_what_has_not_begun_and_nothing_else() {
    use Status::{Changed, NotRun, Ok};
    // (requests that wait, bytes of contents of each): more than a pipe holds, and as many as the orchestrator sends ahead
    for (waiting, bytes) in [(1, 10), (200, 10), (40, 1_000_000)] {
        let (mut agent, dir) = (Agent::start(), Dir::new());
        let in_hand = agent.request(shell(&format!("echo > {0}/begun; sleep 1; echo > {0}/done", text(dir.path(""))), 30));
        agent.send(&in_hand, &[]);
        let content = vec![b'x'; bytes];
        let queued: Vec<u64> = (0..waiting)
            .map(|n| {
                // In the same batch and in others; one that may fail no more than one that may not.
                let mut request =
                    Request { batch: in_hand.batch + n % 3, ignore_errors: n % 2 == 0, ..agent.request(copy(dir.path(&format!("f{n}")))) };
                request.check = n % 5 == 4;
                agent.send(&request, &content);
                request.id
            })
            .collect();
        until("the first one runs", || dir.path("begun").exists());
        let cancel = agent.request(Action::Cancel);
        agent.send(&cancel, &[]);
        let after = agent.request(copy(dir.path("after")));
        agent.send(&after, &content);
        let mut expected = vec![(in_hand.id, Changed)];
        expected.extend(queued.iter().map(|id| (*id, NotRun)));
        expected.extend([(cancel.id, Ok), (after.id, Changed)]);
        let answers: Vec<_> = expected.iter().map(|_| agent.answer()).map(|a| (a.id, a.outcome.status)).collect();
        assert_eq!(answers, expected, "{waiting} of {bytes} bytes");
        assert_eq!(dir.names(), ["after", "begun", "done"], "{waiting} of {bytes} bytes");
    }
}

#[test]
fn a_cancel_with_nothing_to_cancel_is_answered() {
    let mut agent = Agent::start();
    for _ in 0..3 {
        assert_eq!(agent.act(Action::Cancel).status, Status::Ok);
        assert_eq!(agent.shell("true").status, Status::Changed);
    }
}

/// Not only commands: no file is written either once nobody waits for it.
#[test]
fn no_action_begins_after_the_channel_has_ended() {
    for start in [Agent::start as fn() -> Agent, Agent::start_on_socket] {
        let dir = Dir::new();
        let mut agent = start();
        let first = agent.request(shell(&format!("echo > {}; sleep 60", text(dir.path("begun"))), 0));
        agent.send(&first, &[]);
        for n in 0..40 {
            let next = agent.request(copy(dir.path(&n.to_string())));
            agent.send(&next, b"x");
        }
        until("the first one runs", || dir.path("begun").exists());
        let (_, _, took) = agent.close();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(dir.names(), ["begun"]);
    }
}

#[test]
fn actions_of_any_size_go_through_one_channel() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    for size in [0, 1, 65_535, 65_536, 1 << 20, 8_000_000] {
        let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let request = agent.request(copy(dir.path("f")));
        assert!(changed(&agent.ask(&request, &content)));
        assert!(fs::read(dir.path("f")).unwrap() == content, "{size} bytes");
    }
    failed(&agent.act(Action::Hostname { name: "not a name".into() }), "is not a host name");
    failed(&agent.act(Action::Timezone { name: "../../etc/passwd".into() }), "there is no time zone");
    let (status, said, _) = agent.close();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
}
