//! The Raft log: segment files `log.<first index>`, each a row of records, and a small file for the vote.
//!
//! One thread writes and syncs, in the order of the calls. The newest entries are held in memory too, in a budget of
//! bytes; the others are read from their files when a follower that is far behind needs them.

mod held;
mod writer;

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    ops::{Bound, RangeBounds},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, mpsc},
};

use openraft::{
    Entry, LogId, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{LogFlushed, LogState, RaftLogStorage},
};
use tokio::sync::{oneshot, watch};

use held::{Held, lock};
use writer::{Done, Job, Writer, segment};

use super::{BadRecord, MAX_TERM, StorageFault, TypeConfig, at, plausible, read_one, read_record, record, replace_file};

/// Entries that go to a follower at once end before this many bytes, or after the first.
const MAX_SENT_BYTES: usize = 4 * 1024 * 1024;

type Fault = StorageError<u64>;

/// Handle to the log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    dir: Arc<Path>,
    held: Arc<Mutex<Held>>,
    jobs: mpsc::Sender<Job>,
    /// newest log index that a durable snapshot covers: nothing beyond it is purged
    covered: watch::Receiver<u64>,
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
        newest_first
            .find(|slot| {
                let enough = left == 0;
                left = left.saturating_sub(slot.bytes);
                enough
            })
            .map(|slot| slot.id.index)
    }

    fn read(&self, chosen: impl FnOnce(&Held) -> Vec<u64>) -> io::Result<Vec<Entry<TypeConfig>>> {
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
                    return Err(other.err().unwrap_or_else(|| io::Error::other(format!("entry {id} is not in its place"))));
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
        self.read(|held| held.slots.range(start..end).map(|(index, _)| *index).collect()).map_err(|e| StorageIOError::read_logs(&e).into())
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
        .map_err(|e| StorageIOError::read_logs(&e).into())
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
