//! Templates, in two languages behind one face: expressions in playbooks and templates that end in `.j2` are Jinja2 under
//! Ansible's rules ([`jinja`]); templates without `.j2`, those that ship among them, and host names are Tera ([`tera`]).
//!
//! Invariant: a variable is rendered when it is used, so it is never older than what it depends on; an undefined name is an
//! error; an error names the template, the line and the column.

mod jinja;
mod tera;

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

pub use self::jinja::{Hosts, HostsForTera, Layer, Whitespace};
use crate::error::{Error, Result};

/// Variables by name.
pub type Vars = Map<String, Value>;

/// Reads a file for a lookup, by the kind of its directory and its name.
pub type ReadFile = Arc<dyn Fn(&str, &str) -> std::result::Result<Vec<u8>, String> + Send + Sync>;

/// Whether a text has anything to render.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// Whether a template is Jinja2, by its name.
pub fn is_jinja(name: &str) -> bool {
    name.ends_with(".j2")
}

/// Whether a template is anywhere in a value.
pub fn holds_template(v: &Value) -> bool {
    match v {
        Value::String(s) => is_template(s),
        Value::Array(a) => a.iter().any(holds_template),
        Value::Object(o) => o.values().any(holds_template),
        _ => false,
    }
}

/// A template of host names, parsed once for all hosts of a group.
pub struct Hostname(tera::Many);

impl Hostname {
    /// From its text; mistakes in it show when it is rendered.
    pub fn new(template: &str) -> Self {
        Self(tera::Many::new("hostname", template))
    }

    /// A host's name.
    pub fn render(&self, vars: &Vars) -> Result<String> {
        self.0.render(vars)
    }
}

/// A value as Python's `str()` spells it.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => jinja::python_text(&jinja::from_json(other)),
    }
}

/// A value as `json.dumps` of Python writes it.
pub fn json_text(value: &Value) -> String {
    jinja::json_line(value)
}

/// Names of the places that are in a playbook's YAML, not in a file of their own.
pub const IN_PLAYBOOK: &[&str] = &["value", "expression", "condition"];

/// Renders with one set of variables.
#[derive(Clone)]
pub struct Renderer {
    scope: Arc<jinja::Scope>,
}

impl Renderer {
    /// A renderer over variables.
    pub fn new(vars: &Vars) -> Self {
        Self::over(vec![Layer::written(vars.clone())])
    }

    /// A renderer over layers of variables, the later over the earlier.
    pub fn over(layers: Vec<Layer>) -> Self {
        Self { scope: Arc::new(jinja::Scope { layers, ..jinja::Scope::default() }) }
    }

    /// With the variables of all hosts, for `hostvars`.
    pub fn with_hosts(mut self, hosts: Arc<Hosts>) -> Self {
        Arc::make_mut(&mut self.scope).hosts = Some(hosts);
        self
    }

    /// With a way to files, for lookups and includes.
    pub fn with_files(mut self, read: ReadFile) -> Self {
        Arc::make_mut(&mut self.scope).read = Some(read);
        self
    }

    /// With the variables of all hosts as Tera sees them, which cannot ask for one.
    pub fn with_tera(mut self, hosts: Arc<HostsForTera>) -> Self {
        Arc::make_mut(&mut self.scope).for_tera = hosts;
        self
    }

    /// Adds or replaces a variable, whose value is taken as it is.
    pub fn set(&mut self, name: &str, value: &Value) {
        Arc::make_mut(&mut self.scope).overlay.insert(name.to_owned(), value.clone());
    }

    /// Renders a text of a playbook; the name is for errors.
    pub fn text(&self, name: &str, text: &str) -> Result<String> {
        if !is_template(text) {
            return Ok(text.to_owned());
        }
        Ok(self.template(name, text)?.text)
    }

    fn template(&self, name: &str, text: &str) -> Result<jinja::Rendered> {
        jinja::forget_undefined();
        let source = jinja::playbook_text(text);
        jinja::render(jinja::environment(), &self.scope, name, &source, Whitespace::default())
            .map_err(|e| because(jinja::explain(&e, name, text, 0)))
    }

    /// Renders a template file: Jinja2 where its name ends in `.j2`, else Tera.
    pub fn file(&self, name: &str, text: &str, whitespace: Whitespace) -> Result<String> {
        if !is_jinja(name) {
            return self.tera(name, text);
        }
        jinja::forget_undefined();
        // As in Jinja2, every line end is a line feed.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut env = jinja::environment().clone();
        if let Some(read) = self.scope.read.clone() {
            env.set_loader(move |wanted| match read("templates", wanted) {
                Ok(bytes) => String::from_utf8(bytes)
                    .map(Some)
                    .map_err(|_| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, format!("{wanted} is not UTF-8"))),
                Err(_) => Ok(None),
            });
        }
        jinja::render(&env, &self.scope, name, &text, whitespace).map(|r| r.text).map_err(|e| because(jinja::explain(&e, name, &text, 0)))
    }

    /// Tera wants all values before it begins: it gets those whose names are in the template. One that cannot be rendered stays
    /// undefined, and its own error is shown where it is asked for.
    fn tera(&self, name: &str, text: &str) -> Result<String> {
        let everything = text.contains(tera::EVERYTHING);
        let mut context = Vars::new();
        let mut failed: Vec<(String, Error)> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        let overlay = self.scope.overlay.iter().map(|(k, v)| (k, v, false));
        let of_layers = self.scope.layers.iter().rev().flat_map(|l| l.vars.iter().map(|(k, v)| (k, v, l.written)));
        for (key, value, written) in overlay.chain(of_layers) {
            if !(everything || text.contains(key.as_str())) || !seen.insert(key) {
                continue;
            }
            let rendered = match value {
                other if !written => Ok(other.clone()),
                // What of a mapping cannot be rendered is left out of it.
                Value::Object(o) => {
                    let mut map = Map::new();
                    for (inner, v) in o {
                        match self.value(v) {
                            Ok(v) => drop(map.insert(inner.clone(), v)),
                            Err(e) => failed.push((inner.clone(), e)),
                        }
                    }
                    Ok(Value::Object(map))
                }
                other => self.value(other),
            };
            match rendered {
                Ok(v) => drop(context.insert(key.clone(), v)),
                Err(e) => failed.push((key.clone(), e)),
            }
        }
        if everything || text.contains("hostvars") {
            context.extend(self.scope.for_tera.get().map(|hosts| ("hostvars".to_owned(), hosts.clone())));
        }
        tera::render(&context, name, text).map_err(|e| {
            let about = |key: &String| e.message.contains(&format!("`{key}`"));
            match failed.iter().find(|(key, _)| !context.contains_key(key) && about(key)) {
                Some((key, why)) => {
                    let why = why.message.trim_start_matches("template: ");
                    Error { message: format!("template: the variable `{key}` cannot be rendered: {why}"), ..e }
                }
                None => e,
            }
        })
    }

    /// Renders the texts in a value. A text that is one expression keeps the expression's type; what is `omit` is left out.
    pub fn value(&self, value: &Value) -> Result<Value> {
        Ok(self.value_or_omit(value)?.unwrap_or_default())
    }

    fn value_or_omit(&self, value: &Value) -> Result<Option<Value>> {
        Ok(Some(match value {
            Value::String(s) if is_template(s) => {
                let rendered = self.template("value", s)?;
                match rendered.native {
                    Some(v) if jinja::is_omit(&v) => return Ok(None),
                    Some(v) if v.as_str().is_none() => jinja::to_json(&v).map_err(|e| because(jinja::explain(&e, "value", s, 0)))?,
                    // A template that writes nothing has no value.
                    None if rendered.text.is_empty() && rendered.wrote == 0 => Value::Null,
                    _ => rendered.text.into(),
                }
            }
            Value::Array(a) => {
                let items = a.iter().map(|v| self.value_or_omit(v)).collect::<Result<Vec<_>>>()?;
                items.into_iter().flatten().collect()
            }
            Value::Object(o) => {
                let mut map = Map::new();
                for (k, v) in o {
                    if let Some(v) = self.value_or_omit(v)? {
                        map.insert(k.clone(), v);
                    }
                }
                Value::Object(map)
            }
            other => other.clone(),
        }))
    }

    /// An expression's value.
    pub fn expression(&self, inner: &str) -> Result<Value> {
        jinja::forget_undefined();
        let explained = |e: &minijinja::Error| because(jinja::explain(e, "expression", inner, 3));
        let value = jinja::evaluate(jinja::environment(), &self.scope, "expression", inner).map_err(|e| explained(&e))?;
        jinja::to_json(&value).map_err(|e| explained(&e))
    }

    /// Whether a condition holds. As in Ansible, it must be true or false, and nothing that merely counts as such.
    pub fn condition(&self, text: &str) -> Result<bool> {
        let text = text.trim();
        let mut value = Value::String(text.to_owned());
        if text.starts_with("{{") && text.ends_with("}}") || text.starts_with("{%") {
            value = self.value(&value)?;
        }
        if let Value::String(expression) = &value {
            if expression.trim().is_empty() {
                return Err(Error::invalid("the condition is empty"));
            }
            jinja::forget_undefined();
            let explained = |e: &minijinja::Error| because(jinja::explain(e, "condition", expression, 3));
            let result = jinja::evaluate(jinja::environment(), &self.scope, "condition", expression.trim()).map_err(|e| explained(&e))?;
            value = jinja::to_json(&result).map_err(|e| explained(&e))?;
        }
        match value {
            Value::Bool(b) => Ok(b),
            other => {
                let (kind, hint) = match &other {
                    Value::Null => ("null", "compare it, as with `is not none`"),
                    Value::String(_) => ("a string", "`| bool` makes true or false of it; `| length > 0` asks whether it is empty"),
                    Value::Number(_) => ("a number", "compare it, as with `> 0`"),
                    Value::Array(_) => ("a list", "`| length > 0` asks whether it is empty"),
                    _ => ("a mapping", "`| length > 0` asks whether it is empty"),
                };
                Err(Error::invalid(format!("the condition `{text}` is {kind}, not true or false")).hint(hint))
            }
        }
    }

    /// Whether any of these names is asked for, directly or through the variables that are asked for.
    pub fn asks_for(&self, reads: &Reads, names: &HashSet<String>) -> bool {
        let Some(direct) = &reads.0 else { return true };
        let mut seen: HashSet<String> = HashSet::new();
        let mut left: Vec<String> = direct.iter().cloned().collect();
        while let Some(name) = left.pop() {
            if names.contains(&name) {
                return true;
            }
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(found) = self.scope.find(&name).filter(|f| f.written) {
                match Reads::of_value(found.json).0 {
                    Some(more) => left.extend(more),
                    None => return true,
                }
            }
        }
        false
    }
}

/// An error with the name that is missing behind the one that was asked for.
fn because(mut e: Error) -> Error {
    if e.message.contains("is not defined")
        && let Some(why) = jinja::undefined_within(&e.message)
    {
        e.message = format!("{}, since {why}", e.message);
    }
    e
}

/// The names that templates ask for; `None` where only a run can know, as with `vars[name]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads(Option<HashSet<String>>);

impl Reads {
    /// Names that the templates in a value ask for.
    pub fn of_value(value: &Value) -> Self {
        let mut this = Self(Some(HashSet::new()));
        this.add_value(value);
        this
    }

    /// Adds what the templates in a value ask for.
    pub fn add_value(&mut self, value: &Value) {
        match value {
            Value::String(s) if is_template(s) => self.add(jinja::asked(s)),
            Value::Array(a) => a.iter().for_each(|v| self.add_value(v)),
            Value::Object(o) => o.values().for_each(|v| self.add_value(v)),
            _ => {}
        }
    }

    /// Adds what an expression asks for, or a template that gives one.
    pub fn add_expression(&mut self, text: &str) {
        // What a template in it gives is an expression again.
        let names = if is_template(text) { None } else { jinja::asked(&format!("{{{{ {text} }}}}")) };
        self.add(names);
    }

    fn add(&mut self, names: Option<HashSet<String>>) {
        match (&mut self.0, names) {
            (Some(all), Some(more)) => all.extend(more),
            _ => self.0 = None,
        }
    }
}

/// A template's own settings in a first line `#jinja2: trim_blocks: false, lstrip_blocks: true`, which is not a part of the
/// text.
pub fn header(text: &str, mut whitespace: Whitespace) -> Result<(&str, Whitespace)> {
    let Some(first) = text.strip_prefix("#jinja2:") else { return Ok((text, whitespace)) };
    let (settings, rest) = first.split_once('\n').unwrap_or((first, ""));
    for setting in settings.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        let (key, value) = setting.split_once(':').unwrap_or((setting, ""));
        let on = match value.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" => true,
            "false" | "no" => false,
            other => return Err(Error::invalid(format!("template: `{other}` in the line `#jinja2:` is neither true nor false"))),
        };
        match key.trim() {
            "trim_blocks" => whitespace.trim_blocks = on,
            "lstrip_blocks" => whitespace.lstrip_blocks = on,
            other => {
                let e = format!("template: `{other}` in the line `#jinja2:` is not supported");
                return Err(Error::invalid(e).hint("there are trim_blocks and lstrip_blocks"));
            }
        }
    }
    Ok((rest, whitespace))
}

/// What is wrong with a text of a playbook before it is run, if anything.
pub fn check_text(text: &str) -> Result<()> {
    match jinja::problem("value", &jinja::playbook_text(text), Whitespace::default()).filter(|_| is_template(text)) {
        Some(p) => Err(told(p)),
        None => Ok(()),
    }
}

/// The same for an expression, such as a condition.
pub fn check_expression(text: &str) -> Result<()> {
    if is_template(text) {
        return check_text(text);
    }
    match jinja::problem("expression", &format!("{{{{ {text} }}}}"), Whitespace::default()) {
        Some(p) => Err(told(p)),
        None => Ok(()),
    }
}

fn told(p: jinja::Problem) -> Error {
    let e = Error::invalid(format!("template: {}", p.message));
    match p.hint {
        Some(h) => e.hint(h),
        None => e,
    }
}

/// The same for a template file; the error has its place in it.
pub fn check_file(name: &str, text: &str, whitespace: Whitespace) -> Result<()> {
    if !is_jinja(name) {
        return tera::check(name, text);
    }
    let text = text.replace("\r\n", "\n");
    let Some(p) = jinja::problem(name, &text, whitespace) else { return Ok(()) };
    let before = p.offset.and_then(|o| text.get(..o)).unwrap_or_default();
    let place = crate::error::Place {
        file: name.into(),
        line: p.line,
        column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
        text: text.lines().nth(p.line.saturating_sub(1)).unwrap_or_default().to_owned(),
    };
    Err(told(p).at(place))
}

#[cfg(test)]
mod tests;
