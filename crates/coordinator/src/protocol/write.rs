//! Changes that clients ask for, as they travel in commands and lie in the log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Code, op};
use crate::{
    acl::{Acl, Id, expand},
    tree::owner,
};

/// What becomes of a new node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// stays until it is deleted
    Persistent,
    /// dies with its session
    Ephemeral,
    /// is deleted some time after its last child
    Container,
    /// is deleted some time after it had neither child nor change for so many milliseconds
    Ttl(i64),
}

/// A new node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// path, for a sequential node without its number
    pub path: String,
    /// data; null and empty are not the same
    #[serde(with = "serde_bytes")]
    pub data: Option<Vec<u8>>,
    /// who may do what
    pub acl: Vec<Acl>,
    /// what becomes of it
    pub kind: Kind,
    /// gets a number behind its name
    pub sequential: bool,
    /// answer with the stat too: all but `create` do
    pub with_stat: bool,
}

/// One change of one node, or a check of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `create`, `create2`, `createContainer`, `createTTL`
    Create(Create),
    /// `delete`
    Delete {
        /// path
        path: String,
        /// expected version, -1 for any
        version: i32,
    },
    /// `setData`
    SetData {
        /// path
        path: String,
        /// new data; null and empty are not the same
        #[serde(with = "serde_bytes")]
        data: Option<Vec<u8>>,
        /// expected version, -1 for any
        version: i32,
    },
    /// `setACL`
    SetAcl {
        /// path
        path: String,
        /// new list
        acl: Vec<Acl>,
        /// expected ACL version, -1 for any
        version: i32,
    },
    /// `check`
    Check {
        /// path
        path: String,
        /// expected version, -1 for any
        version: i32,
    },
    /// An operation that cannot succeed: it gets its zxid and its place in a multi, as in ZooKeeper.
    Invalid {
        /// the operation
        op: i32,
        /// why
        code: Code,
    },
}

/// What a client asks to change. A multi has no multi in it, so a decoder is not at the mercy of its depth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// one operation
    One(Op),
    /// `multi`: all or nothing
    Multi(Vec<Op>),
}

/// Who asks for a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// identities of the connection; `super` may do everything
    pub ids: Arc<[Id]>,
    /// hard limits of quotas are obeyed (`enforceQuota`)
    pub enforce_quota: bool,
}

impl Op {
    /// The operation's code, as the results of a multi name it.
    pub fn code(&self) -> i32 {
        match self {
            Op::Create(c) if c.with_stat => op::CREATE2,
            Op::Create(_) => op::CREATE,
            Op::Delete { .. } => op::DELETE,
            Op::SetData { .. } => op::SET_DATA,
            Op::SetAcl { .. } => op::SET_ACL,
            Op::Check { .. } => op::CHECK,
            Op::Invalid { op, .. } => *op,
        }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let list = |acl: &[Acl]| acl.iter().map(|a| 16 + a.id.id.len()).sum::<usize>();
        match self {
            Op::Create(c) => c.path.len() + c.data.as_ref().map_or(0, Vec::len) + list(&c.acl),
            Op::SetData { path, data, .. } => path.len() + data.as_ref().map_or(0, Vec::len),
            Op::SetAcl { path, acl, .. } => path.len() + list(acl),
            Op::Delete { path, .. } | Op::Check { path, .. } => path.len(),
            Op::Invalid { .. } => 0,
        }
    }

    /// Checks what does not depend on the tree and is checked before it, and fills identities into ACLs.
    pub fn prepare(&mut self, ids: &[Id]) {
        let checked = match self {
            Op::Create(c) if !c.path.contains('/') || c.path.contains('\0') => Err(Code::BadArguments),
            Op::Create(c) => expand(&c.acl, ids).map(|acl| c.acl = acl),
            Op::SetAcl { path, .. } if !super::valid_path(path) => Err(Code::BadArguments),
            Op::SetAcl { acl, .. } => expand(acl, ids).map(|list| *acl = list),
            _ => Ok(()),
        };
        if let Err(code) = checked {
            *self = Op::Invalid { op: self.code(), code };
        }
    }
}

/// What identities may add to the lists of one write, in bytes.
const MAX_ADDED_BYTES: usize = 2 * 1024 * 1024;

impl Write {
    /// Its operations.
    pub fn ops(&self) -> &[Op] {
        match self {
            Write::One(op) => std::slice::from_ref(op),
            Write::Multi(all) => all,
        }
    }

    /// [`Op::prepare`] for each. What identities add is bounded for all of them together: a few bytes of each list stand for long ones.
    pub fn prepare(&mut self, ids: &[Id]) {
        match self {
            Write::One(op) => op.prepare(ids),
            Write::Multi(all) => {
                let mut added = 0;
                for op in all {
                    let before = op.bytes();
                    op.prepare(ids);
                    added += op.bytes().saturating_sub(before);
                    if added > MAX_ADDED_BYTES {
                        *op = Op::Invalid { op: op.code(), code: Code::InvalidAcl };
                    }
                }
            }
        }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.ops().iter().map(Op::bytes).sum()
    }
}

impl Kind {
    /// What the flags of an operation ask for: the kind, and whether it gets a number. `extended` allows TTLs.
    /// Sources: CreateMode, PrepRequestProcessor.validateCreateRequest and pRequest2TxnCreate.
    pub fn of(code: i32, flags: i32, ttl: i64, extended: bool) -> Result<(Self, bool), Code> {
        let with_ttl = matches!(flags, 5 | 6);
        if !(0..=6).contains(&flags) {
            return Err(Code::BadArguments);
        }
        if with_ttl && !extended {
            return Err(Code::Unimplemented);
        }
        if with_ttl != (1..=owner::MAX_TTL_MS).contains(&ttl) || (!with_ttl && ttl >= 0) {
            return Err(Code::BadArguments);
        }
        let kind = match (code, flags) {
            (op::CREATE_CONTAINER, _) => Kind::Container,
            (op::CREATE_TTL, 5 | 6) => Kind::Ttl(ttl),
            // ZooKeeper 3.8 fails on a TTL that is not one only when it applies it.
            (op::CREATE_TTL, _) => return Err(Code::BadArguments),
            (_, 1 | 3) => Kind::Ephemeral,
            _ => Kind::Persistent,
        };
        Ok((kind, matches!(flags, 2 | 3 | 6)))
    }
}
