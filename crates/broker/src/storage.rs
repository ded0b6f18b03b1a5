//! The partitions in the log directory: opening, checkpoints, retention, removal.
//!
//! Invariant: for each directory there is one object, from when it is first needed until the topic is deleted, whoever
//! leads the partition. What a checkpoint says is on the disk before the checkpoint is.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    groups::{OFFSETS_TOPIC, Offsets, Usage},
    log::{
        Files, Gone, Log, LogError, ProducerQuota, Recovery,
        checkpoints::{self, CLEANED, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS},
    },
    partition::Partition,
    topic_settings::TopicSettings,
};

/// Names the topic that a directory belongs to.
const METADATA: &str = "partition.metadata";
/// Ending of directories that are to be removed.
const DELETED: &str = "-delete";
/// Longest name of a directory: a file system's limit.
const MAX_NAME: usize = 255;

/// A partition with, for one of the offsets topic, the offsets in it.
#[derive(Debug)]
pub struct Led {
    /// the partition
    pub partition: Partition,
    /// offsets of the groups that belong to it
    pub offsets: Option<Offsets>,
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
    /// Committed offsets in it.
    #[error("committed offsets cannot be loaded: {0:?}")]
    Offsets(kafka_protocol::ResponseError),
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
    usage: Usage,
    hosted: RwLock<Arc<Hosted>>,
    /// the last stop was a clean one
    clean: bool,
    /// from the checkpoints, for partitions that are not open
    points: checkpoints::Offsets,
    starts: checkpoints::Offsets,
    /// what a broker that compacts has noted; kept for it
    cleaned: checkpoints::Offsets,
    /// one at a time writes checkpoints
    writing: Mutex<()>,
    remains: Mutex<Vec<(Instant, Remains)>>,
    /// wakes the background work before its time
    pub wake: Arc<Notify>,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError { path: path.to_owned(), source }
}

impl Storage {
    /// Reads the checkpoints of a directory.
    pub fn open(dir: &Path, files: Arc<Files>, producers: Arc<ProducerQuota>) -> Result<Self, LogError> {
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
            usage: Usage::default(),
            hosted: RwLock::default(),
            clean,
            points: checkpoints::read(dir, RECOVERY_POINTS)?,
            starts: checkpoints::read(dir, LOG_STARTS)?,
            cleaned: checkpoints::read(dir, CLEANED)?,
            writing: Mutex::default(),
            remains: Mutex::default(),
            wake: Arc::default(),
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
                Err(e) => tracing::error!("partition {topic}-{number} stays offline: {e}"),
            }
        }
        *self.hosted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hosted);
    }

    fn open_one(&self, key: &(String, i32), id: Option<&str>, settings: TopicSettings) -> Result<Led, HostError> {
        let (topic, number) = key;
        let dir = self.dir.join(format!("{topic}-{number}"));
        check_id(&dir, id)?;
        let recovery = Recovery {
            clean: self.clean,
            point: Some(self.points.get(key).copied().unwrap_or(0)),
            start: self.starts.get(key).copied().unwrap_or(0),
        };
        let mut log = Log::open_in(&dir, settings.limits, &self.files, recovery)?;
        log.set_producer_quota(self.producers.clone());
        if let Some(id) = id {
            write_id(&dir, id)?;
        }
        let partition = Partition::new(log, settings, self.wake.clone());
        let offsets = match topic.as_str() {
            OFFSETS_TOPIC => Some(Offsets::load_in(&partition, self.usage.clone()).map_err(HostError::Offsets)?),
            _ => None,
        };
        Ok(Led { partition, offsets })
    }

    /// Deletes the partitions of a topic. Their directories get another name at once and are removed after the topic's delay.
    pub fn delete(&self, topic: &str) -> Result<(), LogError> {
        let mut hosted = (*self.hosted()).clone();
        let gone: Vec<_> = hosted.keys().filter(|(t, _)| t == topic).cloned().collect();
        for key in gone {
            let Some(led) = hosted.get(&key) else { continue };
            let delay = led.partition.settings().delete_delay;
            let to = self.dir.join(deleted_name(topic, key.1));
            led.partition.retire(&to)?;
            hosted.remove(&key);
            self.remains().push((Instant::now() + delay, Remains::Directory(to)));
            *self.hosted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hosted.clone());
        }
        // Of partitions that are not open, as after a start.
        for entry in fs::read_dir(&self.dir).map_err(io_at(&self.dir))? {
            let path = entry.map_err(io_at(&self.dir))?.path();
            let number =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(topic)?.strip_prefix('-')?.parse::<i32>().ok());
            if let Some(number) = number.filter(|_| path.is_dir()) {
                let to = self.dir.join(deleted_name(topic, number));
                fs::rename(&path, &to).map_err(io_at(&path))?;
                self.remains().push((Instant::now(), Remains::Directory(to)));
            }
        }
        self.checkpoint()?;
        self.wake.notify_one();
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
                Err(e) => tracing::error!("retention of {topic}-{number}: {e}"),
            }
        }
    }

    /// Forgets producers that were silent for so long, in milliseconds.
    pub fn expire_producers(&self, expiration_ms: i64) {
        self.hosted().values().for_each(|led| led.partition.expire_producers(expiration_ms));
    }

    /// Brings everything to the disk, while the partitions go on, and says so in the checkpoints.
    pub fn sync(&self) {
        for ((topic, number), led) in self.hosted().iter() {
            if let Err(e) = led.partition.sync() {
                tracing::error!("sync of {topic}-{number}: {e}");
            }
        }
        if let Err(e) = self.checkpoint() {
            tracing::error!("checkpoint: {e}");
        }
    }

    /// Writes the checkpoints.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut points, mut ends, mut starts) = (self.points.clone(), checkpoints::Offsets::new(), self.starts.clone());
        let mut cleaned = self.cleaned.clone();
        // What is not open is left as it was, unless it is gone.
        let exists = |(topic, number): &(String, i32)| self.dir.join(format!("{topic}-{number}")).is_dir();
        points.retain(|k, _| exists(k));
        starts.retain(|k, _| exists(k));
        cleaned.retain(|k, _| exists(k));
        for (key, led) in self.hosted().iter() {
            let (start, end) = led.partition.offsets();
            points.insert(key.clone(), led.partition.recovery_point());
            ends.insert(key.clone(), end);
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
