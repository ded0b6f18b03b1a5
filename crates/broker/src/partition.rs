//! One partition as its leader keeps it: the log, the leader epoch, and who waits for more.
//!
//! Invariant: with one replica the high watermark is the end of the log.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kafka_protocol::ResponseError;
use tokio::sync::Notify;

use crate::{
    batch,
    broker::Led,
    log::{Files, Limits, Log, LogError, Slice},
    records,
};

/// A partition that this broker leads.
#[derive(Debug)]
pub struct Partition {
    inner: Mutex<Inner>,
    waiting: Mutex<HashMap<u64, Arc<Notify>>>,
    max_batch_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    leader_epoch: i32,
}

/// What a fetch found.
#[derive(Debug)]
pub struct Found {
    /// whole batches, if there are any
    pub records: Option<Slice>,
    /// offset up to which records may be read
    pub high_watermark: i64,
    /// first offset
    pub start_offset: i64,
}

/// Waits for records in some partitions. A partition costs a few bytes here, however many there are.
#[derive(Debug)]
pub struct Waiter {
    id: u64,
    woken: Arc<Notify>,
    partitions: Vec<Arc<Led>>,
}

impl Waiter {
    /// Begins to wait: what is appended from now on is noticed.
    pub fn new(partitions: Vec<Arc<Led>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let this = Self { id: NEXT.fetch_add(1, Ordering::Relaxed), woken: Arc::default(), partitions };
        for p in &this.partitions {
            p.partition.waiting().insert(this.id, this.woken.clone());
        }
        this
    }

    /// Ends after something was appended since the last call, or since the beginning.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        for p in &self.partitions {
            p.partition.waiting().remove(&self.id);
        }
    }
}

impl Partition {
    /// Opens the partition's log.
    pub fn open(dir: &Path, limits: Limits, files: &Arc<Files>, leader_epoch: i32, max_batch_bytes: usize) -> Result<Self, LogError> {
        let log = Log::open_in(dir, limits, files)?;
        Ok(Self { inner: Mutex::new(Inner { log, leader_epoch }), waiting: Mutex::default(), max_batch_bytes })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The controller has begun a new term of leadership.
    pub fn set_leader_epoch(&self, epoch: i32) {
        let mut inner = self.inner();
        inner.leader_epoch = inner.leader_epoch.max(epoch);
    }

    /// The term of leadership.
    pub fn leader_epoch(&self) -> i32 {
        self.inner().leader_epoch
    }

    /// Compares the leader epoch that a client believes in; -1 asks for nothing.
    pub fn check_epoch(&self, epoch: i32) -> Result<(), ResponseError> {
        let mine = self.leader_epoch();
        match epoch {
            -1 => Ok(()),
            e if e < mine => Err(ResponseError::FencedLeaderEpoch),
            e if e > mine => Err(ResponseError::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// Appends what a producer sent, which must be one batch. Returns base offset and log start offset.
    pub fn append(&self, bytes: &[u8]) -> Result<(i64, i64), ResponseError> {
        let heads = batch::validate(bytes, self.max_batch_bytes)?;
        let [head] = heads[..] else {
            return Err(ResponseError::InvalidRecord);
        };
        let checked = records::check(bytes, &head, self.max_batch_bytes)?;
        let mut copy = bytes.to_vec();
        let head = batch::set_max_timestamp(&mut copy, head, checked.max_timestamp);
        let mut inner = self.inner();
        let epoch = inner.leader_epoch;
        let base = inner.log.append(&mut copy, &[head], epoch).map_err(|e| {
            tracing::error!("append: {e}");
            ResponseError::KafkaStorageError
        })?;
        let start = inner.log.start_offset();
        drop(inner);
        self.waiting().values().for_each(|w| w.notify_one());
        Ok((base, start))
    }

    /// First and next offset.
    pub fn offsets(&self) -> (i64, i64) {
        let inner = self.inner();
        (inner.log.start_offset(), inner.log.end_offset())
    }

    /// Finds what there is from an offset on: up to `max_bytes`, but at least one batch if that is asked for.
    pub fn find(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Found, ResponseError> {
        let inner = self.inner();
        let (start_offset, high_watermark) = (inner.log.start_offset(), inner.log.end_offset());
        if offset < start_offset || offset > high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let records = inner.log.slice(offset, max_bytes, at_least_one).map_err(|e| {
            tracing::error!("read: {e}");
            ResponseError::KafkaStorageError
        })?;
        Ok(Found { records, high_watermark, start_offset })
    }

    /// Reads whole batches from an offset on, at least one if there is any.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Vec<u8>, ResponseError> {
        self.inner().log.read(offset, max_bytes).map_err(|e| {
            tracing::error!("read: {e}");
            ResponseError::KafkaStorageError
        })
    }

    /// First record at or after a time; see [`Log::offset_for_timestamp`].
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<crate::log::Found>, ResponseError> {
        self.inner().log.offset_for_timestamp(timestamp).map_err(|e| {
            tracing::error!("look up a time: {e}");
            ResponseError::KafkaStorageError
        })
    }

    /// Writes all to the disk.
    pub fn flush(&self) -> Result<i64, LogError> {
        let mut inner = self.inner();
        inner.log.flush()?;
        Ok(inner.log.end_offset())
    }
}
