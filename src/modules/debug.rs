//! `debug`: shows a text or a variable.

use septet_agent_protocol::{Outcome, Status};
use serde_json::Value;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let verbosity = a.number("verbosity", 0, 10)?.unwrap_or(0);
    let msg = a.take("msg");
    // As in Ansible: a variable is in the result under its own name.
    let (key, value) = match (a.text("var")?, msg) {
        (Some(_), Some(_)) => return Err(a.error("has both `msg` and `var`")),
        (Some(var), None) => {
            let value = c.renderer.expression(&var)?;
            (var, value)
        }
        (None, msg) => ("msg".to_owned(), msg.unwrap_or_else(|| "Hello world!".into())),
    };
    let text = match &value {
        Value::String(s) => s.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    };
    if verbosity > 0 {
        return Ok(Prepared::local(Outcome::new(Status::Skipped)));
    }
    Ok(Prepared::local(Outcome::ok().with_msg(text).with(&key, value)))
}
