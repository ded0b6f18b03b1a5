//! What all clients together may take: descriptors, requests under way, answers that wait.
//!
//! Invariant: budgets are in bytes, never in entries. A request waits for its budget before it is held, and gives it
//! back when it is answered or its connection ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{peer, throttle::Throttle};

/// Requests of one client that are under way, in bytes; one request may be larger.
const MAX_OWN_REQUESTS: usize = 4 * 1024 * 1024;
/// Requests of all clients that are under way, in bytes.
const MAX_REQUESTS: usize = 64 * 1024 * 1024;
/// Requests up to this size, in bytes, do not wait for those of other clients: a ping must not be late because others
/// write much. Their number is limited for each connection.
const TINY: usize = 1024;
/// Requests of all clients that are arriving, in bytes. Small ones do not count: they are bounded by the connections.
const MAX_BODIES: usize = 64 * 1024 * 1024;
/// A request up to this size is small; larger ones arrive in parts of it.
const PART: usize = 64 * 1024;
/// Time for a small request to arrive, once it has begun, and for a part of a large one, which holds what others need.
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers and events of all clients that wait, in bytes.
pub const MAX_OUTPUT: usize = 128 * 1024 * 1024;
/// Descriptors for the log, snapshots, the runtime and what comes and goes.
const OWN_DESCRIPTORS: usize = 64;

/// The limits, shared by all connections.
#[derive(Debug)]
pub struct Limits {
    max_sockets: usize,
    sockets: AtomicUsize,
    log: Throttle,
    requests: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// answers and events that wait, in bytes
    pub output: Arc<AtomicUsize>,
}

/// A socket that counts.
#[derive(Debug)]
pub struct Socket(Arc<Limits>);

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's share of the budgets.
#[derive(Debug)]
pub struct Held {
    _own: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

fn kib(bytes: usize) -> u32 {
    (bytes / 1024 + 1).min(u32::MAX as usize) as u32
}

/// Raises the limit of descriptors to the most that this process may have.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!("the limit of descriptors stays at {current:?}: {e}");
    }
}

/// Descriptors that this process may have.
pub fn descriptors() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| n.try_into().unwrap_or(usize::MAX))
}

impl Limits {
    /// For an ensemble of so many servers, and at most so many clients (0: as many as there are descriptors for).
    pub fn new(members: usize, clients: usize) -> Arc<Self> {
        let all = descriptors();
        let reserved = OWN_DESCRIPTORS + peer::max_sockets(members);
        let semaphore = |bytes| Arc::new(Semaphore::new(kib(bytes) as usize));
        Arc::new(Self {
            max_sockets: all.saturating_sub(reserved).max(all / 4).min(if clients == 0 { usize::MAX } else { clients }),
            sockets: AtomicUsize::new(0),
            log: Throttle::default(),
            requests: semaphore(MAX_REQUESTS),
            bodies: semaphore(MAX_BODIES),
            output: Arc::default(),
        })
    }

    /// Counts a client's socket, unless that would take descriptors that files and other servers need.
    pub fn admit(self: &Arc<Self>) -> Option<Socket> {
        let socket = Socket(self.clone());
        let before = self.sockets.fetch_add(1, Ordering::Relaxed);
        if before < self.max_sockets {
            return Some(socket);
        }
        self.log.warn(|| {
            format!(
                "refused a client: {before} are connected, which is maxCnxns, or the other descriptors of {} (RLIMIT_NOFILE) are kept for files \
                 and servers",
                descriptors()
            )
        });
        None
    }

    /// A connection's own share.
    pub fn own() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(kib(MAX_OWN_REQUESTS) as usize))
    }

    /// Reads a request of `length` bytes once there is room for it. What is slow to arrive ends the connection, at the
    /// latest after this time without a part.
    pub async fn read(
        &self,
        own: &Arc<Semaphore>,
        from: &mut (impl AsyncReadExt + Unpin),
        length: usize,
        within: Duration,
    ) -> io::Result<(Vec<u8>, Held)> {
        let take = |budget: &Arc<Semaphore>, most: usize| {
            let share = budget.clone().acquire_many_owned(kib(length).min(kib(most)));
            async { share.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted)) }
        };
        let mine = take(own, MAX_OWN_REQUESTS).await?;
        let large = length > PART;
        // One request may be larger than a budget: it takes no more than half of this one.
        let arriving = if large { Some(take(&self.bodies, MAX_BODIES / 2).await?) } else { None };
        let limit = within.min(if large { PART_TIMEOUT } else { SMALL_TIMEOUT });
        let mut body = Vec::with_capacity(length.min(PART));
        while body.len() < length {
            let part = (length - body.len()).min(PART);
            let got = timeout(limit, (&mut *from).take(part as u64).read_to_end(&mut body)).await;
            if got.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? != part {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        let shared = if length > TINY { Some(take(&self.requests, MAX_REQUESTS).await?) } else { None };
        drop(arriving);
        Ok((body, Held { _own: mine, _shared: shared }))
    }
}

/// Bytes that wait for one client. What is left when the connection ends is given back.
#[derive(Debug)]
pub struct Queued {
    bytes: AtomicUsize,
    total: Arc<AtomicUsize>,
}

impl Queued {
    /// For a new connection.
    pub fn new(limits: &Limits) -> Self {
        Self { bytes: AtomicUsize::new(0), total: limits.output.clone() }
    }
    /// Bytes of this client, and of all.
    pub fn get(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
    /// Some are added.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Some have left.
    pub fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.total.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}
