//! Reads, answered from this server's state.

use crate::{
    node::{Local, Missed, missed},
    protocol::{Code, Read, event, reply},
    state::State,
    watches::ConnectionId,
};

/// Answers a read and leaves its watches. An error ends the connection.
pub(super) fn answer_read(state: &State, local: &mut Local, id: ConnectionId, xid: i32, read: &Read) -> Result<(), String> {
    let zxid = state.zxid;
    let readable = |path: &str| match state.tree.get(path) {
        None => Err(Code::NoNode),
        Some(n) if n.perms & crate::protocol::perm::READ == 0 => Err(Code::NoAuth),
        Some(n) => Ok(n),
    };
    let mut watch = |wanted: bool, path: &str, child: bool| match wanted.then(|| local.watches.add(id, path, child)) {
        Some(Err(full)) => {
            let session = local.connections.session_of(id);
            local.full.warn(|| format!("session 0x{session:x}: a watch was refused: {full}"));
            Err(Code::BadArguments)
        }
        _ => Ok(()),
    };
    let result = match read {
        Read::Exists { path, watch: w } => {
            let found = state.tree.get(path).ok_or(Code::NoNode);
            watch(*w, path, false).and(found).map(|n| reply(xid, zxid, 0, |w| n.stat().encode(w)))
        }
        Read::Data { path, watch: w } => readable(path).and_then(|n| watch(*w, path, false).map(|()| n)).map(|n| {
            reply(xid, zxid, 0, |w| {
                w.buffer(&n.data);
                n.stat().encode(w);
            })
        }),
        Read::Acl { path } => state.tree.get(path).ok_or(Code::NoNode).map(|n| {
            reply(xid, zxid, 0, |w| {
                w.int(1).int(n.perms).string("world").string("anyone");
                n.stat().encode(w);
            })
        }),
        Read::Children { path, watch: w, with_stat } => readable(path).and_then(|n| watch(*w, path, true).map(|()| n)).map(|n| {
            reply(xid, zxid, 0, |w| {
                w.int(n.children.len() as i32);
                n.children.iter().for_each(|c| {
                    w.string(c);
                });
                if *with_stat {
                    n.stat().encode(w);
                }
            })
        }),
        Read::SetWatches { since, data, exist, child } => {
            let mut late = Vec::new();
            for (paths, kind) in [(data, Missed::Data), (exist, Missed::Exist), (child, Missed::Child)] {
                for path in paths {
                    match missed(state, *since, path, kind) {
                        Some(happened) => late.push(event(happened, path)),
                        // Clients do not look at this answer's code, and would wait for events in vain. Another server
                        // may have room.
                        None => watch(true, path, matches!(kind, Missed::Child)).map_err(|_| "there is no room for its watches")?,
                    }
                }
            }
            late.into_iter().for_each(|e| local.connections.send(id, e));
            Ok(reply(xid, zxid, 0, |_| {}))
        }
    };
    local.connections.send(id, result.unwrap_or_else(|code| reply(xid, zxid, code as i32, |_| {})));
    Ok(())
}
