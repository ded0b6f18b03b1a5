//! The Raft log: segment files `log.<first index>`, each a row of records, and a small file for the vote.
//!
//! One thread writes and syncs, in the order of the calls. The newest entries are held in memory too, in a budget of
//! bytes; the others are read from their files when a follower that is far behind needs them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    ops::{Bound, RangeBounds},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use openraft::{
    Entry, LogId, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{LogFlushed, LogState, RaftLogStorage},
};
use tokio::sync::{oneshot, watch};

use super::{BadRecord, MAX_TERM, StorageFault, TypeConfig, at, plausible, read_one, read_record, record, replace_file, sync_parent};

/// A segment is closed when it is longer than this, in bytes.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Entries that go to a follower at once end before this many bytes, or after the first.
const MAX_SENT_BYTES: usize = 4 * 1024 * 1024;

/// Newest entries that are held in memory, in bytes of their records.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

type Fault = StorageError<u64>;
type Done = oneshot::Sender<io::Result<()>>;

enum Job {
    Append(Vec<(LogId<u64>, Vec<u8>)>, LogFlushed<TypeConfig>),
    Vote(Vec<u8>, Done),
    Truncate(u64, Done),
    Purge(LogId<u64>, Done),
}

/// An entry that is not purged.
struct Slot {
    id: LogId<u64>,
    /// length of its record
    bytes: usize,
    /// first index of its file, and offset in it, once it is written
    place: Option<(u64, u64)>,
    /// unless it must be read from there
    entry: Option<Entry<TypeConfig>>,
}

#[derive(Default)]
struct Held {
    slots: BTreeMap<u64, Slot>,
    /// bytes of all slots, and of those with an entry
    bytes: usize,
    cached: usize,
    /// no slot before this index has an entry
    first_cached: u64,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
}

impl Held {
    fn insert(&mut self, entry: Entry<TypeConfig>, bytes: usize, place: Option<(u64, u64)>) {
        let id = entry.log_id;
        self.bytes += bytes;
        self.cached += bytes;
        self.first_cached = self.first_cached.min(id.index);
        self.slots.insert(id.index, Slot { id, bytes, place, entry: Some(entry) });
    }

    fn forget(&mut self, gone: BTreeMap<u64, Slot>) {
        for slot in gone.values() {
            self.bytes -= slot.bytes;
            self.cached -= slot.entry.as_ref().map_or(0, |_| slot.bytes);
        }
    }

    /// Removes those from this index on.
    fn cut(&mut self, from: u64) {
        let gone = self.slots.split_off(&from);
        self.forget(gone);
    }

    /// Removes those before this index.
    fn drop_before(&mut self, index: u64) {
        let kept = self.slots.split_off(&index);
        let gone = std::mem::replace(&mut self.slots, kept);
        self.forget(gone);
    }

    /// Lets go of the oldest entries that are on disk, while there are too many.
    fn evict(&mut self) {
        let mut range = self.slots.range_mut(self.first_cached..);
        while self.cached > CACHE_BYTES
            && let Some((index, slot)) = range.next()
            && slot.place.is_some()
        {
            self.cached -= slot.entry.take().map_or(0, |_| slot.bytes);
            self.first_cached = index + 1;
        }
    }
}

/// Handle to the log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    dir: Arc<Path>,
    held: Arc<Mutex<Held>>,
    jobs: mpsc::Sender<Job>,
    /// newest log index that a durable snapshot covers: nothing beyond it is purged
    covered: watch::Receiver<u64>,
}

fn lock(m: &Mutex<Held>) -> MutexGuard<'_, Held> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogStore {
    /// Opens or makes the log in a directory. `covered` follows the durable snapshots.
    pub fn open(dir: &Path, covered: watch::Receiver<u64>) -> Result<Self, StorageFault> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let vote_file = dir.join("vote");
        let mut held = Held { vote: read_one(&vote_file)?, purged: read_one(&dir.join("purged"))?, ..Held::default() };
        if let Some(term) = held.vote.map(|v| v.leader_id.term).filter(|t| *t > MAX_TERM) {
            return Err(StorageFault::Forged { path: vote_file, dir: dir.to_owned(), term });
        }
        if let Some(id) = &held.purged {
            plausible(id).map_err(StorageFault::implausible(&dir.join("purged"), 0))?;
        }
        if let Some(p) = held.purged
            && *covered.borrow() <= p.index
        {
            let reason = format!("entries up to {} were purged, and it does not cover them", p.index);
            return Err(StorageFault::Damaged { path: dir.join("snapshot"), offset: 0, reason });
        }
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let first = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("log.")).and_then(|n| n.parse::<u64>().ok());
            if let Some(first) = first {
                segments.push((first, path));
            }
        }
        segments.sort();
        let last = segments.len().saturating_sub(1);
        for (i, (first, path)) in segments.iter().enumerate() {
            load(path, *first, i == last, &mut held)?;
            // What was read may be in memory only, left there by a process that was killed before its sync. This server
            // votes and answers by it from now on.
            File::open(path).and_then(|f| f.sync_all()).map_err(at(path))?;
        }
        for name in ["vote", "purged"] {
            let path = dir.join(name);
            match File::open(&path) {
                Ok(f) => f.sync_all().map_err(at(&path))?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at(&path)(e)),
            }
        }
        File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))?;
        let from = held.purged.map_or(0, |p| p.index + 1);
        held.drop_before(from);
        // Entries must follow one another without a gap, or something was lost.
        for (want, index) in (from..).zip(held.slots.keys()) {
            if *index != want {
                return Err(StorageFault::Damaged {
                    path: dir.into(),
                    offset: 0,
                    reason: format!("entries {want} to {} are missing", index - 1),
                });
            }
        }
        let (jobs, queue) = mpsc::channel();
        let held = Arc::new(Mutex::new(held));
        let writer = Writer { dir: dir.to_owned(), segments: segments.into_iter().collect(), file: None, held: held.clone() };
        std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&queue)).map_err(at(dir))?;
        Ok(Self { dir: dir.into(), held, jobs, covered })
    }

    /// Replaces a vote with a term that no election reaches by the last one that the log knows. All servers must be
    /// stopped: what this one voted for since is forgotten. Says which term it was, if it was one.
    pub fn reset_term(dir: &Path) -> Result<Option<u64>, StorageFault> {
        let path = dir.join("vote");
        let vote: Option<Vote<u64>> = read_one(&path)?;
        let Some(vote) = vote.filter(|v| v.leader_id.term > MAX_TERM) else { return Ok(None) };
        let aside = dir.join("vote.forged");
        fs::rename(&path, &aside).map_err(at(&path))?;
        let opened = Self::open(dir, watch::channel(u64::MAX).1);
        let last = opened.map(|log| log.last());
        let write = |last: Option<LogId<u64>>| {
            let id = last.map_or_else(Default::default, |l| l.leader_id);
            record(&Vote::new(id.term, id.node_id)).and_then(|bytes| replace_file(&path, &bytes)).map_err(at(&path))
        };
        last.and_then(write).map(|()| Some(vote.leader_id.term)).inspect_err(|_| drop(fs::rename(&aside, &path)))
    }

    /// The last entry.
    pub fn last(&self) -> Option<LogId<u64>> {
        let held = lock(&self.held);
        held.slots.values().next_back().map(|s| s.id).or(held.purged)
    }

    /// Bytes of the entries that are not purged.
    pub fn bytes(&self) -> usize {
        lock(&self.held).bytes
    }

    /// The greatest index behind which there are at least so many bytes, if there is one.
    pub fn index_before_last(&self, bytes: usize) -> Option<u64> {
        let mut left = bytes;
        let held = lock(&self.held);
        let mut newest_first = held.slots.values().rev();
        newest_first.find(|slot| {
            let enough = left == 0;
            left = left.saturating_sub(slot.bytes);
            enough
        }).map(|slot| slot.id.index)
    }

    fn read(&self, chosen: impl FnOnce(&Held) -> Vec<u64>) -> Result<Vec<Entry<TypeConfig>>, Fault> {
        enum Found {
            Here(Entry<TypeConfig>),
            There(LogId<u64>, u64, u64, usize),
        }
        let found: Vec<Found> = {
            let held = lock(&self.held);
            let of = |index: u64| {
                let slot = held.slots.get(&index)?;
                match (&slot.entry, slot.place) {
                    (Some(entry), _) => Some(Found::Here(entry.clone())),
                    (None, Some((file, offset))) => Some(Found::There(slot.id, file, offset, slot.bytes)),
                    (None, None) => None,
                }
            };
            chosen(&held).into_iter().map_while(of).collect()
        };
        let mut open: Option<(u64, File)> = None;
        let mut entries = Vec::with_capacity(found.len());
        for one in found {
            let (id, first, offset, bytes) = match one {
                Found::Here(entry) => {
                    entries.push(entry);
                    continue;
                }
                Found::There(id, first, offset, bytes) => (id, first, offset, bytes),
            };
            match self.read_at(&mut open, first, offset, bytes) {
                Ok(entry) if entry.log_id == id => entries.push(entry),
                other => {
                    // It may have been cut off or purged meanwhile.
                    if lock(&self.held).slots.get(&id.index).is_none_or(|s| s.id != id) {
                        break;
                    }
                    let error = other.err().unwrap_or_else(|| io::Error::other(format!("entry {id} is not in its place")));
                    return Err(StorageIOError::read_log_at_index(id.index, &error).into());
                }
            }
        }
        Ok(entries)
    }

    fn read_at(&self, open: &mut Option<(u64, File)>, first: u64, offset: u64, bytes: usize) -> io::Result<Entry<TypeConfig>> {
        if open.as_ref().is_none_or(|(f, _)| *f != first) {
            *open = Some((first, File::open(segment(&self.dir, first))?));
        }
        let Some((_, file)) = open else { return Err(io::ErrorKind::NotFound.into()) };
        let mut record = vec![0; bytes];
        file.read_exact_at(&mut record, offset)?;
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, format!("log file {first} is damaged at byte {offset}"));
        read_record(&record, 0).map(|(entry, _)| entry).map_err(damaged)
    }

    /// A leader that starts again is one no more: others may have been elected, or it may have ended for want of room.
    /// Before Raft reads the vote; on disk it stays, as it was given.
    pub fn begin_as_follower(&self, me: u64) {
        if let Some(vote) = lock(&self.held).vote.as_mut().filter(|v| v.leader_id.node_id == me) {
            vote.committed = false;
        }
    }

    /// The first of these ids that is not the one of the entry that was committed in its place.
    pub fn contradicted<'a>(&self, ids: impl Iterator<Item = &'a LogId<u64>>) -> Option<LogId<u64>> {
        let held = lock(&self.held);
        let committed = held.committed.max(held.purged).map(|c| c.index);
        let known = |id: &LogId<u64>| match held.slots.get(&id.index) {
            Some(slot) => slot.id == *id,
            // Purged: its leader cannot be a later one than that of the entries behind it.
            None => held.purged.is_none_or(|p| id.index > p.index || id.leader_id <= p.leader_id),
        };
        ids.filter(|id| committed.is_some_and(|c| id.index <= c)).find(|id| !known(id)).copied()
    }

    async fn job(&self, make: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let gone = || io::Error::other("the log's writer has ended");
        self.jobs.send(make(done)).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

fn segment(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("log.{first:020}"))
}

fn load(path: &Path, first: u64, last: bool, held: &mut Held) -> Result<(), StorageFault> {
    let bytes = fs::read(path).map_err(at(path))?;
    let mut offset = 0;
    while offset < bytes.len() {
        match read_record::<Entry<TypeConfig>>(&bytes, offset) {
            Ok((entry, end)) => {
                plausible(&entry.log_id).map_err(StorageFault::implausible(path, offset))?;
                // A later record with the same index replaces what a truncation cut off.
                held.cut(entry.log_id.index);
                held.insert(entry, end - offset, Some((first, offset as u64)));
                held.evict();
                offset = end;
            }
            Err(bad) => {
                let (torn, reason) = match bad {
                    BadRecord::Short => (true, "record ends early".to_owned()),
                    BadRecord::Wrong { unwritten, reason } => (unwritten, reason),
                };
                if !(last && torn) {
                    return Err(StorageFault::Damaged { path: path.into(), offset: offset as u64, reason });
                }
                tracing::warn!("{}: cut a torn record off at byte {offset} ({reason})", path.display());
                let f = OpenOptions::new().write(true).open(path).map_err(at(path))?;
                f.set_len(offset as u64).and_then(|()| f.sync_all()).map_err(at(path))?;
                break;
            }
        }
    }
    Ok(())
}

/// The thread that owns the files.
struct Writer {
    dir: PathBuf,
    segments: BTreeMap<u64, PathBuf>,
    file: Option<(File, u64)>,
    held: Arc<Mutex<Held>>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Append(records, flushed) => flushed.log_io_completed(self.append(&records)),
                Job::Vote(bytes, done) => drop(done.send(replace_file(&self.dir.join("vote"), &bytes))),
                Job::Truncate(from, done) => drop(done.send(self.truncate(from))),
                Job::Purge(upto, done) => drop(done.send(self.purge(upto))),
            }
        }
    }

    fn append(&mut self, records: &[(LogId<u64>, Vec<u8>)]) -> io::Result<()> {
        for (id, bytes) in records {
            let index = &id.index;
            if self.file.as_ref().is_none_or(|(_, n)| *n > SEGMENT_BYTES) {
                if let Some((f, _)) = &self.file {
                    f.sync_data()?;
                }
                let path = segment(&self.dir, *index);
                let file = OpenOptions::new().create(true).append(true).open(&path)?;
                let length = file.metadata()?.len();
                sync_parent(&path)?;
                self.segments.insert(*index, path);
                self.file = Some((file, length));
            }
            if let Some((file, length)) = &mut self.file {
                file.write_all(bytes)?;
                let held = &mut *lock(&self.held);
                if let Some(slot) = held.slots.get_mut(index).filter(|s| s.id == *id) {
                    slot.place = self.segments.keys().next_back().map(|first| (*first, *length));
                }
                *length += bytes.len() as u64;
            }
        }
        lock(&self.held).evict();
        match &self.file {
            Some((file, _)) => file.sync_data(),
            None => Ok(()),
        }
    }

    /// Removes records with an index of at least `from`.
    fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.file = None;
        let whole: Vec<u64> = self.segments.range(from..).map(|(k, _)| *k).collect();
        for first in whole.into_iter().rev() {
            if let Some(path) = self.segments.remove(&first) {
                fs::remove_file(path)?;
            }
        }
        if let Some((_, path)) = self.segments.last_key_value() {
            let bytes = fs::read(path)?;
            let mut offset = 0;
            while let Ok((entry, end)) = read_record::<Entry<TypeConfig>>(&bytes, offset) {
                if entry.log_id.index >= from {
                    break;
                }
                offset = end;
            }
            let mut f = OpenOptions::new().write(true).open(path)?;
            f.set_len(offset as u64)?;
            f.seek(SeekFrom::End(0))?;
            f.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()
    }

    fn purge(&mut self, upto: LogId<u64>) -> io::Result<()> {
        replace_file(&self.dir.join("purged"), &record(&upto)?)?;
        // A segment goes when the next one begins at or before the first entry that is kept.
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        for pair in firsts.windows(2) {
            if pair[1] <= upto.index + 1
                && let Some(path) = self.segments.remove(&pair[0])
            {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, Fault> {
        let start = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(i) => i + 1,
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(|held| held.slots.range(start..end).map(|(index, _)| *index).collect())
    }

    /// For followers: as many as fit a message. Without a limit, entries with large data would make a frame that no
    /// peer takes, and the follower would never catch up.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, Fault> {
        self.read(|held| {
            let mut total = 0;
            let fits = held.slots.range(start..end.max(start)).take_while(|(index, slot)| {
                total += slot.bytes;
                **index == start || total <= MAX_SENT_BYTES
            });
            fits.map(|(index, _)| *index).collect()
        })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, Fault> {
        let held = lock(&self.held);
        let purged = held.purged;
        drop(held);
        Ok(LogState { last_purged_log_id: purged, last_log_id: self.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Fault> {
        let bytes = record(vote).map_err(|e| StorageIOError::write_vote(&e))?;
        self.job(|done| Job::Vote(bytes, done)).await.map_err(|e| StorageIOError::write_vote(&e))?;
        lock(&self.held).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Fault> {
        Ok(lock(&self.held).vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), Fault> {
        lock(&self.held).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, Fault> {
        Ok(lock(&self.held).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), Fault>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut held = lock(&self.held);
            for entry in entries {
                let (id, bytes) = (entry.log_id, record(&entry).map_err(|e| StorageIOError::write_logs(&e))?);
                held.cut(id.index);
                held.insert(entry, bytes.len(), None);
                records.push((id, bytes));
            }
        }
        self.jobs
            .send(Job::Append(records, callback))
            .map_err(|_| StorageIOError::write_logs(&io::Error::other("the log's writer has ended")).into())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Fault> {
        lock(&self.held).cut(log_id.index);
        self.job(|done| Job::Truncate(log_id.index, done)).await.map_err(|e| StorageIOError::write_logs(&e).into())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Fault> {
        // openraft purges a follower's log as soon as a snapshot is on its way in; what is purged must be in a
        // snapshot that is on disk, or a crash in between would lose it.
        let mut covered = self.covered.clone();
        covered.wait_for(|c| *c > log_id.index).await.map_err(|e| StorageIOError::write_logs(&e))?;
        {
            let mut held = lock(&self.held);
            held.purged = Some(log_id);
            held.drop_before(log_id.index + 1);
        }
        self.job(|done| Job::Purge(log_id, done)).await.map_err(|e| StorageIOError::write_logs(&e).into())
    }
}
