//! A playbook as parsed: plays, tasks, handlers; each knows its place.

use std::{path::PathBuf, sync::Arc};

use serde_json::Value;

use crate::{
    template::{Reads, Vars},
    yaml::Node,
};

/// A play.
#[derive(Debug, Clone)]
pub struct Play {
    /// its name, or its hosts
    pub name: String,
    /// host pattern
    pub hosts: String,
    /// variables
    pub vars: Vars,
    /// tasks
    pub tasks: Vec<Task>,
    /// handlers
    pub handlers: Vec<Task>,
    /// how many hosts at a time: numbers or percentages, the last one repeats; empty for all
    pub serial: Vec<Serial>,
    /// gather facts first
    pub gather_facts: bool,
    /// run as another user
    pub r#become: Become,
    /// tags of all of its tasks
    pub tags: Vec<String>,
    /// Hosts go one at a time under the gate of their role once the cluster serves. Only hosts on which something
    /// would change are touched.
    pub rolling: bool,
    /// a host that fails ends the run after this play
    pub any_errors_fatal: bool,
    /// environment of commands
    pub environment: Vars,
    /// names that it reads itself
    pub reads: Reads,
    /// its directory, where it lies on this machine
    pub dir: Option<PathBuf>,
    /// where it is
    pub node: Node,
}

/// A number of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serial {
    /// so many
    Count(usize),
    /// so much of all, in percent
    Percent(usize),
}

impl Serial {
    /// How many hosts of a number that is.
    pub fn of(self, all: usize) -> usize {
        match self {
            Serial::Count(n) => n.max(1),
            Serial::Percent(p) => (all * p / 100).max(1),
        }
    }
}

/// `become` and `become_user`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Become {
    /// whether, if given
    pub on: Option<bool>,
    /// the user, if given
    pub user: Option<String>,
}

impl Become {
    /// This, or what is around it.
    pub fn or(&self, outer: &Become) -> Become {
        Become { on: self.on.or(outer.on), user: self.user.clone().or(outer.user.clone()) }
    }
    /// The user to become; `None` for the one that logs in.
    pub fn target(&self) -> Option<String> {
        self.on.unwrap_or(false).then(|| self.user.clone().unwrap_or_else(|| "root".into()))
    }
}

/// Whether this can be a user's name: nothing else reaches `sudo`.
pub fn is_user_name(name: &str) -> bool {
    let body = name.strip_suffix('$').unwrap_or(name);
    let first = body.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = body.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
    first && rest && name.len() <= 32
}

/// What a task does.
#[derive(Debug, Clone)]
pub enum Work {
    /// a module with its arguments, as they stand
    Module {
        /// its short name
        name: &'static str,
        /// arguments before rendering
        arguments: Value,
        /// where they are
        node: Node,
    },
    /// tasks of which a failure is handled, or behind which something always runs
    Block {
        /// what is tried
        tasks: Vec<Task>,
        /// what runs when one of them fails
        rescue: Vec<Task>,
        /// what runs in any case
        always: Vec<Task>,
    },
    /// `meta: flush_handlers`
    FlushHandlers,
    /// tasks of another file
    Include {
        /// its name before rendering
        file: String,
        /// where that is
        node: Node,
    },
}

/// How the items of a loop come from its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoopKind {
    /// `loop`, `with_list`: the value is the list
    #[default]
    List,
    /// `with_items`: lists in the list are flattened by one level
    Items,
    /// `with_dict`: keys and values of a mapping
    Dict,
    /// `with_indexed_items`: pairs of number and item
    Indexed,
}

/// `loop_control`.
#[derive(Debug, Clone, Default)]
pub struct LoopControl {
    /// what is shown of an item
    pub label: Option<String>,
    /// variable for the item's number, from 0
    pub index_var: Option<String>,
    /// set `ansible_loop`
    pub extended: bool,
}

/// A task or a handler.
#[derive(Debug, Clone)]
pub struct Task {
    /// its name, or its module's
    pub name: String,
    /// what it does
    pub work: Work,
    /// conditions that must all hold
    pub when: Vec<Node>,
    /// items, or an expression that gives them
    pub loop_over: Option<Node>,
    /// how the items come from it
    pub loop_kind: LoopKind,
    /// name of the item's variable
    pub loop_var: String,
    /// more about the loop
    pub loop_control: LoopControl,
    /// variable for the result
    pub register: Option<String>,
    /// handlers to notify
    pub notify: Vec<String>,
    /// further names that a handler answers to
    pub listen: Vec<String>,
    /// tags
    pub tags: Vec<String>,
    /// run as another user
    pub r#become: Become,
    /// go on when it fails
    pub ignore_errors: bool,
    /// conditions that say that it failed
    pub failed_when: Option<Vec<Node>>,
    /// conditions that say that it changed something
    pub changed_when: Option<Vec<Node>>,
    /// conditions to try again for
    pub until: Option<Vec<Node>>,
    /// how often after the first time, as in Ansible
    pub retries: u32,
    /// seconds between
    pub delay_s: u64,
    /// variables
    pub vars: Vars,
    /// environment of commands
    pub environment: Vars,
    /// check mode of its own
    pub check_mode: Option<bool>,
    /// show diffs
    pub diff: Option<bool>,
    /// keep contents and results out of all output
    pub no_log: bool,
    /// where it is
    pub node: Node,
    /// names that its expressions ask for, to know what must be there before it
    pub reads: Arc<Reads>,
    /// directories whose `templates/` and `files/` are looked in first
    pub dirs: Arc<Vec<PathBuf>>,
}

impl Task {
    /// `file:line` for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.node.source.path.display(), self.node.line)
    }
}
