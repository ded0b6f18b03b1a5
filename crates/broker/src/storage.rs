//! The partitions in the log directory: opening, checkpoints, retention, removal.
//!
//! Invariant: for each directory there is one object, from when it is first needed until the topic is deleted, whoever
//! leads the partition. What a checkpoint says is on the disk before the checkpoint is.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    log::{
        Files, Gone, Log, LogError, ProducerQuota, Recovery,
        checkpoints::{self, CLEANED, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS},
        now_ms,
    },
    partition::{Partition, Shared},
    topic_settings::TopicSettings,
};

/// Names the topic that a directory belongs to.
const METADATA: &str = "partition.metadata";
/// Ending of directories that are to be removed.
const DELETED: &str = "-delete";
/// Longest name of a directory: a file system's limit.
const MAX_NAME: usize = 255;

/// A partition that this broker has.
#[derive(Debug)]
pub struct Led {
    /// the partition
    pub partition: Partition,
}

type Hosted = HashMap<(String, i32), Arc<Led>>;

/// Why a partition is not available.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its log.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The directory belongs to another topic.
    #[error("{path}: belongs to topic id {found}, not {wanted}: a topic of this name was deleted while the directory was away")]
    Topic {
        /// the file that says so
        path: PathBuf,
        /// in the file
        found: String,
        /// in the coordinator
        wanted: String,
    },
}

/// What is to be removed, once its time has come.
#[derive(Debug)]
enum Remains {
    Segments(#[allow(dead_code)] Gone),
    Directory(PathBuf),
}

/// The log directory.
#[derive(Debug)]
pub struct Storage {
    dir: PathBuf,
    files: Arc<Files>,
    producers: Arc<ProducerQuota>,
    hosted: RwLock<Arc<Hosted>>,
    /// the last stop was a clean one
    clean: bool,
    /// from the checkpoints, for partitions that are not open
    points: checkpoints::Offsets,
    high_watermarks: checkpoints::Offsets,
    starts: checkpoints::Offsets,
    /// from the checkpoint, for partitions that are not open
    cleaned: checkpoints::Offsets,
    /// one at a time writes checkpoints
    writing: Mutex<()>,
    remains: Mutex<Vec<(Instant, Remains)>>,
    /// what the partitions share
    pub shared: Arc<Shared>,
    /// ends a compaction
    stop: AtomicBool,
    /// wakes the background work before its time
    pub wake: Arc<Notify>,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError { path: path.to_owned(), source }
}

impl Storage {
    /// Reads the checkpoints of a directory.
    pub fn open(dir: &Path, files: Arc<Files>, producers: Arc<ProducerQuota>, shared: Arc<Shared>) -> Result<Self, LogError> {
        let clean = checkpoints::take_clean_shutdown(dir)?;
        for entry in fs::read_dir(dir).map_err(io_at(dir))? {
            let path = entry.map_err(io_at(dir))?.path();
            if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.ends_with(DELETED)) && path.is_dir() {
                fs::remove_dir_all(&path).map_err(io_at(&path))?;
            }
        }
        Ok(Self {
            files,
            producers,
            hosted: RwLock::default(),
            clean,
            points: checkpoints::read(dir, RECOVERY_POINTS)?,
            high_watermarks: checkpoints::read(dir, HIGH_WATERMARKS)?,
            starts: checkpoints::read(dir, LOG_STARTS)?,
            cleaned: checkpoints::read(dir, CLEANED)?,
            writing: Mutex::default(),
            remains: Mutex::default(),
            wake: shared.sync.clone(),
            shared,
            stop: AtomicBool::new(false),
            dir: dir.to_owned(),
        })
    }

    fn hosted(&self) -> Arc<Hosted> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remains(&self) -> MutexGuard<'_, Vec<(Instant, Remains)>> {
        self.remains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition that this broker has.
    pub fn get(&self, topic: &str, partition: i32) -> Option<Arc<Led>> {
        // The key's type owns its text; a topic's name is short, so the copy is cheap beside the request.
        self.hosted().get(&(topic.to_owned(), partition)).cloned()
    }

    /// All that this broker has.
    pub fn all(&self) -> Vec<((String, i32), Arc<Led>)> {
        self.hosted().iter().map(|(k, l)| (k.clone(), l.clone())).collect()
    }

    /// Opens partitions that are not open yet: topic, its id, number, settings. One that cannot be opened is logged and
    /// stays away; the next call tries again.
    pub fn host<'a>(&self, wanted: impl Iterator<Item = (&'a str, Option<&'a str>, i32, TopicSettings)>) {
        let mut hosted = (*self.hosted()).clone();
        for (topic, id, number, settings) in wanted {
            let key = (topic.to_owned(), number);
            if hosted.contains_key(&key) {
                continue;
            }
            match self.open_one(&key, id, settings) {
                Ok(led) => drop(hosted.insert(key, Arc::new(led))),
                Err(e) => {
                    tracing::error!("partition {topic}-{number} stays offline: {e}");
                    if let HostError::Log(e) = &e {
                        self.shared.log_dir.note(e);
                    }
                }
            }
        }
        *self.hosted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hosted);
    }

    fn open_one(&self, key: &(String, i32), id: Option<&str>, settings: TopicSettings) -> Result<Led, HostError> {
        let (topic, number) = key;
        let dir = self.dir.join(format!("{topic}-{number}"));
        check_id(&dir, id)?;
        // The checkpoints that were read at the start say nothing of a topic that was deleted since, and made again.
        let is_new = !dir.is_dir();
        let of = |remembered: &checkpoints::Offsets| if is_new { 0 } else { remembered.get(key).copied().unwrap_or(0) };
        let recovery = Recovery { clean: self.clean, point: Some(of(&self.points)), start: of(&self.starts) };
        let mut log = Log::open_in(&dir, settings.log_limits(), &self.files, recovery)?;
        log.set_producer_quota(self.producers.clone());
        log.set_cleaned_to(of(&self.cleaned));
        if let Some(id) = id {
            write_id(&dir, id)?;
        }
        let high_watermark = of(&self.high_watermarks);
        let partition = Partition::new(topic, *number, log, settings, high_watermark, self.shared.clone());
        Ok(Led { partition })
    }

    /// Deletes a partition. Its directory gets another name at once and is removed after the topic's delay.
    pub fn delete(&self, topic: &str, number: i32) -> Result<(), LogError> {
        let key = (topic.to_owned(), number);
        let mut hosted = (*self.hosted()).clone();
        if let Some(led) = hosted.remove(&key) {
            let delay = led.partition.settings().delete_delay;
            let to = self.dir.join(deleted_name(topic, number));
            led.partition.retire(&to)?;
            self.remains().push((Instant::now() + delay, Remains::Directory(to)));
            *self.hosted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hosted);
        } else {
            // Not open, as after a start.
            let path = self.dir.join(format!("{topic}-{number}"));
            if path.is_dir() {
                let to = self.dir.join(deleted_name(topic, number));
                fs::rename(&path, &to).map_err(io_at(&path))?;
                self.remains().push((Instant::now(), Remains::Directory(to)));
            }
        }
        Ok(())
    }

    /// Removes files of deleted segments after their topic's delay.
    pub fn remove_later(&self, gone: Gone, settings: TopicSettings) {
        self.remains().push((Instant::now() + settings.delete_delay, Remains::Segments(gone)));
    }

    /// Removes what is due.
    pub fn remove_due(&self) {
        let now = Instant::now();
        let due: Vec<Remains> = self.remains().extract_if(.., |(at, _)| *at <= now).map(|(_, r)| r).collect();
        for one in due {
            if let Remains::Directory(path) = one
                && let Err(e) = fs::remove_dir_all(&path)
            {
                tracing::warn!("{}: {e}", path.display());
            }
        }
    }

    /// Lets go of records that are too old or too much, in all partitions.
    pub fn expire(&self) {
        for ((topic, number), led) in self.hosted().iter() {
            match led.partition.expire() {
                Ok(Some(gone)) => self.remove_later(gone, led.partition.settings()),
                Ok(None) => {}
                Err(e) => self.failed(&format!("retention of {topic}-{number}"), &e),
            }
        }
    }

    /// Forgets producers that were silent for so long, in milliseconds.
    pub fn expire_producers(&self, expiration_ms: i64) {
        self.hosted().values().for_each(|led| led.partition.expire_producers(expiration_ms));
    }

    /// Compacts the partition that needs it most, within so many bytes of memory. Says whether there was one. A partition that
    /// cannot be compacted is logged and left alone until the next start, as on Kafka.
    pub fn clean_one(&self, buffer: usize) -> bool {
        let hosted = self.hosted();
        let due = hosted.iter().filter_map(|(key, led)| Some((led.partition.dirt()?, key, led)));
        let Some((_, key, led)) = due.max_by_key(|(dirt, ..)| (dirt.overdue, dirt.millionths)) else {
            return false;
        };
        match self.clean(led, buffer) {
            Ok(true) => true,
            // It has changed meanwhile, and comes again.
            Ok(false) => false,
            Err(_) if self.stop.load(Ordering::Relaxed) => false,
            Err(e) => {
                self.shared.log_dir.note(&e);
                tracing::error!("compaction of {}-{}: {e}; left alone until the next start", key.0, key.1);
                led.partition.leave_uncleaned();
                true
            }
        }
    }

    fn clean(&self, led: &Led, buffer: usize) -> Result<bool, LogError> {
        let plan = led.partition.plan_cleaning();
        let map = plan.build(buffer, &self.stop)?;
        let mut replace = |cleaned| {
            let gone = led.partition.replace(cleaned)?;
            let done = gone.is_some();
            gone.into_iter().for_each(|gone| self.remove_later(gone, led.partition.settings()));
            Ok(done)
        };
        match plan.clean(&map, now_ms(), &self.stop, &mut replace)? {
            Some(offset) => {
                led.partition.set_cleaned_to(offset);
                self.checkpoint()?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Ends a compaction that is under way, and lets none begin.
    pub fn stop_cleaning(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Brings everything to the disk, while the partitions go on, and says so in the checkpoints.
    pub fn sync(&self) {
        if self.shared.log_dir.is_offline() {
            return;
        }
        for ((topic, number), led) in self.hosted().iter() {
            if let Err(e) = led.partition.sync() {
                tracing::error!("sync of {topic}-{number}: {e}");
                self.shared.log_dir.note_unsynced(&e);
            }
        }
        if let Err(e) = self.checkpoint() {
            self.failed("checkpoint", &e);
        }
    }

    /// Notes that something failed, which may be the disk.
    fn failed(&self, what: &str, e: &LogError) {
        tracing::error!("{what}: {e}");
        self.shared.log_dir.note(e);
    }

    /// Writes the checkpoints.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut points, mut ends, mut starts) = (self.points.clone(), self.high_watermarks.clone(), self.starts.clone());
        let mut cleaned = self.cleaned.clone();
        // What is not open is left as it was, unless it is gone.
        let exists = |(topic, number): &(String, i32)| self.dir.join(format!("{topic}-{number}")).is_dir();
        points.retain(|k, _| exists(k));
        ends.retain(|k, _| exists(k));
        starts.retain(|k, _| exists(k));
        cleaned.retain(|k, _| exists(k));
        for (key, led) in self.hosted().iter() {
            let (start, _) = led.partition.offsets();
            points.insert(key.clone(), led.partition.recovery_point());
            ends.insert(key.clone(), led.partition.high_watermark());
            match led.partition.cleaned_to() {
                0 => drop(cleaned.remove(key)),
                offset => drop(cleaned.insert(key.clone(), offset)),
            }
            // The first segment says the rest.
            match led.partition.start_is_within() {
                true => drop(starts.insert(key.clone(), start)),
                false => drop(starts.remove(key)),
            }
        }
        checkpoints::write(&self.dir, RECOVERY_POINTS, &points)?;
        checkpoints::write(&self.dir, HIGH_WATERMARKS, &ends)?;
        checkpoints::write(&self.dir, LOG_STARTS, &starts)?;
        checkpoints::write(&self.dir, CLEANED, &cleaned)
    }

    /// Brings everything to the disk for a stop. Nothing may be appended any more.
    pub fn shut_down(&self) {
        self.stop_cleaning();
        let mut clean = true;
        for ((topic, number), led) in self.hosted().iter() {
            led.partition.resign();
            if let Err(e) = led.partition.flush() {
                tracing::error!("flush of {topic}-{number}: {e}");
                clean = false;
            }
        }
        let written = self.checkpoint().and_then(|()| if clean { checkpoints::write_clean_shutdown(&self.dir) } else { Ok(()) });
        if let Err(e) = written {
            tracing::error!("checkpoint: {e}");
        }
    }
}

fn deleted_name(topic: &str, number: i32) -> String {
    let tail = format!("-{number}.{}{DELETED}", uuid::Uuid::new_v4().simple());
    let topic: String = topic.chars().take(MAX_NAME - tail.len()).collect();
    format!("{topic}{tail}")
}

/// Refuses a directory that belongs to another topic of the same name.
fn check_id(dir: &Path, id: Option<&str>) -> Result<(), HostError> {
    let path = dir.join(METADATA);
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.lines().find_map(|l| l.strip_prefix("topic_id:")).map(|i| i.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_at(&path)(e).into()),
    };
    match (found, id) {
        (Some(found), Some(wanted)) if found != wanted => Err(HostError::Topic { path, found, wanted: wanted.to_owned() }),
        _ => Ok(()),
    }
}

/// Writes a partition's `partition.metadata`, if it is not there.
fn write_id(dir: &Path, id: &str) -> Result<(), LogError> {
    let path = dir.join(METADATA);
    if path.exists() {
        return Ok(());
    }
    // Not synced: one that is lost is written again at the next start.
    let temporary = path.with_extension("tmp");
    let write = || {
        fs::write(&temporary, format!("version: 0\ntopic_id: {id}"))?;
        fs::rename(&temporary, &path)
    };
    write().map_err(io_at(&path))
}
