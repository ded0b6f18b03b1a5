//! A plan as a value: the steps between what exists and what is wanted.

use std::fmt;

use serde::Serialize;

use crate::{
    inventory::HostId,
    observed::{Adjustment, Opening},
};

/// A change to what the provider has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// the cluster's network
    CreateNetwork,
    /// a host that is not there
    Create {
        /// identity
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
        /// what it will be, as far as that is known before: kind, address, data that is kept
        #[serde(skip_serializing_if = "String::is_empty")]
        about: String,
    },
    /// a host that does not work as it is: made again, with the data that it has
    Replace {
        /// Identity: group and index.
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
        /// Why it does not work.
        why: String,
    },
    /// a host that is stopped
    Start {
        /// identity
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host that is frozen
    Unpause {
        /// identity
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host of another kind of machine: stopped, changed, started
    Resize {
        /// identity
        #[serde(skip)]
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
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
        /// the provider's id of the volume
        volume: String,
    },
    /// something that is mended in place
    Adjust(Adjustment),
    /// a host with another name
    Rename {
        /// identity
        #[serde(skip)]
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
            | Step::Rename { id, .. } => Some(*id),
            Step::CreateNetwork | Step::Adjust(_) => None,
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
            Step::Adjust(Adjustment::Surplus { name, reference }) => {
                write!(f, "- host {name} ({reference}): a second one in its place")
            }
            Step::Rename { from, to, .. } => write!(f, "~ host {from}: rename to {to}"),
        }
    }
}

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// before hosts are configured
    pub steps: Vec<Step>,
    /// one host at a time, each under the gate of its role
    pub rolls: Vec<Step>,
    /// after they are: names change last, so that an unfinished rename is seen
    pub renames: Vec<Step>,
}

impl Plan {
    /// Whether nothing is to be done with the provider.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
    /// All steps in order.
    pub fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.rolls).chain(&self.renames)
    }
}
