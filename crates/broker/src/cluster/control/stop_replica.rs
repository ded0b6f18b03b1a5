//! StopReplica (key 5), versions 3 and 4: which replicas a broker is to fetch no more, or to have no more.

use bytes::Bytes;

use super::{
    Malformed, Origin,
    codec::{Reader, Writer},
};

/// A partition in StopReplica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StopPartition {
    pub index: i32,
    /// -1 is not checked, -2 is for a topic's deletion.
    pub leader_epoch: i32,
    /// Its files go, too.
    pub delete: bool,
}

/// StopReplica: replicas that are not to be fetched, or not to be had, any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopReplica {
    /// Sender.
    pub origin: Origin,
    /// Partitions by topic.
    pub topics: Vec<(String, Vec<StopPartition>)>,
}

impl StopReplica {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 4 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let topics = r.array(|r| {
            let name = r.string()?;
            let partitions = r.array(|r| {
                let p = StopPartition { index: r.i32()?, leader_epoch: r.i32()?, delete: r.bool()? };
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok((name, partitions))
        })?;
        r.tags()?;
        Ok(Self { origin, topics })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 4 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
        w.array(&self.topics, |w, (name, partitions)| {
            w.string(name);
            w.array(partitions, |w, p| {
                w.i32(p.index);
                w.i32(p.leader_epoch);
                w.bool(p.delete);
                w.tags();
            });
            w.tags();
        });
        w.tags();
        w.finish()
    }
}
