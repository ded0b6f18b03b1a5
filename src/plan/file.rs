//! A plan as a file: what it rests on, and its stages.
//!
//! Invariant: a plan file comes from outside. Nothing in it becomes a path, an option or an argument: it is compared, and what is
//! applied is the plan that is made anew and is the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Display,
    io::{Read, Write},
    path::Path,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sha2::{Digest as _, Sha256};

use super::{Plan, Step};
use crate::{
    error::{Error, Result},
    identity::{ClusterId, ClusterName},
    inventory::HostId,
    observed::{HostState, Observed},
};

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;
/// Largest file that is read: some 300,000 steps.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Differences that are named; the rest is counted.
const MAX_NAMED: usize = 4;
/// What to do about a file that cannot be used.
const ANEW_HINT: &str = "`septet plan --out FILE` makes a new one";

/// A SHA-256, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of some bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// Its first twelve digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or_default()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid { Ok(Self(text)) } else { Err("not a SHA-256") }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// A host as the plan found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenHost {
    /// Identity: group and index.
    pub id: HostId,
    /// Its name then.
    pub name: String,
    /// The provider's own id.
    pub reference: String,
    /// Power state.
    pub state: HostState,
    /// Its kind of machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// What a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// Version of the septet that planned.
    pub septet: String,
    /// Text of the inventory.
    pub inventory: Digest,
    /// All playbooks and templates.
    pub playbooks: Digest,
    /// Tags and variables of the command line.
    pub options: Digest,
    /// Programs and archives that are deployed, by name.
    pub programs: BTreeMap<String, String>,
    /// The provider's id of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Engine and mode as written on what exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    /// The hosts that existed.
    pub hosts: Vec<SeenHost>,
}

impl Basis {
    /// The hosts and the network of what exists, to be kept.
    pub fn seen(observed: &Observed) -> (Option<String>, Option<String>, Vec<SeenHost>) {
        let mut hosts: Vec<SeenHost> = observed
            .hosts
            .iter()
            .map(|h| SeenHost { id: h.id, name: h.name.clone(), reference: h.reference.clone(), state: h.state, size: h.size.clone() })
            .collect();
        hosts.sort_by_key(|h| h.id);
        (observed.network.as_ref().map(|n| n.reference.clone()), observed.engine.clone(), hosts)
    }

    /// What is otherwise now, as lines for a person.
    fn changes(&self, now: &Self) -> Vec<String> {
        let mut out = Vec::new();
        let mut say = |differs: bool, text: String| out.extend(differs.then_some(text));
        say(self.septet != now.septet, format!("septet {} made the plan, this is {}", self.septet, now.septet));
        say(self.inventory != now.inventory, "the inventory was changed".into());
        say(self.playbooks != now.playbooks, "playbooks or templates were changed".into());
        say(self.options != now.options, "`--tags`, `--skip-tags` or `--extra-vars` are not those of the plan".into());
        let names: BTreeSet<&String> = self.programs.keys().chain(now.programs.keys()).collect();
        for name in names {
            let of = |b: &Self| b.programs.get(name).map_or_else(|| "none".to_owned(), |d| d.chars().take(12).collect());
            say(self.programs.get(name) != now.programs.get(name), format!("{name}: was {}, is {}", of(self), of(now)));
        }
        say(self.network != now.network, "the cluster's network is another one".into());
        say(self.shape != now.shape, "the engine of what exists is another one".into());
        let ids: BTreeSet<HostId> = self.hosts.iter().chain(&now.hosts).map(|h| h.id).collect();
        for id in ids {
            let of = |b: &Self| b.hosts.iter().find(|h| h.id == id).cloned();
            out.extend(match (of(self), of(now)) {
                (Some(was), None) => Some(format!("{}: existed, does not exist", was.name)),
                (None, Some(is)) => Some(format!("{}: did not exist, exists", is.name)),
                (Some(was), Some(is)) if was.reference != is.reference && was.state == is.state => {
                    Some(format!("{}: was made again", is.name))
                }
                (Some(was), Some(is)) if was.state != is.state => Some(format!("{}: was {}, is {}", is.name, was.state, is.state)),
                (Some(was), Some(is)) if was != is => Some(format!("{}: has another name or kind", is.name)),
                _ => None,
            });
        }
        out
    }
}

/// A plan with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Version of the format.
    septet_plan: u32,
    /// When it was made, RFC 3339; for people.
    made: String,
    /// The cluster's name.
    #[serde(deserialize_with = "parsed")]
    cluster: ClusterName,
    /// The cluster's identity; `None`: nothing of it existed.
    #[serde(default, deserialize_with = "parsed_if_there", skip_serializing_if = "Option::is_none")]
    uuid: Option<ClusterId>,
    /// What it rests on.
    basis: Basis,
    /// What is to be done.
    stages: Plan,
}

/// The beginning of every version's file.
#[derive(Deserialize)]
struct Head {
    septet_plan: u32,
}

fn parsed<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(D::Error::custom)
}

fn parsed_if_there<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Option::<String>::deserialize(d)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

impl PlanFile {
    /// A plan that was made now.
    pub fn new(cluster: &ClusterName, uuid: Option<ClusterId>, basis: Basis, plan: Plan, made: String) -> Self {
        Self { septet_plan: FORMAT, made, cluster: cluster.clone(), uuid, basis, stages: plan }
    }

    /// What is to be done.
    pub fn plan(&self) -> &Plan {
        &self.stages
    }

    /// Writes it; only its owner may read it, since names and addresses stand in it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        temporary.write_all(text.as_bytes()).and_then(|()| temporary.write_all(b"\n")).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        if !std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.is_file() {
            return Err(bad("not a file".into()));
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|e| bad(e.to_string()))?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(bad(format!("larger than {} MiB: not a plan", MAX_BYTES >> 20)));
        }
        Self::parse(&bytes).map_err(|why| bad(why).hint(ANEW_HINT))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let head: Head = serde_json::from_slice(bytes).map_err(|e| format!("not a plan: {e}"))?;
        if head.septet_plan != FORMAT {
            return Err(format!("a plan of format {}; this septet reads format {FORMAT}", head.septet_plan));
        }
        serde_json::from_slice(bytes).map_err(|e| format!("not a plan: {e}"))
    }

    /// Whether it is a plan for the cluster of this name.
    pub fn is_for(&self, cluster: &ClusterName) -> Result<()> {
        if self.cluster == *cluster {
            return Ok(());
        }
        Err(Error::invalid(format!("the plan is for cluster `{}`, the inventory is of `{cluster}`: nothing was touched", self.cluster))
            .hint("name the inventory that the plan was made from with `-i`"))
    }

    /// Whether a plan that is made now is this one. If not, what has changed since.
    pub fn is_still(&self, now: &Self) -> Result<()> {
        self.is_for(&now.cluster)?;
        if let (Some(was), Some(is)) = (self.uuid, now.uuid)
            && was != is
        {
            let text = format!("the plan is for another cluster called `{}`, {was}; this is {is}: nothing was touched", self.cluster);
            return Err(Error::failed(text).hint(ANEW_HINT));
        }
        let mut changes = self.basis.changes(&now.basis);
        if self.uuid.is_some() != now.uuid.is_some() && changes.is_empty() {
            changes.push(if self.uuid.is_some() { "the cluster does not exist any more" } else { "the cluster exists by now" }.into());
        }
        if changes.is_empty() && self.stages != now.stages {
            changes = difference(&self.stages, &now.stages);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let more = changes.len().saturating_sub(MAX_NAMED);
        changes.truncate(MAX_NAMED);
        if more > 0 {
            changes.push(format!("and {more} more"));
        }
        let since = &self.made;
        Err(Error::failed(format!("the plan of {since} does not apply any more: nothing was touched\n  {}", changes.join("\n  ")))
            .hint(ANEW_HINT))
    }
}

/// Steps that only one of two plans has, as lines.
fn difference(was: &Plan, is: &Plan) -> Vec<String> {
    // Steps are compared as what is written of them: a plan may have many.
    let written = |s: &Step| serde_json::to_string(s).unwrap_or_default();
    let only = |a: &Plan, b: &Plan, word: &str| -> Vec<String> {
        let there: HashSet<String> = b.all().map(written).collect();
        a.all().filter(|s| !there.contains(&written(s))).map(|s| format!("{word}: {s}")).collect()
    };
    let mut out = only(is, was, "to be done now, and not in the plan");
    out.extend(only(was, is, "in the plan, and not to be done now"));
    if out.is_empty() {
        out.push("the order of its steps, or the reason of one".into());
    }
    out
}
