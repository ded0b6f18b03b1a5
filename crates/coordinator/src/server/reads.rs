//! Reads, answered from this server's state, with the checks and in the order of FinalRequestProcessor of ZooKeeper 3.8.

use std::ops::Bound;

use crate::{
    acl::{Id, masked, permits},
    jute::Writer,
    node::{Local, Missed, missed},
    protocol::{Code, Read, Stat, WatchMode, encode_acl, encode_strings, end_of_multi, event, op, perm, reply, result_of_multi},
    state::State,
    tree::{CONFIG_NODE, Znode},
    watches::{ConnectionId, Full},
};

/// Answer to a `multiRead`, in bytes: a small request could ask for very much.
const MAX_MULTI_BYTES: usize = 8 * 1024 * 1024;

/// A client that reads.
struct Reader<'a> {
    state: &'a State,
    local: &'a mut Local,
    id: ConnectionId,
    session: i64,
    rights: std::sync::Arc<[Id]>,
}

type Answer = Result<Writer, Code>;

impl<'a> Reader<'a> {
    fn node(&self, path: &str) -> Result<Znode<'a>, Code> {
        // The root has a second name, which is empty.
        self.state.tree.get(if path.is_empty() { "/" } else { path }).ok_or(Code::NoNode)
    }

    fn allowed(&self, path: &str, perms: i32) -> Result<Znode<'a>, Code> {
        let node = self.node(path)?;
        permits(node.acl(), perms, &self.rights).map(|()| node)
    }

    /// Data and stat. The configuration is not in the tree: each server shows its own.
    fn shown<'n>(&'n self, path: &str, node: Znode<'n>) -> (Option<&'n [u8]>, Stat) {
        let (data, stat) = (node.data(), node.stat());
        if path == CONFIG_NODE && !self.local.configuration.is_empty() {
            let text = self.local.configuration.as_bytes();
            return (Some(text), Stat { data_length: text.len() as i32, ..stat });
        }
        (data, stat)
    }

    fn refused(&mut self, full: Full) -> Code {
        self.local.full.warn(|| format!("session 0x{:x}: a watch was refused: {full}", self.session));
        Code::BadArguments
    }

    fn watch(&mut self, wanted: bool, path: &str, child: bool) -> Result<(), Code> {
        // One on the root's second name never fires, as in ZooKeeper.
        if wanted { self.local.watches.add(self.id, path, child).map_err(|full| self.refused(full)) } else { Ok(()) }
    }

    fn data(&mut self, path: &str, watch: bool) -> Answer {
        let node = self.allowed(path, perm::READ)?;
        self.watch(watch, path, false)?;
        let mut w = Writer::default();
        let (data, stat) = self.shown(path, node);
        w.nullable(data);
        stat.encode(&mut w);
        Ok(w)
    }

    fn children(&mut self, path: &str, watch: bool, with_stat: bool) -> Answer {
        let node = self.allowed(path, perm::READ)?;
        self.watch(watch, path, true)?;
        let mut w = Writer::default();
        encode_strings(&mut w, self.state.tree.children(if path.is_empty() { "/" } else { path }));
        if with_stat {
            self.shown(path, node).1.encode(&mut w);
        }
        Ok(w)
    }

    fn acl(&self, path: &str) -> Answer {
        let node = self.allowed(path, perm::READ | perm::ADMIN)?;
        let mut w = Writer::default();
        match permits(node.acl(), perm::ADMIN, &self.rights) {
            Ok(()) => encode_acl(&mut w, node.acl()),
            Err(_) => encode_acl(&mut w, &masked(node.acl())),
        }
        self.shown(path, node).1.encode(&mut w);
        Ok(w)
    }

    fn read(&mut self, read: &Read) -> Answer {
        let mut w = Writer::default();
        match read {
            Read::Exists { path, watch } => {
                if path.contains('\0') {
                    return Err(Code::BadArguments);
                }
                let found = match self.allowed(path, perm::READ) {
                    Err(Code::NoAuth) => return Err(Code::NoAuth),
                    found => found,
                };
                self.watch(*watch, path, false)?;
                self.shown(path, found?).1.encode(&mut w);
            }
            Read::Data { path, watch } => return self.data(path, *watch),
            Read::Acl { path } => return self.acl(path),
            Read::Children { path, watch, with_stat } => return self.children(path, *watch, *with_stat),
            Read::ChildrenNumber { path } => {
                self.allowed(path, perm::READ)?;
                // Under its second name the root counts itself.
                let number = if path.is_empty() { self.state.tree.len() } else { self.state.tree.count_below(path) };
                w.int(number as i32);
            }
            Read::Ephemerals { prefix } => {
                let every = prefix.trim().is_empty() || prefix.trim() == "/";
                let prefix = if every { "" } else { prefix.as_str() };
                // They are in their order: no others are looked at.
                let all = self.state.tree.ephemerals().get(&self.session).into_iter();
                let behind = all.flat_map(|paths| paths.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)));
                let found: Vec<&std::sync::Arc<str>> = behind.take_while(|path| path.starts_with(prefix)).collect();
                encode_strings(&mut w, found.into_iter());
            }
            Read::Multi(all) => {
                for one in all {
                    let code = if matches!(one, Read::Data { .. }) { op::GET_DATA } else { op::GET_CHILDREN };
                    let result = match one {
                        Read::Data { path, .. } => self.data(path, false),
                        Read::Children { path, .. } => self.children(path, false, false),
                        _ => Err(Code::MarshallingError),
                    };
                    result_of_multi(&mut w, code, result.map_err(|code| code as i32), |w, body| w.0.extend(body.0));
                    if w.0.len() > MAX_MULTI_BYTES {
                        return Err(Code::BadArguments);
                    }
                }
                end_of_multi(&mut w);
            }
            Read::AddWatch { path, mode } => {
                self.local.watches.add_persistent(self.id, path, *mode).map_err(|full| self.refused(full))?;
                w.int(0);
            }
            Read::Watches { path, kind, remove } => {
                let found = match remove {
                    true => self.local.watches.remove(self.id, path, *kind),
                    false => self.local.watches.has(self.id, path, *kind),
                };
                if !found {
                    return Err(Code::NoWatcher);
                }
            }
            Read::WhoAmI => {
                let ids = self.local.connections.ids(self.id);
                w.int(ids.len() as i32);
                ids.iter().for_each(|id| {
                    w.string(&id.scheme).string(id.user());
                });
            }
            Read::SetWatches { .. } => {}
        }
        Ok(w)
    }

    /// Leaves the watches of a client that comes from another server, and tells it what it missed.
    fn set_watches(&mut self, read: &Read) -> Result<(), String> {
        let Read::SetWatches { since, data, exist, child, persistent, recursive } = read else { return Ok(()) };
        // Clients do not look at this answer's code, and would wait for events in vain. Another server may have room.
        let no_room = |_| "there is no room for its watches".to_owned();
        let mut late = Vec::new();
        for (paths, kind) in [(data, Missed::Data), (exist, Missed::Exist), (child, Missed::Child)] {
            for path in paths {
                match missed(self.state, *since, path, kind) {
                    Some(happened) => late.push(event(happened, path)),
                    None => self.watch(true, path, matches!(kind, Missed::Child)).map_err(no_room)?,
                }
            }
        }
        for (paths, mode) in [(persistent, WatchMode::Persistent), (recursive, WatchMode::Recursive)] {
            for path in paths {
                self.local.watches.add_persistent(self.id, path, mode).map_err(|full| no_room(self.refused(full)))?;
            }
        }
        late.into_iter().for_each(|e| self.local.connections.send(self.id, e));
        Ok(())
    }
}

/// Answers a read and leaves its watches. An error ends the connection.
pub(super) fn answer_read(state: &State, local: &mut Local, id: ConnectionId, xid: i32, read: &Read) -> Result<(), String> {
    let zxid = state.zxid;
    let (session, rights) = (local.connections.session_of(id), local.connections.rights(id));
    let mut reader = Reader { state, local, id, session, rights };
    reader.set_watches(read)?;
    let frame = match reader.read(read) {
        Ok(body) => reply(xid, zxid, 0, |w| w.0.extend_from_slice(&body.0)),
        Err(code) => reply(xid, zxid, code as i32, |_| {}),
    };
    local.connections.send(id, frame);
    Ok(())
}
