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

fn all(state: &State<'_, '_>, name: &str, terms: &[Value], kw: &Kwargs) -> Result<Vec<Value>, Error> {
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
            let get = |key: &str, fallback: i64| -> Result<i64, Error> {
                let words = terms.iter().filter_map(|t| t.as_str()).flat_map(str::split_whitespace);
                let word = words.filter_map(|w| w.split_once('=')).find(|(k, _)| *k == key).and_then(|(_, v)| v.parse().ok());
                Ok(kw.get::<Option<i64>>(key)?.or(word).unwrap_or(fallback))
            };
            let (start, stride) = (get("start", 1)?, get("stride", 1)?.max(1));
            let count = get("count", -1)?;
            let end = if count >= 0 { start + (count - 1) * stride } else { get("end", 0)? };
            if (end - start) / stride > MAX_SEQUENCE {
                return Err(bad(format!("lookup `sequence`: over {MAX_SEQUENCE} items")));
            }
            let mut n = start;
            while n <= end {
                out.push(Value::from(n.to_string()));
                n += stride;
            }
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

fn refused(name: &str, hint: &str) -> Error {
    bad(format!("lookup `{name}` is not supported")).with_source(Hint(hint.to_owned()))
}

/// One text, joined by commas where there are several; with `wantlist` a list.
fn lookup(state: &State<'_, '_>, name: &str, terms: Rest<Value>, kw: Kwargs) -> Result<Value, Error> {
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

fn query(state: &State<'_, '_>, name: &str, terms: Rest<Value>, kw: Kwargs) -> Result<Vec<Value>, Error> {
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
