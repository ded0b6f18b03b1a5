//! The Raft log: segment files `log.<first index>`, each a row of records (see `segment.rs`), and a small file for the vote. An entry with index 0 is no
//! entry: it holds the membership by which the ensemble was formed.
//!
//! One thread writes and syncs, in the order of the calls. The newest entries are held in memory too, in a budget of
//! bytes; the others are read from their files when a follower that is far behind needs them.

mod held;
mod segment;
mod writer;

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::RangeInclusive,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, mpsc},
};

use tokio::sync::{oneshot, watch};

use held::{Held, lock};
use segment::Segment;
use writer::{Done, Job, Writer};

use super::{
    MAX_TERM, StorageFault, at, plausible, read_one_with,
    records::{self, read_entry},
    replace_file,
};
use crate::raft::{Entry, EntryId, HardState, LogView, Membership, Payload};

/// Changes that are made, and durable, together and in this order.
#[derive(Debug, Default)]
pub struct LogWrite {
    /// remove the entries from this index on
    pub truncate: Option<u64>,
    /// append these
    pub entries: Vec<Entry>,
    /// keep term and vote
    pub hard: Option<HardState>,
}

/// Handle to the log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    dir: Arc<Path>,
    held: Arc<Mutex<Held>>,
    jobs: mpsc::Sender<(Job, Done)>,
    /// newest log index that a durable snapshot covers: nothing beyond it is purged
    covered: watch::Receiver<u64>,
}

impl LogStore {
    /// Opens or makes the log in a directory. `covered` follows the durable snapshots.
    pub fn open(dir: &Path, covered: watch::Receiver<u64>) -> Result<Self, StorageFault> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let (vote_file, purged_file) = (dir.join("vote"), dir.join("purged"));
        let hard = read_one_with(&vote_file, records::decode_hard_state)?.unwrap_or_default();
        let purged = read_one_with(&purged_file, records::decode_entry_id)?;
        let mut held = Held { hard, purged: purged.unwrap_or_default(), ..Held::default() };
        if hard.term > MAX_TERM {
            return Err(StorageFault::Forged { path: vote_file, dir: dir.to_owned(), term: hard.term });
        }
        if let Some(p) = purged {
            plausible(&p).map_err(StorageFault::implausible(&purged_file, 0))?;
            if *covered.borrow() <= p.index {
                let reason = format!("entries up to {} were purged, and it does not cover them", p.index);
                return Err(StorageFault::Damaged { path: dir.join("snapshot"), offset: 0, reason });
            }
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
        held.formation = held.memberships.remove(&0);
        if held.purged.index > 0 && held.slots.get(&held.purged.index).is_some_and(|slot| slot.id != held.purged) {
            // A snapshot took the place of this log, and the process ended before the files were gone.
            // Newest first, so that what is left is a log that begins where it did.
            while let Some((_, path)) = segments.pop() {
                fs::remove_file(&path).map_err(at(&path))?;
            }
            File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))?;
            held.cut(0);
        }
        let from = held.purged.index + 1;
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
        let hard = read_one_with(&path, records::decode_hard_state)?;
        let Some(hard) = hard.filter(|v| v.term > MAX_TERM) else { return Ok(None) };
        let aside = dir.join("vote.forged");
        fs::rename(&path, &aside).map_err(at(&path))?;
        let opened = Self::open(dir, watch::channel(u64::MAX).1);
        let last = opened.map(|log| log.last());
        let write = |last: EntryId| {
            let hard = HardState { term: last.term, voted_for: (last.term > 0).then_some(last.leader) };
            records::hard_state(&hard).and_then(|bytes| replace_file(&path, &bytes)).map_err(at(&path))
        };
        last.and_then(write).map(|()| Some(hard.term)).inspect_err(|_| drop(fs::rename(&aside, &path)))
    }

    /// The last entry; index 0 if there was none yet.
    pub fn last(&self) -> EntryId {
        let held = lock(&self.held);
        held.slots.values().next_back().map_or(held.purged, |s| s.id)
    }

    /// The last entry that was purged; index 0 if none was.
    pub fn purged(&self) -> EntryId {
        lock(&self.held).purged
    }

    /// Term and vote.
    pub fn hard_state(&self) -> HardState {
        lock(&self.held).hard
    }

    /// The membership by which the ensemble was formed, unless only a snapshot knows it.
    pub fn formation(&self) -> Option<Membership> {
        lock(&self.held).formation.clone()
    }

    /// The log as the core knows it, behind this membership.
    pub fn view(&self, membership: Option<Membership>) -> LogView {
        let held = lock(&self.held);
        let mut view = LogView::new(held.purged, membership);
        for slot in held.slots.values() {
            view.load(slot.id, slot.bytes, held.memberships.get(&slot.id.index).cloned());
        }
        view
    }

    /// Whether the log holds this entry, or did until it was purged.
    pub fn agrees(&self, id: EntryId) -> bool {
        let held = lock(&self.held);
        held.purged.index >= id.index || held.slots.get(&id.index).is_some_and(|slot| slot.id == id)
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

    /// Entries in a row; fewer if some are not there, and fewer too, but at least one, if they have more than so many
    /// bytes.
    pub fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        enum Found {
            Here(Entry),
            There(EntryId, u64, u64, usize),
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (start, mut total) = (*range.start(), 0);
        let found: Vec<Found> = {
            let held = lock(&self.held);
            let of = |(index, slot): (&u64, &held::Slot)| {
                total += slot.bytes;
                match (&slot.entry, slot.place) {
                    _ if *index > start && total > max_bytes => None,
                    (Some(entry), _) => Some(Found::Here(Entry::clone(entry))),
                    (None, Some((file, offset))) => Some(Found::There(slot.id, file, offset, slot.bytes)),
                    (None, None) => None,
                }
            };
            held.slots.range(range).map_while(of).collect()
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
                Ok(entry) if entry.id == id => entries.push(entry),
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

    fn read_at(&self, open: &mut Option<(u64, File)>, first: u64, offset: u64, bytes: usize) -> io::Result<Entry> {
        if open.as_ref().is_none_or(|(f, _)| *f != first) {
            *open = Some((first, File::open(segment::path(&self.dir, first))?));
        }
        let Some((_, file)) = open else { return Err(io::ErrorKind::NotFound.into()) };
        let mut record = vec![0; bytes];
        file.read_exact_at(&mut record, offset)?;
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, format!("log file {first} is damaged at byte {offset}"));
        read_entry(&record, 0).map_err(damaged)
    }

    /// Entries in a row whose last one is this, if all of them are in memory.
    pub fn in_memory(&self, from: u64, last: EntryId) -> Option<Vec<Entry>> {
        let held = lock(&self.held);
        if held.slots.get(&last.index).is_none_or(|slot| slot.id != last) || from < held.first_cached {
            return None;
        }
        held.slots.range(from..=last.index).map(|(_, slot)| slot.entry.as_deref().cloned()).collect()
    }

    /// Whether the log has this entry still.
    pub fn has(&self, id: EntryId) -> bool {
        lock(&self.held).slots.get(&id.index).is_some_and(|slot| slot.id == id)
    }

    /// The log is known to be committed up to here.
    pub fn set_committed(&self, index: u64) {
        let mut held = lock(&self.held);
        held.committed = held.committed.max(index);
    }

    /// The first of these ids that is not the one of the entry that was committed in its place.
    pub fn contradicted<'a>(&self, ids: impl Iterator<Item = &'a EntryId>) -> Option<EntryId> {
        let held = lock(&self.held);
        let committed = held.committed.max(held.purged.index);
        let known = |id: &EntryId| match held.slots.get(&id.index) {
            Some(slot) => slot.id == *id,
            // Purged: its leader cannot be a later one than that of the entries behind it.
            None => id.index > held.purged.index || id.origin() <= held.purged.origin(),
        };
        ids.filter(|id| id.index <= committed).find(|id| !known(id)).copied()
    }

    fn job(&self, job: Job, done: Done) {
        if let Err(mpsc::SendError((_, done))) = self.jobs.send((job, done)) {
            done(Err(io::Error::other("the log's writer has ended")));
        }
    }

    /// Changes the log: what is read from now on is changed, `done` is told when that is durable.
    pub fn write(&self, write: LogWrite, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let LogWrite { truncate, entries, hard } = write;
        let mut job = Job { truncate, ..Job::default() };
        let encoded = (|| {
            job.vote = hard.as_ref().map(records::hard_state).transpose()?;
            entries.iter().map(|entry| Ok((entry.id, records::entry(entry)?))).collect::<io::Result<Vec<_>>>()
        })();
        match encoded {
            Ok(records) => job.append = records,
            Err(e) => return done(Err(e)),
        }
        {
            let mut held = lock(&self.held);
            if let Some(from) = truncate {
                held.cut(from);
            }
            for (entry, (_, bytes)) in entries.into_iter().zip(&job.append) {
                held.insert(entry, bytes.len(), None);
            }
            if let Some(hard) = hard {
                held.hard = hard;
            }
        }
        self.job(job, Box::new(done));
    }

    /// As [`Self::write`], and waits until it is durable.
    pub async fn write_all(&self, write: LogWrite) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.write(write, move |result| drop(done.send(result)));
        wait.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }

    /// Keeps the first membership of a new ensemble.
    pub async fn form(&self, membership: Membership) -> io::Result<()> {
        let entry = Entry { id: EntryId::default(), payload: Payload::Membership(membership.clone()) };
        lock(&self.held).formation = Some(membership);
        let job = Job { append: vec![(entry.id, records::entry(&entry)?)], ..Job::default() };
        self.finish(job).await
    }

    async fn finish(&self, job: Job) -> io::Result<()> {
        ended(self.begin(job)).await
    }

    fn begin(&self, job: Job) -> oneshot::Receiver<io::Result<()>> {
        let (done, wait) = oneshot::channel();
        self.job(job, Box::new(move |result| drop(done.send(result))));
        wait
    }

    /// Forgets the entries up to one, which a durable snapshot covers; an error if none does.
    pub async fn purge(&self, upto: EntryId) -> io::Result<()> {
        if *self.covered.borrow() <= upto.index {
            return Err(io::Error::other(format!("no durable snapshot covers entry {}", upto.index)));
        }
        // Under the lock: what is held and what is written change in the same order.
        let wait = {
            let mut held = lock(&self.held);
            // A snapshot that was installed meanwhile covers more.
            if held.purged.index >= upto.index {
                return Ok(());
            }
            held.purged = upto;
            held.drop_before(upto.index + 1);
            self.begin(Job { purge: Some(upto), ..Job::default() })
        };
        ended(wait).await
    }

    /// Begins anew behind a durable snapshot up to this entry.
    pub async fn reset(&self, upto: EntryId) -> io::Result<()> {
        let wait = {
            let mut held = lock(&self.held);
            held.cut(0);
            held.purged = upto;
            self.begin(Job { purge: Some(upto), reset: true, ..Job::default() })
        };
        ended(wait).await
    }
}

async fn ended(wait: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    wait.await.map_err(|_| io::Error::other("the log's writer has ended"))?
}

fn load(path: &Path, first: u64, last: bool, held: &mut Held) -> Result<(), StorageFault> {
    let bytes = fs::read(path).map_err(at(path))?;
    let segment = Segment::new(&bytes);
    let mut offset = 0;
    while offset < bytes.len() {
        match segment.read(offset) {
            Ok((entry, end)) => {
                if let Some(entry) = entry {
                    plausible(&entry.id).map_err(StorageFault::implausible(path, offset))?;
                    // A later record with the same index replaces what a truncation cut off.
                    held.cut(entry.id.index);
                    held.insert(entry, end - offset, Some((first, offset as u64)));
                    held.evict();
                }
                offset = end;
            }
            Err(bad) => {
                // A file is synced before the next one is begun.
                if !(last && segment.is_torn(offset, &bad)) {
                    return Err(StorageFault::Damaged { path: path.into(), offset: offset as u64, reason: bad.to_string() });
                }
                let cut = bytes.len() - offset;
                tracing::warn!("{}: cut {cut} bytes off at byte {offset} that were never reported as written ({bad})", path.display());
                let f = OpenOptions::new().write(true).open(path).map_err(at(path))?;
                f.set_len(offset as u64).and_then(|()| f.sync_all()).map_err(at(path))?;
                break;
            }
        }
    }
    Ok(())
}
