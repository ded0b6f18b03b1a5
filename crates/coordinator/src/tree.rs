//! The tree of znodes. Pure: no clock, no IO; every change is given its zxid and time.
//!
//! Invariant: each node but the root has its parent, listed there as a child; an ephemeral node has no
//! children and is listed under its owner. A change that fails leaves the tree as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::protocol::{Code, EventType, Stat, Write, WriteAnswer, perm};

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Znode {
    /// its data
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// permissions of `world:anyone`
    pub perms: i32,
    /// `cversion` counts creates only here; see [`Znode::stat`]
    stat: Stat,
    /// names of its children
    pub children: BTreeSet<String>,
}

impl Znode {
    /// The stat as clients see it. ZooKeeper stores the number of creates and shows the number of changes
    /// (DataNode.copyStat).
    pub fn stat(&self) -> Stat {
        let n = self.children.len() as i32;
        Stat {
            data_length: self.data.len() as i32,
            num_children: n,
            cversion: self.stat.cversion.wrapping_mul(2).wrapping_sub(n),
            ..self.stat
        }
    }
}

/// A change that watches may wait for.
pub type Event = (EventType, String);

/// The tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    nodes: HashMap<String, Znode>,
    ephemerals: BTreeMap<i64, BTreeSet<String>>,
    data_bytes: u64,
}

/// Whose change, when.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// session
    pub session: i64,
    /// transaction id
    pub zxid: i64,
    /// milliseconds since 1970
    pub time_ms: i64,
}

/// Parent and name of a path other than the root.
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

impl Default for Tree {
    fn default() -> Self {
        let node = |children: &[&str]| Znode {
            data: Vec::new(),
            perms: perm::ALL,
            stat: Stat::default(),
            children: children.iter().map(|c| (*c).to_owned()).collect(),
        };
        let nodes = [
            ("/", node(&["zookeeper"])),
            ("/zookeeper", node(&["config", "quota"])),
            ("/zookeeper/config", node(&[])),
            ("/zookeeper/quota", node(&[])),
        ];
        Self { nodes: nodes.into_iter().map(|(p, n)| (p.to_owned(), n)).collect(), ephemerals: BTreeMap::new(), data_bytes: 0 }
    }
}

/// Nodes that ZooKeeper keeps for itself: they are never deleted.
const SPECIAL: [&str; 4] = ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];

/// What to put back when a change fails. Never a whole parent: it may have very many children.
enum Old {
    /// there was no node
    Absent,
    /// the node that was removed
    Node(Znode),
    /// data and stat
    Data(Vec<u8>, Stat),
    /// permissions and stat
    Perms(i32, Stat),
    /// a parent's stat, and whether it listed this child
    Child(Stat, String, bool),
}

type Undo = Vec<(String, Old)>;

impl Tree {
    /// A node.
    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.nodes.get(path)
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// Number of ephemeral nodes.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }
    /// Bytes of paths and data.
    pub fn approximate_bytes(&self) -> u64 {
        self.data_bytes + self.nodes.keys().map(|k| k.len() as u64).sum::<u64>()
    }

    /// Does one write, or none of it.
    pub fn apply(&mut self, write: &Write, stamp: Stamp, events: &mut Vec<Event>) -> Result<WriteAnswer, Code> {
        let mut undo = Undo::new();
        let mark = events.len();
        let result = match write {
            Write::Multi(all) => return Ok(self.multi(all, stamp, events)),
            one => self.one(one, stamp, events, &mut undo),
        };
        if result.is_err() {
            self.roll_back(undo);
            events.truncate(mark);
        }
        result
    }

    fn multi(&mut self, all: &[Write], stamp: Stamp, events: &mut Vec<Event>) -> WriteAnswer {
        let mut undo = Undo::new();
        let mark = events.len();
        let mut results = Vec::with_capacity(all.len());
        for (i, write) in all.iter().enumerate() {
            match self.one(write, stamp, events, &mut undo) {
                Ok(answer) => results.push(Ok(answer)),
                Err(code) => {
                    self.roll_back(undo);
                    events.truncate(mark);
                    // As ZooKeeper answers: 0 before the one that failed, -2 behind it.
                    results = vec![Err(0); i];
                    results.push(Err(code as i32));
                    results.resize(all.len(), Err(Code::RuntimeInconsistency as i32));
                    break;
                }
            }
        }
        WriteAnswer::Multi(results, all.iter().map(Write::op).collect())
    }

    fn roll_back(&mut self, undo: Undo) {
        for (path, old) in undo.into_iter().rev() {
            match old {
                Old::Node(node) => self.put(path, node),
                Old::Absent => {
                    self.take(&path);
                }
                Old::Data(data, stat) => self.put_back(&path, |node, bytes| {
                    *bytes = *bytes - node.data.len() as u64 + data.len() as u64;
                    (node.data, node.stat) = (data, stat);
                }),
                Old::Perms(perms, stat) => self.put_back(&path, |node, _| (node.perms, node.stat) = (perms, stat)),
                Old::Child(stat, name, listed) => self.put_back(&path, |node, _| {
                    node.stat = stat;
                    if listed {
                        node.children.insert(name);
                    } else {
                        node.children.remove(&name);
                    }
                }),
            }
        }
    }

    fn put_back(&mut self, path: &str, change: impl FnOnce(&mut Znode, &mut u64)) {
        if let Some(node) = self.nodes.get_mut(path) {
            change(node, &mut self.data_bytes);
        }
    }

    fn put(&mut self, path: String, node: Znode) {
        self.data_bytes += node.data.len() as u64;
        if node.stat.ephemeral_owner != 0 {
            self.ephemerals.entry(node.stat.ephemeral_owner).or_default().insert(path.clone());
        }
        if let Some(old) = self.nodes.insert(path, node) {
            self.data_bytes -= old.data.len() as u64;
        }
    }

    fn take(&mut self, path: &str) -> Option<Znode> {
        let node = self.nodes.remove(path)?;
        self.data_bytes -= node.data.len() as u64;
        let owner = node.stat.ephemeral_owner;
        if let Some(set) = self.ephemerals.get_mut(&owner) {
            set.remove(path);
            if set.is_empty() {
                self.ephemerals.remove(&owner);
            }
        }
        Some(node)
    }

    fn edit(&mut self, path: &str) -> Result<&mut Znode, Code> {
        self.nodes.get_mut(path).ok_or(Code::NoNode)
    }

    fn allowed(&self, path: &str, perm: i32) -> Result<&Znode, Code> {
        let node = self.nodes.get(path).ok_or(Code::NoNode)?;
        if node.perms & perm == 0 { Err(Code::NoAuth) } else { Ok(node) }
    }

    fn one(&mut self, write: &Write, stamp: Stamp, events: &mut Vec<Event>, undo: &mut Undo) -> Result<WriteAnswer, Code> {
        let version_ok = |expected: i32, is: i32| {
            if expected == -1 || expected == is { Ok(()) } else { Err(Code::BadVersion) }
        };
        match write {
            Write::Create { path, data, perms, ephemeral, sequential, with_stat } => {
                let (parent, _) = split(path);
                let parent = parent.to_owned();
                let above = self.allowed(&parent, perm::CREATE)?;
                let path = if *sequential { format!("{path}{:010}", above.stat.cversion) } else { path.clone() };
                if self.nodes.contains_key(&path) {
                    return Err(Code::NodeExists);
                }
                if above.stat.ephemeral_owner != 0 {
                    return Err(Code::NoChildrenForEphemerals);
                }
                let name = split(&path).1.to_owned();
                let above = self.edit(&parent)?;
                undo.push((parent.clone(), Old::Child(above.stat, name.clone(), false)));
                above.children.insert(name);
                above.stat.cversion = above.stat.cversion.wrapping_add(1);
                above.stat.pzxid = stamp.zxid;
                let stat = Stat {
                    czxid: stamp.zxid,
                    mzxid: stamp.zxid,
                    pzxid: stamp.zxid,
                    ctime: stamp.time_ms,
                    mtime: stamp.time_ms,
                    ephemeral_owner: if *ephemeral { stamp.session } else { 0 },
                    ..Stat::default()
                };
                let node = Znode { data: data.clone(), perms: *perms, stat, children: BTreeSet::new() };
                let shown = with_stat.then(|| node.stat());
                undo.push((path.clone(), Old::Absent));
                self.put(path.clone(), node);
                events.push((EventType::Created, path.clone()));
                events.push((EventType::ChildrenChanged, parent));
                Ok(WriteAnswer::Created(path, shown))
            }
            Write::Delete { path, version } => {
                if SPECIAL.contains(&path.as_str()) {
                    return Err(Code::BadArguments);
                }
                let (parent, name) = split(path);
                self.allowed(parent, perm::DELETE)?;
                let node = self.nodes.get(path).ok_or(Code::NoNode)?;
                version_ok(*version, node.stat.version)?;
                if !node.children.is_empty() {
                    return Err(Code::NotEmpty);
                }
                self.remove(path, name, parent, stamp.zxid, events, undo)?;
                Ok(WriteAnswer::Done)
            }
            Write::SetData { path, data, version } => {
                let node = self.allowed(path, perm::WRITE)?;
                version_ok(*version, node.stat.version)?;
                let node = self.edit(path)?;
                let old = std::mem::replace(&mut node.data, data.clone());
                let old_bytes = old.len() as u64;
                undo.push((path.clone(), Old::Data(old, node.stat)));
                node.stat.version = node.stat.version.wrapping_add(1);
                node.stat.mzxid = stamp.zxid;
                node.stat.mtime = stamp.time_ms;
                let stat = node.stat();
                self.data_bytes = self.data_bytes - old_bytes + data.len() as u64;
                events.push((EventType::DataChanged, path.clone()));
                Ok(WriteAnswer::Stat(stat))
            }
            Write::SetAcl { path, perms, version } => {
                let node = self.allowed(path, perm::ADMIN)?;
                version_ok(*version, node.stat.aversion)?;
                let node = self.edit(path)?;
                undo.push((path.clone(), Old::Perms(node.perms, node.stat)));
                node.perms = *perms;
                node.stat.aversion = node.stat.aversion.wrapping_add(1);
                Ok(WriteAnswer::Stat(node.stat()))
            }
            Write::Check { path, version } => {
                let node = self.allowed(path, perm::READ)?;
                version_ok(*version, node.stat.version)?;
                Ok(WriteAnswer::Done)
            }
            Write::Invalid { code, .. } => Err(*code),
            Write::Multi(_) => Err(Code::BadArguments),
        }
    }

    fn remove(&mut self, path: &str, name: &str, parent: &str, zxid: i64, events: &mut Vec<Event>, undo: &mut Undo) -> Result<(), Code> {
        let above = self.edit(parent)?;
        undo.push((parent.to_owned(), Old::Child(above.stat, name.to_owned(), true)));
        above.children.remove(name);
        above.stat.pzxid = zxid;
        if let Some(node) = self.take(path) {
            undo.push((path.to_owned(), Old::Node(node)));
        }
        events.push((EventType::Deleted, path.to_owned()));
        events.push((EventType::ChildrenChanged, parent.to_owned()));
        Ok(())
    }

    /// Removes what a session owns.
    pub fn drop_ephemerals(&mut self, session: i64, zxid: i64, events: &mut Vec<Event>) {
        for path in self.ephemerals.get(&session).cloned().unwrap_or_default() {
            let (parent, name) = split(&path);
            // The parent is there as long as its child is, so this cannot fail.
            let _ = self.remove(&path, name, parent, zxid, events, &mut Undo::new());
        }
    }
}
