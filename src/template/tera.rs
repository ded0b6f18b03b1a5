//! Tera, strict about undefined names.
//!
//! Invariant: an error names the template, the line and the column.

mod needed;

use serde_json::Value;
use tera::{Context, ErrorKind, Kwargs, State, Tera};

use super::{Vars, is_template};
use crate::error::{Error, Place, Result};

/// The name that stands for all values there are.
pub(super) const EVERYTHING: &str = "__tera_context";

fn pad(v: i64, kw: Kwargs, _: &State) -> tera::TeraResult<String> {
    let width = kw.get::<usize>("width")?.unwrap_or(2).min(32);
    Ok(format!("{v:0width$}"))
}

fn to_json(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<String> {
    if v.is_undefined() {
        return Err(tera::Error::message("the value is not defined"));
    }
    serde_json::to_string(v).map_err(tera::Error::message)
}

fn basename(v: &str, _: Kwargs, _: &State) -> String {
    v.rsplit('/').next().unwrap_or_default().to_owned()
}

fn dirname(v: &str, _: Kwargs, _: &State) -> String {
    v.rsplit_once('/').map_or("", |(d, _)| d).to_owned()
}

/// A part of a number, within limits: `memory | share(of=2, least=256, most=1024)`.
fn share(v: i64, kw: Kwargs, _: &State) -> tera::TeraResult<i64> {
    let of = kw.get::<i64>("of")?.unwrap_or(1).max(1);
    let (least, most) = (kw.get::<i64>("least")?.unwrap_or(0), kw.get::<i64>("most")?.unwrap_or(i64::MAX));
    Ok((v / of).min(most).max(least))
}

/// A list with one more at its end: `files | concat(with="/etc/x")`.
fn concat(mut v: Vec<tera::Value>, kw: Kwargs, _: &State) -> tera::TeraResult<Vec<tera::Value>> {
    v.extend(kw.get::<tera::Value>("with")?);
    Ok(v)
}

/// A flag of a registered result, as in `r is changed`; a missing one counts as false.
fn flag(v: &tera::Value, key: &str) -> tera::TeraResult<bool> {
    if !v.is_map() {
        return Err(tera::Error::message("this is a test of what a task registered"));
    }
    let json = serde_json::to_value(v).map_err(tera::Error::message)?;
    Ok(json.get(key).and_then(Value::as_bool).unwrap_or(false))
}

fn is_changed(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    flag(v, "changed")
}

fn is_failed(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    flag(v, "failed")
}

fn is_succeeded(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    flag(v, "failed").map(|failed| !failed)
}

fn is_skipped(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    flag(v, "skipped")
}

fn engine() -> Tera {
    let mut tera = Tera::default();
    tera.autoescape_on(Vec::<&'static str>::new());
    tera.register_filter("pad", pad);
    tera.register_filter("to_json", to_json);
    tera.register_filter("basename", basename);
    tera.register_filter("dirname", dirname);
    tera.register_filter("share", share);
    tera.register_filter("concat", concat);
    tera.register_filter(needed::FILTER, needed::filter);
    tera.register_test("changed", is_changed);
    tera.register_test("failed", is_failed);
    tera.register_test("succeeded", is_succeeded);
    tera.register_test("success", is_succeeded);
    tera.register_test("skipped", is_skipped);
    tera
}

/// Renders one template over many sets of values: it is parsed once.
pub(super) struct Many {
    name: &'static str,
    text: String,
    parsed: Option<Tera>,
}

impl Many {
    pub(super) fn new(name: &'static str, text: &str) -> Self {
        let strict = needed::strict(text);
        let mut tera = engine();
        let parsed = is_template(text) && tera.add_raw_template(name, strict.as_deref().unwrap_or(text)).is_ok();
        Self { name, text: text.to_owned(), parsed: parsed.then_some(tera) }
    }

    pub(super) fn render(&self, vars: &Vars) -> Result<String> {
        let mut context = Context::new();
        for (k, v) in vars {
            context.insert(k.clone(), v);
        }
        match self.parsed.as_ref().map(|t| t.render(self.name, &context)) {
            Some(Ok(text)) => Ok(text),
            // What is wrong with it is found the slow way.
            _ => render(vars, self.name, &self.text),
        }
    }
}

/// Renders a template over values that are taken as they are.
pub(super) fn render(vars: &Vars, name: &str, text: &str) -> Result<String> {
    if !is_template(text) {
        return Ok(text.to_owned());
    }
    let mut context = Context::new();
    for (k, v) in vars {
        context.insert(k.clone(), v);
    }
    let once = |text: &str| {
        let mut tera = engine();
        tera.add_raw_template(name, text).and_then(|()| tera.render(name, &context))
    };
    let plain = || once(text).map_err(|e| explain(&e, name, text));
    let Some(strict) = needed::strict(text) else {
        return plain();
    };
    let missing = match once(&strict) {
        Ok(out) => return Ok(out),
        Err(e) => needed::place(&e),
    };
    // Places are those of the text as it stands.
    match (missing, plain()) {
        (Some(at), Ok(_)) => Err(undefined(name, text, at)),
        (Some(at), Err(e)) if !e.message.contains("not defined") => Err(undefined(name, text, at)),
        (_, other) => other,
    }
}

/// What is wrong with a template before anything is rendered: its syntax, and filters that do not exist.
pub(super) fn check(name: &str, text: &str) -> Result<()> {
    engine().add_raw_template(name, text).map_err(|e| explain(&e, name, text))
}

/// An undefined name at an offset of a template.
fn undefined(name: &str, text: &str, at: usize) -> Error {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let line_text = text.lines().nth(line).unwrap_or_default().to_owned();
    Error::invalid(format!("template: `{}` is not defined", needed::name_at(text, at))).at(Place {
        file: name.into(),
        line: line + 1,
        column,
        text: line_text,
    })
}

fn explain(e: &tera::Error, name: &str, text: &str) -> Error {
    let (message, line, column) = match e.kind() {
        ErrorKind::SyntaxError(r) | ErrorKind::RenderingError(r) => (r.message().to_owned(), r.span().start_line, r.span().start_col + 1),
        _ => {
            let full = e.to_string();
            (full.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(), 1, 1)
        }
    };
    // The names of all variables would bury what is wrong.
    let message = message.split(" Available ").next().unwrap_or_default().trim_end_matches('.').to_owned();
    let message = match std::error::Error::source(e) {
        Some(cause) => format!("{message}: {cause}"),
        None => message,
    };
    let line_text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    let place = Place { file: name.into(), line, column, text: line_text };
    let error = Error::invalid(format!("template: {message}")).at(place);
    if message.contains("expected identifier") {
        return error
            .hint("this template is Tera, where arguments have names: `default(value=1)`; a template that ends in `.j2` is Jinja2");
    }
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn text(vars: &Value, text: &str) -> Result<String> {
        render(vars.as_object().unwrap(), "t", text)
    }

    #[test]
    fn an_undefined_name_is_an_error_wherever_it_is_evaluated() {
        let v = json!({"a": 1, "l": ["x"], "m": {"k": 1}, "yes": true});
        let condition = |c: &str| text(&v, &format!("{{% if {c} %}}1{{% endif %}}"));
        for bad in ["nope == 1", "not nope", "nope", "a == 1 and nope", "nope or a", "(nope ~ 'x') == 'x'", "a in [nope]", "nope != a"] {
            let e = condition(bad).unwrap_err().to_string();
            assert!(e.contains("`nope` is not defined"), "{bad}: {e}");
        }
        for (good, on) in [
            ("nope is defined", ""),
            ("nope is not defined or nope > 1", "1"),
            ("nope is defined and nope.x == 1", ""),
            ("a == 2 and nope", ""),
            ("yes or nope", "1"),
            ("nope | default(value=0) > 0", ""),
            ("(nope) | default(value=1) == 1", "1"),
            ("'x' in l and m.k == a and not m.other", "1"),
            ("'nope' == \"nope\"", "1"),
        ] {
            assert_eq!(condition(good).unwrap(), on, "{good}");
        }
        let e = text(&v, "a\n  {% if nope %}b{% endif %}").unwrap_err().to_string();
        assert!(e.contains("`nope` is not defined") && e.contains("t:2:9"), "{e}");
        let all =
            "{% for x in l %}{% set y = x %}{% if x == y and not loop.first %}{{ y ~ x }}{% endif %}{% endfor %}{{ a if yes else nope }}";
        assert_eq!(text(&v, all).unwrap(), "1");
    }

    #[test]
    fn positional_arguments_get_a_hint() {
        let e = text(&json!({}), "{{ x | default('a') }}").unwrap_err();
        assert!(e.hint.is_some(), "{e}");
    }
}
