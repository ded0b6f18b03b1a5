//! Requests as they are decoded: what ZooKeeper answers with an error is a [`Request::Refused`], not a lost connection.
//!
//! Invariant: nothing here recurs, and no list is longer than the bytes that are there.

use super::{Code, Header, Read, Request, Write, op, perm};
use crate::jute::{JuteError, Reader};

/// Longest path that is created, read or watched, in bytes. ZooKeeper knows no limit but that of a request.
pub const MAX_PATH_BYTES: usize = 16 * 1024;

/// Whether a path may be asked for: valid, and not so long that watches on it are a burden.
fn accepted(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES && valid_path(path)
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

/// Reads ACLs. Only `world:anyone` is known so far: anything else is refused, so that nobody relies on a
/// protection that is not there.
fn acl(r: &mut Reader<'_>) -> Result<Result<i32, Code>, JuteError> {
    let list = r.vector(12, |r| Ok((r.int()?, r.string()?, r.string()?)))?;
    let known = !list.is_empty() && list.iter().all(|(p, s, i)| s == "world" && i == "anyone" && p & !perm::ALL == 0);
    Ok(if known { Ok(list.iter().fold(0, |all, (p, _, _)| all | p)) } else { Err(Code::InvalidAcl) })
}

/// How many parts a multi may have.
const MAX_MULTI: usize = 10_000;

fn write_op(code: i32, r: &mut Reader<'_>) -> Result<Option<Write>, JuteError> {
    let checked = |w: Write, path: &str| {
        // What is there, however it got there, can be deleted.
        let ok = if code == op::DELETE { valid_path(path) } else { accepted(path) };
        if ok { w } else { Write::Invalid { op: code, code: Code::BadArguments } }
    };
    Ok(Some(match code {
        op::CREATE | op::CREATE2 => {
            let (path, data) = (r.string()?, r.buffer()?.to_vec());
            let perms = acl(r)?;
            let flags = r.int()?;
            let sequential = flags & 2 != 0;
            match (perms, flags) {
                (_, 4..=6) => Write::Invalid { op: code, code: Code::Unimplemented }, // containers and TTLs
                (_, f) if !(0..=3).contains(&f) => Write::Invalid { op: code, code: Code::BadArguments },
                (Err(e), _) => Write::Invalid { op: code, code: e },
                (Ok(perms), flags) => {
                    let tested = if sequential { format!("{path}0") } else { path.clone() };
                    checked(
                        Write::Create { path, data, perms, ephemeral: flags & 1 != 0, sequential, with_stat: code == op::CREATE2 },
                        &tested,
                    )
                }
            }
        }
        op::DELETE => {
            let (path, version) = (r.string()?, r.int()?);
            checked(Write::Delete { path: path.clone(), version }, &path)
        }
        op::SET_DATA => {
            let (path, data, version) = (r.string()?, r.buffer()?.to_vec(), r.int()?);
            checked(Write::SetData { path: path.clone(), data, version }, &path)
        }
        op::SET_ACL => {
            let path = r.string()?;
            let perms = acl(r)?;
            let version = r.int()?;
            match perms {
                Ok(perms) => checked(Write::SetAcl { path: path.clone(), perms, version }, &path),
                Err(e) => Write::Invalid { op: code, code: e },
            }
        }
        op::CHECK => {
            let (path, version) = (r.string()?, r.int()?);
            checked(Write::Check { path: path.clone(), version }, &path)
        }
        _ => return Ok(None),
    }))
}

/// Decodes a request behind its length. Only a bad header is an error: a body that does not decode is answered.
pub fn decode(bytes: &[u8]) -> Result<(Header, Request), JuteError> {
    let mut r = Reader(bytes);
    let header = Header { xid: r.int()?, op: r.int()? };
    Ok((header, body(header, &mut r).unwrap_or(Request::Refused(Code::MarshallingError))))
}

fn body(header: Header, r: &mut Reader<'_>) -> Result<Request, JuteError> {
    let read = |read: Read, path: &str| {
        if accepted(path) { Request::Read(read) } else { Request::Refused(Code::BadArguments) }
    };
    let request = match header.op {
        op::PING => Request::Ping,
        op::CLOSE => Request::Close,
        op::SYNC => match r.string()? {
            path if path.len() <= MAX_PATH_BYTES => Request::Sync(path),
            _ => Request::Refused(Code::BadArguments),
        },
        op::AUTH => Request::Refused(Code::AuthFailed),
        op::EXISTS => {
            let (path, watch) = (r.string()?, r.bool()?);
            read(Read::Exists { path: path.clone(), watch }, &path)
        }
        op::GET_DATA => {
            let (path, watch) = (r.string()?, r.bool()?);
            read(Read::Data { path: path.clone(), watch }, &path)
        }
        op::GET_ACL => {
            let path = r.string()?;
            read(Read::Acl { path: path.clone() }, &path)
        }
        op::GET_CHILDREN | op::GET_CHILDREN2 => {
            let (path, watch) = (r.string()?, r.bool()?);
            read(Read::Children { path: path.clone(), watch, with_stat: header.op == op::GET_CHILDREN2 }, &path)
        }
        op::SET_WATCHES => {
            let since = r.long()?;
            let mut list = || r.vector(4, Reader::string);
            let (data, exist, child) = (list()?, list()?, list()?);
            if ![&data, &exist, &child].into_iter().flatten().all(|path| accepted(path)) {
                return Ok(Request::Refused(Code::BadArguments));
            }
            Request::Read(Read::SetWatches { since, data, exist, child })
        }
        op::MULTI => {
            let mut all = Vec::new();
            loop {
                let (code, done, _err) = (r.int()?, r.bool()?, r.int()?);
                if done {
                    break;
                }
                if all.len() >= MAX_MULTI {
                    return Ok(Request::Refused(Code::BadArguments));
                }
                match write_op(code, r)? {
                    Some(w) if code != op::SET_ACL => all.push(w),
                    None if matches!(code, op::GET_DATA | op::GET_CHILDREN) => return Ok(Request::Refused(Code::Unimplemented)),
                    // Another multi among them: ZooKeeper's MultiOperationRecord knows no such part either.
                    _ => return Ok(Request::Refused(Code::MarshallingError)),
                }
            }
            Request::Write(Write::Multi(all))
        }
        op::CHECK => Request::Refused(Code::Unimplemented),
        code => match write_op(code, r)? {
            Some(Write::Invalid { code, .. }) => Request::Refused(code),
            Some(w) => Request::Write(w),
            None => Request::Refused(Code::Unimplemented),
        },
    };
    Ok(request)
}
