//! Changes of the tree, checked in the order in which PrepRequestProcessor of ZooKeeper 3.8 checks them.

use super::{Event, SPECIAL, Stamp, Tree, Znode, nodes::NodeId, owner, page::Head, split};
use crate::{
    acl::{List, permits},
    protocol::{Caller, Code, Create, EventType, Kind, MAX_PATH_BYTES, Op, Stat, Write, WriteAnswer, perm, valid_path},
};

/// What to put back when a change fails. Never a whole parent: it may have very many children.
pub(super) enum Old {
    /// there was no node
    Absent,
    /// the node that was removed: ACL, stat and data
    Node(List, Stat, Option<Vec<u8>>),
    /// data and stat
    Data(Option<Vec<u8>>, Stat),
    /// ACL and stat
    Acl(List, Stat),
    /// a parent's stat
    Stat(Stat),
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
                Old::Node(list, stat, data) => {
                    if let Some(parent) = self.nodes.find(split(&path).0) {
                        let acl = self.acls.retain(&list);
                        self.add(parent, &path, &Head { acl, stat }, data.as_deref());
                    }
                }
                Old::Absent => self.take(&path),
                Old::Data(data, stat) => {
                    if let Some((id, head)) = self.head(&path) {
                        self.set(id, &path, &Head { stat, ..head }, data.as_deref());
                    }
                }
                Old::Acl(list, stat) => {
                    if let Some((id, head)) = self.head(&path) {
                        self.acls.release(head.acl);
                        let acl = self.acls.retain(&list);
                        self.nodes.set_head(id, &Head { acl, stat });
                    }
                }
                Old::Stat(stat) => {
                    if let Some((id, head)) = self.head(&path) {
                        self.nodes.set_head(id, &Head { stat, ..head });
                    }
                }
                Old::Quota(true) => drop(self.quotas.insert(path)),
                Old::Quota(false) => drop(self.quotas.remove(&path)),
            }
        }
    }

    fn head(&self, path: &str) -> Option<(NodeId, Head)> {
        let id = self.nodes.find(path)?;
        self.nodes.get(id).map(|record| (id, record.head))
    }

    fn allowed(&self, path: &str, perm: i32, who: &Caller) -> Result<Znode<'_>, Code> {
        let node = self.get(path).ok_or(Code::NoNode)?;
        permits(node.acl(), perm, &who.ids).map(|()| node)
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
                let node = self.get(path).ok_or(Code::NoNode)?;
                version_ok(*version, node.stored_stat().version)?;
                if node.child_count() > 0 {
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
                let (id, acl, old, mut head) = (node.id, node.acl().clone(), node.data().map(<[u8]>::to_vec), node.record.head);
                version_ok(*version, head.stat.version)?;
                change.undo.push((path.clone(), Old::Data(old, head.stat)));
                head.stat.version = head.stat.version.wrapping_add(1);
                head.stat.mzxid = change.stamp.zxid;
                head.stat.mtime = change.stamp.time_ms;
                self.set(id, path, &head, data.as_deref());
                let shown = self.shown(id, &head, data.as_ref().map_or(0, Vec::len) as u64);
                self.quota_changed(path, bytes, &mut change.undo);
                change.tell(EventType::DataChanged, path, &acl);
                Ok(WriteAnswer::Stat(shown))
            }
            Op::SetAcl { path, acl, version } => {
                valid(path)?;
                let node = self.allowed(path, perm::ADMIN, change.who)?;
                let (id, bytes, old, mut head) = (node.id, node.data_bytes(), node.acl().clone(), node.record.head);
                version_ok(*version, head.stat.aversion)?;
                change.undo.push((path.clone(), Old::Acl(old, head.stat)));
                let released = std::mem::replace(&mut head.acl, self.acls.retain(acl));
                self.acls.release(released);
                head.stat.aversion = head.stat.aversion.wrapping_add(1);
                self.nodes.set_head(id, &head);
                Ok(WriteAnswer::Stat(self.shown(id, &head, bytes)))
            }
            Op::Check { path, version } => {
                valid(path)?;
                let node = self.allowed(path, perm::READ, change.who)?;
                version_ok(*version, node.stored_stat().version)?;
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
        let path = if create.sequential { format!("{}{:010}", create.path, above.stored_stat().cversion) } else { create.path.clone() };
        valid(&path)?;
        if path.len() > MAX_PATH_BYTES + 11 {
            return Err(Code::BadArguments);
        }
        if self.nodes.find(&path).is_some() {
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
        let (above, parent_acl, mut parent_head) = (above.id, above.acl().clone(), above.record.head);
        change.undo.push((parent.clone(), Old::Stat(parent_head.stat)));
        parent_head.stat.cversion = parent_head.stat.cversion.wrapping_add(1);
        parent_head.stat.pzxid = stamp.zxid;
        self.nodes.set_head(above, &parent_head);
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
        change.undo.push((path.clone(), Old::Absent));
        let head = Head { acl, stat };
        let id = self.add(above, &path, &head, create.data.as_deref());
        let shown = create.with_stat.then(|| self.shown(id, &head, bytes));
        self.quota_created(&path, bytes, &mut change.undo);
        change.tell(EventType::Created, &path, self.acls.get(acl));
        change.tell(EventType::ChildrenChanged, &parent, &parent_acl);
        Ok(WriteAnswer::Created(path, shown))
    }

    fn remove(&mut self, path: &str, parent: &str, change: &mut Change<'_>) -> Result<(), Code> {
        let above = self.get(parent).ok_or(Code::NoNode)?;
        let (above, parent_acl, mut parent_head) = (above.id, above.acl().clone(), above.record.head);
        let node = self.get(path).ok_or(Code::NoNode)?;
        let (acl, stat, data) = (node.acl().clone(), node.stored_stat(), node.data().map(<[u8]>::to_vec));
        let bytes = node.data_bytes();
        change.undo.push((parent.to_owned(), Old::Stat(parent_head.stat)));
        parent_head.stat.pzxid = change.stamp.zxid;
        self.nodes.set_head(above, &parent_head);
        change.undo.push((path.to_owned(), Old::Node(acl.clone(), stat, data)));
        self.take(path);
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
