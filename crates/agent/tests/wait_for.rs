//! `wait_for`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Dir, failed, text};
use septet_agent_protocol::{
    Action, Status,
    WaitState::{self, Started, Stopped},
};

fn port(port: u16, state: WaitState, timeout_s: u64) -> Action {
    Action::WaitFor { host: None, port: Some(port), path: None, state, timeout_s, delay_s: 0 }
}

fn path(path: &std::path::Path, state: WaitState, timeout_s: u64) -> Action {
    Action::WaitFor { host: None, port: None, path: Some(text(path)), state, timeout_s, delay_s: 0 }
}

/// A port that nobody listens on: it was ours a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn what_already_holds_is_not_waited_for() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    let there = dir.write("there", "");
    let named = Action::WaitFor { host: Some("localhost".into()), port: Some(open), path: None, state: Started, timeout_s: 30, delay_s: 0 };
    let cases =
        [port(open, Started, 30), named, port(free_port(), Stopped, 30), path(&there, Started, 30), path(&dir.path("none"), Stopped, 0)];
    let started = Instant::now();
    for action in cases {
        let outcome = agent.act(action.clone());
        assert_eq!((outcome.status, &outcome.values["elapsed"]), (Status::Ok, &0.into()), "{action:?}: {outcome:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_comes_later_is_waited_for() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let (file, number) = (dir.path("f"), free_port());
    let later = |what: Box<dyn FnOnce() + Send>| {
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(400));
            what();
        })
    };
    let (made, gone) = (file.clone(), file.clone());
    let listen = move || {
        let listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        thread::sleep(Duration::from_millis(1500));
        drop(listener);
    };
    let steps: [(Box<dyn FnOnce() + Send>, Action); 3] = [
        (Box::new(move || fs::write(made, "").unwrap()), path(&file, Started, 30)),
        (Box::new(move || fs::remove_file(gone).unwrap()), path(&file, Stopped, 30)),
        (Box::new(listen), port(number, Started, 30)),
    ];
    let mut last = None;
    for (what, action) in steps {
        let started = Instant::now();
        let thread = later(what);
        assert_eq!(agent.act(action.clone()).status, Status::Ok, "{action:?}");
        assert!((300..5000).contains(&started.elapsed().as_millis()), "{action:?}: {:?}", started.elapsed());
        last = Some(thread);
    }
    assert_eq!(agent.act(port(number, Stopped, 30)).status, Status::Ok);
    last.unwrap().join().unwrap();
}

#[test]
fn a_wait_ends_when_its_time_is_up() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    let there = dir.write("there", "");
    let cases = [
        (port(free_port(), Started, 1), "is not there after 1 s"),
        (port(open, Stopped, 1), "is not gone after 1 s"),
        (path(&dir.path("none"), Started, 1), "is not there after 1 s"),
        (path(&there, Stopped, 1), "is not gone after 1 s"),
    ];
    for (action, words) in cases {
        let started = Instant::now();
        failed(&agent.act(action), words);
        assert!((1.0..4.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    }
}

#[test]
fn it_can_wait_first_and_does_not_in_check_mode() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let there = dir.write("there", "");
    let delayed = Action::WaitFor { host: None, port: None, path: Some(text(there)), state: Started, timeout_s: 30, delay_s: 1 };
    let started = Instant::now();
    assert_eq!(agent.check(delayed.clone()).status, Status::Skipped);
    assert!(started.elapsed() < Duration::from_millis(900));
    assert_eq!(agent.act(delayed).status, Status::Ok);
    assert!(started.elapsed() >= Duration::from_secs(1));
    failed(
        &agent.act(Action::WaitFor { host: None, port: None, path: None, state: Started, timeout_s: 5, delay_s: 0 }),
        "needs a port or a path",
    );
}
