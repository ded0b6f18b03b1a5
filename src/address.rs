//! Networks and addresses, over `ipnet`.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// Network and bits of `10.0.0.0/20`, or of an address alone. `None` where the address has bits behind the network's part.
pub fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let net: Ipv4Net = match text.contains('/') {
        true => text.parse().ok()?,
        false => Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?),
    };
    (net.network() == net.addr()).then(|| (net.network(), net.prefix_len()))
}

/// A network with 24 bits, in which a cluster's containers have fixed places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet([u8; 3]);

impl Subnet {
    /// `a.b.c.0/24`.
    pub const fn new(a: u8, b: u8, c: u8) -> Self {
        Self([a, b, c])
    }

    /// From `a.b.c.0/24`; neither loopback nor multicast.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, bits) = parse_cidr(text)?;
        let [a, b, c, _] = network.octets();
        (bits == 24 && a != 127 && a < 224).then_some(Self([a, b, c]))
    }

    /// The address at a place.
    pub fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The bridge's own address.
    pub fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    /// As a network.
    pub fn net(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.address(0), 24)
    }

    /// Whether it and another network share an address.
    pub fn overlaps(self, other: &Ipv4Net) -> bool {
        self.net().contains(other) || other.contains(&self.net())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse_cidr("10.1.0.0/16"), Some((Ipv4Addr::new(10, 1, 0, 0), 16)));
        assert_eq!(parse_cidr("1.2.3.4"), Some((Ipv4Addr::new(1, 2, 3, 4), 32)));
        for bad in ["10.1.0.1/16", "10.0.0.0/33", "x", "", "1.2.3.4/-1", "::/0"] {
            assert_eq!(parse_cidr(bad), None, "{bad}");
        }
        assert_eq!(parse_cidr("0.0.0.0/0"), Some((Ipv4Addr::new(0, 0, 0, 0), 0)));
        assert_eq!(Subnet::parse("10.1.2.0/24").unwrap().to_string(), "10.1.2.0/24");
        for bad in ["10.1.2.3/24", "10.1.2.0/16", "127.0.0.0/24", "x"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let subnet = Subnet::new(10, 1, 2);
        assert!(subnet.overlaps(&net("10.0.0.0/8")) && subnet.overlaps(&net("10.1.2.128/25")));
        assert!(!subnet.overlaps(&net("10.1.3.0/24")));
    }
}
