//! The error that reaches a person: what happened, where, why, and what to do about it.

use std::{fmt, path::PathBuf};

use crate::visible::{is_obeyed, visible, visible_line};

/// What kind of failure it is, which decides the exit code (design §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// something could not be done: exit code 1
    Failed,
    /// bad usage or an invalid file: exit code 2
    Invalid,
    /// the cluster is not healthy: exit code 3
    Unhealthy,
    /// changes are pending (`plan --exit-code`): exit code 4
    Pending,
    /// interrupted: exit code 130
    Interrupted,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Invalid => 2,
            Kind::Unhealthy => 3,
            Kind::Pending => 4,
            Kind::Interrupted => 130,
        }
    }
}

/// A place in a file, with its line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// the file as the user knows it
    pub file: PathBuf,
    /// from 1
    pub line: usize,
    /// from 1
    pub column: usize,
    /// the line's text
    pub text: String,
}

/// An error for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// what kind
    pub kind: Kind,
    /// what happened
    pub message: String,
    /// where, if it is in a file
    pub place: Option<Place>,
    /// what to do
    pub hint: Option<String>,
}

/// Result with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Something could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into(), place: None, hint: None }
    }
    /// Bad usage or an invalid file.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::Invalid, ..Self::failed(message) }
    }
    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// Adds where it is.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
    /// Sets the kind.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }
    /// Puts what was being done before what happened.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&visible(&self.message))?;
        if let Some(p) = &self.place {
            write!(f, "\n  --> {}:{}:{}", visible_line(&p.file.to_string_lossy()), p.line, p.column)?;
            if !p.text.trim().is_empty() {
                let number = p.line.to_string();
                let pad = " ".repeat(number.len());
                // One column per character, so that the caret is where it should be; nothing that a terminal obeys.
                let visible = |c: char| match c {
                    '\t' => ' ',
                    c if is_obeyed(c) => '\u{fffd}',
                    c => c,
                };
                let shown: String = p.text.trim_end().chars().map(visible).take(160).collect();
                let caret = " ".repeat(p.column.saturating_sub(1).min(160));
                write!(f, "\n {pad} |\n {number} | {shown}\n {pad} | {caret}^")?;
            }
        }
        if let Some(h) = &self.hint {
            write!(f, "\nhint: {}", visible(h))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::failed(e.to_string())
    }
}

/// The closest of some names, for "did you mean".
pub fn nearest<'a>(name: &str, of: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    of.into_iter().map(|c| (strsim::levenshtein(name, c), c)).filter(|(d, c)| *d <= 1 + c.len() / 4).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}
