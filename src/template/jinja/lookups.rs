//! `lookup` and `query`: what a playbook reads on the machine that Septet runs on.

use minijinja::{
    Environment, Error, State, Value,
    value::{Kwargs, Rest, ValueKind},
};

use super::{
    filters::{bad, items, undefined},
    python,
    scope::{self, Hint},
};

/// Lookups that there are.
const KNOWN: &[&str] = &["dict", "env", "file", "indexed_items", "items", "list", "sequence", "template", "varnames", "vars"];
/// Longest `sequence`.
const MAX_SEQUENCE: i64 = 10_000;

fn all(state: &mut State<'_, '_>, name: &str, terms: &[Value], kw: &Kwargs) -> Result<Vec<Value>, Error> {
    let name = name.strip_prefix("ansible.builtin.").unwrap_or(name);
    let text = |v: &Value| if v.is_undefined() { Err(undefined(v)) } else { Ok::<_, Error>(python::str_of(v)) };
    let read = |kind: &str, file: &str| {
        let scope = scope::of_state(state).ok_or_else(|| bad("there is no scope"))?;
        let bytes = scope.read(kind, file).map_err(|e| bad(format!("lookup `{name}`: {e}")))?;
        String::from_utf8(bytes).map_err(|_| bad(format!("lookup `{name}`: {file} is not UTF-8")))
    };
    let mut out = Vec::new();
    match name {
        "env" => {
            let fallback = kw.get::<Option<Value>>("default")?;
            for term in terms {
                let value = std::env::var(text(term)?).ok().map(Value::from);
                out.push(value.or_else(|| fallback.clone()).unwrap_or_else(|| Value::from("")));
            }
        }
        "file" => {
            let rstrip = kw.get::<Option<bool>>("rstrip")?.unwrap_or(true);
            for term in terms {
                let content = read("files", &text(term)?)?;
                out.push(Value::from(if rstrip { content.trim_end() } else { &content }));
            }
        }
        "template" => {
            for term in terms {
                let file = text(term)?;
                let source = read("templates", &file)?;
                let scope = scope::of_state(state).ok_or_else(|| bad("there is no scope"))?;
                out.push(Value::from(super::render(super::environment(), &scope, &file, &source, super::Whitespace::default())?.text));
            }
        }
        "vars" => {
            let fallback = kw.get::<Option<Value>>("default")?;
            for term in terms {
                let name = text(term)?;
                let value = state.lookup(&name).or_else(|| fallback.clone());
                out.push(value.ok_or_else(|| Error::new(minijinja::ErrorKind::UndefinedError, format!("`{name}` is undefined")))?);
            }
        }
        "varnames" => {
            let vars = state.lookup("vars").unwrap_or_default();
            let names: Vec<Value> = vars.try_iter()?.collect();
            for term in terms {
                let re = super::filters::compile_regex(&text(term)?, super::filters::Flags::default())?;
                out.extend(names.iter().filter(|n| n.as_str().is_some_and(|n| re.is_match(n))).cloned());
            }
        }
        "items" => {
            for term in terms {
                match term.kind() {
                    ValueKind::Seq | ValueKind::Iterable => out.extend(items(term, "items")?),
                    _ => out.push(term.clone()),
                }
            }
        }
        "list" => out.extend(terms.iter().cloned()),
        "indexed_items" => {
            for (i, item) in all(state, "items", terms, kw)?.into_iter().enumerate() {
                out.push(Value::from(vec![Value::from(i), item]));
            }
        }
        "dict" => {
            for term in terms {
                for key in term.try_iter()? {
                    let value = term.get_item(&key)?;
                    out.push(Value::from_pairs([("key", key), ("value", value)]));
                }
            }
        }
        "sequence" => {
            let words: Vec<&str> = terms.iter().filter_map(|t| t.as_str()).flat_map(str::split_whitespace).collect();
            out = sequence(state, &words, kw)?.into_iter().map(Value::from).collect();
        }
        "lines" => return Err(refused("lines", "run the command in a task with `register`, and read `stdout_lines`")),
        "pipe" => return Err(refused("pipe", "run the command in a task with `register`, and read `stdout`")),
        "password" => return Err(refused("password", "make the password once and pass it with `-e` or `lookup('env', …)`")),
        "url" => return Err(refused("url", "fetch it in a task, as with `command: curl …`")),
        other => return Err(refused(other, &format!("lookups: {}", KNOWN.join(", ")))),
    }
    kw.assert_all_used()?;
    Ok(out)
}

/// `sequence`: numbers from `start` to `end`, or `count` of them, by `stride`, in a format such as `host%02d`.
fn sequence(state: &mut State<'_, '_>, words: &[&str], kw: &Kwargs) -> Result<Vec<String>, Error> {
    let wrong = |why: String| bad(format!("lookup `sequence`: {why}"));
    let mut given = std::collections::BTreeMap::new();
    for word in words {
        match word.split_once('=') {
            Some((key @ ("start" | "end" | "count" | "stride" | "format"), value)) => given.insert(key, value.to_owned()),
            _ => return Err(wrong(format!("`{word}` is not start=, end=, count=, stride= or format="))),
        };
    }
    for key in ["start", "end", "count", "stride", "format"] {
        if let Some(value) = kw.get::<Option<Value>>(key)? {
            given.insert(key, python::str_of(&value));
        }
    }
    let number = |key: &str| -> Result<Option<i64>, Error> {
        let read = |text: &String| match (text.strip_prefix("0x"), text.len() > 1 && text.starts_with('0')) {
            (Some(hex), _) => i64::from_str_radix(hex, 16),
            (None, true) => i64::from_str_radix(text, 8),
            (None, false) => text.parse(),
        };
        given.get(key).map(|t| read(t).map_err(|_| wrong(format!("`{key}={t}` is not a number")))).transpose()
    };
    let (start, stride) = (number("start")?.unwrap_or(1), number("stride")?.unwrap_or(1));
    let end = match (number("count")?, number("end")?) {
        (Some(_), Some(_)) => return Err(wrong("has both `count` and `end`".into())),
        (Some(0), None) => return Ok(Vec::new()),
        (Some(count), None) => count.checked_sub(1).and_then(|n| n.checked_mul(stride)).and_then(|n| n.checked_add(start)),
        (None, Some(end)) => Some(end),
        (None, None) => return Err(wrong("needs `count` or `end`".into())),
    };
    let span = end.and_then(|end| end.checked_sub(start)).ok_or_else(|| wrong("the numbers are too large".into()))?;
    if stride == 0 || (span != 0 && (span < 0) != (stride < 0)) {
        return Err(wrong("`stride` leads away from the end".into()));
    }
    let steps = span / stride;
    if steps > MAX_SEQUENCE {
        return Err(wrong(format!("over {MAX_SEQUENCE} items")));
    }
    let format = given.get("format").map_or("%d", String::as_str);
    let mut one = |n: i64| state.apply_filter("format", &[Value::from(format), Value::from(n)]);
    (0..=steps).map(|i| Ok(python::str_of(&one(start + i * stride)?))).collect()
}

fn refused(name: &str, hint: &str) -> Error {
    bad(format!("lookup `{name}` is not supported")).with_source(Hint(hint.to_owned()))
}

/// One text, joined by commas where there are several; with `wantlist` a list.
fn lookup(state: &mut State<'_, '_>, name: &str, terms: Rest<Value>, kw: Kwargs) -> Result<Value, Error> {
    let list = kw.get::<Option<bool>>("wantlist")?.unwrap_or(false);
    let mut out = all(state, name, &terms, &kw)?;
    Ok(match out.len() {
        _ if list => Value::from(out),
        1 => out.remove(0),
        0 => Value::from(Vec::<Value>::new()),
        _ if out.iter().all(|v| v.as_str().is_some()) => Value::from(out.iter().map(python::str_of).collect::<Vec<_>>().join(",")),
        _ => Value::from(out),
    })
}

fn query(state: &mut State<'_, '_>, name: &str, terms: Rest<Value>, kw: Kwargs) -> Result<Vec<Value>, Error> {
    kw.get::<Option<bool>>("wantlist")?;
    all(state, name, &terms, &kw)
}

/// `undef()`: a value that must be set elsewhere.
fn undef(hint: Option<String>) -> Result<Value, Error> {
    Err(Error::new(minijinja::ErrorKind::UndefinedError, hint.unwrap_or_else(|| "a variable that must be overridden is undefined".into())))
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_function("lookup", lookup);
    env.add_function("query", query);
    env.add_function("q", query);
    env.add_function("undef", undef);
}
