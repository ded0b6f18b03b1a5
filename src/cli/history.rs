//! `septet history`

use super::{Global, print_data, print_json};
use crate::{
    clock,
    error::Result,
    events::{Event, Sink, Status},
    journal::{Details, Execution, Journal, Step},
    report::{Human, event_line, plain_table},
    visible::{visible, visible_line},
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Number of executions to list, the latest first
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Only executions on the cluster of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show the steps and failures of an execution
    Show {
        /// Its number in the list
        execution: i64,
    },
    /// Replay the output of an execution
    Log {
        /// Its number in the list
        execution: i64,
    },
}

/// Runs it.
pub fn run(g: &Global, a: &Arguments) -> Result<()> {
    let journal = Journal::open()?;
    match &a.command {
        None => {
            let list = journal.list(a.limit, a.cluster.as_deref())?;
            if g.json { print_json(&list) } else { print_data(&(table(&list, clock::now_ms()) + "\n")) }
        }
        Some(Command::Show { execution }) => {
            let details = journal.details(*execution)?;
            if g.json { print_json(&details) } else { print_data(&shown(&details, clock::now_ms())) }
        }
        Some(Command::Log { execution }) => {
            let events = journal.events(*execution)?;
            if g.json {
                return print_data(&events.iter().map(|(at, e)| event_line(*at, e)).collect::<String>());
            }
            print_data(&replayed(events, g.verbose > 0))
        }
    }
}

/// How long an execution took, or has taken so far.
fn took(e: &Execution, now_ms: i64) -> String {
    match (e.ended_ms, e.status) {
        (Some(end), _) => clock::span(clock::between(e.started_ms, end)),
        (None, Status::Running) => clock::span(clock::between(e.started_ms, now_ms)),
        (None, _) => "?".into(),
    }
}

/// The status with what it says more.
fn status(e: &Execution) -> String {
    let mut text = e.status.name().to_owned();
    if let (Status::Failed, Some(code)) = (e.status, e.exit_code) {
        text += &format!(" ({code})");
    }
    if let (Status::Running | Status::Killed | Status::Failed | Status::Interrupted, Some(phase)) = (e.status, &e.phase) {
        text += &format!(" in {phase}");
    }
    text
}

/// The command as it was typed, without what may be secret.
fn command(e: &Execution) -> String {
    let given = e.parameters.as_object().into_iter().flatten().map(|(k, v)| format!(" {k}={}", v.as_str().unwrap_or_default()));
    format!("{}{}", e.command, given.collect::<String>())
}

pub(super) fn table(list: &[Execution], now_ms: i64) -> String {
    if list.is_empty() {
        return "nothing was run on this machine yet".into();
    }
    let row = |e: &Execution| {
        let continues = e.continues.map(|c| format!("continues {c}")).unwrap_or_default();
        vec![e.execution.to_string(), e.cluster.clone(), command(e), clock::local(e.started_ms), took(e, now_ms), status(e), continues]
    };
    plain_table(&["#", "cluster", "command", "started", "took", "status", ""], list.iter().map(row))
}

fn counts(s: &Step) -> Vec<String> {
    [s.ok, s.changed, s.failed, s.skipped, s.ignored].map(|n| n.to_string()).to_vec()
}

pub(super) fn shown(d: &Details, now_ms: i64) -> String {
    let e = &d.execution;
    let line = |name: &str, text: String| if text.is_empty() { text } else { format!("{name:<11} {}\n", visible_line(&text)) };
    let mut out = line("execution", format!("{} of instance {}", e.execution, e.instance));
    out += &line("continues", e.continues.map(|c| c.to_string()).unwrap_or_default());
    out += &line("command", command(e));
    out += &line("cluster", e.cluster.clone());
    out += &line("started", clock::local(e.started_ms));
    out += &line("took", took(e, now_ms));
    out += &line("status", status(e));
    if !e.machine.is_empty() {
        out += &line("by", format!("{} on {}, process {}, in {}, septet {}", e.who, e.machine, e.process, e.directory, e.version));
    }
    if e.left_out > 0 {
        out += &line("left out", format!("{} events: there were too many", e.left_out));
    }
    let of = |host: bool, task: bool| d.steps.iter().filter(move |s| s.host.is_empty() != host && s.task.is_empty() != task);
    let phases = of(false, false).filter(|s| s.seconds.is_some() || !s.phase.is_empty());
    let seconds = |s: &Step| s.seconds.map_or_else(|| "not ended".to_owned(), |t| format!("{t:.2} s"));
    let rows: Vec<_> =
        phases.map(|s| vec![s.phase.clone(), seconds(s), if s.failed > 0 { "failed".into() } else { String::new() }]).collect();
    if !rows.is_empty() {
        out += &format!("\n{}\n", plain_table(&["phase", "time", ""], rows));
    }
    let rows: Vec<_> = of(true, false).map(|s| [vec![s.phase.clone(), s.host.clone()], counts(s)].concat()).collect();
    if !rows.is_empty() {
        out += &format!("\n{}\n", plain_table(&["phase", "host", "ok", "changed", "failed", "skipped", "ignored"], rows));
    }
    let failures = d.steps.iter().filter(|s| s.error.is_some());
    for s in failures {
        let what = [s.host.as_str(), s.task.as_str()].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(": ");
        let place = s.place.as_ref().map(|p| format!(" at {p}")).unwrap_or_default();
        out += &format!("\nfailed  {}{}\n", visible_line(&what), visible_line(&place));
        for l in s.error.as_deref().unwrap_or_default().lines() {
            out += &format!("        {}\n", visible(l));
        }
    }
    if let Some(error) = &e.error {
        out += &format!("\nerror: {}\n", visible(error));
    }
    if let Some(hint) = &e.hint {
        out += &format!("hint: {}\n", visible(hint));
    }
    out
}

/// What the execution showed, again.
pub(super) fn replayed(events: Vec<(i64, Event)>, verbose: bool) -> String {
    let human = Human::kept(verbose, true);
    for (_, event) in &events {
        match event {
            Event::Receipt { receipt } => {
                let count = |k: &str| receipt[k].as_array().map_or(0, Vec::len);
                let name = receipt["cluster"].as_str().unwrap_or_default();
                let text = format!("destroyed {} resources of cluster {}; {} left", count("removed"), name, count("left"));
                human.event(&Event::note(text));
                for r in receipt["removed"].as_array().into_iter().flatten() {
                    human.event(&Event::note(format!("   - {} {}", r["kind"].as_str().unwrap_or(""), r["name"].as_str().unwrap_or(""))));
                }
            }
            other => human.event(other),
        }
    }
    human.flush();
    human.text()
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
