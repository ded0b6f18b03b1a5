//! What `__consumer_offsets` holds, in Kafka's format: OffsetCommitKey version 1 with OffsetCommitValue versions 1 and 3,
//! GroupMetadataKey version 2 with GroupMetadataValue version 3. Older versions are read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What an offset is committed for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Key {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Commit {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    /// milliseconds since 1970
    pub timestamp: i64,
    /// when it expires, if the commit said so (OffsetCommit up to version 4), in milliseconds since 1970
    pub expires: Option<i64>,
}

/// A group's record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupValue {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// milliseconds since 1970, -1 if it is not known
    pub state_since: i64,
    pub members: Vec<MemberValue>,
}

/// A member in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MemberValue {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A record; a value of `None` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Entry {
    Offset(Key, Option<Commit>),
    Group(String, Option<GroupValue>),
}

/// Why a record cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a string of {0} bytes does not fit into a record")]
pub struct TooLong(usize);

fn put_string(b: &mut BytesMut, s: &str) -> Result<(), TooLong> {
    // Lengths have 16 bits; a flexible request can bring longer strings.
    b.put_i16(i16::try_from(s.len()).map_err(|_| TooLong(s.len()))?);
    b.put_slice(s.as_bytes());
    Ok(())
}

fn put_nullable(b: &mut BytesMut, s: Option<&str>) -> Result<(), TooLong> {
    match s {
        Some(s) => put_string(b, s),
        None => {
            b.put_i16(-1);
            Ok(())
        }
    }
}

fn put_bytes(b: &mut BytesMut, bytes: &Bytes) -> Result<(), TooLong> {
    b.put_i32(i32::try_from(bytes.len()).map_err(|_| TooLong(bytes.len()))?);
    b.put_slice(bytes);
    Ok(())
}

fn get_nullable(b: &mut Bytes) -> Option<Option<String>> {
    match b.try_get_i16().ok()? {
        -1 => Some(None),
        n => {
            let n = usize::try_from(n).ok()?;
            if b.remaining() < n {
                return None;
            }
            String::from_utf8(b.split_to(n).to_vec()).ok().map(Some)
        }
    }
}

fn get_string(b: &mut Bytes) -> Option<String> {
    get_nullable(b)?
}

fn get_bytes(b: &mut Bytes) -> Option<Bytes> {
    let n = usize::try_from(b.try_get_i32().ok()?).ok()?;
    // A copy: a part would keep the whole batch in memory.
    (b.remaining() >= n).then(|| Bytes::copy_from_slice(&b.split_to(n)))
}

impl Entry {
    /// Key and value as they are in the log.
    pub fn encode(&self) -> Result<(Bytes, Option<Bytes>), TooLong> {
        let mut key = BytesMut::new();
        let value = match self {
            Self::Offset(k, commit) => {
                key.put_i16(1);
                put_string(&mut key, &k.group)?;
                put_string(&mut key, &k.topic)?;
                key.put_i32(k.partition);
                commit.as_ref().map(Commit::encode).transpose()?
            }
            Self::Group(id, value) => {
                key.put_i16(2);
                put_string(&mut key, id)?;
                value.as_ref().map(GroupValue::encode).transpose()?
            }
        };
        Ok((key.freeze(), value))
    }

    /// Reads a record; `None` for what is neither.
    pub fn decode(mut key: Bytes, value: Option<Bytes>) -> Option<Self> {
        match key.try_get_i16().ok()? {
            0 | 1 => {
                let key = Key { group: get_string(&mut key)?, topic: get_string(&mut key)?, partition: key.try_get_i32().ok()? };
                Some(Self::Offset(key, value.map(|v| Commit::decode(v).ok_or(())).transpose().ok()?))
            }
            2 => Some(Self::Group(get_string(&mut key)?, value.map(|v| GroupValue::decode(v).ok_or(())).transpose().ok()?)),
            _ => None,
        }
    }
}

impl Commit {
    fn encode(&self) -> Result<Bytes, TooLong> {
        let mut b = BytesMut::new();
        // As Kafka: only version 1 has a time of expiry.
        b.put_i16(if self.expires.is_some() { 1 } else { 3 });
        b.put_i64(self.offset);
        if self.expires.is_none() {
            b.put_i32(self.leader_epoch);
        }
        put_string(&mut b, &self.metadata)?;
        b.put_i64(self.timestamp);
        if let Some(at) = self.expires {
            b.put_i64(at);
        }
        Ok(b.freeze())
    }

    fn decode(mut b: Bytes) -> Option<Self> {
        let version = b.try_get_i16().ok()?;
        if !(0..=3).contains(&version) {
            return None;
        }
        let offset = b.try_get_i64().ok()?;
        let leader_epoch = if version >= 3 { b.try_get_i32().ok()? } else { -1 };
        let (metadata, timestamp) = (get_string(&mut b)?, b.try_get_i64().ok()?);
        // -1 is the default of version 1: none.
        let expires = if version == 1 { Some(b.try_get_i64().ok()?).filter(|at| *at >= 0) } else { None };
        Some(Self { offset, leader_epoch, metadata, timestamp, expires })
    }
}

impl GroupValue {
    fn encode(&self) -> Result<Bytes, TooLong> {
        let mut b = BytesMut::new();
        b.put_i16(3);
        put_string(&mut b, &self.protocol_type)?;
        b.put_i32(self.generation);
        put_nullable(&mut b, self.protocol.as_deref())?;
        put_nullable(&mut b, self.leader.as_deref())?;
        b.put_i64(self.state_since);
        b.put_i32(i32::try_from(self.members.len()).map_err(|_| TooLong(self.members.len()))?);
        for m in &self.members {
            put_string(&mut b, &m.id)?;
            put_nullable(&mut b, m.instance_id.as_deref())?;
            put_string(&mut b, &m.client_id)?;
            put_string(&mut b, &m.client_host)?;
            b.put_i32(m.rebalance_timeout_ms);
            b.put_i32(m.session_timeout_ms);
            put_bytes(&mut b, &m.subscription)?;
            put_bytes(&mut b, &m.assignment)?;
        }
        Ok(b.freeze())
    }

    fn decode(mut b: Bytes) -> Option<Self> {
        let version = b.try_get_i16().ok()?;
        if !(0..=3).contains(&version) {
            return None;
        }
        let protocol_type = get_string(&mut b)?;
        let generation = b.try_get_i32().ok()?;
        let (protocol, leader) = (get_nullable(&mut b)?, get_nullable(&mut b)?);
        let state_since = if version >= 2 { b.try_get_i64().ok()? } else { -1 };
        let mut members = Vec::new();
        for _ in 0..b.try_get_i32().ok()? {
            members.push(MemberValue {
                id: get_string(&mut b)?,
                instance_id: if version >= 3 { get_nullable(&mut b)? } else { None },
                client_id: get_string(&mut b)?,
                client_host: get_string(&mut b)?,
                rebalance_timeout_ms: if version >= 1 { b.try_get_i32().ok()? } else { -1 },
                session_timeout_ms: b.try_get_i32().ok()?,
                subscription: get_bytes(&mut b)?,
                assignment: get_bytes(&mut b)?,
            });
        }
        Some(Self { protocol_type, generation, protocol, leader, state_since, members })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn member() -> impl Strategy<Value = MemberValue> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let texts = ("\\PC{0,9}", prop::option::of("\\PC{0,9}"), "\\PC{0,9}", "\\PC{0,9}");
        (texts, any::<i32>(), any::<i32>(), bytes(), bytes()).prop_map(
            |((id, instance_id, client_id, client_host), rebalance_timeout_ms, session_timeout_ms, subscription, assignment)| MemberValue {
                id,
                instance_id,
                client_id,
                client_host,
                rebalance_timeout_ms,
                session_timeout_ms,
                subscription,
                assignment,
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let text = "\\PC{0,9}";
        let commit = (any::<i64>(), any::<i32>(), text, any::<i64>(), prop::option::of(0i64..)).prop_map(
            |(offset, leader_epoch, metadata, timestamp, expires)| {
                // The version with a time of expiry has no leader epoch.
                let leader_epoch = if expires.is_some() { -1 } else { leader_epoch };
                Commit { offset, leader_epoch, metadata, timestamp, expires }
            },
        );
        let key = (text, text, any::<i32>()).prop_map(|(group, topic, partition)| Key { group, topic, partition });
        let optional = || prop::option::of(text);
        let value = (text, any::<i32>(), optional(), optional(), any::<i64>(), prop::collection::vec(member(), 0..4)).prop_map(
            |(protocol_type, generation, protocol, leader, state_since, members)| GroupValue {
                protocol_type,
                generation,
                protocol,
                leader,
                state_since,
                members,
            },
        );
        prop_oneof![
            (key, prop::option::of(commit)).prop_map(|(k, c)| Entry::Offset(k, c)),
            (text, prop::option::of(value)).prop_map(|(id, v)| Entry::Group(id, v)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(entry in entry()) {
            let (key, value) = entry.encode().unwrap();
            prop_assert_eq!(Entry::decode(key.clone(), value.clone()), Some(entry));
            // A record that is cut off is none.
            for n in 0..key.len() {
                prop_assert_eq!(Entry::decode(key.slice(..n), value.clone()), None);
            }
            if let Some(value) = value {
                for n in 0..value.len() {
                    prop_assert_eq!(Entry::decode(key.clone(), Some(value.slice(..n))), None, "{} of {}", n, value.len());
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(
            version in 0u8..4, key in prop::collection::vec(any::<u8>(), 0..40),
            of_value in 0u8..5, value in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let key = [&[0, version], &key[..]].concat();
            let value = [&[0, of_value], &value[..]].concat();
            let _ = Entry::decode(key.into(), Some(value.clone().into()));
            let _ = Entry::decode(Bytes::from_static(b"\0\x02\0\x01g"), Some(value.into()));
        }
    }
}
