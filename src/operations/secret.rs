//! The secret that the servers of a bundled ensemble prove to one another.
//!
//! Invariants: the hosts are the authority: one that is there is kept, whichever machine runs this; a new one is made only when every
//! coordinator was asked and none has one. It is never shown, logged, or put into a command's arguments.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    engine,
    health::ask_host,
    inventory::{Engine, Inventory, Role},
    observed::{HostState, Observed},
    ssh::Fleet,
};

/// The variable that holds it for playbooks.
pub const VARIABLE: &str = "ensemble_secret";
/// Bytes of randomness in it; written as twice as many hexadecimal digits.
const BYTES: usize = 32;
/// How long a coordinator may take to say whether it has one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Says the file's content, or nothing; then that it was looked for.
const SCRIPT: &str = "test -f \"$1\" && head -c 200 \"$1\"; echo; echo end";

/// What a coordinator answered: its secret, or that it has none.
fn parse(answer: &str) -> Option<Option<String>> {
    let lines: Vec<&str> = answer.lines().map(str::trim).collect();
    let (last, rest) = lines.split_last()?;
    let is_secret = |l: &&&str| l.len() == 2 * BYTES && l.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (*last == "end").then(|| rest.iter().find(is_secret).map(|l| (*l).to_owned()))
}

/// The secret of the majority of answers; a new one where all answered that there is none.
fn choose(answers: &[Option<Option<String>>]) -> Option<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for secret in answers.iter().flatten().flatten() {
        *counts.entry(secret).or_default() += 1;
    }
    if let Some((secret, _)) = counts.into_iter().max_by_key(|(_, n)| *n) {
        return Some(secret.clone());
    }
    answers.iter().all(Option::is_some).then(fresh)
}

fn fresh() -> String {
    // Two random UUIDs have 244 random bits; their fixed bits are hashed away.
    use sha2::{Digest, Sha256};
    let seed = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
    hex::encode(Sha256::digest(seed))
}

/// The ensemble's secret as a variable for playbooks; nothing where the engine has no ensemble of ours, or where a coordinator that
/// may have it does not answer.
pub async fn of_ensemble(inventory: &Inventory, observed: &Observed, fleet: Option<&Arc<Fleet>>) -> Option<(String, Value)> {
    if !matches!(inventory.engine, Engine::Bundled) {
        return None;
    }
    let path = engine::ENSEMBLE_SECRET;
    let there = observed.hosts.iter().filter(|h| h.id.role() == Role::Coordinator && h.state != HostState::Unfinished);
    let asks = there.map(|host| async move {
        let fleet = fleet.filter(|_| host.state == HostState::Running)?;
        let argv = ["sh", "-c", SCRIPT, "sh", path];
        let ask = ask_host(fleet, host.id, Some("root"), &argv);
        parse(&tokio::time::timeout(ANSWER_TIMEOUT, ask).await.ok()?.ok()?)
    });
    let answers = match fleet {
        Some(fleet) => fleet.all(asks).await,
        None => asks.map(|_| None).collect(),
    };
    choose(&answers).map(|secret| (VARIABLE.to_owned(), secret.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_that_is_there_is_kept_and_silence_makes_none() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let has = |s: &str| Some(Some(s.to_owned()));
        assert_eq!(choose(&[has(&a), has(&b), has(&b)]), Some(b));
        assert_eq!(choose(&[None, has(&a), Some(None)]), Some(a));
        assert_eq!(choose(&[None, Some(None)]), None);
        let (one, two) = (choose(&[Some(None)]).unwrap(), choose(&[]).unwrap());
        assert!(one != two && one.len() == 2 * BYTES);
    }

    #[test]
    fn what_a_host_says_is_a_secret_or_none() {
        let s = "0123456789abcdef".repeat(4);
        assert_eq!(parse(&format!("{s}\n\nend\n")), Some(Some(s.clone())));
        assert_eq!(parse("\nend\n"), Some(None));
        assert_eq!(parse("short\nend\n"), Some(None));
        assert_eq!(parse(&s), None);
        assert_eq!(parse(""), None);
    }
}
