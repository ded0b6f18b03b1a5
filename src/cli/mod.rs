//! The command line.
//!
//! Exit codes: 0 done · 1 failed · 2 bad usage or invalid file · 3 unhealthy · 4 changes pending · 130 interrupted.

mod bundle;
mod check;
mod completions;
mod down;
mod endpoints;
mod exec;
mod extend;
mod global;
mod health;
mod history;
mod init;
mod list;
mod logs;
mod plan;
mod rename;
mod restart;
mod run;
mod ssh;
mod up;
mod upgrade;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, Parser, Subcommand};
use global::Global;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Kind, Result},
    journal::Recorder,
    playbook::Options,
    report::init_tracing,
    stop,
    template::Vars,
};

/// A real Kafka cluster under your own name: seven hosts, one command.
#[derive(Parser)]
#[command(
    name = "septet",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or invalid file, 3 unhealthy, 4 changes pending (plan --exit-code), 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Identifying parameters of a command in the journal.
type Parameters = BTreeMap<&'static str, String>;

/// A command that the journal records.
trait Recorded {
    /// What tells its instances apart, beside the cluster. What may be a secret is only there as a digest.
    fn parameters(&self) -> Parameters;
}

#[derive(Subcommand)]
enum Command {
    /// Create or change the cluster to match the inventory: hosts, names, programs, configuration
    Up(up::Arguments),
    /// Show what `up` would do, with a diff per file; change nothing
    Plan(plan::Arguments),
    /// Check the cluster by producing and consuming through each broker
    Health(health::Arguments),
    /// Check this machine, the provider and the hosts: quotas, disks, memory, clocks, names, ports, limits
    Check(check::Arguments),
    /// Print the addresses that clients connect to
    Endpoints,
    /// Give every host another prefix without stopping the cluster
    Rename(rename::Arguments),
    /// Restart services, one host after the other while the cluster serves
    Restart(restart::Arguments),
    /// Bring hosts to this septet's programs, or to another version of Apache Kafka, one after the other
    Upgrade(upgrade::Arguments),
    /// Put off the end of the cluster's life
    Extend(extend::Arguments),
    /// Remove everything that belongs to the cluster
    Down(down::Arguments),
    /// List the clusters of the inventory's provider: name, prefix, age, end, cost
    List,
    /// Run a playbook against the cluster's hosts
    Run(run::Arguments),
    /// Run a command on the hosts of a group or pattern
    Exec(exec::Arguments),
    /// Log in to a host
    Ssh(ssh::Arguments),
    /// Show the logs of hosts' services
    Logs(logs::Arguments),
    /// Collect logs, configurations, health and history in one archive, without secrets
    Bundle(bundle::Arguments),
    /// Show what was run on this machine: executions, their steps and their output
    History(history::Arguments),
    /// Write inventories, playbooks and templates out for editing
    Init(init::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

impl Command {
    /// As it is typed.
    fn name(&self) -> &'static str {
        match self {
            Command::Up(_) => "up",
            Command::Plan(_) => "plan",
            Command::Health(_) => "health",
            Command::Check(_) => "check",
            Command::Endpoints => "endpoints",
            Command::Rename(_) => "rename",
            Command::Restart(_) => "restart",
            Command::Upgrade(_) => "upgrade",
            Command::Extend(_) => "extend",
            Command::Down(_) => "down",
            Command::List => "list",
            Command::Run(_) => "run",
            Command::Exec(_) => "exec",
            Command::Ssh(_) => "ssh",
            Command::Logs(_) => "logs",
            Command::Bundle(_) => "bundle",
            Command::History(_) => "history",
            Command::Init(_) => "init",
            Command::Completions(_) => "completions",
        }
    }

    /// What the journal records of it; `None` for what changes nothing.
    fn recorded(&self) -> Option<Parameters> {
        match self {
            Command::Up(a) => Some(a.parameters()),
            Command::Rename(a) => Some(a.parameters()),
            Command::Restart(a) => Some(a.parameters()),
            Command::Run(a) => Some(a.parameters()),
            Command::Down(a) => Some(a.parameters()),
            Command::Upgrade(a) => a.changes().then(|| a.parameters()),
            Command::Extend(a) => Some(a.parameters()),
            _ => None,
        }
    }

    /// Whether `--json` prints its events as they come, and its result as the last line.
    fn is_live(&self) -> bool {
        match self {
            Command::Up(_) | Command::Rename(_) | Command::Restart(_) | Command::Extend(_) | Command::Run(_) => true,
            Command::Upgrade(a) => a.changes(),
            _ => false,
        }
    }
}

/// Which tasks, with which variables; for the commands that run playbooks.
#[derive(Args, Clone, Default)]
pub struct RunOptions {
    /// Only tasks with one of these tags
    #[arg(short, long, value_delimiter = ',', value_name = "TAGS")]
    pub tags: Vec<String>,
    /// No tasks with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    pub skip_tags: Vec<String>,
    /// A variable that wins over all others: name=value (a string), a JSON object, or @FILE with YAML
    #[arg(short, long, value_name = "VAR")]
    pub extra_vars: Vec<String>,
    /// Show file diffs
    #[arg(short = 'D', long)]
    pub diff: bool,
}

impl RunOptions {
    fn parameters(&self) -> Parameters {
        let mut out = Parameters::new();
        let mut add = |name, values: &[String]| {
            if !values.is_empty() {
                out.insert(name, values.join(","));
            }
        };
        add("tags", &self.tags);
        add("skip_tags", &self.skip_tags);
        if !self.extra_vars.is_empty() {
            let digest = Sha256::digest(self.extra_vars.join("\0").as_bytes());
            out.insert("extra_vars", hex::encode(&digest[..8]));
        }
        out
    }

    fn options(&self) -> Result<Options> {
        let extra_vars = extra_vars(&self.extra_vars)?;
        Ok(Options { tags: self.tags.clone(), skip_tags: self.skip_tags.clone(), extra_vars, ..Options::default() })
    }
}

/// Variables of `--extra-vars`, the later over the earlier.
pub fn extra_vars(given: &[String]) -> Result<Vars> {
    let mut vars = Vars::new();
    for text in given {
        if text.trim_start().starts_with('{') {
            match serde_json::from_str(text) {
                Ok(Value::Object(m)) => vars.extend(m),
                _ => {
                    return Err(Error::invalid(format!("--extra-vars: `{text}` is not a JSON object")));
                }
            }
            continue;
        }
        if let Some(file) = text.strip_prefix('@') {
            vars.extend(crate::yaml::read(std::path::Path::new(file))?.object()?);
            continue;
        }
        // As in Ansible: one text may hold several, and each value is a string.
        for word in crate::playbook::words(text) {
            let (k, v) = word.split_once('=').ok_or_else(|| Error::invalid(format!("--extra-vars: `{word}` is not name=value")))?;
            vars.insert(k.trim().to_owned(), v.into());
        }
    }
    if vars.contains_key("septet") {
        return Err(Error::invalid("--extra-vars: `septet` holds Septet's own variables and cannot be set"));
    }
    Ok(vars)
}

/// Prints JSON for a program.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::failed(e.to_string()))?;
    print_data(&(text + "\n"))
}

/// Prints data; a closed reader is not an error.
fn print_data(text: &str) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Parses, runs, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(c) => c,
        Err(e) => {
            let _ = e.print();
            if !e.use_stderr() {
                return ExitCode::SUCCESS;
            }
            // What was meant by a line that does not parse is known by its words only.
            if std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json") {
                let text = e.render().to_string();
                let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                let _ = print_json(&serde_json::json!({ "error": message, "hint": "see --help", "exit_code": 2 }));
            }
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut cli = cli;
    cli.global.live = cli.global.json && cli.command.is_live();
    if let Some(parameters) = cli.command.recorded() {
        cli.global.recorder = Arc::new(Recorder::of(cli.command.name(), parameters));
    }
    if cli.global.verbose > 1 {
        init_tracing();
    }
    let global = cli.global.clone();
    let interrupted = Arc::new(AtomicBool::new(false));
    let result = runtime.block_on(async {
        tokio::spawn(on_interrupt(interrupted.clone()));
        dispatch(cli, &interrupted).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    global.recorder.end(result.as_ref().err());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let e = global.complete(e);
            // The health report has been printed already.
            if !e.message.is_empty() {
                eprintln!("error: {e}");
            }
            if global.json && !e.message.is_empty() {
                let error = json!({ "error": e.message, "hint": e.hint, "exit_code": e.kind.exit_code() });
                let _ = global.print_result("error", error);
            }
            ExitCode::from(e.kind.exit_code())
        }
    }
}

/// Once: stop after the task in hand. Twice: stop at once.
async fn on_interrupt(interrupted: Arc<AtomicBool>) {
    loop {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        if interrupted.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        }
        eprintln!("\nstopping after the task in hand; Ctrl-C again stops at once");
    }
}

/// Says how to go on after an interruption.
fn resumable<T>(result: Result<T>, command: &str) -> Result<T> {
    result.map_err(|e| if e.kind == Kind::Interrupted && e.hint.is_none() { e.hint(format!("`{command}` resumes from here")) } else { e })
}

/// Ends at the first Ctrl-C: for commands that only read, or that wait for input.
async fn until_interrupted<T>(interrupted: &Arc<AtomicBool>, what: impl Future<Output = Result<T>>) -> Result<T> {
    stop::or_stop(interrupted, what).await
}

async fn dispatch(cli: Cli, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let g = &cli.global;
    crate::operations::set_command(cli.command.name());
    // What only compares changes nothing, whatever it is about.
    let compares = matches!(&cli.command, Command::Run(a) if a.only_compares());
    if let (Some(_), false, Ok(inventory)) = (cli.command.recorded(), compares, g.inventory()) {
        crate::operations::sweep(&inventory, &g.reporter(false), interrupted).await;
    }
    match cli.command {
        // Also with a plan, which does not apply any more by then.
        Command::Up(a) => resumable(up::run(g, &a, interrupted).await, "septet up"),
        Command::Plan(a) => until_interrupted(interrupted, plan::run(g, &a, interrupted)).await,
        Command::Health(a) => until_interrupted(interrupted, health::run(g, &a, interrupted)).await,
        Command::Check(a) => until_interrupted(interrupted, check::run(g, &a, interrupted)).await,
        Command::Endpoints => until_interrupted(interrupted, endpoints::run(g, interrupted)).await,
        Command::Rename(a) => {
            let command = format!("septet rename {}", a.prefix);
            resumable(rename::run(g, &a, interrupted).await, &command)
        }
        Command::Restart(a) => {
            let command = format!("septet restart {}", a.pattern);
            resumable(restart::run(g, &a, interrupted).await, &command)
        }
        Command::Upgrade(a) => {
            let command = a.command();
            resumable(upgrade::run(g, &a, interrupted).await, &command)
        }
        Command::Extend(a) => {
            let command = format!("septet extend {}", a.ttl);
            resumable(extend::run(g, &a, interrupted).await, &command)
        }
        Command::List => until_interrupted(interrupted, list::run(g)).await,
        Command::Down(a) => resumable(down::run(g, &a, interrupted).await, "septet down"),
        Command::Run(a) => {
            let command = format!("septet run {}", a.playbook);
            resumable(run::run(g, &a, interrupted).await, &command)
        }
        Command::Exec(a) => exec::run(g, &a, interrupted).await,
        Command::Ssh(a) => ssh::run(g, &a, interrupted).await,
        Command::Logs(a) => until_interrupted(interrupted, logs::run(g, &a, interrupted)).await,
        Command::Bundle(a) => until_interrupted(interrupted, bundle::run(g, &a, interrupted)).await,
        Command::History(a) => history::run(g, &a),
        Command::Init(a) => init::run(g, &a),
        Command::Completions(a) => completions::run(&a),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{inventory::ProviderSettings, visible::Secret};

    fn global(words: &[&str]) -> Global {
        Cli::try_parse_from(["septet"].iter().chain(words)).unwrap().global
    }

    #[test]
    fn what_the_command_line_says_of_hosts_that_exist_is_part_of_the_inventory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("i.yml");
        let text = "cluster: c\nprefix: p\nprovider: {static: {hosts: {control: a, coordinators: [b], brokers: [d]}}}\n";
        std::fs::write(&file, text).unwrap();
        let g = global(&["list", "-K", "--accept-new", "--forks", "3", "-i", file.to_str().unwrap()]);
        // It was typed already.
        g.become_password.set(Secret::new("s3cret")).unwrap();
        let ProviderSettings::Static(settings) = g.selected().unwrap().provider else { panic!("another provider") };
        assert!(settings.accept_new && settings.forks == 3 && !settings.ignore_unreachable);
        assert_eq!(settings.become_password, Some(Secret::new("s3cret")));
        // Hosts of the other providers have no password.
        std::fs::write(&file, "cluster: c\nprefix: p\n").unwrap();
        let e = g.selected().unwrap_err();
        assert!(e.kind == Kind::Invalid && e.message.starts_with("--ask-become-pass: "), "{e}");
    }

    #[test]
    fn commands_in_hints_are_about_this_cluster() {
        let e = || Error::failed("there is nothing").hint("`septet up` makes it, or `septet down`; `plan` changes nothing");
        assert_eq!(global(&["health"]).complete(e()), e());
        let g = global(&["health", "-i", "a.yml", "--project", "my dir"]);
        let hint = g.complete(e()).hint.unwrap();
        let given = "-i a.yml --project 'my dir'";
        assert_eq!(hint, format!("`septet {given} up` makes it, or `septet {given} down`; `plan` changes nothing"));
        assert_eq!(global(&["-i", "a.yml", "up"]).command("down"), "septet -i a.yml down");
    }
}
