//! Text from hosts, files and providers, made safe for a terminal.
//!
//! Invariant: whatever is printed through [`visible`] moves no cursor, sets no title and reorders no text; everything that
//! Septet prints for a person passes through it once (`Error`'s `Display`, `report/`, and `exec` and `logs` on a terminal).

use std::borrow::Cow;

/// Whether a terminal obeys this character instead of showing it: control characters except line feed and tab, and those that
/// reorder text.
pub fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with everything that a terminal would obey written out, as `\x1b` or `\u{202e}`. Line feeds and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => out.push_str("\\r"),
            c if is_obeyed(c) && u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_obeyed(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same in one line: line feeds are written out too.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    match visible(text) {
        text if text.contains('\n') => Cow::Owned(text.replace('\n', "\\n")),
        text => text,
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As a line for a program that asks for it.
    pub fn line(&self) -> Vec<u8> {
        format!("{}\n", self.0).into_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(visible("\x1b]0;title\x07\r\x1b[2K\u{9b}31m"), "\\x1b]0;title\\x07\\r\\x1b[2K\\x9b31m");
        assert_eq!(visible("a\u{202e}b\u{feff}"), "a\\u{202e}b\\u{feff}");
        assert_eq!(visible("two\n\tlines, größer, 日本"), "two\n\tlines, größer, 日本");
        assert_eq!(visible_line("two\nlines"), "two\\nlines");
    }

    proptest! {
        #[test]
        fn nothing_obeyed_is_left(text in any::<String>()) {
            prop_assert!(!visible(&text).contains(is_obeyed));
            prop_assert!(!visible_line(&text).contains(|c| is_obeyed(c) || c == '\n'));
        }
    }
}
