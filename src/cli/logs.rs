//! `septet logs`

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde_json::json;

use super::{Global, print_data};
use crate::{
    error::{Error, Result},
    operations::Access,
    playbook::Options,
    visible::visible,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The host; its name, or the name without the prefix
    host: String,
    /// Follow
    #[arg(short, long)]
    follow: bool,
    /// Lines to show from the end of the log
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    lines: u32,
    /// Show the host's whole log, not only its service's
    #[arg(long)]
    all: bool,
}

/// How long a log that is not followed may pause.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest line that is kept in one piece, in bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

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

/// A line of the log as a line of JSON.
fn json_line(host: &str, line: &str) -> String {
    format!("{}\n", json!({ "host": host, "line": line }))
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let host = cluster.inventory.find(&a.host).ok_or_else(|| Error::invalid(format!("there is no host `{}` in the inventory", a.host)))?;
    let observed = cluster.provider.observe().await?;
    let access = Access::new(&cluster, observed)?;
    let connection = access.fleet.connection(host.id).await.map_err(|e| Error::failed(format!("{}: {e}", host.name)))?;
    let unit = cluster.inventory.engine.unit(host.id.role()).filter(|_| !a.all).map(|u| format!("-u {u}")).unwrap_or_default();
    let follow = if a.follow { "-f" } else { "" };
    let (mut lines, terminal) = (Lines::default(), std::io::stdout().is_terminal());
    let command = format!("journalctl --no-pager -n {} {unit} {follow}", a.lines);
    let code = connection
        .stream(&command, (!a.follow).then_some(SILENCE), |data, is_error| {
            let _ = if is_error {
                std::io::stderr().write_all(visible(&String::from_utf8_lossy(data)).as_bytes())
            } else if terminal && !g.json {
                // Only whole lines: a character may come in two pieces.
                let all: String = lines.add(data).iter().map(|l| format!("{}\n", visible(l))).collect();
                std::io::stdout().write_all(all.as_bytes()).and_then(|()| std::io::stdout().flush())
            } else if g.json {
                let all: String = lines.add(data).iter().map(|l| json_line(&host.name, l)).collect();
                std::io::stdout().write_all(all.as_bytes()).and_then(|()| std::io::stdout().flush())
            } else {
                std::io::stdout().write_all(data).and_then(|()| std::io::stdout().flush())
            };
        })
        .await
        .map_err(|e| Error::failed(format!("{}: {e}", host.name)))?;
    access.fleet.close().await;
    if let Some(last) = lines.rest() {
        print_data(&if g.json { json_line(&host.name, &last) } else { visible(&last).into_owned() })?;
    }
    match code {
        Some(0) => Ok(()),
        _ if g.json => {
            // Standard output has lines of the log, and nothing else.
            eprintln!("error: {}: journalctl failed", host.name);
            Err(Error::failed(""))
        }
        _ => Err(Error::failed(format!("{}: journalctl failed", host.name))),
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
        assert_eq!(json_line("h", "a \"b\""), "{\"host\":\"h\",\"line\":\"a \\\"b\\\"\"}\n");
    }
}
