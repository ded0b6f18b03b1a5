//! `snapshot.ZXID` as FileSnap and DataTree of ZooKeeper 3.8 write it: sessions, ACLs, nodes with parents first, and an
//! Adler-32 of all before it. What may follow, a digest of the tree, is not read and not written.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use super::{Data, Node};
use crate::{
    acl::{self, Acl, Id},
    jute::{JuteError, Reader, Writer},
    protocol::{Stat, encode_acl},
};

const MAGIC: i32 = 0x5a4b_534e; // ZKSN
const VERSION: i32 = 2;
/// The number of `world:anyone` with all permissions, which is in no table.
const OPEN: i64 = -1;

/// The checksum of snapshots and log entries.
#[derive(Debug)]
pub struct Adler(u32, u32);

impl Adler {
    /// Of nothing.
    pub fn new() -> Self {
        Self(1, 0)
    }
    /// Of more.
    pub fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(5552) {
            for b in part {
                self.0 += u32::from(*b);
                self.1 += self.0;
            }
            self.0 %= 65_521;
            self.1 %= 65_521;
        }
    }
    /// The sum.
    pub fn sum(&self) -> i64 {
        i64::from(self.1) << 16 | i64::from(self.0)
    }
}

fn encode(w: &mut Writer, node: &Node, acl: i64) {
    let s = &node.stat;
    w.nullable(node.data.as_deref()).long(acl);
    w.long(s.czxid).long(s.mzxid).long(s.ctime).long(s.mtime);
    w.int(s.version).int(s.cversion).int(s.aversion).long(s.ephemeral_owner).long(s.pzxid);
}

/// Writes a snapshot.
pub fn write(data: &Data, out: &mut impl Write) -> io::Result<()> {
    let mut sum = Adler::new();
    let mut put = |w: &mut Writer| {
        sum.add(&w.0);
        let done = out.write_all(&w.0);
        w.0.clear();
        done
    };
    let mut w = Writer::default();
    w.int(MAGIC).int(VERSION).long(-1);
    w.int(data.sessions.len() as i32);
    data.sessions.iter().for_each(|(id, timeout)| {
        w.long(*id).int(*timeout);
    });
    put(&mut w)?;
    let open = acl::open();
    let mut numbers: BTreeMap<&[Acl], i64> = BTreeMap::new();
    for node in data.nodes.values().filter(|n| n.acl != open) {
        let next = numbers.len() as i64 + 1;
        numbers.entry(&node.acl).or_insert(next);
    }
    w.int(numbers.len() as i32);
    for (list, number) in &numbers {
        w.long(*number);
        encode_acl(&mut w, list);
    }
    put(&mut w)?;
    for (path, node) in &data.nodes {
        w.string(if path == "/" { "" } else { path });
        encode(&mut w, node, numbers.get(node.acl.as_slice()).copied().unwrap_or(OPEN));
        put(&mut w)?;
    }
    w.string("/");
    put(&mut w)?;
    let sum = sum.sum();
    w.long(sum).string("/");
    out.write_all(&w.0)
}

/// An ACL.
pub fn list(r: &mut Reader<'_>) -> Result<Vec<Acl>, JuteError> {
    r.vector(12, |r| Ok(Acl { perms: r.int()?, id: Id { scheme: r.string()?, id: r.string()? } }))
}

fn decode(r: &mut Reader<'_>) -> Result<(Data, i64, bool), JuteError> {
    let known = (r.int()?, r.int()?) == (MAGIC, VERSION);
    r.long()?;
    let mut data = Data::default();
    for _ in 0..r.int()? {
        data.sessions.insert(r.long()?, r.int()?);
    }
    let mut acls: HashMap<i64, Vec<Acl>> = HashMap::new();
    for _ in 0..r.int()? {
        acls.insert(r.long()?, list(r)?);
    }
    loop {
        let path = r.string()?;
        if path == "/" {
            break;
        }
        let bytes = r.nullable()?.map(<[u8]>::to_vec);
        let acl = r.long()?;
        let (czxid, mzxid, ctime, mtime) = (r.long()?, r.long()?, r.long()?, r.long()?);
        let (version, cversion, aversion, ephemeral_owner, pzxid) = (r.int()?, r.int()?, r.int()?, r.long()?, r.long()?);
        let stat =
            Stat { czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, pzxid, data_length: 0, num_children: 0 };
        // What ZooKeeper does not find in its table protects nothing there either.
        let acl = acls.get(&acl).cloned().unwrap_or_else(acl::open);
        data.nodes.insert(if path.is_empty() { "/".into() } else { path }, Node { data: bytes, acl, stat });
    }
    let left = r.0.len() as i64;
    Ok((data, left, known))
}

/// Reads a snapshot. An error has the offset at which the bytes are not a snapshot's.
pub fn read(bytes: &[u8]) -> Result<Data, (usize, String)> {
    let mut r = Reader(bytes);
    let decoded = decode(&mut r);
    let offset = bytes.len() - r.0.len();
    let (data, left, known) = decoded.map_err(|e| (offset, e.to_string()))?;
    if !known {
        return Err((0, "not a snapshot of ZooKeeper's".into()));
    }
    let mut sum = Adler::new();
    sum.add(&bytes[..bytes.len() - left as usize]);
    match r.long() {
        Ok(want) if want == sum.sum() => Ok(data),
        Ok(_) => Err((offset, "checksum does not match".into())),
        Err(e) => Err((offset, e.to_string())),
    }
}
