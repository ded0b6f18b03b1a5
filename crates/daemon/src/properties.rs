//! Properties files as `java.util.Properties` reads them, with the place of each entry: `server.properties`, `zoo.cfg`.
//!
//! Invariants: every entry knows its line, so that an error names file, line and key. Of a key that is given several times the last
//! entry counts. Values are trimmed, as Kafka and ZooKeeper do. Unlike Java's the text is UTF-8.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// the file
        path: PathBuf,
        /// the system's reason
        source: std::io::Error,
    },
    /// A line does not parse.
    #[error("{path}:{line}: {reason}")]
    Syntax {
        /// the file
        path: PathBuf,
        /// line, from 1
        line: usize,
        /// what is wrong
        reason: String,
    },
    /// A value is wrong.
    #[error("{path}:{line}: {key}: {reason}")]
    Value {
        /// the file
        path: PathBuf,
        /// line, from 1
        line: usize,
        /// the key
        key: String,
        /// what is wrong
        reason: String,
    },
    /// The file as a whole: a key is missing, or values do not fit each other.
    #[error("{path}: {reason}")]
    File {
        /// the file
        path: PathBuf,
        /// what is wrong
        reason: String,
    },
}

/// A key with its value and its place.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    path: &'a Path,
    /// line on which it begins, from 1
    pub line: usize,
    /// key
    pub key: &'a str,
    /// value, trimmed
    pub value: &'a str,
}

impl Entry<'_> {
    /// An error about this entry.
    pub fn bad(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value { path: self.path.into(), line: self.line, key: self.key.into(), reason: reason.into() }
    }

    /// A warning about this entry: `file:line: key reason`.
    pub fn warning(&self, reason: &str) -> String {
        format!("{}:{}: {} {reason}", self.path.display(), self.line, self.key)
    }

    /// A whole number within bounds, both included.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for anything else.
    pub fn number(&self, min: i64, max: i64) -> Result<i64, ConfigError> {
        let number = self.value.parse::<i64>().ok().filter(|n| (min..=max).contains(n));
        number.ok_or_else(|| self.bad(format!("{:?} is not a number from {min} to {max}", self.value)))
    }

    /// A decimal number within bounds, both included.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for anything else.
    pub fn decimal(&self, min: f64, max: f64) -> Result<f64, ConfigError> {
        let number = self.value.parse::<f64>().ok().filter(|n| (min..=max).contains(n));
        number.ok_or_else(|| self.bad(format!("{:?} is not a number from {min} to {max}", self.value)))
    }

    /// `true` or `false` in any case.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for anything else.
    pub fn boolean(&self) -> Result<bool, ConfigError> {
        match self.value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.bad(format!("{other:?} is neither true nor false"))),
        }
    }

    /// Parts between commas, trimmed; empty ones are left out.
    pub fn list(&self) -> impl Iterator<Item = &str> {
        self.value.split(',').map(str::trim).filter(|part| !part.is_empty())
    }

    /// What a function makes of the value, which says what is wrong with it.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the function's reason.
    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(self.value).map_err(|reason| self.bad(reason))
    }
}

#[derive(Debug)]
struct Line {
    number: usize,
    key: String,
    value: String,
}

/// A file's entries.
#[derive(Debug)]
pub struct Properties {
    path: PathBuf,
    lines: Vec<Line>,
    /// index of the entry that counts
    last: BTreeMap<String, usize>,
}

impl Properties {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Syntax`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.into(), source };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > MAX_BYTES {
            return Err(failed(std::io::Error::other(format!("{bytes} bytes are too many for a configuration"))));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Parses the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut this = Self { path: path.into(), lines: Vec::new(), last: BTreeMap::new() };
        for (number, logical) in logical_lines(text) {
            let (key, value) = split(&logical).map_err(|reason| ConfigError::Syntax { path: path.into(), line: number, reason })?;
            this.last.insert(key.clone(), this.lines.len());
            this.lines.push(Line { number, key, value });
        }
        Ok(this)
    }

    /// Entries that are in no file; of one key the last counts. `path` is for messages.
    pub fn of<'a>(path: &Path, entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut this = Self { path: path.into(), lines: Vec::new(), last: BTreeMap::new() };
        for (key, value) in entries {
            this.last.insert(key.to_owned(), this.lines.len());
            this.lines.push(Line { number: 0, key: key.to_owned(), value: value.to_owned() });
        }
        this
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn entry<'a>(&'a self, line: &'a Line) -> Entry<'a> {
        Entry { path: &self.path, line: line.number, key: &line.key, value: line.value.trim() }
    }

    /// All entries in the file's order, also those that do not count.
    pub fn all(&self) -> impl Iterator<Item = Entry<'_>> {
        self.lines.iter().map(|line| self.entry(line))
    }

    /// The entries that count, by key.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.last.values().filter_map(|i| self.lines.get(*i)).map(|line| self.entry(line))
    }

    /// The entry of a key that counts.
    pub fn get(&self, key: &str) -> Option<Entry<'_>> {
        self.lines.get(*self.last.get(key)?).map(|line| self.entry(line))
    }

    /// Warnings about keys that are given more than once, at each later place.
    pub fn repetitions(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let repeated = self.lines.iter().filter(|line| !seen.insert(line.key.as_str()));
        repeated.map(|line| self.entry(line).warning("is given twice; this one counts")).collect()
    }

    /// An error about a key's value; about the file, if the key is not given.
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        match self.get(key) {
            Some(entry) => entry.bad(reason),
            None => self.bad_file(format!("{key}: {}", reason.into())),
        }
    }

    /// An error about the file as a whole.
    pub fn bad_file(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::File { path: self.path.clone(), reason: reason.into() }
    }

    /// An error about a key that must be given.
    pub fn missing(&self, key: &str) -> ConfigError {
        self.bad_file(format!("{key} is not set"))
    }

    /// The value of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(|entry| entry.value)
    }

    /// See [`Entry::number`].
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn number(&self, key: &str, min: i64, max: i64) -> Result<Option<i64>, ConfigError> {
        self.get(key).map(|entry| entry.number(min, max)).transpose()
    }

    /// See [`Entry::decimal`].
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn decimal(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>, ConfigError> {
        self.get(key).map(|entry| entry.decimal(min, max)).transpose()
    }

    /// See [`Entry::boolean`].
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key).map(|entry| entry.boolean()).transpose()
    }

    /// See [`Entry::parsed`].
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.get(key).map(|entry| entry.parsed(parse)).transpose()
    }

    /// Milliseconds, a year at the most.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn milliseconds(&self, key: &str, min: i64) -> Result<Option<Duration>, ConfigError> {
        const YEAR: i64 = 365 * 86_400_000;
        Ok(self.number(key, min, YEAR)?.map(|ms| Duration::from_millis(ms.unsigned_abs())))
    }
}

/// Logical lines with the numbers of their first line: without blank lines and comments, continuations joined. Backslashes of
/// escapes are left in.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (i, line) in split_lines(text).enumerate() {
        let line = line.trim_start_matches([' ', '\t', '\u{c}']);
        if !continues && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let goes_on = backslashes % 2 == 1;
        let part = if goes_on { &line[..line.len() - 1] } else { line };
        match out.last_mut().filter(|_| continues) {
            Some((_, text)) => text.push_str(part),
            None => out.push((i + 1, part.to_owned())),
        }
        continues = goes_on;
    }
    out.retain(|(_, text)| !text.is_empty());
    out
}

/// Lines that end with `\n`, `\r\n` or `\r`.
fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Key and value of a logical line. The key ends at the first `=`, `:` or white space that is not escaped.
fn split(line: &str) -> Result<(String, String), String> {
    let white = |c: char| matches!(c, ' ' | '\t' | '\u{c}');
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let ends = !escaped && (white(*c) || matches!(c, '=' | ':'));
        escaped = !escaped && *c == '\\';
        ends
    });
    let (key, rest) = line.split_at(end.map_or(line.len(), |(i, _)| i));
    let rest = rest.trim_start_matches(white);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(white);
    Ok((unescape(key)?, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, String> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    // Characters beyond 16 bits are two escapes, as in Java.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(mut c) = chars.next() {
        if c == '\\' {
            c = match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let valid = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| valid);
                    units.push(unit.ok_or_else(|| format!("\\u{digits} is not \\u and four hexadecimal digits"))?);
                    continue;
                }
                Some(other) => other,
                None => break,
            };
        }
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| "\\u escapes half of a character".to_owned())
}
