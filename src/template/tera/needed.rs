//! Undefined names where Tera takes them as false or as nothing: comparisons, `not`, `and`, `or`, `~`, `if`. Each plain name
//! in an expression gets a filter that refuses an undefined value; whether it is evaluated at all stays Tera's decision.
//!
//! Invariant: what is not understood is left as it is, since a false alarm is worse than a miss.

/// Name of the filter, unlikely to be used by chance.
pub(super) const FILTER: &str = "septet_needed";
/// What the filter's error begins with; the name's offset in the text follows.
const MARK: &str = "septet_needed at ";

const KEYWORDS: &[&str] = &["and", "or", "not", "in", "is", "if", "else", "true", "false", "True", "False", "none", "None", "null"];

/// The filter: passes a value that is there.
pub(super) fn filter(v: &tera::Value, kw: tera::Kwargs, _: &tera::State) -> tera::TeraResult<tera::Value> {
    if v.is_undefined() {
        return Err(tera::Error::message(format!("{MARK}{};", kw.get::<usize>("at")?.unwrap_or(0))));
    }
    Ok(v.clone())
}

/// Where the undefined name is, if the filter made this error.
pub(super) fn place(e: &tera::Error) -> Option<usize> {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        text += &c.to_string();
        cause = c.source();
    }
    text.split_once(MARK)?.1.split(';').next()?.parse().ok()
}

/// The name that begins at an offset.
pub(super) fn name_at(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    rest.split(|c: char| !is_word(c)).next().unwrap_or_default()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    /// a text or a number
    Literal,
    Sign,
}

#[derive(Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    at: usize,
}

/// Signs of more than one character that matter here.
const SIGNS: &[&str] = &["==", "!=", "<=", ">=", "?.", "?[", "::", "//", "**", "..."];

/// The tokens of a tag from `from`, and where its `close` begins; `None` if it does not end.
fn tokens<'a>(text: &'a str, from: usize, close: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let mut out = Vec::new();
    let (mut at, mut braces) = (from, 0usize);
    loop {
        let rest = text.get(at..)?;
        let c = rest.chars().next()?;
        if braces == 0 && rest.starts_with(close) {
            return Some((out, at));
        }
        let (kind, len) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if matches!(c, '"' | '\'' | '`') {
            let mut escaped = false;
            let end = rest[1..].char_indices().find(|(_, d)| {
                let ends = !escaped && *d == c;
                escaped = !escaped && *d == '\\';
                ends
            });
            (Kind::Literal, end?.0 + 2)
        } else if c.is_ascii_digit() {
            let number = |(i, d): &(usize, char)| is_word(*d) || (*d == '.' && rest[i + 1..].starts_with(|n: char| n.is_ascii_digit()));
            (Kind::Literal, rest.char_indices().take_while(number).map(|(i, d)| i + d.len_utf8()).last().unwrap_or(1))
        } else if is_word(c) {
            (Kind::Word, rest.find(|d: char| !is_word(d)).unwrap_or(rest.len()))
        } else {
            braces = match c {
                '{' => braces + 1,
                '}' => braces.saturating_sub(1),
                _ => braces,
            };
            (Kind::Sign, SIGNS.iter().find(|s| rest.starts_with(**s)).map_or(c.len_utf8(), |s| s.len()))
        };
        out.push(Token { kind, text: &rest[..len], at });
        at += len;
    }
}

/// Which of these tokens are names that must be defined once they are evaluated.
fn needed<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let text = |i: usize| tokens.get(i).filter(|t| t.kind != Kind::Literal).map_or("", |t| t.text);
    // A comprehension has variables of its own; a component is no expression.
    if text(0) == "<" || tokens.iter().any(|t| t.kind == Kind::Word && t.text == "for") {
        return Vec::new();
    }
    let mut out = Vec::new();
    // For each open parenthesis, whether it is in the arguments of `default`: what is there need not exist.
    let mut open: Vec<bool> = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        let before = if i > 0 { text(i - 1) } else { "" };
        match t.text {
            "(" => open.push(before == "default" || open.last() == Some(&true)),
            ")" => drop(open.pop()),
            _ => {}
        }
        if t.kind != Kind::Word || KEYWORDS.contains(&t.text) || open.last() == Some(&true) {
            continue;
        }
        let belongs = matches!(before, "." | "?." | "|" | "is") || (before == "not" && i > 1 && text(i - 2) == "is");
        let leads = matches!(text(i + 1), "." | "?." | "[" | "?[" | "(" | "::" | ":" | "=");
        let mut next = i + 1;
        while text(next) == ")" {
            next += 1;
        }
        // A test may be asked of anything.
        let asked = text(next) == "is" || (text(next) == "|" && text(next + 1) == "default");
        if !(belongs || leads || asked) {
            out.push(*t);
        }
    }
    out
}

/// The same template with the filter at every such name; `None` if there is none.
pub(super) fn strict(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 64);
    let (mut copied, mut at, mut any) = (0, 0, false);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('{')) {
        at += found;
        let rest = &text[at..];
        let close = match rest.as_bytes().get(1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                at += rest.find("#}")?;
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        let (mut inside, end) = tokens(text, at + 2, close)?;
        if inside.first().is_some_and(|t| t.text == "-") {
            inside.remove(0);
        }
        at = end + 2;
        let expression = match (close, inside.first().map(|t| t.text)) {
            ("}}", _) => &inside[..],
            (_, Some("if" | "elif")) => &inside[1..],
            (_, Some("raw")) => {
                at += text[at..].find("endraw")?;
                &[]
            }
            _ => &[],
        };
        for name in needed(expression) {
            any = true;
            out.push_str(&text[copied..name.at]);
            out.push_str(&format!("({} | {FILTER}(at={}))", name.text, name.at));
            copied = name.at + name.text.len();
        }
    }
    out.push_str(&text[copied..]);
    any.then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let (tokens, _) = tokens(text, 0, "%}").unwrap();
        needed(&tokens).iter().map(|t| t.text.to_owned()).collect()
    }

    #[test]
    fn only_names_that_are_read_as_they_are() {
        assert_eq!(names("a == 'b' and not c or d ~ \"e\" %}"), ["a", "c", "d"]);
        assert_eq!(names("a.b.c == 1 and f(x=y) and l[i] %}"), ["y", "i"]);
        assert_eq!(names("a is defined and b is not defined and (c) is undefined %}"), [""; 0]);
        assert_eq!(names("a | default(value=b) > 1 and c | share(of=d) in ('x' ~ (e | default(value=[f]))) %}"), ["c", "d"]);
        assert_eq!(names("1.5 > n and true and none == x %}"), ["n", "x"]);
    }

    #[test]
    fn texts_raw_parts_comments_and_loops_stay() {
        for text in ["a { b }", "{# a #}", "{% raw %}{{ a }}{% endraw %}", "{% for a in b %}{% endfor %}", "{{ 'a }} b' }}", "{{ a"] {
            assert_eq!(strict(text), None, "{text}");
        }
        let raw = "{% raw %}{{ a }}{% endraw %}{{ b }}";
        assert_eq!(strict(raw).unwrap(), format!("{{% raw %}}{{{{ a }}}}{{% endraw %}}{{{{ (b | {FILTER}(at=31)) }}}}"));
    }
}
