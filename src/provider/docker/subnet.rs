//! Addresses and ports that are not in use.

use std::{fmt, fs, net::Ipv4Addr, net::TcpListener};

use crate::{
    inventory::{HostId, Role},
    provider::PORTS_PER_CLUSTER,
};

/// A subnet with 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(pub [u8; 3]);

impl Subnet {
    /// From `a.b.c.0/24`.
    pub fn parse(text: &str) -> Option<Self> {
        let address: Ipv4Addr = text.strip_suffix("/24")?.parse().ok()?;
        let [a, b, c, d] = address.octets();
        (d == 0 && a != 127 && a < 224).then_some(Self([a, b, c]))
    }
    fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }
    /// The bridge's own address.
    pub fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }
    /// A host's address: the same whenever it is made.
    pub fn host(self, id: HostId) -> Option<Ipv4Addr> {
        let first: u16 = match id.role {
            Role::Control => 10,
            Role::Coordinator => 20,
            Role::Broker => 30,
        };
        u8::try_from(first + id.index).ok().filter(|l| *l < 255).map(|l| self.address(l))
    }
    /// Whether it and a network `address/bits` share an address.
    fn overlaps(self, address: u32, bits: u32) -> bool {
        let mine = u32::from(self.address(0));
        let bits = bits.min(24);
        if bits == 0 {
            return false;
        }
        let mask = u32::MAX << (32 - bits);
        mine & mask == address & mask
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.address(0))
    }
}

/// Networks that this machine has routes to, as (address, bits); the default route is none of them.
fn routes() -> Vec<(u32, u32)> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|l| {
            let mut f = l.split_whitespace().skip(1);
            let destination = u32::from_str_radix(f.next()?, 16).ok()?.swap_bytes();
            let mask = u32::from_str_radix(f.nth(5)?, 16).ok()?.swap_bytes();
            Some((destination, mask.leading_ones()))
        })
        .collect()
}

/// Subnets to try, in an order that differs from cluster to cluster, without those that are in use.
pub fn candidates(seed: &str, used: &[String]) -> Vec<Subnet> {
    let mut busy = routes();
    for u in used {
        if let Some((address, bits)) = u.split_once('/')
            && let (Ok(a), Ok(b)) = (address.parse::<Ipv4Addr>(), bits.parse::<u32>())
        {
            busy.push((u32::from(a), b));
        }
    }
    let start = seed.bytes().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    (0..4000)
        .map(|i| {
            let n = (start + i * 7) % 10_000;
            Subnet([10, (200 + n / 250) as u8, (n % 250) as u8])
        })
        .filter(|s| s.0[1] < 240 && !busy.iter().any(|(a, b)| s.overlaps(*a, *b)))
        .collect()
}

/// Whether a port of this machine's loopback address can be bound.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// First of a row of ports that are free now and that no other cluster has. After a contest with another cluster the
/// search begins at a place of the cluster's own.
pub fn free_ports(needed: &[u16], others: &[u16], seed: &str, attempt: u16) -> Option<u16> {
    const ROWS: u16 = 341;
    let own = seed.bytes().fold(0u16, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let start = if attempt == 0 { 0 } else { own.wrapping_add(attempt.wrapping_mul(17)) % ROWS };
    (0..ROWS)
        .map(|i| 19_000 + (start + i) % ROWS * PORTS_PER_CLUSTER)
        .find(|base| !others.iter().any(|o| base.abs_diff(*o) < PORTS_PER_CLUSTER) && needed.iter().all(|offset| is_free(base + offset)))
}

/// Places in a cluster's row that may stand in for one: of no host, and for each place in another order.
pub fn substitutes(offset: u16, needed: &[u16]) -> impl Iterator<Item = u16> {
    let first = PORTS_PER_CLUSTER - 1 - offset % PORTS_PER_CLUSTER;
    (0..PORTS_PER_CLUSTER).map(move |i| (first + PORTS_PER_CLUSTER - i) % PORTS_PER_CLUSTER).filter(|o| !needed.contains(o))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn used_subnets_are_avoided() {
        let all = candidates("x", &[]);
        assert!(!all.is_empty());
        let first = all[0];
        assert!(!candidates("x", &[first.to_string()]).contains(&first));
        assert!(candidates("x", &["10.192.0.0/10".into()]).is_empty());
        assert_eq!(Subnet::parse("10.1.2.0/24").unwrap().to_string(), "10.1.2.0/24");
        let first = |offset| substitutes(offset, &[0, 10, 11, 12, 20, 21, 22]).next();
        assert_eq!((first(0), first(20), first(21), first(109)), (Some(119), Some(99), Some(98), Some(9)));
        assert_eq!(substitutes(0, &[0]).count(), 119);
        for bad in ["10.1.2.3/24", "10.1.2.0/16", "127.0.0.0/24", "x"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
    }
}
