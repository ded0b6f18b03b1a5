//! A module's arguments, taken one by one with their types; what is left over is unknown.

use septet_agent_protocol::{Attributes, ModeChange};
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
        self.value_node(key).unwrap_or(self.node).error(format!("{}: {}", self.module, message.into()))
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
            Some(v @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(crate::template::text_of(&v))),
            Some(_) => Err(self.error_at(key, format!("`{key}`: expected a string"))),
        }
    }

    /// Text under one of several names, which must be there.
    pub fn need(&mut self, keys: &[&'static str]) -> Result<String> {
        let mut found = None;
        for k in keys {
            found = self.text(k)?.or(found);
        }
        found.ok_or_else(|| self.error(format!("missing argument `{}`", keys[0])))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(Value::String(s)) if matches!(s.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1") => Ok(Some(true)),
            Some(Value::String(s)) if matches!(s.to_ascii_lowercase().as_str(), "no" | "false" | "off" | "0") => Ok(Some(false)),
            Some(Value::Number(n)) if n.as_i64() == Some(1) => Ok(Some(true)),
            Some(Value::Number(n)) if n.as_i64() == Some(0) => Ok(Some(false)),
            Some(_) => Err(self.error_at(key, format!("`{key}`: expected true or false"))),
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
            None => Err(self.error_at(key, format!("`{key}`: expected a number from {min} to {max}"))),
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
                    v @ (Value::Number(_) | Value::Bool(_)) => Ok(crate::template::text_of(&v)),
                    _ => Err(self.error_at(key, format!("`{key}`: expected a list of strings"))),
                })
                .collect(),
            Some(v @ (Value::Number(_) | Value::Bool(_))) => Ok(vec![crate::template::text_of(&v)]),
            Some(_) => Err(self.error_at(key, format!("`{key}`: expected a list of strings"))),
        }
    }

    /// Texts that are a list; a comma in one is a part of it.
    pub fn texts_of_list(&mut self, key: &'static str) -> Result<Vec<String>> {
        match self.left.get(key) {
            None | Some(Value::Array(_) | Value::Null) => self.texts(key),
            Some(_) => Err(self.error_at(key, format!("`{key}`: expected a list of strings"))),
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

    /// Whether an argument is given, without taking it.
    pub fn has(&self, key: &str) -> bool {
        self.left.get(key).is_some_and(|v| !v.is_null())
    }

    /// Refuses an argument that is known in Ansible and not supported, unless it has the value that changes nothing.
    pub fn only(&mut self, key: &'static str, value: &Value, hint: &str) -> Result<()> {
        match self.take(key) {
            Some(v) if v != *value && v != Value::String(crate::template::text_of(value)) => {
                Err(self.error_at(key, format!("`{key}: {}` is not supported", crate::template::text_of(&v))).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a value that is known in Ansible and not supported.
    pub fn without(&self, key: &'static str, value: &str, hint: &str) -> Result<()> {
        match self.left.get(key) {
            Some(Value::String(s)) if s == value => Err(self.error_at(key, format!("`{key}: {value}` is not supported")).hint(hint)),
            _ => Ok(()),
        }
    }

    /// `owner`, `group` and `mode`.
    pub fn attributes(&mut self) -> Result<Attributes> {
        let (owner, group) = (self.text("owner")?, self.text("group")?);
        let (mode, mode_change) = self.mode()?;
        Ok(Attributes { owner, group, mode, mode_change })
    }

    /// A mode: octal digits, or clauses such as `u=rw,g=r,o=`. A number in the playbook is octal where it begins with 0; where it
    /// does not, Ansible would take its decimal value, which is never meant.
    fn mode(&mut self) -> Result<(Option<u32>, Option<ModeChange>)> {
        let at = self.value_node("mode").cloned();
        self.without("mode", "preserve", "write the mode as digits, or leave it out: a file that exists keeps its own")?;
        let Some(v) = self.take("mode") else {
            return Ok((None, None));
        };
        let bad = |this: &Self, why: String| {
            this.error_at("mode", format!("`mode`: {why}")).hint("write it in quotes, as \"0644\" or \"u=rw,g=r,o=\"")
        };
        match v {
            Value::String(s) if s.bytes().all(|b| b.is_ascii_digit() || b == b'o') => {
                match u32::from_str_radix(s.trim_start_matches("0o"), 8) {
                    Ok(m) if m <= 0o7777 && !s.is_empty() => Ok((Some(m), None)),
                    _ => Err(bad(self, format!("`{s}` is not octal"))),
                }
            }
            Value::String(s) => match ModeChange::parse(&s) {
                Ok(change) => Ok((None, Some(change))),
                Err(why) => Err(bad(self, format!("`{s}`: {why}"))),
            },
            Value::Number(n) => {
                let written = at.as_ref().and_then(|n| n.written());
                if written.is_some_and(|w| !w.starts_with('0') && w.bytes().all(|b| b.is_ascii_digit())) {
                    return Err(bad(self, format!("{n} is decimal")));
                }
                match n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|m| *m <= 0o7777) {
                    Some(m) => Ok((Some(m), None)),
                    None => Err(bad(self, format!("{n} is not octal"))),
                }
            }
            _ => Err(bad(self, "expected a string".into())),
        }
    }

    fn value_node(&self, key: &str) -> Option<&'a Node> {
        match &self.node.kind {
            NodeKind::Map(m) => m.iter().find(|(k, _)| k.string().is_ok_and(|s| s == key)).map(|(_, v)| v),
            _ => None,
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
        let e = at.error(format!("{}: unknown argument `{key}`", self.module));
        Err(match nearest(key, self.asked.iter().copied()) {
            Some(n) => e.hint(format!("did you mean `{n}`?")),
            None => e.hint(format!("arguments: {}", self.asked.join(", "))),
        })
    }
}
