//! Which connections are let in: so many in all, so many from one address.
//!
//! Invariant: a [`Place`] stands for an open connection; when it is dropped, the connection is not counted any more.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts the connections of all listeners.
#[derive(Debug)]
pub struct Admission {
    max: AtomicUsize,
    max_per_address: AtomicUsize,
    /// what the limit of open files leaves
    possible: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `max.connections`, or what the limit of open files leaves for connections
    #[error("{0} connections are open, and there may be no more (max.connections, or the limit of open files)")]
    All(usize),
    /// `max.connections.per.ip`
    #[error("{0} connections from this address are open, and there may be no more (max.connections.per.ip)")]
    Address(usize),
}

/// A connection's place.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Nothing is open yet. There may be no more than are possible, whatever `max` is.
    pub fn new(possible: usize, max: usize, max_per_address: usize) -> Arc<Self> {
        let this = Self { max: AtomicUsize::new(0), max_per_address: AtomicUsize::new(0), possible, open: Mutex::default() };
        this.limit(max, max_per_address);
        Arc::new(this)
    }

    /// Other limits count from now on. Connections that are open stay.
    pub fn limit(&self, max: usize, max_per_address: usize) {
        self.max.store(max.min(self.possible), Ordering::Relaxed);
        self.max_per_address.store(max_per_address, Ordering::Relaxed);
    }

    /// Takes a place for a connection.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (max, max_per_address) = (self.max.load(Ordering::Relaxed), self.max_per_address.load(Ordering::Relaxed));
        if open.all >= max {
            return Err(Full::All(max));
        }
        let of_address = open.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= max_per_address {
            return Err(Full::Address(max_per_address));
        }
        open.all += 1;
        open.by_address.insert(address, of_address + 1);
        Ok(Place { admission: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        match open.by_address.get_mut(&self.address) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(open.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::new(3, 100, 2);
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut held = vec![admission.admit(a).unwrap(), admission.admit(a).unwrap()];
        assert_eq!(admission.admit(a).unwrap_err(), Full::Address(2));
        held.push(admission.admit(b).unwrap());
        assert_eq!(admission.admit(b).unwrap_err(), Full::All(3));
        admission.limit(1, 2);
        assert_eq!(admission.admit(b).unwrap_err(), Full::All(1));
        admission.limit(100, 2);
        assert_eq!(admission.admit(b).unwrap_err(), Full::All(3), "no more than are possible");
        held.clear();
        assert!(admission.open.lock().unwrap().by_address.is_empty());
        assert!(admission.admit(a).is_ok());
    }
}
