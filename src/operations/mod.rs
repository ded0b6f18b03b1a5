//! What the commands do: playbooks, gates and provider steps composed.
//!
//! Invariant: each operation can be cut off anywhere and begun again; what it finds decides what it does.

mod access;
mod authorized;
mod bundle;
mod check;
mod configure;
mod converge;
mod down;
mod lease;
mod lock;
mod names;
mod plant;
mod precheck;
mod preview;
mod protocols;
mod redact;
mod rename;
mod resize;
mod restart;
mod rolling;
mod secret;
mod steps;
mod unreachable;
mod up;
mod upgrade;

pub use access::{Access, only_data};
pub use bundle::{Part, collect};
pub use check::{Finding, check, worst};
pub use configure::run_playbook;
pub use down::{Receipt, Removed, down, down_expired};
pub use lease::{Extended, extend, list, sweep, warn_of_end};
pub use lock::{clock, locked, set_command};
pub use preview::{Planned, preview};
pub use redact::redacted;
pub use rename::rename;
pub use restart::{Restarted, restart};
pub use rolling::RollingGate;
pub use up::{UpOutcome, endpoints, up};
pub use upgrade::{Change, Pending, Upgraded, Wish, upgrade};

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use crate::{
    engine::bundle::{Architecture, Bundles},
    error::Result,
    inventory::{Inventory, ProviderSettings},
    journal::Recorder,
    playbook::Options,
    project::Project,
    provider::{self, Provider},
    report::Reporter,
    template::Vars,
};

/// A cluster that something is to be done with.
pub struct Cluster {
    /// what it is to be
    pub inventory: Inventory,
    /// where its hosts come from
    pub provider: Arc<dyn Provider>,
    /// where playbooks and templates come from
    pub project: Project,
    /// the programs for its hosts
    pub bundles: Bundles,
    /// variables that name the archives for its hosts, once they were found
    pub archives: Vars,
    /// output for the user
    pub reporter: Arc<Reporter>,
    /// writes the run into the journal
    pub recorder: Arc<Recorder>,
    /// set when the user wants to stop after the task in hand
    pub interrupted: Arc<AtomicBool>,
    /// for playbooks
    pub options: Options,
}

impl Cluster {
    /// Opens the inventory's provider and the bundles.
    pub fn open(
        inventory: Inventory,
        project: Project,
        reporter: Arc<Reporter>,
        interrupted: Arc<AtomicBool>,
        options: Options,
    ) -> Result<Self> {
        let provider = provider::open(&inventory)?;
        if let Some(chosen) = provider.chosen() {
            reporter.detail(&chosen);
        }
        let bundles = Bundles::find()?;
        // Containers are of this machine's architecture; elsewhere the hosts decide.
        if matches!(inventory.provider, ProviderSettings::Docker(_)) {
            bundles.of(Architecture::NATIVE)?;
        }
        let recorder = Arc::new(Recorder::off());
        Ok(Self { inventory, provider, project, bundles, archives: Vars::new(), reporter, recorder, interrupted, options })
    }

    /// The run begins to change the cluster: called with its lock.
    fn begin(&self) {
        self.recorder.begin(&self.reporter, &self.inventory.cluster);
    }
}

/// Phases of an operation, with their times.
#[derive(Debug, Default)]
pub struct Phases {
    done: Vec<(String, Duration)>,
}

impl Phases {
    /// Runs and times one phase.
    pub async fn time<T>(&mut self, reporter: &Reporter, name: &str, what: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        reporter.phase(name);
        let result = what.await;
        reporter.phase_end(name, begun.elapsed(), result.is_ok());
        self.done.push((name.to_owned(), begun.elapsed()));
        result
    }
    /// A phase that is done already.
    pub fn add(&mut self, reporter: &Reporter, name: &str, took: Duration) {
        reporter.phase(name);
        reporter.phase_end(name, took, true);
        self.done.push((name.to_owned(), took));
    }
    /// All that are done.
    pub fn list(&self) -> &[(String, Duration)] {
        &self.done
    }
}

#[cfg(test)]
mod removal_tests;
#[cfg(test)]
mod steps_tests;
