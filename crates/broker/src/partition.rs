//! One partition as its leader keeps it: the log, the leader epoch, and who waits for more.
//!
//! Invariant: with one replica the high watermark is the end of the log.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kafka_protocol::ResponseError;
use tokio::sync::watch;

use crate::{
    batch,
    log::{Limits, Log, LogError},
};

/// A partition that this broker leads.
#[derive(Debug)]
pub struct Partition {
    inner: Mutex<Inner>,
    end: watch::Sender<i64>,
    max_batch_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    leader_epoch: i32,
}

/// What a fetch found.
#[derive(Debug)]
pub struct Read {
    /// whole batches
    pub bytes: Vec<u8>,
    /// offset up to which records may be read
    pub high_watermark: i64,
    /// first offset
    pub start_offset: i64,
}

impl Partition {
    /// Opens the partition's log.
    pub fn open(dir: &Path, limits: Limits, leader_epoch: i32, max_batch_bytes: usize) -> Result<Self, LogError> {
        let log = Log::open(dir, limits)?;
        let (end, _) = watch::channel(log.end_offset());
        Ok(Self { inner: Mutex::new(Inner { log, leader_epoch }), end, max_batch_bytes })
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

    /// Appends what a producer sent. Returns base offset and log start offset.
    pub fn append(&self, bytes: &[u8]) -> Result<(i64, i64), ResponseError> {
        let heads = batch::validate(bytes, self.max_batch_bytes)?;
        let mut copy = bytes.to_vec();
        let mut inner = self.inner();
        let epoch = inner.leader_epoch;
        let base = inner.log.append(&mut copy, &heads, epoch).map_err(|e| {
            tracing::error!("append: {e}");
            ResponseError::KafkaStorageError
        })?;
        self.end.send_replace(inner.log.end_offset());
        Ok((base, inner.log.start_offset()))
    }

    /// First and next offset.
    pub fn offsets(&self) -> (i64, i64) {
        let inner = self.inner();
        (inner.log.start_offset(), inner.log.end_offset())
    }

    /// Reads from an offset on.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Read, ResponseError> {
        let inner = self.inner();
        let (start_offset, high_watermark) = (inner.log.start_offset(), inner.log.end_offset());
        if offset < start_offset || offset > high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let bytes = inner.log.read(offset, max_bytes).map_err(|e| {
            tracing::error!("read: {e}");
            ResponseError::KafkaStorageError
        })?;
        Ok(Read { bytes, high_watermark, start_offset })
    }

    /// First record at or after a time; see [`Log::offset_for_timestamp`].
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<crate::log::Found>, ResponseError> {
        self.inner().log.offset_for_timestamp(timestamp).map_err(|e| {
            tracing::error!("look up a time: {e}");
            ResponseError::KafkaStorageError
        })
    }

    /// Follows the end of the log.
    pub fn watch_end(&self) -> watch::Receiver<i64> {
        self.end.subscribe()
    }

    /// Writes all to the disk.
    pub fn flush(&self) -> Result<i64, LogError> {
        let mut inner = self.inner();
        inner.log.flush()?;
        Ok(inner.log.end_offset())
    }
}
