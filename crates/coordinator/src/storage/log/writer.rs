//! The thread that writes the log, in the order of the calls.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
};

use openraft::{Entry, LogId, storage::LogFlushed};
use tokio::sync::oneshot;

use super::held::{Held, lock};
use crate::storage::{TypeConfig, read_record, record, replace_file, sync_parent};

/// A segment is closed when it is longer than this, in bytes.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
pub(super) type Done = oneshot::Sender<io::Result<()>>;

pub(super) enum Job {
    Append(Vec<(LogId<u64>, Vec<u8>)>, LogFlushed<TypeConfig>),
    Vote(Vec<u8>, Done),
    Truncate(u64, Done),
    Purge(LogId<u64>, Done),
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
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
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
