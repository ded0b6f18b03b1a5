//! Where a worker's variables come from: the part of the play that it is in, and what its host has registered.

use std::{collections::HashSet, sync::Arc};

use septet_agent_protocol::Outcome;
use serde_json::Value;

use crate::{
    playbook::model::Play,
    template::{Layer, Vars},
};

/// What a host has registered in this run.
#[derive(Debug, Clone, Default)]
pub struct HostState {
    /// facts that were gathered
    pub(super) facts: Arc<Vars>,
    /// `set_fact` and `register`
    pub(super) registered: Arc<Vars>,
    /// in check mode: files that would change, so that a unit that reads them is known to restart
    pub(super) would_change: HashSet<String>,
    /// the task that failed last and its result, for `rescue`
    pub(super) failure: Option<(Value, Value)>,
}

impl HostState {
    /// Facts that were gathered.
    pub fn facts(&self) -> Layer {
        Layer::data(self.facts.clone())
    }

    /// Results, and what `set_fact` set.
    pub fn registered(&self) -> Layer {
        Layer::data(self.registered.clone())
    }

    /// Keeps the facts of an outcome.
    pub(super) fn add_facts(&mut self, outcome: &Outcome) {
        if let Some(Value::Object(facts)) = outcome.values.get("facts") {
            let all = Arc::make_mut(&mut self.facts);
            for (k, v) in facts {
                all.insert(format!("ansible_{k}"), v.clone());
            }
            all.insert("ansible_facts".into(), facts.clone().into());
        }
    }
}

/// A part of a play: what all its hosts have in common.
pub struct Part {
    /// compare only, silently
    pub dry_run: bool,
    /// the play's variables
    pub(super) vars: Layer,
    /// variables that win over all but a host's identity
    pub(super) extra: Layer,
    /// what the play is, and its hosts, which nothing wins over
    pub(super) special: [Layer; 2],
}

impl Part {
    /// Of a play whose hosts are `all`, those that run now.
    pub fn new(play: &Play, all: &[String], batch: &[String], extra: &Vars, dry_run: bool) -> Self {
        let mut about = Vars::new();
        about.insert("ansible_play_name".into(), play.name.clone().into());
        if let Some(dir) = &play.dir {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            about.insert("playbook_dir".into(), dir.display().to_string().into());
        }
        let mut hosts = Vars::new();
        for key in ["ansible_play_hosts", "ansible_play_hosts_all", "play_hosts"] {
            hosts.insert(key.into(), all.into());
        }
        hosts.insert("ansible_play_batch".into(), batch.into());
        let special = [Layer::written(about), Layer::shared(hosts)];
        Self { dry_run, vars: Layer::written(play.vars.clone()), extra: Layer::written(extra.clone()), special }
    }

    /// Variables that win over all but a host's identity.
    pub fn extra(&self) -> Layer {
        self.extra.clone()
    }
}
