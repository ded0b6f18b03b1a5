//! What this server answers: replies, results of writes, stats, watch events.

use serde::{Deserialize, Serialize};

use super::op;
use crate::{acl::Acl, jute::Writer};

/// A node's metadata.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

impl Stat {
    /// Writes it in the protocol's order.
    pub fn encode(&self, w: &mut Writer) {
        w.long(self.czxid).long(self.mzxid).long(self.ctime).long(self.mtime);
        w.int(self.version).int(self.cversion).int(self.aversion).long(self.ephemeral_owner);
        w.int(self.data_length).int(self.num_children).long(self.pzxid);
    }
}

/// What a write answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAnswer {
    /// path of a new node, and its stat for all but `create`
    Created(String, Option<Stat>),
    /// new stat
    Stat(Stat),
    /// nothing but success
    Done,
    /// one answer per operation of a multi; all are `Ok`, or each says why nothing was done
    Multi(Vec<Result<WriteAnswer, i32>>, Vec<i32>),
}

impl WriteAnswer {
    /// Writes the body behind the reply's header.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            WriteAnswer::Created(path, stat) => {
                w.string(path);
                if let Some(s) = stat {
                    s.encode(w);
                }
            }
            WriteAnswer::Stat(s) => s.encode(w),
            WriteAnswer::Done => {}
            WriteAnswer::Multi(results, ops) => {
                for (result, op) in results.iter().zip(ops) {
                    result_of_multi(w, *op, result.as_ref().map_err(|code| *code), |w, answer| answer.encode(w));
                }
                end_of_multi(w);
            }
        }
    }
}

/// Writes one result of `multi` or `multiRead`.
pub fn result_of_multi<T>(w: &mut Writer, op: i32, result: Result<T, i32>, body: impl FnOnce(&mut Writer, T)) {
    match result {
        Ok(answer) => {
            w.int(op).bool(false).int(0);
            body(w, answer);
        }
        Err(code) => {
            w.int(op::ERROR).bool(false).int(code).int(code);
        }
    }
}

/// Writes what is behind the last result.
pub fn end_of_multi(w: &mut Writer) {
    w.int(op::ERROR).bool(true).int(-1);
}

/// Writes a vector of ACL entries.
pub fn encode_acl(w: &mut Writer, list: &[Acl]) {
    w.int(list.len() as i32);
    for acl in list {
        w.int(acl.perms).string(&acl.id.scheme).string(&acl.id.id);
    }
}

/// Writes a vector of strings.
pub fn encode_strings<T: AsRef<str>>(w: &mut Writer, all: impl ExactSizeIterator<Item = T>) {
    w.int(all.len() as i32);
    all.for_each(|s| {
        w.string(s.as_ref());
    });
}

/// A reply's frame: header and body.
pub fn reply(xid: i32, zxid: i64, err: i32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(xid).long(zxid).int(err);
    if err == 0 {
        body(&mut w);
    }
    w.frame()
}

/// Kinds of watch events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum EventType {
    Created = 1,
    Deleted = 2,
    DataChanged = 3,
    ChildrenChanged = 4,
}

/// A watch event's frame.
pub fn event(kind: EventType, path: &str) -> Vec<u8> {
    let mut w = Writer::framed();
    w.int(-1).long(-1).int(0).int(kind as i32).int(3).string(path);
    w.frame()
}
