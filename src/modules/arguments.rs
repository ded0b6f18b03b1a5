//! A module's arguments, taken one by one with their types; what is left over is unknown.

use septet_agent_protocol::Attributes;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result, nearest},
    yaml::{Node, NodeKind},
};

/// Arguments after rendering.
pub struct Arguments<'a> {
    module: &'a str,
    node: &'a Node,
    left: Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'a> Arguments<'a> {
    /// From a rendered object; the node is where they stand.
    pub fn new(module: &'a str, node: &'a Node, value: Value) -> Self {
        let left = match value {
            Value::Object(m) => m,
            _ => Map::new(),
        };
        Self { module, node, left, asked: Vec::new() }
    }

    /// An error at the arguments.
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.node.error(format!("{}: {}", self.module, message.into()))
    }

    fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        let at = match &self.node.kind {
            NodeKind::Map(m) => m.iter().find(|(k, _)| k.string().is_ok_and(|s| s == key)).map_or(self.node, |(_, v)| v),
            _ => self.node,
        };
        at.error(format!("{}: {}", self.module, message.into()))
    }

    /// Any value; null counts as missing.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.left.remove(key).filter(|v| !v.is_null())
    }

    /// A value under one of several names.
    pub fn any(&mut self, keys: &[&'static str]) -> Option<Value> {
        keys.iter().map(|k| self.take(k)).fold(None, Option::or)
    }

    /// Text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(v.to_string())),
            Some(_) => Err(self.error_at(key, format!("`{key}` must be a text"))),
        }
    }

    /// Text under one of several names, which must be there.
    pub fn need(&mut self, keys: &[&'static str]) -> Result<String> {
        let mut found = None;
        for k in keys {
            found = self.text(k)?.or(found);
        }
        found.ok_or_else(|| self.error(format!("`{}` is missing", keys[0])))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(Value::String(s)) if matches!(s.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1") => Ok(Some(true)),
            Some(Value::String(s)) if matches!(s.to_ascii_lowercase().as_str(), "no" | "false" | "off" | "0") => Ok(Some(false)),
            Some(_) => Err(self.error_at(key, format!("`{key}` must be true or false"))),
        }
    }

    /// A whole number in a range.
    pub fn number(&mut self, key: &'static str, min: i64, max: i64) -> Result<Option<i64>> {
        let n = match self.take(key) {
            None => return Ok(None),
            Some(Value::Number(n)) => n.as_i64(),
            Some(Value::String(s)) => s.trim().parse().ok(),
            Some(_) => None,
        };
        match n.filter(|n| (min..=max).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.error_at(key, format!("`{key}` must be a number from {min} to {max}"))),
        }
    }

    /// Texts: a list, or one text with commas.
    pub fn texts(&mut self, key: &'static str) -> Result<Vec<String>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::String(s)) => Ok(s.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()),
            Some(Value::Array(a)) => a
                .into_iter()
                .map(|v| match v {
                    Value::String(s) => Ok(s),
                    Value::Number(n) => Ok(n.to_string()),
                    _ => Err(self.error_at(key, format!("`{key}` must be a list of texts"))),
                })
                .collect(),
            Some(_) => Err(self.error_at(key, format!("`{key}` must be a list of texts"))),
        }
    }

    /// One of a few words.
    pub fn choice(&mut self, key: &'static str, of: &[&'static str], default: &'static str) -> Result<&'static str> {
        let Some(text) = self.text(key)? else {
            return Ok(default);
        };
        of.iter()
            .copied()
            .find(|o| *o == text)
            .ok_or_else(|| self.error_at(key, format!("`{key}` is one of {}, not `{text}`", of.join(", "))))
    }

    /// `owner`, `group` and `mode`.
    pub fn attributes(&mut self) -> Result<Attributes> {
        Ok(Attributes { owner: self.text("owner")?, group: self.text("group")?, mode: self.mode()? })
    }

    /// A mode as four octal digits. A bare number is refused: YAML reads 644 and 0644 differently.
    fn mode(&mut self) -> Result<Option<u32>> {
        let Some(v) = self.take("mode") else {
            return Ok(None);
        };
        let bad = |this: &Self, why: &str| this.error_at("mode", format!("`mode` {why}")).hint("write it in quotes, as \"0644\"");
        match v {
            Value::String(s) => match u32::from_str_radix(s.trim_start_matches("0o"), 8) {
                Ok(m) if m <= 0o7777 && !s.is_empty() => Ok(Some(m)),
                _ => Err(bad(self, &format!("`{s}` is not octal"))),
            },
            _ => Err(bad(self, "must be a text")),
        }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.left)
    }

    /// Complains about what was not asked for.
    pub fn finish(self) -> Result<()> {
        let Some((key, _)) = self.left.iter().next() else {
            return Ok(());
        };
        let at = match &self.node.kind {
            NodeKind::Map(m) => m.iter().map(|(k, _)| k).find(|k| k.string().is_ok_and(|s| s == *key)).unwrap_or(self.node),
            _ => self.node,
        };
        let e = at.error(format!("{}: `{key}` is not an argument", self.module));
        Err(match nearest(key, self.asked.iter().copied()) {
            Some(n) => e.hint(format!("did you mean `{n}`?")),
            None => e.hint(format!("arguments: {}", self.asked.join(", "))),
        })
    }
}
