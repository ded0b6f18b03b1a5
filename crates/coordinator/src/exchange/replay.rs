//! `log.ZXID` as FileTxnLog of ZooKeeper 3.8 writes it, replayed as DataTree.processTxn does.
//!
//! A snapshot of ZooKeeper's may already have what came after its zxid: what is there is not made again, and what is
//! gone is not missed.

use std::{fs, path::Path};

use super::{
    Data, ExchangeError, Node, at,
    snapshot::{Adler, list},
};
use crate::{
    jute::{JuteError, Reader},
    protocol::{Kind, Stat, op},
    tree::{owner, split},
};

const MAGIC: i32 = 0x5a4b_4c47; // ZKLG
const CREATE_SESSION: i32 = -10;
const HEAD_BYTES: usize = 16;

/// Who and when.
struct Header {
    session: i64,
    zxid: i64,
    time_ms: i64,
}

/// Replays a file, as far as it is behind the data.
pub fn file(data: &mut Data, path: &Path) -> Result<(), ExchangeError> {
    let bytes = fs::read(path).map_err(at(path))?;
    let damaged = |offset: usize, reason: &str| ExchangeError::Damaged { path: path.to_owned(), offset, reason: reason.into() };
    let mut r = Reader(&bytes);
    if bytes.len() < HEAD_BYTES {
        // A file that was only just begun.
        return Ok(());
    }
    if r.int() != Ok(MAGIC) {
        return Err(damaged(0, "not a log of ZooKeeper's"));
    }
    r.0 = &bytes[HEAD_BYTES..];
    loop {
        let offset = bytes.len() - r.0.len();
        // The file is filled up with zeros, and may end within its last entry.
        let (Ok(sum), Ok(entry)) = (r.long(), r.buffer()) else { return Ok(()) };
        if entry.is_empty() {
            return Ok(());
        }
        match r.bool() {
            Ok(_) if bytes[bytes.len() - r.0.len() - 1] == b'B' => {}
            _ => return Ok(()),
        }
        let mut adler = Adler::new();
        adler.add(entry);
        if adler.sum() != sum {
            return Err(damaged(offset, "checksum does not match"));
        }
        one(data, entry).map_err(|e| damaged(offset, &e.to_string()))?;
    }
}

fn one(data: &mut Data, entry: &[u8]) -> Result<(), JuteError> {
    let mut r = Reader(entry);
    let (session, _cxid, zxid, time_ms, code) = (r.long()?, r.int()?, r.long()?, r.long()?, r.int()?);
    if zxid <= data.zxid {
        return Ok(());
    }
    let header = Header { session, zxid, time_ms };
    match code {
        CREATE_SESSION => {
            data.sessions.insert(session, r.int()?);
        }
        op::CLOSE => close(data, &header, &mut r)?,
        op::MULTI => {
            let parts = r.vector(8, |r| Ok((r.int()?, r.buffer()?.to_vec())))?;
            if parts.iter().all(|(code, _)| *code != op::ERROR) {
                parts.iter().try_for_each(|(code, body)| change(data, &header, *code, &mut Reader(body)))?;
            }
        }
        code => change(data, &header, code, &mut r)?,
    }
    data.zxid = zxid;
    Ok(())
}

fn close(data: &mut Data, header: &Header, r: &mut Reader<'_>) -> Result<(), JuteError> {
    data.sessions.remove(&header.session);
    let listed = if r.is_empty() { Vec::new() } else { r.vector(4, Reader::string)? };
    let owned: Vec<String> = data
        .nodes
        .iter()
        .filter(|(_, n)| n.stat.ephemeral_owner == header.session && header.session != 0)
        .map(|(p, _)| p.clone())
        .collect();
    listed.iter().chain(&owned).for_each(|path| delete(data, header, path));
    Ok(())
}

fn delete(data: &mut Data, header: &Header, path: &str) {
    if let Some(parent) = data.nodes.get_mut(split(path).0) {
        parent.stat.pzxid = parent.stat.pzxid.max(header.zxid);
    }
    data.nodes.remove(path);
}

fn change(data: &mut Data, header: &Header, code: i32, r: &mut Reader<'_>) -> Result<(), JuteError> {
    match code {
        op::CREATE | op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => {
            let (path, bytes, acl) = (r.string()?, r.nullable()?.map(<[u8]>::to_vec), list(r)?);
            let ephemeral = matches!(code, op::CREATE | op::CREATE2) && r.bool()?;
            // A log of before 3.3 has none.
            let cversion = if r.is_empty() { -1 } else { r.int()? };
            let kind = match code {
                op::CREATE_CONTAINER => Kind::Container,
                op::CREATE_TTL => Kind::Ttl(r.long()?),
                _ if ephemeral => Kind::Ephemeral,
                _ => Kind::Persistent,
            };
            if let Some(parent) = data.nodes.get_mut(split(&path).0) {
                let wanted = if cversion == -1 { parent.stat.cversion.wrapping_add(1) } else { cversion };
                if wanted > parent.stat.cversion {
                    (parent.stat.cversion, parent.stat.pzxid) = (wanted, header.zxid);
                }
                let stat = Stat {
                    czxid: header.zxid,
                    mzxid: header.zxid,
                    pzxid: header.zxid,
                    ctime: header.time_ms,
                    mtime: header.time_ms,
                    ephemeral_owner: owner::encode(kind, header.session),
                    ..Stat::default()
                };
                data.nodes.entry(path).or_insert(Node { data: bytes, acl, stat });
            }
        }
        op::DELETE | op::DELETE_CONTAINER => delete(data, header, &r.string()?),
        op::SET_DATA | op::RECONFIG => {
            let (path, bytes, version) = (r.string()?, r.nullable()?.map(<[u8]>::to_vec), r.int()?);
            if let Some(node) = data.nodes.get_mut(&path) {
                node.data = bytes;
                node.stat.version = version;
                node.stat.mzxid = header.zxid;
                node.stat.mtime = header.time_ms;
            }
        }
        op::SET_ACL => {
            let (path, acl, version) = (r.string()?, list(r)?, r.int()?);
            if let Some(node) = data.nodes.get_mut(&path) {
                node.acl = acl;
                node.stat.aversion = version;
            }
        }
        // Checks and errors change nothing.
        _ => {}
    }
    Ok(())
}
