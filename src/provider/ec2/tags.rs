//! The tags of Septet's things on EC2, written and read.

use std::collections::BTreeMap;

use septet_ec2::Tags;

use super::Ec2;
use crate::{
    clock::now_s,
    identity::ClusterId,
    inventory::HostId,
    observed::layout::{Layout, ZoneSubnet},
    provider::marks::Marks,
};

pub const CLUSTER: &str = "septet:cluster";
pub const NAME: &str = "septet:name";
pub const PREFIX: &str = "septet:prefix";
pub const ROLE: &str = "septet:role";
pub const INDEX: &str = "septet:index";
pub const HOST_KEY: &str = "septet:hostkey";
/// What a security group is for: a role's group, or `hosts`.
pub const GROUP: &str = "septet:group";
/// When the cluster expires, in seconds since 1970.
pub const EXPIRES: &str = "septet:expires";
/// Engine and mode.
pub const ENGINE: &str = "septet:engine";
/// That a file system was made on a volume: on the volume, and on the instance that had it then.
pub const FORMATTED: &str = "septet:formatted";
/// Where the row of addresses begins in each subnet.
const BASE: &str = "septet:base";
/// `septet:zone.N`: subnet, zone, network.
const ZONE: &str = "septet:zone.";
/// Zones that are written down, at the most.
pub const MAX_ZONES: usize = 8;
/// The tag by which EC2's console calls things.
pub const DISPLAY: &str = "Name";

/// The marks in a thing's tags.
pub fn marks(tags: &Tags) -> Option<Marks> {
    Marks::read(|name| tags.get(&format!("septet:{name}")).map(String::as_str))
}

/// A layout as tags.
pub fn write_layout(layout: &Layout, into: &mut Tags) {
    into.insert(BASE.into(), layout.base.to_string());
    for (i, s) in layout.subnets.iter().enumerate() {
        into.insert(format!("{ZONE}{i}"), format!("{},{},{}/{}", s.id, s.zone, s.network, s.bits));
    }
}

/// A layout from tags.
pub fn read_layout(tags: &Tags) -> Option<Layout> {
    let base = tags.get(BASE)?.parse().ok()?;
    let subnets: Option<Vec<ZoneSubnet>> = (0..MAX_ZONES)
        .map_while(|i| tags.get(&format!("{ZONE}{i}")))
        .map(|text| {
            let mut parts = text.split(',');
            ZoneSubnet::parse(parts.next()?, parts.next()?, parts.next()?)
        })
        .collect();
    subnets.filter(|s| !s.is_empty()).map(|subnets| Layout { subnets, base })
}

impl Ec2 {
    /// Tags that everything of a cluster has.
    pub(super) fn common_tags(&self, uuid: ClusterId, name: &str) -> Tags {
        let mut tags: Tags = self.settings.tags.clone();
        tags.insert(CLUSTER.into(), uuid.to_string());
        tags.insert(NAME.into(), self.cluster.to_string());
        tags.insert(PREFIX.into(), self.prefix.clone());
        tags.insert(ENGINE.into(), self.shape.clone());
        tags.insert(DISPLAY.into(), name.to_owned());
        // Counted from when the cluster is made, also for what is made later.
        if let Some(ttl) = self.ttl {
            let expires = self.known_end().unwrap_or_else(|| now_s() + ttl.as_secs());
            tags.insert(EXPIRES.into(), expires.to_string());
        }
        tags
    }

    /// Tags of a host's things.
    pub(super) fn host_tags(&self, uuid: ClusterId, name: &str, id: HostId) -> Tags {
        let mut tags = self.common_tags(uuid, name);
        tags.insert(ROLE.into(), id.group.label().into());
        tags.insert(INDEX.into(), id.index.to_string());
        tags
    }

    /// The inventory's own tags that a thing lacks or has otherwise.
    pub(super) fn missing_tags(&self, is: &Tags) -> BTreeMap<String, String> {
        self.settings.tags.iter().filter(|(k, v)| is.get(*k) != Some(v)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_layout_survives_being_written_down() {
        let subnets = vec![
            ZoneSubnet::parse("subnet-0123456789abcdef0", "us-east-1a", "172.31.0.0/20").unwrap(),
            ZoneSubnet::parse("subnet-1", "us-east-1b", "172.31.16.0/20").unwrap(),
        ];
        let layout = Layout { subnets, base: 36 };
        let mut tags = Tags::new();
        write_layout(&layout, &mut tags);
        assert!(tags.values().all(|v| v.len() <= 256));
        assert_eq!(read_layout(&tags), Some(layout));
        tags.insert("septet:zone.1".into(), "damaged".into());
        assert_eq!(read_layout(&tags), None);
        assert_eq!(read_layout(&Tags::new()), None);
    }
}
