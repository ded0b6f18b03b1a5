//! What the field `ephemeralOwner` says of a node, as EphemeralType of ZooKeeper 3.8 encodes it with
//! `extendedTypesEnabled`. It is read so whether or not TTL nodes are offered to clients: no session of this server has
//! an id with `0xff` in its upper byte.

use crate::protocol::Kind;

/// Longest TTL in milliseconds, about 34 years.
pub const MAX_TTL_MS: i64 = 0x00ff_ffff_ffff;
/// The owner of containers.
pub const CONTAINER: i64 = i64::MIN;
const EXTENDED: i64 = 0xff00_0000_0000_0000_u64 as i64;
const RESERVED: i64 = 0x00ff_ff00_0000_0000;

/// The field's value for a new node.
pub fn encode(kind: Kind, session: i64) -> i64 {
    match kind {
        Kind::Persistent => 0,
        Kind::Ephemeral => session,
        Kind::Container => CONTAINER,
        Kind::Ttl(ms) => EXTENDED | (ms & MAX_TTL_MS),
    }
}

/// The kind of a node.
pub fn kind(owner: i64) -> Kind {
    match owner {
        0 => Kind::Persistent,
        CONTAINER => Kind::Container,
        _ if owner & EXTENDED == EXTENDED && owner & RESERVED == 0 => Kind::Ttl(owner & MAX_TTL_MS),
        _ => Kind::Ephemeral,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_as_zookeeper_encodes_them() {
        assert_eq!(encode(Kind::Ttl(1), 9), 0xff00_0000_0000_0001_u64 as i64);
        assert_eq!(encode(Kind::Container, 9), i64::MIN);
        for k in [Kind::Persistent, Kind::Ephemeral, Kind::Container, Kind::Ttl(1), Kind::Ttl(MAX_TTL_MS)] {
            assert_eq!(kind(encode(k, 0x0100_0000_0000_0005)), k);
        }
    }
}
