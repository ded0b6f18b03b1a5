//! Requests as they are decoded: what ZooKeeper answers with an error is an answer here too, not a lost connection.
//!
//! Invariant: nothing here recurs, and no list is longer than the bytes that are there.

use super::{Code, Create, Header, Kind, Op, Read, Request, WatchKind, WatchMode, Write, op};
use crate::{
    acl::{Acl, Id},
    jute::{JuteError, Reader},
};

/// Longest path that is created, read or watched, in bytes. ZooKeeper knows no limit but that of a request.
pub const MAX_PATH_BYTES: usize = 16 * 1024;

/// How many parts a multi may have.
const MAX_MULTI: usize = 10_000;

/// What this server's configuration offers to clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offered {
    /// TTL nodes (`extendedTypesEnabled`)
    pub extended_types: bool,
    /// `reconfigEnabled`: the operation is answered as ZooKeeper's standalone server does, instead of as disabled
    pub reconfig: bool,
}

/// Paths as ZooKeeper's PathUtils accepts them.
pub fn valid_path(path: &str) -> bool {
    if path == "/" {
        return true;
    }
    path.starts_with('/')
        && !path.ends_with('/')
        && path[1..].split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.chars().any(|c| matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..))
        })
}

fn acl(r: &mut Reader<'_>) -> Result<Vec<Acl>, JuteError> {
    r.vector(12, |r| Ok(Acl { perms: r.int()?, id: Id { scheme: r.string()?, id: r.string()? } }))
}

/// How a part of a multi is understood (MultiOperationRecord, Op.create): the operation follows from the flags. `None` does
/// not decode.
fn in_multi_as(code: i32, flags: i32, ttl: i64) -> Option<(i32, i64)> {
    match (code, flags) {
        (op::CREATE_TTL, 5 | 6) => Some((code, ttl)),
        (op::CREATE_TTL, 4) => Some((op::CREATE_CONTAINER, -1)),
        (op::CREATE_TTL, _) => Some((op::CREATE, -1)),
        (_, 4) => Some((op::CREATE_CONTAINER, -1)),
        (_, 0..=3) => Some((code, -1)),
        _ => None,
    }
}

/// One change.
fn change(code: i32, r: &mut Reader<'_>, offered: Offered, in_multi: bool) -> Result<Option<Op>, JuteError> {
    let long = |path: &str| path.len() > MAX_PATH_BYTES;
    let decoded = match code {
        op::CREATE | op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => {
            let (path, data, acl, flags) = (r.string()?, r.nullable()?.map(<[u8]>::to_vec), acl(r)?, r.int()?);
            let ttl = if code == op::CREATE_TTL { r.long()? } else { -1 };
            let Some((code, ttl)) = (if in_multi { in_multi_as(code, flags, ttl) } else { Some((code, ttl)) }) else {
                return Ok(None);
            };
            match Kind::of(code, flags, ttl, offered.extended_types) {
                _ if long(&path) => Op::Invalid { op: code, code: Code::BadArguments },
                Err(why) => Op::Invalid { op: code, code: why },
                Ok((kind, sequential)) => Op::Create(Create { path, data, acl, kind, sequential, with_stat: code != op::CREATE }),
            }
        }
        // What is there, however it got there, can be deleted.
        op::DELETE => Op::Delete { path: r.string()?, version: r.int()? },
        op::SET_DATA => Op::SetData { path: r.string()?, data: r.nullable()?.map(<[u8]>::to_vec), version: r.int()? },
        op::SET_ACL => Op::SetAcl { path: r.string()?, acl: acl(r)?, version: r.int()? },
        op::CHECK => Op::Check { path: r.string()?, version: r.int()? },
        _ => return Ok(None),
    };
    Ok(Some(decoded))
}

/// Decodes a request behind its length. Only a bad header is an error: a body that does not decode is answered.
pub fn decode(bytes: &[u8], offered: Offered) -> Result<(Header, Request), JuteError> {
    let mut r = Reader(bytes);
    let header = Header { xid: r.int()?, op: r.int()? };
    let request = body(header, &mut r, offered).unwrap_or_else(|_| match header.op {
        // A failed change has its zxid, too.
        op::CREATE
        | op::CREATE2
        | op::CREATE_CONTAINER
        | op::CREATE_TTL
        | op::DELETE
        | op::SET_DATA
        | op::SET_ACL
        | op::CHECK
        | op::MULTI => invalid(header.op, Code::MarshallingError),
        _ => Request::Refused(Code::MarshallingError),
    });
    Ok((header, request))
}

fn invalid(op: i32, code: Code) -> Request {
    Request::Write(Write::One(Op::Invalid { op, code }))
}

fn multi(r: &mut Reader<'_>, offered: Offered) -> Result<Request, JuteError> {
    let mut all = Vec::new();
    loop {
        let (code, done, _err) = (r.int()?, r.bool()?, r.int()?);
        if done {
            return Ok(Request::Write(Write::Multi(all)));
        }
        if all.len() >= MAX_MULTI {
            return Ok(invalid(op::MULTI, Code::BadArguments));
        }
        match change(code, r, offered, true)? {
            Some(change) if code != op::SET_ACL => all.push(change),
            // Another multi, or a read: ZooKeeper's MultiOperationRecord knows no such part either.
            _ => return Ok(invalid(op::MULTI, Code::MarshallingError)),
        }
    }
}

fn multi_read(r: &mut Reader<'_>) -> Result<Request, JuteError> {
    let mut all = Vec::new();
    loop {
        let (code, done, _err) = (r.int()?, r.bool()?, r.int()?);
        if done {
            return Ok(Request::Read(Read::Multi(all)));
        }
        if all.len() >= MAX_MULTI {
            return Ok(Request::Refused(Code::BadArguments));
        }
        // Op.getData and Op.getChildren of ZooKeeper drop the watch.
        let (path, _watch) = match code {
            op::GET_DATA | op::GET_CHILDREN => (r.string()?, r.bool()?),
            _ => return Ok(Request::Refused(Code::MarshallingError)),
        };
        all.push(match code {
            op::GET_DATA => Read::Data { path, watch: false },
            _ => Read::Children { path, watch: false, with_stat: false },
        });
    }
}

fn body(header: Header, r: &mut Reader<'_>, offered: Offered) -> Result<Request, JuteError> {
    let read = match header.op {
        op::PING => return Ok(Request::Ping),
        op::CLOSE => return Ok(Request::Close),
        op::SASL => return Ok(Request::Sasl),
        op::MULTI => return multi(r, offered),
        op::MULTI_READ => return multi_read(r),
        op::SYNC => match r.string()? {
            path if path.len() <= MAX_PATH_BYTES => return Ok(Request::Sync(path)),
            _ => return Ok(Request::Refused(Code::BadArguments)),
        },
        op::AUTH => {
            let _kind = r.int()?;
            return Ok(Request::Auth { scheme: r.string()?, credentials: r.buffer()?.to_vec() });
        }
        op::RECONFIG => {
            // joining, leaving, new members
            let _servers = (r.string()?, r.string()?, r.string()?);
            let _config = r.long()?;
            return Ok(invalid(header.op, if offered.reconfig { Code::Unimplemented } else { Code::ReconfigDisabled }));
        }
        // A client cannot ask for it: ZooKeeper takes the request's own head for a part of the path.
        op::DELETE_CONTAINER => return Ok(invalid(header.op, Code::BadArguments)),
        op::EXISTS => Read::Exists { path: r.string()?, watch: r.bool()? },
        op::GET_DATA => Read::Data { path: r.string()?, watch: r.bool()? },
        op::GET_ACL => Read::Acl { path: r.string()? },
        op::GET_CHILDREN | op::GET_CHILDREN2 => {
            Read::Children { path: r.string()?, watch: r.bool()?, with_stat: header.op == op::GET_CHILDREN2 }
        }
        op::GET_ALL_CHILDREN_NUMBER => Read::ChildrenNumber { path: r.string()? },
        op::GET_EPHEMERALS => Read::Ephemerals { prefix: r.string()? },
        op::SET_WATCHES | op::SET_WATCHES2 => {
            let since = r.long()?;
            let mut list = || r.vector(4, Reader::string);
            let (data, exist, child) = (list()?, list()?, list()?);
            let (persistent, recursive) = if header.op == op::SET_WATCHES2 { (list()?, list()?) } else { Default::default() };
            Read::SetWatches { since, data, exist, child, persistent, recursive }
        }
        op::ADD_WATCH => {
            let (path, mode) = (r.string()?, r.int()?);
            let mode = match mode {
                0 => WatchMode::Persistent,
                1 => WatchMode::Recursive,
                _ => return Ok(Request::Refused(Code::MarshallingError)),
            };
            Read::AddWatch { path, mode }
        }
        op::CHECK_WATCHES | op::REMOVE_WATCHES => {
            let (path, kind) = (r.string()?, r.int()?);
            let kind = match kind {
                1 => WatchKind::Children,
                2 => WatchKind::Data,
                3 => WatchKind::Any,
                _ => return Ok(Request::Refused(Code::MarshallingError)),
            };
            Read::Watches { path, kind, remove: header.op == op::REMOVE_WATCHES }
        }
        op::WHO_AM_I => Read::WhoAmI,
        code => {
            return Ok(match change(code, r, offered, false)? {
                Some(change) => Request::Write(Write::One(change)),
                None => Request::Unknown,
            });
        }
    };
    Ok(if short(&read) { Request::Read(read) } else { Request::Refused(Code::BadArguments) })
}

/// Whether its paths are short enough that watches on them are no burden.
fn short(read: &Read) -> bool {
    let ok = |path: &String| path.len() <= MAX_PATH_BYTES;
    match read {
        Read::Exists { path, .. }
        | Read::Data { path, .. }
        | Read::Acl { path }
        | Read::Children { path, .. }
        | Read::ChildrenNumber { path }
        | Read::AddWatch { path, .. }
        | Read::Watches { path, .. }
        | Read::Ephemerals { prefix: path } => ok(path),
        Read::SetWatches { data, exist, child, persistent, recursive, .. } => {
            [data, exist, child, persistent, recursive].into_iter().flatten().all(ok)
        }
        Read::Multi(_) | Read::WhoAmI => true,
    }
}
