//! Methods of Python's strings and lists that the engine's own set lacks.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{ValueKind, from_args},
};

use super::{
    filters::{bad, items},
    scope::Hint,
};

/// Methods of each kind, for hints.
const OF_STRINGS: &str = "capitalize, count, endswith, find, format, index, isalnum, isalpha, isascii, isdigit, islower, isnumeric, isspace, \
     isupper, join, ljust, lower, lstrip, partition, removeprefix, removesuffix, replace, rfind, rjust, rpartition, rsplit, rstrip, split, \
     splitlines, startswith, strip, swapcase, title, upper, zfill";
const OF_LISTS: &str = "count, index";
const OF_MAPPINGS: &str = "get, items, keys, values";

/// Widest text that a method makes.
const MAX_WIDTH: usize = 10_000;

/// A method of a value.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable if method == "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let at = items(value, "index")?.iter().position(|v| *v == wanted);
            Some(Value::from(at.ok_or_else(|| bad(format!("`index`: {wanted:?} is not in the list")))?))
        }
        _ => None,
    };
    if let Some(result) = own {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args).map_err(|e| match e.kind() {
        ErrorKind::UnknownMethod => unknown(value, method),
        _ => e,
    })
}

fn unknown(value: &Value, method: &str) -> Error {
    let hint = match (value.kind(), method) {
        (ValueKind::Seq, "append" | "extend" | "insert") => "values do not change: `list + [item]` makes a new list".to_owned(),
        (ValueKind::Map, "update") => "values do not change: `combine` makes a new mapping".to_owned(),
        (ValueKind::String, _) => format!("methods of strings: {OF_STRINGS}"),
        (ValueKind::Map, _) => format!("methods of mappings: {OF_MAPPINGS}"),
        _ => format!("methods of lists: {OF_LISTS}"),
    };
    bad(format!("{} has no method `{method}`", value.kind())).with_source(Hint(hint))
}

/// A tuple of Python, which is a list to what reads it.
fn tuple(parts: [&str; 3]) -> Value {
    Value::from(parts.map(Value::from).to_vec())
}

fn of_string(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let padding = || -> Result<(usize, String), Error> {
        let (width, fill): (usize, Option<String>) = from_args(args)?;
        if width > MAX_WIDTH {
            return Err(bad(format!("`{method}`: the width is at most {MAX_WIDTH}")));
        }
        Ok((width.saturating_sub(s.chars().count()), fill.unwrap_or_else(|| " ".into())))
    };
    Ok(Some(match method {
        "ljust" => padding().map(|(n, fill)| Value::from(s.to_owned() + &fill.repeat(n)))?,
        "rjust" => padding().map(|(n, fill)| Value::from(fill.repeat(n) + s))?,
        "zfill" => {
            let (n, _) = padding()?;
            let (sign, digits) = s.split_at(usize::from(s.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", "0".repeat(n)))
        }
        "partition" | "rpartition" => {
            let (by,): (String,) = from_args(args)?;
            let first = method == "partition";
            let found = if first { s.split_once(&by) } else { s.rsplit_once(&by) };
            match found {
                Some((a, b)) => tuple([a, &by, b]),
                None if first => tuple([s, "", ""]),
                None => tuple(["", "", s]),
            }
        }
        "rsplit" => {
            let (by, max): (Option<String>, Option<i64>) = from_args(args)?;
            let limit = max.and_then(|n| usize::try_from(n).ok());
            let mut parts: Vec<&str> = match (by.as_deref(), limit) {
                (Some(""), _) => return Err(bad("`rsplit`: the separator is empty")),
                (Some(by), Some(n)) => s.rsplitn(n + 1, by).collect(),
                (Some(by), None) => s.rsplit(by).collect(),
                (None, None) => s.split_whitespace().rev().collect(),
                (None, Some(_)) => return Err(bad("`rsplit` with a number of parts needs a separator")),
            };
            parts.reverse();
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (String,) = from_args(args)?;
            let rest = if method == "removeprefix" { s.strip_prefix(&part) } else { s.strip_suffix(&part) };
            Value::from(rest.unwrap_or(s))
        }
        "swapcase" => {
            let swapped = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            Value::from(s.chars().map(swapped).collect::<String>())
        }
        "index" => {
            let (part,): (String,) = from_args(args)?;
            let at = s.find(&part).ok_or_else(|| bad(format!("`index`: `{part}` is not in the string")))?;
            Value::from(s[..at].chars().count())
        }
        _ => return Ok(None),
    }))
}
