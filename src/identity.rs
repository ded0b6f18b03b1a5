//! Identifiers from outside that decide ownership, as types: a tag or label that does not parse claims nothing.
//!
//! Invariant: the text of each of these types can stand in a path, an argument, a line of a configuration file or a filter of a
//! provider's without changing what is meant there: no separator, no leading `-` or `.`, no white space, no wildcard.

use std::{fmt, ops::Deref, str::FromStr};

use serde::{Serialize, Serializer};

/// Text that is not what it should be. Its display never repeats the text: it may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct Malformed(&'static str);

/// A cluster's identity: a UUID in its usual form, 36 lower-case characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(uuid::Uuid);

impl ClusterId {
    /// A new one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// One that no cluster has: for requests that are only tried.
    pub fn nil() -> Self {
        Self(uuid::Uuid::nil())
    }

    /// Its first eight digits, for names of a provider's that have to be short.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl FromStr for ClusterId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        const WHAT: Malformed = Malformed("a UUID");
        let id = uuid::Uuid::try_parse(text).map_err(|_| WHAT)?;
        // Other spellings of a UUID would be other words for filters that compare text.
        if id.is_nil() || id.hyphenated().to_string() != text { Err(WHAT) } else { Ok(Self(id)) }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(Malformed($what)) }
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<String> for $name {
            fn eq(&self, other: &String) -> bool {
                self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }
    };
}

text!(
    /// A cluster's name: lower-case letters, digits and `-`, at most 40 of them, `-` neither first nor last.
    ClusterName, "a cluster's name", |s| is_label(s) && s.len() <= 40
);

text!(
    /// What a host is called at a provider: letters, digits, `_`, `.` and `-`, beginning with a letter or a digit, at most 253.
    /// Wider than what Septet itself gives, since Docker and EC2 let others rename things.
    HostName, "a host's name", |s| {
        s.len() <= 253
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    }
);

text!(
    /// Engine, mode and the number of hosts that keep the metadata, as `apache-kraft-3`.
    Shape, "an engine and its mode", |s| is_label(s) && s.len() <= 64
);

text!(
    /// A host's public key in OpenSSH's form without a comment: `ssh-ed25519 AAAA…`, on one line.
    HostPublicKey, "an Ed25519 host key", |s| {
        let Some(key) = s.strip_prefix("ssh-ed25519 ") else { return false };
        key.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) && russh::keys::PublicKey::from_openssh(s).is_ok()
    }
);

impl HostName {
    /// For what a provider shows no usable name of.
    pub fn unnamed() -> Self {
        Self("unnamed".to_owned())
    }
}

/// Whether a text is a DNS label of lower-case letters, digits and `-`.
pub fn is_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.len() <= 63 && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_usual_form_of_a_uuid_is_an_identity() {
        let id = "0123e456-e89b-42d3-a456-426614174000";
        assert_eq!(id.parse::<ClusterId>().unwrap().to_string(), id);
        assert_eq!(id.parse::<ClusterId>().unwrap().short(), "0123e456");
        let others = [
            "",
            "*",
            "../../../..",
            "0123E456-e89b-42d3-a456-426614174000",
            "0123e456e89b42d3a456426614174000",
            "{0123e456-e89b-42d3-a456-426614174000}",
            "urn:uuid:0123e456-e89b-42d3-a456-426614174000",
            "0123e456-e89b-42d3-a456-426614174000\n",
            "00000000-0000-0000-0000-000000000000",
        ];
        for other in others {
            assert!(other.parse::<ClusterId>().is_err(), "{other:?}");
        }
    }

    #[test]
    fn names_are_neither_paths_nor_options_nor_lines() {
        for good in ["peter-kafka01", "Peter_kafka.01", "a"] {
            good.parse::<HostName>().unwrap();
        }
        for bad in ["", "-oProxyCommand=touch x", "a b", "a\nHost *", "..", ".a", "a/b", "a*", "ü", &"a".repeat(254)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
            assert!(bad.parse::<Shape>().is_err(), "{bad:?}");
        }
        "local".parse::<ClusterName>().unwrap();
        assert!("x".repeat(41).parse::<ClusterName>().is_err());
    }

    #[test]
    fn a_host_key_is_one_key_and_nothing_else() {
        let key = crate::ssh::keys::new_host_key("a comment").unwrap().public;
        let bare = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        bare.parse::<HostPublicKey>().unwrap();
        let bad = [
            "",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAA",
            &key,
            &format!("{bare}\n* {bare}"),
            &format!("{bare} x"),
            &format!(" {bare}"),
        ];
        for bad in bad {
            assert!(bad.parse::<HostPublicKey>().is_err(), "{bad:?}");
        }
    }
}
