//! `set_fact`: variables of a host for the rest of the run.

use septet_agent_protocol::Outcome;

use super::{Arguments, Context, Prepared};
use crate::error::Result;

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, _: &Context<'_>) -> Result<Prepared> {
    a.take("cacheable");
    let facts = a.rest();
    let ok = |k: &str| {
        !k.is_empty() && !k.starts_with(|c: char| c.is_ascii_digit()) && k.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if let Some(bad) = facts.keys().find(|k| !ok(k)) {
        return Err(a.error(format!("`{bad}` cannot be a variable's name")));
    }
    Ok(Prepared::Local { outcome: Outcome::ok(), facts })
}
