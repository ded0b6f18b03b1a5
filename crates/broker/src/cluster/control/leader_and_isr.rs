//! LeaderAndIsr (key 4), versions 5 to 7: what a broker is to lead and to follow.

use bytes::Bytes;

use super::{
    Malformed, Origin, PartitionErrors,
    codec::{Reader, Writer},
};

/// A partition in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionState {
    pub index: i32,
    pub controller_epoch: i32,
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
    /// Version of the state's znode.
    pub partition_epoch: i32,
    pub replicas: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
    /// The replica need not exist yet.
    pub is_new: bool,
}

/// A topic in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicState {
    pub name: String,
    pub id: [u8; 16],
    pub partitions: Vec<PartitionState>,
}

/// An address in LeaderAndIsr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LiveLeader {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

/// LeaderAndIsr: what the addressed broker leads and follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderAndIsr {
    /// Sender.
    pub origin: Origin,
    /// All that the broker has a replica of is in the request.
    pub full: bool,
    /// Partitions by topic.
    pub topics: Vec<TopicState>,
    /// Addresses of the leaders.
    pub leaders: Vec<LiveLeader>,
}

impl LeaderAndIsr {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 7 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let full = r.i8()? == 1;
        let topics = r.array(|r| {
            let (name, id) = (r.string()?, r.bytes16()?);
            let partitions = r.array(|r| {
                let mut p = PartitionState {
                    index: r.i32()?,
                    controller_epoch: r.i32()?,
                    leader: r.i32()?,
                    leader_epoch: r.i32()?,
                    isr: r.i32s()?,
                    partition_epoch: r.i32()?,
                    replicas: r.i32s()?,
                    adding: r.i32s()?,
                    removing: r.i32s()?,
                    is_new: false,
                };
                p.is_new = r.bool()?;
                if version >= 6 {
                    r.i8()?;
                }
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok(TopicState { name, id, partitions })
        })?;
        let leaders = r.array(|r| {
            let leader = LiveLeader { id: r.i32()?, host: r.string()?, port: r.i32()? };
            r.tags()?;
            Ok(leader)
        })?;
        r.tags()?;
        Ok(Self { origin, full, topics, leaders })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 7 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
        w.i8(self.full.into());
        w.array(&self.topics, |w, t| {
            w.string(&t.name);
            w.raw(&t.id);
            w.array(&t.partitions, |w, p| {
                w.i32(p.index);
                w.i32(p.controller_epoch);
                w.i32(p.leader);
                w.i32(p.leader_epoch);
                w.i32s(&p.isr);
                w.i32(p.partition_epoch);
                w.i32s(&p.replicas);
                w.i32s(&p.adding);
                w.i32s(&p.removing);
                w.bool(p.is_new);
                if version >= 6 {
                    w.i8(0);
                }
                w.tags();
            });
            w.tags();
        });
        w.array(&self.leaders, |w, l| {
            w.i32(l.id);
            w.string(&l.host);
            w.i32(l.port);
            w.tags();
        });
        w.tags();
        w.finish()
    }

    /// The body of an answer: a code for the whole, and one for each partition, by the topics of the request.
    pub fn encode_answer(&self, error: i16, errors: &PartitionErrors) -> Bytes {
        let mut w = Writer::default();
        w.i16(error);
        let topics: Vec<&TopicState> = if error == 0 { self.topics.iter().collect() } else { Vec::new() };
        w.array(&topics, |w, t| {
            w.raw(&t.id);
            let of_topic: Vec<_> = errors.iter().filter(|(name, ..)| *name == t.name).collect();
            w.array(&of_topic, |w, (_, index, code)| {
                w.i32(*index);
                w.i16(*code);
                w.tags();
            });
            w.tags();
        });
        w.tags();
        w.finish()
    }

    /// Reads an answer to this request.
    pub fn decode_answer(&self, body: &[u8]) -> Result<(i16, PartitionErrors), Malformed> {
        let mut r = Reader::new(body);
        let error = r.i16()?;
        let mut errors = Vec::new();
        r.array(|r| {
            let id = r.bytes16()?;
            let name = self.topics.iter().find(|t| t.id == id).map(|t| t.name.clone());
            r.array(|r| {
                let (index, code) = (r.i32()?, r.i16()?);
                r.tags()?;
                errors.extend(name.clone().map(|n| (n, index, code)));
                Ok(())
            })?;
            r.tags()
        })?;
        r.tags()?;
        Ok((error, errors))
    }
}
