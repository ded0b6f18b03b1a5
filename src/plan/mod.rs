//! The planner: from what is wanted and what exists to the steps between. Pure and synchronous; `up` applies the
//! value that `plan` prints.

use std::fmt;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    inventory::{HostId, Inventory},
    provider::{HostState, Observed, foreign},
};

/// A change to what the provider has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// the cluster's network
    CreateNetwork,
    /// a host that is not there
    Create {
        /// who
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host that was made and never started: made again
    Replace {
        /// who
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host that is stopped
    Start {
        /// who
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host that is frozen
    Unpause {
        /// who
        #[serde(skip)]
        id: HostId,
        /// its name
        name: String,
    },
    /// a host with another name
    Rename {
        /// who
        #[serde(skip)]
        id: HostId,
        /// its name now
        from: String,
        /// its name to be
        to: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateNetwork => write!(f, "+ network"),
            Step::Create { name, .. } => write!(f, "+ host {name}"),
            Step::Replace { name, .. } => {
                write!(f, "± host {name} (made, but never started: made again)")
            }
            Step::Start { name, .. } => write!(f, "~ host {name}: start"),
            Step::Unpause { name, .. } => write!(f, "~ host {name}: unpause"),
            Step::Rename { from, to, .. } => write!(f, "~ host {from}: rename to {to}"),
        }
    }
}

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// before hosts are configured
    pub steps: Vec<Step>,
    /// after they are: names change last, so that an unfinished rename is seen
    pub renames: Vec<Step>,
}

impl Plan {
    /// Whether nothing is to be done with the provider.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.renames.is_empty()
    }
    /// All steps in order.
    pub fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.renames)
    }
}

/// Makes the plan.
pub fn plan(inventory: &Inventory, observed: &Observed) -> Result<Plan> {
    let mut plan = Plan::default();
    if observed.network.is_none() {
        if let Some(host) = observed.hosts.first() {
            return Err(Error::failed(format!("the cluster's network is gone, but {} is there", host.name))
                .hint("`septet down` and `septet up` make the cluster anew; data is lost"));
        }
        plan.steps.push(Step::CreateNetwork);
    }
    if let Some(extra) = observed.hosts.iter().find(|o| !inventory.hosts.iter().any(|h| h.id == o.id)) {
        return Err(Error::failed(format!("{} ({} {}) is not in the inventory any more", extra.name, extra.id.role, extra.id.index))
            .hint("this version does not shrink a cluster: put the host back into the inventory, or `septet down`"));
    }
    for host in &inventory.hosts {
        let name = || host.name.clone();
        if let Some(what) = observed.taken.get(&host.name) {
            return Err(foreign(&host.name, what));
        }
        let Some(is) = observed.host(host.id) else {
            plan.steps.push(Step::Create { id: host.id, name: name() });
            continue;
        };
        match is.state {
            HostState::Running => {}
            HostState::Stopped => plan.steps.push(Step::Start { id: host.id, name: name() }),
            HostState::Paused => plan.steps.push(Step::Unpause { id: host.id, name: name() }),
            HostState::Unfinished => {
                plan.steps.push(Step::Replace { id: host.id, name: name() });
                continue;
            }
        }
        if is.name != host.name {
            plan.renames.push(Step::Rename { id: host.id, from: is.name.clone(), to: name() });
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        inventory::Role,
        provider::{ObservedHost, ObservedNetwork, docker::Subnet},
    };

    fn observed(inventory: &Inventory) -> Observed {
        let subnet = Subnet([10, 1, 2]);
        let hosts = inventory.hosts.iter().map(|h| ObservedHost {
            id: h.id,
            reference: h.name.clone(),
            name: h.name.clone(),
            state: HostState::Running,
            address: subnet.host(h.id).unwrap(),
            host_key: String::new(),
            published: Default::default(),
        });
        Observed {
            uuid: Some("u".into()),
            network: Some(ObservedNetwork { reference: "n".into(), subnet, ports_from: 19000 }),
            hosts: hosts.collect(),
            taken: Default::default(),
        }
    }

    fn shown(p: &Plan) -> String {
        p.all().map(|s| format!("{s}\n")).collect()
    }

    #[test]
    fn from_nothing_everything_is_made_and_then_nothing() {
        let inventory = Inventory::built_in().unwrap();
        let p = plan(&inventory, &Observed::default()).unwrap();
        assert_eq!(p.steps.len(), 8);
        assert_eq!(p.steps[0], Step::CreateNetwork);
        assert!(plan(&inventory, &observed(&inventory)).unwrap().is_empty());
    }

    #[test]
    fn each_difference_has_its_step() {
        let inventory = Inventory::built_in().unwrap();
        let mut o = observed(&inventory);
        o.hosts[0].state = HostState::Stopped;
        o.hosts[1].state = HostState::Paused;
        o.hosts[2].state = HostState::Unfinished;
        o.hosts[3].name = "old-zk03".into();
        o.hosts.remove(6);
        assert_eq!(
            shown(&plan(&inventory, &o).unwrap()),
            "~ host peter-control01: start\n~ host peter-zk01: unpause\n± host peter-zk02 (made, but never started: made again)\n+ host peter-kafka03\n~ host old-zk03: rename to peter-zk03\n"
        );
    }

    #[test]
    fn others_property_and_surplus_hosts_are_refused() {
        let inventory = Inventory::built_in().unwrap();
        let mut o = observed(&inventory);
        o.hosts.pop();
        o.taken.insert("peter-kafka03".into(), "a container of image x".into());
        assert!(plan(&inventory, &o).unwrap_err().message.contains("left alone"));
        let mut o = observed(&inventory);
        o.hosts[6].id = HostId { role: Role::Broker, index: 4 };
        assert!(plan(&inventory, &o).unwrap_err().message.contains("not in the inventory"));
        let mut o = observed(&inventory);
        o.network = None;
        assert!(plan(&inventory, &o).is_err());
    }
}
