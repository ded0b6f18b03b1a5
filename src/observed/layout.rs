//! Rows of addresses in subnets: zone and address of a host, determined by its identity alone.
//!
//! Invariant: pure; the same layout gives a host the same subnet and address whenever it is asked, so that a host that is made
//! again gets what the one before had.

use std::net::Ipv4Addr;

use crate::{
    address::parse_cidr,
    identity::is_label,
    inventory::{HostId, Role},
};

/// Addresses at the beginning of a subnet that EC2 keeps for itself; the last one is kept too.
const RESERVED: u32 = 4;
/// Places of a row: control, coordinators and brokers have parts of their own, so that a cluster can grow.
const COORDINATORS_FROM: u32 = 2;
const BROKERS_FROM: u32 = 10;

/// A subnet as far as addresses go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSubnet {
    /// the provider's own id
    pub id: String,
    /// its zone
    pub zone: String,
    /// first address
    pub network: Ipv4Addr,
    /// bits of the network's part
    pub bits: u8,
}

impl ZoneSubnet {
    /// From an id, a zone and `10.0.0.0/20`.
    pub fn parse(id: &str, zone: &str, cidr: &str) -> Option<Self> {
        // Written on a group's tags, these come back as parameters of calls.
        if !is_label(id) || !is_label(zone) {
            return None;
        }
        let (network, bits) = parse_cidr(cidr)?;
        Some(Self { id: id.to_owned(), zone: zone.to_owned(), network, bits })
    }
    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.bits)).unwrap_or(u32::MAX)
    }
    /// The address at a place behind the first, if it is one that a host may have.
    pub fn address(&self, offset: u32) -> Option<Ipv4Addr> {
        (offset >= RESERVED && offset < self.size().saturating_sub(1)).then(|| Ipv4Addr::from(u32::from(self.network) + offset))
    }
    /// Whether an address is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        offset < self.size()
    }
}

/// Where hosts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// one per zone, in a fixed order
    pub subnets: Vec<ZoneSubnet>,
    /// where the row begins in each of them
    pub base: u32,
}

/// A host's place in the row; none for hosts beside the engine's, which get any address.
fn slot(id: HostId) -> Option<u32> {
    let index = u32::from(id.index.max(1)) - 1;
    match id.role() {
        Role::Control => Some(index),
        Role::Coordinator => Some(COORDINATORS_FROM + index),
        Role::Broker => Some(BROKERS_FROM + index),
        Role::Plain => None,
    }
}

impl Layout {
    /// The subnet that a host is in unless it is excluded: hosts of a role are spread over the zones.
    pub fn subnet(&self, id: HostId) -> Option<&ZoneSubnet> {
        let n = self.subnets.len();
        (n > 0).then(|| &self.subnets[usize::from(id.index.max(1) - 1) % n])
    }
    /// Subnets in the order in which they are tried for a host.
    pub fn preference(&self, id: HostId) -> Vec<&ZoneSubnet> {
        let n = self.subnets.len().max(1);
        let first = usize::from(id.index.max(1) - 1) % n;
        self.subnets.iter().cycle().skip(first).take(self.subnets.len()).collect()
    }
    /// A host's address in one of the subnets.
    pub fn address_in(&self, subnet: &ZoneSubnet, id: HostId) -> Option<Ipv4Addr> {
        subnet.address(self.base + slot(id)?)
    }
    /// A host's address.
    pub fn host(&self, id: HostId) -> Option<Ipv4Addr> {
        self.address_in(self.subnet(id)?, id)
    }

    /// Finds the place of a row in which all of these hosts have a free address in every subnet that may become theirs. The
    /// search begins at a place of the cluster's own, so that clusters that are made together seldom meet.
    pub fn find(subnets: Vec<ZoneSubnet>, hosts: &[HostId], taken: &[Ipv4Addr], seed: &str) -> Option<Self> {
        let taken: std::collections::HashSet<Ipv4Addr> = taken.iter().copied().collect();
        let smallest = subnets.iter().map(ZoneSubnet::size).min()?;
        let hosts: Vec<HostId> = hosts.iter().copied().filter(|h| slot(*h).is_some()).collect();
        let row = hosts.iter().filter_map(|h| slot(*h)).max()? + 1;
        let places = smallest.checked_sub(RESERVED + 1)?.checked_sub(row)? + 1;
        let start = seed.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let mut this = Self { subnets, base: 0 };
        // Steps of a row first: rows then lie side by side.
        let step = row.next_multiple_of(8);
        let by_row = (0..places.div_ceil(step)).map(|i| (start % places.div_ceil(step) + i) % places.div_ceil(step) * step);
        let candidates: Vec<u32> = by_row.chain(0..places.min(4096)).filter(|p| *p < places).collect();
        for place in candidates {
            this.base = RESERVED + place;
            let free = |h: &HostId| this.subnets.iter().all(|s| this.address_in(s, *h).is_some_and(|a| !taken.contains(&a)));
            if hosts.iter().all(free) {
                return Some(this);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inventory::Inventory;
    use proptest::prelude::*;

    fn subnets(bits: u8) -> Vec<ZoneSubnet> {
        let size = 1u32 << (32 - bits);
        (0..3u32)
            .map(|i| {
                let network = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + i * size);
                ZoneSubnet { id: format!("subnet-{i}"), zone: format!("z{i}"), network, bits }
            })
            .collect()
    }

    fn seven() -> Vec<HostId> {
        Inventory::built_in().unwrap().hosts.iter().map(|h| h.id).collect()
    }

    #[test]
    fn hosts_of_a_role_go_round_the_zones() {
        let layout = Layout::find(subnets(20), &seven(), &[], "x").unwrap();
        let zones: Vec<String> = seven().iter().map(|h| layout.subnet(*h).unwrap().zone.clone()).collect();
        assert_eq!(zones, ["z0", "z0", "z1", "z2", "z0", "z1", "z2"]);
        let third = HostId { group: crate::inventory::Group::BROKERS, index: 3 };
        let order: Vec<&str> = layout.preference(third).iter().map(|s| s.zone.as_str()).collect();
        assert_eq!(order, ["z2", "z0", "z1"]);
    }

    #[test]
    fn a_subnet_that_is_too_small_or_full_has_no_place() {
        assert!(Layout::find(subnets(28), &seven(), &[], "x").is_none());
        let all: Vec<Ipv4Addr> = (0..256).map(|i| Ipv4Addr::new(10, 0, 0, i as u8)).collect();
        assert!(Layout::find(subnets(24), &seven(), &all, "x").is_none());
        assert!(Layout::find(subnets(27), &seven(), &[], "x").is_some());
        assert!(Layout::find(Vec::new(), &seven(), &[], "x").is_none());
    }

    proptest! {
        /// Whatever is taken: addresses are in their subnet, free, not reserved, and no two hosts share one.
        #[test]
        fn addresses_are_sound(bits in 20u8..=26, taken in proptest::collection::vec(0u32..4096, 0..200), seed in "[a-z]{1,8}") {
            let taken: Vec<Ipv4Addr> = taken.iter().map(|t| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + t)).collect();
            if let Some(layout) = Layout::find(subnets(bits), &seven(), &taken, &seed) {
                let mut seen = std::collections::HashSet::new();
                for id in seven() {
                    let subnet = layout.subnet(id).unwrap();
                    let address = layout.host(id).unwrap();
                    prop_assert!(subnet.contains(address));
                    prop_assert!(!taken.contains(&address));
                    prop_assert!(seen.insert(address));
                    let offset = u32::from(address) - u32::from(subnet.network);
                    prop_assert!(offset >= RESERVED && offset + 1 < 1 << (32 - bits));
                }
            }
        }
    }
}
