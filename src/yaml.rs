//! YAML with places: every node knows its line and column, so that every complaint can show them.
//!
//! Invariant: size, depth and the number of nodes after aliases are bounded; a duplicate key is an error.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Place, Result, nearest};

/// Largest file, in bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Nodes after aliases are followed.
const MAX_NODES: usize = 200_000;

/// A file's name and text.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// as the user knows it
    pub path: PathBuf,
    /// its text
    pub text: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// from 1
    pub line: usize,
    /// from 1
    pub column: usize,
    /// its file
    pub source: Arc<Source>,
    /// what it is
    pub kind: NodeKind,
}

/// Kinds of nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// null, boolean, number or string
    Scalar(Value),
    /// a list
    List(Vec<Node>),
    /// keys and values in order
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Where it is.
    pub fn place(&self) -> Place {
        place(&self.source, self.line, self.column)
    }
    /// An error at this node.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::invalid(message).at(self.place())
    }
    /// As plain data.
    pub fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar(v) => v.clone(),
            NodeKind::List(l) => l.iter().map(Node::value).collect(),
            NodeKind::Map(m) => Value::Object(m.iter().map(|(k, v)| (k.key_text(), v.value())).collect()),
        }
    }
    /// A key as text: `on` and `1.10` are what they look like.
    fn key_text(&self) -> String {
        match &self.kind {
            NodeKind::Scalar(Value::String(s)) => s.clone(),
            NodeKind::Scalar(Value::Bool(_) | Value::Number(_)) => self.written().unwrap_or_default().to_owned(),
            other => Self { kind: other.clone(), ..self.clone() }.value().to_string(),
        }
    }
    /// A plain scalar as it stands in the file; `None` for one in quotes, and for lists and maps.
    pub fn written(&self) -> Option<&str> {
        let line = self.source.text.lines().nth(self.line.checked_sub(1)?)?;
        let from = line.char_indices().nth(self.column.checked_sub(1)?)?.0;
        let rest = &line[from..];
        let end = rest.find(|c: char| c.is_whitespace() || ",]}".contains(c)).unwrap_or(rest.len());
        let word = rest[..end].strip_suffix(':').unwrap_or(&rest[..end]);
        (!word.is_empty() && !word.starts_with(['"', '\'', '{', '[', '&', '*', '|', '>'])).then_some(word)
    }
    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.kind == NodeKind::Scalar(Value::Null)
    }
    /// Text, or an error with what is expected.
    pub fn string(&self) -> Result<String> {
        match &self.kind {
            NodeKind::Scalar(Value::String(s)) => Ok(s.clone()),
            NodeKind::Scalar(Value::Bool(b)) => Ok(if *b { "True" } else { "False" }.to_owned()),
            NodeKind::Scalar(Value::Number(n)) => Ok(match n.as_f64().filter(|_| n.is_f64()) {
                Some(f) => float_text(f),
                None => n.to_string(),
            }),
            _ => Err(self.error("expected a string")),
        }
    }
    /// Text that YAML does not read as something else: `no`, `12:30` and `3.10` need quotes to stay as they are.
    pub fn as_written(&self) -> Result<String> {
        let text = self.string()?;
        let is = match &self.kind {
            NodeKind::Scalar(Value::Bool(_)) => "a boolean",
            NodeKind::Scalar(Value::Number(_)) => "a number",
            _ => return Ok(text),
        };
        match self.written() {
            Some(written) if written != text => {
                Err(self.error(format!("`{written}` is {is} in YAML ({text})")).hint(format!("write it in quotes: \"{written}\"")))
            }
            _ => Ok(text),
        }
    }
    /// A boolean; `yes` and `no` are ones too, as in Ansible.
    pub fn boolean(&self) -> Result<bool> {
        match &self.kind {
            NodeKind::Scalar(Value::Bool(b)) => Ok(*b),
            NodeKind::Scalar(Value::String(s)) => match s.to_ascii_lowercase().as_str() {
                "yes" | "true" | "on" => Ok(true),
                "no" | "false" | "off" => Ok(false),
                _ => Err(self.error("expected true or false")),
            },
            _ => Err(self.error("expected true or false")),
        }
    }
    /// A whole number in a range.
    pub fn number(&self, min: i64, max: i64) -> Result<i64> {
        match &self.kind {
            NodeKind::Scalar(Value::Number(n)) => n.as_i64().filter(|n| (min..=max).contains(n)),
            _ => None,
        }
        .ok_or_else(|| self.error(format!("expected a number from {min} to {max}")))
    }
    /// A list; a single scalar counts as a list of one.
    pub fn list(&self) -> Vec<&Node> {
        match &self.kind {
            NodeKind::List(l) => l.iter().collect(),
            NodeKind::Scalar(Value::Null) => Vec::new(),
            _ => vec![self],
        }
    }
    /// The fields of a map.
    pub fn fields(&self) -> Result<Fields<'_>> {
        match &self.kind {
            NodeKind::Map(m) => Ok(Fields { node: self, left: m.iter().collect(), asked: Vec::new() }),
            NodeKind::Scalar(Value::Null) => Ok(Fields { node: self, left: Vec::new(), asked: Vec::new() }),
            _ => Err(self.error("expected a mapping")),
        }
    }
    /// A map as data.
    pub fn object(&self) -> Result<Map<String, Value>> {
        match self.value() {
            Value::Object(m) => Ok(m),
            Value::Null => Ok(Map::new()),
            _ => Err(self.error("expected a mapping")),
        }
    }
}

/// Place of a line and column in a source.
pub fn place(source: &Source, line: usize, column: usize) -> Place {
    let text = source.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    Place { file: source.path.clone(), line, column, text }
}

/// Takes the fields of a map one by one; what is left is unknown.
pub struct Fields<'a> {
    node: &'a Node,
    left: Vec<&'a (Node, Node)>,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// A field that may be missing.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        let i = self.left.iter().position(|(k, _)| k.key_text() == key)?;
        Some(&self.left.remove(i).1)
    }
    /// A field that must be there.
    pub fn need(&mut self, key: &'static str) -> Result<&'a Node> {
        let node = self.node;
        if let Some(found) = self.take(key) {
            return Ok(found);
        }
        // A key with nearly this name is what was meant.
        let close = self.left.iter().find(|(k, _)| nearest(&k.key_text(), [key]).is_some());
        Err(match close {
            Some((k, _)) => unknown(k, &k.key_text(), &[key]),
            None => node.error(format!("`{key}` is missing here")),
        })
    }
    /// The keys that were asked for.
    pub fn known(&self) -> Vec<&'static str> {
        self.asked.clone()
    }
    /// Takes whatever is left.
    pub fn rest(&mut self) -> Vec<(String, &'a Node, &'a Node)> {
        std::mem::take(&mut self.left).into_iter().map(|(k, v)| (k.key_text(), k, v)).collect()
    }
    /// Complains about what was not asked for.
    pub fn finish(self) -> Result<()> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(unknown(key, &key.key_text(), &self.asked)),
        }
    }
}

/// An unknown key, with the nearest known one.
pub fn unknown(at: &Node, key: &str, known: &[&str]) -> Error {
    let e = at.error(format!("unknown key `{key}`"));
    match nearest(key, known.iter().copied()) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e.hint(format!("known keys: {}", known.join(", "))),
    }
}

/// `repr()` of a float: the shortest digits that give it back, with an exponent where Python has one.
pub fn float_text(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if f != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{f}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A plain scalar as YAML 1.1 reads it, as Ansible does: `yes` is true, 0755 is octal, 12:30 is 750.
fn scalar(text: &str, style: ScalarStyle) -> std::result::Result<Value, &'static str> {
    if style != ScalarStyle::Plain {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => match number(text) {
            Some(Ok(n)) => Value::Number(n),
            Some(Err(why)) => return Err(why),
            None if is_timestamp(text) => return Err("a time stamp has no type here; put it in quotes"),
            None => Value::String(text.to_owned()),
        },
    })
}

/// Whether a plain scalar would be read as anything but a string.
pub fn is_not_text(text: &str) -> bool {
    let date = text.len() == 10 && text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    date || !matches!(scalar(text, ScalarStyle::Plain), Ok(Value::String(_)))
}

/// A number of YAML 1.1, if it is one.
fn number(text: &str) -> Option<std::result::Result<Number, &'static str>> {
    const TOO_LARGE: &str = "the number is too large; put it in quotes to have it as a string";
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(Err("infinite numbers and .nan are not supported; put it in quotes to have it as a string"));
    }
    let of = |set: fn(&u8) -> bool, s: &str| !s.is_empty() && s.bytes().all(|b| set(&b) || b == b'_');
    let bare: String = digits.chars().filter(|c| *c != '_').collect();
    let whole = |base: u32, digits: &str| {
        let n = i64::from_str_radix(digits, base).map_err(|_| TOO_LARGE);
        Some(n.map(|n| Number::from(if negative { -n } else { n })))
    };
    if let Some(hex) = bare.strip_prefix("0x").filter(|h| of(u8::is_ascii_hexdigit, h)) {
        return whole(16, hex);
    }
    if let Some(bits) = bare.strip_prefix("0b").filter(|h| of(|b| matches!(b, b'0' | b'1'), h)) {
        return whole(2, bits);
    }
    let first = digits.bytes().next()?;
    if of(u8::is_ascii_digit, digits) && first.is_ascii_digit() {
        if bare.len() > 1 && first == b'0' {
            return if bare.bytes().all(|b| b < b'8') { whole(8, &bare) } else { None };
        }
        if bare.len() > 18
            && !negative
            && let Ok(n) = bare.parse::<u64>()
        {
            return Some(Ok(n.into()));
        }
        return whole(10, &bare);
    }
    // To the base of 60: hours and minutes, as YAML 1.1 has it.
    let mut parts = digits.split(':');
    let head = parts.next().unwrap_or_default();
    let sixty = |p: &str| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u8>().is_ok_and(|n| n < 60);
    if digits.contains(':') && of(u8::is_ascii_digit, head) && (b'1'..=b'9').contains(&first) && parts.clone().all(sixty) {
        let mut n: i64 = head.replace('_', "").parse().ok()?;
        for p in parts {
            n = n.checked_mul(60)?.checked_add(p.parse().ok()?)?;
        }
        return Some(Ok((if negative { -n } else { n }).into()));
    }
    float(digits).map(|f| Number::from_f64(if negative { -f } else { f }).ok_or(TOO_LARGE))
}

/// Digits around a point, with an exponent that has a sign.
fn float(digits: &str) -> Option<f64> {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).filter(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit()))?)),
        None => (digits, None),
    };
    let (whole, part) = mantissa.split_once('.')?;
    let digits_of = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let begins =
        if whole.is_empty() { part.starts_with(|c: char| c.is_ascii_digit()) } else { whole.starts_with(|c: char| c.is_ascii_digit()) };
    if !begins || !digits_of(whole) || !digits_of(part) || exponent.is_some_and(|e| e.len() > 4) {
        return None;
    }
    digits.replace('_', "").parse().ok()
}

/// A date with a time, which YAML 1.1 makes a value of its own; a date alone keeps its text.
fn is_timestamp(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let digits = |s: &str, max: usize| !s.is_empty() && s.len() <= max && s.bytes().all(|b| b.is_ascii_digit());
    let Some((day, time)) = rest.split_once(['T', 't', ' ']) else { return false };
    let mut clock = time.trim_start().splitn(3, ':');
    year.len() == 4
        && digits(year, 4)
        && digits(month, 2)
        && digits(day, 2)
        && digits(clock.next().unwrap_or_default(), 2)
        && digits(clock.next().unwrap_or_default(), 2)
        && clock.next().is_some_and(|s| s.starts_with(|c: char| c.is_ascii_digit()))
}

struct Frame {
    map: bool,
    anchor: usize,
    span: Span,
    items: Vec<Node>,
    count: usize,
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Node> {
    let size = std::fs::metadata(path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?.len();
    if size > MAX_BYTES as u64 {
        return Err(Error::invalid(format!("{}: {size} bytes are over the limit of {MAX_BYTES}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    parse(path, text)
}

/// Parses one document.
pub fn parse(path: &Path, text: String) -> Result<Node> {
    if text.len() > MAX_BYTES {
        return Err(Error::invalid(format!("{}: {} bytes are over the limit of {MAX_BYTES}", path.display(), text.len())));
    }
    let source = Arc::new(Source { path: path.to_owned(), text });
    let node = |span: Span, kind| Node { line: span.start.line(), column: span.start.col() + 1, source: source.clone(), kind };
    let fail = |span: Span, message: String| Error::invalid(message).at(place(&source, span.start.line(), span.start.col() + 1));
    let mut stack: Vec<Frame> = Vec::new();
    let mut anchors: HashMap<usize, (Node, usize)> = HashMap::new();
    let mut root: Option<Node> = None;
    let (mut total, mut documents) = (0usize, 0);
    for item in Parser::new_from_str(&source.text) {
        let (event, span) = item.map_err(|e| {
            let m = e.marker();
            Error::invalid(format!("not valid YAML: {}", e.info())).at(place(&source, m.line(), m.col() + 1))
        })?;
        let (made, count, anchor) = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(fail(span, "a second document: only one is expected".into()));
                }
                continue;
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                if stack.len() >= MAX_DEPTH {
                    return Err(fail(span, format!("nested deeper than {MAX_DEPTH}")));
                }
                stack.push(Frame { map: matches!(event, Event::MappingStart(..)), anchor, span, items: Vec::new(), count: 0 });
                continue;
            }
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(tag) = tag.filter(|t| t.handle.starts_with('!')) {
                    return Err(fail(span, format!("tag {}{} is not supported", tag.handle, tag.suffix)));
                }
                total += 1;
                let value = scalar(&text, style).map_err(|why| fail(span, format!("`{text}`: {why}")))?;
                (node(span, NodeKind::Scalar(value)), 1, anchor)
            }
            Event::Alias(id) => {
                let (aliased, count) = anchors.get(&id).ok_or_else(|| fail(span, "an alias inside of what it names".into()))?;
                total += count;
                let copy = Node { line: span.start.line(), column: span.start.col() + 1, ..aliased.clone() };
                if total > MAX_NODES {
                    return Err(fail(span, format!("more than {MAX_NODES} nodes once its aliases are followed")));
                }
                (copy, *count, 0)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                total += 1;
                let Some(f) = stack.pop() else { continue };
                let kind = if f.map { NodeKind::Map(pairs(f.items)?) } else { NodeKind::List(f.items) };
                (node(f.span, kind), f.count + 1, f.anchor)
            }
        };
        if anchor != 0 {
            // The copy that is kept counts too: anchors may lie inside of one another.
            total += count;
        }
        if total > MAX_NODES {
            return Err(fail(span, format!("more than {MAX_NODES} nodes")));
        }
        if anchor != 0 {
            anchors.insert(anchor, (made.clone(), count));
        }
        match stack.last_mut() {
            Some(f) => {
                f.count += count;
                f.items.push(made);
            }
            None => root = Some(made),
        }
    }
    Ok(root.unwrap_or_else(|| Node { line: 1, column: 1, source: source.clone(), kind: NodeKind::Scalar(Value::Null) }))
}

fn pairs(items: Vec<Node>) -> Result<Vec<(Node, Node)>> {
    let mut out: Vec<(Node, Node)> = Vec::with_capacity(items.len() / 2);
    let mut merged: Vec<(Node, Node)> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut items = items.into_iter();
    while let (Some(k), Some(v)) = (items.next(), items.next()) {
        let key = match &k.kind {
            NodeKind::Scalar(_) => k.key_text(),
            // What `a: {{ b }}` is to YAML.
            NodeKind::Map(_) => {
                return Err(k.error("a key must be a plain string").hint("a value that begins with {{ needs quotes around it"));
            }
            NodeKind::List(_) => return Err(k.error("a key must be a plain string")),
        };
        if key == "<<" {
            for from in v.list() {
                match &from.kind {
                    NodeKind::Map(m) => merged.extend(m.iter().cloned()),
                    _ => return Err(v.error("`<<` needs keys and values to merge")),
                }
            }
            continue;
        }
        if !seen.insert(key.clone()) {
            return Err(k.error(format!("`{key}` is given twice")).hint("keep one of them"));
        }
        out.push((k, v));
    }
    for (k, v) in merged {
        if seen.insert(k.key_text()) {
            out.push((k, v));
        }
    }
    Ok(out)
}
