//! One node, and how the tree lies in snapshots.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
    ser::{SerializeSeq, SerializeStruct},
};

use super::{
    Tree,
    nodes::{NodeId, Records},
    owner,
    page::{Head, Record},
    quota, split,
};
use crate::{
    acl::{Acl, List},
    protocol::{Kind, Stat},
};

/// One node.
#[derive(Debug, Clone, Copy)]
pub struct Znode<'a> {
    pub(super) tree: &'a Tree,
    pub(super) id: NodeId,
    pub(super) record: Record<'a>,
}

impl<'a> Znode<'a> {
    /// Its path.
    pub fn path(&self) -> &'a str {
        self.record.path
    }

    /// Its data; null and empty are not the same.
    pub fn data(&self) -> Option<&'a [u8]> {
        self.record.data
    }

    /// What may be done by whom.
    pub fn acl(&self) -> &'a List {
        self.tree.acls.get(self.record.head.acl)
    }

    /// How many children it has.
    pub fn child_count(&self) -> usize {
        self.tree.children.count(self.id)
    }

    /// The stat as clients see it.
    pub fn stat(&self) -> Stat {
        self.tree.shown(self.id, &self.record.head, self.data_bytes())
    }

    /// The stat as it is stored: `cversion` counts creates; what follows from data and children is 0.
    pub fn stored_stat(&self) -> Stat {
        self.record.head.stat
    }

    /// What becomes of it.
    pub fn kind(&self) -> Kind {
        owner::kind(self.stored_stat().ephemeral_owner)
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data().map_or(0, |d| d.len() as u64)
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
    records: Records,
    /// all lists in use, with their numbers
    acls: Vec<(List, u32)>,
}

impl Tree {
    /// The stat of a node as clients see it. ZooKeeper stores the number of creates and shows the number of changes, and shows an
    /// owner for ephemeral nodes only (DataNode.copyStat).
    pub(super) fn shown(&self, id: NodeId, head: &Head, data_bytes: u64) -> Stat {
        let (n, stored) = (self.children.count(id) as i32, head.stat);
        Stat {
            data_length: data_bytes as i32,
            num_children: n,
            ephemeral_owner: if owner::kind(stored.ephemeral_owner) == Kind::Ephemeral { stored.ephemeral_owner } else { 0 },
            cversion: stored.cversion.wrapping_mul(2).wrapping_sub(n),
            ..stored
        }
    }

    /// The nodes as they are now, in a time that does not depend on how many there are: some microseconds for a million.
    pub fn freeze(&self) -> Frozen {
        Frozen { records: self.nodes.freeze(), acls: self.acls.lists() }
    }
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        struct All<'a>(&'a Records, HashMap<u32, u32>);
        impl Serialize for All<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let mut to = to.serialize_seq(Some(self.0.len()))?;
                for (_, Record { path, head, data }) in self.0.iter() {
                    let acl = self.1.get(&head.acl).copied().unwrap_or_default();
                    to.serialize_element(&(path, Out { data: data.map(serde_bytes::Bytes::new), acl, stat: head.stat }))?;
                }
                to.end()
            }
        }
        let mut lists: Vec<&(List, u32)> = self.acls.iter().collect();
        lists.sort();
        let acls: Vec<&[Acl]> = lists.iter().map(|(list, _)| &list[..]).collect();
        let places = lists.iter().zip(0..).map(|((_, number), place)| (*number, place)).collect();
        let mut to = to.serialize_struct("Tree", 2)?;
        to.serialize_field("acls", &acls)?;
        to.serialize_field("nodes", &All(&self.records, places))?;
        to.end()
    }
}

/// Reads nodes one by one into a tree: they are in memory once.
struct Nodes<'a>(&'a mut Builder, &'a [Vec<Acl>]);

impl<'de> Visitor<'de> for Nodes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nodes with their paths")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        while let Some((path, node)) = from.next_element::<(String, In)>()? {
            let acl = self.1.get(node.acl as usize).ok_or_else(|| A::Error::custom("an ACL is missing"))?;
            self.0.add((path, node.data, acl.as_slice(), node.stat)).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Nodes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tree")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
                let mut builder = Builder::default();
                let acls: Vec<Vec<Acl>> = from.next_element()?.ok_or_else(|| A::Error::custom("there are no ACLs"))?;
                from.next_element_seed(Nodes(&mut builder, &acls))?.ok_or_else(|| A::Error::custom("there are no nodes"))?;
                builder.finish().map_err(A::Error::custom)
            }
        }
        from.deserialize_struct("Tree", &["acls", "nodes"], Whole)
    }
}

/// A node as it is taken over from elsewhere: path, data, ACL, and stat as it is stored.
pub type Plain<'a> = (String, Option<Vec<u8>>, &'a [Acl], Stat);

/// Makes a tree of nodes in any order.
struct Builder(Tree);

impl Default for Builder {
    fn default() -> Self {
        Self(Tree::empty())
    }
}

impl Builder {
    fn add(&mut self, (path, data, acl, stat): Plain<'_>) -> Result<(), String> {
        if self.0.nodes.find(&path).is_some() {
            return Err(format!("{path} is there twice"));
        }
        let acl = self.0.acls.retain(acl);
        self.0.put(&path, &Head { acl, stat }, data.as_deref());
        Ok(())
    }

    fn finish(self) -> Result<Tree, String> {
        let Self(mut tree) = self;
        for (id, record) in tree.nodes.iter() {
            if record.path == "/" {
                continue;
            }
            let parent = split(record.path).0;
            let Some(above) = tree.nodes.find(parent) else { return Err(format!("{} has no parent", record.path)) };
            tree.children.insert((above, parent), id, &tree.nodes);
            if let Some(limited) = quota::limited(record.path) {
                tree.quotas.insert(limited.to_owned());
            }
        }
        if tree.nodes.find("/").is_some() { Ok(tree) } else { Err("there is no root".into()) }
    }
}

impl Tree {
    /// A tree of these nodes. Each but the root must have its parent among them.
    pub fn build(all: Vec<Plain<'_>>) -> Result<Self, String> {
        let mut builder = Builder::default();
        all.into_iter().try_for_each(|node| builder.add(node))?;
        builder.finish()
    }
}
