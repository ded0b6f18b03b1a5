//! Filters about texts, numbers and paths.

use std::{borrow::Cow, path::Path};

use minijinja::{
    Environment, Error, State, Value,
    value::{Kwargs, Rest, ValueKind},
};
use sha2::Digest as _;

use super::{super::python, bad, items, undefined};

fn text(value: &Value, _: &str) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    Ok(python::str_of(value))
}

/// An attribute or item; of what is not defined none is, either. It stands for `.` and `[]` before `default` and `is defined`.
fn get(value: Value, key: Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Ok(Value::UNDEFINED);
    }
    // An item that is not there is not defined, whatever it is asked of.
    match value.get_item(&key) {
        Ok(v) => super::valid(v),
        Err(_) => Ok(Value::UNDEFINED),
    }
}

/// `default`: with `true` behind it also for what is empty or false.
fn default(value: Value, args: Rest<Value>, kw: Kwargs) -> Result<Value, Error> {
    if kw.has("value") {
        return Err(bad("`default(value=…)` is not Jinja2; write `default(…)`"));
    }
    let other = match args.first() {
        Some(v) => v.clone(),
        None => kw.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = match args.get(1) {
        Some(v) => v.is_true(),
        None => kw.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kw.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value })
}

fn mandatory(value: Value, msg: Option<String>) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(bad(msg.unwrap_or_else(|| "a mandatory variable is not defined".into())));
    }
    Ok(value)
}

/// `bool`, with the words that Ansible knows; other words are an error, so that none is silently false.
fn boolean(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    if value.is_none() || value.kind() == ValueKind::Bool {
        return Ok(value.clone());
    }
    match python::str_of(value).to_lowercase().as_str() {
        "yes" | "on" | "1" | "true" | "t" | "y" | "1.0" => Ok(true.into()),
        "no" | "off" | "0" | "false" | "f" | "n" | "0.0" => Ok(false.into()),
        other => Err(bad(format!("`{other}` is neither true nor false"))),
    }
}

fn int(value: &Value, args: Rest<Value>, kw: Kwargs) -> Result<Value, Error> {
    let fallback = args.first().cloned().or(kw.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0));
    let base = args.get(1).cloned().or(kw.get::<Option<Value>>("base")?).and_then(|b| b.as_i64()).unwrap_or(10);
    kw.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined(value));
    }
    let Some(s) = value.as_str() else {
        return Ok(match value.kind() {
            ValueKind::Bool => Value::from(i64::from(value.is_true())),
            ValueKind::Number if value.is_integer() => value.clone(),
            ValueKind::Number => Value::from(f64::try_from(value.clone())?.trunc() as i64),
            _ => fallback,
        });
    };
    let s = s.trim().replace('_', "");
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = s.strip_prefix(prefix).unwrap_or(&s);
    let base = u32::try_from(base).ok().filter(|b| (2..=36).contains(b)).ok_or_else(|| bad("`int`: the base is 2 to 36"))?;
    Ok(match (i64::from_str_radix(digits, base), s.parse::<f64>()) {
        (Ok(n), _) => Value::from(n),
        (_, Ok(f)) if base == 10 && f.is_finite() => Value::from(f.trunc() as i64),
        _ => fallback,
    })
}

fn float(value: &Value, fallback: Option<Value>, kw: Kwargs) -> Result<Value, Error> {
    let fallback = fallback.or(kw.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0.0));
    kw.assert_all_used()?;
    let s = text(value, "float")?;
    Ok(match (value.kind(), s.trim().parse::<f64>()) {
        (ValueKind::Bool, _) => Value::from(if value.is_true() { 1.0 } else { 0.0 }),
        (_, Ok(f)) => Value::from(f),
        _ => fallback,
    })
}

fn string(value: &Value) -> Result<String, Error> {
    text(value, "string")
}

fn join(value: &Value, args: Rest<Value>, kw: Kwargs) -> Result<String, Error> {
    let separator = args.first().cloned().or(kw.get::<Option<Value>>("d")?).map(|v| python::str_of(&v)).unwrap_or_default();
    let attribute = args.get(1).cloned().or(kw.get::<Option<Value>>("attribute")?);
    kw.assert_all_used()?;
    if let Some(s) = value.as_str() {
        return Ok(s.chars().map(String::from).collect::<Vec<_>>().join(&separator));
    }
    let mut out = Vec::new();
    for item in items(value, "join")? {
        let item = match &attribute {
            Some(a) => item.get_item(a)?,
            None => item,
        };
        out.push(text(&item, "join")?);
    }
    Ok(out.join(&separator))
}

fn lower(value: &Value) -> Result<String, Error> {
    Ok(text(value, "lower")?.to_lowercase())
}

fn upper(value: &Value) -> Result<String, Error> {
    Ok(text(value, "upper")?.to_uppercase())
}

fn capitalize(value: &Value) -> Result<String, Error> {
    let s = text(value, "capitalize")?;
    let mut chars = s.chars();
    Ok(chars.next().map(|c| c.to_uppercase().to_string() + &chars.as_str().to_lowercase()).unwrap_or_default())
}

fn title(value: &Value) -> Result<String, Error> {
    let mut begins = true;
    let each = |c: char| {
        let out = if begins { c.to_uppercase().to_string() } else { c.to_lowercase().to_string() };
        begins = c.is_whitespace() || "-({[<".contains(c);
        out
    };
    Ok(text(value, "title")?.chars().map(each).collect())
}

fn replace(value: &Value, from: &Value, to: &Value, count: Option<i64>, kw: Kwargs) -> Result<String, Error> {
    let count = count.or(kw.get::<Option<i64>>("count")?);
    kw.assert_all_used()?;
    let (s, from, to) = (text(value, "replace")?, text(from, "replace")?, text(to, "replace")?);
    Ok(match count.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => s.replacen(&from, &to, n),
        None => s.replace(&from, &to),
    })
}

fn trim(value: &Value, chars: Option<Cow<'_, str>>) -> Result<String, Error> {
    let s = text(value, "trim")?;
    Ok(match chars {
        Some(set) => s.trim_matches(|c| set.contains(c)).to_owned(),
        None => s.trim().to_owned(),
    })
}

fn split(value: &Value, separator: Option<Cow<'_, str>>, max: Option<i64>, kw: Kwargs) -> Result<Vec<String>, Error> {
    let max = max.or(kw.get::<Option<i64>>("maxsplit")?).unwrap_or(-1);
    kw.assert_all_used()?;
    let s = text(value, "split")?;
    let limit = usize::try_from(max).map_or(usize::MAX, |n| n + 1);
    Ok(match separator {
        Some(sep) if sep.is_empty() => return Err(bad("`split`: the separator is empty")),
        Some(sep) => s.splitn(limit, sep.as_ref()).map(str::to_owned).collect(),
        None if limit == usize::MAX => s.split_whitespace().map(str::to_owned).collect(),
        None => {
            let mut out = Vec::new();
            let mut rest = s.trim_start();
            while out.len() + 1 < limit && !rest.is_empty() {
                let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                out.push(word.to_owned());
                rest = behind.trim_start();
            }
            out.extend(Some(rest.trim_end().to_owned()).filter(|r| !r.is_empty()));
            out
        }
    })
}

/// `indent`: by blanks or a text; not the first line, and not empty ones, unless they are asked for.
fn indent(value: &Value, args: Rest<Value>, kw: Kwargs) -> Result<String, Error> {
    let get = |i: usize, key: &str| -> Result<Option<Value>, Error> {
        Ok(match args.get(i) {
            Some(v) => Some(v.clone()),
            None => kw.get::<Option<Value>>(key)?,
        })
    };
    let (width, first, blank) = (get(0, "width")?, get(1, "first")?, get(2, "blank")?);
    kw.assert_all_used()?;
    let pad = match &width {
        None => "    ".to_owned(),
        Some(w) => match w.as_str() {
            Some(s) => s.to_owned(),
            None => " ".repeat(w.as_usize().filter(|n| *n <= 1000).ok_or_else(|| bad("`indent`: the width is 0 to 1000"))?),
        },
    };
    let truth = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let (first, blank) = (truth(first), truth(blank));
    let s = text(value, "indent")?;
    let lines = s.split('\n').enumerate().map(|(i, line)| {
        let pads = (i > 0 || first) && (blank || !line.is_empty() || (i == 0 && first));
        if pads { format!("{pad}{line}") } else { line.to_owned() }
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn comment(value: &Value, style: Option<String>, kw: Kwargs) -> Result<String, Error> {
    let style = style.or(kw.get::<Option<String>>("style")?).unwrap_or_else(|| "plain".into());
    let (begin, mut decoration, end) = match style.as_str() {
        "plain" => ("", "# ".to_owned(), ""),
        "erlang" => ("", "% ".to_owned(), ""),
        "c" => ("", "// ".to_owned(), ""),
        "cblock" => ("/*", " * ".to_owned(), " */"),
        "xml" => ("<!--", " - ".to_owned(), "-->"),
        other => return Err(bad(format!("`comment`: unknown style `{other}`: plain, erlang, c, cblock, xml"))),
    };
    if let Some(given) = kw.get::<Option<String>>("decoration")? {
        decoration = given;
    }
    kw.assert_all_used()?;
    let s = text(value, "comment")?;
    let bare = decoration.trim_end().to_owned();
    let body: Vec<String> = s.split('\n').map(|l| format!("{decoration}{l}").trim_end().to_owned()).collect();
    let head = if begin.is_empty() { String::new() } else { format!("{begin}\n") };
    let tail = if end.is_empty() { String::new() } else { format!("\n{end}") };
    Ok(format!("{head}{bare}\n{}\n{bare}{tail}", body.join("\n")))
}

/// `shlex.quote`.
fn quote(value: &Value) -> Result<String, Error> {
    let s = if value.is_none() { String::new() } else { text(value, "quote")? };
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    Ok(if !s.is_empty() && s.chars().all(plain) { s } else { format!("'{}'", s.replace('\'', "'\"'\"'")) })
}

fn hash(value: &Value, kind: Option<String>) -> Result<String, Error> {
    let s = text(value, "hash")?;
    Ok(match kind.as_deref().unwrap_or("sha1") {
        "sha1" => hex::encode(sha1::Sha1::digest(s.as_bytes())),
        "md5" => hex::encode(md5::Md5::digest(s.as_bytes())),
        "sha224" => hex::encode(sha2::Sha224::digest(s.as_bytes())),
        "sha256" => hex::encode(sha2::Sha256::digest(s.as_bytes())),
        "sha384" => hex::encode(sha2::Sha384::digest(s.as_bytes())),
        "sha512" => hex::encode(sha2::Sha512::digest(s.as_bytes())),
        other => return Err(bad(format!("`hash`: unknown algorithm `{other}`: md5, sha1, sha224, sha256, sha384, sha512"))),
    })
}

fn sha1(value: &Value) -> Result<String, Error> {
    hash(value, None)
}

fn md5(value: &Value) -> Result<String, Error> {
    hash(value, Some("md5".into()))
}

fn basename(value: &Value) -> Result<String, Error> {
    let s = text(value, "basename")?;
    Ok(s.rsplit('/').next().unwrap_or_default().to_owned())
}

fn dirname(value: &Value) -> Result<String, Error> {
    let s = text(value, "dirname")?;
    let head = s.rfind('/').map_or("", |i| &s[..=i]);
    let bare = head.trim_end_matches('/');
    Ok(if bare.is_empty() { head.to_owned() } else { bare.to_owned() })
}

fn splitext(value: &Value) -> Result<Value, Error> {
    let s = text(value, "splitext")?;
    let name = s.rfind('/').map_or(0, |i| i + 1);
    let stem = s[name..].trim_start_matches('.');
    let cut = stem.rfind('.').map_or(s.len(), |i| s.len() - stem.len() + i);
    Ok(Value::from(minijinja::value::Tuple::from([Value::from(&s[..cut]), Value::from(&s[cut..])])))
}

fn path_join(value: &Value) -> Result<String, Error> {
    if let Some(s) = value.as_str() {
        return Ok(s.to_owned());
    }
    let mut path = std::path::PathBuf::new();
    for part in items(value, "path_join")? {
        path.push(text(&part, "path_join")?);
    }
    Ok(path.display().to_string())
}

/// Of the machine that Septet runs on, as in Ansible.
fn realpath(value: &Value) -> Result<String, Error> {
    let s = text(value, "realpath")?;
    let full = std::path::absolute(Path::new(&s)).map_err(|e| bad(e.to_string()))?;
    Ok(std::fs::canonicalize(&full).unwrap_or(full).display().to_string())
}

fn expanduser(value: &Value) -> Result<String, Error> {
    let s = text(value, "expanduser")?;
    let home = std::env::var("HOME").unwrap_or_default();
    Ok(match s.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => s,
    })
}

fn relpath(value: &Value, start: Option<String>) -> Result<String, Error> {
    let of = |s: &str| std::path::absolute(s).map_err(|e| bad(e.to_string()));
    let (path, start) = (of(&text(value, "relpath")?)?, of(&start.unwrap_or_else(|| ".".into()))?);
    let common = path.components().zip(start.components()).take_while(|(a, b)| a == b).count();
    let up = start.components().skip(common).map(|_| "..".to_owned());
    let down = path.components().skip(common).map(|c| c.as_os_str().to_string_lossy().into_owned());
    let all: Vec<String> = up.chain(down).collect();
    Ok(if all.is_empty() { ".".into() } else { all.join("/") })
}

fn type_debug(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "AnsibleUndefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map => "dict",
        _ if value.is_tuple() => "tuple",
        _ => "list",
    }
}

/// What Ansible's `human_to_bytes` and `human_readable` call the powers of 1024.
const UNITS: [(&str, u32); 8] = [("Y", 80), ("Z", 70), ("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];

fn human_to_bytes(value: &Value) -> Result<i64, Error> {
    let s = text(value, "human_to_bytes")?;
    let wrong = || bad(format!("`human_to_bytes`: `{s}` is not a size such as 10M"));
    let split = s.trim().find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(s.trim().len());
    let number: f64 = s.trim()[..split].parse().map_err(|_| wrong())?;
    let unit = s.trim()[split..].trim().to_uppercase();
    let bare = unit.trim_end_matches('B').trim_end_matches("YTES");
    let power = if bare.is_empty() { 0 } else { UNITS.iter().find(|(u, _)| *u == bare).ok_or_else(wrong)?.1 };
    Ok((number * 2f64.powi(power as i32)).round() as i64)
}

fn human_readable(value: f64) -> String {
    let (unit, power) = UNITS.iter().copied().find(|(_, p)| value >= 2f64.powi(*p as i32)).unwrap_or(("", 0));
    let suffix = if unit.is_empty() { "Bytes".to_owned() } else { format!("{unit}B") };
    format!("{:.2} {suffix}", value / 2f64.powi(power as i32))
}

/// The engine's own for shipped playbooks: a part of a number within limits, `memory | share(of=2, least=256, most=1024)`.
fn share(value: i64, kw: Kwargs) -> Result<i64, Error> {
    let of = kw.get::<Option<i64>>("of")?.unwrap_or(1).max(1);
    let (least, most) = (kw.get::<Option<i64>>("least")?.unwrap_or(0), kw.get::<Option<i64>>("most")?.unwrap_or(i64::MAX));
    kw.assert_all_used()?;
    Ok((value / of).min(most).max(least))
}

fn pad(value: i64, width: Option<usize>, kw: Kwargs) -> Result<String, Error> {
    let width = width.or(kw.get::<Option<usize>>("width")?).unwrap_or(2).min(32);
    kw.assert_all_used()?;
    Ok(format!("{value:0width$}"))
}

fn to_uuid(value: &Value, namespace: Option<String>) -> Result<String, Error> {
    // Ansible's own namespace.
    let space = namespace.unwrap_or_else(|| "361e6d51-faec-444a-9079-341386da8e2e".into());
    let space = uuid::Uuid::parse_str(&space).map_err(|e| bad(format!("`to_uuid`: {e}")))?;
    let mut h = sha1::Sha1::new();
    h.update(space.as_bytes());
    h.update(text(value, "to_uuid")?.as_bytes());
    let digest = h.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(uuid::Uuid::from_bytes(bytes).to_string())
}

fn ternary(value: &Value, yes: Value, no: Value, none: Option<Value>) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined(value));
    }
    Ok(match none {
        Some(n) if value.is_none() => n,
        _ if value.is_true() => yes,
        _ => no,
    })
}

fn expandvars(value: &Value) -> Result<String, Error> {
    let s = text(value, "expandvars")?;
    let mut out = String::new();
    let mut rest = s.as_str();
    while let Some(i) = rest.find('$') {
        out.push_str(&rest[..i]);
        let behind = &rest[i + 1..];
        let (name, after) = match behind.strip_prefix('{').and_then(|b| b.split_once('}')) {
            Some((n, a)) => (n, a),
            None => behind.split_at(behind.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(behind.len())),
        };
        match std::env::var(name) {
            Ok(v) => out.push_str(&v),
            Err(_) => out.push_str(&rest[i..rest.len() - after.len()]),
        }
        rest = after;
    }
    Ok(out + rest)
}

fn pow(value: f64, exponent: f64) -> f64 {
    value.powf(exponent)
}

fn root(value: f64, base: Option<f64>) -> f64 {
    value.powf(1.0 / base.unwrap_or(2.0))
}

fn wordcount(_: &State, value: &Value) -> Result<usize, Error> {
    Ok(text(value, "wordcount")?.split_whitespace().count())
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("septet_get", get);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("mandatory", mandatory);
    env.add_filter("bool", boolean);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("string", string);
    env.add_filter("join", join);
    env.add_filter("lower", lower);
    env.add_filter("upper", upper);
    env.add_filter("capitalize", capitalize);
    env.add_filter("title", title);
    env.add_filter("replace", replace);
    env.add_filter("trim", trim);
    env.add_filter("split", split);
    env.add_filter("indent", indent);
    env.add_filter("comment", comment);
    env.add_filter("quote", quote);
    env.add_filter("hash", hash);
    env.add_filter("checksum", sha1);
    env.add_filter("sha1", sha1);
    env.add_filter("md5", md5);
    env.add_filter("basename", basename);
    env.add_filter("dirname", dirname);
    env.add_filter("splitext", splitext);
    env.add_filter("path_join", path_join);
    env.add_filter("realpath", realpath);
    env.add_filter("relpath", relpath);
    env.add_filter("expanduser", expanduser);
    env.add_filter("expandvars", expandvars);
    env.add_filter("type_debug", type_debug);
    env.add_filter("human_to_bytes", human_to_bytes);
    env.add_filter("human_readable", human_readable);
    env.add_filter("share", share);
    env.add_filter("pad", pad);
    env.add_filter("to_uuid", to_uuid);
    env.add_filter("ternary", ternary);
    env.add_filter("pow", pow);
    env.add_filter("root", root);
    env.add_filter("wordcount", wordcount);
}
