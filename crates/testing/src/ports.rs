//! Ports of the loopback device for servers of tests.
//!
//! Invariant: no two processes that ask here have the same port at a time, also while its server is down.

use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

/// Below the range of the kernel's own choice, so that no connection to somewhere else takes a port while its server is down.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// What says that this process has a port: a name without a file, which the kernel gives once and takes back when the process ends.
static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that nobody listens on, and that no other test is given before this process ends.
///
/// # Panics
/// Where all ports are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that start one after the other begin far from each other.
    let start = u32::from(process::id() as u16) * 37;
    for _ in 0..COUNT {
        let at = start + u32::from(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = FIRST + (at % u32::from(COUNT)) as u16;
        let Some(mine) = take(&port.to_string()) else { continue };
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(mine);
            return port;
        }
    }
    panic!("no port of {COUNT} from {FIRST} on is free");
}

/// A name of this network namespace, unless somebody has it.
fn take(name: &str) -> Option<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("septet-test-port-{name}")).ok()?;
    UnixListener::bind_addr(&address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let mut ports: Vec<u16> = (0..200).map(|_| free_port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn what_another_has_is_not_given() {
        let name = format!("of {}", process::id());
        let first = take(&name);
        assert!(first.is_some());
        assert!(take(&name).is_none());
        drop(first);
        assert!(take(&name).is_some());
    }
}
