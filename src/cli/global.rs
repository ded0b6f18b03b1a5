//! What every command takes: the inventory, the way output looks, and how the cluster is opened with them.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use clap::{ArgAction, Args};
use serde_json::Value;

use super::{print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    inventory::{Inventory, ProviderSettings},
    journal::Recorder,
    operations::Cluster,
    playbook::Options,
    project::Project,
    report::{Color, JsonLines, Reporter, Trace},
    ssh::quote,
    visible::Secret,
};

/// What every command takes.
#[derive(Args, Clone)]
pub struct Global {
    /// Inventory file [default: inventories/local.yml, else the built-in local one]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Directory with playbooks/ and templates/ that override the shipped ones [default: .]
    #[arg(long, global = true, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Print JSON on standard output, and nothing else; commands that bring up or change a cluster print each event as a line as it comes, `down` prints its receipt
    #[arg(long, global = true)]
    pub json: bool,
    /// Assume yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Verbose output; twice: also connections and agents, with times
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Hosts to work on in parallel; 0 for all of them in a play, and 64 where hosts are only asked
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub forks: usize,
    /// Accept host keys that known_hosts does not have, and add them to it (hosts of provider `static`)
    #[arg(long, global = true)]
    pub accept_new: bool,
    /// Ask once for the password of sudo, for hosts whose inventory has none (provider `static`)
    #[arg(short = 'K', long, global = true)]
    pub ask_become_pass: bool,
    /// Color output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// what was answered
    #[arg(skip)]
    pub(super) become_password: Arc<OnceLock<Secret>>,
    /// a removal leaves out hosts that cannot be reached
    #[arg(skip)]
    pub(super) ignore_unreachable: bool,
    /// events are printed as lines of JSON
    #[arg(skip)]
    pub(super) live: bool,
    /// writes the run into the journal
    #[arg(skip)]
    pub(super) recorder: Arc<Recorder>,
}

impl Global {
    pub(super) fn project(&self) -> Result<Project> {
        let root = match &self.project {
            Some(p) if !p.is_dir() => {
                return Err(Error::invalid(format!("--project: {} is not a directory", p.display())));
            }
            Some(p) => p.clone(),
            None => PathBuf::from("."),
        };
        Ok(Project { root })
    }

    pub(super) fn inventory(&self) -> Result<Inventory> {
        if let Some(path) = &self.inventory {
            return Inventory::read(path);
        }
        let path = self.project.clone().unwrap_or_default().join("inventories/local.yml");
        if path.is_file() { Inventory::read(&path) } else { Inventory::built_in() }
    }

    /// The inventory, with what the command line says of hosts that exist: for commands that ask such hosts.
    pub(super) fn selected(&self) -> Result<Inventory> {
        let mut inventory = self.inventory()?;
        if let ProviderSettings::Static(settings) = &mut inventory.provider {
            settings.accept_new = self.accept_new;
            settings.forks = self.forks;
            settings.ignore_unreachable = self.ignore_unreachable;
            settings.become_password = self.become_password()?;
        } else if self.ask_become_pass {
            return Err(Error::invalid("--ask-become-pass: hosts that Septet made need no password for sudo")
                .hint("leave -K out; it is for hosts of provider `static`"));
        }
        Ok(inventory)
    }

    /// A command line of ours with the options of this run that select the cluster.
    pub(super) fn command(&self, rest: &str) -> String {
        let option = |name: &str, path: &Option<PathBuf>| path.as_ref().map(|p| format!("{name} {} ", shown(p))).unwrap_or_default();
        format!("septet {}{}{rest}", option("-i", &self.inventory), option("--project", &self.project))
    }

    /// An error whose commands of ours are about this run's cluster.
    pub(super) fn complete(&self, mut e: Error) -> Error {
        let complete = |text: String| text.replace("`septet ", &format!("`{}", self.command("")));
        e.hint = e.hint.map(complete);
        e.message = complete(e.message);
        e
    }

    pub(super) fn reporter(&self, diffs: bool) -> Arc<Reporter> {
        let reporter = Reporter::new(self.verbose > 0, diffs, self.color, false);
        if self.live {
            reporter.add(Arc::new(JsonLines));
        }
        if self.verbose > 1 {
            reporter.add(Arc::new(Trace));
        }
        Arc::new(reporter)
    }

    /// For a command whose lines are its data.
    pub(super) fn data_reporter(&self, diffs: bool) -> Arc<Reporter> {
        Arc::new(Reporter::new(self.verbose > 0, diffs, self.color, !self.json))
    }

    pub(super) fn cluster(&self, options: Options, reporter: Arc<Reporter>, interrupted: &Arc<AtomicBool>) -> Result<Cluster> {
        let options = Options { forks: self.forks, ..options };
        let mut cluster = Cluster::open(self.selected()?, self.project()?, reporter, interrupted.clone(), options)?;
        cluster.recorder = self.recorder.clone();
        Ok(cluster)
    }

    /// The password of sudo, asked for on the terminal the first time that it is needed.
    fn become_password(&self) -> Result<Option<Secret>> {
        if !self.ask_become_pass {
            return Ok(None);
        }
        if let Some(known) = self.become_password.get() {
            return Ok(Some(known.clone()));
        }
        let typed = rpassword::prompt_password("password for sudo: ").map_err(|e| match e.kind() {
            ErrorKind::Interrupted => Error::failed("interrupted; nothing was begun").kind(Kind::Interrupted),
            _ => Error::failed(format!("cannot ask for the password of sudo: {e}"))
                .hint("without a terminal, set SEPTET_BECOME_PASSWORD, or write `become_password_file:` into the inventory"),
        })?;
        Ok(Some(self.become_password.get_or_init(|| Secret::new(typed)).clone()))
    }

    /// Prints the result of a command whose events may have been printed: then as one event more, `result` or `error`.
    pub(super) fn print_result(&self, event: &str, mut result: Value) -> Result<()> {
        if !self.live {
            return print_json(&result);
        }
        if let Some(object) = result.as_object_mut() {
            object.insert("event".into(), event.into());
        }
        print_data(&format!("{result}\n"))
    }
}

/// A path as a word of a command line.
pub(super) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-+:@,".contains(c)) { text } else { quote(&text) }
}
