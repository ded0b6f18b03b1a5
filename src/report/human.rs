//! Events as a person sees them: lines, progress of hosts, diffs; and the tables of `plan`.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    changes::{self, Changes},
    recap_table,
};
use crate::{
    clock,
    events::{Continued, Event, GateState, Level, Sink, TaskStatus},
    plan::Plan,
    playbook::Recap,
    provider::{Check, Estimate, Verdict},
    visible::{visible, visible_line},
};

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// on a terminal
    #[default]
    Auto,
    /// always
    Always,
    /// never
    Never,
}

/// A line for a terminal: colours are ours, the rest is [`visible`].
struct Line(String);

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self(visible(text).into_owned())
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Hosts that get a line of their own while they work; more share one.
const MAX_LINES: usize = 30;

/// Shows events and tables on this process's standard error, or standard output where they are a command's data.
pub struct Human {
    verbose: bool,
    diffs: bool,
    colored: bool,
    /// lines are the command's data (`plan`): they go to standard output
    data: bool,
    bars: Option<MultiProgress>,
    hosts: Mutex<BTreeMap<String, ProgressBar>>,
    changes: Mutex<Changes>,
    /// takes the place of this process's outputs
    kept: Option<Mutex<String>>,
}

impl Human {
    /// For this process.
    pub fn new(verbose: bool, diffs: bool, color: Color, data: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let painted = if data { std::io::stdout().is_terminal() } else { terminal };
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            // A dumb terminal shows escape sequences instead of obeying them.
            Color::Auto => painted && std::env::var_os("NO_COLOR").is_none() && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
        };
        Self {
            verbose,
            diffs,
            colored,
            data,
            bars: terminal.then(MultiProgress::new),
            hosts: Mutex::default(),
            changes: Mutex::default(),
            kept: None,
        }
    }

    /// Keeps what it shows; for tests and for replays.
    pub fn kept(verbose: bool, diffs: bool) -> Self {
        let base = Self::new(verbose, diffs, Color::Never, false);
        Self { bars: None, kept: Some(Mutex::default()), ..base }
    }

    /// What was kept so far.
    pub fn text(&self) -> String {
        self.kept.as_ref().map(|k| k.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    fn paint(&self, code: &str, text: &str) -> Line {
        let Line(text) = Line::from(text);
        Line(if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text })
    }

    fn line(&self, line: impl Into<Line>) {
        self.print(self.data, line);
    }

    fn print(&self, data: bool, line: impl Into<Line>) {
        let Line(text) = line.into();
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_str(&text);
            return kept.push('\n');
        }
        let print = || {
            use std::io::Write;
            // A closed reader does not stop the run.
            let _ = if data { writeln!(std::io::stdout(), "{text}") } else { writeln!(std::io::stderr(), "{text}") };
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    fn if_verbose(&self, line: impl Into<Line>) {
        if self.verbose {
            self.line(line);
        }
    }

    /// Shows a plan.
    pub fn plan(&self, plan: &Plan) {
        for step in plan.all() {
            self.line(self.paint("32", &step.to_string()));
        }
    }

    /// Says of which hosts a plan knows nothing more: they exist, and what is on them cannot be seen now.
    pub fn unseen(&self, hosts: &[String]) {
        if !hosts.is_empty() {
            let them = hosts.join(", ");
            self.line(self.paint("33", &format!("? what is on {them} cannot be seen now: only `septet up` finds what would change there")));
        }
    }

    /// Shows what is made beside hosts.
    pub fn resources(&self, lines: &[String]) {
        for l in lines {
            self.line(self.paint("32", &format!("+ {l}")));
        }
    }

    /// Shows which names go once the rename is finished.
    pub fn old_names(&self, names: &std::collections::BTreeSet<String>) {
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        self.line(self.paint("33", &format!("- names {}: removed from all hosts once nothing uses them", list.join(", "))));
    }

    /// Shows checks: those that are not as they must be, or all of them.
    pub fn checks(&self, checks: &[Check], all: bool) {
        for c in checks.iter().filter(|c| all || self.verbose || c.verdict != Verdict::Pass) {
            let (color, word) = match c.verdict {
                Verdict::Pass => ("32", "pass"),
                Verdict::Warn => ("33", "warn"),
                Verdict::Fail => ("31", "fail"),
            };
            self.line(self.paint(color, &format!("   {word}  {}: {}", c.name, c.finding)));
            if let Some(hint) = c.hint.as_ref().filter(|_| c.verdict != Verdict::Pass) {
                for l in hint.lines() {
                    self.line(format!("         {l}"));
                }
            }
        }
    }

    /// Shows what a cluster costs.
    pub fn estimate(&self, e: &Estimate) {
        for (what, count, hourly) in &e.parts {
            self.line(format!("   {count} × {what}: {:.4} USD per hour", hourly * f64::from(*count)));
        }
        let unknown = match e.unknown.len() {
            0 => String::new(),
            _ => format!("; without {}, of which the table has no price", e.unknown.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        self.line(format!(
            "   about {:.2} USD per hour, {:.0} USD per month (list prices of {}, without traffic and taxes{unknown})",
            e.hourly, e.monthly, e.as_of
        ));
    }

    /// Shows a recap.
    pub fn recap(&self, recap: &Recap) {
        self.line(recap_table(recap));
    }

    /// How hosts are called, and which of them are new: what changes there is only counted, unless `-v` is given.
    pub fn of_cluster(&self, prefix: &str, new_hosts: Vec<String>) {
        self.changes().of_cluster(prefix, new_hosts);
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line per change over hosts.
    fn changed(&self, lines: Vec<changes::Line>) {
        let word = if self.data { "would change" } else { "changed" };
        for l in lines {
            self.line(self.paint("33", &format!("   {}  {word} on {}", l.title, l.hosts)));
            self.diff(l.diff.as_deref());
        }
    }

    fn diff(&self, diff: Option<&str>) {
        for l in diff.filter(|_| self.diffs).into_iter().flat_map(str::lines) {
            let text = format!("      {l}");
            self.line(match l.as_bytes().first() {
                Some(b'+') => self.paint("32", &text),
                Some(b'-') => self.paint("31", &text),
                _ => text.into(),
            });
        }
    }

    fn bar(&self, host: &str) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = hosts.get(host) {
            return Some(bar.clone());
        }
        if hosts.len() >= MAX_LINES {
            return hosts.values().next_back().cloned();
        }
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix:<20} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(visible_line(host).into_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        hosts.insert(host.to_owned(), bar.clone());
        Some(bar)
    }

    /// Shows what waits for more events of its kind, and removes the progress of hosts.
    pub fn flush(&self) {
        let (rest, folded) = {
            let mut changes = self.changes();
            (changes.rest(), changes.folded())
        };
        self.changed(rest);
        if let Some(folded) = folded {
            self.line(self.paint("32", &format!("+ {folded}")));
        }
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for bar in std::mem::take(&mut *hosts).into_values() {
            bar.finish_and_clear();
        }
    }

    fn task(&self, event: &Event) {
        let Event::Task { host, task, place, item, status, msg, diff, module } = event else { return };
        if let Some(bar) = self.bar(host) {
            bar.set_message(visible_line(task).into_owned());
        }
        let is_quiet = matches!(status, TaskStatus::Ok | TaskStatus::Skipped | TaskStatus::Changed) && module != "debug";
        if is_quiet && !self.verbose {
            let title = item.as_ref().map_or_else(|| task.clone(), |i| format!("{task} ({i})"));
            let diff = diff.as_deref().filter(|_| self.diffs);
            let lines = self.changes().add(place, &title, host, *status == TaskStatus::Changed, diff);
            self.changed(lines);
            return;
        }
        let item = item.as_ref().map(|i| format!(" ({i})")).unwrap_or_default();
        let shown = match status {
            TaskStatus::Failed => Some(("31", "failed")),
            TaskStatus::Ignored => Some(("33", "ignored")),
            TaskStatus::Changed => Some(("33", "changed")),
            TaskStatus::Ok if self.verbose || module == "debug" => Some(("32", "ok")),
            TaskStatus::Skipped if self.verbose => Some(("36", "skipped")),
            _ => None,
        };
        let Some((color, word)) = shown else { return };
        self.line(self.paint(color, &format!("   {word:<8} {host}: {task}{item}")));
        if matches!(status, TaskStatus::Failed | TaskStatus::Ignored) {
            self.line(format!("            at {place}"));
        }
        if !msg.is_empty() && (matches!(status, TaskStatus::Failed | TaskStatus::Ignored) || module == "debug" || self.verbose) {
            for l in msg.lines() {
                self.line(format!("            {l}"));
            }
        }
        self.diff(diff.as_deref());
    }

    fn gate(&self, host: &str, state: GateState, reasons: &[String]) {
        let words = match state {
            GateState::Before => "checking that it is safe to stop",
            GateState::After => "waiting for it to rejoin",
            GateState::Blocked => "waiting for",
            GateState::Open => return self.if_verbose(format!("   {host}: it is back")),
        };
        match reasons {
            [] => self.print(false, format!("   {host}: {words}")),
            [one] => self.print(false, format!("   {host}: {words}: {one}")),
            [one, more @ ..] => self.print(false, format!("   {host}: {words}: {one} (and {} more)", more.len())),
        }
    }

    fn execution(&self, execution: i64, continues: Option<&Continued>) {
        let Some(c) = continues else { return self.if_verbose(format!("   execution {execution} of the journal")) };
        let phase = c.phase.as_ref().map(|p| format!(" in phase `{p}`")).unwrap_or_default();
        let text = format!("continues execution {}, {} {phase}", c.execution, c.status.name());
        let text = format!("{} (begun {})", text.trim_end().replace("  ", " "), clock::local(c.started_ms));
        self.print(false, self.paint("36", &text));
    }
}

impl Sink for Human {
    fn event(&self, event: &Event) {
        match event {
            Event::Execution { execution, continues, .. } => self.execution(*execution, continues.as_ref()),
            Event::Phase { name } => self.line(self.paint("1", &format!("== {name}"))),
            Event::PhaseEnd { .. } => self.flush(),
            Event::Step { summary } => self.line(self.paint("32", &format!("   {summary}"))),
            Event::Play { name, hosts } => {
                let rest = self.changes().play(*hosts);
                self.changed(rest);
                self.if_verbose(self.paint("1", &format!("-- {name} ({hosts} hosts)")));
            }
            Event::Host { host, play } => {
                if let Some(bar) = self.bar(host) {
                    bar.set_message(visible_line(play).into_owned());
                }
            }
            Event::Unreachable { host, reason } => self.line(self.paint("31", &format!("   unreachable  {host}: {reason}"))),
            Event::Task { .. } => self.task(event),
            Event::Gate { host, state, reasons } => self.gate(host, *state, reasons),
            Event::Progress { done, total, left_s } if done < total => {
                let left = clock::span(Duration::from_secs(*left_s));
                self.print(false, format!("   {done} of {total} hosts are done, about {left} left"));
            }
            Event::PendingHandler { host, handler } => {
                self.line(self.paint("33", &format!("   handler `{handler}` was notified on {host} and did not run")));
            }
            Event::Note { level: Level::Detail, text } => self.if_verbose(text.as_str()),
            Event::Note { level: Level::Info, text } => self.print(false, text.as_str()),
            Event::Note { level: Level::Warning, text } => self.print(false, self.paint("33", &format!("warning: {text}"))),
            // The command shows it with the others, as its result.
            Event::Receipt { .. } | Event::Progress { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_colours_reach_the_terminal() {
        let human = Human::new(true, true, Color::Always, false);
        assert_eq!(human.paint("31", "failed \x1b[2J").0, "\x1b[31mfailed \\x1b[2J\x1b[0m");
        assert_eq!(Line::from("\x1b]0;x\x07").0, "\\x1b]0;x\\x07");
    }
}
