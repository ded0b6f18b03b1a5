//! `command`: output, conditions, and an end in time.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, time::Instant};

use common::{Agent, Dir, failed, pid_in, runs, shell, text, until};
use septet_agent_protocol::{Action, Outcome, Request, Status};

struct Run {
    argv: Vec<String>,
    chdir: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    stdin: Option<String>,
    environment: BTreeMap<String, String>,
    check_safe: bool,
    expand: bool,
}

fn run(argv: &[&str]) -> Run {
    let argv = argv.iter().map(|&a| a.to_owned()).collect();
    Run { argv, chdir: None, creates: None, removes: None, stdin: None, environment: BTreeMap::new(), check_safe: false, expand: false }
}

impl From<Run> for Action {
    fn from(r: Run) -> Self {
        let Run { argv, chdir, creates, removes, stdin, environment, check_safe, expand } = r;
        Action::Command { argv, chdir, creates, removes, stdin, environment, timeout_s: 30, check_safe, expand }
    }
}

fn said(outcome: &Outcome) -> (i64, &str, &str) {
    let word = |key: &str| outcome.values[key].as_str().unwrap();
    (outcome.values["rc"].as_i64().unwrap(), word("stdout"), word("stderr"))
}

#[test]
fn a_command_returns_its_code_and_words() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let sh = |script: &str| run(&["/bin/sh", "-c", script]);
    let here = || Some(text(dir.path("")));
    let environment = BTreeMap::from([("SEPTET_TEST".to_owned(), "a b".to_owned())]);
    // (command, code, stdout, stderr)
    let cases = [
        (run(&["true"]), 0, "", ""),
        (run(&["echo", "a  b", "$HOME;*"]), 0, "a  b $HOME;*", ""),
        (sh("echo out; echo err >&2"), 0, "out", "err"),
        (sh("printf '\\n one \\n\\n\\n'"), 0, "\n one ", ""),
        (sh("echo bad >&2; exit 3"), 3, "", "bad"),
        (sh("echo so; exit 4"), 4, "so", ""),
        (sh("kill -9 $$"), -9, "", ""),
        (Run { chdir: here(), ..sh("touch made; ls") }, 0, "made", ""),
        (Run { environment, ..sh("echo $SEPTET_TEST") }, 0, "a b", ""),
        (Run { stdin: Some("in\n".into()), ..run(&["cat"]) }, 0, "in", ""),
        (Run { stdin: Some("x".repeat(1_000_000)), ..run(&["true"]) }, 0, "", ""),
        (run(&["cat"]), 0, "", ""),
    ];
    for (command, rc, stdout, stderr) in cases {
        let shown = format!("{:?}", command.argv);
        let outcome = agent.act(command.into());
        assert_eq!(said(&outcome), (rc, stdout, stderr), "{shown}");
        assert_eq!(outcome.status, if rc == 0 { Status::Changed } else { Status::Failed }, "{shown}");
        assert!(rc <= 0 || outcome.msg.contains(&format!("ended with {rc}: {stdout}{stderr}")), "{}", outcome.msg);
    }
    let lines = agent.shell("echo a; echo; echo b");
    assert_eq!(lines.values["stdout_lines"], serde_json::json!(["a", "", "b"]));
    failed(&agent.act(run(&["/no/such/program"]).into()), "cannot be started");
    failed(&agent.act(Run { chdir: Some("/no/such/dir".into()), ..run(&["true"]) }.into()), "cannot be started");
    failed(&agent.act(run(&[]).into()), "empty");
}

#[test]
fn creates_and_removes_decide_whether_it_runs() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let there = text(dir.write("there", ""));
    let none = text(dir.path("none"));
    // (creates, removes, runs)
    let cases = [
        (Some(&there), None, false),
        (Some(&none), None, true),
        (None, Some(&none), false),
        (None, Some(&there), true),
        (Some(&none), Some(&there), true),
        (Some(&there), Some(&there), false),
    ];
    for (creates, removes, ran) in cases {
        let (creates, removes) = (creates.cloned(), removes.cloned());
        let words = format!("{creates:?} {removes:?}");
        let command = Run { creates, removes, chdir: Some(text(dir.path(""))), ..run(&["touch", "mark"]) };
        let action: Action = command.into();
        let foreseen = agent.check(action.clone());
        assert_eq!(foreseen.status, if ran { Status::Skipped } else { Status::Ok }, "{words}");
        assert!(!dir.path("mark").exists());
        let outcome = agent.act(action);
        assert_eq!(outcome.values["rc"], 0);
        assert_eq!(outcome.status, if ran { Status::Changed } else { Status::Ok }, "{words}");
        assert_eq!(std::fs::remove_file(dir.path("mark")).is_ok(), ran, "{words}");
    }
}

#[test]
fn check_mode_runs_only_what_is_said_to_read() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    for check_safe in [false, true] {
        let command = Run { chdir: Some(text(dir.path(""))), check_safe, ..run(&["touch", "mark"]) };
        let outcome = agent.check(command.into());
        assert_eq!(outcome.status == Status::Skipped, !check_safe, "{outcome:?}");
        assert_eq!(dir.path("mark").exists(), check_safe);
    }
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let script = |pid: &str| format!("echo early; sh -c 'sleep 300 & echo $! > {0}; wait' & echo bad >&2; wait", text(dir.path(pid)));
    let started = Instant::now();
    let outcome = agent.act(shell(&script("pid"), 1));
    failed(&outcome, "not done after 1 s; ended: bad");
    assert_eq!(said(&outcome), (-1, "early", "bad"), "what it said before stays");
    assert!((1.0..5.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    let pid = pid_in(&dir.path("pid"));
    until("the grandchild is gone", || !runs(pid));
    assert_eq!(said(&agent.shell("echo next")).1, "next", "the agent goes on");
}

/// Time to put things in order, and no more.
#[test]
fn a_command_whose_time_is_up_may_clean_up_for_a_moment() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let tidy = format!("trap 'echo tidied > {}; exit 0' TERM; sleep 300 & wait", text(dir.path("f")));
    let outcome = agent.act(shell(&tidy, 1));
    assert_eq!(failed(&outcome, "not done after 1 s; ended").values["rc"], -1);
    assert_eq!(dir.read("f"), "tidied\n");
    let started = Instant::now();
    let deaf = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1; done", text(dir.path("pid")));
    failed(&agent.act(shell(&deaf, 1)), "not done after 1 s; ended");
    assert!((2.5..8.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    let pid = pid_in(&dir.path("pid"));
    until("it is gone", || !runs(pid));
}

/// As a program that puts itself in the background: the command has ended, its child holds the pipes.
#[test]
fn what_a_command_said_is_kept_when_its_child_stays() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let started = Instant::now();
    let outcome = agent.shell(&format!("sleep 300 & echo $! > {}; echo out; echo err >&2", text(dir.path("pid"))));
    let pid = pid_in(&dir.path("pid"));
    let stayed = runs(pid);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(said(&outcome), (0, "out", "err"));
    assert!(stayed, "a service that a command started is not killed with it");
    assert!(started.elapsed().as_secs() < 10);
}

/// Only its beginning is kept, and it never breaks the channel: in JSON one byte can become six.
#[test]
fn endless_output_is_bounded() {
    let mut agent = Agent::start();
    for source in ["yes", "cat /dev/zero", "yes ''"] {
        for end in ["", "; exit 1"] {
            let script = format!("{source} | head -c 1100000; {source} | head -c 1100000 >&2{end}");
            let outcome = agent.shell(&script);
            assert_eq!(outcome.status == Status::Failed, !end.is_empty(), "{script}: {:.200}", outcome.msg);
            assert_eq!(outcome.values["rc"], if end.is_empty() { 0 } else { 1 }, "{script}");
        }
    }
    let plain = agent.shell("yes | head -c 3000000");
    assert_eq!(plain.values["stdout"].as_str().unwrap().len(), 1024 * 1024 - 1, "less the last line's end");
    assert_eq!(said(&agent.shell("echo next")).1, "next");
}

#[test]
fn no_log_hides_why_a_command_failed() {
    let mut agent = Agent::start();
    let request = Request { no_log: true, ..agent.request(shell("echo s3cret >&2; exit 1", 5)) };
    let outcome = agent.ask(&request, &[]);
    assert_eq!(outcome.status, Status::Failed);
    assert!(!outcome.msg.contains("s3cret"), "{}", outcome.msg);
}
