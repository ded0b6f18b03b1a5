//! Steps between what exists and what is wanted, as values.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock,
    inventory::HostId,
    observed::{Adjustment, Opening},
};

/// A change that `up` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// the cluster's network
    CreateNetwork,
    /// a host that is not there
    Create {
        /// identity
        id: HostId,
        /// its name
        name: String,
        /// what it will be, as far as that is known before: kind, address, data that is kept
        #[serde(default, skip_serializing_if = "String::is_empty")]
        about: String,
    },
    /// a host that does not work as it is: made again, with the data that it has
    Replace {
        /// Identity: group and index.
        id: HostId,
        /// its name
        name: String,
        /// Why it does not work.
        why: String,
    },
    /// a host that is stopped
    Start {
        /// identity
        id: HostId,
        /// its name
        name: String,
    },
    /// a host that is frozen
    Unpause {
        /// identity
        id: HostId,
        /// its name
        name: String,
    },
    /// a host of another kind of machine: stopped, changed, started
    Resize {
        /// identity
        id: HostId,
        /// its name
        name: String,
        /// its kind now
        from: String,
        /// its kind to be
        to: String,
    },
    /// a host whose data lies on a volume that is not attached to it: what a run that was cut off left
    Attach {
        /// identity
        id: HostId,
        /// its name
        name: String,
        /// the provider's id of the volume
        volume: String,
    },
    /// something that is mended in place
    Adjust(Adjustment),
    /// the time at which the cluster ends by itself: so long after `up` begins
    SetEnd {
        /// In seconds.
        ttl_s: u64,
    },
    /// the login key of this state directory, on a host that does not accept it yet
    PlantKey {
        /// Identity: group and index.
        id: HostId,
        /// Its name.
        name: String,
    },
    /// a host's whole configuration: it is new, or what is on it cannot be seen before
    Configure {
        /// Identity: group and index.
        id: HostId,
        /// Its name.
        name: String,
    },
    /// a task of a playbook that changes something on a host
    Task {
        /// Identity: group and index.
        id: HostId,
        /// The host's name.
        name: String,
        /// The task's name.
        task: String,
        /// `file:line` of the task.
        place: String,
        /// The item of a loop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        item: Option<String>,
        /// SHA-256 of the diff, where one is known before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        diff: Option<String>,
    },
    /// names of hosts from before a rename
    RemoveNames {
        /// The names.
        names: BTreeSet<String>,
    },
    /// a host with another name
    Rename {
        /// identity
        id: HostId,
        /// its name now
        from: String,
        /// its name to be
        to: String,
    },
}

impl Step {
    /// The host that it is about; `None` for what several have in common.
    pub fn host(&self) -> Option<HostId> {
        match self {
            Step::Create { id, .. }
            | Step::Replace { id, .. }
            | Step::Start { id, .. }
            | Step::Unpause { id, .. }
            | Step::Resize { id, .. }
            | Step::Attach { id, .. }
            | Step::PlantKey { id, .. }
            | Step::Configure { id, .. }
            | Step::Task { id, .. }
            | Step::Rename { id, .. } => Some(*id),
            Step::CreateNetwork | Step::Adjust(_) | Step::SetEnd { .. } | Step::RemoveNames { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateNetwork => write!(f, "+ network"),
            Step::Create { name, about, .. } if about.is_empty() => write!(f, "+ host {name}"),
            Step::Create { name, about, .. } => write!(f, "+ host {name} ({about})"),
            Step::Replace { name, why, .. } => write!(f, "± host {name} ({why}: made again, data is kept)"),
            Step::Start { name, .. } => write!(f, "~ host {name}: start"),
            Step::Unpause { name, .. } => write!(f, "~ host {name}: unpause"),
            Step::Resize { name, from, to, .. } => write!(f, "~ host {name}: from {from} to {to}, stopped and started"),
            Step::Attach { name, volume, .. } => write!(f, "~ host {name}: attach its data, {volume}"),
            Step::Adjust(Adjustment::Openings { group, name, add, remove }) => {
                let list = |o: &[Opening]| o.iter().map(Opening::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "{} group {name}:", if group.is_empty() { "+" } else { "~" })?;
                if !add.is_empty() {
                    write!(f, " open {}", list(add))?;
                }
                if !remove.is_empty() {
                    write!(f, "{} close {}", if add.is_empty() { "" } else { ";" }, list(remove))?;
                }
                Ok(())
            }
            Step::Adjust(Adjustment::Membership { name, join, leave, .. }) => {
                write!(f, "~ security groups of {name}:")?;
                if !join.is_empty() {
                    write!(f, " join {}", join.join(", "))?;
                }
                if !leave.is_empty() {
                    write!(f, "{} leave {}", if join.is_empty() { "" } else { ";" }, leave.join(", "))?;
                }
                Ok(())
            }
            Step::Adjust(Adjustment::Tags { name, tags, .. }) => {
                let list: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "~ tags of {name}: {}", list.join(", "))
            }
            Step::Adjust(Adjustment::DataEnds { name, ends: true, .. }) => {
                write!(f, "~ data of {name}: goes with its host at the end of the cluster's life")
            }
            Step::Adjust(Adjustment::DataEnds { name, ends: false, .. }) => write!(f, "~ data of {name}: outlives its host"),
            Step::Adjust(Adjustment::Data { name, paths, .. }) if paths.is_empty() => {
                write!(f, "~ host {name}: write down where its data lies")
            }
            Step::Adjust(Adjustment::Data { name, paths, .. }) => write!(f, "~ host {name}: data in {} too", paths.join(", ")),
            Step::Adjust(Adjustment::Surplus { name, reference }) => {
                write!(f, "- host {name} ({reference}): a second one in its place")
            }
            Step::SetEnd { ttl_s } => {
                write!(f, "~ cluster: ends by itself {} after `up`", clock::span(Duration::from_secs(*ttl_s)))
            }
            Step::PlantKey { name, .. } => write!(f, "~ host {name}: add the login key of this state directory"),
            Step::Configure { name, .. } => write!(f, "~ host {name}: configure"),
            Step::Task { name, task, item, .. } => {
                let item = item.as_ref().map(|i| format!(" ({i})")).unwrap_or_default();
                write!(f, "~ host {name}: {task}{item}")
            }
            Step::Rename { from, to, .. } => write!(f, "~ host {from}: rename to {to}"),
            Step::RemoveNames { names } => {
                write!(f, "- names {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
