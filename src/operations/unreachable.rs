//! Hosts that run and cannot be logged in to, looked at through the provider's own door: what they themselves say is the error.

use futures_util::future::join_all;

use crate::{error::Error, observed::ObservedHost, provider::Provider, ssh::SshError};

/// Lines of a host's own words that are shown.
const MAX_LINES: usize = 4;
/// Longest of these lines, in characters.
const MAX_WIDTH: usize = 160;

/// The error that names each host, why it cannot be reached, and its own log.
pub async fn explain(provider: &dyn Provider, failed: &[(ObservedHost, SshError)]) -> Error {
    let words = join_all(failed.iter().map(|(host, e)| async move {
        match e {
            // A host that is only behind another one has no report of its own.
            SshError::Jump { .. } => None,
            _ => provider.console(host).await,
        }
    }));
    let mut lines = Vec::new();
    for ((host, e), words) in failed.iter().zip(words.await) {
        lines.push(format!("{}: {e}", host.name));
        lines.extend(last_lines(&words.unwrap_or_default()).into_iter().map(|l| format!("  {l}")));
    }
    let e = Error::failed(format!("hosts cannot be logged in to:\n  {}", lines.join("\n  ")));
    let data = provider.removal_takes_data().map_or(" with its data".to_owned(), |why| format!("; where it is removed, {why}"));
    e.hint(format!(
        "if the host only booted slowly, run the same command again; else restart or remove it at the provider, and `septet up` makes it again{data}"
    ))
}

/// The last lines of a text that are not empty, each cut to a width that fits.
fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let cut = |l: &&str| match l.char_indices().nth(MAX_WIDTH) {
        Some((end, _)) => format!("{}…", &l[..end]),
        None => (*l).to_owned(),
    };
    lines[lines.len().saturating_sub(MAX_LINES)..].iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_short_lines_are_shown() {
        assert_eq!(last_lines("\n one \n\n"), ["one"]);
        let many: String = (0..9).map(|n| format!("line {n}\n")).collect();
        assert_eq!(last_lines(&many), ["line 5", "line 6", "line 7", "line 8"]);
        assert_eq!(last_lines(&"ü".repeat(400))[0].chars().count(), MAX_WIDTH + 1);
    }
}
