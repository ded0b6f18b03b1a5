//! Whatever kills the agent, a file is the old one or the new one.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Copy, Dir, copy, text};
use septet_agent_protocol::{Content, encode};

const TAIL_BYTES: usize = 7 * 1024 * 1024;
const HOST_FILE_BYTES: usize = 24 * 1024 * 1024;

fn waiting_in(dir: &Dir) -> bool {
    dir.names().iter().any(|n| n.starts_with(".septet-"))
}

/// When the agent is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// so long after the request was sent
    After(Duration),
    /// so long after the temporary file is there: in the middle of writing, syncing and renaming
    InTheMiddle(Duration),
}

/// Kills an agent while it copies. Whether the old file is there still, and whether a temporary file is left.
fn killed_while_copying(new: &[u8], from_host: bool, kill: Kill) -> (bool, bool) {
    let dir = Dir::new();
    let old = vec![b'o'; new.len() / 3];
    let path = dir.write("f", &old);
    let content = if from_host { Content::HostFile(text(dir.write("source", new))) } else { Content::Tail };
    let action = Copy { content, ..Copy::default() }.to(&path);
    let mut agent = Agent::start();
    let wire = encode(&agent.request(action), if from_host { &[] } else { new }).unwrap();
    let mut stdin = agent.stdin.take().unwrap();
    let started = Instant::now();
    // The write fails where the agent dies before it has read all.
    let sender = thread::spawn(move || {
        let _ = stdin.write_all(&wire);
        stdin
    });
    match kill {
        Kill::After(delay) => thread::sleep(delay.saturating_sub(started.elapsed())),
        Kill::InTheMiddle(delay) => {
            while !waiting_in(&dir) && fs::metadata(&path).unwrap().len() == old.len() as u64 {
                assert!(started.elapsed() < Duration::from_secs(30), "the copy does not begin");
            }
            thread::sleep(delay);
        }
    }
    agent.child.kill().unwrap();
    assert_eq!(agent.child.wait().unwrap().signal(), Some(9));
    drop(sender.join().unwrap());
    let now = fs::read(&path).unwrap();
    assert!(now == old || now == new, "{kill:?}: {} bytes that are neither the old nor the new file", now.len());
    (now == old, waiting_in(&dir))
}

/// How long a copy takes here when nobody kills it.
fn duration_of(new: &[u8], from_host: bool) -> Duration {
    let dir = Dir::new();
    let content = if from_host { Content::HostFile(text(dir.write("source", new))) } else { Content::Tail };
    let action = Copy { content, ..Copy::default() }.to(dir.write("f", "o"));
    let mut agent = Agent::start();
    let request = agent.request(action);
    let started = Instant::now();
    agent.ask(&request, if from_host { &[] } else { new });
    started.elapsed()
}

fn killed_at_many_moments(bytes: usize, from_host: bool) {
    const TIMES: u32 = 10;
    let (mut old, mut new, mut halfway) = (0, 0, 0);
    let content = vec![b'n'; bytes];
    let whole = duration_of(&content, from_host);
    for i in 0..TIMES {
        let share = whole * i / TIMES;
        for kill in [Kill::After(share * 3 / 2), Kill::InTheMiddle(share / 4)] {
            let (is_old, temporary_left) = killed_while_copying(&content, from_host, kill);
            old += u32::from(is_old);
            new += u32::from(!is_old);
            halfway += u32::from(temporary_left);
        }
    }
    eprintln!("old {old}, new {new}, killed halfway {halfway}");
    assert!(old > 0, "no kill came before the new file was in place");
    assert!(halfway > 0, "no kill came while the new file was being written");
}

#[test]
fn a_killed_agent_leaves_no_half_file_of_what_was_sent() {
    killed_at_many_moments(TAIL_BYTES, false);
}

#[test]
fn a_killed_agent_leaves_no_half_file_of_what_was_on_the_host() {
    killed_at_many_moments(HOST_FILE_BYTES, true);
}

/// A reader that looks all the time sees one or the other.
#[test]
fn a_reader_never_sees_a_half_file() {
    let (mut agent, dir) = (Agent::start(), Dir::new());
    let path = dir.write("f", vec![b'a'; 2_000_000]);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let mut reads = 0;
        while stopped.try_recv().is_err() {
            let now = fs::read(&path).unwrap();
            let whole = now.len() == 2_000_000 + usize::from(now[0] - b'a') * 100_000 && now.iter().all(|b| *b == now[0]);
            assert!(whole, "{} bytes, the first is {}", now.len(), now[0]);
            reads += 1;
        }
        reads
    });
    for letter in (b'a'..=b'j').cycle().skip(1).take(30) {
        let request = agent.request(copy(dir.path("f")));
        let content = vec![letter; 2_000_000 + usize::from(letter - b'a') * 100_000];
        common::changed(&agent.ask(&request, &content));
    }
    stop.send(()).unwrap();
    assert!(reader.join().unwrap() > 0);
}
