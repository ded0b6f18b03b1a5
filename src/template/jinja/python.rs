//! Values as Python spells them: `str()`, `repr()`, and what `json.dumps` and PyYAML make of them.

use std::fmt::Write;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};
use serde_json::{Map, Number, Value as Json};

use super::scope::Omit;
use crate::yaml::{float_text, is_not_text};

/// Deepest nesting of a value that is written out.
const MAX_DEPTH: usize = 100;

/// Text of a value in a template: nothing for None, as Ansible has it, else as `str()`.
pub fn text(value: &Value) -> String {
    if value.is_none() || is_omit(value) { String::new() } else { str_of(value) }
}

/// `str()`.
pub(super) fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(s) => s.to_owned(),
        None => {
            let mut out = String::new();
            repr(value, &mut out, 0);
            out
        }
    }
}

pub(in crate::template) fn is_omit(value: &Value) -> bool {
    value.downcast_object_ref::<Omit>().is_some()
}

/// `repr()`.
fn repr(value: &Value, out: &mut String, depth: usize) {
    if depth > MAX_DEPTH {
        out.push_str("...");
        return;
    }
    match value.kind() {
        ValueKind::Number if !value.is_integer() => out.push_str(&float_text(f64::try_from(value.clone()).unwrap_or(f64::NAN))),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, out, depth + 1);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or(Value::UNDEFINED), out, depth + 1);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            // As in ansible-core 2.19: a tuple is shown as a list.
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, out, depth + 1);
            }
            out.push(']');
        }
        _ => {
            let _ = write!(out, "{value:?}");
        }
    }
}

/// A plain value. In lists and maps what is `omit` is dropped; what is not defined is an error.
pub(super) fn to_json(value: &Value) -> Result<Json, Error> {
    plain(value, 0)
}

fn plain(value: &Value, depth: usize) -> Result<Json, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("a value nested deeper than {MAX_DEPTH}")));
    }
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::new(ErrorKind::UndefinedError, "a part of the value is undefined")),
        ValueKind::None => Json::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number if value.is_integer() => match i64::try_from(value.clone()) {
            Ok(n) => n.into(),
            Err(_) => u64::try_from(value.clone())?.into(),
        },
        ValueKind::Number => {
            let f = f64::try_from(value.clone())?;
            Number::from_f64(f).map(Json::Number).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the number is not finite"))?
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                if !is_omit(&item) {
                    map.insert(str_of(&key), plain(&item, depth + 1)?);
                }
            }
            map.into()
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut list = Vec::new();
            for item in value.try_iter()? {
                if !is_omit(&item) {
                    list.push(plain(&item, depth + 1)?);
                }
            }
            list.into()
        }
        ValueKind::Invalid => {
            // The engine gives the error back where the value is used.
            return Err(value.try_iter().err().unwrap_or_else(|| Error::from(ErrorKind::BadSerialization)));
        }
        _ => match value.as_str() {
            Some(s) => s.into(),
            None if is_omit(value) => Json::Null,
            None => return Err(Error::new(ErrorKind::BadSerialization, format!("{} is not plain data", value.kind()))),
        },
    })
}

/// How JSON is written.
#[derive(Clone, Copy)]
pub(super) struct JsonStyle {
    pub(super) indent: Option<usize>,
    pub(super) sort: bool,
    pub(super) ascii: bool,
}

/// `json.dumps` without arguments.
pub fn json_line(value: &Json) -> String {
    json(value, JsonStyle { indent: None, sort: false, ascii: true })
}

/// `json.dumps`.
pub(super) fn json(value: &Json, style: JsonStyle) -> String {
    let mut out = String::new();
    write_json(value, style, 0, &mut out);
    out
}

fn sorted(map: &Map<String, Json>, sort: bool) -> Vec<(&String, &Json)> {
    let mut entries: Vec<_> = map.iter().collect();
    if sort {
        entries.sort_by(|a, b| a.0.cmp(b.0));
    }
    entries
}

fn write_json(value: &Json, style: JsonStyle, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        if let Some(n) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    let comma = if style.indent.is_some() { "," } else { ", " };
    match value {
        Json::Array(a) if a.is_empty() => out.push_str("[]"),
        Json::Object(o) if o.is_empty() => out.push_str("{}"),
        Json::Array(a) => {
            out.push('[');
            for (i, item) in a.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(out, depth + 1);
                write_json(item, style, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(o) => {
            out.push('{');
            for (i, (k, item)) in sorted(o, style.sort).into_iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(out, depth + 1);
                write_string(k, style.ascii, out);
                out.push_str(": ");
                write_json(item, style, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        Json::String(s) => write_string(s, style.ascii, out),
        Json::Number(n) if n.is_f64() => out.push_str(&float_text(n.as_f64().unwrap_or(f64::NAN))),
        other => out.push_str(&other.to_string()),
    }
}

fn write_string(s: &str, ascii: bool, out: &mut String) {
    let quoted = Json::String(s.to_owned()).to_string();
    if !ascii {
        out.push_str(&quoted);
        return;
    }
    for c in quoted.chars() {
        if c.is_ascii() && c != '\x7f' {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}

/// How YAML is written.
#[derive(Clone, Copy)]
pub(super) struct YamlStyle {
    /// blanks for each level
    pub(super) indent: usize,
    /// never `[a, b]`, except where there is nothing in it
    pub(super) block: bool,
    pub(super) sort: bool,
}

/// `yaml.dump`, as PyYAML does it.
pub(super) fn yaml(value: &Json, style: YamlStyle) -> String {
    let mut out = String::new();
    match value {
        Json::Array(_) | Json::Object(_) if !is_flow(value, style) => block(value, style, 0, &mut out),
        Json::Array(_) | Json::Object(_) => {
            flow(value, style, &mut out);
            out.push('\n');
        }
        scalar => {
            out.push_str(&plain_scalar(scalar, 0));
            out.push_str(if matches!(scalar, Json::String(s) if plain_scalar(scalar, 0) != *s) { "\n" } else { "\n...\n" });
        }
    }
    out
}

/// Whether a list or map is written on one line.
fn is_flow(value: &Json, style: YamlStyle) -> bool {
    let leaf = |v: &Json| !matches!(v, Json::Array(_) | Json::Object(_));
    match value {
        Json::Array(a) => a.is_empty() || (!style.block && a.iter().all(leaf)),
        Json::Object(o) => o.is_empty() || (!style.block && o.values().all(leaf)),
        _ => true,
    }
}

fn flow(value: &Json, style: YamlStyle, out: &mut String) {
    match value {
        Json::Array(a) => {
            out.push('[');
            for (i, item) in a.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                flow(item, style, out);
            }
            out.push(']');
        }
        Json::Object(o) => {
            out.push('{');
            for (i, (k, item)) in sorted(o, style.sort).into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                let _ = write!(out, "{}: ", plain_scalar(&Json::String(k.clone()), 0));
                flow(item, style, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&plain_scalar(scalar, 0)),
    }
}

fn block(value: &Json, style: YamlStyle, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Json::Array(a) => {
            for item in a {
                // A list or map in a list begins behind the dash.
                let dash = format!("-{}", " ".repeat(style.indent.saturating_sub(1).max(1)));
                match item {
                    Json::Array(_) | Json::Object(_) if !is_flow(item, style) => {
                        let mut inner = String::new();
                        block(item, style, indent + style.indent, &mut inner);
                        let _ = write!(out, "{pad}{dash}{}", inner.trim_start_matches(' '));
                    }
                    Json::Array(_) | Json::Object(_) => {
                        let _ = write!(out, "{pad}- ");
                        flow(item, style, out);
                        out.push('\n');
                    }
                    scalar => {
                        let _ = writeln!(out, "{pad}- {}", plain_scalar(scalar, indent + style.indent));
                    }
                }
            }
        }
        Json::Object(o) => {
            for (k, item) in sorted(o, style.sort) {
                let _ = write!(out, "{pad}{}:", plain_scalar(&Json::String(k.clone()), 0));
                match item {
                    Json::Array(_) if !is_flow(item, style) => {
                        out.push('\n');
                        block(item, style, indent, out);
                    }
                    Json::Object(_) if !is_flow(item, style) => {
                        out.push('\n');
                        block(item, style, indent + style.indent, out);
                    }
                    Json::Array(_) | Json::Object(_) => {
                        out.push(' ');
                        flow(item, style, out);
                        out.push('\n');
                    }
                    scalar => {
                        let _ = writeln!(out, " {}", plain_scalar(scalar, indent + style.indent));
                    }
                }
            }
        }
        _ => {}
    }
}

/// A scalar of YAML 1.1 in one line, quoted where it would be read as something else.
fn plain_scalar(value: &Json, indent: usize) -> String {
    match value {
        Json::Null => "null".into(),
        Json::Bool(b) => b.to_string(),
        Json::Number(n) if n.is_f64() => float_text(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(s) => yaml_string(s, indent),
        other => other.to_string(),
    }
}

fn yaml_string(s: &str, indent: usize) -> String {
    let special = s.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{feff}');
    if special {
        let mut out = String::new();
        write_string(s, false, &mut out);
        return out;
    }
    if s.contains('\n') {
        let pad = " ".repeat(indent);
        let body = s.replace('\'', "''").replace('\n', &format!("\n\n{pad}"));
        return format!("'{body}'");
    }
    let first_bad = |c: char| "-?:,[]{}#&*!|>'\"%@`".contains(c);
    let begins_badly = s.starts_with(|c: char| first_bad(c))
        && !(s.starts_with(['-', '?', ':']) && s.chars().nth(1).is_some_and(|c| !c.is_whitespace() && s != "---"));
    let quoted = s.is_empty()
        || is_not_text(s)
        || begins_badly
        || s.contains(": ")
        || s.ends_with(':')
        || s.contains(" #")
        || s.starts_with(' ')
        || s.ends_with(' ')
        || s == "="
        || s.starts_with("...");
    if quoted { format!("'{}'", s.replace('\'', "''")) } else { s.to_owned() }
}
