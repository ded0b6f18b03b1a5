//! Filters between values and their written forms: JSON, YAML, Base64, addresses of pages.

use base64::Engine as _;
use minijinja::{Environment, Error, Value, value::Kwargs};

use super::{
    super::{
        from_json as value_of,
        python::{self, JsonStyle, YamlStyle},
    },
    bad,
};

fn json_style(kw: &Kwargs, indent: Option<usize>, sort: bool) -> Result<JsonStyle, Error> {
    let indent = kw.get::<Option<usize>>("indent")?.or(indent);
    let sort = kw.get::<Option<bool>>("sort_keys")?.unwrap_or(sort);
    let ascii = kw.get::<Option<bool>>("ensure_ascii")?.unwrap_or(true);
    kw.assert_all_used()?;
    Ok(JsonStyle { indent: indent.map(|n| n.min(32)), sort, ascii })
}

fn to_json(value: &Value, kw: Kwargs) -> Result<String, Error> {
    Ok(python::json(&python::to_json(value)?, json_style(&kw, None, false)?))
}

fn to_nice_json(value: &Value, indent: Option<usize>, kw: Kwargs) -> Result<String, Error> {
    Ok(python::json(&python::to_json(value)?, json_style(&kw, Some(indent.unwrap_or(4)), true)?))
}

fn yaml_style(kw: &Kwargs, indent: usize, block: bool) -> Result<YamlStyle, Error> {
    let indent = kw.get::<Option<usize>>("indent")?.unwrap_or(indent).clamp(2, 9);
    let block = kw.get::<Option<bool>>("default_flow_style")?.map_or(block, |flow| !flow);
    let sort = kw.get::<Option<bool>>("sort_keys")?.unwrap_or(true);
    kw.get::<Option<usize>>("width")?;
    kw.assert_all_used()?;
    Ok(YamlStyle { indent, block, sort })
}

fn to_yaml(value: &Value, kw: Kwargs) -> Result<String, Error> {
    Ok(python::yaml(&python::to_json(value)?, yaml_style(&kw, 2, false)?))
}

fn to_nice_yaml(value: &Value, indent: Option<usize>, kw: Kwargs) -> Result<String, Error> {
    Ok(python::yaml(&python::to_json(value)?, yaml_style(&kw, indent.unwrap_or(4), true)?))
}

fn from_json(value: &Value) -> Result<Value, Error> {
    let text = value.as_str().ok_or_else(|| bad(format!("`from_json` needs a string, not {}", value.kind())))?;
    let json: serde_json::Value = serde_json::from_str(text).map_err(|e| bad(format!("`from_json`: {e}")))?;
    Ok(value_of(&json))
}

fn from_yaml(value: &Value) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return Ok(value.clone()) };
    let node =
        crate::yaml::parse(std::path::Path::new("from_yaml"), text.to_owned()).map_err(|e| bad(format!("`from_yaml`: {}", e.message)))?;
    Ok(value_of(&node.value()))
}

fn b64encode(value: &Value) -> Result<String, Error> {
    Ok(base64::engine::general_purpose::STANDARD.encode(python::str_of(value)))
}

fn b64decode(value: &Value) -> Result<String, Error> {
    let text = value.as_str().ok_or_else(|| bad(format!("`b64decode` needs a string, not {}", value.kind())))?;
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(bare).map_err(|e| bad(format!("`b64decode`: {e}")))?;
    String::from_utf8(bytes).map_err(|_| bad("`b64decode`: the bytes are not UTF-8"))
}

fn urlsplit(value: &Value, part: Option<String>) -> Result<Value, Error> {
    let text = value.as_str().ok_or_else(|| bad("`urlsplit` needs a string"))?;
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").map_or(("", rest), |(s, r)| (s, r));
    let (netloc, path) = if scheme.is_empty() { ("", rest) } else { rest.split_at(rest.find('/').unwrap_or(rest.len())) };
    let (user, host) = netloc.rsplit_once('@').map_or((None, netloc), |(u, h)| (Some(u), h));
    let (hostname, port) = match host.rsplit_once(':') {
        Some((h, p)) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => (h, p.parse::<u16>().ok()),
        _ => (host, None),
    };
    let (name, password) = user.map_or((None, None), |u| u.split_once(':').map_or((Some(u), None), |(n, p)| (Some(n), Some(p))));
    let all = [
        ("fragment", Value::from(fragment)),
        ("hostname", Value::from(hostname.to_lowercase())),
        ("netloc", Value::from(netloc)),
        ("password", Value::from(password)),
        ("path", Value::from(path)),
        ("port", Value::from(port)),
        ("query", Value::from(query)),
        ("scheme", Value::from(scheme)),
        ("username", Value::from(name)),
    ];
    match part {
        None => Ok(Value::from_pairs(all)),
        Some(p) => all.into_iter().find(|(k, _)| *k == p).map(|(_, v)| v).ok_or_else(|| bad(format!("`urlsplit`: unknown part `{p}`"))),
    }
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("to_json", to_json);
    env.add_filter("tojson", to_json);
    env.add_filter("to_nice_json", to_nice_json);
    env.add_filter("to_yaml", to_yaml);
    env.add_filter("to_nice_yaml", to_nice_yaml);
    env.add_filter("from_json", from_json);
    env.add_filter("from_yaml", from_yaml);
    env.add_filter("b64encode", b64encode);
    env.add_filter("b64decode", b64decode);
    env.add_filter("urlsplit", urlsplit);
}
