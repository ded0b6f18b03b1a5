//! What a run shows: its events, to a person, as lines of JSON, to the journal and to `tracing`; and tables. Data goes to standard
//! output, all else to standard error; with `--json` standard output is JSON and nothing else.

mod changes;
mod human;
mod json;
mod tables;
mod trace;

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

pub use human::{Color, Human};
pub use json::{JsonLines, line as event_line};
pub use tables::{counted, health_table, hosts_table, phases_table, plain_table, recap_table};
pub use trace::{Trace, init as init_tracing};

use crate::{
    events::{Event, GateState, Level, Sink},
    plan::{Plan, Step},
    playbook::Recap,
    provider::{Check, Estimate},
};

/// Gives the events of a run to all that show or keep them. Tables, which are no events, go to the person alone.
pub struct Reporter {
    human: Human,
    sinks: RwLock<Vec<Arc<dyn Sink>>>,
}

impl Reporter {
    /// A reporter for this process. `data`: its lines are the command's data and go to standard output.
    pub fn new(verbose: bool, diffs: bool, color: Color, data: bool) -> Self {
        Self::of(Human::new(verbose, diffs, color, data))
    }

    /// One that shows events in this way.
    pub fn of(human: Human) -> Self {
        Self { human, sinks: RwLock::default() }
    }

    /// Adds a receiver of the events that follow.
    pub fn add(&self, sink: Arc<dyn Sink>) {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    /// Something happened.
    pub fn emit(&self, event: &Event) {
        self.human.event(event);
        for sink in self.sinks.read().unwrap_or_else(PoisonError::into_inner).iter() {
            sink.event(event);
        }
    }

    fn note(&self, level: Level, text: &str) {
        self.emit(&Event::Note { level, text: text.to_owned() });
    }

    /// Information that is not the command's data.
    pub fn say(&self, text: &str) {
        self.note(Level::Info, text);
    }

    /// Something that is not as it may be thought to be.
    pub fn warn(&self, text: &str) {
        self.note(Level::Warning, text);
    }

    /// Something for `-v` only.
    pub fn detail(&self, text: &str) {
        self.note(Level::Detail, text);
    }

    /// A host's place in a roll.
    pub fn gate(&self, host: &str, state: GateState) {
        self.emit(&Event::Gate { host: host.to_owned(), state, reasons: Vec::new() });
    }

    /// A phase begins.
    pub fn phase(&self, name: &str) {
        self.emit(&Event::Phase { name: name.to_owned() });
    }

    /// A phase ended.
    pub fn phase_end(&self, name: &str, took: std::time::Duration, ok: bool) {
        self.emit(&Event::PhaseEnd { name: name.to_owned(), seconds: took.as_secs_f64(), ok });
    }

    /// A provider's step is done.
    pub fn step(&self, step: &Step) {
        self.emit(&Event::Step { summary: step.to_string() });
    }

    /// Shows a plan.
    pub fn plan(&self, plan: &Plan) {
        self.human.plan(plan);
    }

    /// Shows of which hosts a plan knows nothing more: they exist, and what is on them cannot be seen now.
    pub fn unseen(&self, hosts: &[String]) {
        self.human.unseen(hosts);
    }

    /// Shows what is made beside hosts.
    pub fn resources(&self, lines: &[String]) {
        self.human.resources(lines);
    }

    /// Shows which names go once the rename is finished.
    pub fn old_names(&self, names: &std::collections::BTreeSet<String>) {
        self.human.old_names(names);
    }

    /// Shows checks: those that are not as they must be, or all of them.
    pub fn checks(&self, checks: &[Check], all: bool) {
        self.human.checks(checks, all);
    }

    /// Shows what a cluster costs.
    pub fn estimate(&self, e: &Estimate) {
        self.human.estimate(e);
    }

    /// Shows a recap.
    pub fn recap(&self, recap: &Recap) {
        self.human.recap(recap);
    }

    /// How hosts are called, and which of them are new: what changes there is only counted, unless `-v` is given.
    pub fn of_cluster(&self, prefix: &str, new_hosts: Vec<String>) {
        self.human.of_cluster(prefix, new_hosts);
    }

    /// Follows a run of plays until its last event.
    pub async fn listen(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.emit(&event);
        }
        self.human.flush();
    }
}
