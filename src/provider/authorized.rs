//! `authorized_keys` of a host: one line for each state directory that its cluster is used from.
//!
//! Invariant: a line that is not of the same state directory is never changed or removed.

use crate::error::{Error, Result};

/// Largest file that is changed, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// A key without options and comment.
pub fn bare(line: &str) -> String {
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Identity of the state directory that a line of ours is for.
pub fn of(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip(2);
    (words.next()? == "septet").then(|| words.nth(1)).flatten()
}

/// The file with a line of ours added; `None` if its key is there already. An earlier line of the same state directory goes, every
/// other line stays.
pub fn with_line(file: &str, line: &str) -> Result<Option<String>> {
    if file.len() > MAX_BYTES {
        return Err(Error::failed(format!("authorized_keys has {} bytes, more than {MAX_BYTES}", file.len())));
    }
    if file.lines().any(|l| bare(l) == bare(line)) {
        return Ok(None);
    }
    let others = file.lines().filter(|l| of(l).is_none() || of(l) != of(line));
    Ok(Some(others.chain([line]).map(|l| format!("{l}\n")).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_added_beside_all_others() {
        let (a, b) = ("ssh-ed25519 AAAA septet u id-a ann@x", "ssh-ed25519 BBBB septet u id-b ben@y");
        let own = "# mine\nfrom=\"10.0.0.0/8\" ssh-ed25519 CCCC me\nssh-ed25519 DDDD septet u";
        let one = with_line(own, a).unwrap().unwrap();
        let two = with_line(&one, b).unwrap().unwrap();
        assert_eq!(two, format!("{own}\n{a}\n{b}\n"));
        assert_eq!(with_line(&two, a).unwrap(), None);
        // A state directory that was lost has another key: its line is replaced.
        let again = "ssh-ed25519 EEEE septet u id-a ann@x";
        assert_eq!(with_line(&two, again).unwrap().unwrap(), format!("{own}\n{b}\n{again}\n"));
        assert!(with_line(&"x".repeat(MAX_BYTES + 1), a).is_err());
    }
}
