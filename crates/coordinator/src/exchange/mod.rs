//! From and to Apache ZooKeeper: reads the snapshots and transaction logs of a ZooKeeper 3.8 server as the first state of
//! this one, and writes a snapshot that ZooKeeper 3.8 starts from. Both while the servers are stopped.
//!
//! Invariant: nothing is guessed. A file that is damaged is refused with its name and offset; a directory that has data
//! is not written to.

mod replay;
mod snapshot;

use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use crate::{
    acl::{self, Acl},
    config::Config,
    protocol::{Kind, Stat, perm},
    state::{Origin, Session, State},
    storage::{StorageFault, read_state, sync_parent, write_first_state},
    tree::{CONFIG_NODE, Tree, Znode, owner},
};

pub use snapshot::{read as read_snapshot, write as write_snapshot};

/// Why an import or export fails.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// with which file
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// A file of ZooKeeper's does not decode.
    #[error("{path}: damaged at byte {offset}: {reason}")]
    Damaged {
        /// the file
        path: PathBuf,
        /// where
        offset: usize,
        /// how it shows
        reason: String,
    },
    /// This server's own data.
    #[error("{0}")]
    Storage(#[from] StorageFault),
    /// Something else speaks against it.
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> ExchangeError + '_ {
    move |source| ExchangeError::Io { path: path.to_owned(), source }
}

/// A node as ZooKeeper stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// null and empty are not the same
    pub data: Option<Vec<u8>>,
    /// who may do what
    pub acl: Vec<Acl>,
    /// with the count of creates as `cversion`
    pub stat: Stat,
}

/// What ZooKeeper's files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// by path, `/` for the root
    pub nodes: BTreeMap<String, Node>,
    /// timeouts in milliseconds by session
    pub sessions: BTreeMap<i64, i32>,
    /// the last that was applied
    pub zxid: i64,
}

impl Data {
    /// This server's state as ZooKeeper stores it.
    pub fn of(state: &State) -> Self {
        let node = |n: Znode<'_>| {
            let stored = Node { data: n.data().map(<[u8]>::to_vec), acl: n.acl().to_vec(), stat: n.stored_stat() };
            (n.path().to_owned(), stored)
        };
        Self {
            nodes: state.tree.iter().map(node).collect(),
            sessions: state.sessions.iter().map(|(id, s)| (*id, s.timeout_ms)).collect(),
            zxid: state.zxid,
        }
    }

    /// The same state here. Ephemeral nodes without a session go, as when ZooKeeper starts.
    pub fn into_state(mut self) -> Result<State, String> {
        let default = || Node { data: Some(Vec::new()), acl: acl::open(), stat: Stat::default() };
        for path in ["/", "/zookeeper", "/zookeeper/quota"] {
            self.nodes.entry(path.into()).or_insert_with(default);
        }
        let config = Node { acl: vec![Acl::world(perm::READ)], stat: Stat { aversion: -1, ..Stat::default() }, ..default() };
        // Each server shows its own configuration.
        self.nodes.entry(CONFIG_NODE.into()).or_insert(config).data = Some(Vec::new());
        self.nodes
            .retain(|_, n| owner::kind(n.stat.ephemeral_owner) != Kind::Ephemeral || self.sessions.contains_key(&n.stat.ephemeral_owner));
        let acls: Vec<Vec<Acl>> = self.nodes.values_mut().map(|n| std::mem::take(&mut n.acl)).collect();
        let all = self.nodes.into_iter().zip(&acls).map(|((path, n), acl)| (path, n.data, acl.as_slice(), n.stat)).collect();
        let session = |(id, timeout_ms): (i64, i32)| {
            (id, Session { password: password(id).to_vec(), timeout_ms, owner: Origin { server: 0, boot: 0 } })
        };
        let mut tree = Tree::build(all)?;
        tree.count_usage();
        Ok(State { tree, sessions: self.sessions.into_iter().map(session).collect(), zxid: self.zxid })
    }
}

/// The password that ZooKeeper gives a session: `java.util.Random` of its id (ZooKeeperServer.generatePasswd).
pub fn password(session: i64) -> [u8; 16] {
    const MASK: u64 = (1 << 48) - 1;
    let mut seed = ((session as u64 ^ 0xb341_5c00) ^ 0x5_deec_e66d) & MASK;
    let mut out = [0; 16];
    for part in out.chunks_mut(4) {
        seed = seed.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & MASK;
        part.copy_from_slice(&((seed >> 16) as u32).to_le_bytes());
    }
    out
}

/// Reads a `dataDir` of ZooKeeper's, or its `version-2`; `log` is its `dataLogDir`, if it has one.
pub fn read(dir: &Path, log: Option<&Path>) -> Result<Data, ExchangeError> {
    let inner = |dir: &Path| if dir.join("version-2").is_dir() { dir.join("version-2") } else { dir.to_owned() };
    let snapshots = numbered(&inner(dir), "snapshot.")?;
    let Some((_, path)) = snapshots.last() else {
        return Err(ExchangeError::Refused(format!("{}: there is no snapshot.ZXID of ZooKeeper's in it", dir.display())));
    };
    let bytes = fs::read(path).map_err(at(path))?;
    let mut data = read_snapshot(&bytes).map_err(|(offset, reason)| ExchangeError::Damaged { path: path.clone(), offset, reason })?;
    data.zxid = snapshots.last().map_or(0, |(zxid, _)| *zxid);
    for (_, path) in numbered(&inner(log.unwrap_or(dir)), "log.")? {
        replay::file(&mut data, &path)?;
    }
    Ok(data)
}

/// Files `PREFIXzxid`, by their zxid.
fn numbered(dir: &Path, prefix: &str) -> Result<Vec<(i64, PathBuf)>, ExchangeError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(number) = name.strip_prefix(prefix) else { continue };
        if number.ends_with(".gz") || number.ends_with(".snappy") {
            let hint = "hint: start ZooKeeper without snapshot.compression.method once, and stop it";
            return Err(ExchangeError::Refused(format!("{}: compressed snapshots are not read\n{hint}", path.display())));
        }
        if let Ok(zxid) = i64::from_str_radix(number, 16) {
            found.push((zxid, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Refuses while a server runs on the data.
fn stopped(config: &Config) -> Result<(), ExchangeError> {
    match TcpListener::bind((config.client_address.as_str(), config.client_port)) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            Err(ExchangeError::Refused(format!("port {} is in use: stop the server first", config.client_port)))
        }
        _ => Ok(()),
    }
}

/// Makes ZooKeeper's data the first state of the server of this configuration. Says how much it was.
pub fn import(config: &Config, from: &Path, log: Option<&Path>) -> Result<String, ExchangeError> {
    stopped(config)?;
    let state = read(from, log)?.into_state().map_err(|e| ExchangeError::Refused(format!("{}: {e}", from.display())))?;
    let done = format!("{} nodes, {} sessions, zxid 0x{:x}", state.tree.len(), state.sessions.len(), state.zxid);
    write_first_state(&config.data_dir.join("version-2"), state, config)?;
    Ok(done)
}

/// Writes the state of the server of this configuration as a snapshot of ZooKeeper's into `to/version-2`.
pub fn export(config: &Config, to: &Path) -> Result<String, ExchangeError> {
    stopped(config)?;
    let state = read_state(&config.data_dir.join("version-2"))?;
    let dir = to.join("version-2");
    fs::create_dir_all(&dir).map_err(at(&dir))?;
    for prefix in ["snapshot.", "log."] {
        if !numbered(&dir, prefix)?.is_empty() {
            return Err(ExchangeError::Refused(format!("{}: there is data of ZooKeeper's in it", dir.display())));
        }
    }
    let data = Data::of(&state);
    let path = dir.join(format!("snapshot.{:x}", data.zxid));
    let temporary = dir.join("snapshot.tmp");
    let file = fs::File::create(&temporary).map_err(at(&temporary))?;
    let mut out = io::BufWriter::new(file);
    write_snapshot(&data, &mut out).map_err(at(&temporary))?;
    out.into_inner().map_err(|e| e.into_error()).and_then(|f| f.sync_all()).map_err(at(&temporary))?;
    fs::rename(&temporary, &path).and_then(|()| sync_parent(&path)).map_err(at(&path))?;
    Ok(format!("{}: {} nodes, {} sessions", path.display(), data.nodes.len(), data.sessions.len()))
}
