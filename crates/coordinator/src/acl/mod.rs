//! Access control lists: schemes `world`, `auth`, `digest`, `ip` and `super`, as ZooKeeper 3.8 checks them.
//! Sources: ZooKeeperServer.checkACL, PrepRequestProcessor.fixupACL, DigestAuthenticationProvider, IPAuthenticationProvider.
//!
//! Invariant: pure. What a client may do follows from the list that is stored with a node and the identities that
//! travel with its request, so every server decides alike.

mod ip;
mod table;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

pub use table::{List, Table};

use crate::protocol::{Code, perm};

/// A list in bytes, after identities of `auth` were filled in: they could make it many times as long as what was sent.
pub const MAX_LIST_BYTES: usize = 1024 * 1024;
/// Identities of one connection, in bytes: they travel with each of its changes.
pub const MAX_IDENTITY_BYTES: usize = 4096;

/// An identity: of a client, or in an entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// `world`, `auth`, `digest`, `ip`, `super`, or one that this server has no provider for
    pub scheme: String,
    /// what the scheme makes of it: `anyone`, `user:digest`, an address with or without `/bits`
    pub id: String,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Acl {
    /// bits of [`perm`]
    pub perms: i32,
    /// whom they are given
    pub id: Id,
}

impl Id {
    /// An identity of a scheme.
    pub fn new(scheme: &str, id: impl Into<String>) -> Self {
        Self { scheme: scheme.into(), id: id.into() }
    }

    /// The user's name, as `whoAmI` answers it: never the digest.
    pub fn user(&self) -> &str {
        match self.scheme.as_str() {
            "digest" => self.id.split(':').next().unwrap_or_default(),
            "ip" => &self.id,
            _ => "",
        }
    }
}

impl Acl {
    /// These permissions for `world:anyone`.
    pub fn world(perms: i32) -> Self {
        Self { perms, id: Id::new("world", "anyone") }
    }
}

/// `ZooDefs.Ids.OPEN_ACL_UNSAFE`
pub fn open() -> Vec<Acl> {
    vec![Acl::world(perm::ALL)]
}

/// The digest of `user:password` as ACLs hold it: `user:base64(sha1(user:password))`.
pub fn digest(credentials: &[u8]) -> String {
    let text = String::from_utf8_lossy(credentials);
    let user = text.split(':').next().unwrap_or_default();
    format!("{user}:{}", STANDARD.encode(Sha1::digest(text.as_bytes())))
}

/// The identities of a connection that offers credentials, beside those that it has. Sources: the methods
/// `handleAuthentication` of ZooKeeper's providers.
pub fn authenticate(has: &[Id], scheme: &str, credentials: &[u8], super_digest: Option<&str>) -> Result<Vec<Id>, Code> {
    let mut ids = has.to_vec();
    let mut add = |id: Id| {
        if !ids.contains(&id) {
            ids.push(id);
        }
    };
    match scheme {
        // The address is known from the beginning.
        "ip" => {}
        "digest" => {
            let digest = digest(credentials);
            if Some(digest.as_str()) == super_digest {
                add(Id::new("super", ""));
            }
            add(Id::new("digest", digest));
        }
        _ => return Err(Code::AuthFailed),
    }
    let bytes: usize = ids.iter().map(|id| 16 + id.id.len()).sum();
    if bytes > MAX_IDENTITY_BYTES { Err(Code::AuthFailed) } else { Ok(ids) }
}

fn is_valid(id: &Id) -> bool {
    match id.scheme.as_str() {
        // Java's split leaves out empty parts at the end.
        "digest" => id.id.trim_end_matches(':').split(':').count() == 2 && !id.id.trim_end_matches(':').is_empty(),
        "ip" => ip::is_valid(&id.id),
        _ => false,
    }
}

/// Checks a list that a client sent, and fills in its own identities for `auth`.
pub fn expand(list: &[Acl], ids: &[Id]) -> Result<Vec<Acl>, Code> {
    let mut out: Vec<Acl> = Vec::with_capacity(list.len());
    let mut seen = std::collections::HashSet::new();
    let mut bytes = 0;
    for acl in list.iter().filter(|a| seen.insert(*a)) {
        let done = out.len();
        match acl.id.scheme.as_str() {
            "world" if acl.id.id == "anyone" => out.push(acl.clone()),
            "auth" => {
                out.extend(ids.iter().filter(|id| id.scheme == "digest").map(|id| Acl { perms: acl.perms, id: id.clone() }));
                if out.len() == done {
                    return Err(Code::InvalidAcl);
                }
            }
            _ if is_valid(&acl.id) => out.push(acl.clone()),
            _ => return Err(Code::InvalidAcl),
        }
        bytes += out[done..].iter().map(|a| 16 + a.id.id.len()).sum::<usize>();
        if bytes > MAX_LIST_BYTES {
            return Err(Code::InvalidAcl);
        }
    }
    if out.is_empty() { Err(Code::InvalidAcl) } else { Ok(out) }
}

/// Whether a client with these identities has one of these permissions.
pub fn permits(list: &[Acl], perms: i32, ids: &[Id]) -> Result<(), Code> {
    let granted = |acl: &Acl| {
        acl.perms & perms != 0
            && match acl.id.scheme.as_str() {
                "world" => acl.id.id == "anyone",
                "digest" => ids.contains(&acl.id),
                "ip" => ids.iter().any(|id| id.scheme == "ip" && ip::matches(&id.id, &acl.id.id)),
                _ => false,
            }
    };
    if list.is_empty() || list.iter().any(granted) || ids.iter().any(|id| id.scheme == "super") { Ok(()) } else { Err(Code::NoAuth) }
}

/// A list as it is shown to a client without [`perm::ADMIN`]: digests are masked.
pub fn masked(list: &[Acl]) -> Vec<Acl> {
    let mask = |acl: &Acl| match acl.id.scheme.as_str() {
        "digest" if acl.id.id.contains(':') => Acl { perms: acl.perms, id: Id::new("digest", format!("{}:x", acl.id.user())) },
        _ => acl.clone(),
    };
    list.iter().map(mask).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn acl(perms: i32, scheme: &str, id: &str) -> Acl {
        Acl { perms, id: Id::new(scheme, id) }
    }

    #[test]
    fn digests_are_zookeepers() {
        // From ZooKeeper's documentation and `DigestAuthenticationProvider super:test`.
        assert_eq!(digest(b"super:test"), "super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
        assert_eq!(Id::new("digest", digest(b"a:b:c")).user(), "a");
    }

    #[test]
    fn what_a_list_may_hold() {
        let mine = [Id::new("ip", "10.0.0.1"), Id::new("digest", "u:x")];
        for good in [acl(31, "world", "anyone"), acl(1, "digest", "a:b"), acl(1, "ip", "10.0.0.0/8"), acl(1, "ip", "10.0.0.1")] {
            assert_eq!(expand(std::slice::from_ref(&good), &mine), Ok(vec![good]));
        }
        assert_eq!(expand(&[acl(3, "auth", "ignored"), acl(3, "auth", "ignored")], &mine), Ok(vec![acl(3, "digest", "u:x")]));
        for bad in [
            acl(1, "world", "me"),
            acl(1, "digest", "a"),
            acl(1, "digest", "a:b:c"),
            acl(1, "digest", "a:"),
            acl(1, "ip", "10.0.0"),
            acl(1, "ip", "10.0.0.0/33"),
            acl(1, "ip", "10.0.0.256"),
            acl(1, "super", ""),
            acl(1, "x509", "CN=a"),
        ] {
            assert_eq!(expand(std::slice::from_ref(&bad), &mine), Err(Code::InvalidAcl), "{bad:?}");
        }
        assert_eq!(expand(&[], &mine), Err(Code::InvalidAcl));
        let long = [Id::new("digest", format!("u:{}", "x".repeat(4000)))];
        let many = |n: i32| expand(&(0..n).map(|i| acl(i, "auth", "")).collect::<Vec<_>>(), &long).map(|list| list.len());
        assert_eq!((many(200), many(300)), (Ok(200), Err(Code::InvalidAcl)));
        assert_eq!(expand(&[acl(1, "auth", "")], &mine[..1]), Err(Code::InvalidAcl));
    }

    #[test]
    fn who_is_permitted() {
        let list = [acl(perm::READ, "ip", "10.1.0.0/16"), acl(perm::WRITE | perm::ADMIN, "digest", "u:x")];
        let near = [Id::new("ip", "10.1.2.3")];
        let user = [Id::new("ip", "10.2.0.1"), Id::new("digest", "u:x")];
        assert_eq!(permits(&list, perm::READ, &near), Ok(()));
        assert_eq!(permits(&list, perm::WRITE, &near), Err(Code::NoAuth));
        assert_eq!(permits(&list, perm::WRITE, &user), Ok(()));
        assert_eq!(permits(&list, perm::READ, &user), Err(Code::NoAuth));
        assert_eq!(permits(&list, perm::READ | perm::ADMIN, &user), Ok(()));
        assert_eq!(permits(&list, perm::DELETE, &[Id::new("super", "")]), Ok(()));
        assert_eq!(permits(&[], perm::DELETE, &[]), Ok(()));
        assert_eq!(masked(&list)[1], acl(perm::WRITE | perm::ADMIN, "digest", "u:x"));
        assert_eq!(masked(&[acl(1, "digest", "u:secret")])[0], acl(1, "digest", "u:x"));
    }
}
