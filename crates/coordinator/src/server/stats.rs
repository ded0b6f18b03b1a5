//! What is counted of clients: of all, and of each connection.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::protocol::op;

/// Milliseconds since the first call, which is at the start of the server.
pub fn uptime_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Latencies of requests, in microseconds.
#[derive(Debug)]
pub struct Latency {
    count: AtomicU64,
    total: AtomicU64,
    max: AtomicU64,
    min: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), total: AtomicU64::new(0), max: AtomicU64::new(0), min: AtomicU64::new(u64::MAX) }
    }
}

impl Latency {
    fn add(&self, us: u64) {
        self.count.fetch_add(1, Relaxed);
        self.total.fetch_add(us, Relaxed);
        self.max.fetch_max(us, Relaxed);
        self.min.fetch_min(us, Relaxed);
    }
    fn reset(&self) {
        self.count.store(0, Relaxed);
        self.total.store(0, Relaxed);
        self.max.store(0, Relaxed);
        self.min.store(u64::MAX, Relaxed);
    }
    /// Shortest, mean and longest in milliseconds.
    pub fn ms(&self) -> (u64, f64, u64) {
        let count = self.count.load(Relaxed);
        if count == 0 {
            return (0, 0.0, 0);
        }
        let mean = self.total.load(Relaxed) as f64 / count as f64 / 1000.0;
        (self.min.load(Relaxed) / 1000, (mean * 10_000.0).round() / 10_000.0, self.max.load(Relaxed) / 1000)
    }
}

/// Counters since the start, or since they were reset.
#[derive(Debug, Default)]
pub struct Counters {
    /// requests
    pub received: AtomicU64,
    /// answers
    pub sent: AtomicU64,
    /// requests under way
    pub outstanding: AtomicI64,
    /// credentials that were refused
    pub auth_failed: AtomicU64,
    /// connections that were refused
    pub rejected: AtomicU64,
    /// of requests
    pub latency: Latency,
}

impl Counters {
    /// A request was answered.
    pub fn answered(&self, us: u64) {
        self.sent.fetch_add(1, Relaxed);
        self.latency.add(us);
    }
    /// Begins again (`srst`).
    pub fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.latency.reset();
    }
}

/// Counters of a connection.
#[derive(Debug)]
pub struct ConnectionStats {
    /// milliseconds since 1970 at its begin
    pub established_ms: i64,
    /// session timeout in milliseconds
    pub timeout_ms: AtomicI32,
    /// requests
    pub received: AtomicU64,
    /// frames
    pub sent: AtomicU64,
    /// requests under way
    pub outstanding: AtomicI64,
    /// operation of the last answer
    last_op: AtomicI32,
    /// number of the request of the last answer; negative before the first
    pub last_cxid: AtomicI64,
    /// zxid of the last answer
    pub last_zxid: AtomicI64,
    /// when it was, in milliseconds since the start
    pub last_response_ms: AtomicU64,
    /// and how long it took, in milliseconds
    pub last_latency_ms: AtomicU64,
    /// of requests
    pub latency: Latency,
}

/// Before the first answer.
const NONE: i32 = i32::MIN;

impl Default for ConnectionStats {
    fn default() -> Self {
        Self {
            established_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
            timeout_ms: AtomicI32::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            outstanding: AtomicI64::new(0),
            last_op: AtomicI32::new(NONE),
            last_cxid: AtomicI64::new(-1),
            last_zxid: AtomicI64::new(-1),
            last_response_ms: AtomicU64::new(0),
            last_latency_ms: AtomicU64::new(0),
            latency: Latency::default(),
        }
    }
}

impl ConnectionStats {
    /// A request was answered.
    pub fn answered(&self, op: i32, xid: i32, zxid: i64, us: u64) {
        self.last_op.store(op, Relaxed);
        // Pings and credentials have numbers of their own.
        if xid >= 0 {
            self.last_cxid.store(xid.into(), Relaxed);
        }
        self.last_zxid.store(zxid, Relaxed);
        self.last_response_ms.store(uptime_ms(), Relaxed);
        self.last_latency_ms.store(us / 1000, Relaxed);
        self.latency.add(us);
    }

    /// Begins again (`crst`).
    pub fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.last_op.store(NONE, Relaxed);
        self.last_cxid.store(-1, Relaxed);
        self.last_zxid.store(-1, Relaxed);
        self.last_response_ms.store(0, Relaxed);
        self.last_latency_ms.store(0, Relaxed);
        self.latency.reset();
    }

    /// The last operation, as FinalRequestProcessor names it.
    pub fn last_operation(&self) -> &'static str {
        match self.last_op.load(Relaxed) {
            0 => "SESS",
            op::CREATE | op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => "CREA",
            op::DELETE => "DELE",
            op::EXISTS => "EXIS",
            op::GET_DATA => "GETD",
            op::SET_DATA => "SETD",
            op::GET_ACL => "GETA",
            op::SET_ACL => "SETA",
            op::GET_CHILDREN | op::GET_CHILDREN2 => "GETC",
            op::SYNC => "SYNC",
            op::PING => "PING",
            op::CHECK => "CHEC",
            op::MULTI => "MULT",
            op::MULTI_READ => "MLTR",
            op::RECONFIG => "RECO",
            op::CHECK_WATCHES => "CHKW",
            op::REMOVE_WATCHES => "REMW",
            op::SET_WATCHES => "SETW",
            op::SET_WATCHES2 => "STW2",
            op::ADD_WATCH => "ADDW",
            op::GET_EPHEMERALS => "GETE",
            op::GET_ALL_CHILDREN_NUMBER => "GETACN",
            op::WHO_AM_I => "HOMI",
            op::CLOSE => "CLOS",
            _ => "NA",
        }
    }
}
