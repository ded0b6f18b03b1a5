//! The thread that writes the log, in the order of the calls. Writes that wait together are synced together.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
};

use super::held::{Held, lock};
use crate::{
    raft::EntryId,
    storage::{
        records::{self, read_entry},
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

pub(super) fn segment(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("log.{first:020}"))
}

/// The thread that owns the files.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) segments: BTreeMap<u64, PathBuf>,
    pub(super) file: Option<(File, u64)>,
    pub(super) held: Arc<Mutex<Held>>,
}

impl Writer {
    pub(super) fn run(mut self, queue: &mpsc::Receiver<(Job, Done)>) {
        while let Ok(first) = queue.recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            let mut written = Ok(());
            while let Some((job, done)) = next.take() {
                written = written.and_then(|()| self.write(job));
                group.push(done);
                if group.len() < MAX_GROUP && written.is_ok() {
                    next = queue.try_recv().ok();
                }
            }
            let synced = written.and_then(|()| self.sync());
            for done in group {
                done(synced.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
            }
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
            Some((file, _)) => file.sync_data(),
            None => Ok(()),
        }
    }

    fn append(&mut self, records: &[(EntryId, Vec<u8>)]) -> io::Result<()> {
        for (id, bytes) in records {
            if self.file.as_ref().is_none_or(|(_, n)| *n > SEGMENT_BYTES) {
                self.sync()?;
                let path = segment(&self.dir, id.index);
                let file = OpenOptions::new().create(true).append(true).open(&path)?;
                let length = file.metadata()?.len();
                sync_parent(&path)?;
                self.segments.insert(id.index, path);
                self.file = Some((file, length));
            }
            if let Some((file, length)) = &mut self.file {
                file.write_all(bytes)?;
                let held = &mut *lock(&self.held);
                if let Some(slot) = held.slots.get_mut(&id.index).filter(|s| s.id == *id) {
                    slot.place = self.segments.keys().next_back().map(|first| (*first, *length));
                }
                *length += bytes.len() as u64;
            }
        }
        lock(&self.held).evict();
        Ok(())
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
            while offset < bytes.len() {
                let (entry, end) = read_entry(&bytes, offset).map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: damaged at byte {offset}, before what is to be cut off", path.display()),
                    )
                })?;
                if entry.id.index >= from {
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

    /// Removes segments: one goes when the next begins at or before the first entry that is kept.
    fn remove_before(&mut self, kept: u64) -> io::Result<()> {
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        for pair in firsts.windows(2) {
            if pair[1] <= kept
                && let Some(path) = self.segments.remove(&pair[0])
            {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}
