//! Addresses and ports that are not in use.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
};

use ipnet::Ipv4Net;

use crate::{address::Subnet, provider::PORTS_PER_CLUSTER};

/// Networks that this machine has routes to; the default route is none of them.
fn routes() -> Vec<Ipv4Net> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|l| {
            let mut f = l.split_whitespace().skip(1);
            let destination = u32::from_str_radix(f.next()?, 16).ok()?.swap_bytes();
            let mask = u32::from_str_radix(f.nth(5)?, 16).ok()?.swap_bytes();
            Ipv4Net::new(destination.into(), mask.leading_ones() as u8).ok().filter(|n| n.prefix_len() > 0)
        })
        .collect()
}

/// Subnets to try, in an order that differs from cluster to cluster, without those that are in use.
pub fn candidates(seed: &str, used: &[String]) -> Vec<Subnet> {
    let mut busy = routes();
    busy.extend(used.iter().filter_map(|u| u.parse::<Ipv4Net>().ok()));
    let start = seed.bytes().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    (0..4000)
        .map(|i| {
            let n = (start + i * 7) % 10_000;
            Subnet::new(10, (200 + n / 250) as u8, (n % 250) as u8)
        })
        .filter(|s| s.gateway().octets()[1] < 240 && !busy.iter().any(|b| s.overlaps(b)))
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
    use super::*;

    #[test]
    fn used_subnets_are_avoided() {
        let all = candidates("x", &[]);
        assert!(!all.is_empty());
        let first = all[0];
        assert!(!candidates("x", &[first.to_string()]).contains(&first));
        assert!(candidates("x", &["10.192.0.0/10".into()]).is_empty());
        let first = |offset| substitutes(offset, &[0, 10, 11, 12, 20, 21, 22]).next();
        assert_eq!((first(0), first(20), first(21), first(109)), (Some(119), Some(99), Some(98), Some(9)));
        assert_eq!(substitutes(0, &[0]).count(), 119);
    }
}
