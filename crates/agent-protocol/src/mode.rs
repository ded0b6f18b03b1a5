//! Symbolic modes, such as `u=rw,go=r` and `+x`, as operations on the bits that are there.

use serde::{Deserialize, Serialize};

/// What happens to permission bits: first all but `keep` go, then `set` are set, then `set_x` for a directory or where any execute
/// bit was set before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChange {
    /// bits that stay
    pub keep: u32,
    /// bits that are set
    pub set: u32,
    /// execute bits that `X` sets
    #[serde(default)]
    pub set_x: u32,
}

impl ModeChange {
    /// Reads clauses with commas between them, each `[ugoa]*[+-=][rwxXst]*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self { keep: 0o7777, set: 0, set_x: 0 };
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(|| format!("`{clause}` has none of +, - and ="))?;
            let (who, rest) = clause.split_at(at);
            let mut perms = rest.chars();
            let operator = perms.next();
            let (mut mask, mut special) = (0, 0);
            for w in if who.is_empty() { "a" } else { who }.chars() {
                let (bits, own) = match w {
                    'u' => (0o700, 0o4000),
                    'g' => (0o070, 0o2000),
                    'o' => (0o007, 0),
                    'a' => (0o777, 0o6000),
                    other => return Err(format!("`{other}` is not one of u, g, o and a")),
                };
                mask |= bits;
                special |= own;
            }
            let (mut bits, mut x) = (0, 0);
            for p in perms {
                match p {
                    'r' => bits |= 0o444 & mask,
                    'w' => bits |= 0o222 & mask,
                    'x' => bits |= 0o111 & mask,
                    'X' => x |= 0o111 & mask,
                    's' => bits |= special,
                    't' => bits |= 0o1000,
                    other => return Err(format!("`{other}` is not one of r, w, x, X, s and t")),
                }
            }
            match operator {
                Some('=') => {
                    this.clear(mask | special);
                    this.set |= bits;
                    this.set_x |= x;
                }
                Some('+') => {
                    this.set |= bits;
                    this.set_x |= x;
                }
                _ => this.clear(bits | x),
            }
        }
        Ok(this)
    }

    fn clear(&mut self, bits: u32) {
        self.keep &= !bits;
        self.set &= !bits;
        self.set_x &= !bits;
    }

    /// The bits that come of these.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let x = if is_directory || mode & 0o111 != 0 { self.set_x } else { 0 };
        (mode & self.keep) | self.set | x
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clauses() {
        let of = |text: &str, mode: u32| ModeChange::parse(text).unwrap().apply(mode, false);
        assert_eq!(of("u=rw,g=r,o=", 0o777), 0o640);
        assert_eq!(of("+x", 0o644), 0o755);
        assert_eq!(of("go-w", 0o666), 0o644);
        assert_eq!(of("a+rX", 0o600), 0o644);
        assert_eq!(of("a+rX", 0o700), 0o755);
        assert_eq!(ModeChange::parse("a+X").unwrap().apply(0o600, true), 0o711);
        assert_eq!(of("u+s,+t", 0o755), 0o5755);
        assert_eq!(of("u=rwx,u-x", 0o000), 0o600);
        for bad in ["", "rw", "z=r", "u=q", "u=g", "u=rw,"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
