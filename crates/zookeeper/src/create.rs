//! How nodes are created.

use std::time::Duration;

use crate::{
    acl::Acls,
    error::Error,
    protocol::{Stat, op},
};

/// Kinds of nodes. A node with a time to live is a persistent one with [`CreateOptions::with_ttl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CreateMode {
    Persistent,
    PersistentSequential,
    Ephemeral,
    EphemeralSequential,
    Container,
}

impl CreateMode {
    /// Options with an ACL.
    pub const fn with_acls(self, acls: Acls<'_>) -> CreateOptions<'_> {
        CreateOptions { mode: self, acls, ttl: None }
    }

    pub(crate) fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential)
    }
}

/// Mode, ACL and time to live of a new node.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions<'a> {
    pub(crate) mode: CreateMode,
    pub(crate) acls: Acls<'a>,
    pub(crate) ttl: Option<Duration>,
}

/// Longest time to live, in milliseconds (EphemeralType.TTL).
const MAX_TTL_MS: u128 = 0xff_ffff_ffff;

impl CreateOptions<'_> {
    /// Time after which a persistent node without children is removed, if it is not modified; in whole milliseconds.
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The operation (create2, createContainer or createTTL) and the flags of CreateMode.java.
    pub(crate) fn encode(&self) -> Result<(i32, i32, Option<i64>), Error> {
        if self.acls.is_empty() {
            return Err(Error::InvalidAcl);
        }
        let flags = match self.mode {
            CreateMode::Persistent => 0,
            CreateMode::Ephemeral => 1,
            CreateMode::PersistentSequential => 2,
            CreateMode::EphemeralSequential => 3,
            CreateMode::Container => 4,
        };
        match (self.ttl, self.mode) {
            (None, CreateMode::Container) => Ok((op::CREATE_CONTAINER, flags, None)),
            (None, _) => Ok((op::CREATE2, flags, None)),
            (Some(ttl), _) if ttl.as_millis() == 0 || ttl.as_millis() > MAX_TTL_MS => {
                Err(Error::BadArguments("time to live must be 1 ms to 2^40 - 1 ms"))
            }
            (Some(ttl), CreateMode::Persistent) => Ok((op::CREATE_TTL, 5, Some(ttl.as_millis() as i64))),
            (Some(ttl), CreateMode::PersistentSequential) => Ok((op::CREATE_TTL, 6, Some(ttl.as_millis() as i64))),
            (Some(_), _) => Err(Error::BadArguments("only persistent nodes may have a time to live")),
        }
    }
}

/// A node that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// path below the client's root, with the number of a sequential node
    pub path: String,
    /// metadata
    pub stat: Stat,
}

impl Created {
    /// The number behind the name of a sequential node: its last ten digits.
    pub fn sequence(&self) -> Option<i32> {
        let digits = self.path.get(self.path.len().checked_sub(10)?..)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_flags_are_those_of_zookeeper() {
        let of = |mode: CreateMode, ttl: Option<u64>| {
            let options = mode.with_acls(Acls::anyone_all());
            ttl.map_or(options, |ms| options.with_ttl(Duration::from_millis(ms))).encode()
        };
        assert_eq!(of(CreateMode::Persistent, None), Ok((15, 0, None)));
        assert_eq!(of(CreateMode::Ephemeral, None), Ok((15, 1, None)));
        assert_eq!(of(CreateMode::PersistentSequential, None), Ok((15, 2, None)));
        assert_eq!(of(CreateMode::EphemeralSequential, None), Ok((15, 3, None)));
        assert_eq!(of(CreateMode::Container, None), Ok((19, 4, None)));
        assert_eq!(of(CreateMode::Persistent, Some(7)), Ok((21, 5, Some(7))));
        assert_eq!(of(CreateMode::PersistentSequential, Some(7)), Ok((21, 6, Some(7))));
        for (mode, ttl) in [(CreateMode::Ephemeral, 7), (CreateMode::Container, 7), (CreateMode::Persistent, 0)] {
            assert!(matches!(of(mode, Some(ttl)), Err(Error::BadArguments(_))), "{mode:?} {ttl}");
        }
        assert_eq!(CreateMode::Persistent.with_acls(Acls::new(&[])).encode(), Err(Error::InvalidAcl));
    }

    #[test]
    fn sequences_are_read_from_the_end_of_a_path() {
        let of = |path: &str| Created { path: path.into(), stat: Stat::default() }.sequence();
        assert_eq!(of("/lock-0000000012"), Some(12));
        assert_eq!(of("/a/0000000000"), Some(0));
        assert_eq!(of("/v2-10000000003"), Some(3));
        assert_eq!(of("/a/b"), None);
        assert_eq!(of("/a/b-of-a-long-name"), None);
    }
}
