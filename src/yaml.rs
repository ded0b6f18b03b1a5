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
    fn key_text(&self) -> String {
        match &self.kind {
            NodeKind::Scalar(Value::String(s)) => s.clone(),
            other => Self { kind: other.clone(), ..self.clone() }.value().to_string(),
        }
    }
    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.kind == NodeKind::Scalar(Value::Null)
    }
    /// Text, or an error that says what is expected.
    pub fn string(&self) -> Result<String> {
        match &self.kind {
            NodeKind::Scalar(Value::String(s)) => Ok(s.clone()),
            NodeKind::Scalar(v @ (Value::Number(_) | Value::Bool(_))) => Ok(v.to_string()),
            _ => Err(self.error("a text is expected here")),
        }
    }
    /// A boolean; `yes` and `no` are ones too, as in Ansible.
    pub fn boolean(&self) -> Result<bool> {
        match &self.kind {
            NodeKind::Scalar(Value::Bool(b)) => Ok(*b),
            NodeKind::Scalar(Value::String(s)) => match s.to_ascii_lowercase().as_str() {
                "yes" | "true" | "on" => Ok(true),
                "no" | "false" | "off" => Ok(false),
                _ => Err(self.error("true or false is expected here")),
            },
            _ => Err(self.error("true or false is expected here")),
        }
    }
    /// A whole number in a range.
    pub fn number(&self, min: i64, max: i64) -> Result<i64> {
        match &self.kind {
            NodeKind::Scalar(Value::Number(n)) => n.as_i64().filter(|n| (min..=max).contains(n)),
            _ => None,
        }
        .ok_or_else(|| self.error(format!("a number from {min} to {max} is expected here")))
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
            _ => Err(self.error("keys and values are expected here")),
        }
    }
    /// A map as data.
    pub fn object(&self) -> Result<Map<String, Value>> {
        match self.value() {
            Value::Object(m) => Ok(m),
            Value::Null => Ok(Map::new()),
            _ => Err(self.error("keys and values are expected here")),
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
    let e = at.error(format!("`{key}` is not known here"));
    match nearest(key, known.iter().copied()) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e.hint(format!("known here: {}", known.join(", "))),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(n) = text.parse::<i64>()
        && !text.starts_with('+')
        && (text == "0" || !text.trim_start_matches('-').starts_with('0'))
    {
        return n.into();
    }
    // Octal of YAML 1.1 and 1.2: modes such as 0644 keep their meaning only as texts, see `modules::mode`.
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
    if numeric
        && text.contains('.')
        && let Ok(f) = text.parse::<f64>()
        && let Some(n) = Number::from_f64(f)
    {
        return Value::Number(n);
    }
    Value::String(text.to_owned())
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
                (node(span, NodeKind::Scalar(scalar(&text, style))), 1, anchor)
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
                return Err(k.error("a key must be a plain text").hint("a value that begins with {{ needs quotes around it"));
            }
            NodeKind::List(_) => return Err(k.error("a key must be a plain text")),
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
