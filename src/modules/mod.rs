//! The task modules: each turns its arguments into one action for the agent, or does its work here.
//!
//! Invariant: a module decides nothing about a host's state; it describes the wanted state, the agent compares.

mod accounts;
mod arguments;
mod assert;
mod command;
mod copy;
mod debug;
mod fail;
mod file;
mod lines;
mod names;
mod package;
mod set_fact;
mod stat;
mod systemd;
mod template;
pub mod unarchive;
mod wait_for;

pub use arguments::Arguments;
use septet_agent_protocol::{Action, Outcome};

use crate::{
    error::Result,
    project::Project,
    ssh::{Blob, BlobSource},
    template::{Renderer, Vars},
};

/// What a module needs to know.
pub struct Context<'a> {
    /// variables of the host
    pub renderer: &'a Renderer,
    /// where files come from
    pub project: &'a Project,
    /// directories whose `files/` and `templates/` are looked in first
    pub dirs: &'a [std::path::PathBuf],
    /// environment for commands
    pub environment: &'a Vars,
}

/// What a module made of its arguments.
#[derive(Debug)]
pub enum Prepared {
    /// for the agent
    Remote {
        /// what to do
        action: Action,
        /// contents that travel with it
        tail: Vec<u8>,
        /// a blob that the host's store must have
        blob: Option<Blob>,
    },
    /// done here
    Local {
        /// how it ended
        outcome: Outcome,
        /// facts to set
        facts: Vars,
    },
}

impl Prepared {
    fn action(action: Action) -> Self {
        Prepared::Remote { action, tail: Vec::new(), blob: None }
    }
    fn local(outcome: Outcome) -> Self {
        Prepared::Local { outcome, facts: Vars::new() }
    }
}

type Prepare = fn(&mut Arguments<'_>, &Context<'_>) -> Result<Prepared>;

struct Module {
    name: &'static str,
    /// the argument that a plain text is
    free_form: Option<&'static str>,
    prepare: Prepare,
}

const fn module(name: &'static str, free_form: Option<&'static str>, prepare: Prepare) -> Module {
    Module { name, free_form, prepare }
}

static MODULES: &[Module] = &[
    module("assert", None, assert::prepare),
    module("blockinfile", None, lines::blockinfile),
    module("command", Some("cmd"), command::command),
    module("copy", None, copy::prepare),
    module("debug", None, debug::prepare),
    module("fail", None, fail::prepare),
    module("file", None, file::prepare),
    module("group", None, accounts::group),
    module("hostname", None, names::hostname),
    module("lineinfile", None, lines::lineinfile),
    module("package", None, package::prepare),
    module("service", None, systemd::prepare),
    module("set_fact", None, set_fact::prepare),
    module("setup", None, stat::setup),
    module("shell", Some("cmd"), command::shell),
    module("slurp", None, stat::slurp),
    module("stat", None, stat::stat),
    module("systemd", None, systemd::prepare),
    module("systemd_service", None, systemd::prepare),
    module("template", None, template::prepare),
    module("timezone", None, names::timezone),
    module("unarchive", None, unarchive::prepare),
    module("user", None, accounts::user),
    module("wait_for", None, wait_for::prepare),
];

fn find(name: &str) -> Option<&'static Module> {
    let short = ["ansible.builtin.", "ansible.legacy.", "community.general."].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    MODULES.iter().find(|m| m.name == short)
}

/// A module's short name, also from its full one.
pub fn lookup(name: &str) -> Option<&'static str> {
    find(name).map(|m| m.name)
}

/// All names.
pub fn names() -> Vec<&'static str> {
    MODULES.iter().map(|m| m.name).collect()
}

/// The argument that a plain text is, where a module takes one.
pub fn free_form(name: &str) -> Option<&'static str> {
    find(name).and_then(|m| m.free_form)
}

/// Prepares a module's work from rendered arguments.
pub fn prepare(name: &str, mut arguments: Arguments<'_>, context: &Context<'_>) -> Result<Prepared> {
    let module = find(name).ok_or_else(|| arguments.error(format!("there is no module `{name}`")))?;
    let prepared = (module.prepare)(&mut arguments, context)?;
    arguments.finish()?;
    Ok(prepared)
}
