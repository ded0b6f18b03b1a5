//! Templates: Tera, strict about undefined names, with values that keep their types.
//!
//! Invariant: an error names the template, the line and the column.

mod needed;

use serde_json::{Map, Value};
use tera::{Context, ErrorKind, Kwargs, State, Tera};

use crate::error::{Error, Place, Result};

/// Variables by name.
pub type Vars = Map<String, Value>;

/// Renders with one set of variables.
pub struct Renderer {
    tera: Tera,
    context: Context,
}

/// How often a variable may refer to another one.
const MAX_INDIRECTIONS: usize = 8;

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

/// What a registered result says of itself: `r is changed`. One that does not say it says no.
fn said(v: &tera::Value, key: &str) -> tera::TeraResult<bool> {
    if !v.is_map() {
        return Err(tera::Error::message("this is a test of what a task registered"));
    }
    let json = serde_json::to_value(v).map_err(tera::Error::message)?;
    Ok(json.get(key).and_then(Value::as_bool).unwrap_or(false))
}

fn is_changed(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    said(v, "changed")
}

fn is_failed(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    said(v, "failed")
}

fn is_succeeded(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    said(v, "failed").map(|failed| !failed)
}

fn is_skipped(v: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<bool> {
    said(v, "skipped")
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

/// Whether a text has anything to render.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

impl Renderer {
    /// A renderer over variables, whose own values are rendered first.
    pub fn new(vars: &Vars) -> Result<Self> {
        Self::over(vars, &Vars::new())
    }

    /// A renderer over variables that are rendered first, and over data that is taken as it is.
    pub fn over(vars: &Vars, data: &Vars) -> Result<Self> {
        let tera = engine();
        let mut context = Context::new();
        for (k, v) in data {
            context.insert(k.clone(), v);
        }
        let mut waiting: Vec<(&String, &Value)> = Vec::new();
        for (k, v) in vars {
            if holds_template(v) { waiting.push((k, v)) } else { context.insert(k.clone(), v) }
        }
        let mut this = Self { tera, context };
        // A variable may refer to others; one that cannot be rendered stays undefined, and whoever uses it is told.
        for _ in 0..MAX_INDIRECTIONS {
            let mut left = Vec::new();
            let before = waiting.len();
            for (k, v) in waiting {
                match this.value(v) {
                    Ok(done) => this.context.insert(k.clone(), &done),
                    Err(_) => left.push((k, v)),
                }
            }
            waiting = left;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        Ok(this)
    }

    /// Adds or replaces a variable.
    pub fn set(&mut self, name: &str, value: &Value) {
        self.context.insert(name.to_owned(), value);
    }

    /// Renders a text; the name is for errors.
    pub fn text(&self, name: &str, text: &str) -> Result<String> {
        if !is_template(text) {
            return Ok(text.to_owned());
        }
        let render = |text: &str| {
            let mut tera = self.tera.clone();
            tera.add_raw_template(name, text).and_then(|()| tera.render(name, &self.context))
        };
        let plain = || render(text).map_err(|e| explain(&e, name, text));
        let Some(strict) = needed::strict(text) else {
            return plain();
        };
        let missing = match render(&strict) {
            Ok(out) => return Ok(out),
            Err(e) => needed::place(&e),
        };
        // Places are those of the text as it stands.
        match (missing, plain()) {
            (Some(at), Ok(_)) => Err(undefined(name, text, at)),
            (Some(at), Err(e)) if !e.message.contains("not defined") => Err(undefined(name, text, at)),
            (_, said) => said,
        }
    }

    /// Renders the texts in a value. A text that is one expression keeps the expression's type.
    pub fn value(&self, value: &Value) -> Result<Value> {
        Ok(match value {
            // A line end after it makes it a text.
            Value::String(s) => match expression(s).filter(|_| s.trim() == s) {
                Some(inner) => self.expression(inner)?,
                None => Value::String(self.text("value", s)?),
            },
            Value::Array(a) => a.iter().map(|v| self.value(v)).collect::<Result<Vec<_>>>()?.into(),
            Value::Object(o) => Value::Object(o.iter().map(|(k, v)| Ok((k.clone(), self.value(v)?))).collect::<Result<_>>()?),
            other => other.clone(),
        })
    }

    /// An expression's value.
    pub fn expression(&self, inner: &str) -> Result<Value> {
        let json = self.text("expression", &format!("{{{{ ({inner}) | to_json }}}}"));
        match json {
            Ok(json) => serde_json::from_str(&json).map_err(|e| Error::invalid(format!("{inner}: {e}"))),
            // Again without the filter: then the error names the variable.
            Err(e) => match self.text("expression", &format!("{{{{ {inner} }}}}")) {
                Err(better) => Err(better),
                Ok(_) => Err(e),
            },
        }
    }

    /// Whether a condition holds.
    pub fn condition(&self, text: &str) -> Result<bool> {
        let inner = expression(text).unwrap_or(text);
        Ok(self.text("condition", &format!("{{% if {inner} %}}1{{% endif %}}"))? == "1")
    }
}

fn holds_template(v: &Value) -> bool {
    match v {
        Value::String(s) => is_template(s),
        Value::Array(a) => a.iter().any(holds_template),
        Value::Object(o) => o.values().any(holds_template),
        _ => false,
    }
}

/// The inside of a text that is one `{{ … }}` and nothing else.
fn expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then(|| inner.trim_matches('-').trim())
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
        return error.hint("arguments of filters have names here: `default(value=1)`, not `default(1)`");
    }
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn renderer(vars: Value) -> Renderer {
        Renderer::new(vars.as_object().unwrap()).unwrap()
    }

    #[test]
    fn values_keep_their_types_and_variables_refer_to_others() {
        let r = renderer(json!({"n": 3, "l": [1, 2], "a": "{{ b }}!", "b": "{{ n }}", "bad": "{{ nope }}"}));
        assert_eq!(r.value(&json!("{{ n }}")).unwrap(), json!(3));
        assert_eq!(r.value(&json!({"x": ["{{ l }}", "n={{ n }}"]})).unwrap(), json!({"x": [[1, 2], "n=3"]}));
        assert_eq!(r.value(&json!("{{ a }}")).unwrap(), json!("3!"));
        assert_eq!(r.value(&json!("{{ n | pad(width=2) }}")).unwrap(), json!("03"));
        assert!(r.condition("n > 2 and nope is not defined").unwrap());
        assert!(!r.condition("n in [1, 2]").unwrap());
        let e = r.value(&json!("{{ nope }}")).unwrap_err();
        assert!(e.to_string().contains("`nope` is not defined"), "{e}");
        assert!(r.text("t", "a\n{{ bad }}").unwrap_err().to_string().contains("t:2:"));
    }

    #[test]
    fn an_undefined_name_is_an_error_wherever_it_is_evaluated() {
        let r = renderer(json!({"a": 1, "l": ["x"], "m": {"k": 1}, "yes": true}));
        for bad in ["nope == 1", "not nope", "nope", "a == 1 and nope", "nope or a", "(nope ~ 'x') == 'x'", "a in [nope]", "nope != a"] {
            let e = r.condition(bad).unwrap_err().to_string();
            assert!(e.contains("`nope` is not defined"), "{bad}: {e}");
        }
        for (good, on) in [
            ("nope is defined", false),
            ("nope is not defined or nope > 1", true),
            ("nope is defined and nope.x == 1", false),
            ("a == 2 and nope", false),
            ("yes or nope", true),
            ("nope | default(value=0) > 0", false),
            ("(nope) | default(value=1) == 1", true),
            ("'x' in l and m.k == a and not m.other", true),
            ("'nope' == \"nope\"", true),
        ] {
            assert_eq!(r.condition(good).unwrap(), on, "{good}");
        }
        assert!(r.value(&json!("{{ '/etc/' ~ nope }}")).unwrap_err().to_string().contains("`nope` is not defined"));
        let e = r.text("t", "a\n  {% if nope %}b{% endif %}").unwrap_err().to_string();
        assert!(e.contains("`nope` is not defined") && e.contains("t:2:9"), "{e}");
        let text =
            "{% for x in l %}{% set y = x %}{% if x == y and not loop.first %}{{ y ~ x }}{% endif %}{% endfor %}{{ a if yes else nope }}";
        assert_eq!(r.text("t", text).unwrap(), "1");
    }

    #[test]
    fn tests_of_results() {
        let r = renderer(json!({"r": {"changed": true, "failed": false, "skipped": false}, "n": 1}));
        assert!(r.condition("r is changed and r is succeeded and r is success").unwrap());
        assert!(r.condition("r is not failed and r is not skipped").unwrap());
        assert!(r.condition("n is changed").is_err());
        assert!(r.condition("nope is changed").is_err());
    }

    #[test]
    fn positional_arguments_get_a_hint() {
        let e = renderer(json!({})).text("t", "{{ x | default('a') }}").unwrap_err();
        assert!(e.hint.is_some(), "{e}");
    }
}
