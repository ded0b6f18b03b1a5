//! The state machine as Raft drives it: entries go into the shared [`State`], snapshots to disk and back.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::{
    StorageFault, at,
    background::{self, Gone},
    decode_commands,
    earlier::StoredMembership,
    plausible, read_body, read_one_with,
    records::{entry_id, hard_state},
    replace_file,
    stream::replace_record,
    sync_parent,
};
use crate::{
    config::Config,
    format2::OldState,
    raft::{Entry, EntryId, HardState, Membership, Payload},
    state::{Applied, Command, State},
};

/// What a server wants to know of the state as it changes. Called with the state locked, in log order.
pub trait Hooks: Send + Sync + 'static {
    /// A command was applied.
    fn applied(&self, state: &State, command: &Command, applied: Applied);
    /// The state was replaced as a whole by a snapshot.
    fn replaced(&self, state: &State);
}

/// A snapshot as it lies on disk and travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image<S = State> {
    /// [`IMAGE_VERSION`]
    version: u8,
    last: EntryId,
    membership: Membership,
    state: S,
}

/// The first byte of a snapshot. Those of formats 1 and 2 began with 0 or 1, those of format 3 with 3.
const IMAGE_VERSION: u8 = 4;

/// A snapshot of format 3.
#[derive(Deserialize)]
struct Image3 {
    #[allow(dead_code, reason = "was looked at already")]
    version: u8,
    last: Option<EntryId>,
    membership: StoredMembership,
    #[allow(dead_code, reason = "told snapshots of one index apart")]
    id: String,
    state: State,
}

/// A snapshot of formats 1 and 2.
#[derive(Deserialize)]
struct OldImage {
    last: Option<EntryId>,
    membership: StoredMembership,
    #[allow(dead_code, reason = "told snapshots of one index apart")]
    id: String,
    state: OldState,
}

impl Image {
    fn decode(body: &[u8]) -> Result<Self, String> {
        let (last, membership, state) = match body.first() {
            Some(&IMAGE_VERSION) => return postcard::from_bytes(body).map_err(|e| e.to_string()),
            Some(3) => {
                let Image3 { last, membership, state, .. } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
                (last, membership, state)
            }
            Some(0 | 1) => {
                let OldImage { last, membership, state, .. } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
                (last, membership, state.into_state()?)
            }
            other => return Err(format!("{other:?} is not a version of snapshots")),
        };
        Ok(Self { version: IMAGE_VERSION, last: last.unwrap_or_default(), membership: membership.into_membership()?, state })
    }

    /// A snapshot that another server sent: the one that it announced, and nothing behind it.
    pub fn received(bytes: &[u8], announced: EntryId) -> Result<Self, String> {
        let (body, end) = read_body(bytes, 0).map_err(|_| "the snapshot is damaged")?;
        let image = Self::decode(body)?;
        plausible(&image.last)?;
        if end != bytes.len() || image.last != announced || image.last.index == 0 || image.membership.voters.is_empty() {
            return Err(format!("the snapshot is up to {}, {announced} was announced", image.last));
        }
        Ok(image)
    }

    /// The last entry that it covers.
    pub fn last(&self) -> EntryId {
        self.last
    }
}

#[derive(Default)]
struct Inner {
    last: EntryId,
    membership: Option<Membership>,
}

/// The state machine; clones share it.
#[derive(Clone)]
pub struct Machine {
    /// the replicated state, read by the server too
    pub state: Arc<Mutex<State>>,
    inner: Arc<Mutex<Inner>>,
    hooks: Arc<dyn Hooks>,
    path: PathBuf,
    /// held while the snapshot file is replaced: the last entry that it covers
    on_disk: Arc<tokio::sync::Mutex<Option<EntryId>>>,
    covered: Arc<watch::Sender<u64>>,
}

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// Opens the newest snapshot of a directory, or starts with an empty tree. `covered` is told one more than the
    /// last index of each snapshot once that is durable.
    pub fn open(dir: &Path, state: Arc<Mutex<State>>, hooks: Arc<dyn Hooks>, covered: watch::Sender<u64>) -> Result<Self, StorageFault> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        let path = dir.join("snapshot");
        let image = read_one_with(&path, Image::decode)?;
        let mut inner = Inner::default();
        let mut on_disk = None;
        if let Some(image) = image {
            // It may have been renamed by a process that was killed before it synced the directory.
            sync_parent(&path).map_err(at(&path))?;
            plausible(&image.last).map_err(StorageFault::implausible(&path, 0))?;
            inner = Inner { last: image.last, membership: Some(image.membership) };
            on_disk = Some(image.last);
            *locked(&state) = image.state;
        }
        covered.send_replace(on_disk.map_or(0, |id| id.index + 1));
        Ok(Self {
            state,
            inner: Arc::new(Mutex::new(inner)),
            hooks,
            path,
            on_disk: Arc::new(tokio::sync::Mutex::new(on_disk)),
            covered: Arc::new(covered),
        })
    }

    /// The last entry that was applied, and the membership at it.
    pub fn applied(&self) -> (EntryId, Option<Membership>) {
        let inner = locked(&self.inner);
        (inner.last, inner.membership.clone())
    }

    /// The membership by which the ensemble was formed, before there is another.
    pub fn form(&self, membership: Membership) {
        locked(&self.inner).membership.get_or_insert(membership);
    }

    /// Applies entries that follow what was applied; earlier ones are passed over.
    pub fn apply(&self, entries: Vec<Entry>) -> Result<(), String> {
        let mut inner = locked(&self.inner);
        for entry in entries {
            if entry.id.index <= inner.last.index {
                continue;
            }
            if entry.id.index != inner.last.index + 1 {
                return Err(format!("entry {} does not follow {}", entry.id, inner.last));
            }
            let mut state = locked(&self.state);
            match entry.payload {
                Payload::Blank => state.begin_term(entry.id.term),
                Payload::Membership(m) => inner.membership = Some(m),
                Payload::Commands(data) => {
                    for command in &decode_commands(&data).map_err(|e| format!("entry {}: {e}", entry.id))? {
                        let applied = state.apply(entry.id.term, command);
                        self.hooks.applied(&state, command, applied);
                    }
                }
            }
            inner.last = entry.id;
        }
        Ok(())
    }

    /// Puts the state as it is on disk, unless what is there covers as much, or nothing is applied yet; the last entry
    /// that is applied.
    pub async fn snapshot(&self) -> io::Result<EntryId> {
        let image = {
            let inner = locked(&self.inner);
            let state = locked(&self.state).freeze();
            Image { version: IMAGE_VERSION, last: inner.last, membership: inner.membership.clone().unwrap_or_default(), state }
        };
        let last = image.last;
        if last.index > 0 {
            self.store(last, move |path| replace_record(path, &image)).await?;
        }
        Ok(last)
    }

    async fn store(&self, last: EntryId, write: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let mut on_disk = self.on_disk.lock().await;
        if on_disk.is_none_or(|there| there.index < last.index) {
            let path = self.path.clone();
            let (reply, wait) = oneshot::channel();
            let replace = move || {
                let mut gone = Gone::default();
                gone.hold(&path);
                write(&path)
            };
            background::spawn("snapshot", move || drop(reply.send(replace())))?;
            wait.await.map_err(|_| io::Error::other("the snapshot's thread has died"))??;
            *on_disk = Some(last);
            self.covered.send_replace(last.index + 1);
        }
        Ok(())
    }

    /// Puts a snapshot that was received on disk, as it came.
    pub async fn keep(&self, last: EntryId, bytes: Vec<u8>) -> io::Result<()> {
        self.store(last, move |path| replace_file(path, &bytes)).await
    }

    /// Replaces the state by a snapshot that is on disk.
    pub fn replace(&self, image: Image) -> Membership {
        let mut inner = locked(&self.inner);
        *inner = Inner { last: image.last, membership: Some(image.membership.clone()) };
        let mut state = locked(&self.state);
        *state = image.state;
        self.hooks.replaced(&state);
        image.membership
    }

    /// The snapshot that is on disk: the last entry that it covers, and its bytes.
    pub async fn on_disk(&self) -> io::Result<Option<(EntryId, Vec<u8>)>> {
        let on_disk = self.on_disk.lock().await;
        let Some(last) = *on_disk else { return Ok(None) };
        let path = self.path.clone();
        let bytes = tokio::task::spawn_blocking(move || std::fs::read(path)).await.map_err(io::Error::other)??;
        Ok(Some((last, bytes)))
    }
}

struct Unheard;

impl Hooks for Unheard {
    fn applied(&self, _: &State, _: &Command, _: Applied) {}
    fn replaced(&self, _: &State) {}
}

/// The state of a server that is stopped: its snapshot, and all of its log.
pub fn read_state(dir: &Path) -> Result<State, StorageFault> {
    super::format::check(dir)?;
    let state = Arc::new(Mutex::new(State::default()));
    let (covered, covers) = watch::channel(0);
    let machine = Machine::open(dir, state.clone(), Arc::new(Unheard), covered)?;
    let log = super::LogStore::open(dir, covers)?;
    loop {
        let from = machine.applied().0.index + 1;
        let entries = log.read(from..=from + 1000, usize::MAX).map_err(at(dir))?;
        if entries.is_empty() {
            break;
        }
        machine.apply(entries).map_err(|e| at(dir)(io::Error::other(e)))?;
    }
    let state = locked(&state).clone();
    Ok(state)
}

/// Makes a state the first one of a server whose directory is blank. Each server of an ensemble gets the same one.
pub fn write_first_state(dir: &Path, state: State, config: &Config) -> Result<(), StorageFault> {
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    for entry in std::fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        if name != "format" && name != "joining" {
            return Err(at(&dir.join(name))(io::Error::new(io::ErrorKind::AlreadyExists, "this server has data already")));
        }
    }
    let membership = config.membership();
    let first = membership.voters.first().copied().unwrap_or(config.id);
    let last = EntryId { term: 1, leader: first, index: 1 };
    let image = Image { version: IMAGE_VERSION, last, membership, state: state.freeze() };
    super::format::check(dir)?;
    let put = |name: &str, bytes: io::Result<Vec<u8>>| {
        let path = dir.join(name);
        bytes.and_then(|bytes| replace_file(&path, &bytes)).map_err(at(&path))
    };
    put("purged", entry_id(&last))?;
    put("vote", hard_state(&HardState { term: 1, voted_for: Some(first) }))?;
    // Last: without it, what is before is refused.
    let path = dir.join("snapshot");
    replace_record(&path, &image).map_err(at(&path))?;
    match std::fs::remove_file(dir.join("joining")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(dir)(e)),
        _ => sync_parent(&dir.join("joining")).map_err(at(dir)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_written_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (covered, _covers) = watch::channel(0);
        let machine = Machine::open(dir.path(), Arc::default(), Arc::new(Unheard), covered).unwrap();
        let id = |index| EntryId { term: 1, leader: 1, index };
        let bytes = vec![7; 3 * 1024 * 1024];
        machine.keep(id(5), bytes.clone()).await.unwrap();
        let full = machine.store(id(9), |_| Err(io::Error::other("the disk is full"))).await;
        assert_eq!(full.unwrap_err().to_string(), "the disk is full");
        // What is freed is freed piece by piece.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(machine.on_disk().await.unwrap() == Some((id(5), bytes)));
        machine.keep(id(9), vec![8]).await.unwrap();
        assert!(machine.on_disk().await.unwrap() == Some((id(9), vec![8])));
    }
}
