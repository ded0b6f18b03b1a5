//! `set_fact`: variables of a host for the rest of the run.

use septet_agent_protocol::Outcome;

use super::{Arguments, Context, Prepared};
use crate::{error::Result, template::Vars};

/// Prepares it.
pub fn prepare(a: &mut Arguments<'_>, c: &Context<'_>) -> Result<Prepared> {
    a.take("cacheable");
    let mut facts = Vars::new();
    for (name, value) in a.rest() {
        facts.insert(c.renderer.text("set_fact", &name)?, value);
    }
    if facts.contains_key("septet") {
        return Err(a.error("`septet` holds Septet's own variables and cannot be set").hint("choose another name"));
    }
    let ok = |k: &str| {
        !k.is_empty() && !k.starts_with(|c: char| c.is_ascii_digit()) && k.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if let Some(bad) = facts.keys().find(|k| !ok(k)) {
        return Err(a.error(format!("`{bad}` cannot be a variable's name")));
    }
    Ok(Prepared::Local { outcome: Outcome::ok().with("ansible_facts", facts.clone()), facts })
}
