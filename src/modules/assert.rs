//! `assert`: conditions that must hold.

use septet_agent_protocol::Outcome;
use serde_json::Value;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    let that = match a.take("that") {
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
        None => return Err(a.error("missing argument `that`")),
    };
    a.take("quiet");
    let mut fail_msg = None;
    for key in ["msg", "fail_msg"] {
        fail_msg = a.text(key)?.or(fail_msg);
    }
    let success = a.text("success_msg")?.unwrap_or_else(|| "all assertions hold".into());
    for one in that {
        let (shown, holds) = match &one {
            Value::Bool(b) => (b.to_string(), *b),
            Value::String(s) => (s.clone(), c.renderer.condition(s)?),
            other => return Err(a.error(format!("{other} is not a condition"))),
        };
        if !holds {
            // `that` holds expressions already; the messages are texts to render.
            let msg = match fail_msg {
                Some(text) => c.renderer.text("msg", &text)?,
                None => format!("assertion does not hold: {shown}"),
            };
            return Ok(Prepared::local(Outcome::failed(msg).with("assertion", shown).with("evaluated_to", false)));
        }
    }
    Ok(Prepared::local(Outcome::ok().with_msg(c.renderer.text("success_msg", &success)?)))
}
