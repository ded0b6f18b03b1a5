//! Filters of Jinja2 that the engine does not have, and its `%`, which formats a string.

use minijinja::{
    Environment, Error, State, Value,
    value::{Kwargs, Rest, ValueKind},
};
use serde_json::Value as Json;

use super::{super::python, bad, items, undefined};

/// Widest text that `center` makes.
const MAX_WIDTH: usize = 10_000;

fn text(value: &Value) -> Result<String, Error> {
    if value.is_undefined() { Err(undefined(value)) } else { Ok(python::str_of(value)) }
}

/// An argument by position or name.
fn argument(args: &[Value], kw: &Kwargs, i: usize, key: &str) -> Result<Option<Value>, Error> {
    match args.get(i) {
        Some(v) => Ok(Some(v.clone())),
        None => kw.get::<Option<Value>>(key),
    }
}

fn number(value: Option<Value>, of: &str, otherwise: usize) -> Result<usize, Error> {
    value.map_or(Ok(otherwise), |v| v.as_usize().ok_or_else(|| bad(format!("`{of}` needs a number, not {}", v.kind()))))
}

/// `%`: the rest of a division, with the sign of the divisor; or a string with its values put in.
fn rem(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    for v in [&left, &right] {
        if v.is_undefined() {
            return Err(undefined(v));
        }
    }
    if left.as_str().is_some() {
        let mut all = vec![left];
        if right.is_tuple() {
            all.extend(items(&right, "%")?)
        } else {
            all.push(right)
        }
        return state.apply_filter("format", &all);
    }
    let whole = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(i64::from(v.is_true())),
        ValueKind::Number if v.is_integer() => v.as_i64(),
        _ => None,
    };
    if let (Some(a), Some(b)) = (whole(&left), whole(&right)) {
        let rest = a.checked_rem(b).ok_or_else(|| bad("`%`: division by zero"))?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }));
    }
    let of = |v: &Value| f64::try_from(v.clone()).map_err(|_| bad(format!("`%` needs numbers, not {} and {}", left.kind(), right.kind())));
    let (a, b) = (of(&left)?, of(&right)?);
    match b == 0.0 {
        true => Err(bad("`%`: division by zero")),
        false => Ok(Value::from(a - b * (a / b).floor())),
    }
}

fn center(value: &Value, width: Option<usize>) -> Result<String, Error> {
    let (s, width) = (text(value)?, width.unwrap_or(80));
    if width > MAX_WIDTH {
        return Err(bad(format!("`center`: the width is at most {MAX_WIDTH}")));
    }
    // As Python: of an odd number of blanks one more goes to the left if the width is odd.
    let blanks = width.saturating_sub(s.chars().count());
    let left = blanks / 2 + (blanks & width & 1);
    Ok(format!("{}{s}{}", " ".repeat(left), " ".repeat(blanks - left)))
}

fn truncate(value: &Value, args: Rest<Value>, kw: Kwargs) -> Result<String, Error> {
    let length = number(argument(&args, &kw, 0, "length")?, "truncate", 255)?;
    let kill = argument(&args, &kw, 1, "killwords")?.is_some_and(|v| v.is_true());
    let end = argument(&args, &kw, 2, "end")?.map_or_else(|| "...".to_owned(), |v| python::str_of(&v));
    let leeway = number(argument(&args, &kw, 3, "leeway")?, "truncate", 5)?;
    kw.assert_all_used()?;
    let s = text(value)?;
    if s.chars().count() <= length.saturating_add(leeway) {
        return Ok(s);
    }
    let kept = length.checked_sub(end.chars().count()).ok_or_else(|| bad("`truncate`: the length is less than that of the end"))?;
    let head: String = s.chars().take(kept).collect();
    let head = if kill { head.as_str() } else { head.rsplit_once(' ').map_or(head.as_str(), |(h, _)| h) };
    Ok(format!("{head}{end}"))
}

/// Percent-encoding; `query`: as part of a query string.
fn quoted(s: &str, query: bool) -> String {
    s.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' | b'-' | b'~' => out.push(b.into()),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            _ => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let pair = |k: &Value, v: &Value| Ok::<_, Error>(format!("{}={}", quoted(&text(k)?, true), quoted(&text(v)?, true)));
    let pairs: Vec<String> = match value.kind() {
        ValueKind::Map => value.try_iter()?.map(|k| pair(&k, &value.get_item(&k)?)).collect::<Result<_, _>>()?,
        ValueKind::Seq | ValueKind::Iterable => {
            items(value, "urlencode")?.iter().map(|p| pair(&p.get_item_by_index(0)?, &p.get_item_by_index(1)?)).collect::<Result<_, _>>()?
        }
        _ => return Ok(quoted(&text(value)?, false)),
    };
    Ok(pairs.join("&"))
}

fn sorted(value: Json) -> Json {
    match value {
        Json::Object(m) => {
            let mut pairs: Vec<(String, Json)> = m.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(pairs.into_iter().collect())
        }
        Json::Array(a) => Json::Array(a.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// `tojson`: with sorted keys, and without what means something in HTML.
fn tojson(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    let line = python::json_line(&sorted(python::to_json(value)?));
    Ok(line.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027"))
}

fn filesizeformat(value: f64, binary: Option<bool>) -> String {
    let binary = binary.unwrap_or(false);
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    match value {
        1.0 => return "1 Byte".into(),
        v if v < base => return format!("{} Bytes", v as i64),
        _ => {}
    }
    let units = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let power = (1..units.len()).find(|p| value < base.powi(*p as i32 + 1)).unwrap_or(units.len());
    let unit = if binary { format!("{}iB", units[power - 1].to_uppercase()) } else { format!("{}B", units[power - 1]) };
    format!("{:.1} {unit}", value / base.powi(power as i32))
}

fn escape(value: &Value) -> Result<String, Error> {
    let s = text(value)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(s.replace('"', "&#34;").replace('\'', "&#39;"))
}

fn safe(value: Value) -> Value {
    value
}

/// `dict`: of a mapping or a list of pairs, and names.
fn dict(value: Option<Value>, kw: Kwargs) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    if let Some(value) = value.filter(|v| !v.is_none()) {
        for item in value.try_iter()? {
            pairs.push(match value.kind() {
                ValueKind::Map => (item.clone(), value.get_item(&item)?),
                _ if item.len() == Some(2) => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
                _ => return Err(bad("`dict` needs a mapping or a list of pairs")),
            });
        }
    }
    for key in kw.args() {
        pairs.push((Value::from(key), kw.get::<Value>(key)?));
    }
    Ok(Value::from_pairs(pairs))
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("septet_rem", rem);
    env.add_function("dict", dict);
    env.add_filter("center", center);
    env.add_filter("truncate", truncate);
    env.add_filter("urlencode", urlencode);
    env.add_filter("tojson", tojson);
    env.add_filter("filesizeformat", filesizeformat);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("forceescape", escape);
    env.add_filter("safe", safe);
}
