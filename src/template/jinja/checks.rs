//! Tests (`x is …`) of Ansible, and the comparisons that Python refuses.

use std::{cmp::Ordering, path::Path};

use minijinja::{
    Environment, Error, Value,
    value::{Kwargs, ValueKind},
};

use super::{
    filters::{Flags, bad, compile_regex, items, undefined},
    python,
};

/// The tests that there are, for hints.
pub(super) const NAMES: &[&str] = &[
    "abs",
    "all",
    "any",
    "boolean",
    "change",
    "changed",
    "contains",
    "defined",
    "directory",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "even",
    "exists",
    "failed",
    "failure",
    "false",
    "falsy",
    "file",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "issubset",
    "issuperset",
    "iterable",
    "le",
    "lessthan",
    "link",
    "lower",
    "lt",
    "mapping",
    "match",
    "ne",
    "none",
    "number",
    "odd",
    "reachable",
    "regex",
    "sameas",
    "search",
    "sequence",
    "skip",
    "skipped",
    "startingwith",
    "string",
    "subset",
    "succeeded",
    "success",
    "successful",
    "superset",
    "true",
    "truthy",
    "undefined",
    "unreachable",
    "upper",
    "url",
    "version",
    "version_compare",
];

/// How two values are ordered; values of different kinds are not, as in Python.
pub(super) fn order(a: &Value, b: &Value) -> Result<Ordering, Error> {
    for v in [a, b] {
        if v.is_undefined() {
            return Err(undefined(v));
        }
    }
    let kind = |v: &Value| match v.kind() {
        ValueKind::Bool | ValueKind::Number => "number",
        ValueKind::String => "string",
        ValueKind::Seq | ValueKind::Iterable => "list",
        _ => "",
    };
    let (ka, kb) = (kind(a), kind(b));
    if ka != kb || ka.is_empty() {
        let name = |v: &Value| match v.kind() {
            ValueKind::String => format!("the string '{v}'"),
            ValueKind::None => "None".to_owned(),
            _ => format!("a {}", v.kind()),
        };
        return Err(bad(format!("{} and {} cannot be compared; `| int` makes a number of a string", name(a), name(b))));
    }
    if ka == "list" {
        let (a, b) = (items(a, "compare")?, items(b, "compare")?);
        for (x, y) in a.iter().zip(&b) {
            if x != y {
                return order(x, y);
            }
        }
        return Ok(a.len().cmp(&b.len()));
    }
    let number = |v: &Value| if v.kind() == ValueKind::Bool { Value::from(i64::from(v.is_true())) } else { v.clone() };
    Ok(number(a).cmp(&number(b)))
}

fn lt(a: &Value, b: &Value) -> Result<bool, Error> {
    order(a, b).map(Ordering::is_lt)
}

fn le(a: &Value, b: &Value) -> Result<bool, Error> {
    order(a, b).map(Ordering::is_le)
}

fn gt(a: &Value, b: &Value) -> Result<bool, Error> {
    order(a, b).map(Ordering::is_gt)
}

fn ge(a: &Value, b: &Value) -> Result<bool, Error> {
    order(a, b).map(Ordering::is_ge)
}

/// `in`, also for an undefined name in a list.
fn is_in(state: &minijinja::State<'_, '_>, value: &Value, container: &Value) -> Result<bool, Error> {
    for v in [value, container] {
        if v.is_undefined() {
            return Err(undefined(v));
        }
    }
    if matches!(container.kind(), ValueKind::Seq)
        && let Some(v) = items(container, "in")?.iter().find(|v| v.is_undefined())
    {
        return Err(undefined(v));
    }
    minijinja::tests::is_in(state, value, container)
}

/// A flag of a registered result; a missing one counts as false.
fn result(value: &Value, key: &str) -> Result<bool, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    if value.kind() != ValueKind::Map {
        return Err(bad(format!("`is {key}` tests what a task registered, not {}", value.kind())));
    }
    Ok(value.get_attr(key)?.is_true())
}

fn failed(value: &Value) -> Result<bool, Error> {
    result(value, "failed")
}

fn succeeded(value: &Value) -> Result<bool, Error> {
    result(value, "failed").map(|f| !f)
}

fn changed(value: &Value) -> Result<bool, Error> {
    if value.kind() == ValueKind::Map && value.get_attr("changed")?.is_undefined() {
        let results = value.get_attr("results")?;
        if !results.is_undefined() {
            for r in items(&results, "changed")? {
                if result(&r, "changed")? {
                    return Ok(true);
                }
            }
        }
    }
    result(value, "changed")
}

fn skipped(value: &Value) -> Result<bool, Error> {
    result(value, "skipped")
}

fn unreachable(value: &Value) -> Result<bool, Error> {
    result(value, "unreachable")
}

fn reachable(value: &Value) -> Result<bool, Error> {
    result(value, "unreachable").map(|u| !u)
}

fn find(value: &Value, pattern: &str, kw: &Kwargs, how: &str) -> Result<bool, Error> {
    let flags = Flags {
        ignorecase: kw.get::<Option<bool>>("ignorecase")?.unwrap_or(false),
        multiline: kw.get::<Option<bool>>("multiline")?.unwrap_or(false),
    };
    kw.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined(value));
    }
    let re = compile_regex(&if how == "match" { format!(r"\A(?:{pattern})") } else { pattern.to_owned() }, flags)?;
    Ok(re.is_match(&python::str_of(value)))
}

fn matches(value: &Value, pattern: &str, kw: Kwargs) -> Result<bool, Error> {
    find(value, pattern, &kw, "match")
}

fn search(value: &Value, pattern: &str, kw: Kwargs) -> Result<bool, Error> {
    find(value, pattern, &kw, "search")
}

fn regex(value: &Value, pattern: &str, match_type: Option<String>, kw: Kwargs) -> Result<bool, Error> {
    let how = match_type.or(kw.get::<Option<String>>("match_type")?).unwrap_or_else(|| "search".into());
    if !["search", "match"].contains(&how.as_str()) {
        return Err(bad(format!("`regex`: unknown match_type `{how}`")));
    }
    find(value, pattern, &kw, &how)
}

/// A part of a version: numbers are ordered as numbers and before words, as Python's LooseVersion has it where it can.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

fn loose(version: &str) -> Vec<Part> {
    let mut out = Vec::new();
    let mut rest = version;
    while let Some(first) = rest.chars().next() {
        let class = |c: char| (c.is_ascii_digit(), c.is_ascii_lowercase());
        let end = match class(first) {
            (true, _) => rest.find(|c: char| !c.is_ascii_digit()),
            (_, true) => rest.find(|c: char| !c.is_ascii_lowercase()),
            _ => rest.find(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '.'),
        };
        let end = end.unwrap_or(rest.len()).max(if first == '.' { 1 } else { 0 });
        let part = &rest[..end];
        if first != '.' {
            out.push(part.parse().map_or_else(|_| Part::Word(part.to_owned()), Part::Number));
        }
        rest = &rest[end..];
    }
    out
}

fn version(value: &Value, than: &Value, operator: Option<String>, kw: Kwargs) -> Result<bool, Error> {
    let operator = operator.or(kw.get::<Option<String>>("operator")?).unwrap_or_else(|| "eq".into());
    let strict = kw.get::<Option<bool>>("strict")?.unwrap_or(false);
    let kind = kw.get::<Option<String>>("version_type")?;
    kw.assert_all_used()?;
    if strict || kind.as_deref().is_some_and(|k| k != "loose") {
        return Err(bad("`version`: only the loose comparison is supported"));
    }
    for v in [value, than] {
        if v.is_undefined() {
            return Err(undefined(v));
        }
    }
    let (a, b) = (python::str_of(value), python::str_of(than));
    if a.is_empty() || b.is_empty() {
        return Err(bad("`version`: the version is empty"));
    }
    let (a, b) = (loose(&a), loose(&b));
    let mixed = a.iter().zip(&b).find(|(x, y)| x != y).is_some_and(|(x, y)| matches!(x, Part::Number(_)) != matches!(y, Part::Number(_)));
    if mixed {
        return Err(bad(format!("`version`: `{}` and `{}` cannot be compared", python::str_of(value), python::str_of(than))));
    }
    let o = a.cmp(&b);
    Ok(match operator.as_str() {
        "==" | "=" | "eq" => o.is_eq(),
        "<" | "lt" => o.is_lt(),
        "<=" | "le" => o.is_le(),
        ">" | "gt" => o.is_gt(),
        ">=" | "ge" => o.is_ge(),
        "!=" | "<>" | "ne" => o.is_ne(),
        other => return Err(bad(format!("`version`: unknown operator `{other}`: ==, !=, <, <=, >, >="))),
    })
}

fn subset(a: &Value, b: &Value) -> Result<bool, Error> {
    let b = items(b, "subset")?;
    Ok(items(a, "subset")?.iter().all(|v| b.contains(v)))
}

fn superset(a: &Value, b: &Value) -> Result<bool, Error> {
    subset(b, a)
}

fn contains(list: &Value, item: &Value) -> Result<bool, Error> {
    match (list.as_str(), item.as_str()) {
        (Some(s), Some(i)) => Ok(s.contains(i)),
        _ => Ok(items(list, "contains")?.contains(item)),
    }
}

fn all(list: &Value) -> Result<bool, Error> {
    Ok(items(list, "all")?.iter().all(Value::is_true))
}

fn any(list: &Value) -> Result<bool, Error> {
    Ok(items(list, "any")?.iter().any(Value::is_true))
}

fn truth(value: &Value, kw: &Kwargs) -> Result<bool, Error> {
    let convert = kw.get::<Option<bool>>("convert_bool")?.unwrap_or(false);
    kw.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined(value));
    }
    Ok(match value.as_str().filter(|_| convert) {
        Some(s) => !matches!(s.to_lowercase().as_str(), "" | "no" | "off" | "0" | "false" | "f" | "n" | "0.0"),
        None => value.is_true(),
    })
}

fn truthy(value: &Value, kw: Kwargs) -> Result<bool, Error> {
    truth(value, &kw)
}

fn falsy(value: &Value, kw: Kwargs) -> Result<bool, Error> {
    truth(value, &kw).map(|t| !t)
}

// Of the machine that Septet runs on, as in Ansible.

fn file(path: &str) -> bool {
    Path::new(path).is_file()
}

fn directory(path: &str) -> bool {
    Path::new(path).is_dir()
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn link(path: &str) -> bool {
    Path::new(path).is_symlink()
}

fn abs(path: &str) -> bool {
    path.starts_with('/')
}

fn url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(s, rest)| !s.is_empty() && !rest.is_empty())
}

pub(super) fn add(env: &mut Environment<'static>) {
    for name in ["<", "lt", "lessthan"] {
        env.add_test(name, lt);
    }
    for name in ["<=", "le"] {
        env.add_test(name, le);
    }
    for name in [">", "gt", "greaterthan"] {
        env.add_test(name, gt);
    }
    for name in [">=", "ge"] {
        env.add_test(name, ge);
    }
    for name in ["failed", "failure"] {
        env.add_test(name, failed);
    }
    for name in ["succeeded", "success", "successful"] {
        env.add_test(name, succeeded);
    }
    for name in ["changed", "change"] {
        env.add_test(name, changed);
    }
    for name in ["skipped", "skip"] {
        env.add_test(name, skipped);
    }
    env.add_test("in", is_in);
    env.add_test("unreachable", unreachable);
    env.add_test("reachable", reachable);
    env.add_test("match", matches);
    env.add_test("search", search);
    env.add_test("regex", regex);
    for name in ["version", "version_compare"] {
        env.add_test(name, version);
    }
    for name in ["subset", "issubset"] {
        env.add_test(name, subset);
    }
    for name in ["superset", "issuperset"] {
        env.add_test(name, superset);
    }
    env.add_test("contains", contains);
    env.add_test("all", all);
    env.add_test("any", any);
    env.add_test("truthy", truthy);
    env.add_test("falsy", falsy);
    env.add_test("file", file);
    env.add_test("directory", directory);
    env.add_test("exists", exists);
    env.add_test("link", link);
    env.add_test("abs", abs);
    env.add_test("url", url);
}
