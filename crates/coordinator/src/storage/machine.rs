//! The state machine as Raft drives it: entries go into the shared [`State`], snapshots to disk and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Cursor},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use openraft::{
    BasicNode, CommittedLeaderId, Entry, EntryPayload, LogId, Membership, OptionalSend, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership, Vote,
    storage::{RaftStateMachine, Snapshot},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{StorageFault, TypeConfig, at, plausible, read_body, read_one_with, record, replace_file, sync_parent};
use crate::{
    config::Config,
    format2::OldState,
    state::{Applied, Command, State},
};

type Fault = StorageError<u64>;

/// What a server wants to know of the state as it changes. Called with the state locked, in log order.
pub trait Hooks: Send + Sync + 'static {
    /// A command was applied.
    fn applied(&self, state: &State, command: &Command, applied: Applied);
    /// The state was replaced as a whole by a snapshot.
    fn replaced(&self, state: &State);
}

/// A snapshot as it lies on disk and travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Image {
    /// [`IMAGE_VERSION`]
    version: u8,
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    id: String,
    state: State,
}

/// The first byte of a snapshot. Those of formats 1 and 2 began with 0 or 1.
const IMAGE_VERSION: u8 = 3;

/// A snapshot of formats 1 and 2.
#[derive(Deserialize)]
struct OldImage {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    id: String,
    state: OldState,
}

impl Image {
    fn decode(body: &[u8]) -> Result<Self, String> {
        match body.first() {
            Some(&IMAGE_VERSION) => postcard::from_bytes(body).map_err(|e| e.to_string()),
            Some(0 | 1) => {
                let OldImage { last, membership, id, state } = postcard::from_bytes(body).map_err(|e| e.to_string())?;
                Ok(Self { version: IMAGE_VERSION, last, membership, id, state: state.into_state()? })
            }
            other => Err(format!("{other:?} is not a version of snapshots")),
        }
    }

    fn read(bytes: &[u8]) -> Result<(Self, usize), String> {
        let (body, end) = read_body(bytes, 0).map_err(|_| "the snapshot is damaged")?;
        Ok((Self::decode(body)?, end))
    }
}

struct Inner {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

/// The state machine; clones share it.
#[derive(Clone)]
pub struct Machine {
    /// the replicated state, read by the server too
    pub state: Arc<Mutex<State>>,
    inner: Arc<Mutex<Inner>>,
    hooks: Arc<dyn Hooks>,
    path: PathBuf,
    /// held while the snapshot file is replaced: index that it covers
    on_disk: Arc<tokio::sync::Mutex<Option<u64>>>,
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
        let mut inner = Inner { last: None, membership: StoredMembership::default() };
        let mut index = None;
        if let Some(image) = image {
            // It may have been renamed by a process that was killed before it synced the directory.
            sync_parent(&path).map_err(at(&path))?;
            image.last.as_ref().map_or(Ok(()), plausible).map_err(StorageFault::implausible(&path, 0))?;
            inner = Inner { last: image.last, membership: image.membership };
            index = image.last.map(|l| l.index);
            *locked(&state) = image.state;
        }
        covered.send_replace(index.map_or(0, |i| i + 1));
        Ok(Self {
            state,
            inner: Arc::new(Mutex::new(inner)),
            hooks,
            path,
            on_disk: Arc::new(tokio::sync::Mutex::new(index)),
            covered: Arc::new(covered),
        })
    }

    /// Whether bytes that another server sent are the snapshot that it announced. What is installed must be: Raft
    /// takes damage in it for damage on disk, and ends.
    pub fn check_snapshot(bytes: &[u8], meta: &SnapshotMeta<u64, BasicNode>) -> Result<(), String> {
        let (image, end) = Image::read(bytes)?;
        image.last.as_ref().map_or(Ok(()), plausible)?;
        if end != bytes.len() || (image.last, &image.membership, &image.id) != (meta.last_log_id, &meta.last_membership, &meta.snapshot_id)
        {
            return Err("the snapshot is not the one that was announced".into());
        }
        Ok(())
    }

    fn image(&self) -> Image {
        let inner = locked(&self.inner);
        let state = locked(&self.state).clone();
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let id = format!("{}-{micros}", inner.last.map_or_else(|| "none".to_owned(), |l| format!("{}-{}", l.leader_id.term, l.index)));
        Image { version: IMAGE_VERSION, last: inner.last, membership: inner.membership.clone(), id, state }
    }

    /// Puts an image on disk, unless a newer one is there.
    async fn store(&self, image: &Image) -> Result<Snapshot<TypeConfig>, Fault> {
        let write = |e: &io::Error| Fault::from(StorageIOError::write_snapshot(None, e));
        let bytes = record(image).map_err(|e| write(&e))?;
        let meta = SnapshotMeta { last_log_id: image.last, last_membership: image.membership.clone(), snapshot_id: image.id.clone() };
        let index = image.last.map(|l| l.index);
        let mut on_disk = self.on_disk.lock().await;
        if *on_disk <= index {
            let (path, copy) = (self.path.clone(), bytes.clone());
            tokio::task::spawn_blocking(move || replace_file(&path, &copy))
                .await
                .map_err(|e| write(&io::Error::other(e)))?
                .map_err(|e| write(&e))?;
            *on_disk = index;
            self.covered.send_replace(index.map_or(0, |i| i + 1));
        }
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, Fault> {
        let image = self.image();
        self.store(&image).await
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Fault> {
        let inner = locked(&self.inner);
        Ok((inner.last, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Fault>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = locked(&self.inner);
        let mut out = Vec::new();
        for entry in entries {
            let term = entry.log_id.leader_id.term;
            let mut state = locked(&self.state);
            match entry.payload {
                EntryPayload::Blank => state.begin_term(term),
                EntryPayload::Membership(m) => inner.membership = StoredMembership::new(Some(entry.log_id), m),
                EntryPayload::Normal(batch) => {
                    for command in &batch.0 {
                        let applied = state.apply(term, command);
                        self.hooks.applied(&state, command, applied);
                    }
                }
            }
            inner.last = Some(entry.log_id);
            out.push(());
        }
        Ok(out)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Fault> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, BasicNode>, snapshot: Box<Cursor<Vec<u8>>>) -> Result<(), Fault> {
        let bytes = snapshot.into_inner();
        let (image, _) = Image::read(&bytes).map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), &io::Error::other(e)))?;
        self.store(&image).await?;
        let mut inner = locked(&self.inner);
        *inner = Inner { last: image.last, membership: image.membership };
        let mut state = locked(&self.state);
        *state = image.state;
        self.hooks.replaced(&state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, Fault> {
        let _held = self.on_disk.lock().await;
        let image = read_one_with(&self.path, Image::decode).map_err(|e| StorageIOError::read_snapshot(None, &io::Error::other(e)))?;
        let Some(image) = image else { return Ok(None) };
        let bytes = record(&image).map_err(|e| StorageIOError::read_snapshot(None, &e))?;
        let meta = SnapshotMeta { last_log_id: image.last, last_membership: image.membership, snapshot_id: image.id };
        Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
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
    let mut machine = Machine::open(dir, state.clone(), Arc::new(Unheard), covered)?;
    let mut log = super::LogStore::open(dir, covers)?;
    let fault = |e: Fault| at(dir)(io::Error::other(e));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(at(dir))?;
    runtime.block_on(async {
        let mut from = machine.applied_state().await.map_err(fault)?.0.map_or(0, |l| l.index + 1);
        loop {
            let entries = log.try_get_log_entries(from..from + 1000).await.map_err(fault)?;
            let Some(last) = entries.last().map(|e| e.log_id.index) else { break };
            machine.apply(entries).await.map_err(fault)?;
            from = last + 1;
        }
        Ok::<_, StorageFault>(())
    })?;
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
    let mut nodes: BTreeMap<u64, BasicNode> =
        config.members.iter().map(|(id, m)| (*id, BasicNode::new(format!("{}:{}", m.host, m.port)))).collect();
    if nodes.is_empty() {
        nodes.insert(config.id, BasicNode::default());
    }
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let first = voters.first().copied().unwrap_or(config.id);
    let id = |index| LogId::new(CommittedLeaderId::new(1, first), index);
    let image = Image {
        version: IMAGE_VERSION,
        last: Some(id(1)),
        membership: StoredMembership::new(Some(id(0)), Membership::new(vec![voters], nodes)),
        id: "imported".into(),
        state,
    };
    super::format::check(dir)?;
    let put = |name: &str, bytes: io::Result<Vec<u8>>| {
        let path = dir.join(name);
        bytes.and_then(|bytes| replace_file(&path, &bytes)).map_err(at(&path))
    };
    put("purged", record(&id(1)))?;
    put("vote", record(&Vote::new(1, first)))?;
    // Last: without it, what is before is refused.
    put("snapshot", record(&image))?;
    match std::fs::remove_file(dir.join("joining")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(dir)(e)),
        _ => sync_parent(&dir.join("joining")).map_err(at(dir)),
    }
}
