//! One node, and how the tree lies in snapshots.

use std::sync::Arc;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    ser::{SerializeSeq, SerializeStruct},
};

use super::{Tree, nodes::Nodes, owner, quota, split};
use crate::{
    acl::{Acl, List},
    protocol::{Kind, Stat},
};

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Znode {
    /// its data; null and empty are not the same
    pub data: Option<Vec<u8>>,
    /// who may do what
    pub acl: List,
    /// `cversion` counts creates only here; see [`Znode::stat`]
    pub(super) stat: Stat,
    /// how many children it has
    pub child_count: u32,
}

impl Znode {
    /// The stat as clients see it. ZooKeeper stores the number of creates and shows the number of changes, and shows an
    /// owner for ephemeral nodes only (DataNode.copyStat).
    pub fn stat(&self) -> Stat {
        let n = self.child_count as i32;
        Stat {
            data_length: self.data_bytes() as i32,
            num_children: n,
            ephemeral_owner: if self.kind() == Kind::Ephemeral { self.stat.ephemeral_owner } else { 0 },
            cversion: self.stat.cversion.wrapping_mul(2).wrapping_sub(n),
            ..self.stat
        }
    }

    /// The stat as it is stored: `cversion` counts creates.
    pub fn stored_stat(&self) -> Stat {
        self.stat
    }

    /// What becomes of it.
    pub fn kind(&self) -> Kind {
        owner::kind(self.stat.ephemeral_owner)
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data.as_ref().map_or(0, |d| d.len() as u64)
    }
}

/// A node as it goes into a snapshot. Children, owners and quotas follow from paths and stats.
#[derive(Serialize)]
struct Out<'a> {
    data: Option<&'a serde_bytes::Bytes>,
    /// place in the list of ACLs
    acl: u32,
    stat: Stat,
}

/// A node as it comes from a snapshot.
#[derive(Deserialize)]
struct In {
    #[serde(with = "serde_bytes")]
    data: Option<Vec<u8>>,
    acl: u32,
    stat: Stat,
}

/// The nodes of a tree at one moment, whatever becomes of the tree. It lies in snapshots as the tree does.
#[derive(Debug)]
pub struct Frozen {
    nodes: Nodes,
    /// all lists in use
    acls: Vec<List>,
}

impl Tree {
    /// The nodes as they are now, in a time that does not depend on how many there are.
    pub fn freeze(&self) -> Frozen {
        Frozen { nodes: self.nodes.clone(), acls: self.acls.lists() }
    }
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        struct All<'a>(&'a Nodes, &'a [&'a List]);
        impl Serialize for All<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let mut to = to.serialize_seq(Some(self.0.len()))?;
                for (path, node) in self.0.iter() {
                    let acl = self.1.binary_search(&&node.acl).unwrap_or_default() as u32;
                    let data = node.data.as_deref().map(serde_bytes::Bytes::new);
                    to.serialize_element(&(&**path, Out { data, acl, stat: node.stat }))?;
                }
                to.end()
            }
        }
        let mut lists: Vec<&List> = self.acls.iter().collect();
        lists.sort();
        let acls: Vec<&[Acl]> = lists.iter().map(|list| &list[..]).collect();
        let mut to = to.serialize_struct("Tree", 2)?;
        to.serialize_field("acls", &acls)?;
        to.serialize_field("nodes", &All(&self.nodes, &lists))?;
        to.end()
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            acls: Vec<Vec<Acl>>,
            nodes: Vec<(String, In)>,
        }
        let whole = Whole::deserialize(from)?;
        let mut nodes = Vec::with_capacity(whole.nodes.len());
        for (path, node) in whole.nodes {
            let acl = whole.acls.get(node.acl as usize).ok_or_else(|| serde::de::Error::custom("an ACL is missing"))?;
            nodes.push((path, node.data, acl.as_slice(), node.stat));
        }
        Tree::build(nodes).map_err(serde::de::Error::custom)
    }
}

/// A node as it is taken over from elsewhere: path, data, ACL, and stat as it is stored.
pub type Plain<'a> = (String, Option<Vec<u8>>, &'a [Acl], Stat);

impl Tree {
    /// A tree of these nodes. Each but the root must have its parent among them.
    pub fn build(all: Vec<Plain<'_>>) -> Result<Self, String> {
        let mut tree = Self::empty();
        for (path, data, acl, stat) in all {
            let acl = tree.acls.retain(acl);
            tree.put(path.into(), Znode { data, acl, stat, child_count: 0 });
        }
        let paths: Vec<Arc<str>> = tree.nodes.iter().map(|(path, _)| path.clone()).filter(|path| **path != *"/").collect();
        for path in paths {
            let parent = split(&path).0;
            if !tree.nodes.contains(parent) {
                return Err(format!("{path} has no parent"));
            }
            tree.list(parent, &path, true);
            if let Some(limited) = quota::limited(&path) {
                tree.quotas.insert(limited.to_owned());
            }
        }
        if tree.nodes.contains("/") { Ok(tree) } else { Err("there is no root".into()) }
    }
}
