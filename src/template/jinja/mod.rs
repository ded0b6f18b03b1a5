//! Jinja2 under Ansible's rules: positional arguments, Ansible's filters and tests, native types, strict undefined names.
//!
//! Invariant: an error names the template and the line; a template costs bounded fuel.

mod checks;
mod compile;
mod escape;
mod filters;
mod lookups;
mod methods;
mod python;
mod scope;

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use minijinja::{Environment, Error as JinjaError, ErrorKind, Value, machinery};
use serde_json::Value as Json;

pub use self::compile::Problem;
pub(super) use self::{
    python::is_omit,
    scope::{forget_undefined, undefined_within},
};
pub use self::{
    python::{json_line, text as python_text},
    scope::{Hosts, HostsForTera, Layer, Scope},
};
use crate::error::{Error, Place, Result};

/// Largest template, in bytes.
const MAX_TEMPLATE_BYTES: usize = 4 * 1024 * 1024;
/// Steps of evaluation, so that no template runs without end.
const MAX_FUEL: u64 = 50_000_000;

/// How the text of a template is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whitespace {
    /// the line end behind a block tag goes
    pub trim_blocks: bool,
    /// blanks before a block tag go
    pub lstrip_blocks: bool,
}

impl Default for Whitespace {
    fn default() -> Self {
        Self { trim_blocks: true, lstrip_blocks: false }
    }
}

/// What a template comes to.
pub(super) struct Rendered {
    pub(super) text: String,
    /// the value of a template that is one expression and nothing else
    pub(super) native: Option<Value>,
    /// how many expressions wrote something
    pub(super) wrote: usize,
}

/// The environment that all expressions share.
pub(super) fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_debug(true);
        env.set_fuel(Some(MAX_FUEL));
        env.set_formatter(compile::format);
        env.set_unknown_method_callback(methods::call);
        env.add_function("cycler", minijinja_contrib::globals::cycler);
        env.add_function("joiner", minijinja_contrib::globals::joiner);
        // Prints as the engine itself, not as Python.
        env.remove_filter("pprint");
        filters::add(&mut env);
        checks::add(&mut env);
        lookups::add(&mut env);
        env
    })
}

/// Renders a template over a scope.
pub(super) fn render(env: &Environment<'_>, scope: &Arc<Scope>, name: &str, source: &str, ws: Whitespace) -> Result<Rendered, JinjaError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(JinjaError::new(ErrorKind::InvalidOperation, format!("a template over {MAX_TEMPLATE_BYTES} bytes")));
    }
    let compiled = compile::template(name, source, ws)?;
    let mut text = String::new();
    let (native, wrote) = {
        let mut out = machinery::make_string_output(&mut text);
        let (_, state) =
            machinery::eval(env, &compiled.instructions, scope::root(scope), &compiled.blocks, &mut out, minijinja::AutoEscape::None)?;
        (compile::only_value(&state), compile::count(&state))
    };
    let native = native.filter(|v| python::text(v) == text);
    Ok(Rendered { text: keep_line_ends(source, text), native, wrote })
}

/// As Ansible: a result has at least as many line ends behind it as its template.
fn keep_line_ends(source: &str, mut text: String) -> String {
    let count = |s: &str| s.len() - s.trim_end_matches('\n').len();
    let lacking = count(source).saturating_sub(count(&text));
    text.extend(std::iter::repeat_n('\n', lacking));
    text
}

/// The value of an expression.
pub(super) fn evaluate(env: &Environment<'_>, scope: &Arc<Scope>, name: &str, source: &str) -> Result<Value, JinjaError> {
    let template = format!("{{{{ {source} }}}}");
    let compiled = compile::template(name, &template, Whitespace::default())?;
    let mut text = String::new();
    let mut out = machinery::make_string_output(&mut text);
    let (_, state) =
        machinery::eval(env, &compiled.instructions, scope::root(scope), &compiled.blocks, &mut out, minijinja::AutoEscape::None)?;
    compile::only_value(&state).ok_or_else(|| JinjaError::new(ErrorKind::SyntaxError, "expected one expression"))
}

/// The names that a template asks for; where it asks for names that only a run knows, that is `None`.
pub(super) fn asked(source: &str) -> Option<HashSet<String>> {
    let template = environment().template_from_str(source).ok()?;
    let names = template.undeclared_variables(false);
    let dynamic = ["vars", "hostvars", "lookup", "query", "q"];
    (!dynamic.iter().any(|d| names.contains(*d))).then_some(names)
}

/// What is wrong with a template before anything is rendered: its syntax, filters and tests that do not exist.
pub fn problem(name: &str, source: &str, ws: Whitespace) -> Option<Problem> {
    compile::problem(environment(), name, source, ws)
}

/// Source with the backslashes in its texts as Ansible reads them in playbooks.
pub(super) fn playbook_text(source: &str) -> Cow<'_, str> {
    escape::backslashes(source)
}

/// From a plain value.
pub(super) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => (*b).into(),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            (None, None) => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(a) => Value::from(a.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(o) => Value::from_pairs(o.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
    }
}

/// To a plain value; what is not defined or left out is an error, or dropped in a list or map.
pub(super) fn to_json(value: &Value) -> Result<Json, JinjaError> {
    python::to_json(value)
}

/// An error of ours from one of the engine's; `shift` is what stands before the template's own text in its first line.
pub(super) fn explain(e: &JinjaError, name: &str, text: &str, shift: usize) -> Error {
    let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    let mut message = match e.kind() {
        ErrorKind::UndefinedError => detail.replace("is undefined", "is not defined"),
        ErrorKind::SyntaxError => format!("syntax error: {detail}"),
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest => compile::unknown(e.kind(), &detail).0,
        _ => detail.clone(),
    };
    if e.kind() == ErrorKind::UndefinedError && !message.contains("is not defined") {
        message = format!("a value is not defined ({message})");
    }
    let hint = match e.kind() {
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest => compile::unknown(e.kind(), &detail).1,
        _ => scope::hint_of(e),
    };
    // Where the error is in a variable's own template, its name is said; the place is the template that asked for it.
    let inner = e.name().filter(|n| *n != name);
    if let Some(inner) = inner {
        message = match inner.strip_prefix(scope::VARIABLE) {
            Some(variable) => format!("{message} (in the variable `{variable}`)"),
            None => format!("{message} (in {inner}:{})", e.line().unwrap_or(1)),
        };
    }
    let line = if inner.is_some() { 1 } else { e.line().unwrap_or(1) };
    let column = e.range().filter(|_| inner.is_none()).map_or(1, |r| column(text, r.start.saturating_sub(shift)));
    let line_text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    let place = Place { file: name.into(), line, column, text: line_text };
    let error = Error::invalid(format!("template: {message}")).at(place);
    match hint {
        Some(h) => error.hint(h),
        None => error,
    }
}

fn column(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.rsplit('\n').next().unwrap_or_default().chars().count() + 1
}
