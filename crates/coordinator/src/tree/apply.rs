//! Changes of the tree, checked in the order in which PrepRequestProcessor of ZooKeeper 3.8 checks them.

use std::sync::Arc;

use super::{Event, SPECIAL, Stamp, Tree, Znode, owner, split};
use crate::{
    acl::{List, permits},
    protocol::{Caller, Code, Create, EventType, Kind, MAX_PATH_BYTES, Op, Stat, Write, WriteAnswer, perm, valid_path},
};

/// What to put back when a change fails. Never a whole parent: it may have very many children.
pub(super) enum Old {
    /// there was no node
    Absent,
    /// the node that was removed
    Node(Znode),
    /// data and stat
    Data(Option<Vec<u8>>, Stat),
    /// ACL and stat
    Acl(List, Stat),
    /// a parent's stat, and whether it listed this child
    Child(Stat, Arc<str>, bool),
    /// whether the path had a quota
    Quota(bool),
}

pub(super) type Undo = Vec<(String, Old)>;

/// One change under way.
struct Change<'a> {
    who: &'a Caller,
    stamp: Stamp,
    events: &'a mut Vec<Event>,
    undo: Undo,
}

impl Change<'_> {
    fn tell(&mut self, kind: EventType, path: &str, acl: &List) {
        self.events.push(Event { kind, path: path.to_owned(), acl: acl.clone() });
    }
}

fn version_ok(expected: i32, is: i32) -> Result<(), Code> {
    if expected == -1 || expected == is { Ok(()) } else { Err(Code::BadVersion) }
}

fn valid(path: &str) -> Result<(), Code> {
    if valid_path(path) { Ok(()) } else { Err(Code::BadArguments) }
}

impl Tree {
    /// Does one write, or none of it.
    pub fn apply(&mut self, write: &Write, who: &Caller, stamp: Stamp, events: &mut Vec<Event>) -> Result<WriteAnswer, Code> {
        let mark = events.len();
        let mut change = Change { who, stamp, events, undo: Undo::new() };
        let all = match write {
            Write::One(op) => {
                let result = self.one(op, &mut change);
                if result.is_err() {
                    self.roll_back(change.undo);
                    change.events.truncate(mark);
                }
                return result;
            }
            Write::Multi(all) => all,
        };
        let mut results = Vec::with_capacity(all.len());
        for (i, op) in all.iter().enumerate() {
            match self.one(op, &mut change) {
                Ok(answer) => results.push(Ok(answer)),
                Err(code) => {
                    self.roll_back(change.undo);
                    change.events.truncate(mark);
                    // As ZooKeeper answers: 0 before the one that failed, -2 behind it.
                    results = vec![Err(0); i];
                    results.push(Err(code as i32));
                    results.resize(all.len(), Err(Code::RuntimeInconsistency as i32));
                    break;
                }
            }
        }
        Ok(WriteAnswer::Multi(results, all.iter().map(Op::code).collect()))
    }

    fn roll_back(&mut self, undo: Undo) {
        for (path, old) in undo.into_iter().rev() {
            match old {
                Old::Node(mut node) => {
                    node.acl = self.acls.retain(&node.acl);
                    self.put(path.into(), node);
                }
                Old::Absent => {
                    if let Some((_, node)) = self.take(&path) {
                        self.acls.release(&node.acl);
                    }
                }
                Old::Data(data, stat) => {
                    if let Some(node) = self.nodes.get_mut(&path) {
                        self.data_bytes -= node.data_bytes();
                        (node.data, node.stat) = (data, stat);
                        self.data_bytes += node.data_bytes();
                    }
                }
                Old::Acl(list, stat) => {
                    if let Some(node) = self.nodes.get_mut(&path) {
                        self.acls.release(&node.acl);
                        (node.acl, node.stat) = (self.acls.retain(&list), stat);
                    }
                }
                Old::Child(stat, child, listed) => {
                    self.list(&path, &child, listed);
                    if let Some(node) = self.nodes.get_mut(&path) {
                        node.stat = stat;
                    }
                }
                Old::Quota(true) => drop(self.quotas.insert(path)),
                Old::Quota(false) => drop(self.quotas.remove(&path)),
            }
        }
    }

    fn edit(&mut self, path: &str) -> Result<&mut Znode, Code> {
        self.nodes.get_mut(path).ok_or(Code::NoNode)
    }

    fn allowed(&self, path: &str, perm: i32, who: &Caller) -> Result<&Znode, Code> {
        let node = self.nodes.get(path).ok_or(Code::NoNode)?;
        permits(&node.acl, perm, &who.ids).map(|()| node)
    }

    fn one(&mut self, op: &Op, change: &mut Change<'_>) -> Result<WriteAnswer, Code> {
        match op {
            Op::Create(create) => self.create(create, change),
            Op::Delete { path, version } => {
                if !path.contains('/') || path.contains('\0') || SPECIAL.contains(&path.as_str()) {
                    return Err(Code::BadArguments);
                }
                let parent = split(path).0;
                self.allowed(parent, perm::DELETE, change.who)?;
                let node = self.nodes.get(path).ok_or(Code::NoNode)?;
                version_ok(*version, node.stat.version)?;
                if node.child_count > 0 {
                    return Err(Code::NotEmpty);
                }
                self.remove(path, parent, change)?;
                Ok(WriteAnswer::Done)
            }
            Op::SetData { path, data, version } => {
                valid(path)?;
                let node = self.allowed(path, perm::WRITE, change.who)?;
                let bytes = data.as_ref().map_or(0, Vec::len) as i64 - node.data_bytes() as i64;
                if change.who.enforce_quota {
                    self.quota_allows(path, bytes, 0)?;
                }
                version_ok(*version, node.stat.version)?;
                let node = self.edit(path)?;
                let old = std::mem::replace(&mut node.data, data.clone());
                change.undo.push((path.clone(), Old::Data(old, node.stat)));
                node.stat.version = node.stat.version.wrapping_add(1);
                node.stat.mzxid = change.stamp.zxid;
                node.stat.mtime = change.stamp.time_ms;
                let (stat, acl) = (node.stat(), node.acl.clone());
                self.data_bytes = self.data_bytes.wrapping_add_signed(bytes);
                self.quota_changed(path, bytes, &mut change.undo);
                change.tell(EventType::DataChanged, path, &acl);
                Ok(WriteAnswer::Stat(stat))
            }
            Op::SetAcl { path, acl, version } => {
                valid(path)?;
                let node = self.allowed(path, perm::ADMIN, change.who)?;
                version_ok(*version, node.stat.aversion)?;
                let list = self.acls.retain(acl);
                let node = self.edit(path)?;
                let old = std::mem::replace(&mut node.acl, list);
                let stat = node.stat;
                node.stat.aversion = node.stat.aversion.wrapping_add(1);
                let shown = node.stat();
                self.acls.release(&old);
                change.undo.push((path.clone(), Old::Acl(old, stat)));
                Ok(WriteAnswer::Stat(shown))
            }
            Op::Check { path, version } => {
                valid(path)?;
                let node = self.allowed(path, perm::READ, change.who)?;
                version_ok(*version, node.stat.version)?;
                Ok(WriteAnswer::Done)
            }
            Op::Invalid { code, .. } => Err(*code),
        }
    }

    fn create(&mut self, create: &Create, change: &mut Change<'_>) -> Result<WriteAnswer, Code> {
        if !create.path.contains('/') || create.path.contains('\0') {
            return Err(Code::BadArguments);
        }
        let parent = split(&create.path).0.to_owned();
        let above = self.allowed(&parent, perm::CREATE, change.who)?;
        let path = if create.sequential { format!("{}{:010}", create.path, above.stat.cversion) } else { create.path.clone() };
        valid(&path)?;
        if path.len() > MAX_PATH_BYTES + 11 {
            return Err(Code::BadArguments);
        }
        if self.nodes.contains(&path) {
            return Err(Code::NodeExists);
        }
        if above.kind() == Kind::Ephemeral {
            return Err(Code::NoChildrenForEphemerals);
        }
        let bytes = create.data.as_ref().map_or(0, Vec::len) as u64;
        if change.who.enforce_quota {
            self.quota_allows(&path, bytes as i64, 1)?;
        }
        let stamp = change.stamp;
        let shared: Arc<str> = path.as_str().into();
        self.list(&parent, &shared, true);
        let above = self.edit(&parent)?;
        change.undo.push((parent.clone(), Old::Child(above.stat, shared.clone(), false)));
        above.stat.cversion = above.stat.cversion.wrapping_add(1);
        above.stat.pzxid = stamp.zxid;
        let parent_acl = above.acl.clone();
        let stat = Stat {
            czxid: stamp.zxid,
            mzxid: stamp.zxid,
            pzxid: stamp.zxid,
            ctime: stamp.time_ms,
            mtime: stamp.time_ms,
            ephemeral_owner: owner::encode(create.kind, stamp.session),
            ..Stat::default()
        };
        let acl = self.acls.retain(&create.acl);
        let node = Znode { data: create.data.clone(), acl: acl.clone(), stat, child_count: 0 };
        let shown = create.with_stat.then(|| node.stat());
        change.undo.push((path.clone(), Old::Absent));
        self.put(shared, node);
        self.quota_created(&path, bytes, &mut change.undo);
        change.tell(EventType::Created, &path, &acl);
        change.tell(EventType::ChildrenChanged, &parent, &parent_acl);
        Ok(WriteAnswer::Created(path, shown))
    }

    fn remove(&mut self, path: &str, parent: &str, change: &mut Change<'_>) -> Result<(), Code> {
        self.edit(parent)?;
        let Some((shared, node)) = self.take(path) else { return Err(Code::NoNode) };
        self.list(parent, &shared, false);
        let above = self.edit(parent)?;
        change.undo.push((parent.to_owned(), Old::Child(above.stat, shared, true)));
        above.stat.pzxid = change.stamp.zxid;
        let parent_acl = above.acl.clone();
        self.acls.release(&node.acl);
        let (acl, bytes) = (node.acl.clone(), node.data_bytes());
        change.undo.push((path.to_owned(), Old::Node(node)));
        self.quota_deleted(path, bytes, &mut change.undo);
        change.tell(EventType::Deleted, path, &acl);
        change.tell(EventType::ChildrenChanged, parent, &parent_acl);
        Ok(())
    }

    fn drop_one(&mut self, path: &str, zxid: i64, events: &mut Vec<Event>) {
        let parent = split(path).0;
        let stamp = Stamp { session: 0, zxid, time_ms: 0 };
        // The parent is there as long as its child is, so this cannot fail.
        let _ = self.remove(path, parent, &mut Change { who: &Caller::default(), stamp, events, undo: Undo::new() });
    }

    /// Removes what a session owns.
    pub fn drop_ephemerals(&mut self, session: i64, zxid: i64, events: &mut Vec<Event>) {
        for path in self.ephemerals.get(&session).cloned().unwrap_or_default() {
            self.drop_one(&path, zxid, events);
        }
    }

    /// Removes a container or a node with a TTL, if it is due at the stamp's time.
    pub fn collect(&mut self, path: &str, never_used_ms: i64, stamp: Stamp, events: &mut Vec<Event>) {
        if self.is_due(path, stamp.time_ms, never_used_ms) {
            self.drop_one(path, stamp.zxid, events);
        }
    }
}
