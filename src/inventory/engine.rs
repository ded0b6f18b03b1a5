//! The inventory's `engine`: what is deployed.

use super::Role;
use crate::{
    error::Result,
    releases as known,
    yaml::{Node, NodeKind},
};

/// Who keeps the cluster's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// a ZooKeeper ensemble
    Zookeeper,
    /// Kafka's own quorum of controllers
    Kraft,
}

impl Metadata {
    /// As in the inventory.
    pub fn name(self) -> &'static str {
        match self {
            Metadata::Zookeeper => "zookeeper",
            Metadata::Kraft => "kraft",
        }
    }
}

/// Something to unpack that the user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSource {
    /// a path here, or an address
    pub place: String,
    /// SHA-512, hex, if it is given
    pub sha512: Option<String>,
}

/// Settings of Apache Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApacheSettings {
    /// its version
    pub version: String,
    /// where the metadata is kept
    pub metadata: Metadata,
    /// where its archive is; `None` for the cache or Apache's mirrors
    pub archive: Option<String>,
    /// the archive's SHA-512, hex; `None` for the one that ships with Septet
    pub sha512: Option<String>,
    /// heap of a broker, in MiB; `None` for what fits the host
    pub broker_heap: Option<u32>,
    /// heap of a coordinator, in MiB
    pub coordinator_heap: Option<u32>,
    /// a Java to unpack; `None` for the host's
    pub java: Option<ArchiveSource>,
}

/// What is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// ours
    Bundled,
    /// Apache Kafka
    Apache(ApacheSettings),
}

impl Engine {
    /// As in the inventory.
    pub fn name(&self) -> &'static str {
        match self {
            Engine::Bundled => "bundled",
            Engine::Apache(_) => "apache",
        }
    }
    /// Who keeps the metadata.
    pub fn metadata(&self) -> Metadata {
        match self {
            Engine::Bundled => Metadata::Zookeeper,
            Engine::Apache(a) => a.metadata,
        }
    }
    /// Engine and mode, as far as these tell them without the hosts.
    pub(super) fn kind(&self) -> &'static str {
        match (self, self.metadata()) {
            (Engine::Bundled, _) => "bundled",
            (Engine::Apache(_), Metadata::Zookeeper) => "apache-zookeeper",
            (Engine::Apache(_), Metadata::Kraft) => "apache-kraft",
        }
    }
    /// The unit that runs on hosts of a role.
    pub fn unit(&self, role: Role) -> Option<&'static str> {
        match (role, self.metadata()) {
            (Role::Control | Role::Plain, _) => None,
            (Role::Coordinator, Metadata::Zookeeper) => Some("zookeeper-server.service"),
            (Role::Coordinator, Metadata::Kraft) | (Role::Broker, _) => Some("kafka-server.service"),
        }
    }
}

/// The oldest version that is deployed.
const OLDEST: (u32, u32, u32) = (3, 9, 0);

/// A version as numbers.
pub fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().ok());
    let all = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(all)
}

/// A size as `512m` or `2g`, in MiB.
fn heap(n: &Node) -> Result<u32> {
    let text = n.as_written()?.to_ascii_lowercase();
    let bad = || n.error(format!("`{text}` is not a heap size such as 512m or 2g, from 64m to 64g"));
    let (number, factor) = match text.strip_suffix('g') {
        Some(number) => (number, 1024),
        None => (text.strip_suffix('m').ok_or_else(bad)?, 1),
    };
    let mib = number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    if (64..=65_536).contains(&mib) { Ok(mib) } else { Err(bad()) }
}

fn sha512(n: &Node) -> Result<String> {
    let text = n.as_written()?.to_ascii_lowercase();
    if text.len() == 128 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err(n.error("a SHA-512 has 128 hexadecimal digits").hint("`sha512sum FILE` prints it"))
}

/// The version in the name of an archive, as `kafka_2.13-4.1.1.tgz`.
fn version_in(place: &str) -> Option<String> {
    let name = place.rsplit('/').next()?.strip_prefix("kafka_2.13-")?;
    let version = name.strip_suffix(".tgz").or_else(|| name.strip_suffix(".tar.gz"))?;
    numbers(version).map(|_| version.to_owned())
}

/// Refuses a version that what is rendered is not for.
fn new_enough(at: &Node, version: &str) -> Result<()> {
    // Controllers of 3.8 and older refuse the `advertised.listeners` that they are given.
    if numbers(version).is_some_and(|v| v < OLDEST) {
        return Err(at.error(format!("Apache Kafka {version} is too old")).hint("take 3.9.0 or newer"));
    }
    Ok(())
}

fn apache(n: Option<&Node>) -> Result<Engine> {
    let mut a = ApacheSettings {
        version: known::NEWEST.to_owned(),
        metadata: Metadata::Kraft,
        archive: None,
        sha512: None,
        broker_heap: None,
        coordinator_heap: None,
        java: None,
    };
    let Some(n) = n.filter(|n| !n.is_null()) else { return Ok(Engine::Apache(a)) };
    let mut f = n.fields()?;
    let archive = f.take("archive");
    a.archive = archive.map(Node::as_written).transpose()?;
    a.sha512 = f.take("sha512").map(sha512).transpose()?;
    let version = f.take("version");
    match (version, a.archive.as_deref().and_then(version_in)) {
        (Some(v), of_archive) => {
            a.version = v.as_written()?;
            if numbers(&a.version).is_none() {
                return Err(v.error(format!("`{}` is not a version such as {}", a.version, known::NEWEST)));
            }
            new_enough(v, &a.version)?;
            if of_archive.as_ref().is_some_and(|o| *o != a.version) {
                return Err(v.error(format!("the archive's name has version {}", of_archive.unwrap_or_default())));
            }
            if known::sha512(&a.version).is_none() && a.sha512.is_none() {
                return Err(v
                    .error(format!("the digest of version {} does not ship with this septet", a.version))
                    .hint(format!("give it as `sha512:`, or take one of {}", known::versions().join(", "))));
            }
        }
        (None, Some(of_archive)) => {
            a.version = of_archive;
            new_enough(archive.unwrap_or(n), &a.version)?;
        }
        (None, None) => {}
    }
    if let Some(m) = f.take("metadata") {
        a.metadata = match m.as_written()?.as_str() {
            "zookeeper" => Metadata::Zookeeper,
            "kraft" => Metadata::Kraft,
            other => return Err(m.error(format!("`{other}` keeps no metadata")).hint("zookeeper or kraft")),
        };
        if a.metadata == Metadata::Zookeeper && numbers(&a.version).is_some_and(|v| v.0 >= 4) {
            return Err(m
                .error(format!("Apache Kafka {} no longer supports ZooKeeper", a.version))
                .hint("write `metadata: kraft`, or take version 3.9.1, the last line with ZooKeeper"));
        }
    }
    if let Some(h) = f.take("heap") {
        let mut h = h.fields()?;
        a.broker_heap = h.take("broker").map(heap).transpose()?;
        a.coordinator_heap = h.take("coordinator").map(heap).transpose()?;
        h.finish()?;
    }
    if let Some(j) = f.take("java").filter(|j| !j.is_null()) {
        let mut j = j.fields()?;
        a.java = Some(ArchiveSource { place: j.need("archive")?.as_written()?, sha512: j.take("sha512").map(sha512).transpose()? });
        j.finish()?;
    }
    f.finish()?;
    Ok(Engine::Apache(a))
}

/// Reads `engine:`.
pub fn engine(n: &Node) -> Result<Engine> {
    let hint = "this version deploys `bundled` and `apache`";
    if let NodeKind::Map(_) = &n.kind {
        let mut f = n.fields()?;
        let (bundled, settings) = (f.take("bundled"), f.take("apache"));
        f.finish()?;
        return match (bundled, settings) {
            (None, Some(a)) => apache(Some(a)),
            (Some(b), None) if b.is_null() => Ok(Engine::Bundled),
            (Some(b), None) => b.fields()?.finish().map(|()| Engine::Bundled),
            _ => Err(n.error("expected one engine").hint(hint)),
        };
    }
    match n.as_written()?.as_str() {
        "bundled" => Ok(Engine::Bundled),
        "apache" => apache(None),
        other => Err(n.error(format!("engine `{other}` is not known")).hint(hint)),
    }
}
