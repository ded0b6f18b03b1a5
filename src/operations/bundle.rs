//! What a report of a problem needs of the hosts: logs, configuration and state, without secrets.
//!
//! Invariant: everything goes through [`redacted`]; files that hold nothing but a secret are not read at all.

use std::{sync::Arc, time::Duration};

use super::{Access, Cluster, redact::redacted};
use crate::{engine, inventory::HostId, ssh::Fleet};

/// How long a host may take for each of its files.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest text that is kept, in bytes; of a longer one the end is.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// where it lies in the archive
    pub path: String,
    /// its text
    pub text: String,
}

/// What is asked of a host: file, and the command that prints it. `UNIT`: its service.
const QUESTIONS: [(&str, &str); 4] = [
    ("service.log", "journalctl -u UNIT -n 20000 --no-pager -o short-iso-precise | tail -c 4194304"),
    ("system.log", "journalctl -p warning -n 2000 --no-pager -o short-iso-precise | tail -c 4194304"),
    (
        "state.txt",
        "for c in date 'uname -a' 'cat /etc/os-release' uptime 'df -h' 'df -i' free 'ip -br address' 'ss -ltnp' 'systemctl --failed --no-pager' 'systemctl status --no-pager -l UNIT' 'systemctl cat UNIT' 'cat /etc/hosts' 'ls -la /etc/septet /data /data/*' 'sysctl vm.max_map_count vm.swappiness fs.file-max net.core.somaxconn' 'ps aux --sort=-rss'; do echo \"\\$ $c\"; sh -c \"$c\" 2>&1 | head -n 300; echo; done",
    ),
    (
        "config.txt",
        "for f in CONFIG/*; do case \"$f\" in *.secret|*.key|*.pem|*.jks|*.p12) echo \"== $f: left out\"; continue;; esac; if [ -f \"$f\" ]; then echo \"== $f\"; head -c 262144 -- \"$f\"; echo; fi; done",
    ),
];

/// The last bytes of a text, from a line's beginning.
fn end_of(text: &str) -> &str {
    let from = text.len().saturating_sub(MAX_BYTES);
    match text.as_bytes().get(from..).and_then(|rest| rest.iter().position(|b| *b == b'\n')) {
        Some(line) if from > 0 => text.get(from + line + 1..).unwrap_or_default(),
        _ => text,
    }
}

/// Asks all hosts that exist, side by side. A host that cannot be asked has a file that says why.
pub async fn collect(cluster: &Cluster, access: &Access) -> Vec<Part> {
    let asks = cluster.inventory.hosts.iter().filter(|h| access.observed.host(h.id).is_some()).map(|h| async move {
        let unit = cluster.inventory.engine.unit(h.id.role()).unwrap_or("ssh.service");
        let config = engine::vars(&cluster.inventory, None).get("config_dir").and_then(|v| v.as_str()).unwrap_or("/etc/septet").to_owned();
        let mut parts = Vec::new();
        for (file, command) in QUESTIONS {
            let command = command.replace("UNIT", unit).replace("CONFIG", &config);
            let (path, text) = match ask(&access.fleet, h.id, &command).await {
                Ok(text) => (format!("hosts/{}/{file}", h.name), text),
                Err(why) => (format!("hosts/{}/{file}.error", h.name), format!("{why}\n")),
            };
            parts.push(Part { path, text: redacted(end_of(&text)) });
        }
        parts
    });
    access.fleet.all(asks).await.into_iter().flatten().collect()
}

async fn ask(fleet: &Arc<Fleet>, id: HostId, command: &str) -> Result<String, String> {
    let connection = fleet.connection(id).await.map_err(|e| e.to_string())?;
    let (out, _) = connection.run(command, true, TIMEOUT, std::future::pending()).await.map_err(|e| e.to_string())?;
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.code != Some(0) {
        text += &format!("\n(exit code {:?}: {})\n", out.code, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_the_end_is_kept_from_a_line_on() {
        assert_eq!(end_of("short\n"), "short\n");
        let long = format!("{}\nlast line\n", "x".repeat(MAX_BYTES));
        assert_eq!(end_of(&long), "last line\n");
    }
}
