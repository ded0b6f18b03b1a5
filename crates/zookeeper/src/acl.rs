//! Access control lists.

use std::ops::{BitOr, Deref};

use crate::jute::{JuteError, Reader, Writer};

/// Permission bits of an ACL entry (ZooDefs.Perms).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permission(pub i32);

#[allow(missing_docs)]
impl Permission {
    pub const READ: Self = Self(1);
    pub const WRITE: Self = Self(2);
    pub const CREATE: Self = Self(4);
    pub const DELETE: Self = Self(8);
    pub const ADMIN: Self = Self(16);
    pub const ALL: Self = Self(31);
}

impl BitOr for Permission {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One entry: what a scheme's identity may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Acl {
    pub permission: Permission,
    pub scheme: String,
    pub id: String,
}

impl Acl {
    /// Such as `digest` and `user:hash`.
    pub fn new(permission: Permission, scheme: &str, id: &str) -> Self {
        Self { permission, scheme: scheme.to_owned(), id: id.to_owned() }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, JuteError> {
        Ok(Self { permission: Permission(r.int()?), scheme: r.string()?, id: r.string()? })
    }

    /// The least that an entry takes, in bytes.
    pub(crate) const MIN_BYTES: usize = 12;
}

/// The ACL of a node that is created or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acls<'a>(Kind<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Fixed(Permission, &'static str, &'static str),
    List(&'a [Acl]),
}

impl<'a> Acls<'a> {
    /// A list of one's own.
    pub const fn new(list: &'a [Acl]) -> Self {
        Self(Kind::List(list))
    }
    /// `world:anyone:cdrwa`
    pub const fn anyone_all() -> Acls<'static> {
        Acls(Kind::Fixed(Permission::ALL, "world", "anyone"))
    }
    /// `world:anyone:r`
    pub const fn anyone_read() -> Acls<'static> {
        Acls(Kind::Fixed(Permission::READ, "world", "anyone"))
    }
    /// `auth::cdrwa`: all identities of this session
    pub const fn creator_all() -> Acls<'static> {
        Acls(Kind::Fixed(Permission::ALL, "auth", ""))
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Kind::List(list) if list.is_empty())
    }

    pub(crate) fn write<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match &self.0 {
            Kind::Fixed(permission, scheme, id) => w.int(1).int(permission.0).string(scheme).string(id),
            Kind::List(list) => {
                let w = w.int(list.len() as i32);
                list.iter().fold(w, |w, acl| w.int(acl.permission.0).string(&acl.scheme).string(&acl.id))
            }
        }
    }
}

impl<'a, T: Deref<Target = [Acl]>> From<&'a T> for Acls<'a> {
    fn from(list: &'a T) -> Self {
        Self::new(list)
    }
}

/// An identity of the session, as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AuthUser {
    pub scheme: String,
    pub user: String,
}
