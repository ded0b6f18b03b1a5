//! Who leads a partition, for a client that asked a broker that does not (KIP-951).

use std::collections::BTreeMap;

use kafka_protocol::{ResponseError, messages::BrokerId, protocol::StrBytes};

use super::{Context, metadata::endpoint};
use crate::cluster::Image;

/// Leaders that are named in an answer, with their addresses.
#[derive(Debug, Default)]
pub struct Leaders {
    endpoints: BTreeMap<i32, (String, u16)>,
}

impl Leaders {
    /// Leader and epoch of a partition, -1 for what is not known, if this error says that it is not this broker.
    pub fn note(&mut self, image: &Image, context: &Context, error: i16, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let moved = [ResponseError::NotLeaderOrFollower.code(), ResponseError::FencedLeaderEpoch.code()].contains(&error);
        let info = image.topic(topic).filter(|_| moved)?.partitions.get(&partition)?;
        if let Some(at) = image.brokers.get(&info.leader).and_then(|b| endpoint(b, context)) {
            self.endpoints.insert(info.leader, (at.host.clone(), at.port));
        }
        Some((info.leader, info.leader_epoch))
    }

    /// Broker, host and port of each.
    pub fn endpoints(self) -> impl ExactSizeIterator<Item = (BrokerId, StrBytes, i32)> {
        self.endpoints.into_iter().map(|(id, (host, port))| (BrokerId(id), StrBytes::from_string(host), port.into()))
    }
}
