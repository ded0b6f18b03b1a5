//! One partition: the log, whether this broker leads it and in which epoch, and who waits for more.
//!
//! Invariant: with one replica the high watermark is the end of the log. Leadership is a state of this object, which
//! there is once for each directory: a request that began under an earlier leadership meets the same log.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kafka_protocol::ResponseError;
use tokio::sync::Notify;

use crate::{
    batch,
    log::{Found, Gone, Log, LogError, Slice, locate, now_ms},
    records,
    topic_settings::TopicSettings,
    watch::Watchers,
};

/// Bytes after which the disk is waited for in the background, so that a start after a kill has little to check.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;

/// A partition that this broker has.
#[derive(Debug)]
pub struct Partition {
    inner: Mutex<Inner>,
    watchers: Arc<Watchers>,
    /// wakes what syncs in the background
    sync: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    settings: TopicSettings,
    leader_epoch: i32,
    leads: bool,
}

/// What was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// offset of the first record
    pub base_offset: i64,
    /// offset behind the last record
    pub end_offset: i64,
    /// the leadership under which they were appended
    pub leader_epoch: i32,
    /// first offset of the log
    pub start_offset: i64,
    /// time that the log gave the records, -1 if they keep their own
    pub time: i64,
}

/// What a fetch found.
#[derive(Debug)]
pub struct Fetched {
    /// whole batches, if there are any
    pub records: Option<Slice>,
    /// offset up to which records may be read
    pub high_watermark: i64,
    /// offset up to which a consumer with `isolation.level=read_committed` may read
    pub last_stable_offset: i64,
    /// first offset
    pub start_offset: i64,
    /// there are records that this reader may read, whether or not they had room
    pub more: bool,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// first offset
    pub offset: i64,
    /// bytes, at the most
    pub max_bytes: usize,
    /// one batch, also if it has more bytes than that
    pub at_least_one: bool,
    /// up to the last stable offset only
    pub stable_only: bool,
    /// a follower, which reads up to the end of the log: its number and epoch, -1 if it does not say
    pub replica: Option<(i32, i64)>,
}

fn storage_error(what: &str, e: &LogError) -> ResponseError {
    tracing::error!("{what}: {e}");
    ResponseError::KafkaStorageError
}

impl Partition {
    /// A partition that is not led yet.
    pub fn new(log: Log, settings: TopicSettings, sync: Arc<Notify>) -> Self {
        let leader_epoch = log.epochs().last().map_or(-1, |e| e.epoch);
        Self { inner: Mutex::new(Inner { log, settings, leader_epoch, leads: false }), watchers: Arc::default(), sync }
    }

    /// Those that want to know when this changes.
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if this broker leads.
    fn leading(&self) -> Result<MutexGuard<'_, Inner>, ResponseError> {
        let inner = self.inner();
        if inner.leads { Ok(inner) } else { Err(ResponseError::NotLeaderOrFollower) }
    }

    /// This broker leads from now on, or goes on leading, in an epoch.
    pub fn lead(&self, epoch: i32) {
        let mut inner = self.inner();
        let before = (inner.leader_epoch, inner.leads);
        inner.leader_epoch = inner.leader_epoch.max(epoch);
        inner.leads = true;
        let changed = before != (inner.leader_epoch, true);
        drop(inner);
        if changed {
            self.wake();
        }
    }

    /// This broker does not lead any more. Who waits is told.
    pub fn resign(&self) {
        self.inner().leads = false;
        self.wake();
    }

    /// Whether this broker leads.
    pub fn leads(&self) -> bool {
        self.inner().leads
    }

    /// Goes by other settings from now on.
    pub fn set_settings(&self, settings: TopicSettings) {
        let mut inner = self.inner();
        inner.settings = settings;
        inner.log.set_limits(settings.limits);
    }

    /// What it goes by.
    pub fn settings(&self) -> TopicSettings {
        self.inner().settings
    }

    /// The term of leadership.
    pub fn leader_epoch(&self) -> i32 {
        self.inner().leader_epoch
    }

    /// Compares the leader epoch that a client believes in; -1 asks for nothing.
    pub fn check_epoch(&self, epoch: i32) -> Result<(), ResponseError> {
        let mine = self.leading()?.leader_epoch;
        match epoch {
            -1 => Ok(()),
            e if e < mine => Err(ResponseError::FencedLeaderEpoch),
            e if e > mine => Err(ResponseError::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// The last epoch up to one, and where it ended; -1 and -1 if that is not known.
    pub fn end_of_epoch(&self, epoch: i32) -> Result<(i32, i64), ResponseError> {
        let inner = self.leading()?;
        // The leader's own epoch has begun, also before its first record.
        let end = inner.log.end_offset();
        let last = inner.log.epochs().last().map(|e| e.epoch);
        if epoch == inner.leader_epoch {
            return Ok((epoch, end));
        }
        if (last.unwrap_or(-1) + 1..inner.leader_epoch).contains(&epoch) {
            return Ok((last.unwrap_or(epoch), end));
        }
        Ok(inner.log.end_of_epoch(epoch).unwrap_or((-1, -1)))
    }

    /// Appends what a producer sent, which must be one batch.
    pub fn append(&self, bytes: &[u8]) -> Result<Appended, ResponseError> {
        let TopicSettings { max_message_bytes, log_append_time, .. } = self.leading()?.settings;
        let heads = batch::validate(bytes, max_message_bytes)?;
        let [head] = heads[..] else {
            return Err(ResponseError::InvalidRecord);
        };
        let checked = records::check(bytes, &head, max_message_bytes)?;
        let mut copy = bytes.to_vec();
        let mut inner = self.leading()?;
        if let Some(known) = inner.log.check_producer(&head)? {
            // Sent again: stored once, and answered as the first time.
            let start_offset = inner.log.start_offset();
            return Ok(Appended {
                base_offset: known.base_offset,
                end_offset: known.last_offset + 1,
                leader_epoch: inner.leader_epoch,
                start_offset,
                time: known.timestamp,
            });
        }
        let time = if log_append_time { now_ms() } else { -1 };
        let head = batch::stamp(&mut copy, head, if log_append_time { time } else { checked.max_timestamp }, log_append_time);
        let epoch = inner.leader_epoch;
        let base_offset = inner.log.append(&mut copy, &[head], epoch).map_err(|e| storage_error("append", &e))?;
        let (start_offset, end_offset) = (inner.log.start_offset(), inner.log.end_offset());
        if inner.log.unsynced_bytes() > SYNC_BYTES {
            self.sync.notify_one();
        }
        drop(inner);
        self.wake();
        Ok(Appended { base_offset, end_offset, leader_epoch: epoch, start_offset, time })
    }

    /// Waits until what is below an offset, appended under a leadership, is committed. With one replica it is at once.
    pub async fn committed(&self, _end_offset: i64, _leader_epoch: i32, _timeout: Duration) -> Result<(), ResponseError> {
        Ok(())
    }

    fn wake(&self) {
        self.watchers.wake();
    }

    /// First and next offset.
    pub fn offsets(&self) -> (i64, i64) {
        let inner = self.inner();
        (inner.log.start_offset(), inner.log.end_offset())
    }

    /// Offset up to which records are committed, and may be read.
    pub fn high_watermark(&self) -> i64 {
        self.inner().log.end_offset()
    }

    /// Offset up to which every transaction is decided. There are none yet: the high watermark.
    pub fn last_stable_offset(&self) -> i64 {
        self.high_watermark()
    }

    /// Whether the first offset is not that of the first segment.
    pub fn start_is_within(&self) -> bool {
        self.inner().log.start_is_within()
    }

    /// Offset up to which the log is on the disk.
    pub fn recovery_point(&self) -> i64 {
        self.inner().log.recovery_point()
    }

    /// Finds what there is from an offset on.
    pub fn find(&self, read: &Read) -> Result<Fetched, ResponseError> {
        let inner = self.leading()?;
        let (start_offset, high_watermark) = (inner.log.start_offset(), inner.log.end_offset());
        let last_stable_offset = high_watermark;
        if read.offset < start_offset || read.offset > high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let limit = if read.stable_only { last_stable_offset } else { high_watermark };
        let records = inner.log.slice(read.offset, read.max_bytes, read.at_least_one).map_err(|e| storage_error("read", &e))?;
        Ok(Fetched { records, high_watermark, last_stable_offset, start_offset, more: read.offset < limit })
    }

    /// Reads whole batches from an offset on, at least one if there is any.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Result<Vec<u8>, ResponseError> {
        self.inner().log.read(offset, max_bytes).map_err(|e| storage_error("read", &e))
    }

    /// First record at or after a time. Others go on meanwhile: a batch may have to be decompressed.
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<Found>, ResponseError> {
        let failed = |e: LogError| storage_error("look up a time", &e);
        let mut from = 0;
        loop {
            let (start, batch) = {
                let inner = self.leading()?;
                (inner.log.start_offset(), inner.log.batch_for_timestamp(timestamp, from).map_err(failed)?)
            };
            let Some((head, batch)) = batch else {
                return Ok(None);
            };
            if let Some(found) = locate(&head, &batch, timestamp, from.max(start)).map_err(failed)? {
                return Ok(Some(found));
            }
            from = head.last_offset() + 1;
        }
    }

    /// The record with the largest timestamp, the first if there are several.
    pub fn offset_of_max_timestamp(&self) -> Result<Option<Found>, ResponseError> {
        let latest = self.leading()?.log.max_timestamp();
        self.offset_for_timestamp(latest)
    }

    /// Deletes the records below an offset; -1 is all that there are. Returns the first that is left, whether that is new, and
    /// files to be removed.
    pub fn delete_below(&self, offset: i64) -> Result<(i64, bool, Option<Gone>), ResponseError> {
        let mut inner = self.leading()?;
        let (start, end) = (inner.log.start_offset(), inner.log.end_offset());
        let offset = if offset == -1 { end } else { offset };
        if offset < start || offset > end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let gone = inner.log.delete_below(offset).map_err(|e| storage_error("delete records", &e))?;
        let now = inner.log.start_offset();
        drop(inner);
        if now != start {
            self.wake();
        }
        Ok((now, now != start, gone))
    }

    /// Lets go of what is too old or too much.
    pub fn expire(&self) -> Result<Option<Gone>, LogError> {
        let mut inner = self.inner();
        let TopicSettings { retention, deletes, .. } = inner.settings;
        let gone = if deletes { inner.log.expire(retention)? } else { None };
        drop(inner);
        if gone.is_some() {
            self.wake();
        }
        Ok(gone)
    }

    /// Forgets producers that were silent for so long, in milliseconds.
    pub fn expire_producers(&self, expiration_ms: i64) {
        self.inner().log.expire_producers(now_ms(), expiration_ms);
    }

    /// Waits for the disk, while others go on reading and appending.
    pub fn sync(&self) -> Result<(), LogError> {
        let unsynced = self.inner().log.unsynced();
        if let Some(unsynced) = unsynced {
            let end = unsynced.sync()?;
            self.inner().log.synced(end);
        }
        Ok(())
    }

    /// Writes everything to the disk, for a stop.
    pub fn flush(&self) -> Result<i64, LogError> {
        let mut inner = self.inner();
        inner.log.flush()?;
        Ok(inner.log.end_offset())
    }

    /// Gives the directory another name, under which it waits for its removal. Nothing is led or found any more.
    pub fn retire(&self, to: &std::path::Path) -> Result<(), LogError> {
        let mut inner = self.inner();
        inner.leads = false;
        inner.log.rename(to)?;
        drop(inner);
        self.wake();
        Ok(())
    }
}
