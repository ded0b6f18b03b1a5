//! `septet logs`

use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Notify;

use super::{Global, print_data};
use crate::{
    error::{Error, Result},
    inventory::{Host, Inventory, select},
    operations::Access,
    playbook::Options,
    visible::visible,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Host (its name, or the name without the prefix), group or pattern
    pattern: String,
    /// Follow
    #[arg(short, long)]
    follow: bool,
    /// Lines to show from the end of each host's log
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    lines: u32,
    /// Show the hosts' whole logs, not only those of their services
    #[arg(long)]
    all: bool,
}

/// How long a log that is not followed may pause.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest line that is kept in one piece, in bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// What is kept of one host's log until it is shown with those of others, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// Puts lines together from the pieces in which they come. A longer line than [`MAX_LINE_BYTES`] is cut.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that are complete with this piece.
    fn add(&mut self, piece: &[u8]) -> Vec<String> {
        self.begun.extend_from_slice(piece);
        let end = match self.begun.iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            None if self.begun.len() > MAX_LINE_BYTES => self.begun.len(),
            None => return Vec::new(),
        };
        let rest = self.begun.split_off(end);
        let whole = std::mem::replace(&mut self.begun, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }

    /// A last line without its end.
    fn rest(self) -> Option<String> {
        (!self.begun.is_empty()).then(|| String::from_utf8_lossy(&self.begun).into_owned())
    }
}

/// How lines are shown.
#[derive(Clone, Copy)]
struct Style {
    json: bool,
    /// standard output is a terminal
    terminal: bool,
    /// lines carry their host's name
    named: bool,
}

impl Style {
    fn line(self, host: &str, line: &str) -> String {
        match self {
            Style { json: true, .. } => format!("{}\n", json!({ "host": host, "line": line })),
            Style { terminal, named, .. } => {
                let line = if terminal { visible(line) } else { line.into() };
                if named { format!("{host} | {line}\n") } else { format!("{line}\n") }
            }
        }
    }
}

/// The lines of several hosts by time. Each begins with it, as `2026-11-28T19:40:12.123456+00:00`; one that does not belongs to the
/// line before.
fn merged(logs: Vec<(String, Vec<String>)>) -> Vec<(String, String)> {
    let is_time = |word: &str| word.len() > 19 && word.as_bytes().first().is_some_and(u8::is_ascii_digit) && word.as_bytes()[10] == b'T';
    let mut all = Vec::new();
    for (host, lines) in logs {
        let mut time = String::new();
        for line in lines {
            if let Some(word) = line.split(' ').next().filter(|w| is_time(w)) {
                time = word.to_owned();
            }
            all.push((time.clone(), host.clone(), line));
        }
    }
    // Stable: the lines of one host stay in their order.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, host, line)| (host, line)).collect()
}

/// The one host of a name, or the hosts of a pattern.
fn hosts<'a>(inventory: &'a Inventory, pattern: &str) -> Result<Vec<&'a Host>> {
    match inventory.find(pattern) {
        Some(host) => Ok(vec![host]),
        None => select(inventory, pattern),
    }
}

/// Shows or keeps the log of one host; what was kept.
async fn one(
    access: &Access,
    host: &Host,
    command: &str,
    (follow, keep): (bool, bool),
    style: Style,
    closed: &Notify,
) -> Result<Vec<String>, String> {
    let connection = access.fleet.connection(host.id).await.map_err(|e| e.to_string())?;
    let (mut lines, mut kept, mut size, mut dropped) = (Lines::default(), VecDeque::new(), 0, 0_u64);
    let mut errors = Vec::new();
    let each = |data: &[u8], is_error: bool| {
        if is_error {
            errors.extend_from_slice(&data[..data.len().min(4096)]);
            return;
        }
        let whole = lines.add(data);
        if keep {
            // The newest are what is asked for.
            size += whole.iter().map(String::len).sum::<usize>();
            kept.extend(whole);
            while size > MAX_KEPT_BYTES
                && let Some(oldest) = kept.pop_front()
            {
                (size, dropped) = (size - oldest.len(), dropped + 1);
            }
            return;
        }
        let text: String = whole.iter().map(|l| style.line(&host.name, l)).collect();
        let mut out = std::io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            closed.notify_one();
        }
    };
    let code = connection.stream(command, (!follow).then_some(SILENCE), each).await.map_err(|e| e.to_string())?;
    if let Some(last) = lines.rest() {
        match keep {
            true => kept.push_back(last),
            false => print_data(&style.line(&host.name, &last)).map_err(|e| e.message)?,
        }
    }
    if dropped > 0 {
        eprintln!("{}: {dropped} older lines are left out, beyond {} MiB", host.name, MAX_KEPT_BYTES >> 20);
    }
    match code {
        Some(0) => Ok(kept.into()),
        None => Err("the connection ended".to_owned()),
        _ => {
            let words = String::from_utf8_lossy(&errors);
            let words = words.trim();
            Err(if words.is_empty() { "journalctl failed".to_owned() } else { format!("journalctl failed: {words}") })
        }
    }
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let hosts = hosts(&cluster.inventory, &a.pattern)?;
    let observed = cluster.provider.observe().await?;
    let access = Access::new(&cluster, observed)?;
    let many = hosts.len() > 1;
    let style = Style { json: g.json, terminal: std::io::stdout().is_terminal(), named: many };
    let keep = many && !a.follow;
    let closed = Notify::new();
    let shows = hosts.iter().map(|host| {
        let unit = cluster.inventory.engine.unit(host.id.role()).filter(|_| !a.all).map(|u| format!("-u {u}")).unwrap_or_default();
        let follow = if a.follow { "-f" } else { "" };
        // Logs of several hosts are put together by their times.
        let format = if many { "--utc -o short-iso-precise" } else { "" };
        let (command, access, closed) = (format!("journalctl --no-pager -n {} {format} {unit} {follow}", a.lines), &access, &closed);
        async move {
            let result = one(access, host, &command, (a.follow, keep), style, closed).await;
            if let (Err(why), true) = (&result, many && a.follow) {
                // The others go on, perhaps for hours.
                eprintln!("{}", visible(&format!("{}: {why}", host.name)));
            }
            (host.name.clone(), result)
        }
    });
    let all = async {
        // Those that follow never end: all of them are read at once.
        if a.follow { join_all(shows).await } else { access.fleet.all(shows).await }
    };
    let results = tokio::select! {
        results = all => results,
        // Whoever reads has seen enough, as `head` has.
        () = closed.notified() => {
            access.fleet.close().await;
            return Ok(());
        }
    };
    let (mut logs, mut failures) = (Vec::new(), Vec::new());
    for (host, result) in results {
        match result {
            Ok(lines) => logs.push((host, lines)),
            Err(why) => failures.push(format!("{host}: {why}")),
        }
    }
    access.fleet.close().await;
    print_data(&merged(logs).iter().map(|(host, line)| style.line(host, line)).collect::<String>())?;
    match failures.as_slice() {
        [] => Ok(()),
        failures if g.json => {
            // Standard output has lines of the logs, and nothing else.
            eprintln!("error: {}", visible(&failures.join("\n  ")));
            Err(Error::failed(""))
        }
        failures => Err(Error::failed(failures.join("\n  "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"a\nb"), ["a"]);
        assert_eq!(lines.add("\u{e9}".as_bytes()), [""; 0]);
        assert_eq!(lines.add(b"\r\n\nc"), ["b\u{e9}", ""]);
        assert_eq!(lines.rest().as_deref(), Some("c"));
        // One that has no end does not fill the memory.
        let (mut lines, piece) = (Lines::default(), vec![b'x'; MAX_LINE_BYTES / 2 + 1]);
        assert_eq!(lines.add(&piece), [""; 0]);
        assert_eq!(lines.add(&piece)[0].len(), MAX_LINE_BYTES + 2);
    }

    #[test]
    fn a_line_carries_its_host_where_there_are_several() {
        let style = |json, terminal, named| Style { json, terminal, named };
        assert_eq!(style(true, true, true).line("h", "a \"b\""), "{\"host\":\"h\",\"line\":\"a \\\"b\\\"\"}\n");
        assert_eq!(style(false, true, true).line("h", "a\u{1b}[2J"), "h | a\\x1b[2J\n");
        assert_eq!(style(false, false, false).line("h", "a\u{1b}"), "a\u{1b}\n");
    }

    #[test]
    fn logs_of_several_hosts_are_put_together_by_time() {
        let log = |host: &str, lines: &[&str]| (host.to_owned(), lines.iter().map(|l| (*l).to_owned()).collect());
        let a = log("a", &["2026-11-28T19:40:12.000001+00:00 x one", "  continued", "2026-11-28T19:40:14.000000+00:00 x four"]);
        let b = log("b", &["-- Boot --", "2026-11-28T19:40:12.000000+00:00 x zero", "2026-11-28T19:40:13.000000+00:00 x three"]);
        let shown: Vec<String> =
            merged(vec![a, b]).into_iter().map(|(h, l)| format!("{h}:{}", l.rsplit(' ').next().unwrap_or(""))).collect();
        assert_eq!(shown, ["b:--", "b:zero", "a:one", "a:continued", "b:three", "a:four"]);
    }
}
