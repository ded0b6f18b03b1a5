//! What formats 1 and 2 of the data directory wrote, and what it is now: permissions for `world:anyone` only, and no
//! null data. See [`crate::storage::format`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    acl::Acl,
    protocol::{Code, Create, Kind, Op, Stat, Write, perm},
    state::{Session, State},
    tree::{CONFIG_NODE, Tree},
};

/// A change in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum OldWrite {
    Create {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        perms: i32,
        ephemeral: bool,
        sequential: bool,
        with_stat: bool,
    },
    Delete {
        path: String,
        version: i32,
    },
    SetData {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        version: i32,
    },
    SetAcl {
        path: String,
        perms: i32,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    /// its parts are none themselves
    #[serde(deserialize_with = "parts")]
    Multi(Vec<OldWrite>),
    Invalid {
        op: i32,
        code: Code,
    },
}

/// Decodes the parts of a multi. One inside of another is an error: a decoder that followed them would be at the
/// mercy of their depth.
fn parts<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<OldWrite>, D::Error> {
    Ok(Vec::<Part>::deserialize(from)?.into_iter().map(|part| part.0).collect())
}

#[derive(Deserialize)]
struct Part(#[serde(with = "Single")] OldWrite);

/// [`OldWrite`] with a multi that does not decode.
#[derive(Deserialize)]
#[serde(remote = "OldWrite")]
enum Single {
    Create {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        perms: i32,
        ephemeral: bool,
        sequential: bool,
        with_stat: bool,
    },
    Delete {
        path: String,
        version: i32,
    },
    SetData {
        path: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        version: i32,
    },
    SetAcl {
        path: String,
        perms: i32,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    #[serde(deserialize_with = "nested")]
    Multi(Vec<OldWrite>),
    Invalid {
        op: i32,
        code: Code,
    },
}

fn nested<'de, D: serde::Deserializer<'de>>(_: D) -> Result<Vec<OldWrite>, D::Error> {
    Err(serde::de::Error::custom("a multi inside of a multi"))
}

fn op(old: &OldWrite) -> Op {
    match old.clone() {
        OldWrite::Create { path, data, perms, ephemeral, sequential, with_stat } => Op::Create(Create {
            path,
            data: Some(data),
            acl: vec![Acl::world(perms)],
            kind: if ephemeral { Kind::Ephemeral } else { Kind::Persistent },
            sequential,
            with_stat,
        }),
        OldWrite::Delete { path, version } => Op::Delete { path, version },
        OldWrite::SetData { path, data, version } => Op::SetData { path, data: Some(data), version },
        OldWrite::SetAcl { path, perms, version } => Op::SetAcl { path, acl: vec![Acl::world(perms)], version },
        OldWrite::Check { path, version } => Op::Check { path, version },
        OldWrite::Invalid { op, code } => Op::Invalid { op, code },
        OldWrite::Multi(_) => Op::Invalid { op: crate::protocol::op::MULTI, code: Code::BadArguments },
    }
}

impl From<&OldWrite> for Write {
    fn from(old: &OldWrite) -> Self {
        match old {
            OldWrite::Multi(all) => Write::Multi(all.iter().map(op).collect()),
            one => Write::One(op(one)),
        }
    }
}

#[derive(Deserialize)]
struct OldNode {
    #[serde(with = "serde_bytes")]
    data: Vec<u8>,
    perms: i32,
    stat: Stat,
    #[allow(dead_code, reason = "follows from the paths")]
    children: BTreeSet<String>,
}

#[derive(Deserialize)]
struct OldTree {
    nodes: HashMap<String, OldNode>,
    #[allow(dead_code, reason = "follows from the nodes")]
    ephemerals: BTreeMap<i64, BTreeSet<String>>,
    #[allow(dead_code, reason = "follows from the nodes")]
    data_bytes: u64,
}

/// The state in a snapshot.
#[derive(Deserialize)]
pub struct OldState {
    tree: OldTree,
    sessions: BTreeMap<i64, Session>,
    zxid: i64,
}

impl OldState {
    /// The same state.
    pub fn into_state(self) -> Result<State, String> {
        let lists: HashMap<i32, [Acl; 1]> = self.tree.nodes.values().map(|n| (n.perms, [Acl::world(n.perms)])).collect();
        let config = [Acl::world(perm::READ)];
        let mut all = Vec::with_capacity(self.tree.nodes.len());
        for (path, node) in self.tree.nodes {
            let OldNode { data, perms, mut stat, .. } = node;
            let mut acl = &lists[&perms];
            if path == CONFIG_NODE && stat.aversion == 0 {
                // As in a tree that never was in a snapshot.
                acl = &config;
                stat.aversion = -1;
            }
            all.push((path, Some(data), &acl[..], stat));
        }
        Ok(State { tree: Tree::build(all)?, sessions: self.sessions, zxid: self.zxid })
    }
}
