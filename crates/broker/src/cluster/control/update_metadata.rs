//! UpdateMetadata (key 6), versions 7 and 8: which brokers live, and what a broker is to tell clients of partitions.

use bytes::Bytes;

use super::{
    Malformed, Origin,
    codec::{Reader, Writer},
};

/// An address in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub port: i32,
    pub host: String,
    pub listener: String,
    /// 0 is PLAINTEXT.
    pub protocol: i16,
}

/// A broker in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LiveBroker {
    pub id: i32,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
}

/// A partition in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionMetadata {
    pub index: i32,
    pub controller_epoch: i32,
    /// -1 for none, [`super::LEADER_DURING_DELETE`] if it is being deleted.
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
    pub partition_epoch: i32,
    pub replicas: Vec<i32>,
    pub offline: Vec<i32>,
}

/// A topic in UpdateMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicMetadata {
    pub name: String,
    pub id: [u8; 16],
    pub partitions: Vec<PartitionMetadata>,
}

/// UpdateMetadata: living brokers, and what has changed of partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateMetadata {
    /// Sender.
    pub origin: Origin,
    /// Partitions by topic.
    pub topics: Vec<TopicMetadata>,
    /// All living brokers.
    pub brokers: Vec<LiveBroker>,
}

impl UpdateMetadata {
    /// Reads the body of a request.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let controller_id = r.i32()?;
        if version >= 8 {
            r.bool()?;
        }
        let origin = Origin { controller_id, controller_epoch: r.i32()?, broker_epoch: r.i64()? };
        let topics = r.array(|r| {
            let (name, id) = (r.string()?, r.bytes16()?);
            let partitions = r.array(|r| {
                let p = PartitionMetadata {
                    index: r.i32()?,
                    controller_epoch: r.i32()?,
                    leader: r.i32()?,
                    leader_epoch: r.i32()?,
                    isr: r.i32s()?,
                    partition_epoch: r.i32()?,
                    replicas: r.i32s()?,
                    offline: r.i32s()?,
                };
                r.tags()?;
                Ok(p)
            })?;
            r.tags()?;
            Ok(TopicMetadata { name, id, partitions })
        })?;
        let brokers = r.array(|r| {
            let id = r.i32()?;
            let endpoints = r.array(|r| {
                let e = Endpoint { port: r.i32()?, host: r.string()?, listener: r.string()?, protocol: r.i16()? };
                r.tags()?;
                Ok(e)
            })?;
            let rack = r.nullable_string()?;
            r.tags()?;
            Ok(LiveBroker { id, endpoints, rack })
        })?;
        r.tags()?;
        Ok(Self { origin, topics, brokers })
    }

    /// The body of a request.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut w = Writer::default();
        w.i32(self.origin.controller_id);
        if version >= 8 {
            w.bool(false);
        }
        w.i32(self.origin.controller_epoch);
        w.i64(self.origin.broker_epoch);
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
                w.i32s(&p.offline);
                w.tags();
            });
            w.tags();
        });
        w.array(&self.brokers, |w, b| {
            w.i32(b.id);
            w.array(&b.endpoints, |w, e| {
                w.i32(e.port);
                w.string(&e.host);
                w.string(&e.listener);
                w.i16(e.protocol);
                w.tags();
            });
            w.nullable_string(b.rack.as_deref());
            w.tags();
        });
        w.tags();
        w.finish()
    }
}
