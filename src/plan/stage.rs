//! A plan as a value: stages of steps, each step with its reason. Stages follow one another; within a stage its order says how.
//!
//! Invariant: every change that `up` makes is a step of one stage.

use serde::{Deserialize, Serialize};

use super::Step;
use crate::inventory::HostId;

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// it does not exist
    Missing,
    /// it was made and never started
    Unfinished,
    /// it does not work as it is
    Broken,
    /// it is stopped
    Stopped,
    /// it is frozen
    Paused,
    /// it is another kind of machine than the inventory wants
    OtherSize,
    /// its data lies on a volume that is not attached
    DataDetached,
    /// the provider has other settings than the inventory
    OtherSettings,
    /// the cluster has no end, or one that has passed
    NoEnd,
    /// it has another name than the inventory wants
    OtherName,
    /// it refuses the login key
    KeyRefused,
    /// the host is made by this plan
    NewHost,
    /// what is on the host cannot be seen before
    Unseen,
    /// what is on the host is not what the playbook wants
    Differs,
    /// a rename has left it
    Renamed,
}

/// How the steps of a stage follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// side by side
    Parallel,
    /// one after the other, as they stand
    Sequential,
    /// one host after the other, each under the gate of its role
    Rolling,
}

/// What a stage is about, in the order in which stages follow one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum StageKind {
    /// the cluster's network
    Network,
    /// what the provider has of what exists: openings, groups, tags
    Settings,
    /// hosts that are made, started or attached
    Hosts,
    /// when the cluster ends by itself
    Lease,
    /// the login key
    Keys,
    /// kinds of machines
    Resize,
    /// hosts that are configured as a whole
    Configure,
    /// a play of the engine's playbook
    Play {
        /// its name
        name: String,
    },
    /// the provider's names of hosts
    Rename,
    /// names that nothing uses any more
    Names,
}

impl StageKind {
    /// The provider's own stages, which come before hosts are configured.
    const MAKING: [Self; 3] = [Self::Network, Self::Settings, Self::Hosts];

    fn rank(&self) -> u8 {
        match self {
            Self::Network => 0,
            Self::Settings => 1,
            Self::Hosts => 2,
            Self::Lease => 3,
            Self::Keys => 4,
            Self::Resize => 5,
            Self::Configure => 6,
            Self::Play { .. } => 7,
            Self::Rename => 8,
            Self::Names => 9,
        }
    }

    fn order(&self) -> Order {
        match self {
            Self::Settings | Self::Rename => Order::Sequential,
            Self::Resize => Order::Rolling,
            _ => Order::Parallel,
        }
    }
}

/// A step with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasoned {
    /// what is done
    #[serde(flatten)]
    pub step: Step,
    /// why
    pub reason: Reason,
}

/// Steps that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// what it is about
    #[serde(flatten)]
    pub kind: StageKind,
    /// how its steps follow one another
    pub order: Order,
    /// its steps
    pub steps: Vec<Reasoned>,
}

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plan {
    /// one after the other
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Adds a step to its stage, which is made where there is none.
    pub fn add(&mut self, kind: StageKind, step: Step, reason: Reason) {
        let order = kind.order();
        self.add_in(kind, order, step, reason);
    }

    /// The same to a stage with an order of its own.
    pub fn add_in(&mut self, kind: StageKind, order: Order, step: Step, reason: Reason) {
        let step = Reasoned { step, reason };
        if let Some(stage) = self.stages.iter_mut().find(|s| s.kind == kind) {
            return stage.steps.push(step);
        }
        let at = self.stages.iter().position(|s| s.kind.rank() > kind.rank()).unwrap_or(self.stages.len());
        self.stages.insert(at, Stage { kind, order, steps: vec![step] });
    }

    /// Adds several.
    pub fn extend(&mut self, kind: StageKind, steps: impl IntoIterator<Item = Step>, reason: Reason) {
        for step in steps {
            self.add(kind.clone(), step, reason);
        }
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// All steps in order.
    pub fn all(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|s| &s.steps).map(|s| &s.step)
    }

    /// The steps of one stage.
    pub fn of(&self, kind: &StageKind) -> impl Iterator<Item = &Step> {
        self.stages.iter().filter(move |s| s.kind == *kind).flat_map(|s| &s.steps).map(|s| &s.step)
    }

    /// What the provider makes and mends before hosts are configured.
    pub fn making(&self) -> impl Iterator<Item = &Step> {
        StageKind::MAKING.iter().flat_map(|kind| self.of(kind))
    }

    /// The steps that bring what the provider has to what the inventory wants: what is known without looking into hosts.
    pub fn of_provider(&self) -> Plan {
        let is_inside = |k: &StageKind| {
            matches!(k, StageKind::Lease | StageKind::Keys | StageKind::Configure | StageKind::Play { .. } | StageKind::Names)
        };
        Plan { stages: self.stages.iter().filter(|s| !is_inside(&s.kind)).cloned().collect() }
    }

    /// Whether a change on a host is one of the plan's: its task is a step, or the host is configured as a whole.
    pub fn foresees(&self, host: HostId, at: &str, of_item: Option<&str>) -> bool {
        self.all().any(|s| match s {
            Step::Configure { id, .. } => *id == host,
            Step::Task { id, place, item, .. } => *id == host && place == at && item.as_deref() == of_item,
            _ => false,
        })
    }
}
