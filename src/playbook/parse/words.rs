//! Words of arguments that are written as one text.

/// Options of `command` and `shell` that may stand in their text, as Ansible has it.
const IN_TEXT: &[&str] = &["creates", "removes", "chdir", "executable", "stdin", "stdin_add_newline", "strip_empty_ends"];

/// Places of the words: blanks separate them, outside of quotes and of `{{ }}`.
fn spans(text: &str) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let (mut begin, mut quote, mut depth) = (None, None, 0usize);
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        if c.is_whitespace() && quote.is_none() && depth == 0 {
            if let Some(b) = begin.take() {
                out.push((b, i));
            }
            continue;
        }
        begin.get_or_insert(i);
        match c {
            '{' if matches!(next, Some('{' | '%')) => {
                depth += 1;
                chars.next();
            }
            '}' | '%' if next == Some('}') && depth > 0 => {
                depth -= 1;
                chars.next();
            }
            '\\' if depth == 0 => drop(chars.next()),
            '"' | '\'' if depth == 0 && (quote.is_none() || quote == Some(c)) => quote = if quote.is_none() { Some(c) } else { None },
            _ => {}
        }
    }
    out.extend(begin.map(|b| (b, text.len())));
    out
}

/// Takes quotes and backslashes off a word, but for what is in `{{ }}`.
fn unquoted(word: &str) -> String {
    let mut out = String::new();
    let (mut quote, mut depth) = (None, 0usize);
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.peek() == Some(&'{') => {
                depth += 1;
                out.push_str("{{");
                chars.next();
            }
            '}' if chars.peek() == Some(&'}') && depth > 0 => {
                depth -= 1;
                out.push_str("}}");
                chars.next();
            }
            '\\' if quote.is_none() && depth == 0 => out.extend(chars.next()),
            // In a template inside of quotes, the same quotes have a backslash.
            '\\' if quote.is_some() && chars.peek().copied() == quote => out.extend(chars.next()),
            '"' | '\'' if depth == 0 && (quote.is_none() || quote == Some(c)) => quote = if quote.is_none() { Some(c) } else { None },
            c => out.push(c),
        }
    }
    out
}

/// Splits at blanks outside of quotes and of `{{ }}`.
pub fn words(text: &str) -> Vec<String> {
    spans(text).into_iter().map(|(a, b)| unquoted(&text[a..b])).collect()
}

/// The text of `command` or `shell`, and the options that stand in it.
pub(super) fn free_text(text: &str) -> (String, Vec<(&'static str, String)>) {
    let mut options = Vec::new();
    let (mut rest, mut last) = (String::new(), 0);
    for (a, b) in spans(text) {
        let word = &text[a..b];
        let option = word.split_once('=').and_then(|(k, v)| Some((*IN_TEXT.iter().find(|o| **o == k)?, v)));
        if let Some((key, value)) = option {
            options.push((key, unquoted(value)));
            // The blanks before the option go with it.
            rest.push_str(text[last..a].trim_end());
            last = b;
        }
    }
    rest.push_str(&text[last..]);
    if options.is_empty() {
        return (text.to_owned(), options);
    }
    (rest.trim().to_owned(), options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_in_the_text_are_not_words_of_the_command() {
        let (text, options) = free_text("echo made >> made.txt chdir=/tmp/case creates='/tmp/a b'");
        assert_eq!(
            (text.as_str(), options),
            ("echo made >> made.txt", vec![("chdir", "/tmp/case".to_owned()), ("creates", "/tmp/a b".to_owned())])
        );
        for plain in ["A=1 make  x=y", "echo 'chdir=/x'  y", "a {{ b if creates == 'x' }} c"] {
            assert_eq!(free_text(plain), (plain.to_owned(), vec![]));
        }
        assert_eq!(free_text("chdir=/x ls  -l").0, "ls  -l");
    }
}
