//! Filters with regular expressions. What Python's know and Rust's do not, such as look-around, is an error.

use minijinja::{
    Environment, Error, Value,
    value::{Kwargs, Rest},
};
use regex::{Captures, Regex, RegexBuilder};

use super::{super::python, bad, undefined};

/// Flags of a pattern.
#[derive(Clone, Copy, Default)]
pub(in crate::template::jinja) struct Flags {
    pub(in crate::template::jinja) ignorecase: bool,
    pub(in crate::template::jinja) multiline: bool,
}

impl Flags {
    fn of(kw: &Kwargs) -> Result<Self, Error> {
        Ok(Self {
            ignorecase: kw.get::<Option<bool>>("ignorecase")?.unwrap_or(false),
            multiline: kw.get::<Option<bool>>("multiline")?.unwrap_or(false),
        })
    }
}

/// Compiles a pattern.
pub(in crate::template::jinja) fn compile(pattern: &str, flags: Flags) -> Result<Regex, Error> {
    // `\Z` of Python is `\z` here.
    let source = pattern.replace("\\Z", "\\z");
    let built =
        RegexBuilder::new(&source).case_insensitive(flags.ignorecase).multi_line(flags.multiline).size_limit(4 * 1024 * 1024).build();
    built.map_err(|e| {
        let last = e.to_string();
        bad(format!("the regular expression `{pattern}` is not supported: {}", last.lines().last().unwrap_or_default().trim()))
    })
}

fn text(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    Ok(python::str_of(value))
}

/// Fills `\1` and `\g<name>` in.
fn fill(template: &str, found: &Captures<'_>) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let behind = &rest[i + 1..];
        if let Some(inner) = behind.strip_prefix("g<") {
            let (name, after) = inner.split_once('>').ok_or_else(|| bad("the replacement has `\\g<` without `>`"))?;
            let group = name.parse().map_or_else(|_| found.name(name), |n: usize| found.get(n));
            out.push_str(group.map_or("", |m| m.as_str()));
            rest = after;
            continue;
        }
        let digits = behind.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let n: usize = behind[..digits].parse().map_err(|_| bad("not a group"))?;
            if n >= found.len() {
                return Err(bad(format!("the replacement names group {n}, which the pattern does not have")));
            }
            out.push_str(found.get(n).map_or("", |m| m.as_str()));
            rest = &behind[digits..];
            continue;
        }
        let mut chars = behind.chars();
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') | None => out.push('\\'),
            Some(c) => {
                out.push('\\');
                out.push(c);
            }
        }
        rest = chars.as_str();
    }
    Ok(out + rest)
}

fn regex_replace(value: &Value, pattern: &str, to: Option<String>, kw: Kwargs) -> Result<String, Error> {
    let flags = Flags::of(&kw)?;
    let count = kw.get::<Option<usize>>("count")?.unwrap_or(0);
    let needed = kw.get::<Option<usize>>("mandatory_count")?.unwrap_or(0);
    kw.assert_all_used()?;
    let (s, re, to) = (text(value)?, compile(pattern, flags)?, to.unwrap_or_default());
    let mut out = String::new();
    let (mut last, mut made) = (0, 0);
    for found in re.captures_iter(&s) {
        let Some(whole) = found.get(0) else { continue };
        if count > 0 && made >= count {
            break;
        }
        out.push_str(&s[last..whole.start()]);
        out.push_str(&fill(&to, &found)?);
        last = whole.end();
        made += 1;
    }
    if made < needed {
        return Err(bad(format!("`regex_replace`: `{pattern}` was found {made} times, not {needed}")));
    }
    Ok(out + &s[last..])
}

/// The first match, or the groups that are asked for; none where there is no match.
fn regex_search(value: &Value, pattern: &str, groups: Rest<String>, kw: Kwargs) -> Result<Value, Error> {
    let flags = Flags::of(&kw)?;
    kw.assert_all_used()?;
    let (s, re) = (text(value)?, compile(pattern, flags)?);
    let Some(found) = re.captures(&s) else { return Ok(Value::from(())) };
    if groups.is_empty() {
        return Ok(Value::from(found.get(0).map_or("", |m| m.as_str())));
    }
    let mut out = Vec::new();
    for g in groups.iter() {
        let group = if let Some(name) = g.strip_prefix("\\g<").and_then(|g| g.strip_suffix('>')) {
            name.parse().map_or_else(|_| found.name(name), |n: usize| found.get(n))
        } else if let Some(n) = g.strip_prefix('\\').and_then(|n| n.parse::<usize>().ok()) {
            found.get(n)
        } else {
            return Err(bad(format!("`regex_search`: `{g}` does not name a group: `'\\\\1'` or `'\\\\g<name>'`")));
        };
        out.push(group.map_or_else(|| Value::from(()), |m| Value::from(m.as_str())));
    }
    Ok(Value::from(out))
}

fn regex_findall(value: &Value, pattern: &str, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let flags = Flags::of(&kw)?;
    kw.assert_all_used()?;
    let (s, re) = (text(value)?, compile(pattern, flags)?);
    let group = |c: &Captures<'_>, i: usize| Value::from(c.get(i).map_or("", |m| m.as_str()));
    let each = |c: Captures<'_>| match c.len() {
        1 => group(&c, 0),
        2 => group(&c, 1),
        n => Value::from(minijinja::value::Tuple::from((1..n).map(|i| group(&c, i)).collect::<Vec<_>>())),
    };
    Ok(re.captures_iter(&s).map(each).collect())
}

fn regex_escape(value: &Value) -> Result<String, Error> {
    Ok(text(value)?
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || c == '_' || !c.is_ascii() || "!\"%',/:;<=>@`".contains(c) { c.to_string() } else { format!("\\{c}") }
        })
        .collect())
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("regex_replace", regex_replace);
    env.add_filter("regex_search", regex_search);
    env.add_filter("regex_findall", regex_findall);
    env.add_filter("regex_escape", regex_escape);
}
