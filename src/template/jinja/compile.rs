//! Compiled templates, with the comparisons that Python refuses, and what of them can be judged before they are rendered.

mod lenient;

use std::sync::Arc;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, Value,
    machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig},
    syntax::SyntaxConfig,
};

use super::{Whitespace, python};
use crate::error::nearest;

/// Names of what the formatter remembers of a rendering.
const SEEN: &str = "septet seen";
const FIRST: &str = "septet first";
/// Filters and tests without a place of their own among the cached ones.
const NO_LOCAL: u8 = !0;

fn config(ws: Whitespace) -> Result<TemplateConfig, Error> {
    let syntax_config =
        SyntaxConfig::builder().trim_blocks(ws.trim_blocks).lstrip_blocks(ws.lstrip_blocks).keep_trailing_newline(false).build()?;
    Ok(TemplateConfig { syntax_config, default_auto_escape: Arc::new(|_| AutoEscape::None) })
}

/// Compiles a template.
pub(super) fn template<'s>(name: &'s str, source: &'s str, ws: Whitespace) -> Result<CompiledTemplate<'s>, Error> {
    let mut compiled = CompiledTemplate::new(name, source, &config(ws)?)?;
    for instructions in std::iter::once(&mut compiled.instructions).chain(compiled.blocks.values_mut()) {
        as_python_compares(instructions);
        lenient::look_ups(instructions);
    }
    Ok(compiled)
}

/// The engine orders values of any types; Python refuses `'5' > 3`, and so do the tests that stand for the operators here.
fn as_python_compares(instructions: &mut Instructions<'_>) {
    let mut at = 0;
    while let Some(instruction) = instructions.get_mut(at) {
        // `%` formats a string, as in Python.
        if matches!(instruction, Instruction::Rem) {
            *instruction = Instruction::ApplyFilter("septet_rem", Some(2), NO_LOCAL);
        }
        let operator = match instruction {
            Instruction::Lt => Some("<"),
            Instruction::Lte => Some("<="),
            Instruction::Gt => Some(">"),
            Instruction::Gte => Some(">="),
            Instruction::In => Some("in"),
            _ => None,
        };
        if let Some(operator) = operator {
            *instruction = Instruction::PerformTest(operator, Some(2), NO_LOCAL);
        }
        at += 1;
    }
}

/// Writes the value of an expression as Python does, and remembers it: a template that is one expression keeps its value.
pub(super) fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    // Undefined names never come here; an `if` without `else` whose condition does not hold is nothing, as in Jinja2.
    let nothing = Value::from("");
    let value = if value.is_undefined() { &nothing } else { value };
    let seen = state.get_temp(SEEN).and_then(|v| v.as_i64()).unwrap_or(0);
    state.set_temp(SEEN, Value::from(seen + 1));
    if seen == 0 {
        state.set_temp(FIRST, value.clone());
    }
    out.write_str(&python::text(value)).map_err(Error::from)
}

/// How many expressions a rendering wrote.
pub(super) fn count(state: &State<'_, '_>) -> usize {
    state.get_temp(SEEN).and_then(|n| n.as_usize()).unwrap_or(0)
}

/// The value of a rendering that wrote one.
pub(super) fn only_value(state: &State<'_, '_>) -> Option<Value> {
    state.get_temp(SEEN).filter(|n| n.as_i64() == Some(1)).and_then(|_| state.get_temp(FIRST))
}

/// What is wrong with a template, and where.
#[derive(Debug)]
pub struct Problem {
    /// what
    pub message: String,
    /// what to do
    pub hint: Option<String>,
    /// from 1
    pub line: usize,
    /// offset in bytes
    pub offset: Option<usize>,
}

/// Filters and tests of Ansible that are left out, with what to do instead.
const LEFT_OUT: &[(&str, &str)] = &[
    ("ipaddr", "write addresses as variables; `septet.address` is a host's own"),
    ("ansible.utils.ipaddr", "write addresses as variables; `septet.address` is a host's own"),
    ("password_hash", "make the hash once with `openssl passwd -6` and keep it as a variable"),
    ("random", "every run would differ; choose the value once and keep it as a variable"),
    ("shuffle", "every run would differ; write the order as a variable"),
    ("random_mac", "every run would differ; write the address as a variable"),
    ("vault", "there are no vaults; pass secrets with `-e` or read them with `lookup('env', …)`"),
    ("unvault", "there are no vaults; pass secrets with `-e` or read them with `lookup('env', …)`"),
    ("json_query", "`selectattr`, `map(attribute=…)` and `first` do the same"),
    ("pprint", "`to_nice_json` shows a value"),
    ("urlize", "write the link in the template"),
    ("xmlattr", "write the attributes in the template"),
    ("striptags", "`regex_replace('<[^>]*>', '')` does the same"),
    ("wordwrap", "`regex_replace` breaks lines, or write them broken"),
    ("strftime", "`ansible_date_time` has the time in several formats"),
    ("to_datetime", "compare `ansible_date_time.epoch` or `stat.mtime`, which are numbers"),
    ("permutations", "write the list as a variable, or use `product`"),
    ("combinations", "write the list as a variable, or use `product`"),
    ("fileglob", "name the files in `loop`"),
    ("community.general.json_query", "`selectattr`, `map(attribute=…)` and `first` do the same"),
];

/// The name in the engine's message about an unknown filter or test, what to say of it, and what to do.
pub(super) fn unknown(kind: ErrorKind, detail: &str) -> (String, Option<String>) {
    let name = detail.split(' ').nth(1).unwrap_or(detail);
    let what = if kind == ErrorKind::UnknownFilter { "filter" } else { "test" };
    about(what, name)
}

fn about(what: &str, name: &str) -> (String, Option<String>) {
    if let Some((_, hint)) = LEFT_OUT.iter().find(|(n, _)| *n == name) {
        return (format!("{what} `{name}` is not supported"), Some((*hint).to_owned()));
    }
    let known = if what == "filter" { super::filters::NAMES } else { super::checks::NAMES };
    let hint = nearest(name, known.iter().copied()).map(|n| format!("did you mean `{n}`?"));
    (format!("unknown {what} `{name}`"), hint.or_else(|| Some(format!("{what}s: {}", known.join(", ")))))
}

/// Finds what is wrong without rendering.
pub(super) fn problem(env: &Environment<'_>, name: &str, source: &str, ws: Whitespace) -> Option<Problem> {
    let compiled = match template(name, source, ws) {
        Ok(c) => c,
        Err(e) => {
            let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            let message = format!("syntax error: {detail}");
            return Some(Problem { message, hint: None, line: e.line().unwrap_or(1), offset: e.range().map(|r| r.start) });
        }
    };
    let state = env.empty_state();
    let all = std::iter::once(&compiled.instructions).chain(compiled.blocks.values());
    for instructions in all {
        let mut at = 0;
        while let Some(instruction) = instructions.get(at) {
            let missing = match instruction {
                Instruction::ApplyFilter(f, ..) if !is_known(&state, "filter", f) => Some(about("filter", f)),
                Instruction::PerformTest(t, ..) if !is_known(&state, "test", t) => Some(about("test", t)),
                _ => None,
            };
            if let Some((message, hint)) = missing {
                let offset = instructions.get_span(at).map(|s| s.start_offset as usize);
                return Some(Problem { message, hint, line: instructions.get_line(at).unwrap_or(1), offset });
            }
            at += 1;
        }
    }
    None
}

fn is_known(state: &State<'_, '_>, what: &str, name: &str) -> bool {
    let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
    match what {
        "filter" => minijinja::tests::is_filter(state, &name),
        _ => minijinja::tests::is_test(state, &name),
    }
}
