//! The thread that writes the log, in the order of the calls. Writes that wait together are synced together.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
};

use super::{
    held::{Held, lock},
    segment::{self, Segment},
};
use crate::{
    raft::EntryId,
    storage::{
        background::Gone,
        records::{self, FILE_HEAD_BYTES},
        replace_file, sync_parent,
    },
};

/// A segment is closed when it is longer than this, in bytes.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Jobs that are done before their one sync.
const MAX_GROUP: usize = 1000;

pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Changes of the files; each part may be missing.
#[derive(Default)]
pub(super) struct Job {
    /// remove the entries from this index on
    pub(super) truncate: Option<u64>,
    /// append records
    pub(super) append: Vec<(EntryId, Vec<u8>)>,
    /// replace the record of term and vote
    pub(super) vote: Option<Vec<u8>>,
    /// everything up to this entry is in a durable snapshot
    pub(super) purge: Option<EntryId>,
    /// the log begins anew behind what is purged
    pub(super) reset: bool,
}

/// The file that is written to.
pub(super) struct Newest {
    file: File,
    length: u64,
    /// the number in its head
    number: Option<u64>,
    /// something was written since the last mark
    unmarked: bool,
}

impl Newest {
    /// Opens or makes a file. Its head is durable before anything can follow it.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut length = file.metadata()?.len();
        let number = if length == 0 {
            let (number, head) = segment::new_head();
            file.write_all(&head)?;
            file.sync_data()?;
            length = head.len() as u64;
            Some(number)
        } else {
            let mut head = Vec::new();
            (&mut file).take(FILE_HEAD_BYTES as u64).read_to_end(&mut head)?;
            segment::number(&head)
        };
        sync_parent(path)?;
        Ok(Self { file, length, number, unmarked: false })
    }

    /// Says that everything so far is durable.
    fn mark(&mut self) -> io::Result<()> {
        if let Some(number) = self.number.filter(|_| self.unmarked) {
            let mark = records::mark(number, self.length);
            self.file.write_all(&mark)?;
            self.length += mark.len() as u64;
            self.unmarked = false;
        }
        Ok(())
    }
}

/// The thread that owns the files.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) segments: BTreeMap<u64, PathBuf>,
    pub(super) file: Option<Newest>,
    pub(super) held: Arc<Mutex<Held>>,
}

impl Writer {
    pub(super) fn run(mut self, queue: &mpsc::Receiver<(Job, Done)>) {
        let copy = |e: &io::Error| io::Error::new(e.kind(), e.to_string());
        // After a failure it is not known what is on the disk: nothing is written behind it, and nothing is reported as durable.
        let mut failed: Option<io::Error> = None;
        while let Ok(first) = queue.recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            let mut written = failed.as_ref().map_or(Ok(()), |e| Err(copy(e)));
            while let Some((job, done)) = next.take() {
                written = written.and_then(|()| self.write(job));
                group.push(done);
                if group.len() < MAX_GROUP && written.is_ok() {
                    next = queue.try_recv().ok();
                }
            }
            // What is reported is marked first: damage to it is told from a write that was not finished.
            let synced = written.and_then(|()| self.sync()).and_then(|()| self.file.as_mut().map_or(Ok(()), Newest::mark));
            for done in group {
                done(synced.as_ref().copied().map_err(copy));
            }
            failed = synced.err();
        }
    }

    fn write(&mut self, job: Job) -> io::Result<()> {
        if let Some(id) = job.purge {
            // The entries that follow may lie behind those that go.
            self.sync()?;
            replace_file(&self.dir.join("purged"), &records::entry_id(&id)?)?;
            if job.reset {
                self.truncate(0)?;
            } else {
                self.remove_before(id.index + 1)?;
            }
        }
        if let Some(from) = job.truncate {
            self.truncate(from)?;
        }
        self.append(&job.append)?;
        if let Some(vote) = job.vote {
            // What the vote rests on is not to be later on the disk than the vote.
            self.sync()?;
            replace_file(&self.dir.join("vote"), &vote)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(newest) => newest.file.sync_data(),
            None => Ok(()),
        }
    }

    fn append(&mut self, records: &[(EntryId, Vec<u8>)]) -> io::Result<()> {
        for (id, bytes) in records {
            if self.file.as_ref().is_none_or(|f| f.length > SEGMENT_BYTES) {
                self.sync()?;
                let path = segment::path(&self.dir, id.index);
                self.file = Some(Newest::open(&path)?);
                self.segments.insert(id.index, path);
            }
            if let Some(newest) = &mut self.file {
                newest.file.write_all(bytes)?;
                newest.unmarked = true;
                let held = &mut *lock(&self.held);
                if let Some(slot) = held.slots.get_mut(&id.index).filter(|s| s.id == *id) {
                    slot.place = self.segments.keys().next_back().map(|first| (*first, newest.length));
                }
                newest.length += bytes.len() as u64;
            }
        }
        lock(&self.held).evict();
        Ok(())
    }

    /// Removes records with an index of at least `from`.
    fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.file = None;
        let whole: Vec<u64> = self.segments.range(from..).map(|(k, _)| *k).collect();
        let mut gone = Gone::default();
        for first in whole.into_iter().rev() {
            if let Some(path) = self.segments.remove(&first) {
                gone.remove(&path)?;
            }
        }
        if let Some((_, path)) = self.segments.last_key_value() {
            let bytes = fs::read(path)?;
            let segment = Segment::new(&bytes);
            let mut offset = 0;
            while offset < bytes.len() {
                let (entry, end) = segment.read(offset).map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: damaged at byte {offset}, before what is to be cut off", path.display()),
                    )
                })?;
                if entry.is_some_and(|e| e.id.index >= from) {
                    break;
                }
                offset = end;
            }
            let f = OpenOptions::new().write(true).open(path)?;
            f.set_len(offset as u64)?;
            f.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Removes segments: one goes when the next begins at or before the first entry that is kept.
    fn remove_before(&mut self, kept: u64) -> io::Result<()> {
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        let mut gone = Gone::default();
        for pair in firsts.windows(2) {
            if pair[1] <= kept
                && let Some(path) = self.segments.remove(&pair[0])
            {
                gone.remove(&path)?;
            }
        }
        Ok(())
    }
}
