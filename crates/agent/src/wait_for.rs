//! `wait_for`: a port or a path.

use std::{
    net::{TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use septet_agent_protocol::{Action, Outcome, Status, WaitState};

use crate::{atomic::FileError, command};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

fn connects(host: &str, port: u16) -> bool {
    let Ok(addresses) = (host, port).to_socket_addrs() else {
        return false;
    };
    addresses.into_iter().any(|a| TcpStream::connect_timeout(&a, Duration::from_secs(2)).is_ok())
}

/// Waits until the state is reached or the time is up.
pub fn wait_for(action: &Action, check: bool) -> Result<Outcome, FileError> {
    let Action::WaitFor { host, port, path, state, timeout_s, delay_s } = action else {
        return Err(FileError::Refused("not a wait".into()));
    };
    if check {
        return Ok(Outcome::new(Status::Skipped).with_msg("does not wait in check mode"));
    }
    let delay = Duration::from_secs((*delay_s).min(*timeout_s));
    let asked = Instant::now();
    while asked.elapsed() < delay && !command::stopped() {
        thread::sleep((delay - asked.elapsed().min(delay)).min(PAUSE));
    }
    let host = host.as_deref().unwrap_or("127.0.0.1");
    let what = match (port, path) {
        (Some(port), _) => format!("{host}:{port}"),
        (None, Some(path)) => path.clone(),
        (None, None) => return Err(FileError::Refused("wait_for needs a port or a path".into())),
    };
    let started = Instant::now();
    loop {
        if command::stopped() {
            return Err(FileError::Refused("the channel ended while waiting".into()));
        }
        let there = match (port, path) {
            (Some(port), _) => connects(host, *port),
            (None, path) => path.as_ref().is_some_and(|p| std::path::Path::new(p).exists()),
        };
        if there == (*state == WaitState::Started) {
            return Ok(Outcome::ok().with("elapsed", started.elapsed().as_secs()));
        }
        if started.elapsed() >= Duration::from_secs(*timeout_s) {
            let want = if *state == WaitState::Started { "there" } else { "gone" };
            return Ok(Outcome::failed(format!("{what} is not {want} after {timeout_s} s")));
        }
        thread::sleep(PAUSE);
    }
}
